"""`UPDATES`: besides `SCHEMA`, what was added to each weight of a network (`specdiag.delta`)."""

from specdiag.dataset.schema.variable import Variable

_LAYER = ("checkpoint", "layer")
_SIDES = (*_LAYER, "side")

UPDATES: dict[str, Variable] = {
    "side": Variable(("side",), "O", "side of a matrix: output or input"),
    "update_kind": Variable(
        _LAYER, "O", "none, rounding, low rank, full rank or unresolved; '' if not compared"
    ),
    "role": Variable(_LAYER, "O", "role of the weight in the network, by its name"),
    "depth": Variable(_LAYER, "i", "number of its block, by its name; -1 if that has none"),
    "rounding_floor": Variable(
        _LAYER, "f", "value that an eigenvalue of the update must exceed to be more than rounding"
    ),
    "resolved_share": Variable(
        _LAYER, "f", "share of the squared norm of the update in the eigenvalues above it"
    ),
    "update_effective_rank": Variable(
        _LAYER, "f", "exp of the entropy of the update's normalised eigenvalues above rounding"
    ),
    "relative_norm": Variable(_LAYER, "f", "Frobenius norm of the update over that of the weight"),
    "relative_spectral_norm": Variable(
        _LAYER, "f", "spectral norm of the update over that of the weight"
    ),
    "spectrum_change": Variable(
        _LAYER, "f", "norm of the differences of singular values over that of the singular values"
    ),
    "spectrum_share": Variable(
        _LAYER, "f", "share of the squared norm of the update that changes singular values"
    ),
    "scale_share": Variable(
        _LAYER, "f", "share of the squared norm of the update along the weight itself"
    ),
    "scale": Variable(_LAYER, "f", "factor of the weight in the second one, by least squares"),
    "n_leading": Variable(_LAYER, "i", "number of leading singular directions that are compared"),
    "overlap": Variable(_SIDES, "f", "mean squared cosine between the leading singular subspaces"),
    "overlap_expected": Variable(_SIDES, "f", "its expectation for unrelated directions"),
    "overlap_limit": Variable(_SIDES, "f", "its 95 % upper limit for unrelated directions"),
    "leading_share": Variable(
        _SIDES, "f", "share of the squared norm of the update in the leading subspace of the weight"
    ),
    "leading_share_expected": Variable(_SIDES, "f", "its expectation for unrelated directions"),
    "leading_share_limit": Variable(_SIDES, "f", "its 95 % upper limit for unrelated directions"),
    "best_match": Variable(
        _SIDES,
        "f",
        "mean of the largest |cosine| of a leading singular vector after with any before",
    ),
    "n_intruders": Variable(
        _SIDES, "f", "number of leading singular vectors after with no such cosine of 0.5 or more"
    ),
    "cka": Variable(_LAYER, "f", "linear CKA of the outputs before and after, for white inputs"),
    "cka_expected": Variable(_LAYER, "f", "its expectation for unrelated directions"),
}
