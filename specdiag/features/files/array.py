"""One array of a file, whose entries along the first axis are read in pieces."""

from collections.abc import Callable, Iterator, Mapping
from math import isnan, nan, prod
from typing import NamedTuple

import numpy as np

from specdiag.checkpoint.tensor import ITEMSIZE, Tensor

NAMELESS = "features"  # an array without a name in its file
MISSING = ("_FillValue", "missing_value")
PACKING = (*MISSING, "scale_factor", "add_offset")  # attributes of netCDF that change the numbers
PIECE = 32 * 2**20  # bytes of a piece in float64


class Array(NamedTuple):
    """An array of a file.

    `pieces(n)` yields its entries along the first axis, in order, n at a time or fewer. The dtype
    is that of the file, or 'text'. The problem says why it cannot be read, or is empty.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: Callable[[int], Iterator[np.ndarray]]
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.name} {'x'.join(map(str, self.shape)) or 'scalar'} {self.dtype}"

    @property
    def entries(self) -> int:
        """How many entries of the first axis make a piece."""
        return max(1, PIECE // max(1, 8 * prod(self.shape[1:])))

    def read(self) -> np.ndarray:
        """Return all values.

        Raises
        ------
        ValueError
            If they cannot be read.
        """
        if self.problem:
            raise ValueError(f"{self.name} cannot be read: {self.problem}")
        pieces = list(self.pieces(self.entries))
        return np.concatenate(pieces) if pieces else np.empty(self.shape)


def unpacked(values: np.ndarray, packing: Mapping[str, float]) -> np.ndarray:
    """Return stored values as the numbers that they stand for, with NaN for missing ones.

    CF conventions 1.12, sections 2.5.1 and 8.1: ``_FillValue`` and ``missing_value`` stand for a
    missing value; others are multiplied by ``scale_factor``, and ``add_offset`` is added.
    """
    missing = [packing[name] for name in MISSING if not isnan(packing.get(name, nan))]
    scale, offset = packing.get("scale_factor", 1.0), packing.get("add_offset", 0.0)
    if not missing and (scale, offset) == (1.0, 0.0):
        return values
    stored = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
    numbers = values.astype(np.float64) * scale + offset
    numbers[np.isin(values, np.array(missing).astype(values.dtype))] = np.nan
    return numbers.astype(stored) if (scale, offset) == (1.0, 0.0) else numbers


def of_tensor(tensor: Tensor) -> Array:
    """Return a tensor of a file as an array."""

    def pieces(n: int) -> Iterator[np.ndarray]:
        if tensor.read_rows is None:
            values = tensor.read()
            yield from (values[i : i + n] for i in range(0, len(values), n))
            return
        for i in range(0, tensor.shape[0], n):
            yield tensor.read_rows(i, min(i + n, tensor.shape[0]))

    return Array(tensor.name, tensor.shape, tensor.dtype, pieces, tensor.problem or "")


def is_features(array: Array) -> bool:
    """Return whether an array can hold features: numbers, one row for each sample or token."""
    kinds = ("float", "bfloat", "int", "uint")
    return array.dtype in ITEMSIZE and array.dtype.startswith(kinds) and len(array.shape) > 1
