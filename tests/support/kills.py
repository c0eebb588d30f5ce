"""Commands that kill themselves at a line that they execute."""

import os
import shutil
import signal
import sys
import threading

import numpy as np

from specdiag import outputs
from specdiag.checkpoint import export
from specdiag.cli.main import main
from specdiag.dataset import journal
from specdiag.lock import lockfile
from specdiag.obtain import beside, build, download, fetch, job, state
from support.commands import server

WATCHED = {
    module.__file__
    for module in (beside, build, download, export, fetch, job, lockfile, outputs, state)
}


def run_and_die(folder, arguments, line, count):
    """Run a command in this process, which kills itself at this line of the watched modules."""

    def at_line(frame, event, _):
        if event == "line":
            count.value += 1
            if count.value == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return at_line

    def at_call(frame, event, _):
        file = frame.f_code.co_filename
        return at_line if file in WATCHED or file.endswith("recipes/toy.py") else None

    os.chdir(folder)
    sys.argv = ["specdiag", *arguments]
    sys.settrace(at_call)
    try:
        main()
    finally:
        sys.settrace(None)


def specdiag(folder, *arguments, die_at=0):
    """Run a command in another process; return its exit code and the number of lines it ran."""
    count = server.Value("q", 0)
    process = server.Process(target=run_and_die, args=(folder, arguments, die_at, count))
    process.start()
    process.join()
    return process.exitcode, count.value


def killed(original, tmp_path, n_kills, *arguments):
    """Yield folders in which the command was killed at random lines, then finish the command.

    A folder is named after its line. The number of lines, and so the lines that are drawn, varies a
    little: it depends on time.
    """
    whole = tmp_path / "whole"
    shutil.copytree(original, whole)
    code, n_lines = specdiag(whole, *arguments)
    assert code == 0
    for share in np.random.default_rng(0).random(n_kills):
        line = 1 + int(share * (n_lines - 10))
        folder = tmp_path / f"{line}"
        shutil.copytree(original, folder, dirs_exist_ok=True)
        code, _ = specdiag(folder, *arguments, die_at=line)
        assert code == -signal.SIGKILL, f"line {line} of {n_lines}"
        yield folder
        assert specdiag(folder, *arguments)[0] == 0, f"killed at line {line} of {n_lines}"
        shutil.rmtree(folder)


def run_and_stop(folder, arguments, n, number):
    """Run a command in this process, to which the signal is sent when its n-th layer is kept."""
    count = 0

    def at_event(frame, event, _):
        nonlocal count
        count += event == "return"
        if count == n and event == "return":
            os.kill(os.getpid(), number)
        return at_event

    def at_call(frame, event, _):
        code = frame.f_code
        return at_event if (code.co_filename, code.co_name) == (journal.__file__, "keep") else None

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it
    os.chdir(folder)
    sys.argv = ["specdiag", *arguments]
    threading.settrace(at_call)
    main()


def stopped(folder, arguments, n, number):
    """Run a command in another process that is sent a signal when its n-th layer is kept."""
    process = server.Process(target=run_and_stop, args=(folder, arguments, n, number))
    process.start()
    process.join()
    return process.exitcode
