"""Reads a neural network's health from the eigenvalue spectra of its weight matrices.

Public names are imported when first used, so that `import specdiag` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specdiag.checkpoint.export import export
    from specdiag.checkpoint.reader import open_checkpoint, tensor_digest
    from specdiag.comparison.dataset import compare
    from specdiag.dataset.netcdf import open_spectra, save_spectra
    from specdiag.dataset.spectra import alpha
    from specdiag.dataset.spectrum import spectrum
    from specdiag.features.covariance import FeatureCovariance
    from specdiag.htsr.esd import eigenvalues, rank_gate, resolved_eigenvalues
    from specdiag.htsr.goodness_of_fit import goodness_of_fit, likelihood_ratios
    from specdiag.htsr.posterior import alpha_posterior
    from specdiag.htsr.tail import fit_alpha
    from specdiag.transfer.collection import collect
    from specdiag.transfer.link import link

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
    "resolved_eigenvalues",
    "save_spectra",
    "spectrum",
    "tensor_digest",
]

_HOME = {
    "FeatureCovariance": "features.covariance",
    "alpha": "dataset.spectra",
    "alpha_posterior": "htsr.posterior",
    "collect": "transfer.collection",
    "compare": "comparison.dataset",
    "eigenvalues": "htsr.esd",
    "export": "checkpoint.export",
    "fit_alpha": "htsr.tail",
    "goodness_of_fit": "htsr.goodness_of_fit",
    "likelihood_ratios": "htsr.goodness_of_fit",
    "link": "transfer.link",
    "open_checkpoint": "checkpoint.reader",
    "open_spectra": "dataset.netcdf",
    "rank_gate": "htsr.esd",
    "resolved_eigenvalues": "htsr.esd",
    "save_spectra": "dataset.netcdf",
    "spectrum": "dataset.spectrum",
    "tensor_digest": "checkpoint.reader",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'specdiag' has no attribute {name!r}")
    return getattr(import_module(f"specdiag.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
