"""How often heavy-tailed matrices are recognised, by their size and exponent."""

from typing import TYPE_CHECKING

import numpy as np

from .coverage import COLORS, Rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Power"
TABLE = "verdicts.csv"  # of benchmarks/results: one row per kind and shape of matrix

_FAMILIES = {
    "student": "independent Student's t entries",
    "population": "population covariance with a power law",
}
_MARKERS = "o^sDv"


def reason_not_drawn(rows: Rows) -> str:
    """Return why there is nothing to draw, or ''."""
    return "" if rows else f"benchmarks/results/{TABLE} has no rows"


def _exponents(rows: Rows, family: str) -> dict[str, float]:
    """Return the exponent of the tail of large matrices, by kind, of a family."""
    kinds = dict.fromkeys(row["kind"] for row in rows)
    parameter = {k: float(k.rpartition("-")[2]) for k in kinds if k.rpartition("-")[0] == family}
    return {k: 1 + v / 2 if family == "student" else v for k, v in parameter.items()}


def plot(rows: Rows) -> "Figure":
    """Return the share of matrices with `null_p` ≤ 0.05, dashed, and with the verdict *power law*.

    One panel per family of matrices, one line per exponent; points are means over aspect ratios.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.9, 3.8), layout="constrained")
    axes = figure.subplots(1, len(_FAMILIES), sharey=True)
    sizes = sorted({row["M"] for row in rows})
    for ax, (family, title) in zip(axes, _FAMILIES.items(), strict=True):
        lines = zip(COLORS, _MARKERS, _exponents(rows, family).items(), strict=False)
        for color, marker, (kind, alpha) in lines:
            shares = {
                key: [
                    100 * np.mean([r[key] for r in rows if (r["kind"], r["M"]) == (kind, size)])
                    for size in sizes
                ]
                for key in ("heavy", "power law")
            }
            ax.plot(sizes, shares["heavy"], f"{marker}--", color=color, lw=1, ms=3.5)
            label = f"alpha {alpha:g}"
            ax.plot(sizes, shares["power law"], f"{marker}-", color=color, ms=3.5, label=label)
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
        ax.set_xlabel("eigenvalues M")
        ax.set_title(title, fontsize="medium", pad=32)
        ax.legend(
            frameon=False,
            fontsize="small",
            ncols=3,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0,
        )
    axes[0].set_ylabel("share of matrices (%)")
    return figure


def caption(rows: Rows) -> str:
    """Return what is drawn, and of how many matrices."""
    kinds = {kind for family in _FAMILIES for kind in _exponents(rows, family)}
    n = sum(row["count"] for row in rows if row["kind"] in kinds)
    return (
        f"Share of {n:,.0f} heavy-tailed matrices with null_p ≤ 0.05 (dashed) and with the verdict "
        "power law (solid), by the number of eigenvalues and the exponent: means over aspect "
        "ratios."
    )
