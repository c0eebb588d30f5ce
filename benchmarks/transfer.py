"""How much a frozen base helps with a new recording, against scratch and ridge decoders.

    python -m benchmarks.transfer [--write-docs]

A base of one monkey's session is transferred to the session of another monkey and of a rat; the
simulated bases of three seeds, which `specdiag train` must have trained before, to an animal that
they have not seen. Each training adds a row to benchmarks/results/transfer.csv; those that have one
are not repeated, so the program can be stopped and continued. `--write-docs` trains nothing and
writes the tables of docs/transfer.md; `python -m figures` draws its picture. Settings are those of
desk entries of the lock, which `settings` names. One thread; an hour and a quarter.
"""

import argparse
import itertools
import json
import logging
import sys
from pathlib import Path

import numpy as np

from benchmarks._pages import DOCS, write_tables
from benchmarks._results import append, read
from benchmarks._transfer_tables import LEVELS, PERCENTS, UNSEEN, tables
from benchmarks.ridge import counts, r2
from recipes._published import ARMS, BASE, unit_dropout
from recipes.data.arrays import first_part, inside, place, to_arrays
from recipes.data.recordings import open_recordings
from recipes.poyo.evaluate import r2_score
from recipes.poyo.run import evaluate_checkpoint
from recipes.poyo.train import train
from specdiag.lock.lockfile import find, load
from specdiag.lock.recipe import Job

KEY = ["task", "arm", "unit_dropout", "percent", "seed"]
COLUMNS = [*KEY, "r2", "valid_r2", "best_step", "condition_number", "windows", "test_intervals"]
SEEDS = (42, 43, 44)
# Of a task; the first has all bins of the movement, and the second has bins of the same width.
SESSIONS = {
    "first": ("c_20131003_center_out_reaching", "c_20131003_center_out_reaching_100ms"),
    "second": ("m_20140303_center_out_reaching", "m_20140303_center_out_reaching_100ms"),
    "rat": ("mmaze_0_1", "mmaze_0_1"),
}
ENTRIES = {  # of the lock, by task and arm
    **{(task, arm): f"cross_subject/{task}_{arm}" for task in UNSEEN for arm in ARMS},
    ("first", "base"): BASE,
    **{("second", arm): f"cross_subject/t_20130819_{arm}" for arm in ARMS},
    ("second", "plastic"): "low_data/100_standard",
    **{("rat", arm): f"cross_species/of_24365_2_{arm}" for arm in ARMS},
}
BINS = {"ridge": (3, 0), "ridge_wide": (11, 5)}  # how many, and how many of them after the hand
PENALTIES = (10.0, 100.0, 1000.0, 10000.0)


def cells():
    """Yield the trainings as values of KEY: the ends of the curves first, in case it is stopped."""
    for percents in ((10, 100), (25, 50)):
        for seed, percent, arm in itertools.product(SEEDS, percents, ARMS):
            yield "second", arm, "standard", percent, seed
    for seed, arm in itertools.product(SEEDS, ARMS):
        yield "rat", arm, "standard", 100, seed
    for seed, percent, level in itertools.product(SEEDS, (10, 25, 100), LEVELS):
        yield "second", "plastic", level, percent, seed
    for percent, seed, task in itertools.product((10, 25, 50), SEEDS, UNSEEN):  # 100 is in the lock
        for arm in ("pretrained", "scratch_tuned"):
            yield task, arm, "standard", percent, seed


def settings(task, arm, level, percent, seed):
    """Return the params of a desk entry; recordings have the published numbers of UnitDropout."""
    entries = {(e.name, e.scale): e for e in load(DOCS.parent / "checkpoints.lock").entries}
    params = json.loads(json.dumps(entries[ENTRIES[task, arm], "desk"].params))
    params["training"]["seed"] = seed
    params["data"]["train_fraction"] = percent / 100
    if task in UNSEEN:
        return params
    params["data"]["sessions"] = [SESSIONS[task][0]]
    params["unit_dropout"] = unit_dropout("paper", level)
    del params["simulation"]
    return params


def rows():
    """Return the rows measured so far."""
    return read("transfer", text=KEY[:3])


def is_there(cell):
    """Return whether a cell has been measured."""
    return any(tuple(row[k] for k in KEY) == cell for row in rows())


def add(row):
    """Append a row and print it."""
    append("transfer", [row], COLUMNS)
    print(row, flush=True)


