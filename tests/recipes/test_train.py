"""A training can be stopped at any time, and its checkpoint can be read by others."""

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import termios
from dataclasses import replace

import numpy as np
import pytest

from recipes._published import lamb
from recipes.poyo import checkpoints
from recipes.poyo.train import train
from specdiag.checkpoint.reader import open_checkpoint, tensor_digest
from support.jobs import PLAIN, StopAt, crash, job, terminate
from support.paths import ROOT
from support.sessions import MODEL, params, sessions

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")
pytest.importorskip("torch_brain")

STEPS = 12


@pytest.fixture(scope="module")
def recordings():
    return sessions()


@pytest.fixture(scope="module", params=["AdamW", "SparseLamb"])
def uninterrupted(request, recordings, tmp_path_factory):
    """The result of a training that was not stopped, its job and its declaration."""
    declared = {} if request.param == "AdamW" else {"optimizer": lamb(8e-3, 8)}
    done = job(tmp_path_factory.mktemp("uninterrupted"), **declared)
    return train(done, recordings), done, declared


@pytest.mark.parametrize("at", [1, 2, 3, 4, 6, 8, 9, 11, 12])
def test_a_terminated_training_resumes_to_the_same_bits(at, uninterrupted, recordings, tmp_path):
    expected, done, declared = uninterrupted
    stopped = job(tmp_path, **declared)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as status:
        train(stopped, recordings, on_step=StopAt(at, terminate))
    assert status.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert not stopped.output.exists()
    torch.rand(3)  # other random numbers do not matter
    rest = StopAt(None, None)
    assert train(stopped, recordings, on_step=rest) == expected
    assert rest.steps == list(range(at + 1, STEPS + 1))
    assert tensor_digest(stopped.output) == tensor_digest(done.output)
    assert (tmp_path / "log.csv").read_bytes() == (done.folder / "log.csv").read_bytes()


def test_a_crashed_training_resumes_from_the_last_saved_state(uninterrupted, recordings, tmp_path):
    expected, done, declared = uninterrupted
    crashed = job(tmp_path, **declared)
    for at in (5, 10):
        with pytest.raises(KeyboardInterrupt):
            train(crashed, recordings, save_seconds=0, on_step=StopAt(at, crash))
    rest = StopAt(None, None)
    assert train(crashed, recordings, on_step=rest) == expected
    assert rest.steps[0] == 10  # the state after step 9 was the last
    assert tensor_digest(crashed.output) == tensor_digest(done.output)


def test_a_damaged_state_is_ignored(uninterrupted, recordings, tmp_path):
    expected, _, declared = uninterrupted
    crashed = job(tmp_path, **declared)
    with pytest.raises(KeyboardInterrupt):
        train(crashed, recordings, save_seconds=0, on_step=StopAt(7, crash))
    older, newest = sorted(tmp_path.glob("step-*.ckpt"))
    assert [older.name[:13], newest.name[:13]] == ["step-00000005", "step-00000006"]
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    (tmp_path / ".step-00000007-0.ckpt.0123abcd.specdiag").write_bytes(b"half")
    rest = StopAt(None, None)
    assert train(crashed, recordings, on_step=rest) == expected
    assert rest.steps[0] == 6
    assert not list(tmp_path.glob(".step-*"))


def test_a_killed_training_resumes_to_the_same_bits(recordings, tmp_path):
    done, killed = job(tmp_path / "done"), job(tmp_path / "killed")
    expected = train(done, recordings)
    script = (
        "import os, signal, sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "from recipes.poyo.train import train\n"
        "from support.jobs import StopAt, job\n"
        "from support.sessions import sessions\n"
        "kill = StopAt(8, lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
        "train(job(Path(sys.argv[1])), sessions(), save_seconds=0, on_step=kill)"
    )
    command = [sys.executable, "-c", script, str(killed.folder), str(ROOT), str(ROOT / "tests")]
    killed_process = subprocess.run(command, check=False)
    assert killed_process.returncode == -signal.SIGKILL
    rest = StopAt(None, None)
    assert train(killed, recordings, on_step=rest) == expected
    assert rest.steps[0] == 8
    assert tensor_digest(killed.output) == tensor_digest(done.output)


