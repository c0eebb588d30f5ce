"""Measure how heavy-tailed the spectrum of each weight matrix is, and how certain that is.

Public names are imported when they are first used, so that `import specdiag` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specdiag.checkpoint.export import export as export
    from specdiag.checkpoint.reader import open_checkpoint as open_checkpoint
    from specdiag.checkpoint.reader import tensor_digest as tensor_digest
    from specdiag.comparison.dataset import compare as compare
    from specdiag.comparison.updates.delta import delta as delta
    from specdiag.dataset.netcdf import open_spectra as open_spectra
    from specdiag.dataset.netcdf import save_spectra as save_spectra
    from specdiag.dataset.spectra import alpha as alpha
    from specdiag.dataset.spectrum import spectrum as spectrum
    from specdiag.dataset.table import concat as concat
    from specdiag.dataset.table import summary as summary
    from specdiag.features.attach import attach as attach
    from specdiag.features.comparison.dataset import measure_features as measure_features
    from specdiag.features.covariance import FeatureCovariance as FeatureCovariance
    from specdiag.htsr.esd import eigenvalues as eigenvalues
    from specdiag.htsr.esd import resolved_eigenvalues as resolved_eigenvalues
    from specdiag.htsr.tail.alternatives import likelihood_ratios as likelihood_ratios
    from specdiag.htsr.tail.goodness_of_fit import goodness_of_fit as goodness_of_fit
    from specdiag.htsr.tail.posterior import alpha_posterior as alpha_posterior
    from specdiag.htsr.tail.power_law import fit_alpha as fit_alpha
    from specdiag.training.monitor import SpectralMonitor as SpectralMonitor
    from specdiag.training.trainers.huggingface import hf_callback as hf_callback
    from specdiag.transfer.collection import collect as collect
    from specdiag.transfer.link import link as link
    from specdiag.transfer.verification import verify as verify

# The public names by module; the block above says the same to type checkers.
_NAMES = {
    "checkpoint.export": "export",
    "checkpoint.reader": "open_checkpoint tensor_digest",
    "comparison.dataset": "compare",
    "comparison.updates.delta": "delta",
    "dataset.netcdf": "open_spectra save_spectra",
    "dataset.spectra": "alpha",
    "dataset.spectrum": "spectrum",
    "dataset.table": "concat summary",
    "features.attach": "attach",
    "features.comparison.dataset": "measure_features",
    "features.covariance": "FeatureCovariance",
    "htsr.esd": "eigenvalues resolved_eigenvalues",
    "htsr.tail.alternatives": "likelihood_ratios",
    "htsr.tail.goodness_of_fit": "goodness_of_fit",
    "training.trainers.huggingface": "hf_callback",
    "training.monitor": "SpectralMonitor",
    "htsr.tail.posterior": "alpha_posterior",
    "htsr.tail.power_law": "fit_alpha",
    "transfer.collection": "collect",
    "transfer.link": "link",
    "transfer.verification": "verify",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
_PACKAGES = ("drawing", "show")  # with all of their modules: `specdiag.show.report.report`
_MODULES = ("plot",)
_DEPRECATED = {  # until the next minor version: module, name there, what to write instead
    "rank_gate": ("htsr.esd", "rank_gate", "specdiag.resolved_eigenvalues"),
    "save": ("dataset.netcdf", "save_spectra", "specdiag.save_spectra"),
}

__all__ = sorted([*_HOME, *_PACKAGES, *_MODULES, "__version__"])  # noqa: PLE0605 - derived, so that it cannot fall behind


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"specdiag.{_HOME[name]}"), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("specdiag")
    if name in _MODULES:
        return import_module(f"specdiag.{name}")
    if name in _PACKAGES:
        from pkgutil import iter_modules

        for package in _PACKAGES:
            for module in iter_modules(import_module(f"specdiag.{package}").__path__):
                import_module(f"specdiag.{package}.{module.name}")
        return import_module(f"specdiag.{name}")
    if name in _DEPRECATED:
        import warnings

        home, current, instead = _DEPRECATED[name]
        warnings.warn(
            f"specdiag.{name} is deprecated; use {instead}", DeprecationWarning, stacklevel=2
        )
        return getattr(import_module(f"specdiag.{home}"), current)
    raise AttributeError(f"module 'specdiag' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
