"""One array of a file, whose entries along the first axis are read in pieces."""

from collections.abc import Callable, Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from specdiag.checkpoint.tensor import ITEMSIZE, Tensor

NAMELESS = "features"  # an array without a name in its file
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
