"""A command may be killed at any moment: the lock and its files are in the old or the new state."""

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save

from specdiag.cli.main import cli
from specdiag.lock import lockfile
from specdiag.lock.entry import Entry, Lock, Source
from support import toy
from support.commands import change
from support.hub import Hub
from support.kills import killed, specdiag
from support.paths import ROOT


def states(folder):
    arguments = ["list", "--json", "--lock", str(folder / "checkpoints.lock")]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return Counter(row["state"] for row in json.loads(result.stdout)["checkpoints"])


def tables(folder):
    """Return the contents of the toys' tables."""
    return {path.read_text() for path in folder.glob("checkpoints/**/*.ckpt.log.csv")}


def records(folder):
    return [entry.file for entry in lockfile.load(folder / "checkpoints.lock").entries]


@pytest.fixture(params=[4, pytest.param(16, marks=pytest.mark.slow)])
def n_kills(request):
    return request.param


@pytest.fixture
def lock(tmp_path):
    (tmp_path / "original").mkdir()
    path = toy.make(tmp_path / "original")
    assert specdiag(path.parent, "lock", "--init")[0] == 0
    return path


def test_a_killed_training_resumes_and_does_no_step_twice(lock, tmp_path, n_kills):
    for folder in killed(lock.parent, tmp_path, n_kills, "train", "--missing"):
        assert set(states(folder)) <= {"missing", "ok"}
        assert tables(folder) <= {"0\n1\n2\n"}
        assert specdiag(folder, "train", "--missing")[0] == 0
        assert len(list(folder.rglob("*.ckpt.log.csv"))) == 4
        assert tables(folder) == {"0\n1\n2\n"}
        assert states(folder) == {"ok": 4}
        steps = Counter(x for x in toy.log(folder / "checkpoints.lock") if "step" in x)
        assert len(steps) == 12
        # The interrupted step may run again, and no saved one.
        assert sum(steps.values()) <= 13
        assert list(folder.rglob("*.run")) == []
        assert len(list(folder.rglob("*.nc"))) == 3
        assert records(folder) == records(tmp_path / "whole")


def test_training_again_by_force_leaves_the_old_file_or_the_new_one(lock, tmp_path, n_kills):
    assert specdiag(lock.parent, "train", "--missing")[0] == 0
    for folder in killed(lock.parent, tmp_path, n_kills, "train", "base/net", "--force"):
        assert states(folder) == {"ok": 4}
        assert specdiag(folder, "train", "base/net")[0] == 0
        assert list(folder.rglob("*.run")) == []
        assert tables(folder) == {"0\n1\n2\n"}


def test_a_killed_lock_command_leaves_the_old_lock_or_the_new_one(lock, tmp_path, n_kills):
    old = lock.read_bytes()
    change(lock, '"steps": 3', '"steps": 2')
    seen = set()
    for folder in killed(lock.parent, tmp_path, n_kills, "lock"):
        seen.add((folder / "checkpoints.lock").read_bytes())
        assert states(folder) == {"missing": 4}
    new = (tmp_path / "whole" / "checkpoints.lock").read_bytes()
    assert old in seen
    assert seen <= {old, new}


def test_a_killed_fetch_leaves_nothing_or_the_whole_file(tmp_path, n_kills):
    weights = {"weight": np.random.default_rng(0).standard_normal((80, 60)).astype(np.float32)}
    with Hub() as server:
        server.files["net.ckpt"] = save(weights)
        original = tmp_path / "original"
        original.mkdir()
        source = Source(url=f"{server.url}/files/net.ckpt")
        entry = Entry(name="base/net", scale="paper", group="g", recipe="r", source=source)
        lockfile.save(Lock(entries=(entry,)), original / "checkpoints.lock")
        for folder in killed(original, tmp_path, n_kills, "fetch"):
            assert set(states(folder)) <= {"missing", "ok"}
            assert specdiag(folder, "fetch")[0] == 0
            assert states(folder) == {"ok": 1}
            kept = (folder / "checkpoints" / "paper" / "base" / "net.ckpt").read_bytes()
            assert kept == server.files["net.ckpt"]
            written = [f / "checkpoints.lock" for f in (folder, tmp_path / "whole")]
            assert written[0].read_bytes() == written[1].read_bytes()


def test_a_killed_export_leaves_the_lock_and_its_checkpoint_as_they_were(lock, tmp_path, n_kills):
    assert specdiag(lock.parent, "train", "--missing")[0] == 0
    arguments = ("export", "checkpoints/desk/base/net.ckpt", "net.safetensors", "--force")
    for folder in killed(lock.parent, tmp_path, n_kills, *arguments):
        assert states(folder) == {"ok": 4}


def test_two_processes_that_train_one_lock_make_every_entry_once(tmp_path):
    lock = toy.make(tmp_path, children=8)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "specdiag"]
    options = {"cwd": tmp_path, "env": environment, "text": True}
    subprocess.run([*command, "lock", "--init"], check=True, capture_output=True, **options)
    both = [
        subprocess.Popen(
            [*command, "train", "--missing"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        for _ in range(2)
    ]
    for process in both:
        process.communicate()
    assert [process.returncode for process in both] == [0, 0]
    begun = Counter(line for line in toy.log(lock) if "begin" in line)
    assert set(begun.values()) == {1}
    assert len(begun) == 10
    assert states(tmp_path) == {"ok": 10}
