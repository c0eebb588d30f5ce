"""Calibration of the feature covariance: noise floor, coverage of its intervals, sampling scatter.

    python -m benchmarks.features [--full] [--write-docs]

Prints the tables of docs/features.md; `--write-docs` writes them into the page. Seeds are fixed.
Coverage is stored in benchmarks/results/features.csv, a row for each cell; cells that have a row of
as many samples are not repeated. Fast takes a few minutes on one core, full about an hour.
"""

import argparse
import itertools
import logging
import math
import time
from collections import Counter

import ml_dtypes
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import _rounded_network as rounded
from benchmarks._feature_coverage import COUNTS, WIDTHS, repeat, rows, simulate
from benchmarks._feature_coverage import tables as coverage_tables
from benchmarks._pages import DOCS, table, write_tables
from specdiag.features.conditioning import noise_floor
from specdiag.features.covariance import FeatureCovariance

PAGE = DOCS / "features.md"
PRECISIONS = ("float32", "tf32", "bfloat16")
ROWS = 2000
# The decades of the condition number at which a precision starts to be wrong.
DECADES = {"float32": range(9, 18), "tf32": range(5, 15), "bfloat16": range(3, 12)}

# d = 128, one a level of UnitDropout (off, standard, aggressive): cond, trace, top1_frac, published
# beside the checkpoints in aug_full_results.jsonl (all weights trained) and aug_results.jsonl (core
# frozen).
PUBLISHED = {
    ("trained", "off"): (1122105856165.022, 40158.322925992274, 0.6276165114040583),
    ("trained", "standard"): (876831297350.2703, 42794.532072727176, 0.5486896730900361),
    ("trained", "aggressive"): (434348143246.994, 33717.255652476466, 0.5564021421290194),
    ("frozen", "off"): (1909769363129.1387, 36954.87295655337, 0.6089941987932215),
    ("frozen", "standard"): (2165571068519.1272, 36786.458088236875, 0.6327327013373537),
    ("frozen", "aggressive"): (1641762994729.6724, 37911.66260794585, 0.6226952463573657),
}

_log = logging.getLogger(__name__)


def passes(design, precision, seed=0, rows=ROWS):
    """Return the true features of a network and those of a precision."""
    rng = np.random.default_rng(seed)
    exact = ml_dtypes.bfloat16 if precision == "bfloat16" else np.float32
    net = rounded.network(rng, dtype=exact, **design)
    x = rng.standard_normal((rows, len(net.stem))).astype(exact).astype(np.float64)
    return [rounded.features(net, x, how) for how in ("float64", precision)]


def measured(x, precision):
    seen = FeatureCovariance(precision=precision)
    for part in np.array_split(x, 50):
        seen.update(part)
    return seen.result()


def condition(values):
    return float(values[0] / values[-1])


def floor_line(full):
    """Return a table of one network at growing condition numbers, read in every precision."""
    rows = []
    for decade in range(4, 17, 1 if full else 4):
        cells = []
        for precision in PRECISIONS:
            design = {"kind": "residual", "condition": 10.0**decade}
            true, seen = passes(design, precision)
            result = measured(seen, precision)
            if precision == "float32":
                cells += [f"{condition(rounded.spectrum(true)):.1e}"]
            cells += [f"{result.condition_number_published:.1e}", result.condition_number_text]
        rows.append(cells)
    header = ["true", *itertools.chain(*([f"read in {p}", "specdiag says"] for p in PRECISIONS))]
    return table(header, rows)


def arithmetic(full):
    """Return a table of errors of a float64 covariance with eigenvalues 1 and (nearly) 0."""
    rows = []
    for d in (16, 64, 128, 384) if full else (16, 64):
        errors = []
        for seed, (share, mean) in enumerate(itertools.product((0.01, 0.5), (0, 30))):
            rng = np.random.default_rng(seed)
            values = np.where(np.arange(d) < max(1, share * d), 1, 1e-18)
            rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
            x = (rng.standard_normal((4 * ROWS, d)) * np.sqrt(values)) @ rotation + mean
            exact = rounded.spectrum(x)
            error = np.abs(measured(x, "float64").eigenvalues - exact)[values < 1].max()
            errors.append(error / (exact[0] * np.finfo(np.float64).eps))
        rows.append([d, f"{max(errors):.1f}", f"{2 * math.sqrt(d):.1f}"])
    return table(["d", "largest error / (eps64 lambda_1)", "floor / (eps64 lambda_1)"], rows)


