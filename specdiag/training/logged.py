"""`metrics.csv` of Lightning's CSVLogger -> readings of the matrices that the monitor logged."""

import csv
import io
import math
from pathlib import Path
from typing import Any

from specdiag.files import find_file, open_file, read_file
from specdiag.training.readings import Reading, read_readings
from specdiag.wording import is_text, shown

_LARGEST = 500_000_000  # bytes
_LONGEST_HEADER = 50_000_000
_LARGEST_NUMBER = 1e100
_PREFIX = "spectral/"  # of the columns of `SpectralMonitor`: spectral/LAYER/QUANTITY
_NOT_FINITE = f"{_PREFIX}not_finite"
_QUANTITIES = ("norm", "rank", "alpha", "alpha_low", "alpha_high", "stable_rank")


def is_logged(path: Path) -> bool:
    """Return whether a file has a column of a matrix in its header, as loggers write it."""
    with open_file(find_file(path)) as stream:
        return _PREFIX.encode() in stream.readline(_LONGEST_HEADER)


def read_table(path: Path) -> list[Reading]:
    """Return the readings of a `.spectra.csv`, or of the `metrics.csv` of a logger of Lightning.

    Raises
    ------
    ValueError
        If the file is neither: in one line that begins with the path.
    OSError
        If it cannot be read.
    """
    if not is_logged(path):
        return read_readings(path)
    content = read_file(path, _LARGEST)
    try:
        return _parsed(content.decode())
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from None


def _parsed(text: str) -> list[Reading]:
    rows = csv.DictReader(io.StringIO(text))
    header = list(rows.fieldnames or ())
    if "step" not in header:
        raise ValueError("column step is missing, which loggers of Lightning write")
    columns = {column: place for column in header if (place := _place(column))}
    if not columns:
        raise ValueError(f"no column such as {_PREFIX}LAYER/alpha, which the monitor logs")
    found: dict[tuple[int, str], dict[str, float]] = {}
    for i, row in enumerate(rows, 2):
        for layer in _not_finite(row, columns, f"line {i}"):
            found.setdefault((_step(row["step"], f"line {i}"), layer), {})
        for column, (layer, quantity) in columns.items():
            if text := row[column] or "":
                step = _step(row["step"], f"line {i}")
                found.setdefault((step, layer), {})[quantity] = _value(text, f"line {i}: {column}")
    return [_reading(step, layer, values) for (step, layer), values in found.items()]


def _not_finite(row: dict[str, str], columns: dict[str, tuple[str, str]], where: str) -> set[str]:
    """Return the layers whose values were not finite: they alone have no number in a reading.

    The monitor logs the norm of every other matrix, and how many were not finite so far.
    """
    n = row.get(_NOT_FINITE) or ""
    if not n:
        return set()
    layers = {layer for layer, _ in columns.values()}
    without = layers - {place[0] for column, place in columns.items() if row[column]}
    return without if len(without) <= _value(n, f"{where}: {_NOT_FINITE}") else set()


def _place(column: str) -> tuple[str, str] | None:
    """Return layer and quantity of a column, or None for one that is of no layer."""
    layer, _, quantity = column.removeprefix(_PREFIX).rpartition("/")
    is_of_layer = column.startswith(_PREFIX) and layer and is_text(layer)
    return (layer, quantity) if is_of_layer and quantity in _QUANTITIES else None


def _step(text: str | None, where: str) -> int:
    try:
        step = int(float(text or ""))
    except (ValueError, OverflowError):
        raise ValueError(f"{where}: step is {shown(text or '')}, not a number") from None
    if not 0 <= step <= 10**15:
        raise ValueError(f"{where}: step is {shown(text or '')}: no training has that")
    return step


def _value(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{where} is {shown(text)}, not a number") from None
    if not math.isnan(value) and not 0 <= value <= _LARGEST_NUMBER:
        raise ValueError(f"{where} is {shown(text)}: no measurement gives that")
    return value


def _reading(step: int, layer: str, values: dict[str, Any]) -> Reading:
    return Reading(step=step, name=layer, **values)
