"""Recordings are opened by torch_brain's classes and checked before a training starts."""

import re
from copy import deepcopy

import h5py
import numpy as np
import pytest
from torch_brain.data import ArrayDict, Interval, IrregularTimeSeries

from benchmarks import ridge
from recipes._tasks import (
    AREA2,
    FROM_SET,
    PRODUCED_INTERVAL,
    foraging,
    reaching,
    task_of,
    timing,
)
from recipes.data.arrays import to_arrays
from recipes.data.recordings import open_recordings
from recipes.simulation.recordings import ORIGIN, simulate
from support import real
from support.paths import ROOT

SESSION, OTHER = "c_20131003_center_out_reaching", "c_20131022_center_out_reaching"
SIMULATION = {"task": "center_out", "seconds": 60.0, "units": [5, 8], "seed": 99}
BRAINSET = "perich_miller_population_2018"
AGAIN = "; prepare it again: brainsets prepare {} --single {} --processed-dir {} --reprocess"


def params(task, fraction=1.0, **changed):
    """Return the params of a paper entry that concern its recordings."""
    return {"data": {**task.data("paper", fraction), **changed}, "target": task.target}


@pytest.fixture(scope="module")
def usable():
    """A simulated recording with the origin_version of a prepared one."""
    data = simulate(SESSION, SIMULATION)
    data.brainset.origin_version = reaching(SESSION).version
    return data


def save(data, folder, session=SESSION):
    path = folder / task_of(session).brainset / f"{session}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data.to_hdf5(file)
    return path


