"""Measured features and their comparisons -> one labelled xarray Dataset."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.dataset.netcdf import validate
from specdiag.dataset.schema.collection import FEATURES
from specdiag.dataset.schema.features import COMPARED, FEATURES_SCHEMA, FEATURES_VERSION, KIND
from specdiag.dataset.schema.variable import labelled, missing_values
from specdiag.features.comparison.compare import FeatureComparison, comparisons
from specdiag.features.comparison.measured import Measured, by_source, shrunken
from specdiag.features.covariance import FeatureCovariance
from specdiag.features.files.measure import accumulated, features_of, open_features
from specdiag.features.profile import spectra_of

if TYPE_CHECKING:
    import xarray as xr


def measure_features(
    *sources: Any,
    name: str | Sequence[str] = (),
    groups: Any = None,
    precision: str | None = None,
) -> "xr.Dataset":
    """Return the Dataset of the features in files or arrays, which is that of `specdiag features`.

    Parameters
    ----------
    *sources : path or array of shape (samples, d) or (trials, tokens, d)
        Files .npy, .npz, .safetensors, .nc, .h5, .pt or folders .zarr, or arrays or torch tensors.
        The first is compared with each of the others.
    name : str or sequence of str
        Names or patterns of the arrays in each file. By default the only one with features.
    groups : str or sequence, optional
        The trial or session of each sample: labels, or the name of an array in each file, a file,
        or ``file:column``. 'row' says that samples are independent of each other. By default 64
        runs of consecutive samples, or each entry of the first of three axes.
    precision : str, optional
        Of the arithmetic that made the features; see `FeatureCovariance`.

    Returns
    -------
    xarray.Dataset
        The variables of docs/dataset.md, with dims (checkpoint, layer, feature_rank), and those of
        comparisons, with dims (comparison, layer).

    Raises
    ------
    ValueError
        If a source is no file of features, is damaged or given twice, or if labels do not fit its
        rows.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> dataset = specdiag.measure_features("before.npy", "after.npy", groups="trials.npy")
    >>> dataset.effective_rank_ratio
    """
    if not sources:
        raise ValueError("measure_features() needs at least one file or array")
    names = [name] if isinstance(name, str) else list(name)
    measured: list[Measured] = []
    for i, source in enumerate(sources):
        if isinstance(source, str | Path):
            labels = groups if groups is None or isinstance(groups, str) else np.asarray(groups)
            if str(Path(source)) in {one.source for one in measured}:
                raise ValueError(f"{source} is given twice")
            opened = open_features(Path(source), names, labels)
        else:
            opened = [features_of(source, f"array {i + 1}", groups)]
        measured += measured_of(str(opened[0].source), opened, precision)
    return as_dataset(measured, comparisons(measured) if len(sources) > 1 else [])


def measured_of(source: str, opened: Sequence[Any], precision: str | None = None) -> list[Measured]:
    """Return the spectra of the features in one source."""
    files = {one.array.name: one for one in opened}
    found: dict[str, FeatureCovariance] = {}
    for name, one in files.items():
        found[name] = accumulated(one, precision)
        if found[name].n_samples < 2:
            raise ValueError(f"{source}: {name}: 1 sample: a covariance needs at least 2")
    try:
        spectra = spectra_of(found)
    except (ValueError, MemoryError) as error:
        raise ValueError(f"{source}: {str(error) or 'too little memory'}") from None
    return [
        Measured(source, name, spectrum, found[name], files[name])
        for name, spectrum in spectra.items()
    ]


def as_dataset(measured: Sequence[Measured], compared: Sequence[FeatureComparison]) -> "xr.Dataset":
    """Return the Dataset of measured features; intervals of a missing layer are NaN."""
    import xarray as xr

    sources = list(by_source(measured))
    layers = list(dict.fromkeys(one.layer for one in measured))
    widest = max(len(one.spectrum.eigenvalues) for one in measured)
    columns: dict[str, Any] = {
        "checkpoint": sources,
        "layer": layers,
        "ci_bound": ["lower", "upper"],
        "feature_rank": np.arange(1, widest + 1),
    }
    sizes = {name: len(values) for name, values in columns.items()}
    schema = dict(FEATURES_SCHEMA)
    filled = schema.keys() - columns.keys()
    columns |= {name: missing_values(schema[name], sizes) for name in filled}
    for one in measured:
        at = sources.index(one.source), layers.index(one.layer)
        for name in filled:
            value = _value(one, name)
            if schema[name].dims[-1] == "feature_rank":
                columns[name][at][: len(value)] = value
            else:
                columns[name][at] = value
    if compared:
        columns |= _compared(compared, layers, sizes)
        schema |= COMPARED
    return validate(xr.Dataset(labelled(schema, columns), attrs=_attributes(measured)))


def _value(one: Measured, name: str) -> Any:
    values = one.spectrum.eigenvalues
    if name == "n_features":
        return len(values)
    if name == "grouping":
        return one.grouping
    if name == "shrunken_eigenvalue":
        known = shrunken(one)
        return np.full(len(values), math.nan) if known is None else known
    return getattr(one.spectrum, FEATURES[name])


def _compared(
    compared: Sequence[FeatureComparison], layers: Sequence[str], sizes: Mapping[str, int]
) -> dict[str, Any]:
    seconds = list(dict.fromkeys(one.second for one in compared))
    sizes = {**sizes, "comparison": len(seconds)}
    columns = {"comparison": seconds} | {
        name: missing_values(spec, sizes) for name, spec in COMPARED.items() if name != "comparison"
    }
    for one in compared:
        at = seconds.index(one.second), layers.index(one.second_layer)
        for name in columns.keys() - {"comparison"}:
            columns[name][at] = getattr(one, name.replace("_ci", "_interval"))
    return columns


def _attributes(measured: Sequence[Measured]) -> dict[str, Any]:
    from importlib.metadata import version

    provenance = {
        "specdiag": version("specdiag"),
        "numpy": np.__version__,
        "settings": {"groups": {one.source: one.grouping for one in measured}},
    }
    return {
        "Conventions": "CF-1.12",
        "title": "Spectra of the covariance of features",
        "kind": KIND,
        "schema_version": FEATURES_VERSION,
        "provenance": json.dumps(provenance, sort_keys=True),
    }
