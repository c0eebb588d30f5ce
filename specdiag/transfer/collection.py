"""Entries of locks -> one Dataset that links weight spectra, feature covariance and test R².

All values are read from files beside the checkpoints: NAME.ckpt.SHA.nc, the spectra of the file
with that digest; NAME.ckpt.evaluation.json, R² by session and the covariance of the features; and
the receipt. Only missing spectra are measured. So a collection can be made again at any time, with
the same bytes.
"""

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.weights.find import weights
from specdiag.dataset.schema.collection import COLLECTION, COLLECTION_VERSION, FEATURES
from specdiag.dataset.schema.layers import SCHEMA
from specdiag.dataset.schema.variable import labelled, missing_values
from specdiag.dataset.versions import check_dataset
from specdiag.files import OutsideError
from specdiag.htsr.tail.alternatives import ALTERNATIVES
from specdiag.lock.entry import Entry, Lock, Scale
from specdiag.lock.lockfile import find, load, select
from specdiag.lock.place import inside
from specdiag.obtain.beside import attached_spectra, sha256_of, spectra_path, table_path
from specdiag.obtain.state import USABLE, Receipt, state
from specdiag.transfer.evaluation import read_evaluation
from specdiag.transfer.factors import factors, labels
from specdiag.wording import one_line

if TYPE_CHECKING:
    import xarray as xr

_log = logging.getLogger(__name__)

_BY_LAYER = [name for name, spec in SCHEMA.items() if spec.dims[:2] == ("checkpoint", "layer")]
_TEXTS = ("status", "reason", "verdict", "shape", "stored_dtype")  # coordinates by layer


class Row(NamedTuple):
    """The values of one entry."""

    factors: Mapping[str, Any]  # of `specdiag.transfer.factors`, state, sha256, how and n_changed
    spectra: "xr.Dataset | None"  # of one checkpoint
    reason: str  # why there are no spectra
    evaluation: Mapping[str, Any]  # r2, session_r2, and features under the names of the schema
    unreadable: Sequence[str] = ()  # damaged files beside its checkpoint


def collect(
    *locks: str | os.PathLike[str],
    names: Iterable[str] = (),
    group: str | None = None,
    scale: Scale | None = None,
    progress: Callable[[int, int], object] | None = None,
    measure: Callable[[list[Path]], object] | None = None,
) -> "xr.Dataset":
    """Return the Dataset of the checkpoints of one or several locks: spectra, features and test R².

    Spectra beside a checkpoint are read; missing ones are measured and written there.

    Parameters
    ----------
    *locks : path
        Such as the locks of several seeds. Entries with the same name get the scale or the seed in
        their labels.
    names, group, scale : optional
        Only entries of these names, of this group, of this scale.
    progress : callable, optional
        Called with the number of entries that are done and the number of all.
    measure : callable, optional
        Given the checkpoints without spectra beside them, it writes these with
        `specdiag.obtain.beside.attach_spectra`. By default each is measured when its row is made.

    Returns
    -------
    xarray.Dataset
        As in `specdiag.dataset.schema`, SCHEMA and COLLECTION; `specdiag.save_spectra` writes it.
        An entry whose checkpoint is missing, stale or corrupt has NaN and layers of status
        `absent`; its `state` gives the reason. The same holds for values whose file beside a
        checkpoint cannot be read: a warning names the file, and so does `unreadable` in the
        provenance.

    Raises
    ------
    ValueError
        If no entry is chosen, or none has a checkpoint with spectra.
    OSError
        If a lock or a checkpoint cannot be read.

    Examples
    --------
    >>> dataset = specdiag.collect("checkpoints.lock", scale="desk")  # doctest: +SKIP
    >>> dataset.r2.sel(checkpoint="base/poyo_mp_converged")  # doctest: +SKIP
    """
    absolute = (Path(lock).absolute() for lock in locks)
    paths = list(dict.fromkeys(path.parent.resolve() / path.name for path in absolute))
    if not paths:
        raise ValueError("collect() needs at least one lock: the path of a checkpoints.lock")
    entries = select([(path, load(path)) for path in paths], names, scale, group)
    if not entries:
        raise ValueError("no entries to collect; `specdiag list` shows all entries")
    if measure and (targets := _without_spectra(entries)):
        measure(targets)
    rows = []
    for path, lock, entry in entries:
        rows.append(_row(path.parent, lock, entry))
        if progress:
            progress(len(rows), len(entries))
    if all(row.spectra is None for row in rows):
        raise ValueError(
            f"none of the {len(rows)} entries has a checkpoint with spectra; the first one: "
            f"{rows[0].reason}; `specdiag list` shows the state of all, `specdiag train` makes "
            "missing checkpoints"
        )
    return build(rows, [{"name": path.name, "sha256": sha256_of(path)} for path in paths])


