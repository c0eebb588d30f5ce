"""Features of a network that were measured, and what else their samples tell."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

from specdiag.features.blocks import Array, Moments, merged
from specdiag.features.conditioning import FeatureSpectrum
from specdiag.features.covariance import FeatureCovariance
from specdiag.features.estimators import refusal, shrunken_shares
from specdiag.features.files.measure import Features


class Measured(NamedTuple):
    """The spectrum of the features of one layer, or of one array, of a source.

    The covariance and the rows are missing for a spectrum that was read from a table.
    """

    source: str  # the name of an entry or a path
    layer: str  # or the name of an array
    spectrum: FeatureSpectrum
    covariance: FeatureCovariance | None = None
    features: Features | None = None

    @property
    def grouping(self) -> str:
        """What the groups of the rows are, if that is not known from elsewhere."""
        return self.features.grouping if self.features else ""


def by_source(measured: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Return the layers of each source, in their order."""
    found: dict[str, list[Measured]] = {}
    for one in measured:
        found.setdefault(one.source, []).append(one)
    return found


def blocks_of(one: Measured) -> dict[int, Moments]:
    """Return the blocks that intervals resample; none without intervals or variance."""
    blocks = one.covariance.blocks() if one.covariance else {}
    counts = [block.count for block in blocks.values()]
    if not one.spectrum.trace > 0:
        return {}
    return {} if refusal(len(counts), max(counts, default=1) / max(sum(counts), 1)) else blocks


def shrunken(one: Measured) -> Array | None:
    """Return the eigenvalues without the spread that sampling adds, None without intervals.

    They are those of the spectrum that the effective rank and the condition number are of: between
    the sample eigenvalues and the variances of held-out samples along eigenvectors, with the
    participation ratio found (`specdiag.features.estimators`).
    """
    blocks = list(blocks_of(one).values())
    if not blocks:
        return None
    return one.spectrum.trace * shrunken_shares(blocks, functools.reduce(merged, blocks))
