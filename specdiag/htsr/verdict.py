"""Measured layers -> a verdict for each, and the summary of a checkpoint."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from specdiag.htsr.layers import Layer
from specdiag.htsr.null.ladder import false_discovery_rate
from specdiag.htsr.statistics import known, mean, mean_interval
from specdiag.htsr.tail.change_points import MIN_SPACINGS
from specdiag.htsr.tail.posterior import ROPE

WELL_TRAINED = (2.0, 6.0)  # the range of alpha that Martin & Mahoney (2021) call well trained
MAX_Q = 0.05  # of the null: with a larger q, the layer does not differ from a random matrix
MIN_GOF_P = 0.1  # Clauset, Shalizi & Newman (2009), section 4.1
MAX_RATIO_P = 0.05  # another tail fits better when the p-value of its ratio is smaller
MAX_SHORT_TAIL = 0.5  # probability of fewer than 30 eigenvalues in the tail

VERDICTS = ("power law", "compatible", "too few", "rejected", "no evidence", "degenerate")
# Verdicts of layers whose alpha means something: means over layers are over these.
MEANINGFUL = ("power law", "compatible", "too few")


def with_verdicts(layers: Iterable[Layer]) -> list[Layer]:
    """Return the layers of one checkpoint with verdicts, and with `null_q` adjusted over all."""
    layers = list(layers)
    q = false_discovery_rate([layer.null_p for layer in layers])
    layers = [replace(layer, null_q=float(x)) for layer, x in zip(layers, q, strict=True)]
    return [replace(layer, verdict=verdict(layer)) for layer in layers]


def verdict(layer: Layer) -> str:
    """Return the first verdict that applies to a layer, or '' if none does (skipped, failed).

    - degenerate: the spectrum has collapsed (see `status`);
    - no evidence: random matrices of this shape have an alpha as low (null_q > 0.05);
    - rejected: no power law fits the tail (gof_p < 0.1);
    - too few: the tail probably has fewer than 30 eigenvalues, so its interval is not calibrated,
      or the matrix has fewer than 17;
    - compatible: not rejected, but another tail fits better, or the goodness of fit was not tested;
    - power law: heavier than random, not rejected, long enough, and no other tail fits better.

    The methods of others have no null and no goodness of fit: with them a layer is `degenerate`,
    `too few` or ''.
    """
    if layer.status != "fit":
        return "degenerate" if layer.status == "degenerate" else ""
    if layer.null_q > MAX_Q:
        return "no evidence"
    if layer.gof_p < MIN_GOF_P:
        return "rejected"
    if layer.rank <= MIN_SPACINGS + 1 or layer.posterior.short_tail > MAX_SHORT_TAIL:
        return "too few"
    if math.isnan(layer.null_q):
        return ""  # measured by a method of others, which has no null
    ratios = layer.likelihood_ratios.values()
    if math.isnan(layer.gof_p) or any(ratio < 0 and p < MAX_RATIO_P for ratio, p in ratios):
        return "compatible"
    return "power law"


def summarise(layers: Sequence[Layer]) -> dict[str, Any]:
    """Return the summary of a checkpoint: how many layers were measured, and alpha over them.

    Returns
    -------
    dict
        n_walked = n_fit + n_degenerate + n_skipped + n_failed; coverage = n_fit / (n_fit +
        n_degenerate); reasons, the layers of each (status, reason).
        Over the fit layers, NaN if there are none: mean_alpha and its 95 % interval (Student's t,
        with layers as the sampling unit), median_alpha, mean_distance_from_2, fraction_below_2,
        fraction_2_to_6, fraction_above_6, rope_fraction (the mean of P(1.9 <= alpha <= 2.1)), and
        Kruschke's decisions on that region: n_inside_rope, n_outside_rope, n_undecided.
        n_tested, the layers with a null; n_distinguishable, those with null_q <= 0.05; verdicts,
        how many layers have each verdict.
    """
    count = Counter(layer.status for layer in layers)
    fit = [layer for layer in layers if layer.status == "fit"]
    eligible = len(fit) + count["degenerate"]
    alpha = known([layer.alpha for layer in fit])
    low, high = WELL_TRAINED
    words = Counter(layer.verdict for layer in layers)
    return {
        "n_walked": len(layers),
        **{f"n_{status}": count[status] for status in ("fit", "degenerate", "skipped", "failed")},
        "coverage": len(fit) / eligible if eligible else math.nan,
        "mean_alpha": mean(alpha),
        "mean_alpha_interval": mean_interval(alpha),
        "median_alpha": float(np.median(alpha)) if len(alpha) else math.nan,
        "mean_distance_from_2": mean(np.abs(alpha - 2)),
        "fraction_below_2": mean(alpha < low),
        "fraction_2_to_6": mean((alpha >= low) & (alpha <= high)),
        "fraction_above_6": mean(alpha > high),
        "rope_fraction": mean([layer.posterior.rope for layer in fit]),
        **_rope_decisions(fit),
        "n_tested": sum(not math.isnan(layer.null_q) for layer in layers),
        "n_distinguishable": sum(layer.null_q <= MAX_Q for layer in layers),
        "verdicts": {word: words[word] for word in VERDICTS if words[word]},
        "reasons": _reasons(layers),
    }


def _rope_decisions(fit: Sequence[Layer]) -> dict[str, int]:
    """Return how many intervals lie inside the ROPE, outside it, or neither.

    Kruschke (2018), Adv. Methods Pract. Psychol. Sci. 1(2).
    """
    intervals = [x.posterior.interval for x in fit if not math.isnan(x.posterior.interval[0])]
    inside = sum(ROPE[0] <= low and high <= ROPE[1] for low, high in intervals)
    outside = sum(high < ROPE[0] or low > ROPE[1] for low, high in intervals)
    return {
        "n_inside_rope": inside,
        "n_outside_rope": outside,
        "n_undecided": len(intervals) - inside - outside,
    }


def _reasons(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    def key(layer: Layer) -> tuple[str, str]:
        return layer.status, layer.reason

    unmeasured = sorted((layer for layer in layers if layer.reason), key=key)
    return [
        {"status": status, "reason": reason, "layers": [layer.name for layer in group]}
        for (status, reason), group in itertools.groupby(unmeasured, key=key)
    ]
