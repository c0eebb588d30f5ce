"""`SCHEMA`: the variables of measured weight matrices (`specdiag.alpha`), and their values."""

import math
from typing import Any

from specdiag.dataset.schema.variable import Variable
from specdiag.htsr.layers import Layer
from specdiag.htsr.tail.alternatives import ALTERNATIVES

SCHEMA_VERSION = 3
_LAYER = ("checkpoint", "layer")

SCHEMA: dict[str, Variable] = {
    "checkpoint": Variable(("checkpoint",), "O", "checkpoint"),
    "layer": Variable(("layer",), "O", "weight matrix"),
    "ci_bound": Variable(("ci_bound",), "O", "end of an interval"),
    "alternative": Variable(("alternative",), "O", "distribution compared with the power law"),
    "status": Variable(_LAYER, "O", "fit, degenerate, skipped, failed or absent"),
    "reason": Variable(_LAYER, "O", "why the status is not fit"),
    "shape": Variable(_LAYER, "O", "shape of the stored tensor"),
    "stored_dtype": Variable(_LAYER, "O", "number format of the stored tensor"),
    "alpha": Variable(_LAYER, "f", "exponent of the eigenvalue density's tail: posterior mean"),
    "alpha_ci": Variable((*_LAYER, "ci_bound"), "f", "95 % posterior interval of alpha"),
    "alpha_sd": Variable(_LAYER, "f", "posterior standard deviation of alpha"),
    "alpha_repeat_sd": Variable(
        _LAYER, "f", "standard deviation of alpha if the rows of the matrix were drawn again"
    ),
    "alpha_below_2": Variable(_LAYER, "f", "posterior probability of alpha < 2"),
    "rope_probability": Variable(_LAYER, "f", "posterior probability of 1.9 <= alpha <= 2.1"),
    "xmin": Variable(_LAYER, "f", "smallest eigenvalue of the tail: posterior median"),
    "n_tail": Variable(_LAYER, "f", "number of eigenvalues in the tail: posterior mean"),
    "n_outliers": Variable(_LAYER, "f", "number of eigenvalues above the tail: posterior mean"),
    "short_tail": Variable(_LAYER, "f", "probability of fewer than 30 eigenvalues in the tail"),
    "n_windows": Variable(_LAYER, "f", "effective number of tail windows in the posterior"),
    "alpha_ks": Variable(_LAYER, "f", "exponent of the tail of least KS distance (Clauset's rule)"),
    "xmin_ks": Variable(_LAYER, "f", "smallest eigenvalue of that tail"),
    "n_tail_ks": Variable(_LAYER, "f", "number of eigenvalues in that tail"),
    "ks_distance": Variable(_LAYER, "f", "Kolmogorov-Smirnov distance of that tail and its law"),
    "rank": Variable(_LAYER, "f", "number of eigenvalues above the rank gate"),
    "stable_rank": Variable(_LAYER, "f", "squared Frobenius norm over squared spectral norm"),
    "spectral_norm": Variable(_LAYER, "f", "largest singular value"),
    "frobenius_norm": Variable(_LAYER, "f", "Frobenius norm"),
    "gaussian_p": Variable(_LAYER, "f", "probability of so low an alpha for Gaussian entries"),
    "gaussian_q": Variable(_LAYER, "f", "gaussian_p adjusted for the layers of the checkpoint"),
    "scales_p": Variable(
        _LAYER,
        "f",
        "probability of so low an alpha for independent entries of any row and column scales, with "
        "an offset; missing if gaussian_p is above 0.05",
    ),
    "initialisation_p": Variable(
        _LAYER, "f", "probability of so low an alpha for untrained networks of the recipe"
    ),
    "null_p": Variable(_LAYER, "f", "largest p-value of the nulls that were tested"),
    "null_q": Variable(_LAYER, "f", "null_p adjusted for the layers of the checkpoint"),
    "row_scale_sd": Variable(
        _LAYER,
        "f",
        "standard deviation of the logarithms of the row scales, beyond that of Gaussian entries",
    ),
    "column_scale_sd": Variable(_LAYER, "f", "the same of the column scales"),
    "offset_share": Variable(
        _LAYER, "f", "share of the mean square that is an offset, after scaling"
    ),
    "kind_log10_factor": Variable(
        _LAYER,
        "f",
        "log10 of the Bayes factor of a constant exponent against a tail that falls ever faster",
    ),
    "tail_slope": Variable(
        _LAYER, "f", "slope of log(hazard) over log(rank) in the tail: 0 for a power law"
    ),
    "tail_slope_sd": Variable(_LAYER, "f", "posterior standard deviation of that slope"),
    "gof_p": Variable(_LAYER, "f", "goodness-of-fit p-value of the power law above xmin_ks"),
    "log_likelihood_ratio": Variable(
        (*_LAYER, "alternative"), "f", "log-likelihood of power law minus alternative"
    ),
    "log_likelihood_ratio_p": Variable(
        (*_LAYER, "alternative"), "f", "two-sided p-value of that ratio"
    ),
    "verdict": Variable(
        _LAYER, "O", "how far alpha can be trusted, in a word (specdiag.htsr.verdict)"
    ),
    "alpha_hat": Variable(_LAYER, "f", "alpha times log10 of the squared spectral norm"),
    "entropy": Variable(_LAYER, "f", "normalised entropy of the spectrum"),
    "mp_edge": Variable(_LAYER, "f", "upper Marchenko-Pastur edge fitted to the bulk"),
    "mp_distance": Variable(
        _LAYER, "f", "Kolmogorov-Smirnov distance of the spectrum from the Marchenko-Pastur law"
    ),
    "n_spikes": Variable(
        _LAYER, "f", "number of eigenvalues larger than those of a random matrix with that bulk"
    ),
    "spike_p": Variable(
        _LAYER, "f", "probability that the largest eigenvalue of a Gaussian matrix is as large"
    ),
    "erg_count": Variable(
        _LAYER, "f", "number of largest eigenvalues, over the mean, whose product falls below 1"
    ),
    "n_traps": Variable(
        _LAYER, "f", "number of eigenvalues of a permuted copy beyond those of a random matrix"
    ),
    "trap_p": Variable(_LAYER, "f", "probability that a random matrix has one as large"),
    "trap_ratio": Variable(
        _LAYER, "f", "largest eigenvalue of the permuted copy over that of a random matrix"
    ),
    "soft_rank": Variable(
        _LAYER, "f", "largest eigenvalue of the permuted copy over that of the matrix"
    ),
    "n_beyond_permuted": Variable(
        _LAYER, "f", "number of eigenvalues larger than all of the permuted copy"
    ),
    "permuted_distance": Variable(
        _LAYER, "f", "Kolmogorov-Smirnov distance of the spectra of the matrix and that copy"
    ),
    "n_localised": Variable(
        _LAYER, "f", "leading pairs of singular vectors more localised than random ones, of ten"
    ),
    "localised_p": Variable(_LAYER, "f", "smallest p-value of those vectors, times their number"),
    "ipr_output": Variable(
        _LAYER,
        "f",
        "largest inverse participation ratio of the leading left singular vectors, over that of a "
        "random vector",
    ),
    "ipr_input": Variable(_LAYER, "f", "the same of the right singular vectors"),
    "row_size": Variable(_LAYER, "i", "number of the layer's eigenvalues in `eigenvalue`"),
    "row_start": Variable(_LAYER, "i", "index in `eigenvalue` of the layer's first"),
    "eigenvalue": Variable(("sample",), "f", "eigenvalues of W'W / N, descending by layer"),
}

