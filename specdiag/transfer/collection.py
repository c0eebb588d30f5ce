"""Entries of locks -> one Dataset that links weight spectra, feature covariance and test R².

All of it is read from what lies beside the checkpoints: NAME.ckpt.SHA.nc, the spectra of the file with that
digest; NAME.ckpt.evaluation.json, R² by session and the covariance of the features; and the receipt. So a
collection can be made again at any time, with the same bytes. Only spectra that lack are measured.
"""

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specdiag.dataset.netcdf import check_version, validate
from specdiag.dataset.schema import COLLECTION, FEATURES, SCHEMA, SCHEMA_VERSION, Variable, labelled
from specdiag.htsr.goodness_of_fit import ALTERNATIVES
from specdiag.lock.lockfile import Entry, Lock, Scale, find, load, select
from specdiag.obtain.beside import attach_spectra, sha256_of, spectra_path
from specdiag.obtain.state import USABLE, Receipt, state
from specdiag.transfer.evaluation import read_evaluation
from specdiag.transfer.factors import factors, labels
from specdiag.wording import one_line

if TYPE_CHECKING:
    import xarray as xr

_log = logging.getLogger(__name__)

_BY_LAYER = {n: v for n, v in SCHEMA.items() if v.dims[:2] == ("checkpoint", "layer")}
_TEXTS = ("status", "reason", "verdict", "shape", "stored_dtype")  # coordinates by layer


class Row(NamedTuple):
    """What is there of one entry."""

    factors: Mapping[str, Any]  # what `specdiag.transfer.factors` says, `state` and `sha256`
    spectra: "xr.Dataset | None"  # of one checkpoint
    reason: str  # why there are none
    evaluation: Mapping[str, Any]  # r2, session_r2, and features under the names of the schema
    unreadable: Sequence[str] = ()  # files beside its checkpoint that are damaged


def collect(
    *locks: str | os.PathLike[str],
    names: Iterable[str] = (),
    group: str | None = None,
    scale: Scale | None = None,
    progress: Callable[[int, int], object] | None = None,
    measure: Callable[[list[Path]], object] | None = None,
) -> "xr.Dataset":
    """Return the Dataset of the checkpoints of one or several locks: spectra, features and test R².

    Spectra that lie beside a checkpoint are read; where they lack they are measured and put there.

    Parameters
    ----------
    *locks : path
        Such as those of several seeds. Equal names are told apart by scale or seed.
    names : iterable of str
        Only these entries; all by default.
    group, scale : str, optional
        Only entries of this group, of this scale.
    progress : callable, optional
        Called with the number of entries done and of all.
    measure : callable, optional
        Given the checkpoints that have no spectra beside them, puts them there by `attach_spectra`; by
        default they are measured when it is their turn.

    Returns
    -------
    xarray.Dataset
        As in `specdiag.dataset.schema`, SCHEMA and COLLECTION; `specdiag.save` writes it. An entry whose
        checkpoint is missing, stale or corrupt has NaN and layers of status `absent`; its `state` says why.
        So do values whose file beside a checkpoint cannot be read: a warning names it, and
        `unreadable` of the provenance.

    Raises
    ------
    ValueError
        When no entry is chosen, or none has a checkpoint with spectra.
    OSError
        When a lock or a checkpoint cannot be read.

    Examples
    --------
    >>> dataset = specdiag.collect("checkpoints.lock", scale="desk")
    >>> dataset.r2.sel(checkpoint="base/poyo_mp_converged")
    """
    paths = list(dict.fromkeys(Path(lock).resolve() for lock in locks))
    if not paths:
        raise ValueError("collect() needs at least one lock: the path of a checkpoints.lock")
    found = select([(path, load(path)) for path in paths], names, scale, group)
    if not found:
        raise ValueError("no entries to collect; `specdiag list` shows what there is")
    if measure and (lacking := _lacking(found)):
        measure(lacking)
    rows = []
    for path, lock, entry in found:
        rows.append(_row(path.parent, lock, entry))
        if progress:
            progress(len(rows), len(found))
    if all(row.spectra is None for row in rows):
        raise ValueError(
            f"none of the {len(rows)} entries has a checkpoint with spectra; of the first, {rows[0].reason}; "
            "`specdiag list` shows the state of all, `specdiag train` makes what is missing"
        )
    return build(rows, [{"name": path.name, "sha256": sha256_of(path)} for path in paths])


def _lacking(found: Iterable[tuple[Path, Lock, Entry]]) -> list[Path]:
    targets = {
        path.parent / entry.path
        for path, lock, entry in found
        if entry.kind == "checkpoint" and state(path.parent, lock, entry).word in USABLE
    }
    return sorted(target for target in targets if not spectra_path(target).exists())


def _row(root: Path, lock: Lock, entry: Entry) -> Row:
    """Return what is there of an entry; an evaluation has the weights of its parent."""
    parent = find(lock, entry.parent.name, entry.scale) if entry.parent else None
    weights = parent if parent and entry.kind == "evaluation" else entry
    found = state(root, lock, entry)
    word, why, _ = state(root, lock, weights)
    spectra, reason = None, f"the checkpoint of {weights.name} is {word}" + f" ({why})" * bool(why)
    unreadable: list[str] = []
    if word in USABLE:
        spectra, reason = _spectra(root / weights.path, unreadable)
    evaluation: dict[str, Any] = {}
    if found.word in USABLE and found.receipt:
        evaluation = _evaluation(root / entry.path, found.receipt, unreadable)
    return Row(
        factors={
            **factors(entry, parent),
            "state": found.word,
            "sha256": sha256_of(root / weights.path) if word in USABLE else "",
        },
        spectra=spectra,
        reason=reason,
        evaluation=evaluation,
        unreadable=unreadable,
    )


