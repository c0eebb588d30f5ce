"""The spectrum of one layer on log-log axes, with the power law fitted to its tail."""

from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.dataset.spectrum import spectrum
from specdiag.drawing.style import mark_decades, short_title
from specdiag.htsr.bulk.marchenko_pastur import marchenko_pastur_density
from specdiag.wording import p_value, short

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Spectrum of a layer"
SIZE = (5, 4)


def chosen(dataset: "xr.Dataset", checkpoint: str, most: int | None) -> list[int]:
    """Return the positions of at most `most` fit layers, those with the least null q."""
    one = dataset.sel(checkpoint=checkpoint)
    fit = np.flatnonzero(one.status.values == "fit")
    q = one.null_q.fillna(one.gaussian_q).values  # files of version 1 have the second alone
    strongest = fit[np.argsort(q[fit], kind="stable")]
    return sorted(strongest[:most].tolist())


def plot(dataset: "xr.Dataset", layer: str, checkpoint: str | None = None) -> "Figure":
    """Return the eigenvalue density of one layer, its fitted tail, xmin and Marchenko-Pastur edge.

    Grey is the density of a random matrix of the same shape and Frobenius norm. Eigenvalues below
    the rank gate are not drawn: the label of the axis counts them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    draw(figure.add_subplot(), dataset, layer, checkpoint)
    figure.legend(loc="outside lower center", ncols=2, fontsize="x-small", frameon=False)
    return figure


def draw(ax: "Axes", dataset: "xr.Dataset", layer: str, checkpoint: str | None = None) -> None:
    """Draw what `plot` shows, without its legend."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    values = spectrum(dataset, layer, checkpoint)
    cell = _cell(dataset, layer, checkpoint)
    if not cell["rank"] > 0:
        reason = str(cell.reason.values) or "it has no eigenvalue above rounding"
        raise ValueError(f"layer {layer!r} is {cell.status.values}: {reason}")
    shown = values[: int(cell["rank"])]
    edges = np.geomspace(shown[-1], shown[0] * 1.0001, max(12, round(2 * len(shown) ** 0.5)))
    counts, _ = np.histogram(shown, edges)
    density = counts / np.diff(edges) / len(values)
    bottom = density[density > 0].min() / 2

    ax.stairs(density, edges, fill=True, color="#b3cde3", label=f"{len(values)} eigenvalues")
    ax.fill_between(
        *random_density(cell, values, shown[-1]),
        color="#999999",
        alpha=0.35,
        linewidth=0,
        label="random matrix of this shape and norm",
    )
    if np.isfinite(cell.xmin):  # farms has none: its tail is that of windows
        bottom = min(bottom, _draw_tail(ax, cell, values))
    if np.isfinite(cell.mp_edge):
        edge = float(cell.mp_edge)
        ax.axvline(edge, color="#009e73", linestyle="--", label="Marchenko-Pastur edge")
    ax.set(xscale="log", yscale="log", ylabel="density")
    ax.set_title(short_title(layer, 44), fontsize="medium")
    dropped = len(values) - len(shown)
    ax.set_xlabel("eigenvalue of W'W / N" + (f" ({dropped} below rounding)" if dropped else ""))
    ax.set_ylim(bottom=bottom)
    for axis in (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        if high >= 10 * low:
            mark_decades(axis)
        else:  # by default every tick of such a short axis has a label
            axis.set_major_locator(MaxNLocator(4))
            axis.set_major_formatter("{x:.3g}")
            axis.set_minor_locator(NullLocator())


def _draw_tail(ax: "Axes", cell: "xr.Dataset", values: Any) -> float:
    """Draw the power law above xmin, and return its least density."""
    alpha, xmin, n_tail = float(cell.alpha), float(cell.xmin), float(cell.n_tail)
    x = np.geomspace(xmin, values[0], 100)
    power_law = n_tail / len(values) * (alpha - 1) / xmin * (x / xmin) ** -alpha
    label = f"slope α = {alpha:.2f}, {n_tail:.0f} in its tail"
    ax.plot(x, power_law, color="#d55e00", label=label)
    ax.axvline(xmin, color="#d55e00", linestyle=":", label="xmin")
    return float(power_law.min()) / 2


def _cell(dataset: "xr.Dataset", layer: str, checkpoint: str | None) -> "xr.Dataset":
    cell = dataset.sel(layer=layer)
    return cell.isel(checkpoint=0) if checkpoint is None else cell.sel(checkpoint=checkpoint)


def random_density(cell: "xr.Dataset", values: Any, lowest: float) -> tuple[Any, Any]:
    """Return eigenvalues, from `lowest` up, and the Marchenko-Pastur density at each.

    The variance of the entries is the mean eigenvalue, so the matrix has the Frobenius norm of the
    layer.
    """
    n, m = (int(size) for size in str(cell["shape"].values).split("x")[:2])
    ratio, variance = min(n, m) / max(n, m), float(values.mean())
    low, high = (variance * (1 + sign * ratio**0.5) ** 2 for sign in (-1, 1))
    x = np.geomspace(max(low, lowest), high, 200) if lowest < high else np.array([high])
    return x, marchenko_pastur_density(x, variance, ratio)


def caption(dataset: "xr.Dataset", layer: str, checkpoint: str | None = None) -> str:
    """Return what is drawn, with the numbers of the fit."""
    cell = _cell(dataset, layer, checkpoint)
    low, high = cell.alpha_ci.values
    text = (
        f"Density of the {int(cell.row_size)} eigenvalues of {short(layer)} "
        f"({cell['shape'].values}, {short(str(cell.checkpoint.values))}), {int(cell['rank'])} of "
        "them above rounding"
    )
    if np.isfinite(cell.alpha):
        interval = f", 95 % interval {low:.2f} to {high:.2f}" if np.isfinite(low) else ""
        text += (
            f"; α = {float(cell.alpha):.2f}{interval}, {float(cell.n_tail):.0f} eigenvalues in the "
            "tail"
        )
    if np.isfinite(cell.null_q):
        text += f", q against random matrices {p_value(float(cell.null_q))}"
    word = str(cell.verdict.values)
    text += f"; {word}" * bool(word)
    text += ". Grey: a random matrix of this shape and mean eigenvalue"
    if np.isfinite(cell.mp_edge):
        text += (
            "; dashed: the edge of a random matrix with the layer's median eigenvalue, which a "
            "heavy tail does not raise"
        )
    return text + "."
