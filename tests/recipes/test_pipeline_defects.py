"""Defective files are refused by the pipelines in one line, before anything is written."""

import h5py
import numpy as np
import pytest

from support import nwb_files
from support.pipelines import TRUTHS, pipeline_of, prepare, write_raw_file


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
    path = write_raw_file(brainset, tmp_path, truth)
    text = refused(pipeline_of(brainset, tmp_path), path)
    assert text == f"{path.name}: {message.format(**truth)}"


@pytest.mark.parametrize("brainset", TRUTHS)
def test_a_truncated_file_is_refused(tmp_path, rng, brainset):
    path = write_raw_file(brainset, tmp_path, TRUTHS[brainset](rng, n_trials=16))
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


def test_trials_of_split_none_may_overlap_and_have_no_hand(tmp_path, rng):
    truth = nwb_files.area2_bump(rng, n_trials=16)
    truth["trials"]["split"] = np.array((["train"] * 5 + ["val"] * 2 + ["none"]) * 2)
    truth["trials"]["stop_time"][7] += 1.0
    not_finite_in(7)(truth)
    pipeline = pipeline_of("area2_bump", tmp_path)
    pipeline.process(write_raw_file("area2_bump", tmp_path, truth))
    assert (pipeline.processed_dir / "han_area2_bump_train.h5").exists()


def test_the_command_fails_with_the_message_of_a_defect(tmp_path, rng):
    truth = nwb_files.dmfc_rsg(rng)
    del truth["trials"]["tp"]
    write_raw_file("dmfc_rsg", tmp_path, truth)
    done = prepare("dmfc_rsg", tmp_path, "--single=haydn_dmfc_rsg_train")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ValueError: sub-Haydn_desc-train_ecephys.nwb: trials have no column tp"
    )
