"""Reads a neural network's health from the eigenvalue spectra of its weight matrices.

Public names are imported when first used, so that `import specdiag` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specdiag.checkpoint import open_checkpoint
    from specdiag.esd import eigenvalues
    from specdiag.spectra import alpha, open_spectra, save, spectrum
    from specdiag.tail import fit_alpha

__all__ = [
    "alpha",
    "eigenvalues",
    "fit_alpha",
    "open_checkpoint",
    "open_spectra",
    "save",
    "spectrum",
]

_HOME = {
    "alpha": "spectra",
    "eigenvalues": "esd",
    "fit_alpha": "tail",
    "open_checkpoint": "checkpoint",
    "open_spectra": "spectra",
    "save": "spectra",
    "spectrum": "spectra",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'specdiag' has no attribute {name!r}")
    return getattr(import_module(f"specdiag.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
