"""Time of our training and of upstream's loop, with the same model, windows, seeds and losses.

    python -m benchmarks.training [--steps 40] [--pairs 6]

Upstream's loop is that of torch_brain's POYO example, written anew: it reads an HDF5 file a
session lazily, cuts windows from it one by one, drops units, resolves intervals into weights,
tokenises, and collates with a DataLoader in the same process. Times are processor time of one
thread, in pairs that ran one right after the other and in alternating order; a ratio is the median
over pairs. Nothing here is a test.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from recipes._published import MODEL, adamw, unit_dropout
from recipes._tasks import CHRONIC_SESSIONS, SIMULATION, VELOCITY, WINDOWS
from recipes.data.arrays import to_arrays
from recipes.data.batches import Batches, padded
from recipes.data.windows import random_windows
from recipes.poyo.model import build, embedding_rows, parameter_groups
from recipes.simulation.recordings import write_recordings

BATCH = 16
SESSIONS = CHRONIC_SESSIONS[:3]
BRAINSET = "perich_miller_population_2018"
PARAMS = {
    "model": {**MODEL["desk"], "dim_out": 2},
    "target": VELOCITY,
    "data": {"sessions": list(SESSIONS), "train_fraction": 1.0, **WINDOWS},
    "training": {"seed": 42},
    "unit_dropout": unit_dropout("desk", "standard"),
}


def upstream_data(folder, model, dropout):
    """Return a dataset of (inputs, targets) samples, as torch_brain's example makes them."""
    import torch
    from torch_brain.batching import pad8
    from torch_brain.datasets import PerichMillerPopulation2018
    from torch_brain.utils.weights import isin_interval

    recordings = PerichMillerPopulation2018(
        root=str(folder), recording_ids=list(SESSIONS), dirname=BRAINSET, transform=dropout
    )

    class Samples(torch.utils.data.Dataset):
        def __getitem__(self, index):
            data = recordings[index]
            inputs = model.tokenize(data)
            times = data.cursor.timestamps
            values = (data.cursor.vel - VELOCITY["mean"]) / VELOCITY["std"]
            weights = np.ones_like(times, dtype=np.float32)
            for name, weight in VELOCITY["loss_weights"].items():
                weights[isin_interval(times, data.get_nested_attribute(name))] *= weight
            evaluated = isin_interval(times, data.movement_phases.reach_period)
            return inputs, {
                "timestamps": pad8(times.astype(np.float32)),
                "values": pad8(values.astype(np.float32)),
                "weights": pad8(weights),
                "mask": pad8(np.ones(len(times), dtype=bool)),
                "evaluated": pad8(evaluated),
                "session": data.session.id,
                "start": data.absolute_start,
            }

    return Samples()


def upstream_loader(folder, model, windows, dropout=None):
    """Return a DataLoader over given windows."""
    import torch
    from torch_brain.batching import collate
    from torch_brain.datasets import DatasetIndex

    indices = [
        DatasetIndex(SESSIONS[s], a, b)
        for s, a, b in zip(windows.session, windows.start, windows.end, strict=True)
    ]
    data = upstream_data(folder, model, dropout)
    return torch.utils.data.DataLoader(
        data, sampler=indices, batch_size=BATCH, collate_fn=collate, drop_last=True
    )


def upstream_step(model, optimizer, schedule, batch):
    """Return the loss of one step of the example's loop."""
    import torch

    inputs, target = batch
    mask = target["mask"]
    prediction = model(**inputs, output_timestamps=target["timestamps"])[mask]
    error = torch.nn.functional.mse_loss(prediction, target["values"][mask], reduction="none")
    weights = target["weights"][mask]
    loss = (error.flatten(1).mean(1) * weights).sum() / weights.sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    return loss.item()


def our_step(model, optimizer, schedule, batch):
    """Return the loss of one step as `recipes.poyo.train` does it in one process."""
    error = (model(**batch.inputs) - batch.values).square().mean(dim=-1)
    loss = (error * batch.weights).sum() / batch.weights.sum().clamp(min=1e-6)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()
    return loss.item()


class Side:
    """One of the two loops, with its own model and optimizer."""

    def __init__(self, held, total, *, fused):
        from recipes.poyo.lamb import optimizer

        self.model = build(PARAMS, held, None).train()
        settings = adamw(1e-3)
        self.optimizer, self.schedule = optimizer(
            parameter_groups(self.model), settings, total_steps=total
        )
        for group in self.optimizer.param_groups:
            group["fused"] = fused


