"""Arrays -> batches: the same tensors as torch_brain's data path, vectorised in memory.

A batch of training is a function of (seed, step): the windows of an epoch are drawn from a
generator that is seeded with seed and epoch, and units are dropped by a generator that is seeded
with seed and step. A batch can be made without the earlier ones. Therefore a training resumes
exactly, and every process of a parallel training makes its own share. There are no worker
processes: one core makes thousands of windows per second (`python -m benchmarks.training`).
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import Arrays, Floats, Integers, Windows
from .windows import ragged, random_windows, sequential_windows, within_row

START_TOKEN, END_TOKEN = 1, 2  # torch_brain.models.poyo.TokenType; a spike is 0


class Batch(NamedTuple):
    """Tensors of one batch of windows, padded to multiples of 8 where lengths differ.

    `inputs` are the arguments of POYO's forward pass. `output` is the index of each value among the
    outputs of `Arrays`; `interval` is the index of the interval of the split in which each window
    lies.
    """

    inputs: dict[str, Any]
    values: Any
    weights: Any
    mask: Any
    evaluated: Any
    output: Any
    session: Any
    start: Any
    interval: Any
    kept: float  # fraction of the units that were kept


class Batches:
    """Batches for one model.

    Parameters
    ----------
    arrays : Arrays
    unit_rows, session_rows : ndarray
        Rows of the embeddings of the model for `arrays.units` and `arrays.sessions`.
    model : mapping
        `sequence_length`, `latent_step` and `num_latents_per_step`, as in checkpoints.lock.
    unit_dropout : mapping
        Settings of UnitDropout, as in checkpoints.lock.
    seed : int
    """

    def __init__(
        self,
        arrays: Arrays,
        *,
        unit_rows: Any,
        session_rows: Any,
        model: Mapping[str, Any],
        unit_dropout: Mapping[str, Any],
        seed: int,
    ) -> None:
        self.arrays = arrays
        self.window = float(model["sequence_length"])
        self._unit_rows = np.asarray(unit_rows, np.int64)
        self._session_rows = np.asarray(session_rows, np.int64)
        self._latents = latent_tokens(
            self.window, model["latent_step"], model["num_latents_per_step"]
        )
        self._unit_dropout, self._seed = dict(unit_dropout), seed
        self._epoch = functools.lru_cache(maxsize=1)(self.windows_of_epoch)

    @property
    def n_windows(self) -> int:
        """Number of windows in an epoch: as many as fit into each training interval."""
        intervals = self.arrays.intervals["train"]
        return int(np.floor((intervals.end - intervals.start) / self.window).sum())

    def windows_of_epoch(self, epoch: int) -> Windows:
        """Return the training windows of an epoch, in the order in which batches take them."""
        seed = np.random.SeedSequence([self._seed, epoch]).generate_state(1)[0]
        return random_windows(self.arrays.intervals["train"], self.window, seed=int(seed))

    def _windows(self, step: int, size: int) -> Windows:
        """Return the windows of all processes in a step."""
        per_epoch = self.n_windows // size
        if per_epoch:
            epoch, place = divmod(step, per_epoch)
            windows, first = self._epoch(epoch), place * size
        else:
            n = -(-size // self.n_windows)
            parts = [self.windows_of_epoch(step * n + i) for i in range(n)]
            windows, first = Windows(*map(np.concatenate, zip(*parts, strict=True))), 0
        chosen = np.arange(first, first + size)
        # By rounding there can be one window less than n_windows: then the first is taken again.
        return windows.take(chosen % len(windows.start))

    def train(self, step: int, size: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Return one batch of training, or the share of process `rank` of `world`.

        Parameters
        ----------
        step : int
            Number of the step, from 0. The last windows of an epoch are left out if they do not
            fill a batch. If an epoch has fewer windows than a batch, a batch takes several epochs,
            and the rest of the last epoch is left out.
        size : int
            Windows in the batch of all processes together.
        """
        windows = self._windows(step, size)
        kept = self._drop_units(windows, step)
        share = np.zeros(size, dtype=bool)
        share[rank::world] = True
        if kept is not None:
            kept = kept[share[self._units(windows)[0]]]
        return self.assemble(windows.take(share), kept)

    def evaluation(self, split: str, size: int, step: float) -> Iterator[Batch]:
        """Yield batches of all windows of a split, at distances of `step` seconds."""
        windows = sequential_windows(self.arrays.intervals[split], self.window, step)
        for first in range(0, len(windows.start), size):
            yield self.assemble(windows.take(slice(first, first + size)))

    def _units(self, windows: Windows) -> tuple[Integers, Integers]:
        offset = self.arrays.unit_offset
        return ragged(offset[windows.session], offset[windows.session + 1])

    def _drop_units(self, windows: Windows, step: int) -> NDArray[np.bool_] | None:
        """Return whether each unit of each window is kept, window after window; None: all are."""
        if self._unit_dropout["level"] == "off":
            return None
        rng = np.random.default_rng([self._seed, step])
        row, _ = self._units(windows)
        n_units = np.bincount(row, minlength=len(windows.start))
        n_kept = units_to_keep(n_units, rng.random(len(n_units)), self._unit_dropout)
        order = np.lexsort((rng.random(len(row)), row))  # the units of each window, shuffled
        kept = np.empty(len(row), dtype=bool)
        kept[order] = within_row(row) < n_kept[row]
        return kept

    def assemble(self, windows: Windows, kept: NDArray[np.bool_] | None = None) -> Batch:
        """Return the batch of given windows.

        Parameters
        ----------
        kept : ndarray of bool, optional
            Whether each unit of each window is kept, one window after the other.
        """
        inputs = self._tokens(windows, kept)
        index, time = self._latents
        a, n = self.arrays, len(windows.start)
        lo, hi = self._bounds(a.times, a.output_offset, windows)
        row, output = ragged(lo, hi)
        length = hi - lo
        width = padded(length)
        flat = row * width + within_row(row)
        times = (a.times[output] - windows.start[row]).astype(np.float32)
        inputs |= {
            "latent_index": np.tile(index, (n, 1)),
            "latent_timestamps": np.tile(time, (n, 1)),
            "session_index": self._session_rows[windows.session],
            "output_timestamps": scattered(times, flat, (n, width)),
        }
        return _as_tensors(
            Batch(
                inputs=inputs,
                values=scattered(a.values[output], flat, (n, width)),
                weights=scattered(a.weights[output], flat, (n, width)),
                mask=np.arange(width) < length[:, None],
                evaluated=scattered(a.evaluated[output], flat, (n, width)),
                output=scattered(output, flat, (n, width)),
                session=windows.session,
                start=windows.start,
                interval=windows.interval,
                kept=1.0 if kept is None else float(kept.mean()),
            )
        )

    def _tokens(self, windows: Windows, kept: NDArray[np.bool_] | None) -> dict[str, Any]:
        """Return the input tokens: a start and an end token for each unit, then the spikes."""
        a, n = self.arrays, len(windows.start)
        row, spike = ragged(*self._bounds(a.spike_times, a.spike_offset, windows))
        unit_row, unit = self._units(windows)
        if kept is not None:
            first = np.searchsorted(unit_row, np.arange(n)) - a.unit_offset[windows.session]
            stays = kept[a.spike_units[spike] + first[row]]
            row, spike, unit_row, unit = row[stays], spike[stays], unit_row[kept], unit[kept]
        n_units = np.bincount(unit_row, minlength=n)
        length = 2 * n_units + np.bincount(row, minlength=n)
        width = padded(length)
        begin = unit_row * width + 2 * within_row(unit_row)
        fired = row * width + 2 * n_units[row] + within_row(row)
        index = np.zeros((n, width), np.int64)
        index.flat[begin] = index.flat[begin + 1] = self._unit_rows[unit]
        index.flat[fired] = self._unit_rows[a.spike_units[spike]]
        times = np.zeros((n, width))
        times.flat[begin + 1] = self.window
        times.flat[fired] = a.spike_times[spike] - windows.start[row]
        kind = np.zeros((n, width), np.int64)
        kind.flat[begin], kind.flat[begin + 1] = START_TOKEN, END_TOKEN
        return {
            "input_unit_index": index,
            "input_timestamps": times,
            "input_token_type": kind,
            "input_mask": np.arange(width) < length[:, None],
        }

    def _bounds(self, times: Floats, offset: Integers, windows: Windows) -> tuple[Any, Any]:
        """Return first and last (exclusive) index in `times` for each window."""
        lo, hi = np.empty(len(windows.start), np.int64), np.empty(len(windows.start), np.int64)
        for session in np.unique(windows.session):
            mine = windows.session == session
            first, last = offset[session], offset[session + 1]
            lo[mine] = first + np.searchsorted(times[first:last], windows.start[mine])
            hi[mine] = first + np.searchsorted(times[first:last], windows.end[mine])
        return lo, hi