def _without_spectra(entries: Iterable[tuple[Path, Lock, Entry]]) -> list[Path]:
    targets = {
        inside(path.parent, entry.path)
        for path, lock, entry in entries
        if entry.kind == "checkpoint" and state(path.parent, lock, entry).word in USABLE
    }
    return sorted(target for target in targets if not _has_spectra(target))


def _has_spectra(target: Path) -> bool:
    with suppress(OutsideError):  # raised again, and logged, when the row is made
        return spectra_path(target).exists()
    return True


def _row(root: Path, lock: Lock, entry: Entry) -> Row:
    """Return the row of an entry; an evaluation has the weights of its parent."""
    parent = find(lock, entry.parent.name, entry.scale) if entry.parent else None
    weights = parent if parent and entry.kind == "evaluation" else entry
    own, (word, why, _) = state(root, lock, entry), state(root, lock, weights)
    spectra, reason = None, f"the checkpoint of {weights.name} is {word}" + f" ({why})" * bool(why)
    unreadable: list[str] = []
    if word in USABLE:
        spectra, reason = _spectra(inside(root, weights.path))
    evaluation: dict[str, Any] = {}
    how, n_changed = "", math.nan
    if own.word in USABLE and own.receipt:
        how = own.receipt.how
        evaluation = _evaluation(inside(root, entry.path), own.receipt, unreadable)
        if parent and spectra is not None:
            n_changed = _n_changed(spectra, inside(root, weights.path), inside(root, parent.path))
    return Row(
        factors={
            **factors(entry, parent),
            "state": own.word,
            "sha256": sha256_of(inside(root, weights.path)) if word in USABLE else "",
            "how": how,
            "n_changed": n_changed,
        },
        spectra=spectra,
        reason=reason,
        evaluation=evaluation,
        unreadable=unreadable,
    )


def _n_changed(spectra: "xr.Dataset", path: Path, parent: Path) -> float:
    """Return how many measured matrices of a checkpoint have other bits than those of its parent.

    NaN where nothing was measured, or the parent's file is missing or damaged.
    """
    names = spectra.layer.values[np.isin(spectra.status.values[0], ("fit", "degenerate"))]
    if not parent.is_file() or not len(names):
        return math.nan
    if sha256_of(path) == sha256_of(parent):
        return 0.0
    try:
        ours, theirs = ({w.name: w for w in weights(open_checkpoint(p))} for p in (path, parent))
        return float(sum(not _is_same(ours[name], theirs.get(name)) for name in names))
    except (ValueError, OSError) as error:
        _log.warning("%s: not compared with its parent: %s", path.name, one_line(error))
        return math.nan


