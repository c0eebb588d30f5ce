"""One adapter of one weight -> its update, or the weight with its update."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.weights.weight import (
    Factors,
    Weight,
    composed,
    not_measured,
    values_of,
)

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Update:
    """The tensors of an adapter that belong to one weight, and what they are multiplied to.

    Attributes
    ----------
    kind : str
        ``'LoRA'``, ``'AdaLoRA'``, ``'LoHa'``, ``'LoKr'`` or ``'Full'`` for a whole difference.
    stem : str
        Name of the module, without that of its weight.
    label : str
        Name of the adapter; empty if it has none.
    parts : tuple of Tensor
        Tensors that `product` gets the values of, and returns the update without its factor.
    product : callable
    factors : callable or None
        Returns the two matrices that the product consists of, if it is one of two.
    formula : str
        What the product is, such as ``'B A'``.
    factor : float or None
        Factor of the update; None if it is unknown.
    shape : tuple of int
    rank : int or None
        The largest rank that the update can have.
    magnitude : Tensor or None
        The learned lengths of DoRA.
    axis : int
        The axis of the weight that is as long as the magnitude. LyCORIS has lengths of the rows,
        or in its older versions of the columns, and the shape of its `dora_scale` tells which.
    reason : str
        Why the update is not computed.
    apart : str
        Why the update is not added to its base.
    """

    kind: str
    stem: str
    label: str = ""
    parts: tuple[Tensor, ...]
    product: Callable[..., Array]
    factors: Callable[..., Factors] | None = None
    formula: str
    factor: float | None
    shape: tuple[int, ...]
    rank: int | None = None
    magnitude: Tensor | None = None
    axis: int = 0
    reason: str = ""
    apart: str = ""

    def __post_init__(self) -> None:
        """Take the axis of the magnitudes from their shape, or a reason if they do not fit."""
        if not self.magnitude:
            return
        lengths = self.magnitude.shape
        if self.magnitude.name.endswith("dora_scale"):
            is_of_columns = len(lengths) > 1 and lengths[0] == 1 < lengths[1]
            object.__setattr__(self, "axis", int(is_of_columns))
        if not self.reason and math.prod(lengths) != self.shape[self.axis]:
            object.__setattr__(self, "reason", "DoRA whose lengths do not fit: not computed")

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the adapter for this weight."""
        return (*self.parts, *([self.magnitude] if self.magnitude else []))

    @property
    def scaled(self) -> str:
        """The formula with its factor."""
        if self.factor is None:
            return f"{self.formula}, of unknown factor"
        return self.formula if self.factor == 1 else f"{self.factor:g} {self.formula}"


def factor_of(config: Mapping[str, Any], key: str, stem: str, rank: int) -> float | None:
    """Return alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA; None if alpha is unknown.

    The keys of an `alpha_pattern` are regular expressions, which peft matches with the whole name
    of a module of the base, or with its end behind a dot; behind `^`, with the whole name only.
    Only names are read here, also behind `.*`: with others, alpha is unknown.
    """
    alpha = config.get(key)
    patterns = config.get("alpha_pattern")
    module = stem.rpartition("base_model.model.")[2]
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        name = _name_in(pattern)
        if not name:
            return None
        if pattern.removeprefix("^").startswith(".*"):
            is_match = module.endswith(name)
        elif pattern.startswith("^"):
            is_match = module == name
        else:
            is_match = f".{module}".endswith(f".{name}")
        if is_match:
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or rank < 1:
        return None
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _name_in(pattern: str) -> str:
    """Return the name that a regular expression consists of, or an empty string."""
    name = pattern.removeprefix("^").removeprefix(".*").removesuffix("$").replace("\\.", ".")
    return name if name.replace(".", "").replace("_", "").isalnum() else ""


def pattern_not_read(factor: float | None, config: Mapping[str, Any]) -> str:
    """Return that a factor is unknown because of an `alpha_pattern`, or an empty string."""
    patterns = config.get("alpha_pattern")
    if factor is not None or not isinstance(patterns, dict) or all(map(_name_in, patterns)):
        return ""
    return (
        "its LoRA has a factor that is unknown: of the alpha_pattern of adapter_config.json, only "
        "names are read"
    )


