"""Features with known spectra -> how often the intervals of FeatureCovariance hold the truth.

A cell is a spectrum, a way to sample, a width d and a number of samples n. Its row in
benchmarks/results/features.csv has, for each number, the coverage of its interval, the median ratio
of the ends, and the geometric mean of the estimate over the truth (for the condition number, of the
samples that give one). The lowest of many coverages is low by chance, so cells with one under 90 %
are repeated with new samples, in features_repeats.csv.
"""

import math

import numpy as np
from scipy.stats import entropy

from benchmarks._pages import table, table_of
from benchmarks._results import read, write
from specdiag.features.covariance import FeatureCovariance

NAMES = {
    "participation_ratio": "participation ratio",
    "effective_rank": "effective rank",
    "top1_fraction": "top-1",
    "top5_fraction": "top-5",
    "condition_number": "condition number",
    "trace": "trace",
}
TEXT = ("spectrum", "samples")


def _spiked(d):
    return np.concatenate([[50, 20, 10], np.ones(d - 3)])


SPECTRA = {
    "white": np.ones,
    "k^-0.5": lambda d: np.arange(1, d + 1) ** -0.5,
    "k^-1": lambda d: np.arange(1, d + 1) ** -1.0,
    "k^-2": lambda d: np.arange(1, d + 1) ** -2.0,
    "spiked": _spiked,
    "low rank": lambda d: np.where(np.arange(d) < d / 8, 1, 1e-3),
    "exponential": lambda d: np.exp(-8 * np.arange(d) / d),
    "two and equal tail": lambda d: np.concatenate([[1, 0.6], np.full(d - 2, 1e-6)]),
}
# Spectra on which the interval of the effective rank was chosen; the others are held out.
CHOSEN_ON = ("white", "k^-1", "low rank", "exponential")
# Ways to sample, with the values of n / d for each of the WIDTHS.
WIDTHS = (8, 64, 128, 384)
SAMPLES = {
    "independent": ((2, 10, 50), (0.5, 1, 2, 5, 10, 50), (0.5, 1, 2, 10), (0.5, 2)),
    "trials": ((50,), (2, 5, 10, 50), (5,), (5,)),
    "heavy tails": ((2, 10), (1, 5, 20), (2,), ()),
    "mixed memory": ((50,), (5, 20), (), ()),
    "trial offsets": ((50,), (5, 20), (), ()),
    "five trials": ((2.5,), (0.5, 2.5), (2.5,), ()),
    "unequal trials": ((50,), (5, 20), (5,), ()),
    "skewed": ((2, 10), (2, 10), (), ()),
}
COUNTS = (60, 40, 24, 16)  # samples of a cell for each width
REPEATS = (400, 100, 100, 40)  # new samples of a cell with a low coverage
LOW = 0.9


def cells(d):
    """Return the cells of a width: (spectrum, samples, n / d)."""
    place = WIDTHS.index(d)
    ratios = {way: by_width[place] for way, by_width in SAMPLES.items()}
    return [(name, way, ratio) for name in SPECTRA for way in SAMPLES for ratio in ratios[way]]


def sample(rng, values, way, n):
    """Return n features with a covariance of these eigenvalues, and the trial of each."""
    d, trial, memory = len(values), np.arange(n), np.zeros(len(values))
    x = rng.standard_normal((n, d))
    if way in ("trials", "five trials"):
        trial = trial // 25 if way == "trials" else trial * 5 // n
        memory[:] = 0.8
    elif way == "mixed memory":  # long in the first directions
        trial, memory = trial // 25, np.linspace(0.97, 0.3, d)
    elif way == "unequal trials":
        trial = np.repeat(np.arange(n), rng.integers(2, 60, n))[:n]
        memory[:] = 0.8
    elif way == "trial offsets":  # half of the variance
        trial = trial // 25
        x = math.sqrt(0.5) * (x + rng.standard_normal((n, d))[trial])
    elif way == "heavy tails":  # multivariate t with 5 degrees of freedom
        x /= np.sqrt(rng.chisquare(5, (n, 1)) / 3)
    elif way == "skewed":
        x = rng.exponential(size=(n, d)) - 1
    if memory.any():
        new = np.sqrt(1 - memory**2)
        for row in np.flatnonzero(np.diff(trial) == 0) + 1:
            x[row] = memory * x[row - 1] + new * x[row]
    return x * np.sqrt(values), trial


