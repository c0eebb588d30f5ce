"""Datasets of several measurements -> one Dataset; a Dataset -> a table with a row a layer."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.dataset.netcdf import validate
from specdiag.dataset.schema.layers import SCHEMA
from specdiag.dataset.schema.variable import labelled, missing_values
from specdiag.dataset.spectrum import row_of
from specdiag.dataset.versions import check_dataset, schema_of
from specdiag.wording import shown

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_CELL = ("checkpoint", "layer")
_LABELS = ("ci_bound", "alternative", "side")  # dimensions whose every label gets a column
_NOT_SHOWN = ("row_start",)  # an index into the eigenvalues
_FREE = ("layers", "seed")  # settings in which measurements of one Dataset may differ


def summary(dataset: "xr.Dataset") -> "pd.DataFrame":
    """Return a table of a Dataset with a row for each layer of each checkpoint.

    `dataset.to_dataframe()` has a row for each combination of all dimensions, eigenvalues included:
    millions of rows, most of them empty.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of `specdiag.alpha`, `compare`, `collect`, `measure_features` or `open_spectra`.

    Returns
    -------
    pandas.DataFrame
        The columns are the variables of the Dataset that belong to a layer, in its order, and then
        those of its checkpoint, such as `r2` of a collection. An interval has two columns,
        `alpha_ci_lower` and `alpha_ci_upper`. What `compare` measured stands in the rows of the
        second checkpoint. Layers that a checkpoint does not have get no row.

    Raises
    ------
    TypeError, ValueError
        If the argument is not a Dataset, or has no layers.

    Examples
    --------
    >>> dataset = specdiag.alpha("model.safetensors")
    >>> table = specdiag.summary(dataset)
    >>> table.loc[table.status == "fit", ["layer", "alpha", "verdict"]]
    """
    import pandas as pd

    check_dataset(dataset)
    for dim in _CELL:
        if dim not in dataset.variables:
            raise ValueError(f"the Dataset has no {dim}: expected one of alpha, compare or collect")
    whole = _with_both_dims(dataset)
    by_layer: dict[str, Any] = {}
    by_checkpoint: dict[str, Any] = {}
    for name, variable in _of_comparison(whole).variables.items():
        if name in (*_CELL, *_LABELS, *_NOT_SHOWN) or not {*variable.dims} <= {*_CELL, *_LABELS}:
            continue
        if "layer" in variable.dims:
            by_layer |= _columns(whole, str(name), variable)
        elif "checkpoint" in variable.dims:
            by_checkpoint |= _columns(whole, str(name), variable)
    shape = tuple(whole.sizes[dim] for dim in _CELL)
    labels = np.meshgrid(*(whole[dim].values for dim in _CELL), indexing="ij")
    columns = dict(zip(_CELL, labels, strict=True)) | by_layer | by_checkpoint
    present = _present(whole)
    return pd.DataFrame(
        {name: np.broadcast_to(_two_axes(v), shape)[present] for name, v in columns.items()}
    )


def _present(dataset: "xr.Dataset") -> Any:
    """Return where a checkpoint has a layer: of features, where it has samples."""
    if "status" in dataset.variables:
        return dataset.status.transpose(*_CELL).values != "absent"
    return dataset.n_samples.transpose(*_CELL).values > 0


def _with_both_dims(dataset: "xr.Dataset") -> "xr.Dataset":
    """Return a Dataset of which one checkpoint or layer was selected, with that dimension again."""
    for dim in _CELL:
        if dim not in dataset.dims:
            schema = schema_of(dataset)
            inside = [n for n in dataset.variables if n in schema and dim in schema[str(n)].dims]
            wide = {n: dataset[n].reset_coords(drop=True).expand_dims(dim).variable for n in inside}
            names = [n for n in inside if n in dataset.coords and n != dim]
            dataset = dataset.drop_vars(dim).assign(wide).set_coords(names)
    return dataset


def _two_axes(values: Any) -> Any:
    return values[:, None] if values.ndim == 1 else values


def _columns(dataset: "xr.Dataset", name: str, variable: "xr.Variable") -> dict[str, Any]:
    """Return the columns of a variable: one, or one for each label of its third dimension."""
    cell = [dim for dim in _CELL if dim in variable.dims]
    others = [dim for dim in variable.dims if dim not in cell]
    values = variable.transpose(*cell, *others).values
    if not others:
        return {name: values}
    labels = dataset[others[0]].values
    return {f"{name}_{label}": values[..., k] for k, label in enumerate(labels)}


def _of_comparison(dataset: "xr.Dataset") -> "xr.Dataset":
    """Return a Dataset whose comparisons are in the rows of their second checkpoints."""
    if "comparison" not in dataset.dims:
        return dataset.drop_vars("comparison", errors="ignore")
    compared = dataset[[n for n, v in dataset.variables.items() if "comparison" in v.dims]]
    rest = dataset.drop_dims("comparison")
    moved = compared.drop_vars("comparison").assign_coords(comparison=dataset.comparison.values)
    seconds = rest["group" if "group" in rest else "checkpoint"].values
    moved = moved.reindex(comparison=seconds).rename(comparison="checkpoint")
    return rest.assign(moved.assign_coords(checkpoint=rest.checkpoint.values).variables)


def concat(datasets: "Sequence[xr.Dataset]") -> "xr.Dataset":
    """Return one Dataset with the checkpoints of several.

    `xarray.concat` cannot do it: the eigenvalues of all layers are in one long array, and
    `row_start` says where those of a layer begin.

    Parameters
    ----------
    datasets : sequence of xarray.Dataset
        Of `specdiag.alpha` or `open_spectra`; layers and checkpoints may be selected.

    Returns
    -------
    xarray.Dataset
        As of `specdiag.alpha` of all files at once. A layer that a checkpoint does not have is
        `absent`. The provenance has the versions and settings of the first Dataset.

    Raises
    ------
    TypeError, ValueError
        If the list is empty, one is not such a Dataset, or two have a checkpoint of the same name
        or were measured with other settings; which matrices (`layers`) and the seed may differ.

    Examples
    --------
    >>> both = specdiag.concat([specdiag.alpha("a.pt"), specdiag.alpha("b.pt")])
    """
    datasets = [_whole(one) for one in datasets]
    if not datasets:
        raise ValueError("concat() needs at least one Dataset")
    names = [str(name) for one in datasets for name in one.checkpoint.values]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two Datasets have a checkpoint {shown(name)}: give one another name, with "
                "dataset.assign_coords(checkpoint=[...])"
            )
    _check_settings(datasets)
    layers = list(dict.fromkeys(name for one in datasets for name in one.layer.values.tolist()))
    sizes = {"checkpoint": len(names), "layer": len(layers)}
    columns: dict[str, Any] = {"checkpoint": names, "layer": layers}
    for name in _LABELS[:2]:
        columns[name], sizes[name] = datasets[0][name].values, datasets[0].sizes[name]
    filled = SCHEMA.keys() - columns.keys() - {"eigenvalue"}
    columns |= {name: missing_values(SCHEMA[name], sizes) for name in filled}
    columns["status"][:], columns["reason"][:] = "absent", "no such tensor"
    spectra: list[Any] = []
    place = {name: j for j, name in enumerate(layers)}
    first = 0
    for one in datasets:
        at = [place[name] for name in one.layer.values.tolist()]
        rows = slice(first, first + one.sizes["checkpoint"])
        for name in filled:
            columns[name][rows, at] = one[name].values
        kept = {j: k for k, j in enumerate(at)}
        spectra += [
            row_of(one, i, kept[j]) if j in kept else np.empty(0)
            for i in range(one.sizes["checkpoint"])
            for j in range(len(layers))
        ]
        first = rows.stop
    ends = np.cumsum([len(values) for values in spectra])
    starts = ends - np.array([len(values) for values in spectra])
    columns["row_start"] = starts.reshape(len(names), len(layers))
    columns["eigenvalue"] = np.concatenate(spectra)
    return validate(_assembled(columns, datasets))


def _whole(dataset: "xr.Dataset") -> "xr.Dataset":
    """Return a Dataset of `alpha`, with both dimensions if one was selected away."""
    check_dataset(dataset)
    if missing := sorted(SCHEMA.keys() - {*map(str, dataset.variables)}):
        raise ValueError(f"concat() takes Datasets of specdiag.alpha: {missing[0]} is missing")
    if "comparison" in dataset.variables or dataset.attrs.get("kind"):
        raise ValueError(
            "concat() takes Datasets of specdiag.alpha, not of compare, delta or collect: give "
            "these all networks at once"
        )
    return _with_both_dims(dataset).transpose(*_CELL, ...)


def _check_settings(datasets: "Sequence[xr.Dataset]") -> None:
    """Raise ValueError if the numbers of Datasets were not measured by the same rules."""
    first, *others = (_provenance(one).get("settings", {}) for one in datasets)
    for other in others:
        for name in sorted(first.keys() & other.keys() - {*_FREE}):
            if first[name] != other[name]:
                raise ValueError(
                    f"the Datasets were measured with different settings: {name} is "
                    f"{first[name]!r} and {other[name]!r}; measure one again"
                )


def _provenance(dataset: "xr.Dataset") -> dict[str, Any]:
    try:
        content = json.loads(dataset.attrs["provenance"])
    except (KeyError, TypeError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _assembled(columns: dict[str, Any], datasets: "Sequence[xr.Dataset]") -> "xr.Dataset":
    import xarray as xr

    all_of = [_provenance(one) for one in datasets]
    provenance = all_of[0] | {"checkpoints": [c for p in all_of for c in p.get("checkpoints", [])]}
    data = labelled(SCHEMA, columns)
    data["row_size"].attrs["sample_dimension"] = "sample"
    attributes = datasets[0].attrs | {"provenance": json.dumps(provenance, sort_keys=True)}
    coordinates = [name for name in datasets[0].coords if name in SCHEMA]
    return xr.Dataset(data, attrs=attributes).set_coords(coordinates)
