"""What a Dataset of spectra holds: one table of names, dimensions, dtypes, units and descriptions."""

import math
from typing import Any, NamedTuple

from specdiag.gof import ALTERNATIVES
from specdiag.layers import Layer

SCHEMA_VERSION = 1
_LAYER = ("checkpoint", "layer")


class Variable(NamedTuple):
    """One row of the schema."""

    dims: tuple[str, ...]
    dtype: str  # NumPy kind: f float64, i int64, O str
    units: str
    long_name: str


SCHEMA: dict[str, Variable] = {
    "checkpoint": Variable(("checkpoint",), "O", "", "checkpoint"),
    "layer": Variable(("layer",), "O", "", "weight matrix"),
    "ci_bound": Variable(("ci_bound",), "O", "", "end of an interval"),
    "alternative": Variable(("alternative",), "O", "", "distribution compared with the power law"),
    "status": Variable(_LAYER, "O", "", "fit, degenerate, skipped, failed or absent"),
    "reason": Variable(_LAYER, "O", "", "why the status is not fit"),
    "shape": Variable(_LAYER, "O", "", "shape of the stored tensor"),
    "stored_dtype": Variable(_LAYER, "O", "", "number format of the stored tensor"),
    "alpha": Variable(_LAYER, "f", "1", "power-law exponent of the eigenvalue density's tail"),
    "xmin": Variable(_LAYER, "f", "1", "smallest eigenvalue of the tail"),
    "ks_distance": Variable(_LAYER, "f", "1", "Kolmogorov-Smirnov distance of tail and power law"),
    "n_tail": Variable(_LAYER, "f", "1", "eigenvalues in the tail"),
    "rank": Variable(_LAYER, "f", "1", "eigenvalues above the rank gate"),
    "stable_rank": Variable(_LAYER, "f", "1", "squared Frobenius norm over squared spectral norm"),
    "spectral_norm": Variable(_LAYER, "f", "1", "largest singular value"),
    "frobenius_norm": Variable(_LAYER, "f", "1", "Frobenius norm"),
    "alpha_mean": Variable(_LAYER, "f", "1", "posterior mean of alpha"),
    "alpha_sd": Variable(_LAYER, "f", "1", "posterior standard deviation of alpha"),
    "alpha_ci": Variable((*_LAYER, "ci_bound"), "f", "1", "95 % posterior interval of alpha"),
    "alpha_below_2": Variable(_LAYER, "f", "1", "posterior probability of alpha < 2"),
    "rope_probability": Variable(_LAYER, "f", "1", "posterior probability of 1.9 <= alpha <= 2.1"),
    "n_tail_mean": Variable(_LAYER, "f", "1", "posterior mean of the eigenvalues in the tail"),
    "xmin_median": Variable(_LAYER, "f", "1", "posterior median of xmin"),
    "short_tail": Variable(
        _LAYER, "f", "1", "probability of fewer than 30 eigenvalues in the tail"
    ),
    "n_windows": Variable(_LAYER, "f", "1", "effective number of tail windows in the posterior"),
    "gof_p": Variable(_LAYER, "f", "1", "goodness-of-fit p-value of the power law"),
    "null_p": Variable(_LAYER, "f", "1", "probability that the null gives an alpha as low"),
    "null_q": Variable(_LAYER, "f", "1", "null_p adjusted for the layers of the checkpoint"),
    "log_likelihood_ratio": Variable(
        (*_LAYER, "alternative"), "f", "1", "log-likelihood of power law minus alternative"
    ),
    "log_likelihood_ratio_p": Variable(
        (*_LAYER, "alternative"), "f", "1", "two-sided p-value of that ratio"
    ),
    "verdict": Variable(_LAYER, "O", "", "what the layer's alpha is worth (specdiag.verdict)"),
    "alpha_hat": Variable(_LAYER, "f", "1", "alpha times log10 of the squared spectral norm"),
    "entropy": Variable(_LAYER, "f", "1", "normalised entropy of the spectrum"),
    "mp_edge": Variable(_LAYER, "f", "1", "upper Marchenko-Pastur edge fitted to the bulk"),
    "n_spikes": Variable(_LAYER, "f", "1", "eigenvalues beyond the bulk's Tracy-Widom 95 % reach"),
    "row_size": Variable(_LAYER, "i", "1", "eigenvalues of this layer in `eigenvalue`"),
    "row_start": Variable(_LAYER, "i", "1", "where in `eigenvalue` those of this layer begin"),
    "eigenvalue": Variable(("sample",), "f", "1", "eigenvalues of W'W / N, descending by layer"),
}

# Where in a Layer a variable of another name is found.
_HOME = {
    **{name: ("tail", name) for name in ("alpha", "xmin", "ks_distance")},
    "alpha_mean": ("posterior", "mean"),
    "alpha_sd": ("posterior", "sd"),
    "alpha_ci": ("posterior", "interval"),
    "alpha_below_2": ("posterior", "below_2"),
    "rope_probability": ("posterior", "rope"),
    "n_tail_mean": ("posterior", "n_tail"),
    "xmin_median": ("posterior", "xmin"),
    "short_tail": ("posterior", "short_tail"),
    "n_windows": ("posterior", "n_windows"),
}


def layer_value(layer: Layer, name: str) -> Any:
    """Return the value of a layer that a variable of the schema holds."""
    if name in _HOME:
        part, attribute = _HOME[name]
        return getattr(getattr(layer, part), attribute)
    if name == "n_tail":
        return layer.tail.n_tail or math.nan
    if name == "shape":
        return "x".join(map(str, layer.shape))
    if name == "row_size":
        return len(layer.eigenvalues)
    if name.startswith("log_likelihood_ratio"):
        item = int(name.endswith("_p"))
        return [layer.likelihood_ratios.get(a, (math.nan, math.nan))[item] for a in ALTERNATIVES]
    return getattr(layer, {"stored_dtype": "dtype"}.get(name, name))