def timed(function):
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def in_pairs(first, second, pairs):
    """Return the median ratio of processor times, and the median times, of two functions."""
    seconds = []
    first()
    second()
    for i in range(pairs):
        order = (first, second) if i % 2 == 0 else (second, first)
        times = {function: timed(function)[0] for function in order}
        seconds.append((times[first], times[second]))
    return median(a / b for a, b in seconds), *(median(x) for x in zip(*seconds, strict=True))


def data_path(folder, held, pairs):
    """Print the time a sample, with units dropped and without."""
    from torch_brain.transforms import UnitDropout

    model = build(PARAMS, held, None)
    windows = random_windows(held.intervals["train"], 1.0, seed=0).take(slice(0, 8 * BATCH))
    settings = PARAMS["unit_dropout"]
    for label, level in (("without UnitDropout", {"level": "off"}), ("with UnitDropout", settings)):
        dropout = None
        if level["level"] != "off":
            kept = ("max_units", "min_units", "mode_units", "peak")
            dropout = UnitDropout(**{name: level[name] for name in kept}, seed=0)
        batches = Batches(
            held, **embedding_rows(model, held), model=PARAMS["model"], unit_dropout=level, seed=42
        )
        loader = upstream_loader(folder, model, windows, dropout)
        ratio, theirs, ours = in_pairs(
            lambda loader=loader: list(loader),
            lambda batches=batches: [batches.train(step, BATCH) for step in range(8)],
            pairs,
        )
        samples = 8 * BATCH
        print(
            f"data path, {label}: {1e3 * theirs / samples:.3f} ms a sample upstream, "
            f"{1e3 * ours / samples:.3f} ours: {ratio:.0f} times (bar 20); one core feeds "
            f"{samples / ours:,.0f} samples a second"
        )


def whole_step(folder, held, steps, pairs):
    """Print both loss curves and the ratio of whole steps: data, forward, backward, optimizer."""
    total = steps * (pairs + 1)
    theirs, ours = Side(held, total, fused=None), Side(held, total, fused=True)
    batches = Batches(
        held,
        **embedding_rows(ours.model, held),
        model=PARAMS["model"],
        unit_dropout={"level": "off"},
        seed=1,
    )
    per_epoch = batches.n_windows // BATCH
    epochs = [
        batches.windows_of_epoch(e).take(slice(0, per_epoch * BATCH))
        for e in range(-(-total // per_epoch))
    ]
    loaders = (b for w in epochs for b in upstream_loader(folder, theirs.model, w))
    steps_done = iter(range(total))
    curves = ([], [])

    def upstream():
        for _ in range(steps):
            batch = next(loaders)
            curves[0].append(upstream_step(theirs.model, theirs.optimizer, theirs.schedule, batch))

    def own():
        for _ in range(steps):
            batch = batches.train(next(steps_done), BATCH)
            curves[1].append(our_step(ours.model, ours.optimizer, ours.schedule, batch))

    ratio, slow, fast = in_pairs(upstream, own, pairs)
    print("step   loss upstream   loss ours")
    for i in range(0, total, max(1, total // 12)):
        print(f"{i + 1:4d}   {curves[0][i]:13.6f}   {curves[1][i]:9.6f}")
    apart = np.abs(np.subtract(*curves)) / curves[0]
    print(f"the curves differ by at most {apart.max():.1e} of the loss in {total} steps")
    print(
        f"whole step at desk scale: {1e3 * slow / steps:.0f} ms upstream, "
        f"{1e3 * fast / steps:.0f} ours: {ratio:.2f} times (bar 1.5)"
    )


def main():
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="of each side in a pair")
    parser.add_argument("--pairs", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_recordings(
            folder, SESSIONS, {"task": "center_out", **SIMULATION, "seconds": 120.0, "seed": 99}
        )
        from torch_brain.datasets import PerichMillerPopulation2018

        files = PerichMillerPopulation2018(
            root=folder, recording_ids=list(SESSIONS), dirname=BRAINSET
        )
        held = to_arrays([files.get_recording(name) for name in SESSIONS], PARAMS)
        windows = random_windows(held.intervals["train"], 1.0, seed=0)
        spikes = len(held.spike_times) / (held.times[-1] * len(SESSIONS))
        units = len(held.units) / len(SESSIONS)
        tokens = padded(np.array([int(spikes + 2 * units)]))
        print(
            f"{len(SESSIONS)} sessions, {len(windows.start)} windows an epoch, {tokens} tokens each"
        )
        data_path(Path(folder), held, options.pairs)
        whole_step(Path(folder), held, options.steps, options.pairs)


if __name__ == "__main__":
    main()
