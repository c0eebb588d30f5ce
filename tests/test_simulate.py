"""Simulated recordings: plausible, the same for the same seed, and in the files of real ones."""

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
import pytest
import ridge
from torch_brain import datasets
from torch_brain.data import Data

from recipes import _simulated_tasks as tasks
from recipes import _simulated_units as units
from recipes._arrays import arrays
from recipes._recordings import recordings
from recipes._simulate import simulate, write
from recipes._tasks import AREA2, task_of
from specdiag.lockfile import load

ROOT = Path(__file__).parents[1]
DESK = [e for e in load(ROOT / "checkpoints.lock").entries if e.scale == "desk"]
SETTINGS = {s: e.params["simulation"] for e in DESK for s in e.params["data"]["sessions"]}
CENTER_OUT = [s for s in SETTINGS if s.endswith("center_out_reaching")]
SESSION, RAT, RSG = "c_20131003_center_out_reaching", "of_24365_2", "haydn_dmfc_rsg_train"
(BUMP,) = AREA2.sessions
SHORT = {"task": "center_out", "seconds": 60.0, "units": [5, 8], "seed": 99}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All recordings that the desk entries declare."""
    folder = tmp_path_factory.mktemp("simulated")
    for session, settings in SETTINGS.items():
        write(folder, [session], settings)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return {s: Data.load(folder / task_of(s).brainset / f"{s}.h5", lazy=False) for s in SETTINGS}


def bounds(interval):
    return np.stack([interval.start, interval.end], axis=1)


def contents(path):
    """Return all arrays and attributes of a file."""
    found = {}

    def keep(name, node):
        found[name] = node[()] if isinstance(node, h5py.Dataset) else None
        found.update({(name, key): value for key, value in node.attrs.items()})

    with h5py.File(path) as file:
        file.visititems(keep)
    return found


@pytest.mark.parametrize("entry", DESK, ids=lambda e: e.name)
def test_every_desk_entry_finds_its_recordings_usable(entry, folder):
    found = recordings(entry.params, folder)
    assert list(found) == entry.params["data"]["sessions"]
    cut = arrays(found.values(), entry.params)
    assert cut.values.shape[1] == entry.params["model"]["dim_out"]
    assert np.isfinite(cut.values[cut.evaluated]).all()
    for split in ("train", "valid", "test"):
        lengths = cut.intervals[split].end - cut.intervals[split].start
        assert lengths.max() >= entry.params["data"]["window"]


@pytest.mark.parametrize(
    ("session", "dataset"),
    [
        (SESSION, datasets.PerichMillerPopulation2018),
        (RAT, datasets.VollanMoserAlternating2025),
        (BUMP, datasets.PeiPandarinathNLB2021),
        (RSG, datasets.PeiPandarinathNLB2021),
    ],
)
def test_the_files_open_through_the_classes_of_torch_brain(session, dataset, folder):
    opened = dataset(root=folder, recording_ids=[session], dirname=task_of(session).brainset)
    data = opened.get_recording(session)
    assert data.units.id[0].startswith(f"{session}/")
    for split in ("train", "valid", "test"):
        (start, *_), (end, *_) = bounds(opened.get_sampling_intervals(split)[session]).T
        index = datasets.DatasetIndex(session, start, end)
        assert len(opened[index].spikes.timestamps) > 0


@pytest.mark.parametrize("session", [SESSION, BUMP, RSG, RAT])
def test_the_same_seed_gives_the_same_arrays(session, folder, tmp_path):
    (path,) = write(tmp_path, [session], SETTINGS[session])
    one, other = contents(path), contents(folder / path.relative_to(tmp_path))
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=str(name))


def test_sessions_of_one_animal_differ_and_share_some_of_its_units(found):
    for a, b in combinations([s for s in CENTER_OUT if s[0] == "c"], 2):
        assert len(found[a].spikes) != len(found[b].spikes)
        seen = [{u.split("/")[1] for u in found[s].units.id} for s in (a, b)]
        assert 0 < len(seen[0] & seen[1]) < min(map(len, seen))


def test_another_seed_is_another_animal():
    one, other = (simulate(SESSION, {**SHORT, "seed": seed}) for seed in (99, 100))
    assert len(one.spikes) != len(other.spikes)
    assert not np.array_equal(one.cursor.pos, other.cursor.pos)


@pytest.mark.parametrize("session", SETTINGS)
def test_units_fire_as_cortical_units_do(session, found):
    data, low = found[session], SETTINGS[session]["units"][0]
    seconds = SETTINGS[session]["seconds"]
    rates = np.bincount(data.spikes.unit_index, minlength=len(data.units)) / seconds
    assert low <= len(rates) <= SETTINGS[session]["units"][1]
    assert rates.min() > 0.05
    assert rates.max() < 80
    assert 1 < np.median(rates) < 15
    np.testing.assert_array_equal(np.diff(data.spikes.timestamps) >= 0, True)


@pytest.mark.parametrize("session", SETTINGS)
def test_the_splits_share_no_time_and_stay_in_the_recording(session, found):
    data = found[session]
    splits = [bounds(getattr(data, f"{part}_domain")) for part in ("train", "valid", "test")]
    whole = np.concatenate(splits)
    whole = whole[np.argsort(whole[:, 0])]
    assert (whole[1:, 0] >= whole[:-1, 1]).all()
    assert whole[0, 0] >= data.domain.start[0]
    assert whole[-1, 1] <= data.domain.end[-1]


@pytest.mark.parametrize("session", [*CENTER_OUT, BUMP])
def test_a_ridge_decoder_with_three_lags_reads_velocity_well_but_not_perfectly(session, found):
    assert 0.5 < decoded(found[session]) < 0.98


def decoded(data, width=0.05):
    """Return test R² of velocity in bins of 50 ms, while the hand moves in an evaluation interval."""
    bump = hasattr(data, "hand")
    series = data.hand if bump else data.cursor
    where = data.nlb_eval_intervals if bump else data.movement_phases.reach_period
    times = np.arange(series.timestamps[0] + 3 * width, series.timestamps[-1] - width, width)
    velocity = np.stack([np.interp(times, series.timestamps, v) for v in series.vel.T], axis=1)
    lag = -2 * width if bump else 0  # these units fire after the movement
    x = ridge.counts(data.spikes, len(data.units), times - lag, width, 3)
    train, test, moves = (inside(times, i) for i in (data.train_domain, data.test_domain, where))
    return ridge.r2(x, velocity, train, test & moves)


def inside(times, interval):
    return ((times[:, None] >= interval.start) & (times[:, None] < interval.end)).any(axis=1)


def test_reaches_go_from_the_centre_to_eight_targets_in_time(found):
    data = found[SESSION]
    trials = data.trials.select_by_mask(data.trials.is_valid)
    at = np.searchsorted(data.cursor.timestamps, trials.stop_time) - 1
    target = trials.target_id[:, None] * np.pi / 4
    goal = 8 * np.concatenate([np.cos(target), np.sin(target)], axis=1)
    calm = ~inside(trials.stop_time, data.cursor_outlier_segments.dilate(0.5))
    assert np.hypot(*(data.cursor.pos[at] - goal).T)[calm].max() < 2.5
    assert set(trials.target_id) <= set(range(8))
    reach = inside(data.cursor.timestamps, data.movement_phases.reach_period)
    calm = ~inside(data.cursor.timestamps, data.cursor_outlier_segments.dilate(0.05))
    speed = np.hypot(*data.cursor.vel.T)
    assert 20 < speed[reach & calm].max() < 60
    hold = inside(data.cursor.timestamps, data.movement_phases.hold_period)
    assert np.median(speed[hold]) < 3


def test_velocity_is_the_derivative_of_position(found):
    cursor = found[SESSION].cursor
    walked = np.cumsum(cursor.vel, axis=0) * 0.01
    off = (walked - walked[0]) - (cursor.pos - cursor.pos[0])
    assert np.abs(off).max() < 1.0


def test_there_are_invalid_trials_and_outliers_and_phases_leave_outliers_out(found):
    recorded = [found[s] for s in CENTER_OUT]
    assert sum((~data.trials.is_valid).sum() for data in recorded) > len(recorded)
    outliers = sum(len(data.cursor_outlier_segments) for data in recorded)
    assert outliers > len(recorded)
    for data in recorded:
        for name in ("hold", "reach", "return", "random"):
            phase = getattr(data.movement_phases, f"{name}_period")
            assert len(phase & data.cursor_outlier_segments) == 0
        fast = np.hypot(*data.cursor.acc.T) > 1500
        assert inside(data.cursor.timestamps[fast], data.cursor_outlier_segments.dilate(0.02)).all()


def test_a_rate_is_the_cosine_of_direction_and_leads_or_follows_the_movement(rng):
    tuning = units.cosine_units(1, rng, 40, 80)
    velocity = 20 * tasks.smooth_noise(rng, 20000, 8, 2)
    for lead, sign in ((True, 1), (False, -1)):
        rates = units.cosine_rates(rng, tuning, velocity, lead=lead)
        shift = sign * np.round(tuning["lag"] / tasks.BIN).astype(int)
        for unit in np.flatnonzero(tuning["depth"] > 5):
            felt = np.roll(velocity, -shift[unit], axis=0)[100:-100]
            design = np.column_stack([np.ones(len(felt)), felt, np.hypot(*felt.T)])
            fit = np.linalg.lstsq(design, rates[100:-100, unit], rcond=None)[0]
            direction = np.angle(
                np.exp(1j * (np.arctan2(fit[2], fit[1]) - tuning["direction"][unit]))
            )
            assert abs(direction) < 0.1
            assert np.hypot(*fit[1:3]) * 20 == pytest.approx(tuning["depth"][unit], rel=0.15)


def test_spikes_are_poisson(rng):
    times, unit = units.poisson(rng, np.tile([5.0, 40.0, 200.0, -3.0], (60_000, 1)))
    for i, rate in enumerate([5.0, 40.0, units.CEILING, 0.0]):
        counts = np.bincount(times[unit == i].astype(int), minlength=600)
        assert counts.mean() == pytest.approx(rate, abs=5 * np.sqrt(rate / 600))
        if rate:
            assert counts.var() / counts.mean() == pytest.approx(1, abs=0.3)
            assert np.mean(times[unit == i] % 0.01) == pytest.approx(0.005, abs=3e-4)


def test_half_of_the_bump_trials_are_passive_and_have_no_onset(found):
    data = found[BUMP]
    passive = data.trials.ctr_hold_bump
    assert 0.25 < passive.mean() < 0.75
    np.testing.assert_array_equal(np.isnan(data.trials.move_onset_time), passive)
    np.testing.assert_array_equal(np.isnan(data.trials.bump_time), ~passive)
    used = data.trials.split_indicator != "none"
    assert len(data.nlb_eval_intervals) == (~passive & used).sum()
    speed = np.hypot(*data.hand.vel.T)
    for onset in data.trials.move_onset_time[~passive]:
        before, after = (int(1000 * (onset + t)) for t in (-0.05, 0.3))
        assert speed[after] > speed[before] + 5
    for bump in data.trials.bump_time[passive]:
        assert speed[int(1000 * (bump + 0.065))] > 10


def test_intervals_follow_their_sample_with_scalar_noise(rng):
    trials = tasks.intervals(rng, 3000.0)
    timed = np.isfinite(trials["tp"])
    assert 0.005 < 1 - timed.mean() < 0.1
    np.testing.assert_array_equal(np.isnan(trials["go_time"]), ~timed)
    for short, slowest in ((1, 800.0), (0, 1200.0)):
        prior = timed & (trials["is_short"] == short)
        ts, tp = trials["ts"][prior], trials["tp"][prior]
        assert 0.5 < np.polyfit(ts, tp, 1)[0] < 0.9  # drawn to the mean
        assert tp[ts == slowest].std() > tp[ts == ts.min()].std()
    passed = 1000 * (trials["go_time"] - trials["set_time"])
    np.testing.assert_allclose(passed[timed], trials["tp"][timed])


def test_ramps_are_as_steep_as_the_interval_is_short(rng):
    trials = tasks.intervals(rng, 600.0)
    times = tasks.grid(600.0)
    rates = units.timing_rates(rng, trials, times, 60)
    timed = np.isfinite(trials["tp"])
    set_, go = trials["set_time"][timed] + 0.02, trials["go_time"][timed] - 0.02
    rise = rates[np.searchsorted(times, go)] - rates[np.searchsorted(times, set_)]
    slope = rise / (go - set_)[:, None]
    steeper = [abs(np.corrcoef(s, 1 / (go - set_))[0, 1]) for s in slope.T]
    assert 0.3 < np.mean(np.array(steeper) > 0.8) < 0.8  # ramps, and bumps near Set or Go


def test_trials_without_go_are_in_no_split_and_targets_are_those_of_the_trials():
    settings = {**SHORT, "task": "interval_timing", "seconds": 600.0}
    data = simulate(RSG, settings)
    aborted = data.trials.start[np.isnan(data.trials.go_time)]
    assert len(aborted) > 0
    for split in ("train", "valid", "test"):
        trials = getattr(data, f"{split}_domain")
        assert not np.isin(aborted, trials.start).any()
        for set_, go, tp in zip(trials.set_time, trials.go_time, trials.tp, strict=True):
            at = inside(data.time_to_go.timestamps, slots(set_, go))
            np.testing.assert_allclose(data.produced_interval.value[at, 0], tp, rtol=1e-6)
            left = 1000 * (go - data.time_to_go.timestamps[at])
            np.testing.assert_allclose(data.time_to_go.value[at, 0], left, atol=1e-3)


def slots(start, end):
    from torch_brain.data import Interval

    return Interval(float(start), float(end))


def test_the_rat_stays_in_its_arena_and_rests_outside_of_the_domain(found):
    data = found[RAT]
    samples = data.samples
    assert np.abs([samples.x, samples.y]).max() <= 0.75
    assert samples.speed.min() > 0.05
    assert len(data.domain) > 8
    assert inside(samples.timestamps, data.domain).all()
    visited = np.histogram2d(samples.x, samples.y, bins=4, range=[[-0.75, 0.75]] * 2)[0]
    assert (visited > 0).mean() > 0.8


def test_grid_and_place_units_fire_where_they_should(rng):
    path = tasks.foraging(rng, 1200.0)
    tuning = units.spatial_units(rng, 60)
    rates = units.spatial_rates(rng, tuning, path)
    for unit in np.flatnonzero(tuning["kind"] == 1):
        far = np.hypot(path["x"] - tuning["centre"][unit, 0], path["y"] - tuning["centre"][unit, 1])
        near, away = (rates[m, unit].mean() for m in (far < 0.1, far > 0.5))
        assert near > 3 * away
    spaced = np.flatnonzero(tuning["kind"] == 0)
    for (
        unit
    ) in spaced:  # as high one spacing away, along the axes of the hexagons, as at the centre
        angle = tuning["tilt"][unit] + np.pi / 6
        step = tuning["spacing"][unit] * np.array([np.cos(angle), np.sin(angle)])
        x, y = (np.array([c, c + s]) for c, s in zip(tuning["centre"][unit], step, strict=True))
        at = {"x": x, "y": y, "hd": np.zeros(2), "theta": np.zeros(2)}
        here, there = units.spatial_rates(rng, tuning, at)[:, unit]
        assert there == pytest.approx(here, rel=0.02)


def test_what_is_there_is_kept_and_other_settings_replace_it(tmp_path):
    (path,) = write(tmp_path, [SESSION], SHORT)
    before = path.stat()
    assert write(tmp_path, [SESSION], SHORT) == [path]
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    write(tmp_path, [SESSION], {**SHORT, "seed": 1})
    assert path.stat().st_ino != before.st_ino
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_recording_that_was_not_simulated_is_never_replaced(tmp_path):
    path = tmp_path / "perich_miller_population_2018" / f"{SESSION}.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["precious"] = 1
    message = f"{path}: not a simulated recording; move it away, or name another folder"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write(tmp_path, [SESSION], SHORT)
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write(tmp_path, [SESSION], SHORT)
    assert path.read_bytes() == b"torn"


@pytest.mark.parametrize(
    ("session", "changed", "message"),
    [
        (
            "c_2013_center_out_reaching",
            {},
            "c_2013_center_out_reaching: no recording has such a name; expected "
            "c_20131003_center_out_reaching, of_24365_2, han_area2_bump_train, "
            "haydn_dmfc_rsg_train or the like",
        ),
        (
            "c_20131009_random_target_reaching",
            {},
            "c_20131009_random_target_reaching: sessions of this kind are not simulated; name a "
            "center_out_reaching or an open-field one",
        ),
        (
            "lt_26648_1",
            {},
            "lt_26648_1: sessions of this kind are not simulated; name a center_out_reaching or an "
            "open-field one",
        ),
        (
            SESSION,
            {"task": "open_field"},
            f"{SESSION}: simulation.task is 'open_field'; sessions of perich_miller_population_2018 "
            "are simulated as 'center_out'",
        ),
        (
            SESSION,
            {"speed": 1},
            f"{SESSION}: simulation has seconds, seed, speed, task, units; expected seconds, seed, "
            "task and units",
        ),
        (
            SESSION,
            {"units": [9, 3]},
            f"{SESSION}: simulation.units is [9, 3]; expected from and to, such as [30, 60]",
        ),
        (
            SESSION,
            {"seconds": 20.0},
            f"{SESSION}: simulation.seconds is 20.0; give at least 60, for training, validation and "
            "test",
        ),
    ],
)
def test_settings_that_cannot_be_simulated_are_refused(session, changed, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        simulate(session, {**SHORT, **changed})


def command(*arguments):
    line = [sys.executable, "-m", "specdiag.cli", "simulate", *map(str, arguments)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_command_writes_named_recordings_and_prints_a_line_each(tmp_path):
    names = ["--session", RAT, "--session", RSG]
    lines = [
        f"{tmp_path}/vollan_moser_alternating_2025/{RAT}.h5",
        f"{tmp_path}/dmfc_rsg/{RSG}.h5",
    ]
    assert command(tmp_path, *names) == (0, "\n".join(lines) + "\n", "")
    assert all(Path(line).is_file() for line in lines)


def test_the_command_refuses_a_session_that_no_entry_declares(tmp_path):
    status, out, err = command(tmp_path, "--session", "c_1")
    assert (status, out) == (2, "")
    expected = f"Error: no desk entry has the session c_1; there are {', '.join(sorted(SETTINGS))}"
    assert err.splitlines()[-1] == expected
    assert list(tmp_path.iterdir()) == []
