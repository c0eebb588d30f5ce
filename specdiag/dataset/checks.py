"""A Dataset of a file -> the same one, or the first value in it that no measurement gives.

Files come from anybody, and a disk can damage them, so labels, words and ranges are checked before
anything is concluded from them.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.dataset.schema.variable import Variable
from specdiag.htsr.null.verdicts import VERDICTS
from specdiag.htsr.tail.alternatives import ALTERNATIVES
from specdiag.wording import is_text, shown, some

if TYPE_CHECKING:
    import xarray as xr

MAX_LEVELS = 50  # of the JSON of the provenance
_ROUNDING = 1e-6
_SHARES = (  # from 0 to 1
    *("alpha_below_2", "rope_probability", "gaussian_p", "gaussian_q", "scales_p"),
    *("initialisation_p", "null_p", "null_q", "gof_p", "log_likelihood_ratio_p", "ks_distance"),
    *("mp_distance", "spike_p"),
    *("entropy", "top1_fraction", "top1_fraction_ci", "top5_fraction", "top5_fraction_ci"),
    *("trap_p", "permuted_distance", "localised_p"),
    *("alpha_difference_below_0", "subspace_overlap", "added_null_q", "sign_p", "wilcoxon_p"),
    *("subspace_overlap_ci", "subspace_overlap_chance", "cka_ci", "cka_biased"),
    *("resolved_share", "spectrum_share", "scale_share", "best_match", "cka", "cka_expected"),
    *("overlap", "overlap_expected", "overlap_limit"),
    *("leading_share", "leading_share_expected", "leading_share_limit"),
)
_POSITIVE = (  # from 0
    *("alpha_sd", "alpha_repeat_sd", "xmin", "n_tail", "n_outliers", "n_windows", "xmin_ks"),
    *("n_tail_ks", "rank", "stable_rank", "spectral_norm", "frobenius_norm", "tail_slope_sd"),
    *("mp_edge", "n_spikes", "erg_count", "row_size", "row_start", "eigenvalue"),
    *("n_changed", "n_fit"),
    *("n_traps", "trap_ratio", "soft_rank", "n_beyond_permuted", "n_localised"),
    *("ipr_output", "ipr_input"),
    *("n_degenerate", "n_skipped", "n_failed", "n_samples", "n_effective", "n_groups", "n_blocks"),
    *("noise_floor", "numerical_rank", "condition_number", "condition_number_ci"),
    *("effective_rank", "effective_rank_ci", "participation_ratio", "participation_ratio_ci"),
    *("condition_number_ratio", "condition_number_ratio_ci", "effective_rank_ratio"),
    *("effective_rank_ratio_ci", "participation_ratio_ratio", "participation_ratio_ratio_ci"),
    *("feature_eigenvalue", "shrunken_eigenvalue", "n_features"),
    *("trace", "trace_ci", "relative_distance", "spectral_distance", "n_leading", "added_rank"),
    *("rounding_floor", "relative_norm", "relative_spectral_norm", "update_effective_rank"),
    *("spectrum_change", "n_intruders"),
    *("added_stable_rank", "n_first_seeds", "n_second_seeds", "n_comparable", "n_compared"),
)
RANGES = {
    **dict.fromkeys(_SHARES, (0.0, 1.0)),
    **dict.fromkeys(_POSITIVE, (0.0, np.inf)),
    **dict.fromkeys(("alpha", "alpha_ks", "added_alpha"), (1.0, np.inf)),
    **dict.fromkeys(("r2", "session_r2"), (-np.inf, 1.0)),
}
WORDS = {
    "status": ("fit", "degenerate", "skipped", "failed", "absent"),
    "verdict": ("", *VERDICTS),
    "state": ("ok", "rebuilt", "drifted", "stale", "missing", "corrupt"),
    "how": ("", "fetched", "trained", "evaluated"),
    "update_kind": ("", "none", "rounding", "low rank", "full rank", "unresolved"),
}
LABELS = {
    "ci_bound": ("lower", "upper"),
    "alternative": ALTERNATIVES,
    "side": ("output", "input"),
}


def check_type(dataset: "xr.Dataset", name: str, spec: Variable) -> None:
    """Check dims and dtype of a variable."""
    variable = dataset[name]
    kind = "O" if variable.dtype.kind in "OUST" else variable.dtype.kind
    if variable.dims != spec.dims or kind != spec.dtype.replace("b", "i"):
        raise ValueError(
            f"variable {name} has dims {variable.dims} and dtype {variable.dtype}: expected "
            f"{spec.dims} and kind {spec.dtype}"
        )


def check_layout(dataset: "xr.Dataset") -> None:
    """Check labels, and the places of the spectra.

    Raises
    ------
    ValueError
        If a label occurs twice, or a layer's eigenvalues are outside of those of the Dataset.
    """
    for name, index in dataset.indexes.items():
        if not index.is_unique:
            twice = str(index[index.duplicated()][0])
            raise ValueError(f"{name} {shown(twice)} occurs twice")
    if "row_start" not in dataset.variables:  # of features, whose eigenvalues are a matrix
        return
    starts, sizes = dataset.row_start.values, dataset.row_size.values
    n = dataset.sizes["sample"]
    if np.any(starts < 0) or np.any(sizes < 0) or np.any(sizes > n) or np.any(starts > n - sizes):
        raise ValueError("row_start and row_size point outside of the eigenvalues")
    order = np.lexsort((sizes.ravel(), starts.ravel()))
    begins, ends = starts.ravel()[order], (starts + sizes).ravel()[order]
    if np.any(begins[1:] < ends[:-1]):
        raise ValueError("row_start and row_size give some eigenvalues to two layers")


def check_values(dataset: "xr.Dataset", schema: Mapping[str, Variable]) -> None:
    """Check the values of these variables, and the provenance.

    Raises
    ------
    ValueError
        If there is no checkpoint or no layer, a text is not UTF-8, a word or a number is one that
        no measurement gives, or the provenance is not JSON. The message names the variable.
    """
    for dim in ("checkpoint", "layer"):
        if not dataset.sizes[dim]:
            raise ValueError(f"it has no {dim}")
    _check_provenance(dataset.attrs.get("provenance"))
    for name, spec in schema.items():
        values = dataset[name].values
        if spec.dtype == "O":
            _check_texts(name, values.ravel().tolist())
        else:
            check_range(name, values)


def check_range(name: str, values: Any) -> None:
    """Check that numbers are missing or in the range of the variable that holds them."""
    low, high = RANGES.get(name, (-np.inf, np.inf))
    numbers = np.asarray(values)
    wrong = (numbers < low - _ROUNDING) | (numbers > high + _ROUNDING)
    if name == "eigenvalue":
        wrong |= np.isnan(numbers)
    if wrong.any():
        value = np.atleast_1d(numbers)[np.atleast_1d(wrong)][0]
        raise ValueError(f"{name} is {value:.6g}; expected {low:g} to {high:g}")


def _check_texts(name: str, texts: list[Any]) -> None:
    if not all(isinstance(text, str) for text in texts) or not is_text("".join(texts)):
        raise ValueError(f"{name} is not text in UTF-8")
    if texts != list(LABELS.get(name, texts)):
        raise ValueError(f"{name} is not {', '.join(LABELS[name])}")
    words = WORDS.get(name)
    if words and (others := sorted({*texts} - {*words})):
        raise ValueError(f"{name} is {shown(others[0])}; expected one of {some(words, 20)}")


def _check_provenance(text: Any) -> None:
    try:
        content = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("its provenance is not JSON") from None
    if not isinstance(content, dict) or _depth(content) > MAX_LEVELS:
        raise ValueError("its provenance is not a table of JSON")


def _depth(value: Any) -> int:
    """Return how often lists and tables of JSON are nested."""
    depth, level = 0, [value]
    while level and depth <= MAX_LEVELS:
        items = [v.values() if isinstance(v, dict) else v for v in level]
        level = [v for some in items for v in some if isinstance(v, dict | list)]
        depth += 1
    return depth
