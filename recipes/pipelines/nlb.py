"""Training files of the Neural Latents Benchmark '21 (NWB, on DANDI) -> recordings of torch_brain.

The common part of the pipelines for two of its datasets [Pei et al. 2021]. Only the training files
are prepared: the files for the leaderboard have neither behaviour nor the times of events in
trials. A defect raises ValueError before anything is written: one line with the name of the file.
"""

from argparse import ArgumentParser
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from pynwb import NWBHDF5IO
from pynwb.core import VectorIndex
from torch_brain.data import (
    ArrayDict,
    BrainsetDescription,
    Data,
    DeviceDescription,
    Interval,
    IrregularTimeSeries,
    SessionDescription,
)
from torch_brain.pipeline import BrainsetPipeline
from torch_brain.utils.dandi import download_file, extract_subject_from_nwb

SPLITS = ("train", "val", "test", "none")
RENAMED = {"start_time": "start", "stop_time": "end", "split": "split_indicator"}

_parser = ArgumentParser()
_parser.add_argument("--redownload", action="store_true")
_parser.add_argument("--reprocess", action="store_true")


class NlbPipeline(BrainsetPipeline):
    """Prepare the one training file of a dandiset.

    Attributes
    ----------
    dandiset, dandiset_version : str
    session_id : str
        Session of the recording, and the name of its file.
    asset : str
        Path of the file in the dandiset and below the folder of raw files.
    recording_tech, description : str
    columns : tuple of str
        Columns of the trials that are required besides start, stop and split.
    """

    parser = _parser
    dandiset: str
    dandiset_version: str
    session_id: str
    asset: str
    recording_tech: str
    description: str
    columns: tuple[str, ...]

    @classmethod
    def get_manifest(cls, raw_dir, args):  # noqa: ARG003
        """Return the one file without a request to DANDI: a version of a dandiset never changes."""
        url = f"dandi://dandi/{cls.dandiset}@{cls.dandiset_version}/{cls.asset}"
        return pd.DataFrame({"path": [cls.asset], "url": [url]}, index=[cls.session_id])

    def download(self, manifest_item):
        """Return the path of the file; download it if it is not in the folder of raw files."""
        path = Path(self.raw_dir, manifest_item.path)
        if path.exists() and not self.args.redownload:
            return path
        self.update_status("DOWNLOADING")
        return download_file(
            manifest_item.path, manifest_item.url, self.raw_dir, overwrite=self.args.redownload
        )

    def process(self, download_output):
        """Write the recording; its file is complete or absent."""
        path = Path(download_output)
        store = Path(self.processed_dir, f"{self.session_id}.h5")
        if store.exists() and not self.args.reprocess:
            self.update_status("Skipped Processing")
            return
        self.update_status("Processing")
        try:
            data = self.read(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path.name}: {error}") from error
        partial = store.with_suffix(".partial")
        with h5py.File(partial, "w") as file:
            data.to_hdf5(file)
        partial.replace(store)

    def read(self, path):
        """Return the recording of an NWB file."""
        with _open(path) as file, NWBHDF5IO(file=file, mode="r") as io:
            nwbfile = io.read()
            if nwbfile.subject is None:
                raise ValueError("has no subject")
            spikes, units = read_spikes(nwbfile)
            trials = read_trials(nwbfile, self.columns)
            subject = extract_subject_from_nwb(nwbfile)
            date = nwbfile.session_start_time.strftime("%Y%m%d")
            contents, used = self.extract(nwbfile, spikes, trials)
        recording = {"spikes": spikes, "trials": trials, **contents}
        return Data(
            brainset=BrainsetDescription(
                id=self.brainset_id,
                origin_version=f"dandi/{self.dandiset}/{self.dandiset_version}",
                derived_version="1.0.0",
                source=f"https://dandiarchive.org/dandiset/{self.dandiset}",
                description=self.description,
            ),
            subject=subject,
            session=SessionDescription(
                id=self.session_id,
                recording_date=nwbfile.session_start_time,
            ),
            device=DeviceDescription(id=f"{subject.id}_{date}", recording_tech=self.recording_tech),
            units=units,
            **recording,
            **split_trials(trials.select_by_mask(used)),
            domain=span(*recording.values()),
        )


