"""A training that is stopped through the command line ends in the same bits when it is resumed."""

import errno
import os
import shutil
import signal
import subprocess
import sys

import pytest

from specdiag.lock import lockfile
from support.faults import COMPILER, compiled
from support.paths import ROOT
from support.reliability import record

pytestmark = pytest.mark.slow

STEPS = 12
POINTS = (1, 2, 3, 4, 6, 8, 9, 11, 12)

POYO = """
import os, signal
from pathlib import Path

from ._published import adamw, declare, training
from .data.recordings import open_recordings
from .poyo.run import evaluate_checkpoint
from ._tasks import reaching
from .poyo.train import train

TASK = reaching("c_20131003_center_out_reaching", seconds=60)


def entries():
    params = {
        "data": TASK.data("desk", 1.0),
        "unit_dropout": {"level": "off"},
        "optimizer": adamw(2e-3),
        "training": training(batch=4, steps=12, matmul="highest"),
    }
    return [declare("killed", "desk", TASK, recipe="dying", params=params)]


def build(job):
    import torch

    torch.set_num_threads(1)
    sessions = list(open_recordings(job.params, Path("recordings")).values())
    seconds = float(os.environ.get("SAVE", "600"))
    train(job, sessions, save_seconds=seconds, on_step=die)
    return {"r2": (evaluate_checkpoint(job, sessions, job.output).r2, 0.02)}


def die(step, _):
    if f"{step}" == os.environ.get("AT"):
        os.kill(os.getpid(), int(os.environ["BY"]))
"""


def run(folder, *arguments, **environment):
    command = [sys.executable, "-m", "specdiag", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def result(folder):
    (entry,) = lockfile.load(folder / "checkpoints.lock").entries
    assert list(folder.rglob("*.run")) == []
    return entry.file.tensors, entry.metrics, folder.joinpath(entry.path).read_bytes()


@pytest.fixture(scope="module")
def declared(tmp_path_factory):
    pytest.importorskip("lightning")
    pytest.importorskip("torch_brain")
    folder = tmp_path_factory.mktemp("declared")
    hidden = shutil.ignore_patterns("pipelines", "__pycache__")
    shutil.copytree(ROOT / "recipes", folder / "recipes", ignore=hidden)
    for recipe in (folder / "recipes").glob("[a-z]*.py"):
        recipe.unlink()
    (folder / "recipes" / "dying.py").write_text(POYO)
    (folder / "checkpoints.lock").write_text("lock-version = 1\n")
    assert run(folder, "lock").returncode == 0
    return folder


@pytest.fixture(scope="module")
def uninterrupted(declared, tmp_path_factory):
    """The result of a training that was not stopped; its recordings are made once."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    shutil.copytree(declared, folder)
    done = run(folder, "train", "killed")
    assert done.returncode == 0, done.stderr
    assert "resumed" not in done.stderr
    if (folder / "recordings").exists():
        shutil.copytree(folder / "recordings", declared / "recordings")
    return result(folder)


@pytest.fixture
def folder(declared, uninterrupted, tmp_path):
    shutil.copytree(declared, tmp_path / "study")
    return tmp_path / "study"


@pytest.mark.parametrize("at", POINTS)
def test_a_terminated_command_resumes_to_the_same_bits(folder, uninterrupted, at):
    stopped = run(folder, "train", "killed", AT=f"{at}", BY=f"{signal.SIGTERM:d}")
    assert stopped.returncode == 143, stopped.stderr
    assert not list(folder.rglob("killed.ckpt"))
    done = run(folder, "train", "killed")
    assert done.returncode == 0, done.stderr
    assert f"resumed after step {at} of {STEPS}" in done.stderr
    assert result(folder) == uninterrupted
    record("resume", points_through_the_command_line=len(POINTS))


def test_kills_and_terminations_in_a_row_end_in_the_same_bits(folder, uninterrupted):
    nothing_saved = run(folder, "train", "killed", AT="3", BY=f"{signal.SIGKILL:d}")
    assert nothing_saved.returncode == -signal.SIGKILL
    saved = run(folder, "train", "killed", AT="5", BY=f"{signal.SIGTERM:d}")
    assert saved.returncode == 143
    assert "resumed" not in saved.stderr
    later = run(folder, "train", "killed", AT="8", BY=f"{signal.SIGKILL:d}")
    assert later.returncode == -signal.SIGKILL
    assert "resumed after step 5 of 12" in later.stderr
    done = run(folder, "train", "killed")
    assert "resumed after step 5 of 12" in done.stderr
    assert result(folder) == uninterrupted


WRITES = (8, 30, 60)  # the first that fails: at the beginning, and while states are saved


@pytest.mark.skipif(not COMPILER, reason="no C compiler")
@pytest.mark.parametrize("write", WRITES)
def test_a_training_on_a_full_disk_resumes_to_the_same_bits(folder, uninterrupted, tmp_path, write):
    library = compiled(tmp_path)
    full = {"LD_PRELOAD": str(library), "FAULT_ERRNO": f"{errno.ENOSPC}", "FAULT_LASTS": "1"}
    full |= {"SAVE": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    stopped = run(folder, "train", "killed", FAULT_AT=f"{write}", **full)
    assert stopped.returncode == 1, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "No space left on device" in stopped.stdout
    done = run(folder, "train", "killed")
    assert done.returncode == 0, done.stderr
    assert result(folder) == uninterrupted
    record("resume", full_disks=len(WRITES))