def truths(values):
    share = values / values.sum()
    return {
        "participation_ratio": 1 / float(share @ share),
        "effective_rank": math.exp(entropy(share)),
        "top1_fraction": float(share[0]),
        "top5_fraction": float(share[:5].sum()),
        "condition_number": float(values[0] / values[-1]),
        "trace": float(values.sum()),
    }


def measured(name, way, d, ratio, count, first=0):
    """Return the row of a cell, from the samples `first` to `first` + `count`."""
    values = np.asarray(SPECTRA[name](d), dtype=np.float64)
    truth, n = truths(values), round(ratio * d)
    results = []
    for i in range(first, first + count):
        rng = np.random.default_rng([i, d, n, list(SAMPLES).index(way)])
        x, trial = sample(rng, values, way, n)
        seen = FeatureCovariance()
        seen.update(x, groups=trial)
        results.append(seen.result())
    row = {"spectrum": name, "samples": way, "d": d, "n / d": ratio, "count": count}
    row["blocks"] = float(np.median([r.n_blocks for r in results]))
    row["n_effective / n"] = float(np.median([r.n_effective for r in results])) / n
    for key in NAMES:
        ends = np.array([getattr(r, f"{key}_interval") for r in results])
        estimate = np.array([getattr(r, key) for r in results])
        near = 1e-9 * truth[key]
        covered = (ends[:, 0] <= truth[key] + near) & (ends[:, 1] >= truth[key] - near)
        row[key] = float(covered.mean())
        row[f"{key} width"] = float(np.median(ends[:, 1] / ends[:, 0]))
        known = estimate[np.isfinite(estimate)] / truth[key]
        row[f"{key} / truth"] = float(np.exp(np.log(known).mean())) if len(known) else math.nan
    row["impossible"] = float(sum(_is_impossible(r, key, d) for r in results for key in NAMES))
    plain = [truths(np.maximum(r.eigenvalues, 1e-300))["effective_rank"] for r in results]
    row["sample effective rank / truth"] = float(np.mean(plain)) / truth["effective_rank"]
    return row


def _is_impossible(result, key, d):
    """Return whether an interval leaves what is possible, or does not contain its estimate."""
    value, (low, high) = getattr(result, key), getattr(result, f"{key}_interval")
    least = {"trace": 0, "top1_fraction": 1 / d, "top5_fraction": min(1, 5 / d)}.get(key, 1)
    most = {"effective_rank": d, "participation_ratio": d, "top1_fraction": 1, "top5_fraction": 1}
    possible = least * (1 - 1e-9) <= low <= high <= most.get(key, math.inf) * (1 + 1e-9)
    without_value = math.isnan(value) and high == math.inf
    return not (possible and (without_value or low <= value <= high))


def rows(file="features"):
    """Return the rows of a file, sorted."""
    return sorted(read(file, text=TEXT), key=_place)


def simulate(d, count, log):
    """Measure the cells of a width that have no row of as many samples yet."""
    for name, way, ratio in cells(d):
        cell = (name, way, d, ratio)
        if any(_cell(row) == cell and row["count"] >= count for row in rows()):
            continue
        row = measured(name, way, d, ratio, count)
        write("features", sorted([r for r in rows() if _cell(r) != cell] + [row], key=_place))
        log("%s", cell)


def repeat(log):
    """Measure the cells with a low coverage again, each with new samples."""
    again = {_cell(row): row for row in rows("features_repeats")}
    low = [_cell(row) for row in rows() if min(row[key] for key in NAMES) < LOW]
    for cell in low:
        count = REPEATS[WIDTHS.index(cell[2])]
        if cell not in again or again[cell]["count"] < count:
            again[cell] = measured(cell[0], cell[1], int(cell[2]), cell[3], count, first=1000)
            write(
                "features_repeats", sorted((again[key] for key in again if key in low), key=_place)
            )
            log("again %s", cell)


def _cell(row):
    return row["spectrum"], row["samples"], row["d"], row["n / d"]


