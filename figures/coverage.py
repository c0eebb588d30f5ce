"""Coverage of the 95 % intervals of three methods on simulated spectra."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.drawing.style import OKABE_ITO
from specdiag.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Coverage of 95 % intervals"
TABLE = "coverage.csv"  # of benchmarks/results: one row per kind of spectrum

BAR = (92, 99)  # %
METHODS = {"coverage": "specdiag", "weightwatcher": "weightwatcher", "wwj": "wwj"}
COLORS = tuple(OKABE_ITO[i] for i in (0, 3, 2, 1, 4))
_MARKERS = "o^s"
_HALVES = ("tuning", "held out")
_JUNCTIONS = {
    "none": "no body",
    "jump": "jump",
    "value": "continuous",
    "slope": "continuous slope",
    "curvature": "continuous curvature",
}

Rows = Sequence[Mapping[str, Any]]


def reason_not_drawn(rows: Rows) -> str:
    """Return why there is nothing to draw, or ''."""
    return "" if rows else f"benchmarks/results/{TABLE} has no rows"


def _cells(rows: Rows) -> list[Mapping[str, Any]]:
    """Return the cells of which something is claimed."""
    return [row for row in rows if row["group"] in ("none", *_HALVES)]


def plot(rows: Rows) -> "Figure":
    """Return the coverage of each method by the junction of body and tail, a point a cell.

    Open points are bodies that were held out when the estimator was made.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.9, 4), layout="constrained")
    ax = figure.add_subplot()
    ax.axhspan(*BAR, color="0.9", zorder=0)
    ax.axhline(95, color="0.5", lw=0.8, zorder=1)
    for i, (column, method) in enumerate(METHODS.items()):
        for j, junction in enumerate(_JUNCTIONS):
            for half in ("none", *_HALVES):
                y = 100 * np.array(
                    [
                        row[column]
                        for row in _cells(rows)
                        if row["junction"] == junction and row["group"] == half
                    ]
                )
                x = j + 0.27 * (i - 1) + np.linspace(-0.1, 0.1, len(y))
                look: Any = {"color": COLORS[i], "ls": "", "ms": 3, "mew": 0.6, "alpha": 0.8}
                look["mfc"] = "none" if half == "held out" else COLORS[i]
                label = method if junction == half == "none" else "_more"
                ax.plot(x, y, _MARKERS[i], label=label, **look)
    ax.set_xticks(range(len(_JUNCTIONS)), list(_JUNCTIONS.values()), fontsize="small")
    ax.set_xlabel("junction of body and tail")
    ax.set_ylabel("coverage of the 95 % interval (%)")
    ax.set_ylim(-3, 103)
    ax.legend(frameon=False, loc="lower left", ncols=3, bbox_to_anchor=(0, 1), markerscale=2)
    return figure


def caption(rows: Rows) -> str:
    """Return what is drawn, and of how many kinds of spectra."""
    cells = _cells(rows)
    held_out = sum(row["group"] == "held out" for row in cells)
    return (
        f"Coverage of the 95 % intervals of {len(METHODS)} methods, by the junction of body and "
        f"tail: a point is one of {counted(len(cells), 'kind')} of simulated spectra with 30 or "
        f"more values in the tail (expected); {held_out} are held out (open points). Grey is "
        f"{BAR[0]} to {BAR[1]} %."
    )
