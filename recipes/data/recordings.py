"""An entry -> its recordings, opened and checked before a training starts.

At desk scale missing recordings are simulated. At paper scale they are brainsets that torch_brain's
command `brainsets` has prepared. Both are opened by the classes of torch_brain.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from .._tasks import Task, task_of
from ..simulation.recordings import ORIGIN, write_recordings
from .arrays import SPLITS, Floats, inside, session_arrays

LOCAL = ("area2_bump", "dmfc_rsg")  # prepared by the pipelines in recipes/pipelines


def open_recordings(params: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Return the recordings of an entry by session: torch_brain.data.Data, read lazily.

    Names of units are SESSION/NAME, as the classes of torch_brain make them.

    Parameters
    ----------
    params : mapping
        Params of an entry of checkpoints.lock: `data`, `target` and, at desk scale, `simulation`.
    folder : Path or None
        Folder with BRAINSET/SESSION.h5; simulated recordings are written there. For prepared
        recordings None is the folder that is configured for the command `brainsets`.

    Raises
    ------
    FileNotFoundError
        If recordings are not prepared; the message has the command that prepares them.
    ValueError
        If the name of a session is unknown, or its recording cannot be used.
    """
    sessions = params["data"]["sessions"]
    simulation = params.get("simulation")
    tasks = {session: task_of(session) for session in sessions}
    if simulation:
        if folder is None:
            raise ValueError("simulated recordings are written to a folder; name one")
        write_recordings(folder, sessions, simulation)
    root = folder or _processed()
    _check_prepared(root, tasks, folder)
    recordings = {}
    for session, task in tasks.items():
        again = (
            f"remove {root / task.brainset / session}.h5, so that it is simulated again"
            if simulation
            else f"prepare it again: {_command(task, session, folder)} --reprocess"
        )
        data = _open(root, task, session, again)
        version = ORIGIN if simulation else task.version
        problem = next(problems(data, params, version), None)
        if problem:
            raise ValueError(f"{session}: {problem}; {again}")
        recordings[session] = data
    return recordings


def problems(data: Any, params: Mapping[str, Any], version: str) -> Iterator[str]:
    """Yield the reasons why a recording cannot be used, the worst first.

    Later checks assume that the earlier ones passed: only the first reason is reliable.

    Parameters
    ----------
    data : torch_brain.data.Data
    params : mapping
        `data` and `target` of an entry.
    version : str
        The `brainset.origin_version` that the recording must have.
    """
    if data.brainset.origin_version != version:
        yield f"made from version {data.brainset.origin_version}, expected {version}"
    names, counts = np.unique(np.asarray(data.units.id).astype(str), return_counts=True)
    if not len(names):
        yield "no units"
    elif counts.max() > 1:
        yield f"{counts.max()} units have the name {names[counts > 1][0]}, expected one"
    if not len(data.spikes.timestamps):
        yield f"none of its {len(names)} units has a spike"
    yield from _invalid_spikes(data.spikes, len(names))
    part = session_arrays(data, params)
    for one, other in combinations(SPLITS, 2):
        yield from _overlap(part, one, other)
    for split in SPLITS:
        yield from _too_short(part[split], split, params["data"])
    yield from _undecodable(part, params["target"]["variable"])


def _invalid_spikes(spikes: Any, n_units: int) -> Iterator[str]:
    """Yield a line if times of spikes are not finite, and one if units of spikes do not exist."""
    if n_bad := np.count_nonzero(~np.isfinite(spikes.timestamps)):
        yield f"{n_bad} of its {len(spikes.timestamps)} spike times are not finite"
    index = np.asarray(spikes.unit_index)
    if index.min() < 0 or index.max() >= n_units:
        yield f"spikes.unit_index is {index.min()} to {index.max()}, expected 0 to {n_units - 1}"


def _overlap(part: Mapping[str, Any], one: str, other: str) -> Iterator[str]:
    """Yield a line if an interval of one split overlaps one of another split."""
    for start, end in part[one]:
        overlapping = part[other][(part[other][:, 0] < end) & (part[other][:, 1] > start)]
        if len(overlapping):
            a, b = overlapping[0]
            yield (
                f"{one} and {other} overlap: {start:.2f} to {end:.2f} s and {a:.2f} to {b:.2f} s, "
                "expected splits without overlap"
            )
            return


