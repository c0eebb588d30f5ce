"""`COLLECTION`: besides `SCHEMA`, features and test R² of whole studies (`specdiag.collect`)."""

from specdiag.dataset.schema.variable import Variable

COLLECTION_VERSION = 5
_ONE = ("checkpoint",)
_CI = ("checkpoint", "ci_bound")

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

# Variables that files of earlier versions do not have.
ADDED = (
    *("gaussian_p", "gaussian_q", "scales_p", "initialisation_p"),
    *("row_scale_sd", "column_scale_sd", "offset_share"),
    *("kind_log10_factor", "tail_slope", "tail_slope_sd"),
    *("mp_distance", "spike_p", "erg_count"),
    *("n_traps", "trap_p", "trap_ratio", "soft_rank", "n_beyond_permuted", "permuted_distance"),
    *("n_localised", "localised_p", "ipr_output", "ipr_input"),
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
