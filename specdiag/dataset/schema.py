"""Every variable of every Dataset: dimensions, dtypes and descriptions.

- `SCHEMA`: measured weight matrices (`specdiag.alpha`);
- `COLLECTION`: in addition, the features' covariance and the test R² of whole studies
  (`specdiag.collect`);
- `COMPARISON`: in addition to `SCHEMA`, the differences from the first checkpoint
  (`specdiag.compare`);
- `LINK`: rank correlations over a collection (`specdiag.link`).
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from specdiag.htsr.layers import Layer
from specdiag.htsr.tail.alternatives import ALTERNATIVES

SCHEMA_VERSION = 2
COLLECTION_VERSION = 4
LINK_VERSION = 2  # in version 1 the dimension `stratification` was called `comparison`
_DTYPES = {"f": "float64", "i": "int64", "b": "int8", "O": "str"}
_LAYER = ("checkpoint", "layer")
_ONE = ("checkpoint",)
_CI = ("checkpoint", "ci_bound")
_PAIR = ("comparison",)
_TENSORS = ("comparison", "tensor")
_LAYERS = ("comparison", "layer")
_LAYERS_CI = (*_LAYERS, "ci_bound")
_CELL = ("quantity", "part", "stratification")


class Variable(NamedTuple):
    """Dimensions, dtype and description of one variable of a Dataset.

    The dtype is f for float64, i for int64, b for an int8 that is 0 or 1, O for str.
    """

    dims: tuple[str, ...]
    dtype: str
    long_name: str


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
    "n_spikes": Variable(
        _LAYER, "f", "number of eigenvalues beyond the bulk's Tracy-Widom 95 % limit"
    ),
    "row_size": Variable(_LAYER, "i", "number of the layer's eigenvalues in `eigenvalue`"),
    "row_start": Variable(_LAYER, "i", "index in `eigenvalue` of the layer's first"),
    "eigenvalue": Variable(("sample",), "f", "eigenvalues of W'W / N, descending by layer"),
}

# From `n_samples` on, variables are fields of `specdiag.features.conditioning.FeatureSpectrum`;
# names of intervals end in `_ci`.
COLLECTION: dict[str, Variable] = {
    "session": Variable(("session",), "O", "recording session"),
    "feature_rank": Variable(("feature_rank",), "i", "rank of an eigenvalue, 1 the largest"),
    "entry": Variable(_ONE, "O", "name in the lock; several seeds and scales share one"),
    "parent": Variable(_ONE, "O", "entry whose weights this one starts from"),
    "recipe": Variable(_ONE, "O", "recipe that makes it"),
    "scale": Variable(_ONE, "O", "paper or desk"),
    "group": Variable(_ONE, "O", "group of the entry"),
    "task": Variable(_ONE, "O", "decoded behaviour: center_out, area2_bump, ..."),
    "arm": Variable(_ONE, "O", "base, pretrained, plastic, scratch, scratch_tuned or evaluation"),
    "unit_dropout": Variable(_ONE, "O", "level of UnitDropout in training"),
    "state": Variable(_ONE, "O", "ok, rebuilt, drifted, stale, missing or corrupt"),
    "sha256": Variable(_ONE, "O", "SHA-256 of the file of the measured weights"),
    "how": Variable(_ONE, "O", "fetched, trained or evaluated; '' without a usable file"),
    "n_changed": Variable(
        _ONE, "f", "measured matrices whose bits differ from those of the parent"
    ),
    "train_fraction": Variable(_ONE, "f", "share of the training intervals that is used"),
    "seed": Variable(_ONE, "f", "seed of the training"),
    "frozen_core": Variable(_ONE, "b", "1 if the parent's core is kept unchanged"),
    "n_fit": Variable(_ONE, "i", "number of layers of status fit"),
    "n_degenerate": Variable(_ONE, "i", "number of layers of status degenerate"),
    "n_skipped": Variable(_ONE, "i", "number of layers of status skipped"),
    "n_failed": Variable(_ONE, "i", "number of layers of status failed"),
    "r2": Variable(_ONE, "f", "test R2, mean over outputs and sessions"),
    "session_r2": Variable(("checkpoint", "session"), "f", "test R2 of a session"),
    "feature_eigenvalue": Variable(
        ("checkpoint", "feature_rank"), "f", "eigenvalues of the feature covariance"
    ),
    "n_samples": Variable(_ONE, "f", "number of samples of the features"),
    "n_effective": Variable(_ONE, "f", "number of independent samples that are as informative"),
    "n_groups": Variable(_ONE, "f", "number of trials or windows that they come from"),
    "n_blocks": Variable(_ONE, "f", "number of blocks that the intervals resample"),
    "precision": Variable(_ONE, "O", "number format of the forward pass"),
    "noise_floor": Variable(_ONE, "f", "limit that an eigenvalue above rounding exceeds"),
    "noise_floor_source": Variable(_ONE, "O", "source of the noise floor"),
    "numerical_rank": Variable(_ONE, "f", "number of feature eigenvalues above the noise floor"),
    "condition_number": Variable(_ONE, "f", "largest over smallest eigenvalue, or its lower bound"),
    "condition_number_ci": Variable(_CI, "f", "its 95 % interval; the upper end may be missing"),
    "condition_number_is_bound": Variable(_ONE, "b", "1 if the noise floor makes it a lower bound"),
    "condition_number_published": Variable(
        _ONE,
        "f",
        "largest over smallest positive eigenvalue, as in published tables; depends on rounding "
        "unless all eigenvalues exceed noise_floor",
    ),
    "effective_rank": Variable(_ONE, "f", "exp of the entropy of the normalised eigenvalues"),
    "effective_rank_ci": Variable(_CI, "f", "its 95 % interval"),
    "participation_ratio": Variable(_ONE, "f", "squared trace over the sum of squares"),
    "participation_ratio_ci": Variable(_CI, "f", "its 95 % interval"),
    "top1_fraction": Variable(_ONE, "f", "share of the variance of the largest eigenvalue"),
    "top1_fraction_ci": Variable(_CI, "f", "its 95 % interval"),
    "top5_fraction": Variable(_ONE, "f", "share of the variance of the five largest"),
    "top5_fraction_ci": Variable(_CI, "f", "its 95 % interval"),
    "trace": Variable(_ONE, "f", "total variance of the features"),
    "trace_ci": Variable(_CI, "f", "its 95 % interval"),
}

COMPARISON: dict[str, Variable] = {
    "comparison": Variable(_PAIR, "O", "checkpoint compared with the first"),
    "tensor": Variable(("tensor",), "O", "tensor"),
    "side": Variable(("side",), "O", "side of a matrix: output or input"),
    "group": Variable(_ONE, "O", "group of seeds of a checkpoint, or its own name"),
    "relation": Variable(_TENSORS, "O", "relation of the two tensors (specdiag.comparison.pairs)"),
    "relation_reason": Variable(_TENSORS, "O", "why they were not compared"),
    "relative_distance": Variable(
        _TENSORS, "f", "Frobenius norm of second minus first over that of first"
    ),
    "alpha_difference": Variable(_LAYERS, "f", "posterior mean of alpha, second minus first"),
    "alpha_difference_ci": Variable(_LAYERS_CI, "f", "95 % interval of the difference of alpha"),
    "alpha_difference_below_0": Variable(
        _LAYERS, "f", "probability that the difference of alpha is negative"
    ),
    "rope_difference": Variable(_LAYERS, "f", "ROPE probability, second minus first"),
    "spectral_distance": Variable(
        _LAYERS, "f", "Wasserstein distance of the normalised spectra, in decades"
    ),
    "subspace_overlap": Variable(
        (*_LAYERS, "side"), "f", "mean squared cosine between the leading singular subspaces"
    ),
    "n_leading": Variable(_LAYERS, "i", "number of singular directions in these subspaces"),
    "added_alpha": Variable(_LAYERS, "f", "posterior mean of alpha of second minus first"),
    "added_alpha_ci": Variable(_LAYERS_CI, "f", "its 95 % posterior interval"),
    "added_null_q": Variable(_LAYERS, "f", "null_q of the matrix second minus first"),
    "added_rank": Variable(_LAYERS, "f", "rank of second minus first, above rounding"),
    "added_stable_rank": Variable(_LAYERS, "f", "stable rank of second minus first"),
    "n_first_seeds": Variable(_PAIR, "i", "number of checkpoints in the first group"),
    "n_second_seeds": Variable(_PAIR, "i", "number of checkpoints in the second group"),
    "n_comparable": Variable(_PAIR, "i", "number of layers fit in both whose spectra differ"),
    "n_compared": Variable(_PAIR, "i", "number of these whose alpha means something in both"),
    "n_blocks": Variable(_PAIR, "i", "number of blocks of these layers"),
    "mean_alpha_difference": Variable(_PAIR, "f", "mean difference of alpha over these layers"),
    "mean_alpha_difference_ci": Variable(
        (*_PAIR, "ci_bound"), "f", "95 % interval with blocks as the sampling unit"
    ),
    "mean_alpha_difference_seed_ci": Variable(
        (*_PAIR, "ci_bound"), "f", "95 % interval that holds for other seeds: see seed_basis"
    ),
    "seed_basis": Variable(_PAIR, "O", "what that interval is based on"),
    "intraclass_correlation": Variable(
        _PAIR, "f", "correlation of the layers of a network over seeds, assumed or measured"
    ),
    "intraclass_correlation_ci": Variable(
        (*_PAIR, "ci_bound"), "f", "its 95 % interval, if it is measured"
    ),
    "intraclass_correlation_limit": Variable(
        _PAIR, "f", "smallest value with which that interval has 0, if it is assumed"
    ),
    "mean_rope_difference": Variable(_PAIR, "f", "mean difference of the ROPE probability"),
    "sign_p": Variable(_PAIR, "f", "p-value of the sign test over blocks"),
    "wilcoxon_p": Variable(_PAIR, "f", "p-value of Wilcoxon's signed-rank test over blocks"),
    "conclusion": Variable(_PAIR, "O", "conclusion in one sentence"),
}

LINK: dict[str, Variable] = {
    "quantity": Variable(("quantity",), "O", "quantity measured of a checkpoint"),
    "part": Variable(("part",), "O", "the checkpoints of one task, or of all"),
    "stratification": Variable(("stratification",), "O", "which checkpoints are compared"),
    "checkpoint": Variable(("checkpoint",), "O", "checkpoint"),
    "ci_bound": Variable(("ci_bound",), "O", "end of an interval"),
    "value": Variable(("quantity", "checkpoint"), "f", "quantity"),
    "r2": Variable(("checkpoint",), "f", "test R2"),
    "rho": Variable(_CELL, "f", "rank correlation of quantity and R2"),
    "rho_ci": Variable((*_CELL, "ci_bound"), "f", "95 % bootstrap interval of rho"),
    "p": Variable(_CELL, "f", "permutation p-value of rho"),
    "p_holm": Variable(
        _CELL, "f", "p after Holm's adjustment for all quantities, and for all tasks"
    ),
    "same_order_as": Variable(
        _CELL, "O", "earlier quantity with the same ranks, or ''; not tested again"
    ),
    "n": Variable(_CELL, "i", "number of checkpoints compared"),
    "n_units": Variable(_CELL, "i", "number of different spectra, or features, among them"),
    "n_without_counterpart": Variable(
        _CELL, "i", "number of checkpoints that cannot be exchanged with another one"
    ),
    "arrangements": Variable(_CELL, "f", "number of arrangements that a permutation can give"),
    "error": Variable(_CELL[:2], "f", "mean |error| of R2 predicted from the other tasks"),
    "baseline_error": Variable(_CELL[:2], "f", "mean |error| predicted without the quantity"),
    "n_error": Variable(_CELL[:2], "i", "number of checkpoints predicted"),
}

# Variables that files of earlier versions do not have.
ADDED = (
    *("gaussian_p", "gaussian_q", "scales_p", "initialisation_p"),
    *("row_scale_sd", "column_scale_sd", "offset_share"),
    *("kind_log10_factor", "tail_slope", "tail_slope_sd"),
    *("how", "n_changed", "n_effective", "alpha_repeat_sd", "n_outliers"),
)

# The key of each variable in the JSON of an evaluation: a field of FeatureSpectrum, where names of
# intervals end in `_interval`.
FEATURES = {
    "feature_eigenvalue": "eigenvalues",
    **{
        name: name.replace("_ci", "_interval")
        for name in list(COLLECTION)[list(COLLECTION).index("n_samples") :]
    },
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


def missing_values(spec: Variable, sizes: Mapping[Any, int]) -> Any:
    """Return an array of a variable, filled with its missing value."""
    empty = {"f": (math.nan, float), "i": (0, np.int64), "b": (0, np.int8), "O": ("", object)}
    return np.full([sizes[dim] for dim in spec.dims], *empty[spec.dtype])


def as_markdown(schema: Mapping[str, Variable]) -> str:
    """Return a schema as a table for the documentation."""
    rows = [
        f"| `{name}` | {', '.join(spec.dims)} | {_DTYPES[spec.dtype]} | {spec.long_name} |"
        for name, spec in schema.items()
    ]
    return "\n".join(["| variable | dimensions | dtype | meaning |", "|---|---|---|---|", *rows])


def labelled(schema: Mapping[str, Variable], columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns as xarray Variables with dims, dtypes and attributes of the schema."""
    import xarray as xr

    return {
        name: xr.Variable(
            spec.dims,
            np.asarray(columns[name], dtype=object if spec.dtype == "O" else _DTYPES[spec.dtype]),
            # The CF conventions write '1' for the units of a number without units.
            {"long_name": spec.long_name} | ({} if spec.dtype == "O" else {"units": "1"}),
        )
        for name, spec in schema.items()
    }
