"""Coverage of the 95 % intervals of three methods on simulated spectra."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.plot.style import OKABE_ITO
from specdiag.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Coverage of 95 % intervals"
TABLE = "coverage.csv"  # of benchmarks/results: one row per kind of spectrum

BAR = (92, 98)  # %
ENOUGH = 30  # eigenvalues in the tail, expected: with fewer nothing is claimed
METHODS = {"specdiag": "o", "weightwatcher": "^", "wwj": "s"}
COLORS = tuple(OKABE_ITO[i] for i in (0, 3, 2, 1, 4))
_LABELS = {
    "none": "none\n(power law throughout)",
    "uniform": "uniform",
    "exponential": "exponential,\ncontinuous",
    "exponential-csn": "exponential,\nsmooth\n(Clauset et al.)",
    "bulk": "separated\nMarchenko-Pastur bulk",
    "lognormal": "lognormal,\nsmooth",
    "lognormal-cut": "lognormal,\ncut at xmin",
}

Rows = Sequence[Mapping[str, Any]]


def reason_not_drawn(rows: Rows) -> str:
    """Return why there is nothing to draw, or ''."""
    return "" if rows else f"benchmarks/results/{TABLE} has no rows"


def _cells(rows: Rows) -> list[Mapping[str, Any]]:
    """Return the cells with a long enough tail; those that are held out have other bodies."""
    return [row for row in rows if row["group"] == "main" and row["tail"] >= ENOUGH]


def plot(rows: Rows) -> "Figure":
    """Return the coverage of each method by body below the tail, one point per kind of spectrum."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.9, 4), layout="constrained")
    ax = figure.add_subplot()
    bodies = list(dict.fromkeys(row["body"] for row in _cells(rows)))
    bodies.sort(key=list(_LABELS).index)
    ax.axhspan(*BAR, color="0.9", zorder=0)
    ax.axhline(95, color="0.5", lw=0.8, zorder=1)
    for i, (method, marker) in enumerate(METHODS.items()):
        for j, body in enumerate(bodies):
            y = 100 * np.array([row[method] for row in _cells(rows) if row["body"] == body])
            x = j + 0.27 * (i - 1) + np.linspace(-0.1, 0.1, len(y))
            label = "_more" if j else method
            look: Any = {"color": COLORS[i], "ls": "", "ms": 3, "mew": 0, "alpha": 0.8}
            ax.plot(x, y, marker, label=label, **look)
    ax.set_xticks(range(len(bodies)), [_LABELS[body] for body in bodies], fontsize="small")
    ax.set_xlabel("body below the tail")
    ax.set_ylabel("coverage of the 95 % interval (%)")
    ax.set_ylim(-3, 103)
    ax.legend(frameon=False, loc="lower left", ncols=3, bbox_to_anchor=(0, 1), markerscale=2)
    return figure


def caption(rows: Rows) -> str:
    """Return what is drawn, and of how many kinds of spectra."""
    return (
        f"Coverage of the 95 % intervals of {len(METHODS)} methods, by the body below the tail: a "
        f"point is one of {counted(len(_cells(rows)), 'kind')} of simulated spectra with {ENOUGH} "
        f"or more values in the tail (expected). Grey is {BAR[0]} to {BAR[1]} %."
    )
