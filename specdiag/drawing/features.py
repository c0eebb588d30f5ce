"""Spectra of the features of layers -> effective rank and condition number by depth."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.drawing.style import OKABE_ITO, mark_decades, short_title
from specdiag.features.conditioning import FeatureSpectrum
from specdiag.wording import short, shown, some

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEPTH_SIZE = (7, 5)
SPECTRUM_SIZE = (8, 3.6)
PANELS = 2  # of both drawings
_FAR = 1e-4  # a noise floor further below the smallest eigenvalue is only named
LONGEST = 60  # layers whose names are written
_NAME = 28  # characters of such a name
_STILL = "features do not vary, so there is nothing to draw"
_RANK, _RATIO, _CONDITION = OKABE_ITO[:3]


def depth(spectra: Mapping[str, FeatureSpectrum], title: str = "") -> "Figure":
    """Return the effective rank and the condition number of the features of layers, in their order.

    Both panels have a dot and a 95 % interval for each layer. The rank is a share of the width. A
    triangle is a condition number that is only known to be at least so much.
    """
    from matplotlib.figure import Figure

    width = max(DEPTH_SIZE[0], 0.17 * len(spectra) + 1)
    figure = Figure(figsize=(width, DEPTH_SIZE[1]), layout="constrained")
    axes = figure.subplots(PANELS, sharex=True)
    draw_depth(axes, spectra)
    axes[0].set_title(short_title(title))
    for ax in axes:
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize="small", frameon=False)
    return figure


def draw_depth(axes: "Sequence[Axes]", spectra: Mapping[str, FeatureSpectrum]) -> None:
    """Draw what `depth` shows on two axes, without legend and title."""
    ranks, conditions = axes
    if not any(one.trace > 0 for one in spectra.values()):
        raise ValueError(f"{_named(spectra)}: {_STILL}")
    width = np.array([len(one.eigenvalues) for one in spectra.values()])
    for name, label, color, marker in (
        ("effective_rank", "effective rank", _RANK, "o"),
        ("participation_ratio", "participation ratio", _RATIO, "s"),
    ):
        value = np.array([getattr(one, name) for one in spectra.values()])
        ends = np.array([getattr(one, f"{name}_interval") for one in spectra.values()])
        moves = np.array([one.trace > 0 for one in spectra.values()])
        at = np.flatnonzero(moves)
        ranks.vlines(at, *(ends / width[:, None])[at].T, color=color, linewidth=1)
        ranks.plot(at, (value / width)[at], marker, color=color, markersize=4, label=label)
    ranks.set_yscale("log")
    ranks.set(ylabel="share of the width", ylim=(None, 1.2))
    _draw_conditions(conditions, spectra)
    conditions.set_xlim(-0.7, len(spectra) - 0.3)
    _name_layers(conditions, list(spectra))


def _draw_conditions(ax: "Axes", spectra: Mapping[str, FeatureSpectrum]) -> None:
    """Draw condition numbers with their intervals; lower bounds are triangles."""
    shown: set[str] = set()

    def mark(i: int, value: float, marker: str, label: str, **style: Any) -> None:
        name = "_" if label in shown else label
        shown.add(label)
        ax.plot(i, value, marker, color=_CONDITION, markersize=5, label=name, **style)

    for i, one in enumerate(spectra.values()):
        low, high = one.condition_number_interval
        if math.isinf(high) and low > 0:
            mark(i, low, "^", "at least so much", markerfacecolor="none")
        elif low > 0:
            ax.vlines(i, low, high, color=_CONDITION, linewidth=1)
            mark(i, one.condition_number, "o", "estimate")
        elif one.condition_number > 0:
            mark(i, one.condition_number, "x", "of the sample, without an interval")
    ax.set_yscale("log")
    ax.set_ylabel("condition number")
    mark_decades(ax.yaxis)


def _name_layers(ax: "Axes", names: Sequence[str]) -> None:
    if len(names) > LONGEST:
        ax.set_xlabel("layer, in the order of the forward pass")
        return
    labels = [short(name, _NAME).replace("$", r"\$") for name in names]
    ax.set_xticks(range(len(names)), labels, rotation=90, fontsize="x-small")


def spectrum(dataset: "xr.Dataset") -> "Figure":
    """Return the eigenvalues of features by rank, and the cumulative variance beside them.

    One colour for each checkpoint of a Dataset of features, of its first layer with samples.
    Eigenvalues of the sample are thin; those corrected for the spread that sampling adds thick; the
    noise floor is dotted, or named if it is far below, and a circle is the effective rank.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SPECTRUM_SIZE, layout="constrained")
    axes = figure.subplots(1, PANELS)
    draw_spectrum(axes, dataset)
    axes[0].legend(fontsize="x-small", frameon=False)
    return figure


