"""One quantised weight: its tensors by what they are, and how to compute its values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from specdiag.checkpoint.tensor import ITEMSIZE, Tensor, read_values

Arrays: TypeAlias = Mapping[str, np.ndarray]

SMALL = 10_000  # bytes of a tensor that is read before the weights are measured


class Recipe(NamedTuple):
    """How a weight is computed.

    Attributes
    ----------
    shape : tuple of int
        Its shape.
    rule : str
        The words for how it is computed.
    values : callable
        Returns its values from the arrays of its parts and the shape.
    stacked : tuple of str
        The parts of a stack whose first axis is that of the weight, if all others are needed for
        any slice of it: a slice can then be computed alone.
    """

    shape: tuple[int, ...]
    rule: str
    values: Callable[[Arrays, tuple[int, ...]], np.ndarray]
    stacked: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The tensors of one quantised weight.

    Attributes
    ----------
    parts : dict of str to Tensor
        Tensors by what they are in the format, such as `codes` and `scales`; the values first.
    config : dict
        The `quantization_config` of the network; empty if it is unknown.
    """

    parts: dict[str, Tensor]
    config: Mapping[str, Any]

    def need(self, part: str, *dtypes: str) -> Tensor:
        """Return a part. Raise ValueError if it is missing or of a dtype that starts otherwise."""
        if part not in self.parts:
            raise ValueError(f"without {part}")
        tensor = self.parts[part]
        if dtypes and not tensor.dtype.startswith(dtypes):
            raise ValueError(f"{part} of {tensor.dtype}")
        return tensor

    def small(self, part: str) -> np.ndarray:
        """Return the values of a part that is needed to know the shape of the weight.

        Raises
        ------
        ValueError
            If it is missing, larger than 10,000 bytes or cannot be read.
        """
        tensor = self.need(part)
        if prod(tensor.shape) * ITEMSIZE.get(tensor.dtype, SMALL) > SMALL or tensor.problem:
            raise ValueError(f"{part} cannot be read")
        return read_values(tensor)

    def setting(self, name: str) -> Any:
        """Return a setting of all weights in a configuration of compressed-tensors, or None.

        It is None, too, if groups of layers have different ones.
        """
        groups = self.config.get("config_groups")
        found = []
        for group in groups.values() if isinstance(groups, dict) else ():
            weights = group.get("weights") if isinstance(group, dict) else None
            if isinstance(weights, dict) and weights.get(name) is not None:
                found.append(weights[name])
        return found[0] if found and all(value == found[0] for value in found) else None

    def stacked(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Return the parts with one array for each matrix of a stack of the shape."""
        if len(shape) < 3:
            return ()
        return tuple(part for part, tensor in self.parts.items() if tensor.shape[:1] == shape[:1])


def check(fits: bool, what: str) -> None:
    """Raise ValueError if something does not fit: `what` names it."""
    if not fits:
        raise ValueError(f"{what} do not fit")
