# /// brainset-pipeline
# python-version = "3.11"
# dependencies = ["dandi==0.74.0"]
# ///
"""Somatosensory area 2 while a monkey reaches and is bumped [Chowdhury, Glaser & Miller 2020].

The training file of DANDI 000127: 65 units of a 96-electrode array, hand position (cm) and velocity
(cm/s) at 1 kHz, and 826 trials: the monkey reaches (active) or the hand is bumped (passive).
"""

import sys
from pathlib import Path

import numpy as np
from ray.cloudpickle import register_pickle_by_value
from torch_brain.data import Interval, RegularTimeSeries

sys.path.insert(0, str(Path(__file__).parents[1]))  # the runner imports only this file
import nlb
from nlb import NlbPipeline

register_pickle_by_value(nlb)  # Ray's workers cannot import it, and would wait forever

RATE = 1000.0  # Hz
AFTER_ONSET = (-0.05, 0.65)  # s


class Pipeline(NlbPipeline):
    """Recording `han_area2_bump_train`.

    Its parts besides units, spikes and trials: `hand` (`pos` and `vel`, as in the file), the
    domains of the splits, and `nlb_eval_intervals`, -0.05 to +0.65 s around the onset of the
    movement in active trials. An unknown onset is NaN in the trials.
    """

    brainset_id = "area2_bump"
    dandiset = "000127"
    dandiset_version = "0.220113.0359"
    session_id = "han_area2_bump_train"
    asset = "sub-Han/sub-Han_desc-train_behavior+ecephys.nwb"
    recording_tech = "UTAH_ARRAY_SPIKES"
    columns = ("ctr_hold_bump", "move_onset_time")
    description = (
        "Sorted units of macaque somatosensory area 2 and hand kinematics during center-out "
        "reaches, on some trials with a bump before: Neural Latents Benchmark '21, training file."
    )

    def extract(self, nwbfile, spikes, trials):  # noqa: ARG002
        """Return the behaviour, and whether each trial can be used: all can."""
        hand = read_hand(nwbfile)
        check_covered(hand, trials)
        contents = {"hand": hand, "nlb_eval_intervals": evaluated(trials)}
        return contents, np.full(len(trials), True)


def read_hand(nwbfile):
    """Return position and velocity of the hand, two columns each.

    Raises
    ------
    ValueError
        If one of them is missing, has timestamps instead of a rate, or has an unexpected rate or
        shape; or if their starts or lengths differ.
    """
    if "behavior" not in nwbfile.processing:
        raise ValueError("has no processing module behavior")
    interfaces = nwbfile.processing["behavior"].data_interfaces
    for name in ("hand_pos", "hand_vel"):
        if name not in interfaces:
            raise ValueError(f"has no {name} in its processing module behavior")
        _check_series(name, interfaces[name])
    pos, vel = interfaces["hand_pos"], interfaces["hand_vel"]
    for quantity, a, b in (
        ("start", pos.starting_time, vel.starting_time),
        ("number of samples", len(pos.data), len(vel.data)),
    ):
        if a != b:
            raise ValueError(f"the {quantity} of hand_pos is {a}, that of hand_vel {b}")
    return RegularTimeSeries(
        sampling_rate=RATE,
        domain_start=float(vel.starting_time),
        pos=pos.data[:],
        vel=vel.data[:],
    )


def _check_series(name, series):
    if series.rate is None:
        raise ValueError(f"{name} has timestamps, where a rate of {RATE:g} Hz is expected")
    if not np.isclose(series.rate, RATE):
        raise ValueError(f"{name} has a rate of {series.rate:g} Hz, where {RATE:g} Hz is expected")
    if series.data.ndim != 2 or series.data.shape[1] != 2 or not len(series.data):
        raise ValueError(f"{name} has shape {series.data.shape}, where (samples, 2) is expected")


def check_covered(hand, trials):
    """Raise ValueError unless position and velocity are finite in all trials of a used split.

    They may be NaN between the continuous segments of the session, and in trials of split `none`.
    """
    finite = np.isfinite(hand.pos).all(axis=1) & np.isfinite(hand.vel).all(axis=1)
    edges = (np.stack([trials.start, trials.end]) - hand.domain.start[0]) * RATE
    first, last = np.ceil(np.round(edges, 6)).astype(int)
    for i in np.flatnonzero(np.isin(trials.split_indicator, ("train", "val"))):
        if first[i] < 0 or last[i] > len(finite):
            raise ValueError(
                f"trial {i}, {trials.start[i]:g} to {trials.end[i]:g} s, is not within the hand's "
                f"{hand.domain.start[0]:g} to {hand.domain.end[0]:g} s"
            )
        missing = int((~finite[first[i] : last[i]]).sum())
        if missing:
            raise ValueError(
                f"hand_pos or hand_vel is not finite in {missing} samples of trial {i}, "
                f"split {str(trials.split_indicator[i])!r}"
            )


def evaluated(trials):
    """Return the intervals around the onset of the movement in active trials of a used split.

    Raises
    ------
    ValueError
        If no such trial is in the test.
    """
    active = ~trials.ctr_hold_bump.astype(bool) & np.isfinite(trials.move_onset_time)
    used = trials.select_by_mask(active & np.isin(trials.split_indicator, ("train", "val")))
    if "val" not in used.split_indicator:
        raise ValueError("has no active trial of split 'val' with a move_onset_time")
    before, after = AFTER_ONSET
    return Interval(used.move_onset_time + before, used.move_onset_time + after)
