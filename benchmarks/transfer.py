"""Does a frozen base help with a new recording? Against scratch and ridge, simulated and real.

    python -m benchmarks.transfer [--only simulated|real] [--write-docs]

Trains what is not in benchmarks/results/transfer.csv and transfer_real.csv yet, a row a training, so
that it can be stopped and continued; `--write-docs` trains nothing and writes docs/transfer.md and its
figure from these files. Settings are those of desk entries of the lock, `settings` says of which. One
thread; half an hour to three quarters.
"""

import argparse
import csv
import itertools
import json
import logging
import sys
from pathlib import Path

import numpy as np

from benchmarks import _transfer_page
from benchmarks._pages import DOCS
from benchmarks._transfer_page import PERCENTS
from benchmarks.ridge import counts, r2
from recipes._arrays import arrays, first_part, inside, place
from recipes._evaluate import r2_score
from recipes._published import BASE, unit_dropout
from recipes._recordings import recordings
from recipes._run import tested
from recipes._train import train
from specdiag.lockfile import load
from specdiag.recipe import Job

RESULTS = Path(__file__).parent / "results"
FILES = ("transfer.csv", "transfer_real.csv")
COLUMNS = ["task", "arm", "percent", "seed", "r2", "valid_r2", "best_step", "windows", "trials"]
SEEDS = (42, 43, 44)
ROUNDS = ((10, 100), (25, 50))  # the ends first, should it be stopped
FIRST, SECOND = "c_20131003_center_out_reaching", "m_20140303_center_out_reaching"
ENTRIES = {  # of the lock, by task and arm
    "base": BASE,
    "reach": "cross_subject/t_20130819_{}",
    "timing": "transfer/dmfc_const_{}",
}
REAL = {  # all bins of the movement; the other monkey has bins of the same width
    FIRST: "c_20131003_center_out_reaching_100ms",
    SECOND: "m_20140303_center_out_reaching_100ms",
}
BINS = {"ridge": (3, 0), "ridge_wide": (11, 5)}  # how many, and how many of them after the hand
PENALTIES = (10.0, 100.0, 1000.0, 10000.0)


def settings(task, arm, percent, seed):
    """Return the params of a desk entry of the lock with another seed and fraction."""
    name = ENTRIES["reach" if task == "real" else task].format(arm)
    entries = {(e.name, e.scale): e for e in load(DOCS.parent / "checkpoints.lock").entries}
    params = json.loads(json.dumps(entries[name, "desk"].params))
    params["training"]["seed"] = seed
    params["data"]["train_fraction"] = percent / 100
    return params


def real_settings(arm, percent, seed):
    """Return the params for the real recordings, which have more units than the simulated ones."""
    params = settings(
        "base" if arm == "base" else "real", "" if arm == "base" else arm, percent, seed
    )
    params["data"]["sessions"] = [FIRST if arm == "base" else SECOND]
    params["unit_dropout"] = unit_dropout("paper", "standard")
    del params["simulation"]
    return params


class Table:
    """Rows of a CSV file: those that are there, and those that are measured now."""

    def __init__(self, path):
        self.path, self.rows = path, []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = [typed(row) for row in csv.DictReader(file)]

    def has(self, **key):
        """Return whether a row has these values."""
        return any(all(row[k] == v for k, v in key.items()) for row in self.rows)

    def add(self, row):
        """Write and print a row."""
        fresh = not self.path.exists()
        self.rows.append(row)
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)


def typed(row):
    """Return a row of a CSV file with numbers as such; '' is None."""
    words = ("task", "arm")
    return {k: v if k in words else (float(v) if v else None) for k, v in row.items()}


def measure(table, folder, held_in, *, task, arm, percent=100, seed=42, params, parent=None):
    """Train, evaluate on the test split and add the row, unless it is there; return the checkpoint."""
    work = folder / f"{task}_{arm}_{percent}_{seed}"
    job = Job(
        name=f"{task} {arm} {percent} % {seed}",
        scale="desk",
        params=params,
        parent=parent,
        inputs={},
        folder=work,
        output=work / "model.ckpt",
    )
    key = {"task": task, "arm": arm, "percent": percent, "seed": seed}
    if table.has(**key) and (arm != "base" or job.output.exists()):
        return job.output
    work.mkdir(parents=True, exist_ok=True)
    sessions = list(recordings(params, held_in).values())
    done = train(job, sessions)
    found = tested(job, sessions, job.output)
    if not table.has(**key):
        row = {**key, "r2": round(found.r2, 4), "valid_r2": round(done["valid_r2"], 4)}
        row |= {"best_step": done["best_step"], **sizes(sessions, params)}
        table.add(row)
    return job.output


def sizes(sessions, params):
    """Return how many windows an epoch has, and how many intervals the test."""
    held = arrays(sessions, params)
    train_part = held.intervals["train"]
    room = np.floor((train_part.end - train_part.start) / params["data"]["window"])
    return {"windows": int(room.sum()), "trials": len(held.intervals["test"].start)}


