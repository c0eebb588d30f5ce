"""Checkpoints that differ in their seed alone -> means over seeds, drawn as one point each."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specdiag.htsr.statistics import mean_interval
from specdiag.plot.style import ARM_COLORS, MARKERS, short_title

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_R2 = "no test R² in the Dataset: `specdiag spectra` adds that of trained checkpoints"
_EDGE: dict[str, Any] = {"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.5}
_FAINT: dict[str, Any] = {"alpha": 0.4, "linewidth": 0.8}


class Mean(NamedTuple):
    """Mean over seeds with its 95 % interval by Student's t; NaN ends for fewer than three seeds.

    An interval over two seeds is 12.7 standard errors long to each side: it says nothing, and hides
    everything else.
    """

    value: float
    low: float
    high: float
    n: int


def mean_over_seeds(values: Any) -> Mean:
    """Return the mean of the values that are not NaN."""
    known = np.asarray(values)[np.isfinite(values)]
    if not len(known):
        return Mean(math.nan, math.nan, math.nan, 0)
    low, high = mean_interval(known) if len(known) > 2 else (math.nan, math.nan)
    return Mean(float(known.mean()), low, high, len(known))


def replicates(dataset: "xr.Dataset") -> list[Any]:
    """Return for every entry and scale the positions of its checkpoints, in the Dataset's order."""
    groups: dict[tuple[str, str], list[int]] = {}
    keys = zip(dataset.entry.values, dataset.scale.values, strict=True)
    for i, (entry, scale) in enumerate(keys):
        groups.setdefault((str(entry), str(scale)), []).append(i)
    return [np.array(positions) for positions in groups.values()]


def limits(values: Any, *, log: bool = False) -> tuple[float, float]:
    """Return the ends of an axis that shows all values; intervals over seeds may go beyond it."""
    known = np.asarray(values)[np.isfinite(values)]
    low, high = (float(end) for end in (known.min(), known.max()))
    low, high = (math.log(low), math.log(high)) if log else (low, high)
    margin = max(0.08 * (high - low), 0.02)
    low, high = low - margin, high + margin
    return (math.exp(low), math.exp(high)) if log else (low, high)


def has_r2(dataset: "xr.Dataset") -> bool:
    """Return whether a Dataset is a collection that has a test R²."""
    return "r2" in dataset.variables and bool(np.isfinite(dataset.r2.values).any())


def scatter(
    dataset: "xr.Dataset", values: Any, at: Sequence[tuple[Any, Mean, bool]], *, log: bool = False
) -> "Figure":
    """Return R² against a quantity, a point an entry: colour shows the arm, the marker the task.

    Small dots are single seeds. The axes show all points; intervals beyond them are cut off.

    Parameters
    ----------
    dataset : xarray.Dataset
        A collection.
    values : ndarray of shape (n_checkpoints,)
        The quantity of every checkpoint.
    at : sequence of (positions, Mean, bool)
        Of each entry: its checkpoints, the quantity, and whether that is a lower bound, which an
        arrow shows.
    log : bool
        Whether the axis of the quantity is logarithmic.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    ax = figure.add_subplot()
    labels = [(str(dataset.arm.values[g[0]]), str(dataset.task.values[g[0]])) for g, *_ in at]
    arms, tasks = (list(dict.fromkeys(words)) for words in zip(*labels, strict=True))
    for (group, x, is_bound), (arm, task) in zip(at, labels, strict=True):
        r2 = dataset.r2.values[group]
        _point(ax, x, mean_over_seeds(r2), _color(arm), _marker(tasks, task))
        if len(group) > 1:
            ax.plot(values[group], r2, ".", color=_color(arm), alpha=0.5, markersize=3)
        if is_bound:
            _arrow(ax, (x.value, mean_over_seeds(r2).value), _color(arm))
    shown = np.concatenate([group for group, *_ in at])
    ax.set_xscale("log" if log else "linear")
    ax.set_xlim(limits(values[shown], log=log))
    ax.set_ylim(limits(dataset.r2.values[shown]))
    ax.set_ylabel("test R²")
    _legend(figure, arms, tasks)
    return figure


def _point(ax: "Axes", x: Mean, y: Mean, color: str, marker: str) -> None:
    ax.plot([x.value, x.value], [y.low, y.high], color=color, **_FAINT)
    ax.plot([x.low, x.high], [y.value, y.value], color=color, **_FAINT)
    ax.plot(x.value, y.value, marker, color=color, label="_entry", **_EDGE)


def _arrow(ax: "Axes", start: tuple[float, float], color: str) -> None:
    look = {"arrowstyle": "<-", "color": color, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", start, (16, 0), textcoords="offset points", arrowprops=look)


def _legend(figure: "Figure", arms: Sequence[str], tasks: Sequence[str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=_color(arm), label=short_title(arm, 30) or "arm unknown") for arm in arms
    ]
    for task in tasks:
        label = short_title(task, 30) or "task unknown"
        marker = _marker(tasks, task)
        handles += [Line2D([], [], linestyle="", marker=marker, color="#777777", label=label)]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, fontsize="small", frameon=False
    )


def _color(arm: str) -> str:
    return ARM_COLORS.get(arm, ARM_COLORS[""])


def _marker(tasks: Sequence[str], task: str) -> str:
    return MARKERS[tasks.index(task) % len(MARKERS)]


def ranged(values: Any) -> str:
    """Return the smallest and the largest of whole numbers as text, or their one value."""
    low, high = f"{values.min():,.0f}", f"{values.max():,.0f}"
    return low if low == high else f"{low} to {high}"


def seeds_text(dataset: "xr.Dataset", groups: Sequence[Any]) -> str:
    """Return the number of seeds an entry, and the meaning of the bars, as text for a caption."""
    n = np.array([int(np.isfinite(dataset.r2.values[group]).sum()) for group in groups])
    if n.max() < 2:
        return "One seed each, so there are no intervals of R²."
    bars = "bars, of three or more seeds, their 95 % intervals (Student's t), cut off at the frame"
    if n.max() == 2:
        bars = "without bars: an interval over two seeds says nothing"
    return f"Points are means over {ranged(n)} seeds an entry, {bars}; dots are single seeds."