def update_alone(update: Update, name: str) -> Weight:
    """Return the update as a weight of its own."""
    if update.reason:
        return not_measured(name, update.tensors, update.reason)
    rule = f"{update.kind} update: {update.scaled}"
    if update.magnitude:
        rule += ", without the magnitudes of DoRA, which need the base"
    factor = 1.0 if update.factor is None else update.factor
    n = len(update.parts)

    def values(*arrays: Array) -> Array:
        return factor * update.product(*arrays[:n])

    # A product is not rounded to the dtype of its factors.
    dtype = "float64" if update.parts[0].dtype == "float64" else "float32"
    like = replace(update.parts[0], shape=update.shape, dtype=dtype)
    weight = composed(name, update.tensors, rule, values, like=like, rank=update.rank)

    def factors() -> Factors:
        left, right, start = update.factors(*values_of(update.parts))  # type: ignore[misc]
        return Factors(factor * left, right, start)

    return replace(weight, adapter=update.kind, factors=factors if update.factors else None)


def merged(update: Update, base: Weight, name: str) -> Weight:
    """Return the base with its update; by DoRA, with the lengths that it has learned.

    Liu et al. (2024), ICML: m (W + B A) / |W + B A|, with norms over all axes but that of m. The
    factor must be known, and the shape must fit.
    """
    parts = (base, *update.tensors)
    tensors = (*base.tensors, *(part.name for part in update.tensors))
    if reason := base.reason or update.reason:
        return replace(not_measured(name, parts, reason), tensors=tensors)
    n, as_base, factor = len(update.parts), shaper_of(update, base.shape), update.factor
    if as_base is None or factor is None:
        raise ValueError(f"{name}: its update does not fit, or has an unknown factor")
    is_turned = update.shape != base.shape == update.shape[::-1]
    axis = 1 - update.axis if is_turned else update.axis
    rule = f"{update.kind}: W + {update.scaled}"
    if update.magnitude:
        rule = f"DoRA: m V / |V|, V = W + {update.scaled}"

    def values(weight: Array, *arrays: Array) -> Array:
        result = weight + as_base(factor * update.product(*arrays[:n]))
        if not update.magnitude:
            return result
        axes = tuple(i for i in range(result.ndim) if i != axis)
        norm = np.sqrt(np.square(result).sum(axis=axes, keepdims=True))
        return result * (arrays[-1].reshape(norm.shape) / norm)

    if base.rule:
        rule = f"{rule}; W: {base.rule}"
    weight = composed(name, parts, rule, values, like=base)
    return replace(weight, tensors=tensors, role=base.role, added=update_alone(update, name))


def shaper_of(update: Update, shape: tuple[int, ...]) -> Callable[[Array], Array] | None:
    """Return the function that gives the update the shape of its base, or None if it does not fit.

    Some programs keep their matrices transposed, and some updates of kernels are matrices.
    """
    if update.shape == shape:
        return lambda values: values
    if len(shape) == 2 and update.shape == shape[::-1]:
        return lambda values: values.T
    if not shape or math.prod(update.shape) != math.prod(shape):
        return None
    if update.shape[0] == shape[0] or _is_of_loralib(update.shape, shape):
        return lambda values: values.reshape(shape)
    return None


def _is_of_loralib(shape: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    """Return whether loralib's ConvLoRA gives a matrix (out k / groups, in k) to a kernel k x k."""
    if len(shape) != 2 or len(kernel) != 4 or kernel[2] != kernel[3]:
        return False
    out, k = kernel[0], kernel[2]
    return shape[0] % k == 0 < shape[0] and out % (shape[0] // k) == 0


def in_shape_of(update: Update, shape: tuple[int, ...]) -> Update:
    """Return the update as a kernel, if it is the matrix that loralib views as one."""
    if update.reason or not _is_of_loralib(update.shape, shape) or update.shape[0] == shape[0]:
        return update
    product, rank = update.product, update.rank

    def kernel(*arrays: Array) -> Array:
        return product(*arrays).reshape(shape)

    # The rows of a position are from k rows of the matrix each.
    rank = rank and rank * shape[2]
    return replace(update, product=kernel, factors=None, shape=shape, rank=rank)
