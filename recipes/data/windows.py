"""Intervals -> windows: those of torch_brain's samplers, all windows of an epoch at once."""

import numpy as np

from .arrays import Integers, Windows


def ragged(first: Integers, last: Integers) -> tuple[Integers, Integers]:
    """Return the row and the index of every element of ragged ranges.

    Row i has the indices first[i] to last[i] - 1.
    """
    count = last - first
    row = np.repeat(np.arange(len(count)), count)
    shift = first - (np.cumsum(count) - count)
    return row, np.arange(len(row)) + shift[row]


def within_row(row: Integers) -> Integers:
    """Return the place of each element in its row; `row` is sorted."""
    return np.arange(len(row)) - np.searchsorted(row, row)


def random_windows(intervals: Windows, window: float, *, seed: int) -> Windows:
    """Return an epoch of random windows: those of torch_brain's RandomFixedWindowSampler.

    Each interval is tiled from a random offset that is smaller than a window. If the rest has room
    for one more window, this window lies at the end or at the beginning of the interval. Then all
    windows are shuffled.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    long = intervals.take(intervals.end - intervals.start >= window)
    left = torch.rand(len(long.start), generator=generator).double().numpy() * window
    first = long.start + left
    room = np.maximum(np.ceil((long.end - first) / window), 0).astype(np.int64)
    row, place = ragged(np.zeros_like(room), room)
    start = first[row] + place * window
    fits = start + window <= long.end[row]
    row, start = row[fits], start[fits]
    count = np.bincount(row, minlength=len(left))
    last = np.full(len(left), -np.inf)
    last[row] = start + window  # the last assignment of each row counts
    right = long.end - np.where(count > 0, last, first)
    # One more window where there is room: after the tiles, or before them.
    more = np.flatnonzero(right + left >= window)
    behind = right[more] > left[more]
    extra = np.where(behind, long.end[more] - window, long.start[more])
    extra_end = np.where(behind, long.end[more], long.start[more] + window)
    row, start = np.concatenate([row, more]), np.concatenate([start, extra])
    end = np.concatenate([start[: len(start) - len(more)] + window, extra_end])
    order = np.argsort(row, kind="stable")
    order = order[torch.randperm(len(order), generator=generator).numpy()]
    return Windows(long.session[row[order]], start[order], end[order], long.interval[row[order]])


def sequential_windows(intervals: Windows, window: float, step: float) -> Windows:
    """Return windows that cover intervals at distances of `step`; the last one ends at the end.

    They are those of torch_brain's SequentialFixedWindowSampler. Intervals shorter than a window
    are left out.
    """
    long = intervals.take(intervals.end - intervals.start >= window)
    room = np.ceil((long.end - long.start) / step).astype(np.int64)
    row, place = ragged(np.zeros_like(room), room)
    start = long.start[row] + place * step
    fits = start + window <= long.end[row]
    row, start = row[fits], start[fits]
    last = np.full(len(long.start), -np.inf)
    last[row] = start + window
    more = np.flatnonzero(last < long.end)
    row = np.concatenate([row, more])
    end = np.concatenate([start + window, long.end[more]])
    start = np.concatenate([start, long.end[more] - window])
    order = np.argsort(row, kind="stable")
    row = row[order]
    return Windows(long.session[row], start[order], end[order], long.interval[row])
