"""Readings of matrices while a network trains <-> tables.

`.spectra.csv` is the table that specdiag writes: a row for each matrix and step.
"""

import csv
import io
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from specdiag.files import read_file
from specdiag.outputs import write_output
from specdiag.wording import csv_cell, is_text, shown


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One matrix after one step: Frobenius norm, rank, posterior mean of alpha, its 95 % interval.

    All numbers are NaN if some values are not finite; alpha is NaN also if the rank is too low to
    fit. The stable rank is the squared ratio of Frobenius and spectral norm.
    """

    step: int
    name: str
    norm: float = math.nan
    rank: float = math.nan
    alpha: float = math.nan
    alpha_low: float = math.nan
    alpha_high: float = math.nan
    stable_rank: float = math.nan


_KINDS: dict[str, Any] = {field.name: field.type for field in fields(Reading)}
_ADDED = "stable_rank"  # tables of earlier versions do not have it
_EXPECTED = ", ".join(name for name in _KINDS if name != _ADDED)
_LARGEST = 100_000_000  # bytes: a million readings
_LARGEST_NUMBER = 1e100


def write_readings(path: Path, readings: list[Reading], *, overwrite: bool = False) -> None:
    """Write readings as CSV: a header, and a row for each; names are those of `csv_cell`.

    A file that is no such table raises FileExistsError, unless `overwrite` is true.
    """
    text = io.StringIO()
    rows = csv.DictWriter(text, _KINDS)
    rows.writeheader()
    for r in readings:
        rank = r.rank if math.isnan(r.rank) else int(r.rank)
        rows.writerow(asdict(r) | {"name": csv_cell(r.name), "rank": rank})
    write_output(path, text.getvalue().encode(), overwrite=overwrite)


def read_readings(path: Path) -> list[Reading]:
    """Return the readings of a CSV file that `write_readings` wrote.

    Raises
    ------
    ValueError
        If the file is not such a table: in one line that begins with the path.
    OSError
        If it cannot be read.
    """
    content = read_file(path, _LARGEST)
    try:
        return _parsed(content.decode())
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path}: {error}; expected the columns {_EXPECTED} of a .spectra.csv"
        ) from None


def _parsed(text: str) -> list[Reading]:
    rows = csv.DictReader(io.StringIO(text))
    for name in _KINDS:
        if name not in (rows.fieldnames or ()) and name != _ADDED:
            raise ValueError(f"column {name} is missing")
    return [_reading(row, f"line {i}") for i, row in enumerate(rows, 2)]


def _reading(row: dict[str, str | None], where: str) -> Reading:
    values: dict[str, Any] = {}
    for name, kind in _KINDS.items():
        text = row.get(name, "nan" if name == _ADDED else None) or ""
        try:
            values[name] = kind(text)
        except ValueError:
            raise ValueError(f"{where}: {name} is {shown(text)}, not a number") from None
        is_missing = kind is float and math.isnan(values[name])
        if kind is not str and not is_missing and not 0 <= values[name] <= _LARGEST_NUMBER:
            raise ValueError(f"{where}: {name} is {shown(text)}: no measurement gives that")
    if not values["name"] or not is_text(values["name"]):
        raise ValueError(f"{where}: no name of a matrix")
    return Reading(**values)
