"""Spectra of the features of several layers -> what changes with depth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from specdiag.compute.parallel import in_parallel
from specdiag.features.conditioning import FeatureSpectrum
from specdiag.features.covariance import MAX_BLOCKS, FeatureCovariance
from specdiag.wording import some

_COPIES = 3  # of the blocks of a layer, at a time


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Depth profile of a network: layers in the order of the forward pass.

    Attributes
    ----------
    narrowest, widest : str
        Layer whose effective rank is the least and the largest share of its width d.
    narrowest_share, widest_share : float
        Those shares.
    narrowest_is_distinct : bool
        Whether the intervals of both shares do not overlap; false without intervals.
    flat : tuple of str
        Layers with more than one direction without variance: numerical rank below d - 1. One
        direction is what a LayerNorm takes from its output, since it subtracts the mean.
    sentences : tuple of str
        The same in words.
    """

    narrowest: str
    narrowest_share: float
    widest: str
    widest_share: float
    narrowest_is_distinct: bool
    flat: tuple[str, ...]
    sentences: tuple[str, ...]


def spectra_of(covariances: Mapping[str, FeatureCovariance]) -> dict[str, FeatureSpectrum]:
    """Return the spectra of layers, computed on all cores; each has at least two rows.

    Each core has one BLAS thread, which takes a third of the processor time of two for one layer.
    """
    from scipy import optimize, special  # noqa: F401 - loaded here, its BLAS has one thread, too

    jobs = [(one, _COPIES * MAX_BLOCKS * 8.0 * one.width**2) for one in covariances.values()]
    results = dict(in_parallel(FeatureCovariance.result, jobs))
    return {name: results[i] for i, name in enumerate(covariances)}


def profile(spectra: Mapping[str, FeatureSpectrum]) -> Profile:
    """Return the depth profile of at least two layers.

    Layers without variance have no share: the narrowest and the widest are among the others, and
    are '' if there are none.
    """
    shares = {
        name: one.effective_rank / len(one.eigenvalues)
        for name, one in spectra.items()
        if one.trace > 0
    }
    narrowest, widest = (
        (min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__))
        if shares
        else ("", "")
    )
    is_distinct = bool(shares) and _end(spectra[narrowest], 1) < _end(spectra[widest], 0)
    flat = tuple(
        name
        for name, one in spectra.items()
        if one.numerical_rank < min(len(one.eigenvalues), one.n_samples - 1) - 1
    )
    return Profile(
        narrowest=narrowest,
        narrowest_share=shares.get(narrowest, math.nan),
        widest=widest,
        widest_share=shares.get(widest, math.nan),
        narrowest_is_distinct=is_distinct,
        flat=flat,
        sentences=_sentences(spectra, narrowest, widest, is_distinct, flat),
    )


def _end(spectrum: FeatureSpectrum, which: int) -> float:
    return spectrum.effective_rank_interval[which] / len(spectrum.eigenvalues)


def _sentences(
    spectra: Mapping[str, FeatureSpectrum],
    narrowest: str,
    widest: str,
    is_distinct: bool,
    flat: tuple[str, ...],
) -> tuple[str, ...]:
    if not narrowest:
        return ("the features of no layer vary",)

    def place(name: str) -> str:
        one = spectra[name]
        if not one.trace > 0:
            return f"no variance in {name}"
        return f"{one.effective_rank:.3g} of {len(one.eigenvalues)} directions in {name}"

    difference = "" if is_distinct else "; their 95 % intervals overlap, or one is missing"
    first, last = next(iter(spectra)), list(spectra)[-1]
    lines = [
        f"as shares of the width, the features use between {place(narrowest)} and {place(widest)}"
        + difference,
        f"from the first layer to the last: {place(first)}, {place(last)}",
    ]
    if flat:
        lines.append(f"with directions without variance (rank below d - 1): {some(flat)}")
    if still := [name for name, one in spectra.items() if not one.trace > 0]:
        lines.append(f"without any variance: {some(still)}")
    return tuple(lines)
