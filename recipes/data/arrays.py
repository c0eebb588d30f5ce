"""Recordings -> plain arrays in memory, from which batches are cut.

All sessions follow each other in the same arrays; `*_offset` holds the start of each session. The
intervals of a recording that decide loss weights and evaluation are resolved here, once, for every
output timestamp. The 99 sessions of POYO-MP take less than 0.5 GB.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SPLITS = ("train", "valid", "test")


class Windows(NamedTuple):
    """Parts of recordings: index of the session, start and end (s), index of the interval."""

    session: Integers
    start: Floats
    end: Floats
    interval: Integers

    def take(self, chosen: Any) -> "Windows":
        """Return the windows with these indices."""
        return Windows(*(values[chosen] for values in self))


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrays:
    """All recordings of one training, one after the other; times are in seconds.

    Attributes
    ----------
    sessions : tuple of str
    units : tuple of str
        SESSION/NAME of every unit: the words of the vocabulary of the model.
    unit_offset, spike_offset, output_offset : ndarray of shape (n_sessions + 1,)
        Index of the first unit, spike and output of each session, and the total.
    spike_times : ndarray of shape (n_spikes,)
        Sorted within each session.
    spike_units : ndarray of shape (n_spikes,)
        Index in `units` of the unit that fired.
    times : ndarray of shape (n_outputs,)
        Timestamps of the outputs.
    values : ndarray of shape (n_outputs, dim_out)
        Targets, minus the declared mean, divided by the declared standard deviation.
    weights : ndarray of shape (n_outputs,)
        Weights of the loss.
    evaluated : ndarray of bool of shape (n_outputs,)
        Whether an output lies in an evaluation interval.
    intervals : dict of str to Windows
        Intervals of train, valid and test from which windows are drawn.
    """

    sessions: tuple[str, ...]
    units: tuple[str, ...]
    unit_offset: Integers
    spike_offset: Integers
    output_offset: Integers
    spike_times: Floats
    spike_units: Integers
    times: Floats
    values: NDArray[np.float32]
    weights: NDArray[np.float32]
    evaluated: NDArray[np.bool_]
    intervals: dict[str, Windows]


def to_arrays(recordings: Iterable[Any], params: Mapping[str, Any]) -> Arrays:
    """Return the arrays of recordings.

    Parameters
    ----------
    recordings : iterable of torch_brain.data.Data
        Each with `spikes`, `units.id`, `session.id` and the attributes that `params` names.
    params : mapping
        `target` (variable, mean, std, loss_weights, evaluate_in) and `data` (within,
        train_fraction) of an entry, as in checkpoints.lock.

    Raises
    ------
    ValueError
        If there are no recordings, or an attribute that `params` names is missing in one.
    """
    parts = [session_arrays(data, params) for data in recordings]
    if not parts:
        raise ValueError("no recordings: a training needs at least one")

    def joined(name: str) -> Any:
        return np.concatenate([part[name] for part in parts])

    units = tuple(word for part in parts for word in part["units"])
    unit_offset = _offsets(parts, "units")
    return Arrays(
        sessions=tuple(part["name"] for part in parts),
        units=units,
        unit_offset=unit_offset,
        spike_offset=_offsets(parts, "spike_times"),
        output_offset=_offsets(parts, "times"),
        spike_times=joined("spike_times"),
        spike_units=joined("spike_units")
        + np.repeat(unit_offset[:-1], [len(part["spike_times"]) for part in parts]),
        times=joined("times"),
        values=joined("values"),
        weights=joined("weights"),
        evaluated=joined("evaluated"),
        intervals={split: _intervals(parts, split) for split in SPLITS},
    )


def _offsets(parts: Sequence[Mapping[str, Any]], name: str) -> Integers:
    return np.concatenate([[0], np.cumsum([len(part[name]) for part in parts])]).astype(np.int64)


def _intervals(parts: Sequence[Mapping[str, Any]], split: str) -> Windows:
    bounds = [part[split] for part in parts]
    session = np.repeat(np.arange(len(parts)), [len(b) for b in bounds])
    start, end = np.concatenate(bounds).T
    return Windows(session, start.copy(), end.copy(), np.arange(len(session)))


def session_arrays(data: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of one recording by name; the indices of its units begin at 0."""
    name, target = str(data.session.id), params["target"]
    order = np.argsort(data.spikes.timestamps, kind="stable")
    times, values = _target(data, target["variable"])
    evaluate_in = target["evaluate_in"]
    if isinstance(evaluate_in, Mapping) and "around" not in evaluate_in:
        evaluate_in = _by_task(name, evaluate_in)
    within, fraction = params["data"]["within"], params["data"]["train_fraction"]
    return {
        "name": name,
        "units": _words(name, np.asarray(data.units.id).astype(str)),
        "spike_times": np.asarray(data.spikes.timestamps, np.float64)[order],
        "spike_units": np.asarray(data.spikes.unit_index, np.int64)[order],
        "times": times,
        "values": ((values - target["mean"]) / target["std"]).astype(np.float32),
        "weights": _weights(times, data, target.get("loss_weights", {})),
        "evaluated": inside(times, place(data, evaluate_in)),
        "train": first_part(_within(data, within, "train"), fraction),
        "valid": _within(data, within, "valid"),
        "test": _within(data, within, "test"),
    }


