"""Simulated recordings, in the files that torch_brain's pipelines write of real ones.

At desk scale they stand for Perich and Miller's centre-out sessions, for area2_bump, for dmfc_rsg and
for the open-field sessions of Vollan and Moser. Names, units, intervals and splits are those of the
processed brainsets, so that recipes read both by the same lines.

What is realistic: movements (minimum jerk with scatter, curvature, reaction times, failed trials,
jerks of the hand), firing rates, tuning to velocity and speed with a lag that differs over units,
preparatory activity, units that do not care, gains that drift, units that come and go between sessions
of one animal, scalar timing, grid, place and head direction units under theta.

What is not: spikes are Poisson, so that there is no refractoriness and no noise that units share but
for the slow gain; tuning is the same in all of a session; which units recur does not depend on the
time between sessions; nothing carries over between animals but the rules; electrodes have one unit
each; a passive bump is a movement as any other; sessions are minutes long. What decoders reach here
says nothing about the brain.

Everything is drawn from `simulation["seed"]`, which is the animal's, and the session's name.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._tasks import task_of
from . import files

VERSION = "2"  # of what is simulated: raise it when other arrays come out
ORIGIN = f"simulated/{VERSION}"  # what such a recording says of its origin
MIN_SECONDS = 60


def simulate(session: str, simulation: Mapping[str, Any]) -> Any:
    """Return a simulated recording, a torch_brain.data.Data as the session's brainset has it.

    Parameters
    ----------
    session : str
        A name that a recording could have; it also says which brainset is meant.
    simulation : mapping
        `task` (center_out, interval_timing or open_field), `seconds`, `units` (from, to) and `seed`.

    Raises
    ------
    ValueError
        When the session's kind is not simulated as that task, or settings are out of range.
    """
    from torch_brain.data import BrainsetDescription

    brainset = task_of(session).brainset
    build = _checked(session, brainset, simulation)
    rng = np.random.default_rng([simulation["seed"], *session.encode()])
    count = int(rng.integers(simulation["units"][0], simulation["units"][1] + 1))
    data = build(session, simulation, rng, count)
    data.brainset = BrainsetDescription(
        id=brainset,
        origin_version=ORIGIN,
        derived_version=VERSION,
        source="specdiag",
        description="Simulated, not recorded",
    )
    data.simulation = digest(session, simulation)
    return data


def digest(session: str, simulation: Mapping[str, Any]) -> str:
    """Return what tells a simulated recording from others: SHA-256 of its settings and VERSION."""
    text = json.dumps([VERSION, session, dict(simulation)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_recordings(
    folder: Path | str, sessions: Iterable[str], simulation: Mapping[str, Any]
) -> list[Path]:
    """Return the files FOLDER/BRAINSET/SESSION.h5, simulated where they are not there yet.

    A file of the same settings is kept; one of other settings is replaced. Each is written beside and
    renamed, so that it is there whole or not at all, whoever else writes it.

    Raises
    ------
    ValueError
        As `simulate` does; or when a recording that was not simulated is there under that name.
    """
    paths = []
    for session in sessions:
        path = Path(folder) / task_of(session).brainset / f"{session}.h5"
        if not _is_there(path, digest(session, simulation)):
            _save(simulate(session, simulation), path)
        paths.append(path)
    return paths


def _is_there(path: Path, wanted: str) -> bool:
    import h5py

    if not path.exists():
        return False
    try:
        with h5py.File(path) as file:
            found = file.attrs.get("simulation")
    except OSError:
        found = None
    if found is None:
        raise ValueError(f"{path}: not a simulated recording; move it away, or name another folder")
    return bool(found == wanted)


def _save(data: Any, path: Path) -> None:
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        with h5py.File(beside, "w") as file:
            data.to_hdf5(file)
        umask = os.umask(0)
        os.umask(umask)
        Path(beside).chmod(0o666 & ~umask)
        Path(beside).replace(path)
    finally:
        Path(beside).unlink(missing_ok=True)


def _checked(session: str, brainset: str, simulation: Mapping[str, Any]) -> Any:
    """Return what builds a recording of this brainset, after a look at the settings."""
    task, build = {
        "perich_miller_population_2018": ("center_out", files.center_out),
        "area2_bump": ("center_out", files.area2_bump),
        "dmfc_rsg": ("interval_timing", files.interval_timing),
        "vollan_moser_alternating_2025": ("open_field", files.open_field),
    }[brainset]
    if "random_target" in session or (task == "open_field" and not session.startswith("of_")):
        raise ValueError(
            f"{session}: sessions of this kind are not simulated; name a center_out_reaching or an "
            "open-field one"
        )
    if sorted(simulation) != ["seconds", "seed", "task", "units"]:
        raise ValueError(
            f"{session}: simulation has {', '.join(sorted(simulation))}; expected seconds, seed, task "
            "and units"
        )
    if simulation["task"] != task:
        raise ValueError(
            f"{session}: simulation.task is {simulation['task']!r}; sessions of {brainset} are "
            f"simulated as {task!r}"
        )
    if not 1 <= simulation["units"][0] <= simulation["units"][1]:
        raise ValueError(
            f"{session}: simulation.units is {list(simulation['units'])}; expected from and to, "
            "such as [30, 60]"
        )
    if not simulation["seconds"] >= MIN_SECONDS:
        raise ValueError(
            f"{session}: simulation.seconds is {simulation['seconds']}; give at least "
            f"{MIN_SECONDS}, for training, validation and test"
        )
    return build
