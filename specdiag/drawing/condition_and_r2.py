"""Condition number of the features and test R² of every entry of a collection."""

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.drawing import seeds
from specdiag.wording import counted

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Condition number and test R²"


def reason_not_drawn(dataset: "xr.Dataset") -> str:
    """Return why there is nothing to draw, or ''."""
    reason = seeds.without_r2(dataset)
    return reason or seeds.too_few(_shown(dataset), "a condition number")


def _shown(dataset: "xr.Dataset") -> list[Any]:
    known = np.isfinite(dataset.condition_number.values) & np.isfinite(dataset.r2.values)
    return seeds.replicates(dataset, known)


def plot(dataset: "xr.Dataset") -> "Figure":
    """Return the condition number of the features against test R², one point per entry.

    Means and intervals over seeds are those of its logarithm. A single seed has the interval of the
    condition number itself, over blocks of trials or windows. An arrow marks a lower bound.
    """
    return seeds.figure_of(partial(draw, dataset=dataset))


def draw(ax: "Axes", dataset: "xr.Dataset") -> list["Artist"]:
    """Draw what `plot` shows; return the artists of its legend."""
    at = [(g, _condition(dataset, g), bool(_bound(dataset)[g].any())) for g in _shown(dataset)]
    handles = seeds.scatter(ax, dataset, dataset.condition_number.values, at, log=True)
    ax.set(xlabel="condition number of the features (largest over smallest eigenvalue)")
    return handles


def _condition(dataset: "xr.Dataset", group: Any) -> seeds.Mean:
    mean = seeds.mean_over_seeds(np.log(dataset.condition_number.values[group]))
    low, high = math.exp(mean.low), math.exp(mean.high)
    if mean.n == 1:
        low, high = dataset.condition_number_ci.values[group[0]]
        high = high if math.isfinite(high) else math.nan
    return seeds.Mean(math.exp(mean.value), low, high, mean.n)


def _bound(dataset: "xr.Dataset") -> Any:
    return dataset.condition_number_is_bound.values.astype(bool)


def caption(dataset: "xr.Dataset") -> str:
    """Return what is drawn, and of how many checkpoints and samples."""
    shown = _shown(dataset)
    at = np.concatenate(shown)
    samples = dataset.n_samples.values[at]
    n_bound = int(_bound(dataset)[at].sum())
    return (
        f"Condition number of the covariance of the features, over {seeds.ranged(samples)} "
        f"samples, and test R² of {counted(len(at), 'checkpoint')} ({len(shown)} of the lock's "
        f"entries). {seeds.seeds_text(dataset, shown)} Of the condition numbers {n_bound} are "
        "lower bounds (arrows): the smallest eigenvalue is below the noise floor of the forward "
        "pass. Bars of single seeds are 95 % intervals over blocks of trials."
    )
