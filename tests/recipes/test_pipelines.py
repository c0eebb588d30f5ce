"""The pipelines of the two benchmark recordings, run on small files of the same layout."""

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes._tasks import AREA2, PRODUCED_INTERVAL, TIME_TO_GO, timing
from support import nwb_files
from support.paths import ROOT

PIPELINES = ROOT / "recipes" / "pipelines"
TRUTHS = {"area2_bump": nwb_files.area2_bump, "dmfc_rsg": nwb_files.dmfc_rsg}
TASKS = {"area2_bump": AREA2, "dmfc_rsg": timing(PRODUCED_INTERVAL, {})}


def load(path):
    from torch_brain.data import Data

    return Data.load(path, lazy=False)


def pipeline_of(brainset, folder, **options):
    """Return a pipeline, loaded from its file as the runner does."""
    from torch_brain.pipeline.runner import import_pipeline_cls_from_file

    cls = import_pipeline_cls_from_file(PIPELINES / brainset / "pipeline.py")
    processed = folder / "processed" / brainset
    processed.mkdir(parents=True, exist_ok=True)
    options = Namespace(**{"redownload": False, "reprocess": False, **options})
    return cls(folder / "raw" / brainset, processed, options)


def prepare(brainset, folder, *options):
    """Run the command `brainsets` as a user does, without a network and a new environment."""
    command = ["brainsets", "prepare", str(PIPELINES / brainset), "--local", "--use-active-env"]
    folders = [f"--raw-dir={folder / 'raw'}", f"--processed-dir={folder / 'processed'}"]
    scripts = Path(sys.executable).parent
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(scripts / command[0]), *command[1:], *folders, *options],
        env={**os.environ, "PATH": path, "HOME": str(folder), "PYTHONWARNINGS": "error"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def written(brainset, folder, truth):
    path = folder / "raw" / brainset / pipeline_of(brainset, folder).asset
    nwb_files.write(path, truth)
    return path


def prepared_once(brainset, folder):
    truth = TRUTHS[brainset](np.random.default_rng(20240229))
    written(brainset, folder, truth)
    (session,) = TASKS[brainset].sessions
    done = prepare(brainset, folder, f"--single={session}")
    assert done.returncode == 0, done.stderr
    return brainset, truth, load(folder / "processed" / brainset / f"{session}.h5")


@pytest.fixture(scope="module")
def area2(tmp_path_factory):
    """The brainset, the contents of its file, and the recording that the command prepares."""
    return prepared_once("area2_bump", tmp_path_factory.mktemp("area2"))


@pytest.fixture(scope="module")
def dmfc(tmp_path_factory):
    return prepared_once("dmfc_rsg", tmp_path_factory.mktemp("dmfc"))


@pytest.fixture(params=["area2", "dmfc"])
def prepared(request):
    return request.getfixturevalue(request.param)


def test_a_recording_has_the_identity_that_the_lock_expects(prepared):
    brainset, _, data = prepared
    task = TASKS[brainset]
    assert data.brainset.id == task.brainset
    assert data.brainset.origin_version == task.version
    assert (data.session.id,) == task.sessions
    assert data.session.recording_date == str(nwb_files.TIME)
    assert data.subject.id == {"area2_bump": "han", "dmfc_rsg": "haydn"}[brainset]


def test_all_spikes_are_kept_and_sorted_by_time(prepared):
    _, truth, data = prepared
    assert (np.diff(data.spikes.timestamps) >= 0).all()
    for unit, times in enumerate(truth["spike_times"]):
        mine = data.spikes.timestamps[data.spikes.unit_index == unit]
        np.testing.assert_array_equal(mine, times, strict=True)
    counts = [len(times) for times in truth["spike_times"]]
    assert data.units.count.tolist() == counts
    assert 0 in counts
    assert data.units.unit_number.tolist() == list(range(len(counts)))


def test_units_have_the_names_of_torch_brain(prepared):
    _, truth, data = prepared
    if "electrodes" in truth:
        where = [f"group_electrode_group/elec{e}/" for e in truth["electrodes"]]
    else:
        where = [""] * len(truth["spike_times"])
    assert data.units.id.tolist() == [f"{group}unit_{i}" for i, group in enumerate(where)]


def test_spikes_and_units_are_those_that_torch_brain_extracts(tmp_path, rng):
    from pynwb import NWBHDF5IO
    from torch_brain.utils.dandi import extract_spikes_from_nwbfile

    path = written("area2_bump", tmp_path, nwb_files.area2_bump(rng))
    pipeline = pipeline_of("area2_bump", tmp_path)
    pipeline.process(path)
    data = load(pipeline.processed_dir / "han_area2_bump_train.h5")
    with NWBHDF5IO(path, "r") as io:
        spikes, units = extract_spikes_from_nwbfile(io.read(), "UTAH_ARRAY_SPIKES")
    np.testing.assert_array_equal(data.spikes.timestamps, spikes.timestamps, strict=True)
    assert data.units.id.tolist() == units.id.tolist()


def test_trials_have_all_columns_and_missing_values_are_nan(prepared):
    _, truth, data = prepared
    names = {"start_time": "start", "stop_time": "end", "split": "split_indicator"}
    assert set(data.trials.keys()) == {names.get(n, n) for n in truth["trials"]}
    for name, column in truth["trials"].items():
        np.testing.assert_array_equal(getattr(data.trials, names.get(name, name)), column)


def test_times_of_events_are_relative_to_a_slice(prepared):
    _, truth, data = prepared
    event = "move_onset_time" if "behavior" in truth else "set_time"
    i = np.flatnonzero(np.isfinite(truth["trials"][event]))[3]
    start, stop = truth["trials"]["start_time"][i], truth["trials"]["stop_time"][i]
    trial = data.slice(start, stop).trials
    assert getattr(trial, event).tolist() == [truth["trials"][event][i] - start]


def test_the_benchmarks_split_is_kept_and_its_training_part_split_80_to_20(prepared):
    brainset, truth, data = prepared
    trials = truth["trials"]
    usable = np.full(len(trials["split"]), True)
    if brainset == "dmfc_rsg":
        usable = np.isfinite(trials["set_time"] + trials["go_time"] + trials["tp"])
    train = np.flatnonzero(usable & (trials["split"] == "train"))
    shuffled = np.random.default_rng(42).permutation(len(train))
    n = len(train) - round(0.2 * len(train))
    expected = {
        "train_domain": np.sort(train[shuffled[:n]]),
        "valid_domain": np.sort(train[shuffled[n:]]),
        "test_domain": np.flatnonzero(usable & (trials["split"] == "val")),
    }
    for domain, rows in expected.items():
        interval = getattr(data, domain)
        np.testing.assert_array_equal(interval.start, trials["start_time"][rows])
        np.testing.assert_array_equal(interval.end, trials["stop_time"][rows])


def test_the_hand_is_kept_and_its_times_follow_from_its_rate(area2):
    _, truth, data = area2
    for mine, name in ((data.hand.pos, "hand_pos"), (data.hand.vel, "hand_vel")):
        np.testing.assert_array_equal(mine, truth["behavior"][name]["data"], strict=True)
    times = 0.25 + np.arange(len(data.hand.vel)) / 1000
    np.testing.assert_allclose(data.hand.timestamps, times, rtol=0, atol=1e-9)
    assert data.hand.sampling_rate == 1000


def test_active_trials_of_a_split_are_evaluated_around_the_onset_of_movement(area2):
    _, truth, data = area2
    trials = truth["trials"]
    used = ~trials["ctr_hold_bump"] & (trials["split"] != "none")
    onset = trials["move_onset_time"][used]
    window = AREA2.target["evaluate_in"]
    np.testing.assert_array_equal(data.nlb_eval_intervals.start, onset + window["from"])
    np.testing.assert_array_equal(data.nlb_eval_intervals.end, onset + window["to"])


def test_a_passive_trial_with_an_onset_is_not_evaluated(tmp_path, rng):
    truth = nwb_files.area2_bump(rng)
    trials = truth["trials"]
    trials["move_onset_time"] = trials["start_time"] + 0.3
    pipeline = pipeline_of("area2_bump", tmp_path)
    pipeline.process(written("area2_bump", tmp_path, truth))
    evaluated = load(pipeline.processed_dir / "han_area2_bump_train.h5").nlb_eval_intervals
    assert len(evaluated) == (~trials["ctr_hold_bump"] & (trials["split"] != "none")).sum()


def timed(truth):
    trials = truth["trials"]
    usable = np.isfinite(trials["set_time"] + trials["go_time"] + trials["tp"])
    rows = np.flatnonzero(usable & (trials["split"] != "none"))
    return [(trials["set_time"][i], trials["go_time"][i], trials["tp"][i]) for i in rows]


def test_set_to_go_has_the_trials_with_set_and_go(dmfc):
    _, truth, data = dmfc
    expected = np.array(timed(truth))
    np.testing.assert_array_equal(data.set_to_go.start, expected[:, 0])
    np.testing.assert_array_equal(data.set_to_go.end, expected[:, 1])


def test_targets_of_timing_are_sampled_at_50_hz_over_the_whole_recording(dmfc):
    _, _, data = dmfc
    for target in (data.produced_interval, data.time_to_go):
        assert target.sampling_rate == TIME_TO_GO["rate"]
        assert target.value.shape == (len(target.timestamps), 1)
        assert target.timestamps[0] == min(data.spikes.timestamps[0], data.trials.start[0])
        assert target.timestamps[-1] >= max(data.spikes.timestamps[-1], data.trials.end[-1])


def test_the_time_to_go_falls_to_zero_at_go_and_is_zero_elsewhere(dmfc):
    _, truth, data = dmfc
    expected = [
        sum((go - t) * 1000 for set_time, go, _ in timed(truth) if set_time <= t <= go)
        for t in data.time_to_go.timestamps
    ]
    np.testing.assert_allclose(data.time_to_go.value[:, 0], expected, rtol=1e-6, atol=1e-4)


def test_the_produced_interval_holds_from_set_to_the_next_set(dmfc):
    _, truth, data = dmfc
    trials = timed(truth)
    expected = [
        ([trials[0][2]] + [tp for set_time, _, tp in trials if set_time <= t])[-1]
        for t in data.produced_interval.timestamps
    ]
    np.testing.assert_array_equal(data.produced_interval.value[:, 0], np.float32(expected))
    for set_time, go, tp in trials:
        part = data.produced_interval.slice(set_time, go).value
        assert len(part) > 0
        assert (part == np.float32(tp)).all()


@given(st.lists(st.lists(st.floats(0, 50), max_size=30), min_size=1, max_size=5).filter(any))
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spike_times_are_kept_bit_by_bit(tmp_path, spike_times):
    truth = nwb_files.dmfc_rsg(np.random.default_rng(0), n_trials=16)
    truth["spike_times"] = [np.sort(times) for times in spike_times]
    pipeline = pipeline_of("dmfc_rsg", tmp_path, reprocess=True)
    pipeline.process(written("dmfc_rsg", tmp_path, truth))
    data = load(pipeline.processed_dir / "haydn_dmfc_rsg_train.h5")
    for unit, times in enumerate(truth["spike_times"]):
        mine = data.spikes.timestamps[data.spikes.unit_index == unit]
        assert mine.tobytes() == np.asarray(times, dtype=np.float64).tobytes()


def trial(**columns):
    """Return a change of some trials: {row: value} of each column."""

    def change(truth):
        for name, rows in columns.items():
            for row, value in rows.items():
                truth["trials"][name][row] = value

    return change


def without(*path):
    def change(truth):
        *parents, last = path
        for key in parents:
            truth = truth[key]
        del truth[last]

    return change


def hand(**series):
    """Return a change of hand_vel."""

    def change(truth):
        truth["behavior"]["hand_vel"].update(series)

    return change


def not_finite_in(row):
    def change(truth):
        start = truth["trials"]["start_time"][row] - 0.25
        truth["behavior"]["hand_vel"]["data"][int(start * 1000) + 50, 1] = np.nan

    return change


def timestamps(truth):
    series = truth["behavior"]["hand_vel"]
    del series["rate"], series["starting_time"]
    series["timestamps"] = np.arange(len(series["data"])) / 1000


def swapped_spikes(truth):
    truth["spike_times"][2][:2] = 0.25, 0.125


def spike_that_is_not_finite(truth):
    truth["spike_times"][2][-1] = np.nan


def set_all(split):
    def change(truth):
        truth["trials"]["split"][:] = split

    return change


def after_the_hand(truth):
    trial(start_time={14: 500.0}, stop_time={14: 501.0})(truth)
    truth["hand_end"] = 0.25 + len(truth["behavior"]["hand_vel"]["data"]) / 1000


def no_spikes(truth):
    truth["spike_times"] = [times[:0] for times in truth["spike_times"]]


def two_electrodes(truth):
    truth["electrodes"] = [[i, i + 1] for i in range(len(truth["spike_times"]))]


# Trials of these files: 0 to 4 train, 5 and 6 val, 7 none, and so on.
OF_BOTH = {
    "no subject": (lambda t: t.update(subject=None), "has no subject"),
    "no units": (lambda t: t.update(spike_times=[]), "has no units"),
    "no spikes": (no_spikes, "has no spikes in any of its 6 units"),
    "spikes not in order": (
        swapped_spikes,
        "spike times of unit 2 are not in order: 0.125 s follows 0.25 s",
    ),
    "a spike not finite": (
        spike_that_is_not_finite,
        "spike times of unit 2 are not all finite",
    ),
    "no column split": (without("trials", "split"), "trials have no column split"),
    "an unknown split": (
        trial(split={3: "dev"}),
        "trial 3 has split 'dev', not one of train, val, test, none",
    ),
    "nothing to train": (set_all("val"), "has 0 usable trials of split 'train', fewer than three"),
    "stop before start": (
        trial(start_time={2: 9.0}, stop_time={2: 8.5}),
        "trial 2 starts at 9 s and stops at 8.5 s",
    ),
    "no start": (
        trial(start_time={7: np.nan}),
        "trial 7 starts at nan s and stops at {trials[stop_time][7]:g} s",
    ),
    "overlap": (
        trial(stop_time={4: 70.0}),
        "trial 5 starts at {trials[start_time][5]:g} s, before trial 4 stops at 70 s",
    ),
}
OF_AREA2 = {
    "no column of bumps": (
        without("trials", "ctr_hold_bump"),
        "trials have no column ctr_hold_bump",
    ),
    "no onset to test": (
        trial(move_onset_time=dict.fromkeys(range(16), np.nan)),
        "has no active trial of split 'val' with a move_onset_time",
    ),
    "two electrodes": (two_electrodes, "unit 0 is from 2 electrodes, not from one"),
    "no behaviour": (without("behavior"), "has no processing module behavior"),
    "no velocity": (
        without("behavior", "hand_vel"),
        "has no hand_vel in its processing module behavior",
    ),
    "timestamps": (timestamps, "hand_vel has timestamps, where a rate of 1000 Hz is expected"),
    "another rate": (hand(rate=100.0), "hand_vel has a rate of 100 Hz, where 1000 Hz is expected"),
    "three columns": (
        hand(data=np.zeros((500, 3))),
        "hand_vel has shape (500, 3), where (samples, 2) is expected",
    ),
    "one column": (
        hand(data=np.zeros(500)),
        "hand_vel has shape (500,), where (samples, 2) is expected",
    ),
    "other samples": (
        hand(data=np.zeros((500, 2))),
        (
            "the number of samples of hand_pos is {behavior[hand_pos][data].shape[0]}, "
            "that of hand_vel 500"
        ),
    ),
    "another start": (
        hand(starting_time=0.5),
        "the start of hand_pos is 0.25, that of hand_vel 0.5",
    ),
    "NaN in a trial": (
        not_finite_in(5),
        "hand_pos or hand_vel is not finite in 1 samples of trial 5, split 'val'",
    ),
    "a trial after the hand": (
        after_the_hand,
        "trial 14, 500 to 501 s, is not within the hand's 0.25 to {hand_end:g} s",
    ),
}
OF_DMFC = {
    "no column of Go": (without("trials", "go_time"), "trials have no column go_time"),
    "nothing to test": (
        trial(set_time=dict.fromkeys((5, 6, 13, 14), np.nan)),
        "has no usable trials of split 'val'",
    ),
    "no trial with Set": (
        trial(set_time=dict.fromkeys(range(16), np.nan)),
        "has no trial of split 'train' or 'val' with Set, Go and tp",
    ),
    "Go before Set": (
        trial(set_time={2: 9.5}, go_time={2: 9.25}),
        "trial 2 has Set at 9.5 s and Go at 9.25 s",
    ),
    "Set before the last Go": (
        trial(go_time={2: 20.0}),
        "trial 3 has Set at {trials[set_time][3]:g} s, before trial 2 has Go at 20 s",
    ),
}
DEFECTS = [
    pytest.param(brainset, change, message, id=f"{brainset}: {name}")
    for brainset, defects in (
        ("area2_bump", {**OF_BOTH, **OF_AREA2}),
        ("dmfc_rsg", {**OF_BOTH, **OF_DMFC}),
    )
    for name, (change, message) in defects.items()
]


def refused(pipeline, path):
    """Return the message of the error; assert that no file is left behind."""
    with pytest.raises(ValueError) as error:
        pipeline.process(path)
    assert list(pipeline.processed_dir.iterdir()) == []
    return str(error.value)


@pytest.mark.parametrize(("brainset", "change", "message"), DEFECTS)
def test_a_defect_is_named_with_the_file(tmp_path, rng, brainset, change, message):
    truth = TRUTHS[brainset](rng, n_trials=16)
    split = ["train"] * 5 + ["val"] * 2 + ["none"]
    truth["trials"]["split"] = np.array(split * 2)
    change(truth)
    path = written(brainset, tmp_path, truth)
    text = refused(pipeline_of(brainset, tmp_path), path)
    assert text == f"{path.name}: {message.format(**truth)}"


@pytest.mark.parametrize("brainset", TRUTHS)
def test_a_truncated_file_is_refused(tmp_path, rng, brainset):
    path = written(brainset, tmp_path, TRUTHS[brainset](rng, n_trials=16))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    text = refused(pipeline_of(brainset, tmp_path), path)
    start = f"{path.name}: cannot be read as HDF5, it is damaged or something else (Unable to "
    assert text.startswith(start)
    assert "truncated file" in text
    assert text.endswith("): get it again with --redownload")


def test_a_file_that_is_not_hdf5_is_refused(tmp_path):
    path = tmp_path / "page.nwb"
    path.write_text("<html>503</html>")
    text = refused(pipeline_of("dmfc_rsg", tmp_path), path)
    assert text.startswith("page.nwb: cannot be read as HDF5")
    assert "file signature not found" in text


def test_a_file_that_is_hdf5_and_not_nwb_is_refused(tmp_path):
    path = tmp_path / "other.nwb"
    with h5py.File(path, "w") as file:
        file["x"] = [1.0]
    text = refused(pipeline_of("dmfc_rsg", tmp_path), path)
    assert text == "other.nwb: is HDF5, but not NWB: it has no attribute nwb_version"


def test_a_recording_is_prepared_again_only_with_reprocess(tmp_path, rng):
    path = written("dmfc_rsg", tmp_path, nwb_files.dmfc_rsg(rng))
    pipeline = pipeline_of("dmfc_rsg", tmp_path)
    store = pipeline.processed_dir / "haydn_dmfc_rsg_train.h5"
    store.write_bytes(b"present")
    pipeline.process(path)
    assert store.read_bytes() == b"present"
    pipeline_of("dmfc_rsg", tmp_path, reprocess=True).process(path)
    assert len(load(store).trials) == 40


def test_trials_of_split_none_may_overlap_and_have_no_hand(tmp_path, rng):
    truth = nwb_files.area2_bump(rng, n_trials=16)
    truth["trials"]["split"] = np.array((["train"] * 5 + ["val"] * 2 + ["none"]) * 2)
    truth["trials"]["stop_time"][7] += 1.0
    not_finite_in(7)(truth)
    pipeline = pipeline_of("area2_bump", tmp_path)
    pipeline.process(written("area2_bump", tmp_path, truth))
    assert (pipeline.processed_dir / "han_area2_bump_train.h5").exists()


def test_the_command_fails_with_the_message_of_a_defect(tmp_path, rng):
    truth = nwb_files.dmfc_rsg(rng)
    del truth["trials"]["tp"]
    written("dmfc_rsg", tmp_path, truth)
    done = prepare("dmfc_rsg", tmp_path, "--single=haydn_dmfc_rsg_train")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ValueError: sub-Haydn_desc-train_ecephys.nwb: trials have no column tp"
    )


@pytest.mark.slow
def test_the_command_works_with_ray(tmp_path, rng):
    """Without --single it runs Ray, whose workers cannot import this project."""
    written("dmfc_rsg", tmp_path, nwb_files.dmfc_rsg(rng))
    done = prepare("dmfc_rsg", tmp_path, "--cores=1")
    assert done.returncode == 0, done.stderr
    assert len(load(tmp_path / "processed/dmfc_rsg/haydn_dmfc_rsg_train.h5").trials) == 40