def measure(cell, folder, parent=None):
    """Train and evaluate a cell that has no row yet, and add its row; return the checkpoint."""
    task, arm, level, percent, seed = cell
    work = folder / f"{task}_{arm}_{level}_{percent}_{seed}"
    output, params = work / "model.ckpt", settings(*cell)
    if is_there(cell) and (task != "first" or output.exists()):
        return output
    work.mkdir(parents=True, exist_ok=True)
    job = Job(
        name=work.name,
        scale="desk",
        params=params,
        parent=None if arm.startswith("scratch") else parent,
        inputs={},
        folder=work,
        output=output,
    )
    sessions = list(open_recordings(params, folder).values())
    done = train(job, sessions)
    evaluated = evaluate_checkpoint(job, sessions, output)
    if not is_there(cell):
        add(
            {
                **dict(zip(KEY, cell, strict=True)),
                "r2": round(evaluated.r2, 4),
                "valid_r2": round(done["valid_r2"], 4),
                "best_step": done["best_step"],
                "condition_number": float(f"{evaluated.features.condition_number:.4g}"),
                **sizes(sessions, params),
            }
        )
    return output


def sizes(sessions, params):
    """Return the number of windows of an epoch, and of test intervals."""
    held = to_arrays(sessions, params)
    train_part = held.intervals["train"]
    room = np.floor((train_part.end - train_part.start) / params["data"]["window"])
    return {"windows": int(room.sum()), "test_intervals": len(held.intervals["test"].start)}


def ridges(folder):
    """Add R² of ridge decoders on every session and fraction."""
    tasks = [("first", "base", 100), ("rat", "scratch", 100)]
    tasks += [("second", "scratch", percent) for percent in PERCENTS]
    for (task, arm, percent), (name, bins) in itertools.product(tasks, BINS.items()):
        cell = (task, name, "", percent, 0.0)
        params = settings(task, arm, "off", percent, 0)
        (data,) = open_recordings(params, folder).values()
        if not is_there(cell):
            values = {"r2": round(ridge(data, percent, *bins), 4), **sizes([data], params)}
            add(dict(zip(KEY, (*cell[:4], 0), strict=True)) | values)


def clock(folder, width=0.1):
    """Add test R² of a decoder without spikes: in simulated timing, the mean by time since Set."""
    cell = ("timing", "clock", "", 100, 0.0)
    if is_there(cell):
        return
    entries = {(e.name, e.scale): e for e in load(DOCS.parent / "checkpoints.lock").entries}
    params = entries["transfer/dmfc_const_scratch", "desk"].params
    (data,) = open_recordings(params, folder / "simulated").values()
    held = to_arrays([data], params)
    starts = np.sort(data.trials.set_time)
    before = np.searchsorted(starts, held.times, side="right") - 1
    since = np.floor((held.times - starts[np.maximum(before, 0)]) / width)
    fit, test = (
        held.evaluated & inside(held.times, np.stack(held.intervals[split][1:3], axis=1))
        for split in ("train", "test")
    )
    guess = [held.values[fit & (since == b)].mean() for b in since[test]]
    values = {"r2": round(r2_score(held.values[test], np.array(guess)[:, None]), 4)}
    add(dict(zip(KEY, (*cell[:4], 0), strict=True)) | values | sizes([data], params))


def ridge(data, percent, bins, ahead, width=0.1):
    """Return test R² of a ridge decoder, with the penalty that is best on the validation trials.

    It has `bins` bins of 0.1 s, of which the last lies `ahead` bins after the hand.
    """
    if hasattr(data, "cursor"):
        times, y = data.cursor.timestamps, data.cursor.vel
    else:
        places = slice(None, None, 10)  # of 100 a second
        times = data.samples.timestamps[places]
        y = np.stack([data.samples.x[places], data.samples.y[places]], axis=1)
    x = counts(data.spikes, len(data.units), times + ahead * width, width, bins)
    bounds = [place(data, f"{split}_domain") for split in ("train", "valid", "test")]
    bounds[0] = first_part(bounds[0], percent / 100)
    fit, valid, test = (inside(times, b) for b in bounds)
    return r2(x, y, fit, test, max(PENALTIES, key=lambda p: r2(x, y, fit, valid, p)))


def main():
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=DOCS.parent / "build" / "transfer", help="of checkpoints"
    )
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args()
    if options.write_docs:
        write_tables(DOCS / "transfer.md", tables(rows()))
        return
    sys.path.insert(0, str(DOCS.parent / "tests"))
    from support import real as extracts

    if not extracts.FOLDER.is_dir():
        raise SystemExit(
            "no ../shared/data beside the checkout: there are no recordings to measure"
        )
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    options.folder.mkdir(parents=True, exist_ok=True)
    for _, file in SESSIONS.values():
        extracts.write(options.folder, file)
    clock(options.folder)
    ridges(options.folder)
    base = measure(("first", "base", "standard", 100, SEEDS[0]), options.folder)
    for cell in cells():
        parent = base_of(cell[-1]) if cell[0] in UNSEEN else base
        measure(cell, options.folder, parent)


def base_of(seed):
    """Return the path of the simulated base of a seed, which `specdiag train` makes."""
    root = DOCS.parent
    path = root / ("checkpoints.lock" if seed == SEEDS[0] else f"checkpoints.seed-{seed}.lock")
    return root / find(load(path), BASE, "desk").path


if __name__ == "__main__":
    main()
