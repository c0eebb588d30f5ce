"""Rank statistics of alpha in its posterior, beside the band of uniform ranks."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .coverage import COLORS, Rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Ranks of alpha in its posterior"
TABLE = "rank_statistics.csv"  # of benchmarks/results: one row per kind and place

_TITLES = {"model": "spectra of the model itself", "bodies": "spectra of forty bodies"}


def reason_not_drawn(rows: Rows) -> str:
    """Return why there is nothing to draw, or ''."""
    return "" if rows else f"benchmarks/results/{TABLE} has no rows"


def plot(rows: Rows) -> "Figure":
    """Return the share of ranks up to u, minus u, one panel per kind of simulation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.8, 3.4), layout="constrained")
    axes = figure.subplots(1, len(_TITLES), sharey=True)
    for ax, (kind, title) in zip(axes, _TITLES.items(), strict=True):
        these = [row for row in rows if row["kind"] == kind]
        u, difference, low, high = (
            np.array([row[key] for row in these]) for key in ("u", "difference", "low", "high")
        )
        ax.fill_between(u, low, high, color="0.9", label="95 % of uniform ranks")
        ax.axhline(0, color="0.5", lw=0.8)
        ax.plot(u, difference, color=COLORS[0], lw=1.2, label="ranks of alpha")
        ax.set_title(title, fontsize="medium")
        ax.set_xlabel("u, place in the posterior")
    axes[0].set_ylabel("share of ranks up to u, minus u")
    handles: Any = axes[0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, fontsize="small", ncols=2, loc="outside upper center")
    return figure


def caption(rows: Rows) -> str:
    """Return what is drawn, and of how many spectra."""
    count = int(rows[0]["count"])
    return (
        f"Simulation-based calibration: where the true alpha lies in its posterior, for {count:,} "
        "spectra of the model itself and as many of forty bodies. Grey holds 95 % of such lines, "
        "at all places at once, if every posterior is right."
    )
