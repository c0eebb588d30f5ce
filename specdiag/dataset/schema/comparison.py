"""`COMPARISON`: besides `SCHEMA`, differences from the first checkpoint (`specdiag.compare`)."""

from specdiag.dataset.schema.variable import Variable

_ONE = ("checkpoint",)
_PAIR = ("comparison",)
_TENSORS = ("comparison", "tensor")
_LAYERS = ("comparison", "layer")
_LAYERS_CI = (*_LAYERS, "ci_bound")

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