def simulated(folder):
    """Measure reaches of another animal by fraction of its data, and timing, in simulated recordings."""
    table, held_in = Table(RESULTS / FILES[0]), folder / "simulated"
    base = measure(
        table, folder, held_in, task="base", arm="base", params=settings("base", "", 100, 42)
    )
    if not table.has(task="timing", arm="clock"):
        params = settings("timing", "scratch", 100, 0)
        row = {"task": "timing", "arm": "clock", "percent": 100, "seed": 0}
        table.add(row | {"r2": round(clock(params, held_in), 4)})
    ends, middle = ([("reach", p, s) for s in SEEDS for p in percents] for percents in ROUNDS)
    timing = [("timing", 100, s) for s in SEEDS]
    arms = ("pretrained", "scratch_tuned")
    cells = [(*cell, arm) for cell in [*ends, *timing, *middle] for arm in arms]
    cells += [(*cell, "scratch") for cell in [*ends, *timing]]
    for task, percent, seed, arm in cells:
        params = settings(task, arm, percent, seed)
        cell = {"task": task, "arm": arm, "percent": percent, "seed": seed}
        parent = base if arm == "pretrained" else None
        measure(table, folder, held_in, **cell, params=params, parent=parent)


def clock(params, held_in, width=0.1):
    """Return test R² of the mean interval of training trials by time since Set: what needs no spikes."""
    (data,) = recordings(params, held_in).values()
    held = arrays([data], params)
    starts = np.sort(data.trials.set_time)
    since = (
        held.times - starts[np.maximum(np.searchsorted(starts, held.times, side="right") - 1, 0)]
    )
    fit, test = (
        held.evaluated & inside(held.times, np.stack(held.intervals[split][1:3], axis=1))
        for split in ("train", "test")
    )
    bins = np.floor(since / width)
    guess = [held.values[fit & (bins == b)].mean() for b in bins[test]]
    return r2_score(held.values[test], np.array(guess)[:, None])


def real(folder):
    """Measure a base on one real session, and its transfer to another monkey, if the extracts are there."""
    sys.path.insert(0, str(DOCS.parent / "tests"))
    import real as extracts

    if not extracts.FOLDER.is_dir():
        print("no ../shared/data beside the checkout: nothing measured on real recordings")
        return
    table, held_in = Table(RESULTS / FILES[1]), folder / "extracts"
    for name in REAL.values():
        extracts.write(held_in, name)
    ridges(table, held_in)
    params = real_settings("base", 100, SEEDS[0])
    base = measure(table, folder, held_in, task="first", arm="base", params=params)
    cells = [(p, s) for percents in ROUNDS for s in SEEDS for p in percents]
    for percent, seed in cells:
        for arm, parent in (("pretrained", base), ("scratch_tuned", None)):
            cell = {"task": "second", "arm": arm, "percent": percent, "seed": seed}
            params = real_settings(arm, percent, seed)
            measure(table, folder, held_in, **cell, params=params, parent=parent)


def ridges(table, held_in):
    """Add ridge decoders' R² on both sessions, for every fraction of the second."""
    for task, arm, percents in (("first", "base", (100,)), ("second", "pretrained", PERCENTS)):
        for percent, (name, bins) in itertools.product(percents, BINS.items()):
            params = real_settings(arm, percent, 0)
            (data,) = recordings(params, held_in).values()
            row = {"task": task, "arm": name, "percent": percent, "seed": 0}
            if not table.has(**row):
                table.add(
                    row | {"r2": round(ridge(data, percent, *bins), 4), **sizes([data], params)}
                )


def ridge(data, percent, bins, ahead, width=0.1):
    """Return test R² of a ridge decoder of `bins` bins of 0.1 s, the last one `ahead` bins after the hand.

    The penalty is the best on the validation trials.
    """
    times = data.cursor.timestamps
    x = counts(data.spikes, len(data.units), times + ahead * width, width, bins)
    bounds = [place(data, f"{split}_domain") for split in ("train", "valid", "test")]
    bounds[0] = first_part(bounds[0], percent / 100)
    fit, valid, test = (inside(times, b) for b in bounds)
    y = data.cursor.vel
    return r2(x, y, fit, test, max(PENALTIES, key=lambda p: r2(x, y, fit, valid, p)))


def main():
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("simulated", "real"))
    parser.add_argument(
        "--folder", type=Path, default=DOCS.parent / "build" / "transfer", help="of checkpoints"
    )
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args()
    if options.write_docs:
        _transfer_page.write(*(Table(RESULTS / name).rows for name in FILES))
        return
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    if options.only != "real":
        simulated(options.folder)
    if options.only != "simulated":
        real(options.folder)


if __name__ == "__main__":
    main()
