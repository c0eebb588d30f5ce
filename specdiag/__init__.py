"""Reads a neural network's health from the eigenvalue spectra of its weight matrices.

Public names are imported when first used, so that `import specdiag` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specdiag.checkpoint.export import export
    from specdiag.checkpoint.reader import open_checkpoint, tensor_digest
    from specdiag.collection import collect
    from specdiag.comparison import compare
    from specdiag.covariance import FeatureCovariance
    from specdiag.esd import eigenvalues, rank_gate
    from specdiag.gof import goodness_of_fit, likelihood_ratios
    from specdiag.links import link
    from specdiag.posterior import alpha_posterior
    from specdiag.spectra import alpha, open_spectra, save, spectrum
    from specdiag.tail import fit_alpha

__all__ = [
    "FeatureCovariance",
    "alpha",
    "alpha_posterior",
    "collect",
    "compare",
    "eigenvalues",
    "export",
    "fit_alpha",
    "goodness_of_fit",
    "likelihood_ratios",
    "link",
    "open_checkpoint",
    "open_spectra",
    "rank_gate",
    "save",
    "spectrum",
    "tensor_digest",
]

_HOME = {
    "FeatureCovariance": "covariance",
    "alpha": "spectra",
    "alpha_posterior": "posterior",
    "collect": "collection",
    "compare": "comparison",
    "eigenvalues": "esd",
    "export": "checkpoint.export",
    "fit_alpha": "tail",
    "goodness_of_fit": "gof",
    "likelihood_ratios": "gof",
    "link": "links",
    "open_checkpoint": "checkpoint.reader",
    "open_spectra": "spectra",
    "rank_gate": "esd",
    "save": "spectra",
    "spectrum": "spectra",
    "tensor_digest": "checkpoint.reader",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'specdiag' has no attribute {name!r}")
    return getattr(import_module(f"specdiag.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
