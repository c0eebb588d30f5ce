"""Norms, gradients and trust ratios of all matrices while a network trains with LAMB."""

from typing import TYPE_CHECKING

from specdiag.wording import counted

from .coverage import Rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Matrices that shrink under LAMB"
TABLE = "collapse.csv"  # of benchmarks/results: one row per matrix and reading

RUNS = {  # of the column `run`, with the label and colour of each
    "the same for longer, decay 1e-4": ("decay 1e-4", "#d55e00"),
    "the same for longer, decay 0": ("decay 0", "#0072b2"),
}
_PANELS = {
    "norm": "norm, of its first",
    "gradient": "norm of the gradient",
    "trust_ratio": "trust ratio",
}
_BOUND, _ALONE = 1e-3, 1e4  # of the monitor for a norm; trust ratio of decay alone, 1 / decay


def reason_not_drawn(rows: Rows) -> str:
    """Return why there is nothing to draw, or ''."""
    return "" if _shown(rows) else f"benchmarks/results/{TABLE} has no row of {', '.join(RUNS)}"


def _shown(rows: Rows) -> Rows:
    return [row for row in rows if row["run"] in RUNS]


def plot(rows: Rows) -> "Figure":
    """Return the three quantities by step, one line per matrix, coloured by weight decay."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots(1, len(_PANELS))
    for run, (label, color) in RUNS.items():
        mine = [row for row in _shown(rows) if row["run"] == run]
        for matrix in dict.fromkeys(row["matrix"] for row in mine):
            line = [row for row in mine if row["matrix"] == matrix]
            for ax, quantity in zip(axes, _PANELS, strict=True):
                scale = line[0][quantity] if quantity == "norm" else 1.0
                values = [row[quantity] / scale for row in line]
                ax.plot([row["step"] for row in line], values, color=color, lw=0.8, alpha=0.7)
        axes[0].plot([], [], color=color, label=label)
    for ax, title in zip(axes, _PANELS.values(), strict=True):
        ax.set(yscale="log", xlabel="step", title=title)
    axes[0].axhline(_BOUND, color="black", lw=0.8, ls=":")
    axes[2].axhline(_ALONE, color="black", lw=0.8, ls=":")
    axes[0].legend(frameon=False)
    return figure


def caption(rows: Rows) -> str:
    """Return what is drawn, and of how many matrices and steps."""
    shown = _shown(rows)
    n, steps = len({row["matrix"] for row in shown}), max(row["step"] for row in shown)
    return (
        f"Norm, gradient and trust ratio of {counted(n, 'matrix', 'matrices')} of a small POYO "
        f"over {steps:,.0f} steps, with and without weight decay. Dotted are the monitor's bound "
        "for a norm, and 1/λ, the trust ratio of a matrix that decay alone moves."
    )
