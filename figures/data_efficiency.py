"""Test R² against the share of the training data, by arm."""

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from specdiag.drawing.seeds import limits, mean_over_seeds, seeds_text, without_r2
from specdiag.drawing.style import MARKERS, OKABE_ITO, arm_color, short_title

from .feature_spectra import level_rank, study

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Data efficiency"

# A curve: the checkpoints of one arm and level of UnitDropout, by train fraction.
Curve = dict[float, list[int]]
Curves = dict[tuple[str, str], Curve]


def reason_not_drawn(dataset: "xr.Dataset") -> str:
    """Return why there is nothing to draw, or ''."""
    if reason := without_r2(dataset):
        return reason
    if _studies(dataset):
        return ""
    return "no study with R² trains an arm on several fractions of its data"


def _studies(dataset: "xr.Dataset") -> dict[str, Curves]:
    """Return the curves of every study that have two fractions or more."""
    kept = {
        name: {key: curve for key, curve in curves.items() if len(curve) > 1}
        for name, curves in _fractions(dataset).items()
    }
    return {name: curves for name, curves in kept.items() if curves}


def _fractions(dataset: "xr.Dataset") -> dict[str, Curves]:
    """Return the checkpoints of every study by arm, level and fraction; of one fraction, too."""
    studies: dict[str, Curves] = {}
    known = np.isfinite(dataset.r2.values) & np.isfinite(dataset.train_fraction.values)
    for i in np.flatnonzero(known & (dataset.arm.values != "evaluation")):
        one = dataset.isel(checkpoint=i)
        name = f"{study(str(one.entry.values))} ({one.scale.values})"
        key = str(one.arm.values), str(one.unit_dropout.values)
        curve = studies.setdefault(name, {}).setdefault(key, {})
        curve.setdefault(float(one.train_fraction), []).append(int(i))
    return studies


def plot(dataset: "xr.Dataset") -> "Figure":
    """Return mean test R² over seeds and its interval by train fraction, one panel per study."""
    from matplotlib.figure import Figure

    studies = _studies(dataset)
    figure = Figure(figsize=(1.5 + 3.5 * len(studies), 4.2), layout="constrained")
    axes = figure.subplots(1, len(studies), sharey=True, squeeze=False)[0]
    for ax, (name, curves) in zip(axes, studies.items(), strict=True):
        _draw_study(ax, dataset, curves)
        ticks = sorted({100 * fraction for curve in curves.values() for fraction in curve})
        ax.set(xscale="log", title=short_title(name, 40), xlabel="share of the training data (%)")
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.legend(fontsize="small", frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    shown = list(chain.from_iterable(_points(studies)))
    axes[0].set(ylabel="test R²", ylim=limits(dataset.r2.values[shown]))
    return figure


def _draw_study(ax: "Axes", dataset: "xr.Dataset", curves: Curves) -> None:
    """Draw one curve per arm, or a level of UnitDropout if there is one arm."""
    by_arm = len({arm for arm, _ in curves}) > 1
    for k, ((arm, level), curve) in enumerate(sorted(curves.items(), key=_order)):
        fractions = sorted(curve)
        x = 100 * np.array(fractions) * 1.04 ** (k - (len(curves) - 1) / 2)  # side by side
        r2 = [dataset.r2.values[curve[fraction]] for fraction in fractions]
        means = [mean_over_seeds(values) for values in r2]
        color = arm_color(arm) if by_arm else OKABE_ITO[k % len(OKABE_ITO)]
        label = arm.replace("_", " ") if by_arm else f"{arm}, UnitDropout {level or 'unknown'}"
        line = f"{MARKERS[k % len(MARKERS)]}-"
        ax.plot(x, [m.value for m in means], line, color=color, label=short_title(label, 40))
        for place, values in zip(x, r2, strict=True):
            ax.plot([place] * len(values), values, ".", color=color, alpha=0.5, markersize=3)
        ax.vlines(x, [m.low for m in means], [m.high for m in means], color=color)


def _order(item: tuple[tuple[str, str], object]) -> tuple[str, tuple[int, str]]:
    (arm, level), _ = item
    return arm, level_rank(level)


def _points(studies: dict[str, Curves]) -> list[list[int]]:
    """Return the checkpoints of every point of all curves."""
    return [at for curves in studies.values() for curve in curves.values() for at in curve.values()]


def caption(dataset: "xr.Dataset") -> str:
    """Return what is drawn, with the number of checkpoints and seeds."""
    studies = _studies(dataset)
    points = [np.array(at) for at in _points(studies)]
    parts = []
    for name, curves in studies.items():
        n = [f"{arm} n = {sum(map(len, c.values()))}" for (arm, _), c in sorted(curves.items())]
        parts.append(f"{name}: {', '.join(n)}")
    single = [
        f"{arm or 'arm unknown'} of {name} ({100 * fraction:g} %)"
        for name, curves in _fractions(dataset).items()
        if name in studies
        for (arm, _), curve in sorted(curves.items())
        for fraction in curve
        if len(curve) == 1
    ]
    left_out = f" Of one share only, and not drawn: {', '.join(single)}." if single else ""
    return (
        "Test R² against the share of the training intervals that was used (logarithmic), by arm. "
        f"{seeds_text(dataset, points)} Checkpoints: {'; '.join(parts)}.{left_out}"
    )