def _spectra(target: Path, unreadable: list[str]) -> tuple["xr.Dataset | None", str]:
    """Return the spectra beside a checkpoint, measured now where they lack, or why there are none.

    A file that cannot be read is added to `unreadable`.
    """
    if not spectra_path(target).exists():
        _log.info("measuring %s: it has no spectra beside it yet", target.name)
    try:
        path = attach_spectra(target)
    except ValueError as error:
        _log.warning("%s: no spectra: %s", target.name, one_line(error))
        return None, one_line(error)
    try:
        return read_spectra(path), ""
    except ValueError as error:
        _log.warning("%s", error)
        unreadable.append(path.name)
        return None, f"{path.name} cannot be read"


def read_spectra(path: Path) -> "xr.Dataset":
    """Return the Dataset of one checkpoint that `specdiag.save` wrote, loaded.

    By h5py alone: xarray takes ten times as long to open so small a file, and there may be a thousand.

    Raises
    ------
    ValueError
        In one line that begins with the path, when the file is no such Dataset.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            return _loaded(file)
    except (ValueError, OSError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a spectra file: {one_line(error)}; remove it to have it measured again"
        ) from error


def _loaded(file: Any) -> "xr.Dataset":
    import xarray as xr

    names = ("schema_version", "provenance")
    attrs = {name: np.ravel(file.attrs.get(name))[0] for name in names}  # netCDF writes lists
    check_version(attrs)
    columns = {
        name: file[name].asstr()[()] if spec.dtype == "O" else file[name][()]
        for name, spec in SCHEMA.items()
    }
    provenance = json.loads(attrs["provenance"])
    provenance.pop("checkpoints")  # paths on the machine that measured
    attrs["provenance"] = json.dumps(provenance, sort_keys=True)
    found = validate(xr.Dataset(labelled(SCHEMA, columns), attrs=attrs))
    if found.sizes["checkpoint"] != 1 or not found.indexes["layer"].is_unique:
        raise ValueError("it holds several checkpoints, or a layer twice")
    if tuple(found.alternative.values) != ALTERNATIVES:
        raise ValueError(f"its alternatives are not {', '.join(ALTERNATIVES)}")
    return found


def _evaluation(target: Path, receipt: Receipt, unreadable: list[str]) -> dict[str, Any]:
    """Return R² and features of the file that is there; those of an earlier build are left out.

    A file that cannot be read is added to `unreadable`.
    """
    metric = receipt.metrics.get("r2")
    r2 = metric.value if metric else math.nan
    path = target.with_name(f"{target.name}.evaluation.json")
    if not path.is_file():
        return {"r2": r2}
    try:
        found = read_evaluation(path)
    except (ValueError, OSError) as error:
        _log.warning("%s", one_line(error))
        unreadable.append(path.name)
        return {"r2": r2}
    sessions = list(found["session_r2"].values())
    if not math.isclose(sum(sessions) / len(sessions), r2, rel_tol=1e-9, abs_tol=1e-9):
        _log.warning(
            "%s is left out: the mean over its sessions is not the R² of the receipt, so it is of another "
            "build",
            path.name,
        )
        return {"r2": r2}
    return {"r2": r2, **found}


def build(rows: Sequence[Row], locks: Sequence[Mapping[str, str]]) -> "xr.Dataset":
    """Return the Dataset of the rows; `locks` are names and digests of where they are from."""
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
    """Return the variables by layer, absent where a checkpoint has no such layer, and the eigenvalues."""
    spectra = [row.spectra for row in rows if row.spectra is not None]
    layers = list(dict.fromkeys(name for found in spectra for name in found.layer.values))
    place = {name: i for i, name in enumerate(layers)}
    sizes = {"checkpoint": len(rows), "layer": len(layers), "ci_bound": 2}
    sizes["alternative"] = len(ALTERNATIVES)
    columns = {name: _filled(SCHEMA[name], sizes) for name in _BY_LAYER}
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
        order = np.argsort(at)  # a CF contiguous ragged array has them in the order of the layers
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
    """Return R² and features, NaN where there are none and beyond the last eigenvalue."""
    found = [row.evaluation for row in rows]
    names = dict.fromkeys(name for one in found for name in one.get("session_r2", ()))
    place = {name: i for i, name in enumerate(names)}
    rank = max(len(one.get("feature_eigenvalue", ())) for one in found)
    sizes = {"checkpoint": len(rows), "session": len(place), "feature_rank": rank, "ci_bound": 2}
    columns = {n: _filled(COLLECTION[n], sizes) for n in ("r2", "session_r2", *FEATURES)}
    for i, one in enumerate(found):
        for name, value in one.items():
            if name == "session_r2":
                for session, r2 in value.items():
                    columns[name][i, place[session]] = r2
            elif name == "feature_eigenvalue":
                columns[name][i, : len(value)] = value
            else:
                columns[name][i] = value
    return columns | {"session": list(place), "feature_rank": np.arange(1, rank + 1)}


def _filled(spec: Variable, sizes: Mapping[str, int]) -> Any:
    """Return an array of a variable in which nothing is known yet."""
    empty = {"f": (math.nan, float), "i": (0, np.int64), "b": (0, np.int8), "O": ("", object)}
    return np.full([sizes[dim] for dim in spec.dims], *empty[spec.dtype])


def _attributes(rows: Sequence[Row], locks: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    from importlib.metadata import version

    texts = dict.fromkeys(
        row.spectra.attrs["provenance"] for row in rows if row.spectra is not None
    )
    if len(texts) > 1:
        _log.warning("spectra were measured in %d ways; see the attribute provenance", len(texts))
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
        "schema_version": SCHEMA_VERSION,
        "provenance": json.dumps(provenance, sort_keys=True),
    }