def test_a_state_that_began_with_other_weights_is_not_resumed(recordings, tmp_path, caplog):
    first = job(tmp_path)
    with pytest.raises(SystemExit):
        train(first, recordings, on_step=StopAt(4, terminate))
    other = job(tmp_path, training=params()["training"] | {"seed": 7})
    seen = StopAt(None, None)
    train(other, recordings, on_step=seen)
    assert seen.steps == list(range(1, STEPS + 1))
    assert [r.message for r in caplog.records if r.name == "recipes.poyo.train"] == [
        "tiny: the saved state after step 4 began with other weights: training starts again"
    ]


def test_specdiag_and_torch_brain_read_the_checkpoint(uninterrupted, recordings):
    from torch_brain.models import POYO

    metrics, done, _ = uninterrupted
    checkpoint = open_checkpoint(done.output)
    assert checkpoint.notes == ()
    assert checkpoint.metadata["hyper_parameters"]["data"] == params()["data"]
    assert checkpoint.metadata["global_step"] == metrics["best_step"]
    assert checkpoint.metadata["environment"]["threads"] == torch.get_num_threads()
    model = POYO.load_pretrained(done.output)
    assert model.dim == MODEL["dim"]
    assert list(model.session_emb.vocab) == ["NA", *sorted(r.session.id for r in recordings)]
    assert len(model.unit_emb.vocab) == len(model.unit_emb.weight) == 23
    ours = {t.name: t.read() for t in checkpoint.tensors}
    for name, tensor in model.state_dict().items():
        if not name.endswith("vocab"):
            np.testing.assert_array_equal(tensor.numpy(), ours[name])


def test_the_log_has_loss_learning_rate_kept_units_and_r2(uninterrupted):
    metrics, done, _ = uninterrupted
    lines = list(csv.DictReader((done.folder / "log.csv").read_text().splitlines()))
    assert [int(line["step"]) for line in lines] == list(range(1, STEPS + 1))
    assert float(lines[-1]["loss"]) == metrics["loss"]
    assert all(0 < float(line["kept_units"]) <= 1 for line in lines)
    rates = [float(line["learning_rate"]) for line in lines]
    optimizer = done.params["optimizer"]
    assert rates[0] == pytest.approx(optimizer["max_lr"] / optimizer["schedule"]["div_factor"])
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[-1] < max(rates) / 1000
    r2 = [float(line["valid_r2"]) for line in lines]
    assert np.nanmax(r2) == metrics["valid_r2"] == r2[metrics["best_step"] - 1]


def test_training_learns(tmp_path, recordings):
    long = job(
        tmp_path,
        training=params()["training"] | {"steps": 150},
        model=MODEL | {"lin_dropout": 0.0, "ffn_dropout": 0.0, "dim": 32},
        unit_dropout={"level": "off"},
    )
    assert train(long, recordings)["valid_r2"] > 0.3


def test_a_gradient_is_clipped_if_the_entry_declares_it(recordings, tmp_path):
    from recipes._published import adamw

    moved = {}
    for clip in (None, 1e3, 1e-9):  # at 1e-9 the eps of Adam dominates the update
        declared = adamw(3e-3) | {"gradient_clip": clip}
        done = job(tmp_path / str(clip), optimizer=declared)
        train(done, recordings)
        moved[clip] = tensor_digest(done.output)
    assert moved[None] == moved[1e3] != moved[1e-9]


