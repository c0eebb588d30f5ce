"""How far alpha scatters when rows are drawn again, and the estimate of it from one matrix.

    python -m benchmarks.repeat [--full] [--write-docs]

Writes benchmarks/results/repeat.csv; `--write-docs` writes the tables of docs/calibration.md from
that file alone. Seeds are fixed: the same counts give the same numbers. Full takes about eight
minutes on one core.
"""

import argparse
import logging
import math
import time

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._pages import DOCS, table, write_tables
from benchmarks._populations import KINDS, cells, limit, population
from benchmarks._results import read, write
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


def measure(full):
    """Write one row for each kind of rows and shape."""
    rows = []
    for index, (half, kind, M, ratio) in enumerate(cells()):
        start = time.perf_counter()
        draws, matrices = (200, 20) if full else (10, 2)
        if full and M >= 384:
            draws, matrices = 100, 10
        rng = np.random.default_rng([7, index])
        draw = population(kind, M, rng)
        drawn = [draw(rng, ratio * M) for _ in range(draws)]
        posteriors = [posterior(W) for W in drawn]
        alpha = np.array([p.mean for p in posteriors])
        estimates = np.array([repeat_sd(W) for W in drawn[:matrices]])
        scatter = alpha.std(ddof=1)
        rows.append(
            {
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
                "ratio": float(np.exp(np.mean(np.log(estimates)))) / scatter,
                "rms_ratio": math.sqrt(np.mean(estimates**2)) / scatter,
                "log_sd": np.log(estimates).std(ddof=1),
            }
        )
        write("repeat", rows, digits=4)
        _log.info("%s, %d x %d: %.0f s", kind, ratio * M, M, time.perf_counter() - start)


def posterior(W):
    return alpha_posterior(esd.resolved_eigenvalues(esd.eigenvalues(W), W.shape, W.dtype))


def tables():
    """Return the tables of the section on repetition."""
    return {"repeat": by_kind(), "repeat-bar": bar(), "bias": bias()}


def by_kind():
    stored, rows = read("repeat", text=("half", "kind")), []
    for kind in dict.fromkeys(x["kind"] for x in stored):
        these = [x for x in stored if x["kind"] == kind]
        ratio = np.array([x["ratio"] for x in these])
        narrow = np.array([x["posterior_sd"] / x["scatter"] for x in these])
        estimate = f"{geometric_mean(ratio):.2f} ({ratio.min():.2f}–{ratio.max():.2f})"
        rows.append(
            [
                name_of(kind),
                these[0]["half"],
                f"{min(x['scatter'] for x in these):.2g}–{max(x['scatter'] for x in these):.2g}",
                f"{geometric_mean(narrow):.1f} ({narrow.min():.1f}–{narrow.max():.1f})",
                estimate if these[0]["half"] in KINDS else "–",
            ]
        )
    header = ["rows", "half", "scatter of alpha", "posterior sd / scatter"]
    return table([*header, "`alpha_repeat_sd` / scatter"], rows)


def bar():
    """Return the bar and what was measured, of each half."""
    stored, rows = read("repeat", text=("half", "kind")), []
    for half in KINDS:
        these = [x for x in stored if x["half"] == half]
        ratio = np.array([x["ratio"] for x in these])
        within = np.count_nonzero((ratio >= BAR[0]) & (ratio <= BAR[1]))
        error = np.mean([relative_error(x) for x in these])
        rows.append(
            [
                half,
                f"{within} of {len(these)}",
                f"{geometric_mean(ratio):.2f}",
                f"{ratio.min():.2f}–{ratio.max():.2f}",
                f"{100 * error:.0f} %",
                f"{100 * np.mean([x['log_sd'] for x in these]):.0f} %",
            ]
        )
    header = ["half", f"cells within {BAR[0]:g} to {BAR[1]:g}", "geometric mean", "range"]
    return table([*header, "standard error of a cell", "scatter of one estimate"], rows)


def relative_error(cell):
    """Return the standard error of the log of a cell's ratio."""
    return math.hypot(
        1 / math.sqrt(2 * cell["draws"]), cell["log_sd"] / math.sqrt(cell["matrices"])
    )


def bias():
    stored, rows = read("repeat", text=("half", "kind")), []
    known = [x for x in stored if not math.isnan(x["limit"])]
    for kind in dict.fromkeys(x["kind"] for x in known):
        these = [x for x in known if x["kind"] == kind]
        shifts = [f"{x['N']:.0f} × {x['M']:.0f}: {x['alpha'] - x['limit']:+.2f}" for x in these]
        rows.append([name_of(kind), f"{these[0]['limit']:g}", ", ".join(shifts)])
    return table(["rows", "exponent of large matrices", "mean alpha less it"], rows)


def geometric_mean(values):
    return float(np.exp(np.mean(np.log(values))))


def name_of(kind):
    name, _, parameter = kind.rpartition("-")
    return NAMES[name or kind].format(parameter)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the counts of the page")
    parser.add_argument("--write-docs", action="store_true", help="write the tables of the page")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with threadpool_limits(1):
        measure(arguments.full)
    if arguments.write_docs:
        write_tables(DOCS / "calibration.md", tables())


if __name__ == "__main__":
    main()
