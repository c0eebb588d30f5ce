"""Alpha of two checkpoints by layer, and its difference."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from specdiag.drawing.style import save_figure, short_title
from specdiag.wording import short

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = ("#0072b2", "#d55e00")
TITLE = "Alpha of two checkpoints"
SIZE = (7, 6)
PANELS = 2


def draw_all(dataset: "xr.Dataset", path: Path, *, overwrite: bool = False) -> list[Path]:
    """Write the figure of each comparison to its path of `paths`; return these."""
    names = dataset.comparison.values
    written = paths(path, len(names))
    for name, target in zip(names, written, strict=True):
        save_figure(plot(dataset, name), target, overwrite=overwrite)
    return written


def paths(path: Path, count: int) -> list[Path]:
    """Return the files of so many comparisons.

    That of one comparison is `path`; those of several have their position: `difference_1.png`,
    `difference_2.png` and so on for `difference.png`.
    """
    return [path] if count == 1 else [path.with_stem(f"{path.stem}_{i + 1}") for i in range(count)]


def plot(dataset: "xr.Dataset", comparison: str | None = None) -> "Figure":
    """Return alpha of both checkpoints of a comparison by layer, and the difference below.

    Points are posterior means, bars 95 % intervals; crosses at the bottom mark layers without
    alpha. A group of seeds has a point for each of them. The band is the interval of the mean
    difference that holds for other seeds.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of `specdiag.compare`.
    comparison : str, optional
        Name of the second checkpoint or group; by default that of the first comparison.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    draw(figure.subplots(PANELS, sharex=True), dataset, comparison)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    return figure


def draw(axes: "Sequence[Axes]", dataset: "xr.Dataset", comparison: str | None = None) -> None:
    """Draw what `plot` shows, without its legend, on two axes."""
    top, bottom = axes
    second = str(dataset.comparison.values[0]) if comparison is None else comparison
    names = str(dataset.group.values[0]), second
    both = dataset.drop_dims("sample").sel(comparison=second)
    both = both.isel(checkpoint=np.isin(both.group.values, names))
    shown = np.flatnonzero(np.isin(both.status.values, ("fit", "degenerate")).any(axis=0))
    both = both.isel(layer=shown)

    for i, (name, color) in enumerate(zip(names, _COLORS, strict=True)):
        seeds = both.isel(checkpoint=both.group.values == name)
        _draw_alpha(top, seeds, 0.3 * i - 0.15, color, short_title(name, 30))
    _draw_difference(bottom, both)
    top.set(ylabel="α")
    bottom.set(
        xlabel="measured matrices, in the order of the file", ylabel="difference of α, 2 - 1"
    )
    top.set_title(short_title(f"1: {names[0]}   2: {names[1]}", 76))


def _draw_alpha(ax: "Axes", seeds: "xr.Dataset", shift: float, color: str, name: str) -> None:
    index, x = np.indices(seeds.status.shape)
    fit = seeds.status.values == "fit"
    ax.vlines(x[fit] + shift, *seeds.alpha_ci.values[fit].T, color=color, alpha=0.5 / len(index))
    ax.scatter(
        x[fit] + shift,
        seeds.alpha.values[fit],
        s=10,
        color=color,
        label=f"{name}: {fit.sum()} fit",
    )
    dead = seeds.status.values == "degenerate"
    if dead.any():
        ax.scatter(
            x[dead] + shift,
            np.full(dead.sum(), 0.02),
            marker="x",
            s=16,
            color=color,
            transform=ax.get_xaxis_transform(),  # at the bottom of the axes
            label=f"{dead.sum()} degenerate",
        )


def _draw_difference(ax: "Axes", both: "xr.Dataset") -> None:
    x = np.arange(both.sizes["layer"])
    known = np.isfinite(both.alpha_difference.values)
    low, high = both.mean_alpha_difference_seed_ci.values
    if np.isfinite(low):
        label = f"mean over {int(both.n_compared)} layers, 95 % interval for other seeds"
        ax.axhspan(low, high, color="#009e73", alpha=0.15, linewidth=0, label=label)
        ax.axhline(float(both.mean_alpha_difference), color="#009e73", linewidth=1)
    ax.axhline(0, color="black", linewidth=0.5)
    ax.vlines(x[known], *both.alpha_difference_ci.values[known].T, color="#999999")
    ax.scatter(
        x[known], both.alpha_difference.values[known], s=10, color="black", label="difference"
    )


def reason_not_drawn(dataset: "xr.Dataset") -> str:
    """Return why there is nothing to draw, or ''."""
    if "comparison" in dataset.dims:
        return ""
    return "no comparison in the Dataset: `specdiag compare -o` writes one"


def caption(dataset: "xr.Dataset", comparison: str | None = None) -> str:
    """Return what is drawn, with the conclusion."""
    second = str(dataset.comparison.values[0]) if comparison is None else comparison
    one = dataset.sel(comparison=second)
    return (
        f"Posterior means of α of {short(str(dataset.group.values[0]))} (1) and "
        f"{short(second)} (2) by layer, and their difference, with 95 % intervals; in "
        f"{int(one.n_compared)} of {int(one.n_comparable)} layers α means something in both. "
        f"{one.conclusion.values}"
    )
