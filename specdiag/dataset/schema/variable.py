"""One variable of a Dataset -> what it looks like in xarray and in the documentation."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_DTYPES = {"f": "float64", "i": "int64", "b": "int8", "O": "str"}


class Variable(NamedTuple):
    """Dimensions, dtype and description of one variable of a Dataset.

    The dtype is f for float64, i for int64, b for an int8 that is 0 or 1, O for str.
    """

    dims: tuple[str, ...]
    dtype: str
    long_name: str


def missing_values(spec: Variable, sizes: Mapping[Any, int]) -> Any:
    """Return an array of a variable, filled with its missing value."""
    empty = {"f": (math.nan, float), "i": (0, np.int64), "b": (0, np.int8), "O": ("", object)}
    return np.full([sizes[dim] for dim in spec.dims], *empty[spec.dtype])


def as_markdown(schema: Mapping[str, Variable]) -> str:
    """Return a schema as a table for the documentation."""
    rows = [
        f"| `{name}` | {', '.join(spec.dims)} | {_DTYPES[spec.dtype]} | {spec.long_name} |"
        for name, spec in schema.items()
    ]
    return "\n".join(["| variable | dimensions | dtype | meaning |", "|---|---|---|---|", *rows])


def labelled(schema: Mapping[str, Variable], columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns as xarray Variables with dims, dtypes and attributes of the schema."""
    import xarray as xr

    return {
        name: xr.Variable(
            spec.dims,
            np.asarray(columns[name], dtype=object if spec.dtype == "O" else _DTYPES[spec.dtype]),
            # The CF conventions write '1' for the units of a number without units.
            {"long_name": spec.long_name} | ({} if spec.dtype == "O" else {"units": "1"}),
        )
        for name, spec in schema.items()
    }
