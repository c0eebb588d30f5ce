"""Files of features -> accumulated covariances, one for each array."""

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from specdiag.features.covariance import FeatureCovariance
from specdiag.features.files.array import NAMELESS, Array, is_features
from specdiag.features.files.labels import ROW, Labels, read_labels, runs
from specdiag.features.files.open import chosen, open_arrays
from specdiag.wording import one_line, shown


class Features(NamedTuple):
    """Features in a file: an array, and the group of each row."""

    source: str
    array: Array
    labels: Labels | None  # of the rows, or of the entries of the first axis; None without any
    each: bool = False  # whether each row is a group

    @property
    def grouping(self) -> str:
        """What the groups are, in words."""
        if self.labels is not None:
            return "groups as given"
        if self.each:
            return "each sample is a group"
        if len(self.array.shape) > 2:
            return "each entry of the first axis is a group; --groups row makes each sample one"
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
                elif self.each:
                    size = prod(values.shape[1:-1])
                    numbers = np.arange(start * size, stop * size)
                    yield values, numbers.reshape(values.shape[:-1])
                elif values.ndim > 2:
                    yield values, np.arange(start, stop)
                else:
                    yield values, runs(start, stop, total)
                start = stop
        except (ValueError, OSError, MemoryError) as error:
            raise ValueError(
                f"{self.source}: {shown(self.array.name)}: {one_line(error)}"
            ) from None


def features_of(values: Any, source: str, groups: Any = None) -> Features:
    """Return an array or tensor in memory as features; groups are labels, 'row' or None.

    Raises
    ------
    ValueError
        If it has fewer than two axes, or another number of labels than rows.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        precision = str(values.dtype).removeprefix("torch.")
        if precision == "bfloat16":  # a dtype that torch does not hand over to NumPy
            from ml_dtypes import bfloat16

            values = values.float().numpy().astype(bfloat16)
        else:
            values = values.numpy()
    elif np.ma.isMaskedArray(values):
        raise ValueError(f"{source}: a masked array; give only the samples that count")
    else:
        values = np.asarray(values)
        precision = values.dtype.name
    array = Array(
        NAMELESS,
        values.shape,
        precision,
        lambda n: (values[i : i + n] for i in range(0, len(values), n)),
    )
    if not is_features(array) or 0 in array.shape:
        raise ValueError(f"{source}: {array}: features have shape (samples, d) or more axes")
    if groups is None or (isinstance(groups, str) and groups == ROW):
        return Features(source, array, None, each=groups is not None)
    labels = np.asarray(groups)
    if not labels.ndim:
        raise ValueError(f"{source}: groups is {groups!r}: expected labels of its rows, or 'row'")
    return _labelled(source, [array], labels)[0]


def open_features(path: Path, names: Sequence[str] = (), groups: Any = None) -> list[Features]:
    """Return the features in a file, without reading them yet.

    Parameters
    ----------
    path : Path
    names : sequence of str
        Names or patterns of arrays in the file; without any, the only one with features.
    groups : str or array, optional
        What the groups of the rows are: an array in the file, another file, or 'row' if every row
        is independent of all others; or labels. Without, see `Features.grouping`.

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
    named = groups if isinstance(groups, str) else ""
    found = chosen(arrays, names, named, where)
    if groups is None or _is_row(named, arrays) or (isinstance(groups, str) and not groups):
        return [Features(str(path), array, None, each=bool(named)) for array in found]
    labels = read_labels(named, arrays, where) if named else np.asarray(groups)
    return _labelled(str(path), found, labels, named)


def _is_row(groups: str, arrays: Sequence[Array]) -> bool:
    return groups == ROW and ROW not in {array.name for array in arrays}


def _labelled(
    source: str, found: Sequence[Array], labels: Labels, named: str = ""
) -> list[Features]:
    where = shown(source, quote=False, limit=200)
    groups = f"{shown(named, quote=False, limit=200)} " if named else ""
    for array in found:
        rows = array.shape[:-1]
        if labels.shape not in {rows, array.shape[:1]}:
            raise ValueError(
                f"{where}: the groups {groups}have labels of shape {labels.shape}, and "
                f"{shown(array.name)} rows of shape {rows}"
            )
    return [Features(source, array, labels) for array in found]


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
        except (ValueError, MemoryError) as error:
            raise ValueError(f"{where}: {str(error) or 'too little memory'}") from None
    return covariance