def test_a_state_replaces_newer_states_that_are_damaged(tmp_path, caplog):
    for step in (30, 40):
        checkpoints.save(tmp_path, step, {"step": step})
    newest_first = sorted(tmp_path.iterdir(), reverse=True)
    for path in newest_first:
        path.write_bytes(b"")
    assert checkpoints.resume(tmp_path) is None
    assert [r.message for r in caplog.records] == [
        f"{path.name} is damaged and is ignored" for path in newest_first
    ]
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, {"step": step})
        assert checkpoints.resume(tmp_path) == {"step": step}
    assert sorted(p.name[:13] for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_the_two_newest_states_are_kept_and_damaged_ones_are_ignored(tmp_path):
    for step in (1, 2, 30):
        checkpoints.save(tmp_path, step, {"step": step})
    assert len(list(tmp_path.iterdir())) == 2
    assert checkpoints.resume(tmp_path) == {"step": 30}
    for path in tmp_path.glob("step-*30-*"):
        path.write_bytes(path.read_bytes()[:-1])
    assert checkpoints.resume(tmp_path) == {"step": 2}
    for path in tmp_path.glob("step-*2-*"):
        path.write_bytes(b"")
    assert checkpoints.resume(tmp_path) is None


def test_a_terminal_of_80_columns_shows_time_left_loss_rate_and_r2():
    script = (
        "from recipes.poyo.signals import progress_line\n"
        "name = 'transfer/area2_ft_pretrained'\n"
        "with progress_line(name, total=1500, done=1480, shown=True) as show:\n"
        "    for _ in range(20): show(0.125, 2e-3, 0.8)\n"
    )
    terminal, end = os.openpty()
    termios.tcsetwinsize(end, (24, 80))
    every_step = os.environ | {"TQDM_MININTERVAL": "0"}
    line = [sys.executable, "-c", script]
    subprocess.run(line, stderr=end, cwd=ROOT, env=every_step, check=True)
    os.close(end)
    shown = os.read(terminal, 4096).decode()
    os.close(terminal)
    assert re.search(
        r"\r14\d\d/1500, \d\d:\d\d left, loss 0.125, lr 2.0e-03, R² 0.800, transf", shown
    )


@pytest.mark.slow
def test_two_processes_stopped_and_resumed_train_the_weights_of_one(tmp_path, recordings):
    declared = params()["training"] | {"steps": 12}
    common = {"model": PLAIN, "optimizer": lamb(8e-3, 8)}
    one = job(tmp_path / "one", training=declared, **common)
    two = job(tmp_path / "two", training=declared | {"devices": 2}, **common)
    expected = train(one, recordings)
    with pytest.raises(SystemExit) as status:
        train(two, recordings, on_step=StopAt(7, terminate))
    assert status.value.code == 143
    summary = train(two, recordings)
    assert summary["best_step"] == expected["best_step"]
    assert summary["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    theirs = {t.name: t.read() for t in open_checkpoint(one.output).tensors}
    for tensor in open_checkpoint(two.output).tensors:
        np.testing.assert_allclose(tensor.read(), theirs[tensor.name], atol=1e-4)


@pytest.mark.slow
def test_two_nodes_train_the_weights_of_one(tmp_path, recordings, monkeypatch):
    one, two = (job(tmp_path / name, model=PLAIN) for name in ("one", "two"))
    expected = train(one, recordings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from recipes.poyo.train import train\n"
        "from support.jobs import PLAIN, job\n"
        "from support.sessions import sessions\n"
        "if __name__ == '__main__':\n"
        "    made = job(Path(sys.argv[1]), model=PLAIN)\n"
        "    train(replace(made, nodes=2, node=1), sessions())"
    )
    command = [sys.executable, "-c", script, str(two.folder), str(ROOT), str(ROOT / "tests")]
    with subprocess.Popen(command, env=os.environ | {"NODE_RANK": "1"}) as other:
        summary = train(replace(two, nodes=2), recordings)
    assert other.returncode == 0
    assert summary["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    theirs = {t.name: t.read() for t in open_checkpoint(one.output).tensors}
    checkpoint = open_checkpoint(two.output)
    assert checkpoint.metadata["environment"]["nodes"] == 2
    for tensor in checkpoint.tensors:
        np.testing.assert_allclose(tensor.read(), theirs[tensor.name], atol=1e-4)


def test_another_precision_is_logged_and_recorded(tmp_path, recordings, caplog):
    made = job(tmp_path)
    train(replace(made, precision="bfloat16"), recordings)
    assert [r.message for r in caplog.records if r.name == "recipes.poyo.train"] == [
        (
            "tiny: trains in bfloat16 instead of the declared float32: "
            "R² may differ from the recorded value"
        )
    ]
    assert [r.message for r in caplog.records if r.name.startswith("lightning")] == []
    recorded = open_checkpoint(made.output).metadata["environment"]
    assert (recorded["precision"], recorded["nodes"], recorded["processes"]) == ("bfloat16", 1, 1)