def _is_same(a: Tensor, b: Tensor | None) -> bool:
    if b is None or (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return a.read().tobytes() == b.read().tobytes()


def _spectra(target: Path) -> tuple["xr.Dataset | None", str]:
    """Return the spectra of a checkpoint, measured now if they are missing, or a reason."""
    try:
        if not spectra_path(target).exists():
            _log.info("measuring %s: it has no spectra beside it yet", target.name)
        return attached_spectra(target), ""
    except ValueError as error:
        _log.warning("%s: no spectra: %s", target.name, one_line(error))
        return None, one_line(error)


def check_table(path: Path, sha256: str | None) -> None:
    """Raise ValueError if a table is not the one of the receipt, where that has its digest."""
    if sha256 not in (None, sha256_of(path)):
        raise ValueError(
            f"{path}: changed since it was made; make it again with `specdiag train NAME --force`, "
            "or remove it"
        )


def _evaluation(target: Path, receipt: Receipt, unreadable: list[str]) -> dict[str, Any]:
    """Return R² and features of the checkpoint; those of an earlier build are left out.

    A file that cannot be read is added to `unreadable`.
    """
    metric = receipt.metrics.get("r2")
    r2 = metric.value if metric else math.nan
    path = target.with_name(f"{target.name}.evaluation.json")
    if not path.is_file():
        return {"r2": r2}
    try:
        path = table_path(target, "evaluation.json")
        check_table(path, receipt.tables.get("evaluation.json"))
        evaluation = read_evaluation(path)
    except (ValueError, OSError) as error:
        _log.warning("%s", one_line(error))
        unreadable.append(path.name)
        return {"r2": r2}
    sessions = list(evaluation["session_r2"].values())
    if not math.isclose(sum(sessions) / len(sessions), r2, rel_tol=1e-9, abs_tol=1e-9):
        _log.warning(
            "%s is left out: the mean over its sessions is not the R² of the receipt, so it "
            "belongs to another build",
            path.name,
        )
        return {"r2": r2}
    return {"r2": r2, **evaluation}


def check_variables(dataset: "xr.Dataset", names: Iterable[str]) -> None:
    """Raise ValueError if a dataset does not have these variables of a collection."""
    check_dataset(dataset)
    if missing := [name for name in names if name not in dataset.variables]:
        raise ValueError(
            f"the dataset has no {', '.join(missing)}: expected a collection of checkpoints with "
            "their R2, as `specdiag spectra` writes it"
        )


def build(rows: Sequence[Row], locks: Sequence[Mapping[str, str]]) -> "xr.Dataset":
    """Return the Dataset of the rows; `locks` are the names and digests of their locks."""
    import xarray as xr

    columns = _spectra_columns(rows) | _evaluation_columns(rows)
    columns["checkpoint"] = labels([row.factors for row in rows])
    for name in rows[0].factors:
        columns[name] = [row.factors[name] for row in rows]
    for status in ("fit", "degenerate", "skipped", "failed"):
        columns[f"n_{status}"] = np.count_nonzero(columns["status"] == status, axis=1)
    data = labelled(SCHEMA | COLLECTION, columns)
    data["row_size"].attrs["sample_dimension"] = "sample"
    dataset = xr.Dataset(data, attrs=_attributes(rows, locks))
    return dataset.set_coords([*_TEXTS, *rows[0].factors])


def _spectra_columns(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the variables by layer and the eigenvalues; layers that are missing are `absent`."""
    spectra = [row.spectra for row in rows if row.spectra is not None]
    layers = list(dict.fromkeys(name for one in spectra for name in one.layer.values))
    place = {name: i for i, name in enumerate(layers)}
    sizes = {"checkpoint": len(rows), "layer": len(layers), "ci_bound": 2}
    sizes["alternative"] = len(ALTERNATIVES)
    columns = {name: missing_values(SCHEMA[name], sizes) for name in _BY_LAYER}
    columns["status"][:] = "absent"
    columns["reason"][:] = "no such tensor"
    eigenvalues = []
    for i, row in enumerate(rows):
        if row.spectra is None:
            columns["reason"][i] = row.reason
            continue
        at = np.array([place[name] for name in row.spectra.layer.values])
        for name in _BY_LAYER:
            columns[name][i, at] = row.spectra[name].values[0]
        values = row.spectra.eigenvalue.values
        starts, lengths = (row.spectra[n].values[0] for n in ("row_start", "row_size"))
        order = np.argsort(at)  # a CF contiguous ragged array is in the order of the layers
        eigenvalues += [values[starts[k] : starts[k] + lengths[k]] for k in order]
    ends = np.cumsum(columns["row_size"])
    columns["row_start"] = (ends - columns["row_size"].ravel()).reshape(columns["row_size"].shape)
    return columns | {
        "layer": layers,
        "ci_bound": ["lower", "upper"],
        "alternative": list(ALTERNATIVES),
        "eigenvalue": np.concatenate(eigenvalues),
    }


def _evaluation_columns(rows: Sequence[Row]) -> dict[str, Any]:
    """Return R² and features; NaN where they are missing, and after the last eigenvalue."""
    evaluations = [row.evaluation for row in rows]
    names = dict.fromkeys(name for one in evaluations for name in one.get("session_r2", ()))
    place = {name: i for i, name in enumerate(names)}
    rank = max(len(one.get("feature_eigenvalue", ())) for one in evaluations)
    sizes = {"checkpoint": len(rows), "session": len(place), "feature_rank": rank, "ci_bound": 2}
    columns = {n: missing_values(COLLECTION[n], sizes) for n in ("r2", "session_r2", *FEATURES)}
    for i, one in enumerate(evaluations):
        for name, value in one.items():
            if name == "session_r2":
                columns[name][i, [place[session] for session in value]] = list(value.values())
            elif name == "feature_eigenvalue":
                columns[name][i, : len(value)] = value
            else:
                columns[name][i] = value
    return columns | {"session": list(place), "feature_rank": np.arange(1, rank + 1)}


def _attributes(rows: Sequence[Row], locks: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    from importlib.metadata import version

    measured = [row.spectra for row in rows if row.spectra is not None]
    texts = dict.fromkeys(spectra.attrs["provenance"] for spectra in measured)
    if len(texts) > 1:
        differing = "spectra were measured with %d different settings; see the attribute provenance"
        _log.warning(differing, len(texts))
    provenance = {
        "specdiag": version("specdiag"),
        "locks": list(locks),
        "measured_with": [json.loads(text) for text in texts],
    }
    if unreadable := list(dict.fromkeys(name for row in rows for name in row.unreadable)):
        provenance["unreadable"] = unreadable
    return {
        "Conventions": "CF-1.12",
        "title": "Weight spectra, feature covariance and test R2 of checkpoints",
        "kind": "collection",
        "schema_version": COLLECTION_VERSION,
        "provenance": json.dumps(provenance, sort_keys=True),
    }
