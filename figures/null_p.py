"""Distribution of `gaussian_p` of random matrices, against the uniform one."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .coverage import COLORS, Rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "p-values of random matrices"
TABLE = "null_p.csv"  # of benchmarks/results: one row per matrix

_KS_95 = 1.358  # over the root of the sample size: the 95 % quantile of Kolmogorov's distance


def reason_not_drawn(rows: Rows) -> str:
    """Return why there is nothing to draw, or ''."""
    return "" if rows else f"benchmarks/results/{TABLE} has no rows"


def plot(rows: Rows) -> "Figure":
    """Return the share of p-values up to p, minus p, one line per aspect ratio.

    One panel per distribution of the entries. The band holds 95 % of lines of uniform p-values.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.8, 3.8), layout="constrained")
    axes = figure.subplots(1, len(_kinds(rows)), sharey=True, squeeze=False)[0]
    grid = np.linspace(0, 1, 201)
    for ax, kind in zip(axes, _kinds(rows), strict=True):
        these = [row for row in rows if row["kind"] == kind]
        aspects = sorted({row["N"] / row["M"] for row in these})
        reach = _KS_95 / math.sqrt(len(these) / len(aspects))
        ax.fill_between(grid, -reach, reach, color="0.92", label="95 % KS band of one line")
        ax.axhline(0, color="0.5", lw=0.8)
        for color, aspect in zip(COLORS, aspects, strict=False):
            p = np.sort([row["gaussian_p"] for row in these if row["N"] == aspect * row["M"]])
            share = np.searchsorted(p, grid, side="right") / len(p)
            ax.plot(grid, share - grid, color=color, lw=1.2, label=f"N/M = {aspect:g}")
        ax.set(title=f"{kind} entries", xlabel="p")
        ax.title.set_fontsize("medium")
    axes[0].set_ylabel("share of gaussian_p ≤ p, minus p")
    handles: Any = axes[0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, fontsize="small", ncols=5, loc="outside upper center")
    return figure


def _kinds(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["kind"] for row in rows))


def caption(rows: Rows) -> str:
    """Return what is drawn, and of how many matrices."""
    parts = [f"{sum(r['kind'] == kind for r in rows):,} {kind}" for kind in _kinds(rows)]
    return (
        f"Distribution of gaussian_p of {' and '.join(parts)} matrices, less the uniform "
        "distribution; grey holds 95 % of such lines if p-values are uniform."
    )
