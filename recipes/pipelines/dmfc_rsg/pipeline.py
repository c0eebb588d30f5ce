# /// brainset-pipeline
# python-version = "3.11"
# dependencies = ["dandi==0.74.0"]
# ///
"""Dorsomedial frontal cortex while a monkey reproduces an interval [Sohn et al. 2019].

The training file of DANDI 000130: 54 units of three linear probes and 1,160 trials of
Ready-Set-Go, with a saccade or a joystick. The only behaviour in it are the times of events; the
targets of decoding are computed from them.
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from ray.cloudpickle import register_pickle_by_value
from torch_brain.data import Interval, RegularTimeSeries

sys.path.insert(0, str(Path(__file__).parents[1]))  # the runner imports only this file
import nlb
from nlb import NlbPipeline, span

register_pickle_by_value(nlb)  # Ray's workers cannot import it, and would wait forever

RATE = 50.0  # Hz


class Pipeline(NlbPipeline):
    """Recording `haydn_dmfc_rsg_train`.

    Its parts besides units, spikes, trials and the domains of the splits: `set_to_go`; and
    `produced_interval.value` and `time_to_go.value`, both in ms, at 50 Hz from the start to the end
    of the recording. Trials in which Set, Go or the produced interval is NaN are in no domain.
    """

    brainset_id = "dmfc_rsg"
    dandiset = "000130"
    dandiset_version = "0.220113.0407"
    session_id = "haydn_dmfc_rsg_train"
    asset = "sub-Haydn/sub-Haydn_desc-train_ecephys.nwb"
    recording_tech = "LINEAR_PROBE_SPIKES"
    columns = ("tp", "ts", "theta", "is_eye", "is_short", "set_time", "go_time")
    description = (
        "Sorted units of macaque dorsomedial frontal cortex during Ready-Set-Go, the reproduction "
        "of a time interval by eye or hand: Neural Latents Benchmark '21, training file."
    )

    def extract(self, nwbfile, spikes, trials):  # noqa: ARG002
        """Return the targets of decoding, and whether each trial can be used."""
        timed = np.isfinite(np.stack([trials.set_time, trials.go_time, trials.tp])).all(axis=0)
        timed &= np.isin(trials.split_indicator, ("train", "val"))
        for i in np.flatnonzero(timed & ~(trials.set_time < trials.go_time)):
            raise ValueError(
                f"trial {i} has Set at {trials.set_time[i]:g} s and Go at {trials.go_time[i]:g} s"
            )
        used = trials.select_by_mask(timed)
        if not len(used):
            raise ValueError("has no trial of split 'train' or 'val' with Set, Go and tp")
        for i, j in pairwise(np.flatnonzero(timed)):
            if trials.set_time[j] < trials.go_time[i]:
                raise ValueError(
                    f"trial {j} has Set at {trials.set_time[j]:g} s, before trial {i} has Go at "
                    f"{trials.go_time[i]:g} s"
                )
        grid = timeline(span(spikes, trials))
        contents = {
            "set_to_go": Interval(used.set_time, used.go_time),
            "produced_interval": series(grid, produced_interval(grid, used)),
            "time_to_go": series(grid, time_to_go(grid, used)),
        }
        return contents, timed


def timeline(domain):
    """Return sample times, shape (samples,), from the start to the end of an interval."""
    start, end = domain.start[0], domain.end[0]
    return start + np.arange(int(np.ceil((end - start) * RATE)) + 1) / RATE


def series(times, values):
    """Return a regular time series of one column, shape (samples, 1), float32."""
    column = values.astype(np.float32)[:, np.newaxis]
    return RegularTimeSeries(sampling_rate=RATE, domain_start=float(times[0]), value=column)


def produced_interval(times, trials):
    """Return the produced interval (ms) of the trial with the latest Set; before it, of the first.

    The value is constant from Set to Go and is kept after Go: windows of a fixed length that begin
    at Set reach beyond Go. Another value there would be learned as an interval, and NaN would make
    the loss NaN.
    """
    last = np.searchsorted(trials.set_time, times, side="right") - 1
    return trials.tp[np.maximum(last, 0)]


def time_to_go(times, trials):
    """Return the time (ms) until Go, from Set to Go: a ramp that ends at 0; 0 elsewhere."""
    last = np.searchsorted(trials.set_time, times, side="right") - 1
    remaining = (trials.go_time[np.maximum(last, 0)] - times) * 1000
    return np.where(last >= 0, np.maximum(remaining, 0), 0)
