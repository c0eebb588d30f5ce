"""Names of the methods for alpha, and the fit of a weight by each that is not specdiag's."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdiag.htsr.others.allocation import fit_allocation
from specdiag.htsr.others.weightwatcher import fit_weightwatcher, fit_wwj
from specdiag.htsr.tail.power_law import Array

METHODS = ("specdiag", "weightwatcher", "wwj", "median", "peak", "farms")


def check_method(method: str, **others: bool) -> None:
    """Raise ValueError if one of the options is asked for beside another method than specdiag's."""
    for name, is_wanted in others.items():
        if is_wanted and method != "specdiag":
            raise ValueError(
                f"{name} belongs to the method specdiag, not to {method}: leave it out"
            )


def fit_by(
    method: str,
    shape: tuple[int, ...],
    spectrum: Array,
    read: Callable[[], NDArray[np.generic]],
) -> dict[str, Any]:
    """Return status, tail and posterior of a weight by the rules of others.

    Parameters
    ----------
    method : str
        One of `METHODS`, but not 'specdiag'.
    shape : tuple of int
        Of the weight.
    spectrum : ndarray of shape (n_eigenvalues,)
        All its eigenvalues, those of W'W / N.
    read : function
        It returns the weight; called by the methods that need more than its eigenvalues.
    """
    if method == "wwj":
        return fit_wwj(read())
    if method == "weightwatcher":
        return fit_weightwatcher(shape, spectrum)
    return fit_allocation(method, shape, spectrum, read)