def _place(row):
    name, way, d, ratio = _cell(row)
    return WIDTHS.index(d), list(SPECTRA).index(name), list(SAMPLES).index(way), ratio


def tables(stored, again):
    """Return the tables of docs/features.md, from the rows of cells and of their repeats."""
    by = {}
    for row in stored:
        by.setdefault((row["samples"], row["d"]), []).append(row)
    parts = {(way, f"{d:.0f}"): by[way, d] for way in SAMPLES for d in WIDTHS if (way, d) in by}
    chosen_on = [row for row in stored if row["spectrum"] in CHOSEN_ON]
    parts[", ".join(CHOSEN_ON), "all"] = chosen_on
    parts["the other spectra", "all"] = [row for row in stored if row not in chosen_on]
    parts["all", "all"] = stored
    parts["those below 90, repeated so far", "all"] = again
    shown = [
        row
        for row in stored
        if (row["samples"], row["d"]) in {("independent", 64), ("trials", 64)}
        and row["n / d"] in (1, 2, 5, 10)
    ]
    return {
        "bars": _bars(stored, again) if stored else "",
        "coverage": table_of([_coverage(*key, some) for key, some in parts.items() if some]),
        "estimates": table_of([_estimate(row) for row in shown]),
    }


def _bars(stored, again):
    """Return a table of what the intervals promise, and what they keep."""

    def percent(some, summary, digits):
        return [f"{100 * summary([row[key] for row in some]):.{digits}f}" for key in NAMES]

    every = [*stored, *again]
    intervals = f"{len(NAMES) * int(sum(row['count'] for row in every)):,}"
    wrong = f"{sum(row['impossible'] for row in every):.0f}"
    blank = [""] * len(NAMES)
    rows = [
        ["lowest coverage of a cell, at least 88", *percent(stored, min, 0)],
        ["mean coverage, at least 93", *percent(stored, np.mean, 1)],
        ["bias from n = d on, at most 15 %", "", _bias(stored), *blank[2:]],
        [f"impossible or without its estimate: 0 of {intervals}", f"{wrong} in all", *blank[1:]],
    ]
    if again:
        new = f"the same of {len(again)} cells with one below 90, repeated with new samples"
        rows.insert(1, [new, *percent(again, min, 1)])
    return table(["bar", *NAMES.values()], rows)


def _bias(some):
    """Return the extremes of the effective rank over the truth, less 1, in cells from n = d on."""
    bias = [100 * (row["effective_rank / truth"] - 1) for row in some if row["n / d"] >= 1]
    return f"{min(bias):+.0f} to {max(bias):+.0f}" if bias else "-"


def _coverage(way, d, some):
    """Return the lowest and the mean coverage of some cells."""
    covered = {name: [100 * row[key] for row in some] for key, name in NAMES.items()}
    counts = sorted({int(row["count"]) for row in some})
    return {
        "sampling or spectra": way,
        "d": d,
        "cells": len(some),
        "samples": f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}",
        **{name: f"{min(c):.0f} / {np.mean(c):.1f}" for name, c in covered.items()},
        "bias of effective rank": _bias(some),
    }


def _estimate(row):
    """Return estimates over the truth, and ratios of the ends of intervals, of a cell."""

    def ratio(value):
        return f"{value:.2f}" if value < 10 else f"{value:,.0f}" if value < math.inf else "no upper"

    condition = row["condition_number / truth"]
    return {
        "spectrum": row["spectrum"],
        "sampling": row["samples"],
        "n / d": f"{row['n / d']:g}",
        "n_effective / n": f"{row['n_effective / n']:.2f}",
        "effective rank of the sample": f"{row['sample effective rank / truth']:.2f}",
        "effective rank": f"{row['effective_rank / truth']:.2f}",
        "effective rank, high / low": ratio(row["effective_rank width"]),
        "participation ratio": f"{row['participation_ratio / truth']:.2f}",
        "participation ratio, high / low": ratio(row["participation_ratio width"]),
        "condition number": "-" if math.isnan(condition) else f"{condition:.2f}",
        "condition number, high / low": ratio(row["condition_number width"]),
    }
