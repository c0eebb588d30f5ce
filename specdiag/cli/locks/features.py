"""A name in the lock -> the features of its model, for the command `features`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specdiag.cli.options import open_lock, select, stdout_to_stderr

if TYPE_CHECKING:
    from specdiag.features.conditioning import FeatureSpectrum
    from specdiag.features.covariance import FeatureCovariance
    from specdiag.lock.entry import Entry, Lock, Scale

READ = "readout"  # name of the features in an evaluation: the input of the last layer


def entry_features(
    name: str,
    *,
    lock_path: Path | None,
    scale: "Scale | None",
    layers: Sequence[str],
    sessions: Sequence[str],
) -> "dict[str, FeatureCovariance] | FeatureSpectrum":
    """Return the features of the model of an entry by layer, in the order of the forward pass.

    Without layers and sessions nothing is run: the result is the spectrum in the entry's
    evaluation, of the layer `READ`. With them the recipe of the entry runs, and what it prints goes
    to stderr.
    """
    from specdiag.transfer.features import read_features, run_features

    if "" in (*layers, *sessions):
        raise click.UsageError("--layer or --sessions: the name is empty")
    path, lock = open_lock(lock_path)
    entry = _only(path, lock, name, scale)
    if not layers and not sessions:
        return read_features(path.parent, lock, entry)
    with stdout_to_stderr():
        return run_features(path, lock, entry, layers=layers, sessions=sessions)


def _only(path: Path, lock: "Lock", name: str, scale: "Scale | None") -> "Entry":
    """Return the entry of a name: of the scale, or of the only scale at which it has a file."""
    from specdiag.obtain.state import state

    found = select([(path, lock)], [name], scale)
    if len(found) == 1:
        return found[0]
    made = [e for e in found if state(path.parent, lock, e).word not in ("missing", "corrupt")]
    if len(made) > 1:
        raise click.UsageError(f"{name} exists at several scales: give --scale desk or paper")
    return made[0] if made else found[0]
