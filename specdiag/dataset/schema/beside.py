"""`BESIDE`: what other packages find in the same matrices, only of measurements that ask for it."""

from specdiag.dataset.schema.variable import Variable

_LAYER = ("checkpoint", "layer")


def _of(package: str) -> dict[str, Variable]:
    return {
        f"{package}_status": Variable(
            _LAYER, "O", f"success, or why {package} gives no numbers; '' if it was not asked"
        ),
        f"{package}_alpha": Variable(_LAYER, "f", f"alpha of {package}"),
        f"{package}_xmin": Variable(_LAYER, "f", "its smallest eigenvalue of the tail, of W'W / N"),
        f"{package}_D": Variable(_LAYER, "f", "its Kolmogorov-Smirnov distance"),
        f"{package}_n_tail": Variable(_LAYER, "f", "number of eigenvalues in its tail"),
    }


_RATIO = "log-likelihood of power law minus {}, above xmin"

BESIDE: dict[str, Variable] = {
    **_of("weightwatcher"),
    **_of("powerlaw"),
    "powerlaw_truncated_alpha": Variable(
        _LAYER, "f", "exponent of its power law with exponential cutoff, x^-alpha exp(-lambda x)"
    ),
    "powerlaw_truncated_lambda": Variable(_LAYER, "f", "rate of that cutoff"),
    "powerlaw_truncated_ratio": Variable(_LAYER, "f", _RATIO.format("that law")),
    "powerlaw_truncated_p": Variable(_LAYER, "f", "its p-value of that ratio"),
    "powerlaw_lognormal_mu": Variable(_LAYER, "f", "mean of the logarithm of its lognormal"),
    "powerlaw_lognormal_sigma": Variable(_LAYER, "f", "its standard deviation"),
    "powerlaw_lognormal_ratio": Variable(_LAYER, "f", _RATIO.format("lognormal")),
    "powerlaw_lognormal_p": Variable(_LAYER, "f", "its p-value of that ratio"),
}