# The part of a Layer, and the attribute of that part, which hold a variable.
_IN_LAYER = {
    "alpha_ci": ("posterior", "interval"),
    "alpha_sd": ("posterior", "sd"),
    "alpha_below_2": ("posterior", "below_2"),
    "rope_probability": ("posterior", "rope"),
    **{name: ("posterior", name) for name in ("xmin", "n_tail", "n_outliers")},
    **{name: ("posterior", name) for name in ("short_tail", "n_windows")},
    "alpha_ks": ("tail", "alpha"),
    "xmin_ks": ("tail", "xmin"),
    "ks_distance": ("tail", "ks_distance"),
    "n_traps": ("traps", "n"),
    "trap_p": ("traps", "p"),
    "trap_ratio": ("traps", "ratio"),
    "soft_rank": ("traps", "soft_rank"),
    "n_beyond_permuted": ("traps", "n_beyond"),
    "permuted_distance": ("traps", "distance"),
    "n_localised": ("localisation", "n"),
    "localised_p": ("localisation", "p"),
    "ipr_output": ("localisation", "ipr_output"),
    "ipr_input": ("localisation", "ipr_input"),
    "kind_log10_factor": ("kind", "log10_factor"),
    "tail_slope": ("kind", "slope"),
    "tail_slope_sd": ("kind", "slope_sd"),
}


def layer_value(layer: Layer, name: str) -> Any:
    """Return the value of a layer that a variable of the schema holds."""
    if name in _IN_LAYER:
        part, attribute = _IN_LAYER[name]
        return getattr(getattr(layer, part), attribute)
    if name == "n_tail_ks":
        return layer.tail.n_tail or math.nan
    if name == "shape":
        return "x".join(map(str, layer.shape))
    if name == "row_size":
        return len(layer.eigenvalues)
    if name.startswith("log_likelihood_ratio"):
        item = int(name.endswith("_p"))
        return [layer.likelihood_ratios.get(a, (math.nan, math.nan))[item] for a in ALTERNATIVES]
    return getattr(layer, {"stored_dtype": "dtype"}.get(name, name))
