"""Labels of the rows of features: trials, sessions or samples that are independent of each other.

Without labels, rows are taken in `RUNS` runs of consecutive ones. Runs are nearly independent of
each other, also where each row depends on its neighbours, as those of a recording do.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specdiag.features.covariance import MAX_BLOCKS
from specdiag.features.files.array import Array
from specdiag.features.files.open import open_arrays
from specdiag.files import read_text
from specdiag.wording import shown, some

RUNS = MAX_BLOCKS
ROW = "row"  # each row is independent of all others
_TEXTS = (".txt", ".csv", ".tsv")
MAX_TEXT = 2**30  # bytes of a text file of labels

Labels = NDArray[np.generic]


def read_labels(groups: str, arrays: Sequence[Array], where: str) -> Labels:
    """Return the labels that `groups` names: an array of the file, or another file.

    A text file has one label a line, or is a table with a header in which `FILE:COLUMN` names a
    column. Any other file holds one array, or `FILE:NAME` names it.

    Raises
    ------
    ValueError
        If there is no such array or file, or it holds no labels.
    OSError
        If the file cannot be read.
    """
    for array in arrays:
        if array.name == groups:
            return _checked(array.read(), f"{where}: {shown(groups)}")
    path, name = Path(groups), ""
    if not path.exists() and ":" in groups:
        text, _, name = groups.rpartition(":")
        path = Path(text)
    if not path.exists():
        known = some([shown(array.name, quote=False) for array in arrays], 8) or "none"
        raise ValueError(
            f"{where}: --groups {shown(groups)} is neither an array in it (it has {known}), nor a "
            f"file, nor '{ROW}'"
        )
    if path.suffix.lower() in _TEXTS:
        texts = _of_text(path, name)
        try:  # the same labels as whole numbers in an array
            return np.array([int(text) for text in texts], dtype=object)
        except ValueError:
            return np.array(texts, dtype=object)
    others = open_arrays(path)
    named = [array for array in others if array.name == name or not name]
    if len(named) != 1:
        known = some([shown(array.name, quote=False) for array in others], 8) or "nothing"
        raise ValueError(f"{path}: it has {known}; --groups {path}:NAME tells which labels")
    return _checked(named[0].read(), str(path))


def _checked(values: np.ndarray, where: str) -> Labels:
    if values.dtype.kind not in "biufSUOT":
        raise ValueError(f"{where} is {values.dtype}: labels are whole numbers or texts")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"{where}: a label is missing (NaN)")
    if values.ndim == 0:
        raise ValueError(f"{where} is one value: expected a label for each sample")
    return values


def _of_text(path: Path, column: str) -> list[str]:
    text = read_text(path, MAX_TEXT)
    if not column:
        lines = text.splitlines()
        if any("," in line or "\t" in line for line in lines[:100]):
            raise ValueError(f"{path}: it has columns; --groups {path}:COLUMN tells which")
        return lines
    delimiter = "\t" if "\t" in text[:10_000] else ","
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    except csv.Error as error:
        raise ValueError(f"{path}: not a table: {error}") from None
    header, found = (rows[0], rows[1:]) if rows else ([], [])
    if header.count(column) != 1:
        known = some([shown(name, quote=False) for name in header], 8) or "nothing"
        raise ValueError(f"{path}: no column {shown(column)}; it has {known}")
    at = header.index(column)
    if any(len(row) <= at for row in found):
        raise ValueError(f"{path}: a line has no column {shown(column)}")
    return [row[at] for row in found]


def runs(start: int, stop: int, total: int) -> Labels:
    """Return the run of each of the entries `start` to `stop` of `total`."""
    return np.arange(start, stop) * RUNS // max(total, RUNS)
