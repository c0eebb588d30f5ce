"""An entry of a lock -> the features of its model: from the table of its evaluation, or run anew.

The second runs the recipe of the entry, which is a program that comes with the lock.
"""

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from specdiag.dataset.schema.collection import FEATURES
from specdiag.features.conditioning import FeatureSpectrum
from specdiag.features.covariance import FeatureCovariance
from specdiag.lock.entry import Entry, Lock
from specdiag.lock.lockfile import find
from specdiag.lock.place import inside
from specdiag.lock.recipe import FOLDER, Job, explained, load_recipe
from specdiag.obtain.beside import table_path
from specdiag.obtain.job import verified_inputs
from specdiag.obtain.state import State, state
from specdiag.transfer.collection import check_table
from specdiag.transfer.evaluation import read_evaluation
from specdiag.wording import shown

_log = logging.getLogger(__name__)

COUNTS = ("n_samples", "n_groups", "n_blocks", "numerical_rank")


def read_features(root: Path, lock: Lock, entry: Entry) -> FeatureSpectrum:
    """Return the spectrum of the features that the recipe of an entry measured in its evaluation.

    Nothing is run. `root` is the folder of the lock.

    Raises
    ------
    ValueError
        If the entry has no file, or its evaluation has no features or was changed.
    """
    now = _usable(root, lock, entry)
    path = table_path(inside(root, entry.path), "evaluation.json")
    if not path.is_file():
        raise ValueError(
            f"{entry.name} ({entry.scale}): no {path.name} beside its checkpoint, which was not "
            "evaluated here; --layer NAME runs its model"
        )
    check_table(path, now.receipt.tables.get("evaluation.json") if now.receipt else None)
    evaluation = read_evaluation(path)
    if "feature_eigenvalue" not in evaluation:
        raise ValueError(f"{path}: its recipe measured no features; --layer NAME runs its model")
    return _spectrum(evaluation)


def _usable(root: Path, lock: Lock, entry: Entry) -> State:
    """Return the state of an entry that has a file; a warning says if it is not up to date."""
    now = state(root, lock, entry)
    if now.word in ("missing", "corrupt"):
        reason = f" ({now.reason})" if now.reason else ""
        raise ValueError(
            f"{entry.name} is {now.word} at {entry.scale} scale{reason}; "
            f"`specdiag train {entry.name} --scale {entry.scale}` makes it"
        )
    if now.word == "stale":
        _log.warning("%s (%s) is stale: %s", entry.name, entry.scale, now.reason)
    return now


def _spectrum(evaluation: Mapping[str, Any]) -> FeatureSpectrum:
    """Return the spectrum of an evaluation that was checked; missing numbers are NaN."""
    values: dict[str, Any] = {field.name: math.nan for field in fields(FeatureSpectrum)}
    for name, key in FEATURES.items():
        value = evaluation.get(name, math.nan)
        if name == "feature_eigenvalue":
            value = np.asarray(value, np.float64)
        elif key in COUNTS:
            value = int(value)
        elif key.endswith("_interval"):
            low, high = value
            # JSON has no infinity: an end that is missing beside the other is one.
            value = (low, math.inf if math.isnan(high) and not math.isnan(low) else high)
        values[key] = value
    return FeatureSpectrum(**values)


def run_features(
    path: Path,
    lock: Lock,
    entry: Entry,
    *,
    layers: Sequence[str] = (),
    sessions: Sequence[str] = (),
) -> dict[str, FeatureCovariance]:
    """Run the recipe of an entry on its recordings; return the features of layers of its model.

    The function `measure(job, layers)` runs the model whose weights are at `job.output`
    (of an evaluation: those of its parent) over what it evaluates, under `specdiag.attach`.

    Parameters
    ----------
    path : Path
        The lock.
    layers : sequence of str
        Names or patterns such as ``'proc_layers.*'``; without, those that the recipe chooses.
    sessions : sequence of str
        Names or patterns of those sessions in ``params.data.sessions`` that are used; without, all.

    Returns
    -------
    dict of str to FeatureCovariance
        By layer, in the order of the forward pass.

    Raises
    ------
    ValueError
        If the entry has no file, or a session is unknown.
    RuntimeError
        If the recipe has no such function, or fails; the message gives the place in the recipe.
    """
    root = path.parent
    _usable(root, lock, entry)
    params = _with_sessions(entry, sessions) if sessions else copy.deepcopy(entry.params)
    recipe = load_recipe(root, entry.recipe)
    if not hasattr(recipe, "measure"):
        raise RuntimeError(
            f"recipes/{entry.recipe}.py has no function measure(job, layers), which runs a model "
            "under specdiag.attach; docs/features.md has an example"
        )
    inputs, _ = verified_inputs(root, entry)
    parent = find(lock, entry.parent.name, entry.scale) if entry.parent else None
    weights = parent if parent and entry.kind == "evaluation" else entry
    with TemporaryDirectory() as folder:
        job = Job(
            name=entry.name,
            scale=entry.scale,
            params=params,
            parent=inside(root, parent.path) if parent else None,
            inputs=inputs,
            folder=Path(folder),
            output=inside(root, weights.path),
            cost=entry.cost,
        )
        try:
            result = recipe.measure(job, list(layers))
        except (Exception, SystemExit) as error:  # a recipe is a user's program
            raise RuntimeError(explained(error, root / FOLDER, entry.recipe)) from error
    return _checked(entry, result)


def _with_sessions(entry: Entry, patterns: Sequence[str]) -> dict[str, Any]:
    """Return the params of an entry with only those of its sessions that match."""
    params = copy.deepcopy(entry.params)
    data = params.get("data")
    known = data.get("sessions") if isinstance(data, dict) else None
    if not isinstance(known, list) or not all(isinstance(name, str) for name in known):
        raise ValueError(f"{entry.name} ({entry.scale}) declares no params.data.sessions")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(
                f"{entry.name} ({entry.scale}) has no session {shown(pattern)}; "
                f"it has {', '.join(map(shown, known))}"
            )
    params["data"]["sessions"] = [
        name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    return params


def _checked(entry: Entry, result: Any) -> dict[str, FeatureCovariance]:
    """Return what `measure` of a recipe returned: a mapping of layers to covariances."""
    if (
        not isinstance(result, Mapping)
        or not result
        or not all(isinstance(one, FeatureCovariance) for one in result.values())
    ):
        raise RuntimeError(
            f"measure() of recipes/{entry.recipe}.py returned {shown(repr(result), quote=False)}; "
            "expected a mapping of layers to what specdiag.attach gives"
        )
    return {str(name): one for name, one in result.items()}
