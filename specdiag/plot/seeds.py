"""Checkpoints that differ in their seed alone: which they are, and the mean over them."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specdiag.htsr.statistics import mean_interval
from specdiag.plot.style import ARM_COLORS, MARKERS, short_title

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


class Mean(NamedTuple):
    """Mean over seeds with its 95 % interval by Student's t; NaN ends for fewer than three seeds.

    Over two seeds it is 12.7 standard errors long to each side: it says nothing and hides the rest.
    """

    value: float
    low: float
    high: float
    n: int


def mean_over_seeds(values: Any) -> Mean:
    """Return the mean of the values that are known."""
    known = np.asarray(values)[np.isfinite(values)]
    if not len(known):
        return Mean(math.nan, math.nan, math.nan, 0)
    low, high = mean_interval(known) if len(known) > 2 else (math.nan, math.nan)
    return Mean(float(known.mean()), low, high, len(known))


def replicates(dataset: "xr.Dataset") -> list[Any]:
    """Return the positions of the checkpoints of every entry and scale, in the order of the Dataset."""
    found: dict[tuple[str, str], list[int]] = {}
    keys = zip(dataset.entry.values, dataset.scale.values, strict=True)
    for i, (entry, scale) in enumerate(keys):
        found.setdefault((str(entry), str(scale)), []).append(i)
    return [np.array(positions) for positions in found.values()]


def study(entry: str) -> str:
    """Return the study that an entry belongs to: the folder in its name."""
    return entry.rpartition("/")[0] or entry


def level_rank(level: str) -> tuple[int, str]:
    """Return what sorts levels of UnitDropout by how much they drop, others after them by name."""
    known = ("off", "standard", "aggressive")
    return known.index(level) if level in known else len(known), level


def limits(values: Any, *, log: bool = False) -> tuple[float, float]:
    """Return the ends of an axis that shows the values: an interval over three seeds may be longer."""
    known = np.asarray(values)[np.isfinite(values)]
    low, high = (float(end) for end in (known.min(), known.max()))
    low, high = (math.log(low), math.log(high)) if log else (low, high)
    margin = max(0.08 * (high - low), 0.02)
    low, high = low - margin, high + margin
    return (math.exp(low), math.exp(high)) if log else (low, high)


def has_r2(dataset: "xr.Dataset") -> bool:
    """Return whether a Dataset is a collection with test R² in it."""
    return "r2" in dataset.variables and bool(np.isfinite(dataset.r2.values).any())


NO_R2 = "no test R² in the Dataset: `specdiag spectra` puts that of trained checkpoints there"


def scatter(
    dataset: "xr.Dataset", values: Any, at: Sequence[tuple[Any, Mean, bool]], *, log: bool = False
) -> "Figure":
    """Return R² against a quantity of every entry: colour shows the arm, the marker shows the task.

    Small dots are single seeds. The axes show all of these: longer intervals are cut off.

    Parameters
    ----------
    dataset : xarray.Dataset
        A collection.
    values : ndarray
        The quantity of every checkpoint.
    at : sequence of (positions, Mean, bool)
        The checkpoints of an entry, the quantity, and whether it is a lower bound: an arrow shows that.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure = Figure(figsize=(6, 5), layout="constrained")
    ax = figure.add_subplot()
    labels = [(str(dataset.arm.values[g[0]]), str(dataset.task.values[g[0]])) for g, *_ in at]
    arms, tasks = (list(dict.fromkeys(words)) for words in zip(*labels, strict=True))
    for (group, x, is_bound), (arm, task) in zip(at, labels, strict=True):
        r2 = mean_over_seeds(dataset.r2.values[group])
        color = ARM_COLORS.get(arm, ARM_COLORS[""])
        ax.plot([x.value, x.value], [r2.low, r2.high], color=color, alpha=0.4, linewidth=0.8)
        ax.plot([x.low, x.high], [r2.value, r2.value], color=color, alpha=0.4, linewidth=0.8)
        if is_bound:
            arrow = {"arrowstyle": "<-", "color": color, "shrinkA": 0, "shrinkB": 0}
            ax.annotate(
                "", (x.value, r2.value), (16, 0), textcoords="offset points", arrowprops=arrow
            )
        if len(group) > 1:
            ax.plot(
                values[group], dataset.r2.values[group], ".", color=color, alpha=0.5, markersize=3
            )
        ax.plot(x.value, r2.value, _marker(tasks, task), color=color, label="_entry", **_EDGE)
    shown = np.concatenate([group for group, *_ in at])
    ax.set_xscale("log" if log else "linear")
    ax.set_xlim(limits(values[shown], log=log))
    ax.set_ylim(limits(dataset.r2.values[shown]))
    handles: list[Any] = [
        Patch(
            color=ARM_COLORS.get(arm, ARM_COLORS[""]), label=short_title(arm, 30) or "arm unknown"
        )
        for arm in arms
    ]
    handles += [
        Line2D(
            [],
            [],
            linestyle="",
            marker=_marker(tasks, task),
            color="#777777",
            label=short_title(task, 30) or "task unknown",
        )
        for task in tasks
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, fontsize="small", frameon=False
    )
    ax.set_ylabel("test R²")
    return figure


_EDGE: dict[str, Any] = {"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.5}


def _marker(tasks: Sequence[str], task: str) -> str:
    return MARKERS[tasks.index(task) % len(MARKERS)]


def ranged(values: Any) -> str:
    """Return the least and the largest of whole numbers, or the one that they are."""
    low, high = f"{values.min():,.0f}", f"{values.max():,.0f}"
    return low if low == high else f"{low} to {high}"


def seeds_text(dataset: "xr.Dataset", groups: Sequence[Any]) -> str:
    """Return how many seeds the entries have, and what the bars are then."""
    n = [int(np.isfinite(dataset.r2.values[group]).sum()) for group in groups]
    if max(n) < 2:
        return "One seed each, so there are no intervals of R²."
    seeds = f"{min(n)}" if min(n) == max(n) else f"{min(n)} to {max(n)}"
    bars = "bars, of three or more seeds, their 95 % intervals (Student's t), cut off at the frame"
    if max(n) == 2:
        bars = "without bars: an interval over two seeds says nothing"
    return f"Points are means over {seeds} seeds an entry, {bars}; dots are single seeds."
