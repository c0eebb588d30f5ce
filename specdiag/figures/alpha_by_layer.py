"""Alpha of every fitted layer of a checkpoint, in the order of its tensors."""

from typing import TYPE_CHECKING

import numpy as np

from specdiag.verdict import WELL_TRAINED

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def plot(dataset: "xr.Dataset", checkpoint: str | None = None) -> "Figure":
    """Return alpha and its interval by layer; marker area shows the size of the tail.

    Degenerate layers have no alpha: crosses on the axis mark them.
    """
    from matplotlib.figure import Figure

    name = str(dataset.checkpoint.values[0]) if checkpoint is None else checkpoint
    one = dataset.drop_dims("sample").sel(checkpoint=name)
    one = one.isel(layer=np.isin(one.status.values, ["fit", "degenerate"]))
    position = np.arange(one.sizes["layer"])
    fit = one.status.values == "fit"

    alpha = one.alpha.values[fit]
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    ax = figure.add_subplot()
    ax.axhspan(*WELL_TRAINED, color="#009e73", alpha=0.12, label="2 to 6", linewidth=0)
    ax.vlines(position[fit], *one.alpha_ci.values[fit].T, color="#56b4e9", label="95 % interval")
    ax.scatter(
        position[fit],
        alpha,
        s=4 + one.n_tail.values[fit] / 3,
        color="#0072b2",
        zorder=3,
        label=f"{fit.sum()} fit layers (area: eigenvalues in the tail)",
    )
    if not fit.all():
        ax.scatter(
            position[~fit],
            np.zeros((~fit).sum()),
            marker="x",
            color="#d55e00",
            label=f"{(~fit).sum()} degenerate layers",
        )
    ax.set(xlabel="matrix, in file order", ylabel="α", title=name.replace("$", r"\$"))
    ax.set_ylim(bottom=0 if not fit.all() else None)
    ax.legend(fontsize="small", frameon=False)
    return figure
