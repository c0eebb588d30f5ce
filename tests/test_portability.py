"""Importing specdiag, and measuring, use nothing that only POSIX systems have.

Writing does: a temporary file gets its name while it is open, which Windows refuses.
"""

import subprocess
import sys
from pathlib import PosixPath

import numpy as np
import pytest
from safetensors.numpy import save_file

from specdiag.files import DistantPath
from support.paths import ROOT

PROGRAM = """
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

# Other libraries are imported first: what they do elsewhere is their matter.
for name in ("click", "filelock", "h5netcdf", "h5py", "httpx2", "huggingface_hub", "ml_dtypes",
             "matplotlib.figure", "matplotlib.backends.backend_svg", "safetensors.numpy",
             "scipy.stats", "threadpoolctl", "tomli_w", "xarray", "multiprocessing"):
    import_module(name)
for name in ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None  # an import of it raises ImportError
for name in ("chown", "fchmod", "fchown", "fork", "geteuid", "getpgid", "getuid", "killpg",
             "mkfifo", "pread", "preadv", "sched_getaffinity", "setsid", "statvfs", "uname"):
    delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "SIGKILL"):
    delattr(signal, name)

import specdiag
from specdiag.cli.main import cli

root = Path(specdiag.__file__).parent
for path in sorted(root.rglob("*.py")):
    name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
    if path.stem != "__main__":
        import_module(name.removesuffix(".__init__"))
for arguments in ("weights a.safetensors", "alpha a.safetensors",
                  "compare a.safetensors b.safetensors", "list"):
    print(arguments, flush=True)
    cli(arguments.split(), standalone_mode=False)
"""


def test_importing_and_measuring_need_nothing_that_only_posix_has(tmp_path):
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        save_file({"a.weight": rng.normal(size=(80, 60))}, tmp_path / f"{name}.safetensors")
    (tmp_path / "checkpoints.lock").write_text("lock-version = 1\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 matrix: 1 measured" in done.stdout


def test_a_path_on_another_machine_is_made_also_where_paths_have_backslashes(monkeypatch):
    def refuse(cls, *parts, **_):
        raise NotImplementedError("cannot instantiate 'PosixPath' on your system")

    monkeypatch.setattr(PosixPath, "__new__", refuse)
    with pytest.raises(NotImplementedError):
        PosixPath("a")
    path = DistantPath("hf://owner/repo/file")
    assert path.parts == ("hf:", "owner", "repo", "file")
    assert (path.name, (path.parent / "other").name) == ("file", "other")
