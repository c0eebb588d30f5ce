"""Spectra -> whether they are the same up to rounding; measured networks -> whether they are one.

A network that is given twice, as a copy or in another dtype, is no second seed.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import DTypeLike

from specdiag.htsr import esd
from specdiag.htsr.layers import Layer
from specdiag.htsr.tail.power_law import Array


def rounding_shift(
    eigenvalues: Array, shape: tuple[int, ...], dtype: DTypeLike, largest: float
) -> Array:
    """Return how far rounding may move the square root of each eigenvalue of a matrix.

    The matrix may be the result of a rotation or rescaling computed in float32 (in float64 if it is
    stored so), and was rounded to its dtype. The errors of its entries are independent, with
    standard deviation s = rms(W) (eps / sqrt(12) + eps_arithmetic sqrt(N / 48)). To first order
    such errors move a singular value by one normal variable of that deviation (Stewart 1990,
    Perturbation theory for the SVD): 5 s are allowed. If the singular vectors concentrate on one
    large entry, they move it by the rounding of that entry. To second order they add at most their
    squared norm to an eigenvalue, as the Gram matrix does: that moves the smallest ones.

    Parameters
    ----------
    eigenvalues : ndarray of shape (n_eigenvalues,)
        All eigenvalues of W'W / N, descending.
    shape, dtype
        Of W, as stored.
    largest : float
        The largest absolute value of the entries of W.
    """
    N = max(shape[:2])
    eps, float32, float64 = (esd.precision(d)[0] for d in (dtype, np.float32, np.float64))
    root = np.sqrt(eigenvalues)
    entry = math.sqrt(eigenvalues.mean()) * (
        eps / math.sqrt(12) + min(eps, float32) * math.sqrt(N / 48)
    )
    first = 5 * entry / math.sqrt(N) + eps / 2 * np.minimum(root, largest / math.sqrt(N))
    square = esd.storage_floor(eigenvalues, shape, dtype) + eigenvalues[0] * N * float64
    return first + square / (root + np.sqrt(eigenvalues + square))


def same_spectrum(first: Array, second: Array, first_shift: Array, second_shift: Array) -> bool:
    """Return whether two spectra are the same up to the scale of the weights and to rounding.

    The arguments are all eigenvalues, descending, and their `rounding_shift`.
    """
    if len(first) != len(second) or not (first[0] > 0 and second[0] > 0):
        return False
    a, b = math.sqrt(first.sum()), math.sqrt(second.sum())
    moved = np.abs(np.sqrt(first) / a - np.sqrt(second) / b)
    return bool(np.all(moved <= first_shift / a + second_shift / b))


def is_one_network(first: Iterable[Layer], second: Iterable[Layer]) -> bool:
    """Return whether all layers with an alpha in both have the same spectra up to rounding.

    False if no layer has an alpha in both. Copies of a network in other files, dtypes or scales are
    one network, and so are networks that share a frozen core, if only this is measured.
    """
    tables = [{x.name: x for x in layers if x.status == "fit"} for layers in (first, second)]
    pairs = [(layer, tables[1][name]) for name, layer in tables[0].items() if name in tables[1]]
    return bool(pairs) and all(_is_one_matrix(a, b) for a, b in pairs)


def _is_one_matrix(a: Layer, b: Layer) -> bool:
    if a.shape != b.shape:
        return False
    spectra = a.eigenvalues, b.eigenvalues
    if np.array_equal(*spectra):
        return True
    # The largest entry only lowers the shift, and is not known here.
    shifts = (rounding_shift(x.eigenvalues, x.shape, x.dtype, math.inf) for x in (a, b))
    return same_spectrum(*spectra, *shifts)


def distinct_networks(networks: Iterable[Sequence[Layer]]) -> list[Sequence[Layer]]:
    """Return the networks without those that are the same as an earlier one."""
    kept: list[Sequence[Layer]] = []
    for layers in networks:
        if not any(is_one_network(layers, other) for other in kept):
            kept.append(layers)
    return kept
