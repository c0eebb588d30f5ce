"""Rows of results <-> CSV files in benchmarks/results."""

import csv
import io
from pathlib import Path

FOLDER = Path(__file__).with_name("results")


def read(name, text=()):
    """Return the rows of NAME.csv, none if it is missing.

    Numbers are floats and empty cells NaN, but for the columns in `text`, which stay as they are.
    """
    path = FOLDER / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {key: cell if key in text else _value(cell) for key, cell in row.items()}
            for row in csv.DictReader(file)
        ]


def _value(cell):
    try:
        return float(cell or "nan")
    except ValueError:
        return cell


def write(name, rows, digits=6):
    """Write NAME.csv with the columns of the first row; floats have so many significant digits."""
    FOLDER.mkdir(exist_ok=True)
    text = _text(list(rows[0]), rows, digits, header=True)
    (FOLDER / f"{name}.csv").write_text(text, encoding="utf-8")


def append(name, rows, columns, digits=6):
    """Append rows to NAME.csv in one write; cells that a row does not have are empty."""
    path = FOLDER / f"{name}.csv"
    text = _text(columns, rows, digits, header=not path.exists())
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _text(columns, rows, digits, *, header):
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: f"{v:.{digits}g}" if isinstance(v, float) else v for k, v in row.items()}
        )
    return file.getvalue()
