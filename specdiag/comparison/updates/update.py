"""One weight of two checkpoints -> the record of what was added to it."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from specdiag.checkpoint.weights.weight import Weight
from specdiag.comparison.matrices import unfolded
from specdiag.comparison.pairs import SAME, relate
from specdiag.comparison.updates.directions import Directions, directions
from specdiag.comparison.updates.roles import depth_of, role_of
from specdiag.comparison.updates.rounding import kind_of, rounding
from specdiag.htsr import esd
from specdiag.htsr.layers import Layer, measure_weight, record_of
from specdiag.htsr.tail.power_law import Array

NO_WEIGHT = "not real weights"
SIDES = ("output", "input")
_CHANCE = {"overlap": "overlap_chance", "leading_share": "leading_chance"}


@dataclass(frozen=True, kw_only=True)
class Update:
    """What was added to one weight; NaN where a quantity does not apply.

    Attributes
    ----------
    layer : Layer
        Measured values of the difference W' - W, a kernel unfolded to (out, in * prod(kernel)). Its
        rank counts the eigenvalues above the rounding of both stored matrices.
    kind : str
        One of `rounding.KINDS`; empty if the two were not compared, and the layer has the reason.
    rounding_floor, resolved_share, relative_norm : float
        See `specdiag.dataset.schema.updates`.
    directions : Directions
    """

    layer: Layer
    kind: str = ""
    rounding_floor: float = math.nan
    resolved_share: float = math.nan
    relative_norm: float = math.nan
    directions: Directions = field(default_factory=Directions)

    @property
    def name(self) -> str:
        """Name of the weight."""
        return self.layer.name

    @property
    def role(self) -> str:
        """Role of the weight by its name: see `roles`."""
        return role_of(self.name)

    @property
    def depth(self) -> int:
        """Number of its block by its name, or -1."""
        return depth_of(self.name)

    @property
    def effective_rank(self) -> float:
        """Exponential of the entropy of the eigenvalues above rounding."""
        values = self.layer.eigenvalues
        return esd.effective_rank(values[values > self.rounding_floor])


def value_of(update: Update, name: str) -> Any:
    """Return the value that a variable of `UPDATES` has for an update."""
    if name in ("update_kind", "update_effective_rank"):
        return getattr(update, name.removeprefix("update_"))
    if hasattr(update, name):
        return getattr(update, name)
    if name == "cka_expected":
        return update.directions.cka_chance
    stem, _, part = name.rpartition("_")
    if stem in _CHANCE:
        return [getattr(x, part) for x in getattr(update.directions, _CHANCE[stem])]
    return getattr(update.directions, name)


def not_compared(weight: Weight, reason: str) -> Update:
    """Return the record of a weight that has no update to measure, with the reason."""
    return Update(layer=record_of(weight, status="skipped", reason=reason))


def unchanged(weight: Weight) -> Update:
    """Return the record of a weight to which nothing was added."""
    reason = "the same numbers in both: nothing was added"
    return replace(not_compared(weight, reason), kind="none", relative_norm=0.0)


def measure_update(before: Weight, after: Weight, **settings: Any) -> Update:
    """Return what was added to a weight. The settings are those of `measure_weight`."""
    for weight in (before, after):
        if not weight.dtype.startswith(("float", "bfloat")):
            return not_compared(after, f"{weight.dtype} values, {NO_WEIGHT}")
    pair = relate(before.name, before, after)
    if pair.relation in SAME:
        return unchanged(after)
    if pair.relation in ("other shape", "unreadable"):
        return not_compared(after, f"{pair.relation}: {pair.reason}")
    try:
        A, B = (unfolded(weight.read()) for weight in (before, after))
        return _measured(before, after, (A, B), settings)
    except MemoryError:
        return _failed(after, "not enough memory")
    except (ValueError, OSError, np.linalg.LinAlgError) as error:
        return _failed(after, str(error))


def _failed(weight: Weight, reason: str) -> Update:
    return Update(layer=record_of(weight, status="failed", reason=reason))


def _scaled(layer: Layer, exponent: int) -> Layer:
    """Return the layer of a matrix that was divided by 2^exponent, with the norms of the whole."""
    if not exponent:
        return layer
    norms = np.ldexp([layer.spectral_norm, layer.frobenius_norm], exponent).tolist()
    return replace(layer, exponent=exponent, spectral_norm=norms[0], frobenius_norm=norms[1])


def _measured(
    before: Weight, after: Weight, values: tuple[Array, Array], settings: dict[str, Any]
) -> Update:
    A, B = values
    for W in values:
        if not np.isfinite(W).all():
            bad = np.count_nonzero(~np.isfinite(W))
            return _failed(after, f"{bad:,} of {W.size:,} values are NaN or infinite")
    exponent = max(map(esd.exponent_beyond_range, values), key=abs)
    A, B = (esd.divided(W, exponent) for W in values)
    D, dtypes = B - A, (before.dtype, after.dtype)
    added = rounding(A, B, dtypes)
    difference = replace(
        after,
        shape=D.shape,
        dtype="float64",
        rule="W' - W",
        whole="",
        rank=None,
        factors=None,
        read=lambda: D,
        read_rows=None,
        identity=None,
    )
    layer = measure_weight(difference, floor=added.floor, **settings)
    layer = _scaled(replace(layer, dtype=after.dtype), exponent)
    if layer.status == "failed":
        return Update(layer=layer)
    spectrum = layer.eigenvalues
    kind, rank = kind_of(spectrum, D.shape, added)
    total = float(spectrum.sum())
    norms = [float(np.linalg.norm(A)), float(np.linalg.norm(D))]
    known = Update(
        layer=replace(layer, rank=rank),
        kind=kind,
        rounding_floor=added.floor,
        resolved_share=float(spectrum[:rank].sum()) / total if total else math.nan,
        relative_norm=norms[1] / norms[0] if norms[0] else math.inf,
    )
    if not rank:
        return known
    return replace(known, directions=directions(A, B, dtypes, spectrum[:rank]))
