"""Test R² against the share of the training data, by arm."""

from typing import TYPE_CHECKING

import numpy as np

from specdiag.plot.seeds import (
    NO_R2,
    has_r2,
    level_rank,
    limits,
    mean_over_seeds,
    seeds_text,
    study,
)
from specdiag.plot.style import ARM_COLORS, MARKERS, OKABE_ITO, short_title

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

TITLE = "Data efficiency"

# A curve: the checkpoints of one study, arm and level of UnitDropout, by train fraction.
Curves = dict[str, dict[tuple[str, str], dict[float, list[int]]]]


def lacks(dataset: "xr.Dataset") -> str:
    """Return why there is nothing to draw, or ''."""
    if not has_r2(dataset):
        return NO_R2
    return (
        ""
        if _curves(dataset)
        else "no study with R² trains an arm on several fractions of its data"
    )


def _curves(dataset: "xr.Dataset") -> Curves:
    """Return the curves of every study; a curve has two fractions or more."""
    kept = {
        name: {key: curve for key, curve in curves.items() if len(curve) > 1}
        for name, curves in _fractions(dataset).items()
    }
    return {name: curves for name, curves in kept.items() if curves}


def _fractions(dataset: "xr.Dataset") -> Curves:
    """Return the checkpoints of every study, of one fraction, too."""
    found: Curves = {}
    known = np.isfinite(dataset.r2.values) & np.isfinite(dataset.train_fraction.values)
    for i in np.flatnonzero(known & (dataset.arm.values != "evaluation")):
        one = dataset.isel(checkpoint=i)
        name = f"{study(str(one.entry.values))} ({one.scale.values})"
        key = str(one.arm.values), str(one.unit_dropout.values)
        curve = found.setdefault(name, {}).setdefault(key, {})
        curve.setdefault(float(one.train_fraction), []).append(int(i))
    return found


def plot(dataset: "xr.Dataset") -> "Figure":
    """Return mean test R² over seeds and its interval by train fraction, a panel a study."""
    from matplotlib.figure import Figure

    found = _curves(dataset)
    figure = Figure(figsize=(1.5 + 3.5 * len(found), 4.2), layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for ax, (name, curves) in zip(axes, found.items(), strict=True):
        by_arm = len({arm for arm, _ in curves}) > 1
        for k, ((arm, level), curve) in enumerate(sorted(curves.items(), key=_order)):
            fractions = sorted(curve)
            x = 100 * np.array(fractions) * 1.04 ** (k - (len(curves) - 1) / 2)  # side by side
            means = [mean_over_seeds(dataset.r2.values[curve[fraction]]) for fraction in fractions]
            color = ARM_COLORS.get(arm, ARM_COLORS[""]) if by_arm else OKABE_ITO[k % len(OKABE_ITO)]
            label = arm.replace("_", " ") if by_arm else f"{arm}, UnitDropout {level or 'unknown'}"
            ax.plot(
                x,
                [mean.value for mean in means],
                f"{MARKERS[k % len(MARKERS)]}-",
                color=color,
                label=short_title(label, 40),
            )
            for place, fraction in zip(x, fractions, strict=True):
                y = dataset.r2.values[curve[fraction]]
                ax.plot([place] * len(y), y, ".", color=color, alpha=0.5, markersize=3)
            ax.vlines(x, [m.low for m in means], [m.high for m in means], color=color)
        ticks = sorted({100 * fraction for curve in curves.values() for fraction in curve})
        ax.set(xscale="log", title=short_title(name, 40), xlabel="share of the training data (%)")
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.legend(fontsize="small", frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    axes[0].set(ylabel="test R²", ylim=limits(dataset.r2.values[_positions(found)]))
    return figure


def _order(item: tuple[tuple[str, str], object]) -> tuple[str, tuple[int, str]]:
    (arm, level), _ = item
    return arm, level_rank(level)


def caption(dataset: "xr.Dataset") -> str:
    """Return what is drawn, with the number of checkpoints and seeds."""
    found = _curves(dataset)
    points = [np.array(p) for curves in found.values() for c in curves.values() for p in c.values()]
    parts = [
        f"{name}: {', '.join(f'{arm} n = {_n(curve)}' for (arm, _), curve in sorted(curves.items()))}"
        for name, curves in found.items()
    ]
    single = [
        f"{arm or 'arm unknown'} of {name} ({100 * fraction:g} %)"
        for name, curves in _fractions(dataset).items()
        if name in found
        for (arm, _), curve in sorted(curves.items())
        for fraction in curve
        if len(curve) == 1
    ]
    left_out = f" Of one share only, and not drawn: {', '.join(single)}." if single else ""
    return (
        "Test R² against the share of the training intervals that was used (logarithmic), by arm. "
        f"{seeds_text(dataset, points)} Checkpoints: {'; '.join(parts)}.{left_out}"
    )


def _positions(found: Curves) -> list[int]:
    """Return the checkpoints of all curves."""
    return [
        i
        for curves in found.values()
        for curve in curves.values()
        for at in curve.values()
        for i in at
    ]


def _n(curve: dict[float, list[int]]) -> int:
    return sum(map(len, curve.values()))
