"""Readings of a training -> alpha, norm and rank of every matrix by step."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.drawing.style import OKABE_ITO, short_title
from specdiag.training.logged import read_table
from specdiag.training.readings import Reading
from specdiag.training.trajectory import History, Trajectory, trajectory
from specdiag.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Spectra while training"
SIZE, PANELS = (6, 7), 3
RED = "#d55e00"  # collapsed, or not finite
_GREY = "#777777"
_KINDS = tuple(color for color in OKABE_ITO if color not in (RED, "#000000"))
_MOST_NAMES = 60
_MOST_BANDS = 12  # intervals of more matrices hide each other
_LETTERS = 40  # of a name
_MOST_MARKS = 12  # steps that are marked as points
_LINE = 0.145  # inches between names of 7 points
_HEIGHTS = (5, 3, 2)  # of the panels


def read(path: Path) -> Trajectory:
    """Return the readings of a table that `specdiag.SpectralMonitor` wrote or logged, by matrix.

    Raises
    ------
    ValueError
        If the file is not such a table, or has no readings: in one line that begins with the path.
    OSError
        If it cannot be read.
    """
    readings = read_table(path)
    if not readings:
        raise ValueError(f"{path}: it has no readings; the network has no matrix to measure")
    return trajectory(readings)


def plot(found: Trajectory) -> "Figure":
    """Return alpha with its interval, norm and rank relative to the first reading, by step.

    Each matrix has a line, and its name beside it, in the order of the last alphas. Matrices of one
    kind, whose names differ in numbers alone, have one colour, the later ones darker. What has
    collapsed or is not finite at the end is red; a cross marks its last alpha. Of more than 60
    matrices, those have names that are red, or whose alpha moved most.
    """
    from matplotlib.figure import Figure

    named = _named(found.histories)
    height = max(SIZE[1], 0.8 + _LINE * len(named))
    figure = Figure(figsize=(SIZE[0] + 3, height), layout="constrained")
    grid = figure.add_gridspec(PANELS, 2, width_ratios=(SIZE[0], 2.9), height_ratios=_HEIGHTS)
    axes = [figure.add_subplot(grid[0, 0])]
    axes += [figure.add_subplot(grid[i, 0], sharex=axes[0]) for i in (1, 2)]
    for ax in axes[:-1]:
        ax.tick_params(labelbottom=False)
    draw(axes, found)
    _write_names(figure.add_subplot(grid[:, 1]), axes, named, colors(found.histories), height)
    return figure


def draw(axes: "Sequence[Axes]", found: Trajectory) -> None:
    """Draw alpha, norm and rank of every matrix by step on three axes."""
    top, middle, bottom = axes
    steps, color_of = found.steps, colors(found.histories)
    mark = "." if len(steps) <= _MOST_MARKS else ""
    for history in found.histories:
        step, norm = _columns(history.readings, "step", "norm")
        when, alpha, low, high, rank = _columns(
            history.spectra, "step", "alpha", "alpha_low", "alpha_high", "rank"
        )
        look: dict[str, Any] = {"color": color_of[history.name], "linewidth": 1, "marker": mark}
        label = short_title(history.name, _LETTERS)
        if len(found.histories) <= _MOST_BANDS:
            top.fill_between(when, low, high, color=look["color"], alpha=0.08, linewidth=0)
        top.plot(when, alpha, label=label, **look)
        middle.plot(step, norm / (norm[0] or np.nan), label=label, **look)
        bottom.plot(when, rank / (rank[0] or np.nan), label=label, **look)
        if _lost(alpha):
            last = np.flatnonzero(np.isfinite(alpha))[-1]
            top.plot(when[last], alpha[last], "x", color=RED, label="_lost")
    top.set(ylabel="α (posterior mean)")
    middle.set(ylabel="norm / first norm")
    # Far more than the norms of weights that learn do.
    if middle.get_ylim()[0] < 0.1 and _shrinks(found.histories):
        middle.set_yscale("log")
    bottom.set(ylabel="rank / first rank", xlabel=f"training {found.unit}")
    bottom.set_ylim(bottom=0)
    _scale_steps(bottom, steps)
    top.set_xscale(bottom.get_xscale())
    middle.set_xscale(bottom.get_xscale())


def _shrinks(found: Sequence[History]) -> bool:
    norms = [np.array([r.norm for r in h.readings]) / (h.first.norm or np.nan) for h in found]
    values = np.concatenate(norms)
    return bool((values[values > 0] < 0.1).any())


def _scale_steps(ax: "Axes", steps: Sequence[int]) -> None:
    """Make the scale of steps logarithmic if most of them are in its first twentieth."""
    early = [step for step in steps if step < 0.05 * steps[-1]]
    if len(early) > len(steps) / 2 and len(steps) > 3:
        ax.set_xscale("symlog", linthresh=max(1, steps[1] if steps[0] == 0 else steps[0]))


def colors(found: Sequence[History]) -> dict[str, str]:
    """Return the colour of each matrix by its name."""
    from matplotlib.colors import to_hex, to_rgb

    kinds = [re.sub(r"\d+", "#", history.name) for history in found]
    ranked = [kind for kind, _ in Counter(kinds).most_common(len(_KINDS))]
    seen: Counter[str] = Counter()
    total = Counter(kinds)
    chosen = {}
    for history, kind in zip(found, kinds, strict=True):
        color = _KINDS[ranked.index(kind)] if kind in ranked else _GREY
        white = 0.5 * (1 - (seen[kind] + 1) / total[kind])
        seen[kind] += 1
        r, g, b = ((1 - white) * c + white for c in to_rgb(color))
        chosen[history.name] = to_hex((r, g, b))
        if history.is_bad:
            chosen[history.name] = RED
    return chosen


def _named(found: Sequence[History]) -> list[History]:
    """Return the matrices whose names are written, in the order of their last alphas."""

    def moved(history: History) -> float:
        by = abs(_last_alpha(history) - history.spectra[0].alpha)
        return math.inf if history.is_bad else by if math.isfinite(by) else -1

    chosen = sorted(found, key=moved, reverse=True)[:_MOST_NAMES]
    return sorted(
        chosen, key=lambda h: -_last_alpha(h) if math.isfinite(_last_alpha(h)) else math.inf
    )


def _last_alpha(history: History) -> float:
    return history.spectra[-1].alpha


def _write_names(
    ax: "Axes",
    axes: "Sequence[Axes]",
    named: Sequence[History],
    color_of: dict[str, str],
    height: float,
) -> None:
    """Write the names on axes beside the panels, each with a thin line to the end of its line."""
    from matplotlib.patches import ConnectionPatch

    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    low, high = axes[0].get_ylim()
    bottom = 1 - _HEIGHTS[0] / sum(_HEIGHTS)
    wanted = [
        bottom + (1 - bottom) * (_last_alpha(h) - low) / (high - low)
        if math.isfinite(_last_alpha(h))
        else bottom / 2
        for h in named
    ]
    places = _spread(wanted, _LINE / (height - 0.8))
    labels = _short_names([h.name for h in named])
    for history, place, label in zip(named, places, labels, strict=True):
        color = color_of[history.name]
        ax.text(0.14, place, label, color=color, fontsize=7, va="center")
        if math.isfinite(_last_alpha(history)):
            line = ConnectionPatch(
                (history.spectra[-1].step, _last_alpha(history)),
                (0.12, place),
                "data",
                axesA=axes[0],
                axesB=ax,
                color=color,
                linewidth=0.4,
                alpha=0.6,
            )
            line.set_in_layout(False)
            ax.figure.add_artist(line)


def _spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return the places of names from the top down, as near as they fit, a gap apart."""
    gap = min(gap, 1 / max(len(wanted), 1))
    places: list[float] = []
    for place in wanted:
        places.append(min(place, (places[-1] if places else 1 + gap / 2) - gap))
    least = gap / 2
    for i in reversed(range(len(places))):
        places[i] = max(places[i], least)
        least = places[i] + gap
    return places


