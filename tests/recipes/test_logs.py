"""A training says how far it is, and writes its numbers with the loggers of Lightning."""

import csv
import logging
import math
import re
from dataclasses import replace

import pytest

from recipes.poyo import logs
from recipes.poyo.train import train
from specdiag.training.logged import read_table
from support import toy
from support.commands import run_forked as run
from support.jobs import StopAt, job, terminate
from support.sessions import sessions

pytest.importorskip("torch")
pytest.importorskip("lightning")
pytest.importorskip("torch_brain")

STEPS = 12


@pytest.fixture(scope="module")
def recordings():
    return sessions()


def messages(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "recipes.poyo.logs"]


def test_without_a_terminal_there_is_a_line_for_each_validation(tmp_path, recordings, caplog):
    caplog.set_level(logging.INFO)
    train(job(tmp_path), recordings)
    first, *lines = messages(caplog)
    assert first == f"tiny: {STEPS} of {STEPS} steps to do"
    number = r"-?\d[\d.]*"
    pattern = (
        rf"tiny: step (\d+) of {STEPS}, loss {number}, R² {number} \(best {number}\), "
        rf"lr {number}e-\d\d, {number}e?\+?\d* steps/s(, \d+ s left)?"
    )
    steps = [int(re.fullmatch(pattern, line)[1]) for line in lines]
    assert steps == [2, 4, 6, 8, 10, 12]
    assert ["left" in line for line in lines] == [True] * 5 + [False]


def test_the_first_minute_ends_with_a_line(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    clock = iter([0.0, 30.0, 61.0, 62.0, 120.0])
    monkeypatch.setattr(logs.time, "monotonic", lambda: next(clock))
    log = logs.Log(job(tmp_path), 1000)
    log.begin(100)
    for step in (110, 120, 121):
        log.line(step, 0.5, 1e-3, math.nan, -math.inf)
    log.line(140, 0.25, 1e-3, 0.125, 0.25)
    early, validated = messages(caplog)[1:]
    assert early == (
        "tiny: step 120 of 1,000, loss 0.500, lr 1.0e-03, 0.328 steps/s, 44 min 44 s left"
    )
    assert validated == (
        "tiny: step 140 of 1,000, loss 0.250, R² 0.125 (best 0.250), lr 1.0e-03, 0.333 steps/s, "
        "43 min 0 s left"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (65, "1 min 5 s"), (3600 * 9, "9 h 0 min")]
)
def test_a_duration_has_its_two_largest_units(seconds, text):
    assert logs.duration(seconds) == text


def logged(folder, kind, **more):
    made = job(folder)
    return replace(made, log=kind, logs=folder / "model.ckpt.logs", **more)


def spectra(step, _):
    return {"spectral/a.weight/alpha": 3.0} if step % 6 == 0 else None


def table(made, run_name="csv_0"):
    with (made.logs / run_name / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_csv_logger_has_loss_validation_and_spectra(tmp_path, recordings):
    made = logged(tmp_path, "csv")
    train(made, recordings, on_step=spectra)
    rows = table(made)
    assert [int(row["step"]) for row in rows if row["loss"]] == list(range(1, STEPS + 1))
    assert [int(row["step"]) for row in rows if row["valid_r2"]] == [2, 4, 6, 8, 10, 12]
    readings = read_table(made.logs / "csv_0" / "metrics.csv")
    assert [(r.step, r.name, r.alpha) for r in readings] == [
        (6, "a.weight", 3),
        (12, "a.weight", 3),
    ]
    assert (made.logs / "csv_0" / "hparams.yaml").read_text()


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_a_training_that_is_resumed_goes_on_with_its_logger(kind, tmp_path, recordings):
    if kind == "tensorboard":
        pytest.importorskip("tensorboard")
    made = logged(tmp_path, kind)
    with pytest.raises(SystemExit):
        train(made, recordings, on_step=StopAt(5, terminate), save_seconds=1e9)
    train(made, recordings)
    assert [path.name for path in made.logs.iterdir()] == [f"{kind}_0"]
    whole = logged(tmp_path / "whole", kind)
    train(whole, recordings)
    assert losses(made, kind) == losses(whole, kind)
    train(replace(made, folder=whole.folder), recordings)  # of another build: a new run
    assert sorted(path.name for path in made.logs.iterdir()) == [f"{kind}_0", f"{kind}_1"]


def losses(made, kind):
    if kind == "csv":
        return [(int(row["step"]), float(row["loss"])) for row in table(made) if row["loss"]]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(made.logs / "tensorboard_0"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]


def test_two_loggers_are_refused(tmp_path):
    status, _, err = run(tmp_path, "train", "base/net", "--log", "csv", "--log", "tensorboard")
    assert status == 2
    assert err.splitlines()[-1] == "Error: --log csv and --log tensorboard: a run has one logger"


def test_a_recipe_without_a_logger_says_so(tmp_path):
    toy.make(tmp_path, children=1)
    assert run(tmp_path, "lock", "--init")[0] == 0
    status, _, err = run(tmp_path, "train", "base/net", "--log", "csv")
    assert status == 0
    assert "specdiag: base/net: its recipe has no logger: --log has no effect" in err


def test_a_folder_of_logs_that_leads_out_of_the_lock_is_refused(tmp_path):
    root, outside = tmp_path / "lock", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    toy.make(root, children=1)
    assert run(root, "lock", "--init")[0] == 0
    beside = root / "checkpoints" / "desk" / "base"
    beside.mkdir(parents=True)
    (beside / "net.ckpt.logs").symlink_to(outside)
    status, out, _ = run(root, "train", "base/net", "--log", "csv")
    assert status == 1
    assert "net.ckpt.logs leads out of the lock's folder by a link" in out
    assert list(outside.iterdir()) == []


def test_a_logger_that_is_not_installed_is_a_usage_error(tmp_path):
    from importlib.util import find_spec

    if find_spec("wandb"):
        pytest.skip("wandb is installed here")
    toy.make(tmp_path, children=1)
    assert run(tmp_path, "lock", "--init")[0] == 0
    status, _, err = run(tmp_path, "train", "base/net", "--log", "wandb")
    assert status == 2
    assert err.splitlines()[-1] == "Error: --log wandb needs wandb: pip install wandb"
