"""Alpha of every fitted layer of a checkpoint, in the order of its tensors."""

from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.dataset.spectrum import check_label, layer_counts
from specdiag.drawing.style import short_title
from specdiag.htsr.null import law
from specdiag.htsr.null.verdicts import HEAVIER, MEANINGFUL
from specdiag.htsr.verdict import MAX_Q, WELL_TRAINED
from specdiag.wording import accounting, part, short

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Alpha by depth"
SIZE = (7, 4)
COLORS = {  # of the verdicts
    "": "#0072b2",
    "power law": "#0072b2",
    "undecided": "#56b4e9",
    "steepens": "#e69f00",
    "too few": "#cc79a7",
    "rejected": "#d55e00",
    "initialisation": "#777777",
    "scales": "#777777",
    "no evidence": "#000000",
}


def plot(dataset: "xr.Dataset", checkpoint: str | None = None) -> "Figure":
    """Return alpha and its interval by layer, with the range that Gaussian matrices give.

    The area of a dot shows the number of eigenvalues in the tail, its colour the verdict; an empty
    dot is an alpha that means nothing. Positions are those in the names
    of files that `draw_all` writes. Degenerate and failed layers have no alpha: crosses at 0 mark
    them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    draw(figure.add_subplot(), dataset, checkpoint)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure


def draw(ax: "Axes", dataset: "xr.Dataset", checkpoint: str | None = None) -> None:
    """Draw what `plot` shows, without its legend."""
    name = str(dataset.checkpoint.values[0]) if checkpoint is None else checkpoint
    check_label(dataset, "checkpoint", name)
    one = dataset.drop_dims("sample").sel(checkpoint=name)
    fit = np.flatnonzero(one.status.values == "fit")

    ax.axhspan(*WELL_TRAINED, color="#009e73", alpha=0.12, label="2 to 6", linewidth=0)
    position, low, high = _null_band(one)
    if len(position):
        label = "90 % of Gaussian matrices of that shape"
        ax.bar(position, high - low, 0.8, low, color="#999999", alpha=0.4, label=label)
    ax.vlines(fit, *one.alpha_ci.values[fit].T, color="#56b4e9", label="95 % interval", linewidth=1)
    verdicts = one.verdict.values
    for word, color in COLORS.items():
        marked = fit[verdicts[fit] == word]
        if len(marked):
            ax.scatter(
                marked,
                one.alpha.values[marked],
                s=10 + one.n_tail.values[marked] / 3,
                facecolor=color if word in ("", *MEANINGFUL) else "none",
                edgecolor=color,
                zorder=3,
                label=f"{len(marked)} {word or 'fit'}",
            )
    for status, color in (("degenerate", "#d55e00"), ("failed", "#000000")):
        marked = np.flatnonzero(one.status.values == status)
        if len(marked):
            label = f"{len(marked)} {status}"
            ax.scatter(marked, np.zeros(len(marked)), marker="x", color=color, label=label)
            ax.set_ylim(bottom=min(ax.get_ylim()[0], -0.2))
    ax.set(xlabel="position of the matrix in the file", ylabel="α", title=short_title(name))
    ax.set_xlim(-0.7, one.sizes["layer"] - 0.3)


def _null_band(one: "xr.Dataset") -> tuple[Any, Any, Any]:
    """Return the positions of layers compared with a null, and its 5 % and 95 % quantiles.

    An alpha below the 5 % quantile is lower than that of 95 % of Gaussian matrices of that shape.
    """
    position = np.flatnonzero(np.isfinite(one.null_p.values))
    shapes = [tuple(map(int, text.split("x"))) for text in one["shape"].values[position]]
    bands = {shape: law.quantiles(shape, (0.05, 0.95)) for shape in dict.fromkeys(shapes)}
    low, high = np.array([bands[shape] for shape in shapes]).reshape(-1, 2).T
    return position, low, high


def caption(dataset: "xr.Dataset", checkpoint: str | None = None) -> str:
    """Return what is drawn, with the number of matrices of each status."""
    name = str(dataset.checkpoint.values[0]) if checkpoint is None else checkpoint
    check_label(dataset, "checkpoint", name)
    one = dataset.drop_dims("sample").sel(checkpoint=name)
    n = {status: int(count) for status, count in layer_counts(one).items()}
    text = (
        f"Power-law exponent α of the weight matrices of {short(name)} in the order of the file "
        f"({accounting(n)}). Bars are 95 % intervals; areas of dots are numbers of eigenvalues in "
        "the tail; green is the range from 2 to 6."
    )
    tested = np.isfinite(one.null_q.values)
    if tested.any():
        text += (
            " Grey is where 90 % of Gaussian matrices of the same shape lie. "
            f"{part(int(np.sum(one.null_q.values[tested] <= MAX_Q)), int(tested.sum()), 'layer')} "
            f"{HEAVIER} (q ≤ {MAX_Q}, adjusted for the number of layers); empty dots are alphas "
            "that mean nothing."
        )
    if n["degenerate"]:
        text += " Crosses at 0 are matrices whose spectrum has collapsed: they have no α."
    return text