def _short_names(names: Sequence[str]) -> list[str]:
    """Return names without the beginning and the end that all have."""
    low, high = min(names), max(names)
    n_same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), 0)
    start = low[: low[:n_same].rfind(".") + 1]
    end = ".weight" if all(name.endswith(".weight") for name in names) else ""
    return [short_title(name[len(start) :].removesuffix(end), _LETTERS) for name in names]


def _columns(readings: Sequence[Reading], *names: str) -> list[Any]:
    return [np.array([getattr(r, name) for r in readings], float) for name in names]


def _lost(alpha: Any) -> bool:
    """Return whether a matrix has an alpha at first and none at the end: its rank has collapsed."""
    return bool(np.isfinite(alpha).any()) and math.isnan(alpha[-1])


def caption(found: Trajectory) -> str:
    """Return what is drawn: the matrices, the steps, how many collapsed or lost their alpha."""
    steps, matrices = found.steps, found.histories
    lost = sum(_lost(*_columns(history.spectra, "alpha")) for history in matrices)
    red = sum(history.is_bad for history in matrices)
    band = " with its 95 % interval" if len(matrices) <= _MOST_BANDS else ""
    few = f" Names of {_MOST_NAMES}: those that are red, or whose α moved most."
    return (
        f"Posterior mean of α{band}, Frobenius norm and rank of "
        f"{counted(len(matrices), 'matrix', 'matrices')} at {counted(len(steps), found.unit)} from "
        f"{steps[0]:,} to {steps[-1]:,}; norm and rank are relative to the first reading. {red} "
        f"collapsed or not finite at the end (red); {lost} lost their α on the way (cross), as "
        f"their rank fell below the gate.{few * (len(matrices) > _MOST_NAMES)}"
    )
