"""Real recordings beside the checkout -> files as torch_brain's pipelines write them.

The recordings of monkeys are binned extracts. The time of a spike within its bin is unknown and is
drawn uniformly; bins without movement are missing. Each trial therefore gets a separate slot, at
least as long as a window, and its movement begins `LEAD` after the start of the slot. There is a
gap between slots, so no window contains parts of two trials. Around a movement there are neither
spikes nor samples of the hand, unlike in a real recording: these files can show whether a decoder
decodes movement, but not what it does during rest.
"""

from pathlib import Path

import h5py
import numpy as np
import pytest
from torch_brain.data import (
    ArrayDict,
    BrainsetDescription,
    Data,
    Interval,
    IrregularTimeSeries,
    SessionDescription,
    SubjectDescription,
)

from recipes._tasks import task_of
from support.paths import SHARED

FOLDER = SHARED / "data"
MONKEYS = {  # file: test R² of a ridge decoder with three lags, from its README
    "c_20131003_center_out_reaching_50ms": 0.75,
    "c_20131003_center_out_reaching_100ms": 0.69,
    "m_20140303_center_out_reaching_100ms": 0.85,
}
RAT = "mmaze_0_1"
LEAD, SLOT, APART = 0.05, 1.1, 1.0  # s: before a movement, smallest slot, between slots
PIXELS = 300.0  # per metre, approximately: the scale is unknown
NOISE = 19  # the unit of the rat with most spikes, which are of several cells and noise


def extract(name):
    """Return the arrays of a file beside the checkout; skip the test if it is missing."""
    path = FOLDER / f"{name}.npz"
    if not path.is_file():
        pytest.skip("no ../shared/data beside the checkout")
    with np.load(path) as file:
        return dict(file)


def write(folder, name, seed=0):
    """Write an extract to FOLDER/BRAINSET/SESSION.h5, and return its session."""
    session = name.rpartition("_")[0] if name in MONKEYS else name
    data = monkey(name, session, seed) if name in MONKEYS else rat(session)
    path = Path(folder) / task_of(session).brainset / f"{session}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data.to_hdf5(file)
    return session


def monkey(name, session, seed=0):
    """Return a centre-out session in the layout of perich_miller_population_2018.

    70 % of the trials are for training, 10 % for validation, and 20 % for the test.
    """
    bins, width = extract(name), extract(name)["bin_width_s"].item()
    _, trial = np.unique(bins["trial"], return_inverse=True)
    n = trial.max() + 1
    length = np.array([bins["bin_in_trial"][trial == i].max() + 1 for i in range(n)]) * width
    slot = np.maximum(length + 2 * LEAD, SLOT)
    start = np.concatenate([[0.0], np.cumsum(slot + APART)[:-1]])
    first = start[trial] + LEAD + bins["bin_in_trial"] * width
    row, unit = np.nonzero(bins["spike_counts"])
    times = bins["spike_counts"][row, unit]
    row, unit = np.repeat(row, times), np.repeat(unit, times)
    times = first[row] + np.random.default_rng(seed).uniform(0, width, len(row))
    order = np.argsort(times)
    slots = Interval(start, start + slot, is_valid=np.full(n, True))
    moves = Interval(start + LEAD, start + LEAD + length)
    shuffled = np.random.default_rng(0).permutation(n)
    parts = np.split(shuffled, [round(0.7 * n), round(0.8 * n)])
    train, valid, test = (slots.select_by_mask(np.isin(np.arange(n), part)) for part in parts)
    nothing = Interval(np.zeros(0), np.zeros(0))
    return Data(
        **_described(session, session[0]),
        spikes=IrregularTimeSeries(times[order], unit_index=unit[order], domain=slots),
        units=_units(bins["spike_counts"].shape[1]),
        trials=slots,
        movement_phases=Data(
            hold_period=nothing,
            reach_period=moves,
            return_period=nothing,
            invalid=nothing,
            random_period=slots.difference(moves),
            domain=slots,
        ),
        cursor=IrregularTimeSeries(
            first + width / 2,  # the middle of a bin
            pos=bins["hand_position"].astype(float),
            vel=bins["hand_velocity"].astype(float),
            domain=slots,
        ),
        cursor_outlier_segments=nothing,
        domain=slots,
        train_domain=train,
        valid_domain=valid,
        test_domain=test,
    )


def rat(session):
    """Return the session in the W-maze in the layout of vollan_moser_alternating_2025.

    As in that brainset, position is smoothed over 0.25 s and speed over 1 s, samples are at 100 Hz,
    and those below 5 cm/s are left out.
    """
    raw = extract("rat_wmaze_hippocampus")
    tracked, pixels = raw["position_time_s"], raw["position_px"].astype(float)
    times = np.arange(tracked[0], tracked[-1], 0.01)
    place = np.stack([np.interp(times, tracked, p) for p in pixels.T], axis=1)
    place = (place - (pixels.max(0) + pixels.min(0)) / 2) / PIXELS
    place = np.stack([np.convolve(p, np.full(25, 1 / 25), mode="same") for p in place.T], axis=1)
    speed = np.hypot(*np.gradient(place, 0.01, axis=0).T)
    speed = np.convolve(speed, np.full(100, 1 / 100), mode="same")
    moves = speed > 0.05
    moves[[*range(100), *range(-100, 0)]] = False  # smoothing is invalid at the ends
    edges = np.flatnonzero(np.diff(moves.astype(int)))
    domain = Interval(times[edges[::2] + 1], times[edges[1::2]] + 0.01)
    kept = raw["spike_unit"] != NOISE
    _, unit = np.unique(raw["spike_unit"][kept], return_inverse=True)
    train, valid, test = domain.split([0.7, 0.1, 0.2], shuffle=True, random_seed=42)
    x, y = place[moves].T.astype(np.float32)
    return Data(
        **_described(session, "rat"),
        spikes=IrregularTimeSeries(raw["spike_time_s"][kept], unit_index=unit, domain=domain),
        units=_units(unit.max() + 1),
        samples=IrregularTimeSeries(
            times[moves], x=x, y=y, speed=speed[moves].astype(np.float32), domain=domain
        ),
        domain=domain,
        train_domain=train,
        valid_domain=valid,
        test_domain=test,
    )


def _units(n):
    return ArrayDict(id=np.array([f"unit_{i}" for i in range(n)]), unit_number=np.arange(n))


def _described(session, subject):
    task = task_of(session)
    return {
        "brainset": BrainsetDescription(
            id=task.brainset,
            origin_version=task.version,  # the version that the lock declares
            derived_version="extract",
            source="published extract",
            description="A published extract of a recording in another layout",
        ),
        "subject": SubjectDescription(id=subject),
        "session": SessionDescription(id=session, task="REACHING"),
    }
