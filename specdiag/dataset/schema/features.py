"""`FEATURES_SCHEMA`: spectra of features (`specdiag features -o`), without those of weights."""

from specdiag.dataset.schema.collection import COLLECTION
from specdiag.dataset.schema.variable import Variable

FEATURES_VERSION = 1
KIND = "features"
_CELL = ("checkpoint", "layer")
_PAIR = ("comparison", "layer")
_NAMES = list(COLLECTION)

# Fields of `specdiag.features.conditioning.FeatureSpectrum`, by layer.
FEATURES_SCHEMA: dict[str, Variable] = {
    "checkpoint": Variable(("checkpoint",), "O", "file or entry whose features were measured"),
    "layer": Variable(("layer",), "O", "layer or array"),
    "ci_bound": Variable(("ci_bound",), "O", "end of an interval"),
    "feature_rank": COLLECTION["feature_rank"],
    "n_features": Variable(_CELL, "f", "number of features d"),
    "grouping": Variable(_CELL, "O", "what the groups of the samples are"),
    "feature_eigenvalue": Variable(
        (*_CELL, "feature_rank"), "f", "eigenvalues of the sample covariance of the features"
    ),
    "shrunken_eigenvalue": Variable(
        (*_CELL, "feature_rank"), "f", "the same, corrected for the spread that sampling adds"
    ),
} | {
    name: Variable((*_CELL, *COLLECTION[name].dims[1:]), *COLLECTION[name][1:])
    for name in _NAMES[_NAMES.index("n_samples") :]
}

# Fields of `specdiag.features.comparison.compare.FeatureComparison`, where files are compared.
COMPARED: dict[str, Variable] = {
    "comparison": Variable(("comparison",), "O", "file or entry compared with the first"),
    "paired": Variable(_PAIR, "b", "1 if both have the same groups"),
    "condition_number_ratio": Variable(_PAIR, "f", "condition number over that of the first"),
    "effective_rank_ratio": Variable(_PAIR, "f", "effective rank over that of the first"),
    "participation_ratio_ratio": Variable(_PAIR, "f", "participation ratio over that of the first"),
    "n_leading": Variable(_PAIR, "f", "number of leading directions that are compared"),
    "subspace_overlap": Variable(
        _PAIR, "f", "mean squared cosine between the spaces of the leading directions"
    ),
    "subspace_overlap_chance": Variable(_PAIR, "f", "its mean for unrelated directions"),
    "cka": Variable(_PAIR, "f", "linear CKA of the same samples, without bias"),
    "cka_biased": Variable(_PAIR, "f", "linear CKA as published"),
    "conclusion": Variable(_PAIR, "O", "conclusion in one sentence"),
}
COMPARED |= {
    f"{name}_ci": Variable((*_PAIR, "ci_bound"), "f", f"95 % interval: {COMPARED[name].long_name}")
    for name in (
        *("condition_number_ratio", "effective_rank_ratio", "participation_ratio_ratio"),
        *("subspace_overlap", "cka"),
    )
}