def message_of(error, params, folder):
    with pytest.raises(error) as caught:
        open_recordings(params, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_prepared_recording_is_opened_with_torch_brains_names_of_units(usable, tmp_path):
    save(usable, tmp_path)
    opened = open_recordings(params(reaching(SESSION)), tmp_path)
    assert list(opened) == [SESSION]
    names = [f"{SESSION}/{name}" for name in usable.units.id]
    assert opened[SESSION].units.id.tolist() == names
    np.testing.assert_array_equal(opened[SESSION].cursor.vel, usable.cursor.vel)


def test_prepared_recordings_are_read_from_the_folder_of_brainsets(usable, tmp_path, monkeypatch):
    config = tmp_path / "brainsets.yaml"
    monkeypatch.setattr("torch_brain.pipeline.config.CONFIG_FILE", config)
    assert message_of(FileNotFoundError, params(reaching(SESSION)), None) == (
        "the folder of prepared recordings is not configured; run: "
        "brainsets config set --raw-dir RAW --processed-dir PROCESSED"
    )
    config.write_text(f"raw_dir: {tmp_path}\nprocessed_dir: {tmp_path}\n")
    assert message_of(FileNotFoundError, params(reaching(SESSION)), None) == (
        f"{SESSION}: not in {tmp_path}/{BRAINSET}; run: "
        f"brainsets prepare {BRAINSET} --single {SESSION}"
    )
    save(usable, tmp_path)
    assert list(open_recordings(params(reaching(SESSION)), None)) == [SESSION]


@pytest.mark.parametrize(
    ("task", "problem", "command"),
    [
        (
            reaching(SESSION, OTHER),
            f"{SESSION} and 1 more: not in {{}}/{BRAINSET}; run: ",
            f"brainsets prepare {BRAINSET}",
        ),
        (
            foraging("of_24365_2"),
            "of_24365_2: not in {}/vollan_moser_alternating_2025; run: ",
            "brainsets prepare vollan_moser_alternating_2025 --single of_24365_2",
        ),
        (
            AREA2,
            "han_area2_bump_train: not in {}/area2_bump; run: ",
            "brainsets prepare recipes/pipelines/area2_bump --local --single han_area2_bump_train",
        ),
        (
            timing(PRODUCED_INTERVAL, FROM_SET),
            "haydn_dmfc_rsg_train: not in {}/dmfc_rsg; run: ",
            "brainsets prepare recipes/pipelines/dmfc_rsg --local --single haydn_dmfc_rsg_train",
        ),
    ],
)
def test_a_missing_recording_is_named_with_the_command_that_prepares_it(
    task, problem, command, tmp_path
):
    folder = tmp_path / "a folder"
    expected = f"{problem.format(folder)}{command} --processed-dir '{folder}'"
    assert message_of(FileNotFoundError, params(task), folder) == expected


def test_the_command_brainsets_has_the_options_and_brainsets_that_are_named():
    from click.testing import CliRunner
    from torch_brain.pipeline._cli.cli_prepare import prepare

    text = CliRunner().invoke(prepare, ["--help"]).output
    for option in ("--single", "--local", "--processed-dir"):
        assert option in text
    from torch_brain.pipeline._cli.utils import get_available_brainsets

    assert {BRAINSET, "vollan_moser_alternating_2025"} <= {*get_available_brainsets()}


def no_units(data):
    data.units = ArrayDict(id=np.zeros(0, "U4"))


def equal_names(data):
    data.units.id[:3] = "group_M1/elec0/unit_0"


def no_spikes(data):
    nothing = {"timestamps": np.zeros(0), "unit_index": np.zeros(0, int)}
    data.spikes = IrregularTimeSeries(**nothing, domain=data.domain)


def spikes_at_infinity(data):
    data.spikes.timestamps[-2:] = np.inf


def spikes_of_another_array(data):
    data.spikes.unit_index[7] = 96


def resting_hand(data):
    test = ridge.inside(data.cursor.timestamps, data.test_domain)
    data.cursor.vel[test, 1] = 0.0


def other_version(data):
    data.brainset.origin_version = "dandi/000688/0.1"


def overlap(data):
    first = data.test_domain.start[0]
    data.valid_domain = Interval(first + 0.25, first + 3.0)


def short_validation(data):
    data.valid_domain = Interval(data.valid_domain.start[:1], data.valid_domain.start[:1] + 0.5)


def gap_in_training(data):
    start = data.train_domain.start[0]
    data.cursor.vel[np.searchsorted(data.cursor.timestamps, start + 0.2) + np.arange(3)] = np.nan


def gap_in_test(data):
    reach = data.movement_phases.reach_period & data.test_domain
    data.cursor.vel[np.searchsorted(data.cursor.timestamps, reach.start[0] + 0.1), 1] = np.inf


def nothing_evaluated(data):
    train = data.train_domain
    data.movement_phases.reach_period = Interval(train.start[:1], train.end[:1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            other_version,
            "made from version dandi/000688/0.1, expected dandi/000688/draft",
        ),
        (no_units, "no units"),
        (equal_names, f"3 units have the name {SESSION}/group_M1/elec0/unit_0, expected one"),
        (no_spikes, "none of its {units} units has a spike"),
        (spikes_at_infinity, "2 of its {spikes} spike times are not finite"),
        (spikes_of_another_array, "spikes.unit_index is 0 to 96, expected 0 to {last}"),
        (
            resting_hand,
            "cursor.vel is constant in all evaluation intervals of test: R² is undefined",
        ),
        (
            overlap,
            (
                "valid and test overlap: {a:.2f} to {b:.2f} s and {c:.2f} to {d:.2f} s, expected "
                "splits without overlap"
            ),
        ),
        (
            short_validation,
            "no window of 1 s fits into valid: its longest interval has 0.50 s",
        ),
        (
            gap_in_training,
            (
                "3 samples of cursor.vel in the training intervals are not finite, the first at "
                "{train:.2f} s"
            ),
        ),
        (
            gap_in_test,
            (
                "1 samples of cursor.vel in the evaluation intervals are not finite, the first at "
                "{test:.2f} s"
            ),
        ),
        (nothing_evaluated, "no sample of cursor.vel in the evaluation intervals"),
    ],
)
def test_a_defective_recording_is_refused(spoil, message, usable, tmp_path):
    data = deepcopy(usable)
    spoil(data)
    save(data, tmp_path)
    (a, *_), (b, *_) = data.valid_domain.start, data.valid_domain.end
    overlapping = (data.test_domain.start < b) & (data.test_domain.end > a)
    (c, *_), (d, *_) = (
        x[overlapping] if overlapping.any() else x for x in bounds(data.test_domain)
    )
    bad = data.cursor.timestamps[~np.isfinite(data.cursor.vel).all(axis=1)]
    first = bad[0] if len(bad) else 0.0
    places = {"a": a, "b": b, "c": c, "d": d, "train": first, "test": first}
    counts = {"units": len(data.units.id), "last": len(data.units.id) - 1}
    expected = message.format(**counts, spikes=len(data.spikes.timestamps), **places)
    assert message_of(ValueError, params(reaching(SESSION)), tmp_path) == (
        f"{SESSION}: {expected}{AGAIN.format(BRAINSET, SESSION, tmp_path)}"
    )


def bounds(interval):
    return interval.start, interval.end


def test_a_fraction_that_leaves_no_window_is_refused(usable, tmp_path):
    save(usable, tmp_path)
    left = 0.01 * (usable.train_domain.end - usable.train_domain.start).sum()
    assert message_of(ValueError, params(reaching(SESSION), 0.01), tmp_path) == (
        f"{SESSION}: no window of 1 s fits into train (the first 1% of it): its longest interval "
        f"has {left:.2f} s{AGAIN.format(BRAINSET, SESSION, tmp_path)}"
    )


def test_a_gap_outside_the_used_part_of_a_recording_is_ignored(usable, tmp_path):
    data = deepcopy(usable)
    last = data.train_domain.end[-1]
    data.cursor.vel[np.searchsorted(data.cursor.timestamps, last - 0.5)] = np.nan
    save(data, tmp_path)
    task = reaching(SESSION)
    assert "not finite" in message_of(ValueError, params(task), tmp_path)
    assert list(open_recordings(params(task, 0.5), tmp_path)) == [SESSION]


