"""The pipelines of the two benchmark recordings, run on small files of the same layout."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes._tasks import AREA2, TIME_TO_GO
from support import nwb_files
from support.pipelines import TASKS, load, pipeline_of, prepare, prepare_once, write_raw_file


@pytest.fixture(scope="module")
def area2(tmp_path_factory):
    """The brainset, the contents of its file, and the recording that the command prepares."""
    return prepare_once("area2_bump", tmp_path_factory.mktemp("area2"))


@pytest.fixture(scope="module")
def dmfc(tmp_path_factory):
    return prepare_once("dmfc_rsg", tmp_path_factory.mktemp("dmfc"))


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

    path = write_raw_file("area2_bump", tmp_path, nwb_files.area2_bump(rng))
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
    pipeline.process(write_raw_file("area2_bump", tmp_path, truth))
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
    pipeline.process(write_raw_file("dmfc_rsg", tmp_path, truth))
    data = load(pipeline.processed_dir / "haydn_dmfc_rsg_train.h5")
    for unit, times in enumerate(truth["spike_times"]):
        mine = data.spikes.timestamps[data.spikes.unit_index == unit]
        assert mine.tobytes() == np.asarray(times, dtype=np.float64).tobytes()


def test_a_recording_is_prepared_again_only_with_reprocess(tmp_path, rng):
    path = write_raw_file("dmfc_rsg", tmp_path, nwb_files.dmfc_rsg(rng))
    pipeline = pipeline_of("dmfc_rsg", tmp_path)
    store = pipeline.processed_dir / "haydn_dmfc_rsg_train.h5"
    store.write_bytes(b"present")
    pipeline.process(path)
    assert store.read_bytes() == b"present"
    pipeline_of("dmfc_rsg", tmp_path, reprocess=True).process(path)
    assert len(load(store).trials) == 40


@pytest.mark.slow
def test_the_command_works_with_ray(tmp_path, rng):
    """Without --single it runs Ray, whose workers cannot import this project."""
    write_raw_file("dmfc_rsg", tmp_path, nwb_files.dmfc_rsg(rng))
    done = prepare("dmfc_rsg", tmp_path, "--cores=1")
    assert done.returncode == 0, done.stderr
    assert len(load(tmp_path / "processed/dmfc_rsg/haydn_dmfc_rsg_train.h5").trials) == 40