def draw_spectrum(axes: "Sequence[Axes]", dataset: "xr.Dataset", layer: str | None = None) -> None:
    """Draw what `spectrum` shows on two axes, without its legend.

    Raises
    ------
    ValueError
        If no features vary.
    """
    values, shares = axes
    for dim in ("checkpoint", "layer"):
        if dim not in dataset.dims:  # one was selected
            dataset = dataset.expand_dims(dim)
    if not (dataset.trace.values > 0).any():
        raise ValueError(f"{_named(dataset.checkpoint.values)}: {_STILL}")
    for i, name in enumerate(dataset.checkpoint.values):
        one = dataset.sel(checkpoint=name)
        present = one.layer.values[one.n_samples.values > 0]
        if (layer is None and not len(present)) or (layer is not None and layer not in present):
            continue
        one = one.sel(layer=present[0] if layer is None else layer)
        color, d = OKABE_ITO[i % len(OKABE_ITO)], int(one.n_features)
        rank = np.arange(1, d + 1)
        sample, shrunken = (
            one[f"{kind}_eigenvalue"].values[:d] for kind in ("feature", "shrunken")
        )
        best = sample if np.isnan(shrunken).any() else shrunken
        values.plot(rank, _positive(best), color=color, label=short_title(str(name), _NAME))
        values.plot(
            rank,
            _positive(sample),
            color=color,
            linewidth=0.7,
            label="of the sample" if i == 0 else "_",
        )
        floor = float(one.noise_floor)
        is_far = floor < _FAR * float(best.min())  # it would press the eigenvalues together
        at = [] if is_far else [floor, floor]
        label = "_" if i else f"noise floor, {floor:.1g}" + ", below" * is_far
        values.plot([1, d] if at else [], at, color=color, linestyle=":", label=label)
        if best.sum() > 0:
            share = np.cumsum(best) / best.sum()
            shares.plot(rank, share, color=color)
            effective = float(one.effective_rank)
            height = np.interp(effective, rank, share)
            shares.plot(effective, height, "o", color=color, markerfacecolor="none")
    values.set(xscale="log", yscale="log", xlabel="rank", ylabel="eigenvalue of the covariance")
    shares.set(
        xscale="log", xlabel="rank", ylabel="cumulative share of the variance", ylim=(0, 1.02)
    )
    mark_decades(values.yaxis)


def _named(names: Iterable[Any]) -> str:
    return some([shown(str(name), quote=False) for name in names])


def _positive(values: Any) -> Any:
    return np.where(values > 0, values, np.nan)


def depth_caption(spectra: Mapping[str, FeatureSpectrum]) -> str:
    """Return what `depth` shows."""
    bounds = sum(math.isinf(one.condition_number_interval[1]) for one in spectra.values())
    text = (
        f"Features of {len(spectra)} layers in the order of the forward pass. Above: effective "
        "rank and participation ratio as shares of the width. Below: condition number. Bars are "
        "95 % intervals."
    )
    return text + f" {bounds} condition numbers are lower bounds, at triangles." * bool(bounds)
