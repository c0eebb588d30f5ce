"""Alpha of every fitted layer of a checkpoint, in the order of its tensors."""

from typing import TYPE_CHECKING

import numpy as np

from specdiag.figures import short_title
from specdiag.verdict import WELL_TRAINED

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def plot(dataset: "xr.Dataset", checkpoint: str | None = None) -> "Figure":
    """Return alpha and its interval by layer; marker area shows the size of the tail.

    Positions are those in the names of the files of `draw_all`. Degenerate and failed layers have no
    alpha: crosses at 0 mark them.
    """
    from matplotlib.figure import Figure

    name = str(dataset.checkpoint.values[0]) if checkpoint is None else checkpoint
    one = dataset.drop_dims("sample").sel(checkpoint=name)
    fit = np.flatnonzero(one.status.values == "fit")

    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.add_subplot()
    ax.axhspan(*WELL_TRAINED, color="#009e73", alpha=0.12, label="2 to 6", linewidth=0)
    ax.vlines(fit, *one.alpha_ci.values[fit].T, color="#56b4e9", label="95 % interval")
    ax.scatter(
        fit,
        one.alpha.values[fit],
        s=4 + one.n_tail.values[fit] / 3,
        color="#0072b2",
        zorder=3,
        label=f"{len(fit)} fit (area: eigenvalues in the tail)",
    )
    for status, color in (("degenerate", "#d55e00"), ("failed", "#000000")):
        position = np.flatnonzero(one.status.values == status)
        if len(position):
            ax.scatter(
                position,
                np.zeros(len(position)),
                marker="x",
                color=color,
                label=f"{len(position)} {status}",
            )
            ax.set_ylim(bottom=min(ax.get_ylim()[0], -0.2))
    ax.set(xlabel="position of the matrix in the file", ylabel="α", title=short_title(name))
    figure.legend(loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    return figure
