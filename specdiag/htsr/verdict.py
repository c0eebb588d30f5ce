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
from specdiag.htsr.null.verdicts import MEANINGFUL, VERDICTS
from specdiag.htsr.statistics import alpha_mean_interval, mean, median
from specdiag.htsr.tail.change_points import MIN_SPACINGS
from specdiag.htsr.tail.kind import EVIDENCE
from specdiag.htsr.tail.posterior import ROPE

WELL_TRAINED = (2.0, 6.0)  # the range of alpha that Martin & Mahoney (2021) call well trained
MAX_Q = 0.05  # of the nulls: with a larger q, the layer does not differ from a random matrix
MIN_GOF_P = 0.1  # Clauset, Shalizi & Newman (2009), section 4.1
MAX_SHORT_TAIL = 0.5  # probability of fewer than 30 eigenvalues in the tail


def with_verdicts(layers: Iterable[Layer], *, null: str = "ladder") -> list[Layer]:
    """Return the layers of one checkpoint with verdicts, and with q-values adjusted over all.

    With the null 'none' only degenerate layers have a verdict: those of the others begin with it.
    """
    layers = list(layers)
    gaussian_q = false_discovery_rate([layer.gaussian_p for layer in layers])
    q = false_discovery_rate([layer.null_p for layer in layers])
    layers = [
        replace(layer, gaussian_q=float(one), null_q=float(all_rungs))
        for layer, one, all_rungs in zip(layers, gaussian_q, q, strict=True)
    ]
    judged = [replace(layer, verdict=verdict(layer)) for layer in layers]
    if null == "none":
        judged = [replace(x, verdict="") if x.status == "fit" else x for x in judged]
    return judged


def verdict(layer: Layer) -> str:
    """Return the first verdict that applies to a layer, or '' if none does (skipped, failed).

    - degenerate: see `status`;
    - no evidence: `gaussian_q` > 0.05;
    - scales: `null_q` > 0.05; initialisation: so it is, and untrained networks are the reason;
    - rejected: `gof_p` < 0.1, which is tested only with `gof`;
    - too few: the tail probably has fewer than 30 eigenvalues, or the matrix has fewer than 17;
    - power law: `kind_log10_factor` >= log10(5); steepens: <= -log10(5); undecided: between.

    `VERDICTS` has a sentence for each. The methods of others have no null: with them a fit layer
    has the verdict `too few`, if it has fewer than 17 eigenvalues, or ''.
    """
    if layer.status != "fit":
        return "degenerate" if layer.status == "degenerate" else ""
    if layer.gaussian_q > MAX_Q:
        return "no evidence"
    if layer.null_q > MAX_Q:
        others = np.fmax(layer.gaussian_p, layer.scales_p)
        return "initialisation" if layer.initialisation_p >= layer.null_p > others else "scales"
    if layer.gof_p < MIN_GOF_P:
        return "rejected"
    if layer.rank <= MIN_SPACINGS + 1 or layer.posterior.short_tail > MAX_SHORT_TAIL:
        return "too few"
    if math.isnan(layer.null_q):
        return ""  # measured by a method of others, which has no null
    if layer.kind.log10_factor >= EVIDENCE:
        return "power law"
    return "steepens" if layer.kind.log10_factor <= -EVIDENCE else "undecided"


def is_meaningful(status: str, verdict: str) -> bool:
    """Return whether alpha of a layer means something, so that a mean over layers takes it.

    All fit layers without a verdict do: those of a method of others, or of a file of an earlier
    version.
    """
    return status == "fit" and verdict in (*MEANINGFUL, "")


def summarise(layers: Sequence[Layer]) -> dict[str, Any]:
    """Return the summary of a checkpoint: how many layers were measured, and alpha over them.

    Returns
    -------
    dict
        n_walked = n_fit + n_degenerate + n_skipped + n_failed; coverage = n_fit / (n_fit +
        n_degenerate); reasons, the layers of each (status, reason).
        n_meaningful, the layers whose alpha means something (`is_meaningful`). Over these, NaN if
        they are fewer than `MIN_LAYERS`: mean_alpha and its 95 % interval with layers as the
        sampling unit (`alpha_mean_interval`), median_alpha, mean_distance_from_2, fraction_below_2,
        fraction_2_to_6, fraction_above_6, rope_fraction (the mean of P(1.9 <= alpha <= 2.1)).
        Kruschke's decisions on that region: n_inside_rope, n_outside_rope, n_undecided.
        n_tested, the layers with a null; n_distinguishable, those with null_q <= 0.05; verdicts,
        how many layers have each verdict.
    """
    count = Counter(layer.status for layer in layers)
    fit = [layer for layer in layers if layer.status == "fit"]
    eligible = len(fit) + count["degenerate"]
    chosen = [layer for layer in fit if is_meaningful(layer.status, layer.verdict)]
    chosen = [layer for layer in chosen if not math.isnan(layer.alpha)]
    mean_alpha, interval = alpha_mean_interval([layer.alpha for layer in chosen])
    averaged = chosen if math.isfinite(mean_alpha) else []
    alpha = np.array([layer.alpha for layer in averaged])
    low, high = WELL_TRAINED
    words = Counter(layer.verdict for layer in layers)
    return {
        "n_walked": len(layers),
        **{f"n_{status}": count[status] for status in ("fit", "degenerate", "skipped", "failed")},
        "coverage": len(fit) / eligible if eligible else math.nan,
        "n_meaningful": len(chosen),
        "mean_alpha": mean_alpha,
        "mean_alpha_interval": interval,
        "median_alpha": median(alpha) if len(alpha) else math.nan,
        "mean_distance_from_2": mean(np.abs(alpha - 2)),
        "fraction_below_2": mean(alpha < low),
        "fraction_2_to_6": mean((alpha >= low) & (alpha <= high)),
        "fraction_above_6": mean(alpha > high),
        "rope_fraction": mean([layer.posterior.rope for layer in averaged]),
        **_rope_decisions(chosen),
        "n_tested": sum(not math.isnan(layer.null_q) for layer in layers),
        "n_distinguishable": sum(layer.null_q <= MAX_Q for layer in layers),
        "verdicts": {word: words[word] for word in VERDICTS if words[word]},
        "reasons": _reasons(layers),
    }


def _rope_decisions(layers: Sequence[Layer]) -> dict[str, int]:
    """Return how many intervals lie inside the ROPE, outside it, or neither.

    Kruschke (2018), Adv. Methods Pract. Psychol. Sci. 1(2).
    """
    intervals = [x.posterior.interval for x in layers if not math.isnan(x.posterior.interval[0])]
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
