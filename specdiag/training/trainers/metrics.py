"""Readings of a training -> numbers under names that loggers take."""

import math
import re
from collections.abc import Iterable, Mapping
from statistics import median

from specdiag.training.readings import Reading

KINDS = ("alpha", "stable_rank", "norm", "rank")
_REFUSED = re.compile(r"[^\w./ -]+")  # characters that MLflow takes in no name


def metrics(
    readings: Iterable[Reading],
    latest: Iterable[Reading],
    collapsed: Mapping[str, object],
    not_finite: Mapping[str, object],
) -> dict[str, float]:
    """Return the numbers to log after a step, without those that are NaN.

    `spectral/<layer>/alpha`, `stable_rank`, `norm` and `rank` of each reading; of all matrices,
    from the last measurement of each, `spectral/median_alpha` and `spectral/smallest_stable_rank`;
    and how many have collapsed (`spectral/collapsed`) or have values that are not finite
    (`spectral/not_finite`) so far. Of a layer's name, characters other than letters, digits, and
    ``_ . - /`` become a dot.
    """
    values = {
        f"spectral/{layer_name(r.name)}/{kind}": float(getattr(r, kind))
        for r in readings
        for kind in KINDS
    }
    latest = [r for r in latest if not math.isnan(r.rank)]
    alphas = [r.alpha for r in latest if not math.isnan(r.alpha)]
    ranks = [r.stable_rank for r in latest if not math.isnan(r.stable_rank)]
    values["spectral/median_alpha"] = median(alphas) if alphas else math.nan
    values["spectral/smallest_stable_rank"] = min(ranks, default=math.nan)
    values["spectral/collapsed"] = float(len(collapsed))
    values["spectral/not_finite"] = float(len(not_finite))
    return {name: value for name, value in values.items() if not math.isnan(value)}


def layer_name(name: str) -> str:
    """Return the name of a matrix as loggers take it: `in_proj_weight.q` of `in_proj_weight[q]`."""
    return _REFUSED.sub(".", name).strip(".")