def _as_tensors(batch: Batch) -> Batch:
    import torch

    inputs = {name: torch.from_numpy(values) for name, values in batch.inputs.items()}
    rest = {
        name: torch.from_numpy(getattr(batch, name))
        for name in ("values", "weights", "mask", "evaluated", "output")
    }
    return batch._replace(inputs=inputs, **rest)


def latent_tokens(window: float, step: float, per_step: int) -> tuple[Integers, Floats]:
    """Return index and time of the latent tokens: `per_step` in the middle of every step."""
    times = np.arange(0, window, step) + step / 2
    return np.tile(np.arange(per_step), len(times)), np.repeat(times, per_step)


def padded(lengths: Integers) -> int:
    """Return the largest length, rounded up to a multiple of 8."""
    return int(-(-lengths.max(initial=0) // 8) * 8)


def scattered(values: NDArray[Any], flat: Integers, shape: tuple[int, int]) -> NDArray[Any]:
    """Return an array of zeros with `values` at the flat indices of its first two axes."""
    target = np.zeros((shape[0] * shape[1], *values.shape[1:]), values.dtype)
    target[flat] = values
    return target.reshape(*shape, *values.shape[1:])


@functools.lru_cache(maxsize=8)
def _units_quantiles(most: int, least: int, mode: int, peak: float) -> tuple[Floats, Floats]:
    """Return a grid of numbers of units and their cumulative distribution under UnitDropout.

    The documented density f rises from 1 at the minimum to the peak at the mode and falls to 1 at
    the maximum. The distribution that torch_brain 0.2.1 draws is flatter: its rejection sampler
    compares u with f / (10 v), where v is uniform although it should be the constant density of the
    proposal. A draw is therefore accepted with probability c (1 - log c), c = f / 10, which is 2.3
    times as often at a peak of 4 as at the ends. The published models were trained with this
    sampler, so these recipes use it, too.
    """
    grid = np.linspace(least, most, 4097)
    density = np.interp(grid, [least, mode, most], [1.0, peak, 1.0]) / 10
    accepted = np.where(density < 1, density * (1 - np.log(density)), 1.0)
    area = np.concatenate([[0.0], np.cumsum(accepted[1:] + accepted[:-1])])
    return grid, area / area[-1]


def units_to_keep(n_units: Integers, uniform: Floats, settings: Mapping[str, Any]) -> Integers:
    """Return how many of `n_units` are kept, given a uniform random number for each window.

    All units are kept if there are fewer than the minimum, or no more than the number drawn.
    """
    least = settings["min_units"]
    grid, cumulative = _units_quantiles(
        settings["max_units"], least, settings["mode_units"], settings["peak"]
    )
    drawn = np.floor(np.interp(uniform, cumulative, grid)).astype(np.int64)
    return np.where(n_units < least, n_units, np.minimum(drawn, n_units))


def batch_size(rule: Any, n_windows: int) -> int:
    """Return the windows in a batch: declared, or by a rule [[least n_windows, batch], ...]."""
    return rule if isinstance(rule, int) else max((n, b) for n, b in rule if n <= n_windows)[1]


def n_steps(training: Mapping[str, Any], size: int, n_windows: int) -> int:
    """Return the number of steps of a training, which is declared in steps or in epochs.

    Raises
    ------
    ValueError
        If there are no windows, or epochs are declared and an epoch has fewer windows than a batch.
    """
    if n_windows < (1 if "steps" in training else size):
        raise ValueError(
            f"an epoch has {n_windows} windows, a batch {size}: "
            "declare a smaller batch, or more data"
        )
    if "steps" in training:
        return int(training["steps"])
    return int(training["epochs"]) * (n_windows // size)