def test_a_file_that_is_not_a_recording_is_refused(tmp_path):
    path = tmp_path / BRAINSET / f"{SESSION}.h5"
    path.parent.mkdir()
    again = AGAIN.format(BRAINSET, SESSION, tmp_path)
    path.write_bytes(b"not HDF5")
    text = message_of(ValueError, params(reaching(SESSION)), tmp_path)
    assert re.fullmatch(rf"{SESSION}: cannot be read \(.+\){re.escape(again)}", text)
    with h5py.File(path, "w") as file:
        file["spikes"] = np.arange(3)
    text = message_of(ValueError, params(reaching(SESSION)), tmp_path)
    assert re.fullmatch(rf"{SESSION}: cannot be read \(.+\){re.escape(again)}", text)


def test_a_missing_part_of_a_recording_is_named(usable, tmp_path):
    data = deepcopy(usable)
    del data.cursor
    save(data, tmp_path)
    assert message_of(ValueError, params(reaching(SESSION)), tmp_path) == (
        f"session {SESSION} has no cursor: prepare the recording again, or declare another target"
    )


def test_an_unknown_session_is_named_before_any_file_is_opened(tmp_path):
    assert message_of(ValueError, params(reaching("chewie_1")), tmp_path) == (
        "chewie_1: unknown name of a session; expected a name such as "
        "c_20131003_center_out_reaching, of_24365_2, han_area2_bump_train or haydn_dmfc_rsg_train"
    )


def test_simulated_recordings_need_a_folder():
    desk = {**params(reaching(SESSION)), "simulation": SIMULATION}
    assert message_of(ValueError, desk, None) == (
        "simulated recordings are written to a folder; name one"
    )


def test_a_simulated_recording_is_not_accepted_as_a_prepared_one(tmp_path):
    entry = params(reaching(SESSION))
    assert list(open_recordings({**entry, "simulation": SIMULATION}, tmp_path)) == [SESSION]
    assert message_of(ValueError, entry, tmp_path) == (
        f"{SESSION}: made from version {ORIGIN}, expected dandi/000688/draft"
        f"{AGAIN.format(BRAINSET, SESSION, tmp_path)}"
    )


def test_recordings_are_imported_without_torch():
    import subprocess
    import sys

    code = "import sys, recipes.data.recordings; print('torch' in sys.modules)"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.realdata
@pytest.mark.parametrize("name", real.MONKEYS)
def test_a_converted_session_has_the_spike_counts_and_the_r2_of_its_extract(name, tmp_path):
    session = real.write(tmp_path, name)
    task = reaching(session)
    data = open_recordings(params(task), tmp_path)[session]
    extract = real.extract(name)
    width, n_units = extract["bin_width_s"].item(), extract["spike_counts"].shape[1]
    times = data.cursor.timestamps
    x = ridge.counts(data.spikes, n_units, times, width, 3)
    np.testing.assert_array_equal(x[:, :n_units], extract["spike_counts"])
    np.testing.assert_allclose(data.cursor.vel, extract["hand_velocity"])
    train = ridge.inside(times, data.train_domain | data.valid_domain)
    test = ridge.inside(times, data.test_domain)
    assert (train ^ test).all()
    assert ridge.r2(x, data.cursor.vel, train, test) == pytest.approx(real.MONKEYS[name], abs=0.03)


@pytest.mark.realdata
@pytest.mark.parametrize("name", real.MONKEYS)
def test_no_window_of_a_converted_session_reaches_into_another_trial(name, tmp_path):
    session = real.write(tmp_path, name)
    task = reaching(session)
    opened = open_recordings(params(task), tmp_path)
    arrays = to_arrays(opened.values(), params(task))
    n = len(np.unique(real.extract(name)["trial"]))
    assert sum(len(arrays.intervals[split].start) for split in arrays.intervals) == n
    trials = opened[session].trials
    assert (trials.end - trials.start).min() >= 1.0
    assert (trials.start[1:] - trials.end[:-1]).min() >= 0.99
    assert arrays.evaluated.all()


@pytest.mark.realdata
def test_the_converted_rat_runs_in_its_maze(tmp_path):
    session = real.write(tmp_path, real.RAT)
    raw = real.extract("rat_wmaze_hippocampus")
    data = open_recordings(params(foraging(session)), tmp_path)[session]
    assert len(data.units) == len(np.unique(raw["spike_unit"])) - 1
    assert len(data.spikes) == (raw["spike_unit"] != real.NOISE).sum()
    assert np.abs([data.samples.x, data.samples.y]).max() < 0.7  # m
    assert ridge.inside(data.samples.timestamps[::100], data.domain).all()
    assert 0.1 < data.samples.speed.mean() < 0.6  # m/s
    assert 500 < (data.domain.end - data.domain.start).sum() < 4000
