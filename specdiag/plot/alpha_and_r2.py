"""Mean alpha and test R² of every entry of a collection, by task and arm."""

from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.dataset.spectrum import mean_over_fit_layers
from specdiag.plot import seeds
from specdiag.wording import counted

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

TITLE = "Alpha and test R²"


def reason_not_drawn(dataset: "xr.Dataset") -> str:
    """Return why there is nothing to draw, or ''."""
    return seeds.without_r2(dataset) or seeds.too_few(_shown(dataset), "a layer that was fit")


def _shown(dataset: "xr.Dataset") -> list[Any]:
    """Return replicates with alpha and R², without evaluations, whose weights are a parent's."""
    known = np.isfinite(mean_over_fit_layers(dataset, "alpha"))
    known &= np.isfinite(dataset.r2.values)
    known &= dataset.arm.values != "evaluation"
    return seeds.replicates(dataset, known)


def plot(dataset: "xr.Dataset") -> "Figure":
    """Return mean alpha over fit layers against test R², one point per entry, bars over seeds."""
    alpha = mean_over_fit_layers(dataset, "alpha")
    at = [(group, seeds.mean_over_seeds(alpha[group]), False) for group in _shown(dataset)]
    figure = seeds.scatter(dataset, alpha, at)
    figure.axes[0].set_xlabel("mean over fit layers of α")
    return figure


def caption(dataset: "xr.Dataset") -> str:
    """Return what is drawn, of how many checkpoints, and over how many layers."""
    shown = _shown(dataset)
    at = np.concatenate(shown)
    fit, dead = dataset.n_fit.values[at], dataset.n_degenerate.values[at]
    n_others = dataset.sizes["checkpoint"] - len(at)
    return (
        f"Mean α and test R² of {counted(len(at), 'checkpoint')} ({len(shown)} of the lock's "
        f"entries; {n_others} others have no R², no fit layer, or no weights of their own). "
        f"The mean is over {seeds.ranged(fit)} fit layers; {seeds.ranged(dead)} are degenerate and "
        f"in no mean. {seeds.seeds_text(dataset, shown)}"
    )
