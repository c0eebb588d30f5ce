"""A Dataset of an earlier version -> the same one with the variables of this version.

Version 2 of the spectra, and 4 of collections, call the posterior mean `alpha`, and the estimate of
Clauset's rule `alpha_ks`. Before, that estimate was `alpha`, and the posterior mean `alpha_mean`;
`alpha_hat` was of that estimate; `null_p` and `null_q` were of one null alone, of Gaussian entries
unless another was asked for; and the method `weightwatcher` had no posterior mean.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.dataset.schema.collection import ADDED, COLLECTION, COLLECTION_VERSION
from specdiag.dataset.schema.comparison import COMPARISON
from specdiag.dataset.schema.features import COMPARED, FEATURES_SCHEMA, FEATURES_VERSION, KIND
from specdiag.dataset.schema.layers import SCHEMA, SCHEMA_VERSION
from specdiag.dataset.schema.updates import UPDATES
from specdiag.dataset.schema.variable import Variable, labelled, missing_values

if TYPE_CHECKING:
    import xarray as xr

_FORMER = {
    "alpha_ks": "alpha",
    "xmin_ks": "xmin",
    "n_tail_ks": "n_tail",
    "alpha": "alpha_mean",
    "xmin": "xmin_median",
    "n_tail": "n_tail_mean",
}
_OF_NULL = {"null_p": "gaussian_p", "null_q": "gaussian_q"}


def schema_of(dataset: "xr.Dataset") -> dict[str, Variable]:
    """Return the variables that a Dataset of the latest version must have."""
    if _is_features(dataset.attrs):
        return FEATURES_SCHEMA | (COMPARED if "comparison" in dataset.dims else {})
    schema = SCHEMA | COLLECTION if _is_collection(dataset.attrs) else SCHEMA
    schema = schema | UPDATES if dataset.attrs.get("kind") == "updates" else schema
    return schema | COMPARISON if "comparison" in dataset.dims else schema


def _is_collection(attrs: Mapping[Any, Any]) -> bool:
    return attrs.get("kind") == "collection"


def _is_features(attrs: Mapping[Any, Any]) -> bool:
    return attrs.get("kind") == KIND


def check_has_weights(dataset: "xr.Dataset") -> None:
    """Raise ValueError if a Dataset has features alone, where one of weights is needed."""
    if _is_features(dataset.attrs):
        raise ValueError(
            "a Dataset of features, without weights; specdiag.summary makes it a table, and "
            "specdiag.plot.feature_spectrum and `specdiag features --plot` draw it"
        )


def latest_version(attrs: Mapping[Any, Any]) -> int:
    """Return the version of the Datasets of this kind that this specdiag writes."""
    if _is_features(attrs):
        return FEATURES_VERSION
    return COLLECTION_VERSION if _is_collection(attrs) else SCHEMA_VERSION


def check_dataset(dataset: Any) -> None:
    """Raise TypeError if the argument of a function is not an xarray Dataset, such as a path."""
    import xarray as xr

    if not isinstance(dataset, xr.Dataset):
        raise TypeError(
            f"expected an xarray Dataset, not {type(dataset).__name__}; "
            "specdiag.open_spectra(path) reads one from a file"
        )


def check_version(attrs: Mapping[Any, Any]) -> None:
    """Raise ValueError if the attributes have a `schema_version` that this specdiag cannot read."""
    version, latest = attrs.get("schema_version"), latest_version(attrs)
    number = int(version) if isinstance(version, int | np.integer) else 0
    if not 1 <= number <= latest:
        update = "; update specdiag" if number > latest else ""
        raise ValueError(f"schema_version is {version}: this specdiag reads {latest}{update}")


def former_names(attrs: Mapping[Any, Any]) -> dict[str, str]:
    """Return the names, in a file with these attributes, of variables that have another one now."""
    if _is_features(attrs):
        return {}
    first = 4 if _is_collection(attrs) else 2  # the first version with the present names
    return {} if attrs["schema_version"] >= first else _FORMER


def upgraded(dataset: "xr.Dataset") -> "xr.Dataset":
    """Return a Dataset of any version that `check_version` allows, as one of the latest version."""
    present = {old: new for new, old in former_names(dataset.attrs).items() if old in dataset}
    return completed(dataset.rename(present))


def completed(dataset: "xr.Dataset") -> "xr.Dataset":
    """Return a Dataset of any version, whose variables have their present names, as of the latest.

    Variables that its version did not have get their missing value. Verdicts of an earlier version
    were decided by other tests, so they are removed. Its p-values become those of the null that was
    tested, `gaussian_p` and `gaussian_q`, and `null_p` and `null_q` are missing.
    """
    latest = latest_version(dataset.attrs)
    if dataset.attrs["schema_version"] == latest:
        return dataset
    schema = schema_of(dataset)
    new = {name: schema[name] for name in ADDED if name in schema and name not in dataset}
    if "verdict" in dataset and former_names(dataset.attrs):
        new["verdict"] = schema["verdict"]
    if "comparison" in dataset.dims:
        new |= {name: spec for name, spec in COMPARISON.items() if name not in dataset}
    columns = {name: missing_values(spec, dataset.sizes) for name, spec in new.items()}
    if "group" in columns:
        columns |= _of_former_comparison(dataset)
    if former_names(dataset.attrs):
        columns |= _of_former_measurement(dataset)
    new |= {name: schema[name] for name in columns}
    dataset = dataset.assign(labelled(new, columns))
    for name in _FORMER.keys() & dataset.variables.keys():
        dataset[name].attrs["long_name"] = schema[name].long_name
    names = ("verdict", "how", "n_changed", "group")
    coordinates = [name for name in names if name in dataset.data_vars]
    return dataset.set_coords(coordinates).assign_attrs(schema_version=latest)


def _of_former_measurement(dataset: "xr.Dataset") -> dict[str, Any]:
    """Return the variables whose meaning in version 1 was another one."""
    columns: dict[str, Any] = {name: np.full_like(dataset[name], np.nan) for name in _OF_NULL}
    if _setting(dataset.attrs, "null") in (None, "gaussian"):
        columns |= {new: dataset[old].values for old, new in _OF_NULL.items()}
    alpha = dataset.alpha.values
    if _setting(dataset.attrs, "method") == "weightwatcher":
        alpha, n_tail = dataset.alpha_ks.values, dataset.n_tail_ks.values
        sd = (alpha - 1) / np.sqrt(n_tail)
        columns |= {
            "alpha": alpha,
            "alpha_sd": sd,
            "n_tail": n_tail,
            "xmin": dataset.xmin_ks.values,
        }
    norm = np.where(np.isnan(alpha), np.nan, dataset.spectral_norm.values)
    return columns | {"alpha_hat": 2 * alpha * np.log10(norm)}


def _setting(attrs: Mapping[Any, Any], name: str) -> Any:
    """Return a setting of the measurement, or None if the provenance does not have it."""
    try:
        return json.loads(attrs["provenance"])["settings"][name]
    except (KeyError, TypeError, ValueError):
        return None


def _of_former_comparison(dataset: "xr.Dataset") -> dict[str, Any]:
    """Return the new variables of a comparison of version 1: of two networks, all layers taken."""
    ones = np.ones(dataset.sizes["comparison"], np.int64)
    return {
        "group": dataset.checkpoint.values,
        "n_first_seeds": ones,
        "n_second_seeds": ones,
        "n_comparable": dataset.n_compared.values,
        "seed_basis": ["assuming an intraclass correlation of 0.5" for _ in ones],
        "intraclass_correlation": 0.5 * ones,
    }
