"""The behaviour and the units of simulated animals are plausible."""

import numpy as np
import pytest
from torch_brain.data import Interval

from benchmarks import simulation
from benchmarks._pages import DOCS, table_of
from benchmarks.ridge import decoded, inside
from recipes.simulation import behaviour, firing
from recipes.simulation.recordings import simulate
from support.desk import BUMP, CENTER_OUT, RAT, RSG, SESSION, SETTINGS, SHORT


@pytest.mark.parametrize("session", SETTINGS)
def test_units_fire_as_cortical_units_do(session, simulated_data):
    data, low = simulated_data[session], SETTINGS[session]["units"][0]
    seconds = SETTINGS[session]["seconds"]
    rates = np.bincount(data.spikes.unit_index, minlength=len(data.units)) / seconds
    assert low <= len(rates) <= SETTINGS[session]["units"][1]
    assert rates.min() > 0.05
    assert rates.max() < 80
    assert 1 < np.median(rates) < 15
    np.testing.assert_array_equal(np.diff(data.spikes.timestamps) >= 0, True)


@pytest.mark.parametrize("session", [*CENTER_OUT, BUMP])
def test_a_ridge_decoder_with_three_lags_decodes_velocity_well_but_not_perfectly(
    session, simulated_data
):
    assert 0.5 < decoded(simulated_data[session]) < 0.98


def test_reaches_go_from_the_centre_to_eight_targets_within_their_trial(simulated_data):
    data = simulated_data[SESSION]
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


def test_velocity_is_the_derivative_of_position(simulated_data):
    cursor = simulated_data[SESSION].cursor
    walked = np.cumsum(cursor.vel, axis=0) * 0.01
    off = (walked - walked[0]) - (cursor.pos - cursor.pos[0])
    assert np.abs(off).max() < 1.0


def test_there_are_invalid_trials_and_outliers_and_no_phase_contains_outliers(simulated_data):
    recorded = [simulated_data[s] for s in CENTER_OUT]
    assert sum((~data.trials.is_valid).sum() for data in recorded) > len(recorded)
    outliers = sum(len(data.cursor_outlier_segments) for data in recorded)
    assert outliers > len(recorded)
    for data in recorded:
        for name in ("hold", "reach", "return", "random"):
            phase = getattr(data.movement_phases, f"{name}_period")
            assert len(phase & data.cursor_outlier_segments) == 0
        fast = np.hypot(*data.cursor.acc.T) > 1500
        assert inside(data.cursor.timestamps[fast], data.cursor_outlier_segments.dilate(0.02)).all()


def test_rates_have_cosine_tuning_and_lead_or_follow_the_movement(rng):
    tuning = firing.cosine_units(1, rng, 40, 80)
    velocity = 20 * behaviour.smooth_noise(rng, 20000, 8, 2)
    for lead, sign in ((True, 1), (False, -1)):
        rates = firing.cosine_rates(rng, tuning, velocity, lead=lead)
        shift = sign * np.round(tuning["lag"] / behaviour.BIN).astype(int)
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
    times, unit = firing.poisson(rng, np.tile([5.0, 40.0, 200.0, -3.0], (60_000, 1)))
    for i, rate in enumerate([5.0, 40.0, firing.CEILING, 0.0]):
        counts = np.bincount(times[unit == i].astype(int), minlength=600)
        assert counts.mean() == pytest.approx(rate, abs=5 * np.sqrt(rate / 600))
        if rate:
            assert counts.var() / counts.mean() == pytest.approx(1, abs=0.3)
            assert np.mean(times[unit == i] % 0.01) == pytest.approx(0.005, abs=3e-4)


def test_half_of_the_trials_with_bumps_are_passive_and_have_no_onset(simulated_data):
    data = simulated_data[BUMP]
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


