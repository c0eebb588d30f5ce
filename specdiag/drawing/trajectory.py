""".spectra.csv of a training -> alpha, norm and rank of every matrix by step."""

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.training.readings import Reading, read_readings
from specdiag.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Spectra while training"


def read(path: Path) -> dict[str, Any]:
    """Return the columns of a table that `specdiag.SpectralMonitor` wrote, as arrays.

    Raises
    ------
    ValueError
        If the file is not such a table, or has no readings: in one line that begins with the path.
    OSError
        If it cannot be read.
    """
    readings = read_readings(path)
    if not readings:
        raise ValueError(f"{path}: it has no readings; the network has no matrix to measure")
    return {f.name: np.array([getattr(r, f.name) for r in readings]) for f in fields(Reading)}


def plot(table: Mapping[str, Any]) -> "Figure":
    """Return alpha with its interval, norm and rank relative to the first reading, by step.

    A line a matrix, coloured by its place in the file. A matrix that has an alpha at first and none
    at the end is red, and a cross marks its last alpha.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    rows = _rows(table)
    scale = Normalize(1, max(len(rows), 2))
    figure = Figure(figsize=(6, 7), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    for k, mine in enumerate(rows, 1):
        step, alpha, low, high, norm, rank = _lines(table, mine)
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
    bar = figure.colorbar(ScalarMappable(scale, "cividis"), ax=[top, middle, bottom], aspect=40)
    bar.set_label("place of the matrix in the file")
    return figure


def _rows(table: Mapping[str, Any]) -> list[Any]:
    """Return the rows of each matrix in the order of the steps."""
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(table["name"].tolist()):
        rows.setdefault(name, []).append(i)
    return [
        mine[np.argsort(table["step"][mine], kind="stable")]
        for mine in map(np.array, rows.values())
    ]


def _lines(table: Mapping[str, Any], mine: Any) -> list[Any]:
    """Return step, alpha, its interval, norm and rank of the rows of one matrix."""
    columns = ("step", "alpha", "alpha_low", "alpha_high", "norm", "rank")
    return [table[column][mine].astype(float) for column in columns]


def _lost(alpha: Any) -> bool:
    """Return whether a matrix has an alpha at first and none at the end: its rank has collapsed."""
    return bool(np.isfinite(alpha).any()) and math.isnan(alpha[-1])


def caption(table: Mapping[str, Any]) -> str:
    """Return what is drawn: the matrices, the steps, and how many lost their alpha."""
    rows = _rows(table)
    lost = sum(_lost(_lines(table, mine)[1]) for mine in rows)
    steps = sorted(set(table["step"]))
    return (
        f"Posterior mean of α with its 95 % interval, Frobenius norm and rank of "
        f"{counted(len(rows), 'matrix', 'matrices')} at {counted(len(steps), 'step')} from "
        f"{steps[0]:,.0f} to {steps[-1]:,.0f}; norm and rank are relative to the first reading. "
        f"{lost} lost their α on the way (red): their rank fell below the gate."
    )
