"""Test R² on a second monkey's session: frozen base against scratch and ridge decoders."""

from typing import TYPE_CHECKING

import numpy as np

from specdiag.wording import counted

from .coverage import Rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Frozen base against scratch and ridge"
TABLE = "transfer.csv"  # of benchmarks/results: one row per training

TASK, SESSION = "second", "m_20140303"
ARMS = {
    "pretrained": ("frozen base", "#0072b2"),
    "scratch": ("scratch", "#e69f00"),
    "scratch_tuned": ("scratch, tuned", "#d55e00"),
    "ridge": ("ridge, 3 bins", "#999999"),
    "ridge_wide": ("ridge, 11 bins", "#444444"),
}


def reason_not_drawn(rows: Rows) -> str:
    """Return why there is nothing to draw, or ''."""
    return "" if _shown(rows) else f"benchmarks/results/{TABLE} has no row of {SESSION}"


def _shown(rows: Rows) -> Rows:
    return [row for row in rows if row["task"] == TASK and row["arm"] in ARMS]


def plot(rows: Rows) -> "Figure":
    """Return test R² against the share of the training data: lines are means, dots are seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.7, 3.3), layout="constrained")
    ax = figure.add_subplot()
    for arm, (label, color) in ARMS.items():
        mine = [row for row in _shown(rows) if row["arm"] == arm]
        percents = sorted({row["percent"] for row in mine})
        means = [np.mean([r["r2"] for r in mine if r["percent"] == p]) for p in percents]
        ax.plot(percents, means, color=color, label=label)
        seeds = [[row[key] for row in mine] for key in ("percent", "r2")]
        ax.plot(*seeds, ".", color=color, alpha=0.6)
    ax.set(xscale="log", xlabel="training data, %", ylabel="test R²", title=SESSION)
    percents = sorted({row["percent"] for row in _shown(rows)})
    ax.set_xticks(percents, [f"{percent:g}" for percent in percents])
    ax.minorticks_off()
    ax.legend(frameon=False)
    return figure


def caption(rows: Rows) -> str:
    """Return what is drawn, and of how many trainings."""
    n = sum(not row["arm"].startswith("ridge") for row in _shown(rows))
    return (
        f"Test R² on {SESSION} against the share of its training data that was used (logarithmic): "
        f"{counted(n, 'training')} of POYO, and ridge decoders. Lines are means over seeds, dots "
        "are seeds."
    )