def test_produced_intervals_follow_the_measured_ones_with_scalar_noise(rng):
    trials = behaviour.intervals(rng, 3000.0)
    timed = np.isfinite(trials["tp"])
    assert 0.005 < 1 - timed.mean() < 0.1
    np.testing.assert_array_equal(np.isnan(trials["go_time"]), ~timed)
    for short, slowest in ((1, 800.0), (0, 1200.0)):
        prior = timed & (trials["is_short"] == short)
        ts, tp = trials["ts"][prior], trials["tp"][prior]
        assert 0.5 < np.polyfit(ts, tp, 1)[0] < 0.9  # biased to the mean of the prior
        assert tp[ts == slowest].std() > tp[ts == ts.min()].std()
    passed = 1000 * (trials["go_time"] - trials["set_time"])
    np.testing.assert_allclose(passed[timed], trials["tp"][timed])


def test_the_slope_of_a_ramp_is_the_inverse_of_the_interval(rng):
    trials = behaviour.intervals(rng, 600.0)
    times = behaviour.grid(600.0)
    rates = firing.timing_rates(rng, trials, times, 60)
    timed = np.isfinite(trials["tp"])
    set_, go = trials["set_time"][timed] + 0.02, trials["go_time"][timed] - 0.02
    rise = rates[np.searchsorted(times, go)] - rates[np.searchsorted(times, set_)]
    slope = rise / (go - set_)[:, None]
    steeper = [abs(np.corrcoef(s, 1 / (go - set_))[0, 1]) for s in slope.T]
    assert 0.3 < np.mean(np.array(steeper) > 0.8) < 0.8  # ramps, and bumps near Set or Go


def test_trials_without_go_are_in_no_split_and_targets_follow_the_other_trials():
    settings = {**SHORT, "task": "interval_timing", "seconds": 600.0}
    data = simulate(RSG, settings)
    aborted = data.trials.start[np.isnan(data.trials.go_time)]
    assert len(aborted) > 0
    for split in ("train", "valid", "test"):
        trials = getattr(data, f"{split}_domain")
        assert not np.isin(aborted, trials.start).any()
        for set_, go, tp in zip(trials.set_time, trials.go_time, trials.tp, strict=True):
            at = inside(data.time_to_go.timestamps, Interval(float(set_), float(go)))
            np.testing.assert_allclose(data.produced_interval.value[at, 0], tp, rtol=1e-6)
            left = 1000 * (go - data.time_to_go.timestamps[at])
            np.testing.assert_allclose(data.time_to_go.value[at, 0], left, atol=1e-3)


def test_the_rat_stays_in_its_arena_and_its_pauses_are_outside_the_domain(simulated_data):
    data = simulated_data[RAT]
    samples = data.samples
    assert np.abs([samples.x, samples.y]).max() <= 0.75
    assert samples.speed.min() > 0.05
    assert len(data.domain) > 8
    assert inside(samples.timestamps, data.domain).all()
    visited = np.histogram2d(samples.x, samples.y, bins=4, range=[[-0.75, 0.75]] * 2)[0]
    assert (visited > 0).mean() > 0.8


def test_grid_and_place_units_fire_in_their_fields(rng):
    tuning = firing.spatial_units(rng, 60)
    for unit in np.flatnonzero(tuning["kind"] == 1):
        x, y = (np.array([c, c + 0.5]) for c in tuning["centre"][unit])
        at = {"x": x, "y": y, "hd": np.zeros(2), "theta": np.zeros(2)}
        near, away = firing.spatial_rates(rng, tuning, at)[:, unit]
        assert near > 2 * away
    spaced = np.flatnonzero(tuning["kind"] == 0)
    for unit in spaced:  # rates are equal at the centre and one spacing away along a hexagon's axis
        angle = tuning["tilt"][unit] + np.pi / 6
        step = tuning["spacing"][unit] * np.array([np.cos(angle), np.sin(angle)])
        x, y = (np.array([c, c + s]) for c, s in zip(tuning["centre"][unit], step, strict=True))
        at = {"x": x, "y": y, "hd": np.zeros(2), "theta": np.zeros(2)}
        here, there = firing.spatial_rates(rng, tuning, at)[:, unit]
        assert there == pytest.approx(here, rel=0.02)


def test_the_table_in_the_documentation_is_the_measured_one(simulated):
    page = (DOCS / "simulation.md").read_text()
    assert table_of(simulation.rows(simulated)) in page
