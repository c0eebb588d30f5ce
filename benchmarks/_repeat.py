"""How far alpha scatters when rows are drawn again, and the estimate of it from one matrix."""

import logging
import math
import time

import numpy as np

from benchmarks._pages import table
from benchmarks._populations import KINDS, cells, limit, population
from benchmarks._results import read, write
from benchmarks._tables import column
from specdiag.htsr import esd
from specdiag.htsr.repeat import repeat_sd
from specdiag.htsr.tail.posterior import alpha_posterior

BAR = (0.8, 1.25)  # of the estimate over the scatter
NAMES = {
    "gaussian": "Gaussian entries",
    "uniform": "uniform entries",
    "power": "population power law {}",
    "drawn": "population drawn once, power law {}",
    "lognormal": "lognormal population, log-sd {}",
    "planted": "{} planted directions",
    "rows-student": "rows of Student's t, {} degrees of freedom",
    "rows-lognormal": "lognormal row scales, log-sd {}",
    "entries-student": "entries of Student's t, {} degrees of freedom",
    "anew": "population drawn anew with every matrix, power law {}",
}

_log = logging.getLogger(__name__)


def repeat(full):
    """Write one row for each kind of rows and shape."""
    rows = []
    for index, place in enumerate(cells()):
        start = time.perf_counter()
        rows.append(cell(index, *place, full=full))
        _log.info("%s: %.0f s", place, time.perf_counter() - start)
    write("repeat", rows, digits=4)


def cell(index, half, kind, M, ratio, *, full):
    """Return the row of one kind of rows and shape."""
    draws, matrices = (10, 2) if not full else (200, 20) if M < 384 else (100, 10)
    rng = np.random.default_rng([7, index])
    draw = population(kind, M, rng)
    drawn = [draw(rng, ratio * M) for _ in range(draws)]
    posteriors = [posterior(W) for W in drawn]
    alpha = np.array([p.mean for p in posteriors])
    estimates = np.array([repeat_sd(W) for W in drawn[:matrices]])
    scatter = alpha.std(ddof=1)
    return {
        "half": half,
        "kind": kind,
        "N": ratio * M,
        "M": M,
        "draws": draws,
        "matrices": matrices,
        "limit": limit(kind),
        "alpha": alpha.mean(),
        "scatter": scatter,
        "posterior_sd": float(np.mean([p.sd for p in posteriors])),
        "ratio": geometric_mean(estimates) / scatter,
        "rms_ratio": math.sqrt(np.mean(estimates**2)) / scatter,
        "log_sd": np.log(estimates).std(ddof=1),
    }


def posterior(W):
    return alpha_posterior(esd.resolved_eigenvalues(esd.eigenvalues(W), W.shape, W.dtype))


def key_numbers():
    """Return the rows of this stage in the table of the page's first section."""
    label = f"`alpha_repeat_sd` over the scatter of alpha, cells within {BAR[0]:g} to {BAR[1]:g}"
    return {f"{label}, {half}": within_bar(in_half(half)) for half in KINDS}


def by_kind():
    rows = []
    for kind, these in grouped(stored()).items():
        narrow = column(these, "posterior_sd") / column(these, "scatter")
        scatter, half = column(these, "scatter"), these[0]["half"]
        rows.append(
            [
                name_of(kind),
                half,
                f"{scatter.min():.2g}–{scatter.max():.2g}",
                f"{geometric_mean(narrow):.1f} ({narrow.min():.1f}–{narrow.max():.1f})",
                mean_and_range(column(these, "ratio")) if half in KINDS else "–",
                mean_and_range(column(these, "rms_ratio")) if half in KINDS else "–",
            ]
        )
    header = ["rows", "half", "scatter of alpha", "posterior sd / scatter"]
    return table([*header, "`alpha_repeat_sd` / scatter", "root mean square / scatter"], rows)


def bar():
    """Return the bar and what was measured, of each half."""
    rows = []
    for half in KINDS:
        these = in_half(half)
        errors = np.hypot(
            1 / np.sqrt(2 * column(these, "draws")),
            column(these, "log_sd") / np.sqrt(column(these, "matrices")),
        )
        rows.append(
            [
                half,
                within_bar(these),
                mean_and_range(column(these, "ratio")),
                f"{100 * errors.mean():.0f} %",
                f"{100 * column(these, 'log_sd').mean():.0f} %",
            ]
        )
    header = ["half", f"cells within {BAR[0]:g} to {BAR[1]:g}", "geometric mean and range"]
    return table([*header, "standard error of a cell", "scatter of a single estimate"], rows)


def bias():
    rows = []
    for kind, these in grouped(x for x in stored() if not math.isnan(x["limit"])).items():
        shifts = [f"{x['N']:.0f} × {x['M']:.0f}: {x['alpha'] - x['limit']:+.2f}" for x in these]
        rows.append([name_of(kind), f"{these[0]['limit']:g}", ", ".join(shifts)])
    return table(["rows", "exponent of large matrices", "mean alpha less it"], rows)


def stored():
    return read("repeat", text=("half", "kind"))


def in_half(half):
    return [cell for cell in stored() if cell["half"] == half]


def grouped(rows):
    """Return the cells of each kind."""
    groups = {}
    for cell in rows:
        groups.setdefault(cell["kind"], []).append(cell)
    return groups


def within_bar(rows):
    ratio = column(rows, "ratio")
    return f"{np.count_nonzero((ratio >= BAR[0]) & (ratio <= BAR[1]))} of {len(ratio)}"


def mean_and_range(ratio):
    return f"{geometric_mean(ratio):.2f} ({ratio.min():.2f}–{ratio.max():.2f})"


def geometric_mean(values):
    return float(np.exp(np.mean(np.log(values))))


def name_of(kind):
    name, _, parameter = kind.rpartition("-")
    return NAMES[name or kind].format(parameter)


TABLES = {"repeat": by_kind, "repeat-bar": bar, "bias": bias}
