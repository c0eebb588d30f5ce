"""Commands whose n-th write to a disk fails, as on a full or broken disk.

A library that is loaded before all others counts the calls that write, and lets one fail, or all
from one on. It is compiled by `cc`. A process that has imported specdiag forks for each command.
"""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from support.commands import LOADED
from support.paths import ROOT

COMPILER = shutil.which("cc")

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static long count;
long fault_count(void) { return count; }

static int fails(int file) {
  struct stat status;
  char *at = getenv("FAULT_AT");
  if (!at || (file >= 0 && (fstat(file, &status) || !S_ISREG(status.st_mode)))) return 0;
  long n = atol(at);
  count++;
  if (count != n && !(getenv("FAULT_LASTS") && n && count > n)) return 0;
  errno = atoi(getenv("FAULT_ERRNO"));
  return 1;
}

#define CALL(result, name, file, parameters, arguments)                      \
  result name parameters {                                                   \
    static result (*next) parameters;                                        \
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name);                    \
    return fails(file) ? -1 : next arguments;                                \
  }
CALL(ssize_t, write, f, (int f, const void *b, size_t n), (f, b, n))
CALL(ssize_t, pwrite, f, (int f, const void *b, size_t n, off_t o), (f, b, n, o))
CALL(ssize_t, pwrite64, f, (int f, const void *b, size_t n, off64_t o), (f, b, n, o))
CALL(ssize_t, writev, f, (int f, const struct iovec *v, int n), (f, v, n))
CALL(ssize_t, copy_file_range, g, (int f, off64_t *o, int g, off64_t *p, size_t n, unsigned x),
     (f, o, g, p, n, x))
CALL(ssize_t, sendfile, g, (int g, int f, off_t *o, size_t n), (g, f, o, n))
CALL(ssize_t, sendfile64, g, (int g, int f, off64_t *o, size_t n), (g, f, o, n))
CALL(int, fsync, f, (int f), (f))
CALL(int, fdatasync, f, (int f), (f))
CALL(int, ftruncate, f, (int f, off_t n), (f, n))
CALL(int, ftruncate64, f, (int f, off64_t n), (f, n))
CALL(int, rename, -1, (const char *a, const char *b), (a, b))
CALL(int, renameat, -1, (int f, const char *a, int g, const char *b), (f, a, g, b))
CALL(int, mkdir, -1, (const char *a, mode_t m), (a, m))

#define OPEN(name)                                                           \
  int name(const char *path, int flags, ...) {                               \
    static int (*next)(const char *, int, ...);                              \
    va_list rest;                                                            \
    va_start(rest, flags);                                                   \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                \
    va_end(rest);                                                            \
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name);                    \
    return (flags & O_CREAT) && fails(-1) ? -1 : next(path, flags, mode);    \
  }
OPEN(open)
OPEN(open64)
"""


def compiled(folder):
    """Return the path of the compiled library."""
    source, library = folder / "faults.c", folder / "faults.so"
    source.write_text(SOURCE)
    command = [COMPILER, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True)
    return library


@contextlib.contextmanager
def disk(folder):
    """Give a function `(where, arguments, at, number, lasts)` that runs a command in a folder.

    The write `at` fails with the error `number`; none fails at 0; if `lasts`, all later ones fail,
    too. It returns exit code, text of the command, and the number of writes.
    """
    library = compiled(folder)
    variables = {
        "LD_PRELOAD": str(library),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "support.faults"],
        env=os.environ | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:

        def run(where, arguments, at=0, number=0, lasts=False):
            case = (str(where), list(map(str, arguments)), at, number, lasts)
            print(json.dumps(case), file=server.stdin, flush=True)
            return json.loads(server.stdout.readline())

        yield run
        server.stdin.close()


def serve():
    """Run the commands that arrive, each in a process of its own."""
    for name in LOADED:
        __import__(name)
    for line in sys.stdin:
        reading, writing = os.pipe()
        counted, counting = os.pipe()
        if not os.fork():
            os.close(reading)
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            command(*json.loads(line), counting)
        os.close(writing)
        os.close(counting)
        with os.fdopen(reading) as text, os.fdopen(counted) as result:
            said, (code, count) = text.read(), json.loads(result.read() or "[-1, 0]")
        os.wait()
        print(json.dumps((code, said, count)), flush=True)


def command(where, arguments, at, number, lasts, counting):
    """Run the command line in this process, which ends then."""
    from specdiag.cli.main import main

    os.chdir(where)
    sys.argv = ["specdiag", *arguments]
    code = -1
    try:
        os.environ.update(FAULT_AT=str(at), FAULT_ERRNO=str(number))
        if lasts:
            os.environ["FAULT_LASTS"] = "1"
        main()
        code = 0
    except SystemExit as status:
        code = status.code or 0
    finally:
        del os.environ["FAULT_AT"]
        sys.stdout.flush()
        sys.stderr.flush()
        count = ctypes.CDLL(None).fault_count()
        os.write(counting, json.dumps((code, count)).encode())
        os._exit(0)


def files(folder):
    """Return the contents of all files below a folder, but for the toy's log and empty locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.name != "log"
        and not (path.name.startswith(".") and path.suffix == ".lock")
    }


if __name__ == "__main__":
    serve()
