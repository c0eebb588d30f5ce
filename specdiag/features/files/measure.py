"""Files of features -> accumulated covariances, one for each array."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from specdiag.features.covariance import FeatureCovariance
from specdiag.features.files.array import Array
from specdiag.features.files.labels import ROW, Labels, read_labels, runs
from specdiag.features.files.open import chosen, open_arrays
from specdiag.wording import one_line, shown


class Features(NamedTuple):
    """Features in a file: an array, and the group of each row."""

    source: str
    array: Array
    labels: Labels | None  # of the rows, or of the entries of the first axis; None without any
    each: bool = False  # whether each entry of the first axis is a group

    @property
    def grouping(self) -> str:
        """What the groups are, in words."""
        if self.labels is not None:
            return "groups as given"
        if self.each:
            return "each sample is a group"
        if len(self.array.shape) > 2:
            return "each entry of the first axis is a group"
        return "runs of consecutive samples are groups; --groups names trials or sessions"

    def same_groups(self, other: "Features") -> bool:
        """Return whether the rows of features of the same shape have the same groups."""
        if self.labels is None or other.labels is None:
            return self.labels is other.labels and self.each == other.each
        return np.array_equal(self.labels, other.labels)

    def pieces(self, count: int = 0) -> Iterator[tuple[np.ndarray, Labels]]:
        """Yield the values of `count` entries of the first axis, as floats, and their labels.

        Whole numbers become float64.
        """
        start, total = 0, self.array.shape[0]
        try:
            for piece in self.array.pieces(count or self.array.entries):
                stop = start + len(piece)
                values = piece.astype(np.float64) if piece.dtype.kind in "iu" else piece
                if self.labels is not None:
                    yield values, self.labels[start:stop]
                elif self.each or values.ndim > 2:
                    yield values, np.arange(start, stop)
                else:
                    yield values, runs(start, stop, total)
                start = stop
        except (ValueError, OSError, MemoryError) as error:
            raise ValueError(
                f"{self.source}: {shown(self.array.name)}: {one_line(error)}"
            ) from None


def open_features(path: Path, names: Sequence[str] = (), groups: str = "") -> list[Features]:
    """Return the features in a file, without reading them yet.

    Parameters
    ----------
    path : Path
    names : sequence of str
        Names or patterns of arrays in the file; without any, the only one with features.
    groups : str
        What the groups of the rows are: an array in the file, another file, or 'row' if every row
        is independent of all others. Without, see `Features.grouping`.

    Raises
    ------
    ValueError
        If the file is no file of features, is damaged, or has no such array; or if there are not as
        many labels as rows.
    OSError
        If a file cannot be read.
    """
    where = shown(str(path), quote=False, limit=200)
    arrays = open_arrays(path)
    found = chosen(arrays, names, groups, where)
    if not groups or (groups == ROW and ROW not in {array.name for array in arrays}):
        return [Features(str(path), array, None, each=bool(groups)) for array in found]
    labels = read_labels(groups, arrays, where)
    for array in found:
        if labels.shape not in {array.shape[:-1], array.shape[:1]}:
            raise ValueError(
                f"{where}: --groups has labels of shape {labels.shape}, and {shown(array.name)} "
                f"rows of shape {array.shape[:-1]}"
            )
    return [Features(str(path), array, labels) for array in found]


def accumulated(features: Features, precision: str | None = None) -> FeatureCovariance:
    """Return the covariance of features in a file, which is read in pieces.

    Raises
    ------
    ValueError
        If the values cannot be read, or are NaN or infinite.
    """
    covariance = FeatureCovariance(precision=precision)
    where = f"{features.source}: {shown(features.array.name)}"
    for values, labels in features.pieces():
        try:
            covariance.update(values, groups=labels)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return covariance
