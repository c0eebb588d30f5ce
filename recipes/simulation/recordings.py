"""A session and its settings -> a simulated recording, in the files that torch_brain writes.

At desk scale simulations replace Perich and Miller's centre-out sessions, area2_bump, dmfc_rsg and
the open-field sessions of Vollan and Moser. Names, units, intervals and splits are as in the
processed brainsets, so the same code reads both.

Realistic properties: movements (minimum jerk with scatter, curvature, reaction times, failed
trials, jerks of the hand); firing rates; tuning to velocity and speed with a lag that differs
between units; preparatory activity; units without tuning; gains that drift; units that are recorded
in some sessions of an animal only; scalar timing; grid, place and head direction units modulated by
theta.

Unrealistic properties: spikes are Poisson, so there is no refractoriness, and no noise is common to
units except the slow gain; tuning is constant within a session; the time between sessions does not
matter for the units that they have in common; animals have nothing in common except the rules;
each electrode has one unit; a passive bump is a movement like any other; sessions last minutes. The
performance of decoders on these recordings says nothing about the brain.

Everything is drawn from `simulation["seed"]`, which belongs to the animal, and the name of the
session.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from specdiag.files import find_file
from specdiag.outputs import whole_file

from .._tasks import task_of
from . import files

VERSION = "2"  # of the simulator: raise it when the arrays change
ORIGIN = f"simulated/{VERSION}"  # the origin_version of simulated recordings
MIN_SECONDS = 60


def simulate(session: str, simulation: Mapping[str, Any]) -> Any:
    """Return a simulated recording, a torch_brain.data.Data in the layout of its brainset.

    Parameters
    ----------
    session : str
        Name of a session; the brainset follows from it.
    simulation : mapping
        `task` (center_out, interval_timing or open_field), `seconds`, `units` (smallest and largest
        number) and `seed`.

    Raises
    ------
    ValueError
        If sessions of this kind are not simulated as this task, or settings are out of range.
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
    """Return the identity of a simulated recording: SHA-256 of name, settings and VERSION."""
    text = json.dumps([VERSION, session, dict(simulation)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_recordings(
    folder: Path | str,
    sessions: Iterable[str],
    simulation: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write simulated recordings to FOLDER/BRAINSET/SESSION.h5, and return these paths.

    A file with the same settings is kept; one with other settings is replaced, and with `overwrite`
    any other regular file. A file is complete or absent, even if several processes write it.

    Raises
    ------
    ValueError
        As in `simulate`, or if a file of this name holds anything but a simulated recording and
        `overwrite` is false.
    """
    paths = []
    for session in sessions:
        path = Path(folder) / task_of(session).brainset / f"{session}.h5"
        if not _is_current(path, digest(session, simulation), overwrite):
            _save(simulate(session, simulation), path)
        paths.append(path)
    return paths


def _is_current(path: Path, expected: str, overwrite: bool) -> bool:
    """Return whether a file holds the simulated recording of this digest, and need not be written.

    A file that must not be replaced raises ValueError.
    """
    import h5py

    if not path.exists():
        return False
    try:
        with h5py.File(find_file(path).path) as file:
            present = file.attrs.get("simulation")
    except OSError:
        present = None
    if present is None and not overwrite:
        raise ValueError(
            f"{path}: not a simulated recording; move it, name another folder, or replace it "
            "(--force, overwrite=True)"
        )
    return str(present) == expected


def _save(data: Any, path: Path) -> None:
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    # specdiag has locked the file already.
    with whole_file(path) as partial, h5py.File(partial.name, "w", locking=False) as file:
        data.to_hdf5(file)


def _checked(session: str, brainset: str, simulation: Mapping[str, Any]) -> Any:
    """Return the function that makes a recording of this brainset; check the settings first."""
    task, build = {
        "perich_miller_population_2018": ("center_out", files.center_out),
        "area2_bump": ("center_out", files.area2_bump),
        "dmfc_rsg": ("interval_timing", files.interval_timing),
        "vollan_moser_alternating_2025": ("open_field", files.open_field),
    }[brainset]
    if "random_target" in session or (task == "open_field" and not session.startswith("of_")):
        raise ValueError(
            f"{session}: sessions of this kind are not simulated; name a center_out_reaching or an "
            "open-field session"
        )
    if sorted(simulation) != ["seconds", "seed", "task", "units"]:
        raise ValueError(
            f"{session}: simulation has {', '.join(sorted(simulation))}; expected seconds, seed, "
            "task and units"
        )
    if simulation["task"] != task:
        raise ValueError(
            f"{session}: simulation.task is {simulation['task']!r}; sessions of {brainset} are "
            f"simulated as {task!r}"
        )
    if not 1 <= simulation["units"][0] <= simulation["units"][1]:
        raise ValueError(
            f"{session}: simulation.units is {list(simulation['units'])}; expected a smallest and "
            "a largest number, such as [30, 60]"
        )
    if not simulation["seconds"] >= MIN_SECONDS:
        raise ValueError(
            f"{session}: simulation.seconds is {simulation['seconds']}; give at least "
            f"{MIN_SECONDS}, for training, validation and test"
        )
    return build
