"""One weight: the tensors that it is composed of, the rule, and how to compute its values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from specdiag.checkpoint.tensor import UNKNOWN, Tensor, read_values

Tensors = Mapping[str, Tensor]  # by name


class Factors(NamedTuple):
    """Two matrices whose product is a weight, a kernel (out, in, ...) as a matrix of out rows.

    `start` is the one of the two that an adapter begins with as zeros; None if it is neither.
    """

    left: np.ndarray
    right: np.ndarray
    start: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class Weight(Tensor):
    """A matrix, kernel or vector of a network, or tensors that are known to be none.

    The attributes of a Tensor describe the composed values. `dtype` is the one that the values were
    stored in, and float32 for a weight that is dequantised: its precision sets which eigenvalues
    are more than rounding.

    Attributes
    ----------
    tensors : tuple of str
        Names of the tensors of the file that it is composed of.
    whole : str
        Name of the weight that it is a piece of, such as ``h.0.attn.c_attn.weight`` of its block
        ``h.0.attn.c_attn.weight[q]``; empty if it is no piece.
    rule : str
        How it is composed of them; that of the tensor for a tensor that is a weight as it is.
    reason : str
        Why it is not measured; empty if nothing in the headers speaks against it. `read` then
        returns the bytes of all its tensors.
    rank : int or None
        The largest rank that it can have, if it is a product of smaller matrices.
    n_read : int
        How many elements `read` reads to return a piece of a weight; 0 if no more than its own.
    has_bias : bool
        Whether a vector of the length of its outputs lies beside it, under the name of its bias.
    table : str
        What tells that it is a lookup table, such as its class or name; empty if it is none.
    adapter : str
        Kind of the adapter, such as ``'LoRA'``, if the weight is its update alone.
    factors : callable or None
        Returns the factors that an update is a product of, in float64.
    added : Weight or None
        The update alone, if the weight is a base with the update of an adapter.
    """

    tensors: tuple[str, ...] = ()
    whole: str = ""
    reason: str = ""
    rank: int | None = None
    n_read: int = 0
    has_bias: bool = False
    table: str = ""
    adapter: str = ""
    factors: Callable[[], Factors] | None = field(default=None, repr=False)
    added: "Weight | None" = field(default=None, repr=False)

    @property
    def is_matrix(self) -> bool:
        """Whether it has two or more axes, or an unknown shape because it cannot be read."""
        return len(self.shape) >= 2 or (self.shape, self.dtype) == ((), UNKNOWN)


def plain(tensor: Tensor, **about: Any) -> Weight:
    """Return the weight that a tensor is as it stands."""
    values = {field.name: getattr(tensor, field.name) for field in fields(Tensor)}
    return Weight(**(values | {"tensors": (tensor.name,)} | about))


def composed(
    name: str,
    parts: Sequence[Tensor],
    rule: str,
    function: Callable[..., np.ndarray],
    *,
    like: Tensor,
    as_stored: bool = False,
    **about: Any,
) -> Weight:
    """Return the weight that a function computes from the values of its parts.

    The function gets one array for each part, in float64 if that is its dtype and in float32
    otherwise; as it is stored if `as_stored` is true. Shape and dtype are those of the tensor
    `like`.
    """

    def read() -> np.ndarray:
        arrays = (read_values(part) for part in parts)
        with np.errstate(all="ignore"):  # the measurement reports values that are not finite
            values = function(*(arrays if as_stored else map(_real, arrays)))
        return np.ascontiguousarray(values)

    ids = [part.identity for part in parts]
    return plain(
        like,
        name=name,
        tensors=names_of(parts),
        rule=rule,
        role="" if like.role in ("buffer", "operand") else like.role,
        problem=next((part.problem for part in parts if part.problem), None),
        identity=(rule, *ids) if all(ids) else None,
        read=read,
        read_rows=None,
        **about,
    )


def values_of(parts: Sequence[Tensor]) -> list[np.ndarray]:
    """Return the values of tensors, in float64."""
    return [read_values(part).astype(np.float64) for part in parts]


def names_of(parts: Sequence[Tensor]) -> tuple[str, ...]:
    """Return the names of the tensors of the file that the parts consist of."""
    return tuple(
        name
        for part in parts
        for name in (part.tensors if isinstance(part, Weight) else (part.name,))
    )


def not_measured(name: str, parts: Sequence[Tensor], reason: str) -> Weight:
    """Return tensors that are not measured, under one name and with one reason."""

    def read() -> np.ndarray:
        return np.concatenate([read_values(part).reshape(-1).view(np.uint8) for part in parts])

    return plain(
        parts[0],
        name=name,
        tensors=names_of(parts),
        problem=next((part.problem for part in parts if part.problem), None),
        reason=reason,
        identity=None,
        read=read if len(parts) > 1 else parts[0].read,
        read_rows=None,
    )


def _real(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.float64 else values.astype(np.float32)