def _words(session: str, units: Any) -> list[str]:
    """Return SESSION/NAME of units; torch_brain's classes have added the session already."""
    return [str(u) if u.startswith(f"{session}/") else f"{session}/{u}" for u in units]


def _by_task(session: str, places: Mapping[str, Any]) -> Any:
    for task, intervals in places.items():
        if session.endswith(task):
            return intervals
    raise ValueError(
        f"session {session}: evaluate_in has intervals for {', '.join(places)} only; "
        "declare those of this session"
    )


def _attribute(data: Any, name: str) -> Any:
    try:
        return data.get_nested_attribute(name)
    except (AttributeError, KeyError) as error:
        raise ValueError(
            f"session {data.session.id} has no {name}: prepare the recording again, or declare "
            "another target"
        ) from error


def _target(data: Any, variable: str) -> tuple[Floats, Floats]:
    """Return timestamps (n,) and values (n, dim_out) of 'series.attribute, series.attribute'."""
    names = [name.strip() for name in variable.split(",")]
    series = _attribute(data, names[0].rpartition(".")[0])
    columns = [np.asarray(_attribute(data, name), np.float64) for name in names]
    times = np.asarray(series.timestamps, np.float64)
    return times, np.concatenate([c.reshape(len(times), -1) for c in columns], axis=1)


def _weights(times: Floats, data: Any, weights: Mapping[str, float]) -> NDArray[np.float32]:
    """Return the product of the weights of all intervals that contain a timestamp; 1 outside.

    Intervals that are missing in a recording are ignored: random-target sessions have no reaches.
    """
    product = np.ones(len(times), np.float32)
    for name, weight in weights.items():
        owner, _, leaf = name.rpartition(".")
        if hasattr(_attribute(data, owner) if owner else data, leaf):
            product[inside(times, place(data, name))] *= weight
    return product


def place(data: Any, where: Any) -> Floats:
    """Return intervals of a recording that a recipe names, shape (n, 2), in seconds, sorted.

    Parameters
    ----------
    where : str or mapping
        The name of an interval of the recording; or the seconds `from` and `to` `around` an event
        of each trial. Trials without the event are left out.
    """
    if isinstance(where, Mapping):
        event = np.asarray(_attribute(data, f"trials.{where['around']}_time"), np.float64)
        event = event[np.isfinite(event)]
        bounds = np.stack([event + where["from"], event + where["to"]], axis=1)
    else:
        interval = _attribute(data, where)
        bounds = np.stack([interval.start, interval.end], axis=1).astype(np.float64)
    return bounds[np.argsort(bounds[:, 0], kind="stable")]


def inside(times: Floats, bounds: Floats) -> NDArray[np.bool_]:
    """Return whether times lie in any of the intervals [start, end), which may overlap."""
    started = np.searchsorted(np.sort(bounds[:, 0]), times, side="right")
    ended = np.searchsorted(np.sort(bounds[:, 1]), times, side="right")
    return started > ended


def _within(data: Any, where: Any, split: str) -> Floats:
    """Return the intervals of a split: its domain, or the named intervals that begin in it."""
    domain = place(data, f"{split}_domain")
    if where == "train_domain":
        return domain
    bounds = place(data, "trials" if where == "trial" else where)
    return bounds[inside(bounds[:, 0], domain)]


def first_part(bounds: Floats, fraction: float) -> Floats:
    """Return the first part of intervals, by their total length; the last one is cut."""
    if fraction >= 1:
        return bounds
    length = bounds[:, 1] - bounds[:, 0]
    left = fraction * length.sum() - (np.cumsum(length) - length)  # at the start of each interval
    cut = np.minimum(bounds[:, 1], bounds[:, 0] + left)
    return np.stack([bounds[:, 0], cut], axis=1)[left > 0]