def _too_short(bounds: Floats, split: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line if no interval of a split is as long as a window."""
    longest = float((bounds[:, 1] - bounds[:, 0]).max()) if len(bounds) else 0.0
    if longest < settings["window"] - 1e-9:
        part = settings["train_fraction"]
        cut = f" (the first {part:.0%} of it)" if split == "train" and part < 1 else ""
        yield (
            f"no window of {settings['window']:g} s fits into {split}{cut}: its longest interval "
            f"has {longest:.2f} s"
        )


def _undecodable(part: Mapping[str, Any], variable: str) -> Iterator[str]:
    """Yield a line for every defect of the target: no samples, not finite, constant."""
    times = part["times"]
    held_out = inside(times, np.concatenate([part["valid"], part["test"]]))
    missing = ~np.isfinite(part["values"]).all(axis=1)
    for kind, used in (
        ("training", inside(times, part["train"])),
        ("evaluation", part["evaluated"] & held_out),
    ):
        if not used.any():
            yield f"no sample of {variable} in the {kind} intervals"
        if len(bad := times[missing & used]):
            yield (
                f"{len(bad)} samples of {variable} in the {kind} intervals are not finite, "
                f"the first at {bad[0]:.2f} s"
            )
    for split in ("valid", "test"):
        values = part["values"][part["evaluated"] & inside(times, part[split])]
        if len(values) and (values == values[0]).all(axis=0).any():
            yield (
                f"{variable} is constant in all evaluation intervals of {split}: R² is undefined"
            )


def _processed() -> Path:
    """Return the folder into which the command `brainsets` prepares recordings."""
    from torch_brain.pipeline.config import CONFIG_FILE, load_config

    config = load_config(CONFIG_FILE)
    if config is None:
        raise FileNotFoundError(
            "the folder of prepared recordings is not configured; run: "
            "brainsets config set --raw-dir RAW --processed-dir PROCESSED"
        )
    return Path(config["processed_dir"]).expanduser()


def _check_prepared(root: Path, tasks: Mapping[str, Task], folder: Path | None) -> None:
    """Raise FileNotFoundError unless the files of all recordings exist."""
    absent = [s for s, task in tasks.items() if not (root / task.brainset / f"{s}.h5").is_file()]
    if absent:
        task = tasks[absent[0]]
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise FileNotFoundError(
            f"{absent[0]}{more}: not in {root / task.brainset}; run: "
            f"{_command(task, absent[0] if not more else '', folder)}"
        )


def _command(task: Task, session: str, folder: Path | None) -> str:
    """Return the command that prepares a session, or the whole brainset if `session` is empty."""
    local = task.brainset in LOCAL
    words = ["brainsets prepare"]
    words += [f"recipes/pipelines/{task.brainset} --local" if local else task.brainset]
    words += [f"--single {session}"] if session else []
    words += [f"--processed-dir {quote(str(folder))}"] if folder else []
    return " ".join(words)


def _open(root: Path, task: Task, session: str, again: str) -> Any:
    """Return a recording, opened by the class that torch_brain has for its brainset."""
    from torch_brain import datasets

    dataset = {
        "perich_miller_population_2018": datasets.PerichMillerPopulation2018,
        "vollan_moser_alternating_2025": datasets.VollanMoserAlternating2025,
    }.get(task.brainset, datasets.PeiPandarinathNLB2021)  # both are of this benchmark
    try:
        opened = dataset(root=str(root), recording_ids=[session], dirname=task.brainset)
        data = opened.get_recording(session)
        _ = data.brainset.origin_version, data.spikes.timestamps  # raises if one is missing
    except (OSError, KeyError, AttributeError) as error:  # not HDF5, or not written by torch_brain
        reason = " ".join(str(error).split())
        raise ValueError(f"{session}: cannot be read ({reason}); {again}") from error
    return data
