"""Small NWB files in the layout of the benchmark's training files (DANDI 000127 and 000130).

Each is written from a dict of arrays, `truth`. A test can change it before: a column or a series
that is deleted from it is not written.
"""

import datetime as dt

import numpy as np

ELECTRODES = 16  # instead of 96, which take long to write
TIME = dt.datetime(2017, 12, 7, 17, 6, 9, tzinfo=dt.UTC)


def _splits(rng, n_trials):
    return rng.permutation(np.resize(["train"] * 5 + ["val"] * 2 + ["none"], n_trials)).astype(str)


def _spikes(rng, n_units, seconds):
    spikes = [np.sort(rng.uniform(0.5, seconds, rng.poisson(40))) for _ in range(n_units)]
    spikes[1] = spikes[1][:0]  # a unit can have no spikes
    spikes[3][5] = spikes[2][7]  # two units can fire at the same time
    spikes[3].sort()
    return spikes


def area2_bump(rng, n_trials=40, n_units=6):
    """Return reaches and bumps: two segments, and a gap in which the hand is NaN."""
    start = 1.0 + 1.5 * np.arange(n_trials) + rng.uniform(0, 0.1, n_trials)
    start[n_trials // 2 :] += 5.0
    stop = start + rng.uniform(1.1, 1.3, n_trials)
    split = _splits(rng, n_trials)
    passive = rng.uniform(size=n_trials) < 0.4
    direction = 45.0 * rng.integers(0, 8, n_trials)
    onset = np.where(passive | (split == "none"), np.nan, start + 0.3)
    times = 0.25 + np.arange(0, stop[-1] + 1, 1e-3)
    hand = np.cumsum(rng.normal(size=(2, len(times), 2)), axis=1)
    half = n_trials // 2
    hand[:, (times > stop[half - 1] + 0.1) & (times < start[half] - 0.1)] = np.nan
    return {
        "subject": "Han",
        "spike_times": _spikes(rng, n_units, stop[-1]),
        "electrodes": rng.permutation(ELECTRODES)[:n_units],
        "trials": {
            "start_time": start,
            "stop_time": stop,
            "result": np.where(split == "none", "F", "R"),
            "ctr_hold": np.full(n_trials, 0.5),
            "ctr_hold_bump": passive,
            "bump_dir": np.where(passive, direction, np.nan),
            "bump_time": np.where(passive, start + 0.2, np.nan),
            "target_on_time": start + 0.1,
            "target_dir": direction,
            "go_cue_time": start + 0.25,
            "move_onset_time": onset,
            "cond_dir": direction,
            "split": split,
        },
        "behavior": {
            "hand_pos": {"data": hand[0], "rate": 1000.0, "starting_time": 0.25},
            "hand_vel": {"data": hand[1], "rate": 1000.0, "starting_time": 0.25},
        },
    }


def dmfc_rsg(rng, n_trials=40, n_units=6):
    """Return Ready-Set-Go: units without electrodes, no behaviour, trials without Set or Go."""
    start = 2.0 + 3.0 * np.arange(n_trials) + rng.uniform(0, 0.1, n_trials)
    short = rng.uniform(size=n_trials) < 0.5
    ts = np.where(short, rng.uniform(480, 800, n_trials), rng.uniform(800, 1200, n_trials))
    tp = ts * rng.normal(1, 0.05, n_trials)
    ready = start + 0.3
    set_time = ready + ts / 1000
    go = set_time + tp / 1000
    set_time[[4, 9]] = go[[4, 9, 13]] = tp[[4, 9, 13]] = np.nan
    return {
        "subject": "Haydn",
        "spike_times": _spikes(rng, n_units, start[-1]),
        "trials": {
            "start_time": start,
            "stop_time": start + 2.9,
            "is_eye": rng.uniform(size=n_trials) < 0.5,
            "is_short": short,
            "theta": 180.0 * rng.integers(0, 2, n_trials),
            "ts": ts,
            "tp": tp,
            "ready_time": ready,
            "set_time": set_time,
            "go_time": go,
            "split": _splits(rng, n_trials),
        },
    }


def write(path, truth):
    """Write the contents of `truth` to an NWB file."""
    import pynwb

    nwbfile = pynwb.NWBFile("a session", "an identifier", TIME)
    if truth["subject"]:
        nwbfile.subject = pynwb.file.Subject(
            subject_id=truth["subject"], species="Macaca mulatta", sex="M", age="P8Y"
        )
    _add_units(nwbfile, truth["spike_times"], truth.get("electrodes"))
    trials = truth["trials"]
    for name in trials.keys() - {"start_time", "stop_time"}:
        nwbfile.add_trial_column(name, f"the {name}")
    for row in zip(*trials.values(), strict=True):
        nwbfile.add_trial(**dict(zip(trials, (value.item() for value in row), strict=True)))
    if "behavior" in truth:
        module = nwbfile.create_processing_module("behavior", "processed behaviour")
        for name, series in truth["behavior"].items():
            module.add(pynwb.TimeSeries(name=name, unit="cm", **series))
    path.parent.mkdir(parents=True, exist_ok=True)
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwbfile)


def _add_units(nwbfile, spike_times, electrodes):
    device = nwbfile.create_device("electrode_array")
    group = nwbfile.create_electrode_group("electrode_group", "an array", "cortex", device)
    for _ in range(ELECTRODES):
        nwbfile.add_electrode(group=group, location="cortex")
    if not spike_times:
        return
    nwbfile.add_unit_column("heldout", "whether the leaderboard holds it out")
    ends = [times[-1] for times in spike_times if len(times)]
    for i, times in enumerate(spike_times):
        where = {} if electrodes is None else {"electrodes": np.atleast_1d(electrodes[i]).tolist()}
        observed = [[0.0, max(ends, default=1.0) + 1.0]]
        nwbfile.add_unit(spike_times=times, obs_intervals=observed, heldout=i % 3 == 0, **where)
