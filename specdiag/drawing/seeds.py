"""Checkpoints that differ in their seed alone -> means over seeds, drawn as one point each."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specdiag.drawing.style import MARKERS, arm_color, short_title
from specdiag.htsr.statistics import mean_interval
from specdiag.wording import counted

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (6, 5)
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


def replicates(dataset: "xr.Dataset", known: Any) -> list[Any]:
    """Return the positions of the known checkpoints of every entry and scale that has any.

    Parameters
    ----------
    dataset : xarray.Dataset
        A collection.
    known : ndarray of bool, of shape (n_checkpoints,)
    """
    groups: dict[tuple[str, str], list[int]] = {}
    keys = zip(dataset.entry.values, dataset.scale.values, strict=True)
    for i, (entry, scale) in enumerate(keys):
        groups.setdefault((str(entry), str(scale)), []).append(i)
    arrays = [np.array(positions) for positions in groups.values()]
    return [at[known[at]] for at in arrays if known[at].any()]


def limits(values: Any, *, log: bool = False) -> tuple[float, float]:
    """Return the ends of an axis that shows all values; intervals over seeds may go beyond it."""
    known = np.asarray(values)[np.isfinite(values)]
    low, high = (float(end) for end in (known.min(), known.max()))
    low, high = (math.log(low), math.log(high)) if log else (low, high)
    margin = max(0.08 * (high - low), 0.02)
    low, high = low - margin, high + margin
    return (math.exp(low), math.exp(high)) if log else (low, high)


def without_r2(dataset: "xr.Dataset") -> str:
    """Return the message that a Dataset has no test R², or '' if it has one."""
    if "r2" in dataset.variables and np.isfinite(dataset.r2.values).any():
        return ""
    return "no test R² in the Dataset: `specdiag spectra` adds that of trained checkpoints"


def too_few(groups: Sequence[Any], quantity: str) -> str:
    """Return the message that fewer than two checkpoints can be drawn, or ''."""
    n = sum(map(len, groups))
    has = "has" if n == 1 else "have"
    text = f"{counted(n, 'checkpoint')} {has} both R² and {quantity}; at least 2 are needed"
    return "" if n > 1 else text


def figure_of(draw: Callable[["Axes"], Sequence["Artist"]]) -> "Figure":
    """Return a figure with one drawing, and a legend of the artists that `draw` returns."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    handles = draw(figure.add_subplot())
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, fontsize="small", frameon=False
    )
    return figure


def scatter(
    ax: "Axes",
    dataset: "xr.Dataset",
    values: Any,
    at: Sequence[tuple[Any, Mean, bool]],
    *,
    log: bool = False,
) -> list["Artist"]:
    """Draw R² against a quantity, one point per entry: colour shows the arm, the marker the task.

    Small dots are single seeds. The axes show all points; intervals beyond them are cut off.
    Returns the artists of the legend.

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
    labels = [(str(dataset.arm.values[g[0]]), str(dataset.task.values[g[0]])) for g, *_ in at]
    arms, tasks = (list(dict.fromkeys(words)) for words in zip(*labels, strict=True))
    markers = {task: MARKERS[k % len(MARKERS)] for k, task in enumerate(tasks)}
    for (group, x, is_bound), (arm, task) in zip(at, labels, strict=True):
        r2, color = dataset.r2.values[group], arm_color(arm)
        _point(ax, x, mean_over_seeds(r2), color, markers[task])
        if len(group) > 1:
            ax.plot(values[group], r2, ".", color=color, alpha=0.5, markersize=3)
        if is_bound:
            _arrow(ax, (x.value, mean_over_seeds(r2).value), color)
    shown = np.concatenate([group for group, *_ in at])
    ax.set_xscale("log" if log else "linear")
    ax.set_xlim(limits(values[shown], log=log))
    ax.set_ylim(limits(dataset.r2.values[shown]))
    ax.set_ylabel("test R²")
    return _legend(arms, markers)


def _point(ax: "Axes", x: Mean, y: Mean, color: str, marker: str) -> None:
    ax.plot([x.value, x.value], [y.low, y.high], color=color, **_FAINT)
    ax.plot([x.low, x.high], [y.value, y.value], color=color, **_FAINT)
    ax.plot(x.value, y.value, marker, color=color, label="_entry", **_EDGE)


def _arrow(ax: "Axes", start: tuple[float, float], color: str) -> None:
    look = {"arrowstyle": "<-", "color": color, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", start, (16, 0), textcoords="offset points", arrowprops=look)


def _legend(arms: Sequence[str], markers: Mapping[str, str]) -> list["Artist"]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist] = [
        Patch(color=arm_color(arm), label=short_title(arm, 30) or "arm unknown") for arm in arms
    ]
    for task, marker in markers.items():
        label = short_title(task, 30) or "task unknown"
        handles += [Line2D([], [], linestyle="", marker=marker, color="#777777", label=label)]
    return handles


def ranged(values: Any) -> str:
    """Return the smallest and the largest of whole numbers as text, or their one value."""
    low, high = f"{values.min():,.0f}", f"{values.max():,.0f}"
    return low if low == high else f"{low} to {high}"


def seeds_text(dataset: "xr.Dataset", groups: Sequence[Any]) -> str:
    """Return the number of seeds per entry, and the meaning of the bars, as text for a caption."""
    n = np.array([int(np.isfinite(dataset.r2.values[group]).sum()) for group in groups])
    if n.max() < 2:
        return "One seed each, so there are no intervals of R²."
    bars = "bars, of three or more seeds, their 95 % intervals (Student's t), cut off at the frame"
    if n.max() == 2:
        bars = "without bars: an interval over two seeds says nothing"
    return f"Points are means over {ranged(n)} seeds per entry, {bars}; dots are single seeds."
