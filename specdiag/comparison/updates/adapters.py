"""Adapter -> the rank that each of its updates uses, and how much of it is noise.

Of a LoRA, everything is computed from its two factors, in the time of a decomposition of r x r.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.weights.weight import Weight
from specdiag.comparison.matrices import unfolded
from specdiag.htsr import esd
from specdiag.htsr.tail.power_law import Array

LEVEL = 0.05  # of the test for noise


@dataclass(frozen=True, kw_only=True)
class AdapterUpdate:
    """The update of one weight by an adapter; NaN where a quantity does not apply.

    Attributes
    ----------
    name : str
    kind : str
        Such as ``'LoRA'``.
    shape : tuple of int
    dtype : str
    max_rank : float
        The rank that it can have, r.
    rank : float
        Number of its singular values above rounding: the rank that it uses. 0 if it is dead: a
        factor or its scale is zero, or their product is below all numbers.
    effective_rank : float
        Exponential of the entropy of its normalised squared singular values (Roy & Vetterli 2007).
    stable_rank, spectral_norm, frobenius_norm : float
    noise_rank : float
        See `noise_rank`; NaN if it is dead, or no product of two factors of which one begins as
        zeros (AdaLoRA).
    reason : str
        Why it was not measured.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    max_rank: float = math.nan
    rank: float = math.nan
    effective_rank: float = math.nan
    stable_rank: float = math.nan
    spectral_norm: float = math.nan
    frobenius_norm: float = math.nan
    noise_rank: float = math.nan
    reason: str = ""


def adapter_updates(weights: Iterable[Tensor]) -> list[AdapterUpdate]:
    """Return the updates of the adapter that weights have, merged with their base or alone."""
    alone: dict[tuple[str, ...], tuple[str, Weight]] = {}
    for weight in weights:
        update = getattr(weight, "added", None) or weight
        if isinstance(update, Weight) and update.adapter and len(update.shape) > 1:
            name = getattr(weight, "whole", "") or weight.name
            alone.setdefault((name, *update.tensors), (name, update))
    return [_measured(name, update) for name, update in alone.values()]


def _measured(name: str, update: Weight) -> AdapterUpdate:
    n, m = update.shape[0], math.prod(update.shape[1:])
    is_of_all = update.factors or len(update.shape) == 2  # else it is the rank of a position
    known = {
        "name": name,
        "kind": update.adapter,
        "shape": update.shape,
        "dtype": update.dtype,
        "max_rank": float(min(n, m, update.rank or n) if is_of_all else min(n, m)),
    }
    try:
        start: Array | None = None
        if update.factors:
            left, right, start = update.factors()
            spectrum = esd.eigenvalues_of_product(left, right)
        else:
            spectrum = esd.eigenvalues(unfolded(update.read()))
    except (ValueError, OSError, MemoryError, np.linalg.LinAlgError) as error:
        return AdapterUpdate(**known, reason=str(error) or "not enough memory")  # type: ignore[arg-type]
    resolved = spectrum[spectrum > esd.rank_gate(spectrum, (n, m), update.dtype)]
    found: Mapping[str, float] = {
        "rank": float(len(resolved)),
        "effective_rank": esd.effective_rank(resolved),
        "stable_rank": esd.stable_rank(spectrum),
        "spectral_norm": math.sqrt(max(n, m) * float(spectrum[0])),
        "frobenius_norm": math.sqrt(max(n, m) * float(spectrum.sum())),
        "noise_rank": noise_rank(start) if start is not None and len(resolved) else math.nan,
    }
    return AdapterUpdate(**known, **found)  # type: ignore[arg-type]


def noise_rank(B: Array) -> float:
    """Return how many directions of B cannot be told from noise.

    B, of shape (n, r), begins as zeros. If training added noise of equal size to all of its
    elements, the eigenvalues of B'B are equal up to chance; what it learned stands out. So it is
    the largest number j of smallest eigenvalues that are not shown to differ (the likelihood-ratio
    test of equal smallest roots at the level 0.05: Bartlett 1954, J. R. Statist. Soc. B 16; with
    the correction of Lawley 1956, Biometrika 43). Noise alone has the rank r in 95 % of cases. A
    single smallest eigenvalue differs from no other, so the number is 0 or at least 2. NaN for
    fewer than two columns that are used, and for fewer than five rows a column.
    """
    values = np.linalg.svd(B, compute_uv=False) ** 2
    values = values[values > values[0] * (max(B.shape) * 2.0**-23) ** 2]
    n, r = len(B), len(values)
    if r < 2 or n < 5 * r:
        return math.nan
    from scipy.special import chdtrc

    for j in range(r, 1, -1):
        rest = values[r - j :]
        mean = float(rest.mean())
        leading = values[: r - j]
        with np.errstate(divide="ignore"):
            shifts = float(np.sum(mean**2 / (leading - mean) ** 2))
        size = n - (r - j) - (2 * j + 1 + 2 / j) / 6 + shifts
        statistic = size * (j * math.log(mean) - float(np.log(rest).sum()))
        if chdtrc((j - 1) * (j + 2) / 2, statistic) > LEVEL:
            return float(j)
    return 0.0
