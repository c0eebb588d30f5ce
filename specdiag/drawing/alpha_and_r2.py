"""Mean alpha and test R² of every entry of a collection, by task and arm."""

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.dataset.spectrum import mean_over_meaningful_layers, meaningful_layers
from specdiag.drawing import seeds
from specdiag.wording import counted

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Alpha and test R²"


def reason_not_drawn(dataset: "xr.Dataset") -> str:
    """Return why there is nothing to draw, or ''."""
    return seeds.without_r2(dataset) or seeds.too_few(_shown(dataset), "a mean alpha")


def _shown(dataset: "xr.Dataset") -> list[Any]:
    """Return replicates with alpha and R², without evaluations, whose weights are a parent's."""
    known = np.isfinite(mean_over_meaningful_layers(dataset, "alpha"))
    known &= np.isfinite(dataset.r2.values)
    known &= dataset.arm.values != "evaluation"
    return seeds.replicates(dataset, known)


def plot(dataset: "xr.Dataset") -> "Figure":
    """Return mean alpha against test R², one point per entry, bars over seeds."""
    return seeds.figure_of(partial(draw, dataset=dataset))


def draw(ax: "Axes", dataset: "xr.Dataset") -> list["Artist"]:
    """Draw what `plot` shows; return the artists of its legend."""
    alpha = mean_over_meaningful_layers(dataset, "alpha")
    at = [(group, seeds.mean_over_seeds(alpha[group]), False) for group in _shown(dataset)]
    handles = seeds.scatter(ax, dataset, alpha, at)
    ax.set_xlabel("mean of α over the layers where it means something")
    return handles


def caption(dataset: "xr.Dataset") -> str:
    """Return what is drawn, of how many checkpoints, and over how many layers."""
    shown = _shown(dataset)
    at = np.concatenate(shown)
    meaningful = meaningful_layers(dataset).sum("layer").values[at]
    fit = dataset.n_fit.values[at]
    n_others = dataset.sizes["checkpoint"] - len(at)
    return (
        f"Mean α and test R² of {counted(len(at), 'checkpoint')} ({len(shown)} of the lock's "
        f"entries; {n_others} others have no R², too few layers, or no weights of their own). "
        f"The mean is over the {seeds.ranged(meaningful)} layers whose α means something, of "
        f"{seeds.ranged(fit)} fit layers. {seeds.seeds_text(dataset, shown)}"
    )