def _open(path):
    """Return an open HDF5 file; raise ValueError if it is not NWB."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"cannot be read as HDF5, it is damaged or something else ({error}): "
            "get it again with --redownload"
        ) from error
    if "nwb_version" not in file.attrs:
        file.close()
        raise ValueError("is HDF5, but not NWB: it has no attribute nwb_version")
    return file


def read_spikes(nwbfile):
    """Return all spikes, sorted by time, and the units.

    Units without spikes are kept, with a count of 0, because they are part of the benchmark. Names
    of units are as in torch_brain: `group_NAME/elecELECTRODE/unit_NUMBER`, or `unit_NUMBER` if the
    file does not name the electrodes of its units.

    Returns
    -------
    spikes : IrregularTimeSeries
        `timestamps` in seconds and `unit_index`; simultaneous spikes are in the order of the units.
    units : ArrayDict
        `id`, `unit_number` and `count` (number of spikes).

    Raises
    ------
    ValueError
        If there are no units or no spikes, or the times of a unit are not finite or not sorted.
    """
    table = nwbfile.units
    if table is None or not len(table):
        raise ValueError("has no units")
    if "spike_times" not in table.colnames:
        raise ValueError("has no spike_times in its units")
    times = [np.asarray(unit, dtype=np.float64) for unit in table["spike_times"][:]]
    for unit, of_unit in enumerate(times):
        if not np.isfinite(of_unit).all():
            raise ValueError(f"spike times of unit {unit} are not all finite")
        if (np.diff(of_unit) < 0).any():
            late = int(np.argmax(np.diff(of_unit) < 0)) + 1
            raise ValueError(
                f"spike times of unit {unit} are not in order: "
                f"{of_unit[late]:g} s follows {of_unit[late - 1]:g} s"
            )
    counts = np.array([len(of_unit) for of_unit in times])
    if not counts.sum():
        raise ValueError(f"has no spikes in any of its {len(times)} units")
    timestamps = np.concatenate(times)
    order = np.argsort(timestamps, kind="stable")
    unit_index = np.repeat(np.arange(len(times)), counts)
    spikes = IrregularTimeSeries(timestamps=timestamps[order], unit_index=unit_index[order])
    names = np.array(_unit_names(table))
    return spikes, ArrayDict(id=names, unit_number=np.arange(len(times)), count=counts)


def _unit_names(table):
    numbers = range(len(table))
    if "electrodes" not in table.colnames:
        return [f"unit_{i}" for i in numbers]
    rows = [np.atleast_1d(table["electrodes"].get(i, index=True)) for i in numbers]
    for i, electrodes in enumerate(rows):
        if len(electrodes) != 1:
            raise ValueError(f"unit {i} is from {len(electrodes)} electrodes, not from one")
    groups = table.electrodes.table["group_name"].data[:]
    return [f"group_{groups[e]}/elec{e}/unit_{i}" for i, (e,) in enumerate(rows)]


def read_trials(nwbfile, columns):
    """Return the trials with every column that has one value per trial; missing values are NaN.

    `start_time`, `stop_time` and `split` become `start`, `end` and `split_indicator`.

    Raises
    ------
    ValueError
        If there are no trials; if one of the `columns` or of these three is missing; if a split is
        not one of the benchmark's; or if a trial does not stop after its start and before the start
        of the next trial. Trials of split `none` may overlap because they are not used.
    """
    table = nwbfile.trials
    if table is None or not len(table):
        raise ValueError("has no trials")
    missing = [name for name in (*RENAMED, *columns) if name not in table.colnames]
    if missing:
        raise ValueError(f"trials have no column {', '.join(missing)}")
    plain = [name for name in table.colnames if not isinstance(table[name], VectorIndex)]
    values = {name: np.asarray(table[name][:]) for name in plain}
    values = {k: v.astype("U") if v.dtype.kind == "O" else v for k, v in values.items()}
    _check_trials(values["start_time"], values["stop_time"], values["split"])
    return Interval(
        timekeys=[name for name in plain if name.endswith("_time") and name not in RENAMED],
        **{RENAMED.get(name, name): value for name, value in values.items()},
    )


def _check_trials(start, stop, split):
    for i, (a, b, name) in enumerate(zip(start, stop, split, strict=True)):
        if not a < b:
            raise ValueError(f"trial {i} starts at {a:g} s and stops at {b:g} s")
        if name not in SPLITS:
            raise ValueError(f"trial {i} has split {str(name)!r}, not one of {', '.join(SPLITS)}")
    used = np.flatnonzero(np.isin(split, ("train", "val")))
    for i, j in pairwise(used):
        if start[j] < stop[i]:
            raise ValueError(
                f"trial {j} starts at {start[j]:g} s, before trial {i} stops at {stop[i]:g} s"
            )


def split_trials(trials):
    """Return the domains `train_domain`, `valid_domain` and `test_domain`, trials with all columns.

    The training trials of the benchmark are split 80 to 20 at random (seed 42) into the first two
    domains; its validation trials are the test.

    Parameters
    ----------
    trials : Interval
        Usable trials. Only those of the splits `train` and `val` are returned.

    Raises
    ------
    ValueError
        If there are fewer than three trials for training and validation, or none for the test.
    """
    train = trials.select_by_mask(trials.split_indicator == "train")
    test = trials.select_by_mask(trials.split_indicator == "val")
    if len(train) < 3:
        raise ValueError(f"has {len(train)} usable trials of split 'train', fewer than three")
    if not len(test):
        raise ValueError("has no usable trials of split 'val'")
    train, valid = train.split([0.8, 0.2], shuffle=True, random_seed=42)
    return {"train_domain": train, "valid_domain": valid, "test_domain": test}


def span(*parts):
    """Return one interval from the first start to the last end of time series and intervals."""
    domains = [part if isinstance(part, Interval) else part.domain for part in parts]
    return Interval(
        float(min(domain.start.min() for domain in domains)),
        float(max(domain.end.max() for domain in domains)),
    )
