"""The spectrum of one layer on log-log axes, with the power law fitted to its tail."""

from typing import TYPE_CHECKING

import numpy as np

from specdiag.spectra import spectrum
from specdiag.tables import printable

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def plot(dataset: "xr.Dataset", layer: str, checkpoint: str | None = None) -> "Figure":
    """Return the eigenvalue density of one layer, its fitted tail, xmin and Marchenko-Pastur edge.

    Eigenvalues at or below zero do not show on a logarithmic axis: the axis label counts them.
    """
    from matplotlib.figure import Figure

    values = spectrum(dataset, layer, checkpoint)
    cell = dataset.sel(layer=layer)
    cell = cell.isel(checkpoint=0) if checkpoint is None else cell.sel(checkpoint=checkpoint)
    rank = int(cell["rank"])
    shown = values[:rank]
    edges = np.geomspace(shown[-1], shown[0] * 1.0001, max(12, round(2 * rank**0.5)))
    counts, _ = np.histogram(shown, edges)
    density = counts / np.diff(edges) / len(values)

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    ax = figure.add_subplot()
    ax.stairs(density, edges, fill=True, color="#b3cde3", label=f"{len(values)} eigenvalues")
    alpha, xmin, n_tail = float(cell.alpha), float(cell.xmin), int(cell.n_tail)
    if n_tail:
        x = np.geomspace(xmin, shown[0], 100)
        power_law = n_tail / len(values) * (alpha - 1) / xmin * (x / xmin) ** -alpha
        ax.plot(
            x, power_law, color="#d55e00", label=f"power law, α = {alpha:.2f}, {n_tail} in its tail"
        )
        ax.axvline(xmin, color="#d55e00", linestyle=":", label="xmin")
    ax.axvline(float(cell.mp_edge), color="#009e73", linestyle="--", label="Marchenko-Pastur edge")
    ax.set(xscale="log", yscale="log", ylabel="density", title=_short(printable(layer)))
    dropped = len(values) - rank
    ax.set_xlabel("eigenvalue of W'W / N" + (f" ({dropped} below rounding)" if dropped else ""))
    ax.set_ylim(bottom=density[density > 0].min() / 3)
    ax.set_xlim(left=max(edges[0], float(np.quantile(shown, 0.1)) / 2))
    ax.legend(fontsize="small", frameon=False)
    return figure


def _short(name: str, longest: int = 60) -> str:
    text = name if len(name) <= longest else f"{name[: longest - 1]}…"
    return text.replace("$", r"\$")  # matplotlib would read it as mathematics
