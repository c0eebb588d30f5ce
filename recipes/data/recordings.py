"""The recordings of an entry, opened and checked before a training starts.

At desk scale they are simulated where they are not there yet. At paper scale they are brainsets that the
`brainsets` command of torch_brain has prepared; its classes open both.
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

LOCAL = ("area2_bump", "dmfc_rsg")  # prepared by pipelines of our own


def open_recordings(params: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Return the recordings of an entry by session: torch_brain.data.Data, read when they are used.

    Names of units begin with that of the session, as torch_brain's classes give them.

    Parameters
    ----------
    params : mapping
        Of an entry of checkpoints.lock: `data`, `target` and, at desk scale, `simulation`.
    folder : Path or None
        Holds BRAINSET/SESSION.h5. Simulated recordings are written there; of others None stands for
        the folder that the `brainsets` command is configured to prepare into.

    Raises
    ------
    FileNotFoundError
        When recordings are not prepared, with the command that does it.
    ValueError
        When a session's name is none, or its recording cannot be used, with what to do.
    """
    sessions = params["data"]["sessions"]
    simulation = params.get("simulation")
    tasks = {session: task_of(session) for session in sessions}
    if simulation:
        if folder is None:
            raise ValueError("simulated recordings need a folder to be written to; name one")
        write_recordings(folder, sessions, simulation)
    root = folder or _processed()
    _find(root, tasks, folder)
    found = {}
    for session, task in tasks.items():
        again = (
            f"remove {root / task.brainset / session}.h5, and it is simulated again"
            if simulation
            else f"prepare it again: {_command(task, session, folder)} --reprocess"
        )
        data = _open(root, task, session, again)
        version = ORIGIN if simulation else task.version
        problem = next(problems(data, params, version), None)
        if problem:
            raise ValueError(f"{session}: {problem}; {again}")
        found[session] = data
    return found


def problems(data: Any, params: Mapping[str, Any], version: str) -> Iterator[str]:
    """Yield what keeps a recording from being used, worst first; each assumes that the last is cured.

    Parameters
    ----------
    data : torch_brain.data.Data
    params : mapping
        `data` and `target` of an entry.
    version : str
        What the recording must say of its origin.
    """
    if data.brainset.origin_version != version:
        yield f"made from version {data.brainset.origin_version}, expected {version}"
    names, counts = np.unique(np.asarray(data.units.id).astype(str), return_counts=True)
    if not len(names):
        yield "no units"
    elif counts.max() > 1:
        yield f"the name {names[counts > 1][0]} stands for {counts.max()} units, expected one"
    if not len(data.spikes.timestamps):
        yield f"no spikes of its {len(names)} units"
    yield from _spikes_of_nothing(data.spikes, len(names))
    part = session_arrays(data, params)
    for one, other in combinations(SPLITS, 2):
        yield from _overlap(part, one, other)
    for split in SPLITS:
        yield from _too_short(part[split], split, params["data"])
    yield from _undecodable(part, params["target"]["variable"])


def _spikes_of_nothing(spikes: Any, n_units: int) -> Iterator[str]:
    """Yield that spikes have no time, or no unit."""
    if lost := np.count_nonzero(~np.isfinite(spikes.timestamps)):
        yield f"{lost} of its {len(spikes.timestamps)} spike times are not finite"
    index = np.asarray(spikes.unit_index)
    if index.min() < 0 or index.max() >= n_units:
        yield f"spikes.unit_index is {index.min()} to {index.max()}, expected 0 to {n_units - 1}"


def _overlap(part: Mapping[str, Any], one: str, other: str) -> Iterator[str]:
    """Yield at most one line: that an interval of a split reaches into one of another split."""
    for start, end in part[one]:
        meets = part[other][(part[other][:, 0] < end) & (part[other][:, 1] > start)]
        if len(meets):
            a, b = meets[0]
            yield (
                f"{one} and {other} overlap: {start:.2f} to {end:.2f} s and {a:.2f} to {b:.2f} s, "
                "expected splits that share no time"
            )
            return


def _too_short(bounds: Floats, split: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield at most one line: that no interval of a split holds a window."""
    longest = float((bounds[:, 1] - bounds[:, 0]).max()) if len(bounds) else 0.0
    if longest < settings["window"] - 1e-9:
        part = settings["train_fraction"]
        cut = f" (the first {part:.0%} of it)" if split == "train" and part < 1 else ""
        yield (
            f"no window of {settings['window']:g} s fits into {split}{cut}, whose longest interval "
            f"has {longest:.2f} s"
        )


def _undecodable(part: Mapping[str, Any], variable: str) -> Iterator[str]:
    """Yield that what is decoded is missing where it is trained or evaluated, or the same throughout."""
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
                f"{len(bad)} samples of {variable} in the {kind} intervals are not finite, the first "
                f"at {bad[0]:.2f} s"
            )
    for split in ("valid", "test"):
        values = part["values"][part["evaluated"] & inside(times, part[split])]
        if len(values) and (values == values[0]).all(axis=0).any():
            yield f"{variable} is the same in all evaluation intervals of {split}: no R² can be given"


def _processed() -> Path:
    """Return the folder that the `brainsets` command prepares into."""
    from torch_brain.pipeline.config import CONFIG_FILE, load_config

    config = load_config(CONFIG_FILE)
    if config is None:
        raise FileNotFoundError(
            "no folder of prepared recordings is configured; name one: "
            "brainsets config set --raw-dir RAW --processed-dir PROCESSED"
        )
    return Path(config["processed_dir"]).expanduser()


def _find(root: Path, tasks: Mapping[str, Task], folder: Path | None) -> None:
    """Raise FileNotFoundError unless all recordings are there."""
    absent = [s for s, task in tasks.items() if not (root / task.brainset / f"{s}.h5").is_file()]
    if absent:
        task = tasks[absent[0]]
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise FileNotFoundError(
            f"{absent[0]}{more}: not in {root / task.brainset}; prepare it: "
            f"{_command(task, absent[0] if not more else '', folder)}"
        )


def _command(task: Task, session: str, folder: Path | None) -> str:
    """Return the command that prepares a session, or without one the whole brainset."""
    local = task.brainset in LOCAL
    words = ["brainsets prepare"]
    words += [f"recipes/pipelines/{task.brainset} --local" if local else task.brainset]
    words += [f"--single {session}"] if session else []
    words += [f"--processed-dir {quote(str(folder))}"] if folder else []
    return " ".join(words)


def _open(root: Path, task: Task, session: str, again: str) -> Any:
    """Return a recording through the class that torch_brain has for its brainset."""
    from torch_brain import datasets

    dataset = {
        "perich_miller_population_2018": datasets.PerichMillerPopulation2018,
        "vollan_moser_alternating_2025": datasets.VollanMoserAlternating2025,
    }.get(task.brainset, datasets.PeiPandarinathNLB2021)  # of the same benchmark
    try:
        opened = dataset(root=str(root), recording_ids=[session], dirname=task.brainset)
        data = opened.get_recording(session)
        _ = data.brainset.origin_version, data.spikes.timestamps  # that it has them
    except (OSError, KeyError, AttributeError) as error:  # not HDF5, or not of torch_brain
        reason = " ".join(str(error).split())
        raise ValueError(f"{session}: cannot be read ({reason}); {again}") from error
    return data