def floor_counts(full):
    """Return a table of how often the reading is wrong, and how often flagged, over networks."""
    rows = []
    for precision in PRECISIONS:
        counts = Counter()
        conditions = [10.0**k for k in DECADES[precision]][:: 1 if full else 3]
        for seed, design in enumerate(rounded.designs(conditions, (6, 24) if full else (6,))):
            true, seen = passes(design, precision, seed, ROWS // 2)
            result = measured(seen, precision)
            ratio = result.condition_number_published / condition(rounded.spectrum(true))
            wrong, far = not 1 / 2 < ratio < 2, not 1 / 10 < ratio < 10
            counts[wrong, result.condition_number_is_bound] += 1
            counts["far"] += far
        wrong, right = (counts[k, True] + counts[k, False] for k in (True, False))
        flagged = [f"{counts[True, True]} of {wrong}", f"{counts[False, True]} of {right}"]
        rows.append([precision, wrong + right, counts["far"], *flagged])
        _log.info("%s done", precision)
    header = [
        "precision",
        "networks",
        "wrong tenfold",
        "flagged where wrong",
        "flagged where right",
    ]
    return table(header, rows)


def coverage(full):
    """Return the tables of intervals and estimates, after measuring what is not stored yet."""
    for d, count in zip(WIDTHS, COUNTS, strict=True):
        if full or d <= 64:
            simulate(d, count if full else 10, _log.info)
    if full:
        repeat(_log.info)
    return coverage_tables(rows(), rows("features_repeats"))


def scatter(full):
    """Return a table of the scatter of condition numbers: by sample, and by network."""
    repeats = 20 if full else 4
    design = {"kind": "residual", "condition": 1e11}
    rows = []
    net = rounded.network(np.random.default_rng(0), **design)
    for n in (500, 2000, 8000):
        logs = [_log_condition(net, seed, n) for seed in range(repeats)]
        rows.append([f"samples of {n:,} independent rows, one network", *_spread(logs)])
    nets = [rounded.network(np.random.default_rng(seed), **design) for seed in range(repeats)]
    logs = [_log_condition(net, 0, 2000) for net in nets]
    rows.append(["random initialisations, 2,000 rows", *_spread(logs)])
    header = ["what varies", "sd of log", "95 % range of the ratio of two"]
    return table(header, rows)


def _log_condition(net, seed, n):
    x = np.random.default_rng([7, seed]).standard_normal((n, len(net.stem)))
    return math.log(condition(rounded.spectrum(rounded.features(net, x, "float64"))))


def _spread(logs):
    sd = float(np.std(logs, ddof=1))
    factor = math.exp(1.96 * math.sqrt(2) * sd)
    return f"{sd:.3f}", f"1/{factor:.2f} to {factor:.2f}"


def published_side(_full):
    """Return a table of which precision resolves the published condition numbers.

    The features are taken to have no mean.
    """
    rows = []
    for (arm, level), (cond, trace, top1) in PUBLISHED.items():
        largest, cells = top1 * trace, [arm, level, f"{cond:.2e}"]
        # With eigenvalues of zero the floor is that of the forward pass; float64 is that of the
        # covariance.
        for precision, scale in (
            ("float32", 0),
            ("tf32", 0),
            ("bfloat16", 0),
            ("float64", largest),
        ):
            values = np.full(128, float(scale))
            floor, _ = noise_floor(values, second_moment=trace / 128, precision=precision)
            limit = largest / floor
            cells.append(f"{limit:.1e}: {'resolved' if cond < limit else '**not resolved**'}")
        rows.append(cells)
    header = ["weights", "UnitDropout", "published", "float32", "TF32", "bfloat16"]
    return table([*header, "float64 covariance"], rows)


TABLES = {
    "floor-line": floor_line,
    "floor-counts": floor_counts,
    "arithmetic": arithmetic,
    "published": published_side,
    "scatter": scatter,
    "coverage": coverage,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the counts of the page")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--write-docs", action="store_true", help="write the tables into the page")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with threadpool_limits(1):
        for name in arguments.only:
            start = time.perf_counter()
            made = TABLES[name](arguments.full)
            tables = made if isinstance(made, dict) else {name: made}
            _log.info("%s took %.0f s", name, time.perf_counter() - start)
            for title, text in tables.items():
                print(f"\n{title}\n{text}")
            if arguments.write_docs:
                write_tables(PAGE, tables)


if __name__ == "__main__":
    main()
