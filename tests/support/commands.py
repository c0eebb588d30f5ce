"""The command line, run in a folder as a user runs it."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from support.paths import ROOT

# Processes fork from a server that has imported these: they start in some milliseconds.
LOADED = ("pytest", "xarray", "h5netcdf", "h5py", "httpx2", "safetensors.numpy", "scipy.stats")
LOADED += ("matplotlib.figure", "matplotlib.backends.backend_svg", "matplotlib.font_manager")
LOADED += ("specdiag.cli.main", "specdiag.checkpoint.export", "specdiag.dataset.spectra")
LOADED += ("specdiag.lock.recipe", "specdiag.obtain.build", "specdiag.obtain.fetch")
LOADED += ("specdiag.drawing.drawings", "specdiag.show.entries")
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(list(LOADED))


def run(folder, *arguments, **environment):
    """Run the command line in a folder; returns status, stdout, stderr."""
    command = [sys.executable, "-m", "specdiag", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def run_forked(folder, *arguments, **environment):
    """Do as `run` does, without the half second that an interpreter takes to import specdiag."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    with TemporaryDirectory() as made:
        outputs = [Path(made, name) for name in ("out", "err")]
        given = (folder, list(map(str, arguments)), environment, outputs)
        process = server.Process(target=command_line, args=given)
        process.start()
        process.join()
        return process.exitcode, *(path.read_text() for path in outputs)


def command_line(folder, arguments, environment, outputs):
    """Run the command line in this process, which ends with its status."""
    from specdiag.cli.main import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(outputs, 1):
        file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["specdiag", *arguments]
    main()


def states(folder):
    status, out, err = run_forked(folder, "list", "--json")
    assert (status, err) == (0, "")
    return {row["name"]: row["state"] for row in json.loads(out)["checkpoints"]}


def change(lock, old, new):
    recipe = lock.parent / "recipes" / "toy.py"
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new, 1))
