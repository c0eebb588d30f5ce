""".spectra.csv of a training -> alpha, norm and rank of every matrix by step."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.wording import counted, is_text, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Spectra while training"
_NUMBERS = ("step", "norm", "rank", "alpha", "alpha_low", "alpha_high")
_LARGEST = 100_000_000  # bytes: a million readings


def read(path: Path) -> dict[str, Any]:
    """Return the columns of a table that `specdiag.htsr.monitor.SpectralMonitor` wrote, as arrays.

    Raises
    ------
    ValueError
        If the file is not such a table: in one line that begins with the path.
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(_LARGEST)
    try:
        return _columns(content.decode())
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path}: {error}; expected the columns name, {', '.join(_NUMBERS)} of a .spectra.csv"
        ) from None


def _columns(text: str) -> dict[str, Any]:
    rows = csv.DictReader(io.StringIO(text))
    columns: dict[str, list[Any]] = {name: [] for name in ("name", *_NUMBERS)}
    for name in columns:
        if name not in (rows.fieldnames or ()):
            raise ValueError(f"column {name} is missing")
    for i, row in enumerate(rows, 2):
        if row["name"] is None or not is_text(row["name"]):
            raise ValueError(f"line {i}: no name of a matrix")
        columns["name"].append(row["name"])
        for name in _NUMBERS:
            columns[name].append(_number(row[name], f"line {i}: {name}"))
    if not columns["name"]:
        raise ValueError("it has no readings")
    return {name: np.array(values) for name, values in columns.items()}


def _number(text: str | None, where: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise ValueError(f"{where} is {shown(text or '')}, not a number") from None


def plot(table: Mapping[str, Any]) -> "Figure":
    """Return alpha with its interval, norm and rank relative to the first reading, by step.

    A line a matrix, coloured by its place in the file. A matrix that has an alpha at first and none
    at the end is red, and a cross marks its last alpha.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(table["name"]))
    scale = Normalize(1, max(len(names), 2))
    figure = Figure(figsize=(6, 7), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    for k, name in enumerate(names, 1):
        step, alpha, low, high, norm, rank = _lines(table, name)
        color = "#d55e00" if _lost(alpha) else colormaps["cividis"](scale(k))
        top.fill_between(step, low, high, color=color, alpha=0.06, linewidth=0)
        top.plot(step, alpha, color=color, linewidth=1)
        middle.plot(step, norm / (norm[0] or np.nan), color=color, linewidth=1)
        bottom.plot(step, rank / (rank[0] or np.nan), color=color, linewidth=1)
        if _lost(alpha):
            last = np.flatnonzero(np.isfinite(alpha))[-1]
            top.plot(step[last], alpha[last], "x", color=color, label="_lost")
    top.set(ylabel="α (posterior mean)")
    middle.set(ylabel="norm / first norm")
    if middle.get_ylim()[0] < 0.1:  # some shrank far more than weights that learn do
        middle.set_yscale("log")
    bottom.set(ylabel="rank / first rank", xlabel="training step")
    bottom.set_ylim(bottom=0)
    figure.colorbar(
        ScalarMappable(scale, "cividis"),
        ax=[top, middle, bottom],
        label="place of the matrix in the file",
        aspect=40,
    )
    return figure


def _lines(table: Mapping[str, Any], name: str) -> list[Any]:
    """Return step, alpha, its interval, norm and rank of one matrix in the order of the steps."""
    mine = np.flatnonzero(table["name"] == name)
    mine = mine[np.argsort(table["step"][mine], kind="stable")]
    columns = ("step", "alpha", "alpha_low", "alpha_high", "norm", "rank")
    return [table[column][mine].astype(float) for column in columns]


def _lost(alpha: Any) -> bool:
    """Return whether a matrix has an alpha at first and none at the end: its rank has collapsed."""
    return bool(np.isfinite(alpha).any()) and math.isnan(alpha[-1])


def caption(table: Mapping[str, Any]) -> str:
    """Return what is drawn: the matrices, the steps, and how many lost their alpha."""
    names = list(dict.fromkeys(table["name"]))
    lost = sum(_lost(_lines(table, name)[1]) for name in names)
    steps = sorted(set(table["step"]))
    return (
        f"Posterior mean of α with its 95 % interval, Frobenius norm and rank of "
        f"{counted(len(names), 'matrix', 'matrices')} at {counted(len(steps), 'step')} from "
        f"{steps[0]:,.0f} to {steps[-1]:,.0f}; norm and rank are relative to the first reading. {lost} lost their α "
        "on the way (red): their rank fell below the gate."
    )
