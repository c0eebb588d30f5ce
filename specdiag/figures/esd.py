"""The spectrum of one layer on log-log axes, with the power law fitted to its tail."""

from typing import TYPE_CHECKING

import numpy as np

from specdiag.figures import short_title
from specdiag.spectra import spectrum

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def plot(dataset: "xr.Dataset", layer: str, checkpoint: str | None = None) -> "Figure":
    """Return the eigenvalue density of one layer, its fitted tail, xmin and Marchenko-Pastur edge.

    Eigenvalues below the rank gate are not drawn: the axis label counts them.
    """
    from matplotlib.figure import Figure

    values = spectrum(dataset, layer, checkpoint)
    cell = dataset.sel(layer=layer)
    cell = cell.isel(checkpoint=0) if checkpoint is None else cell.sel(checkpoint=checkpoint)
    shown = values[: int(cell["rank"])]
    edges = np.geomspace(shown[-1], shown[0] * 1.0001, max(12, round(2 * len(shown) ** 0.5)))
    counts, _ = np.histogram(shown, edges)
    density = counts / np.diff(edges) / len(values)
    alpha, xmin, n_tail = float(cell.alpha), float(cell.xmin), int(cell.n_tail)
    x = np.geomspace(xmin, shown[0], 100)
    power_law = n_tail / len(values) * (alpha - 1) / xmin * (x / xmin) ** -alpha

    figure = Figure(figsize=(5, 4), layout="constrained")
    ax = figure.add_subplot()
    ax.stairs(density, edges, fill=True, color="#b3cde3", label=f"{len(values)} eigenvalues")
    ax.plot(
        x, power_law, color="#d55e00", label=f"power law, α = {alpha:.2f}, {n_tail} in its tail"
    )
    ax.axvline(xmin, color="#d55e00", linestyle=":", label="xmin")
    if np.isfinite(cell.mp_edge):
        edge = float(cell.mp_edge)
        ax.axvline(edge, color="#009e73", linestyle="--", label="Marchenko-Pastur edge")
    ax.set(xscale="log", yscale="log", ylabel="density", title=short_title(layer))
    dropped = len(values) - len(shown)
    ax.set_xlabel("eigenvalue of W'W / N" + (f" ({dropped} below rounding)" if dropped else ""))
    ax.set_ylim(bottom=min(density[density > 0].min(), power_law.min()) / 2)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure
