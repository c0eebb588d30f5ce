"""Coverage, false alarms and power of `specdiag compare`, by simulation and with small networks.

    python -m benchmarks.compare [--full] [--only STAGE ...] [--write-docs]

Each stage writes its table into benchmarks/results/compare.csv. The stage `networks` trains the
networks that `recipes` and `contrasts` compare, and writes their alphas into compare_networks.csv.
`--write-docs` writes the tables of docs/compare.md from compare.csv. Seeds are fixed: the same
counts give the same numbers. Fast takes about three minutes on one core, full about nine.
"""

import argparse
import itertools
import logging
import time

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import _results
from benchmarks import _simulate as simulate
from benchmarks._pages import DOCS, table_of, write_tables
from benchmarks._seeds import contrasts, groups, networks, power, recipes
from specdiag.comparison.matrices import alpha_difference
from specdiag.comparison.means import layers_difference
from specdiag.htsr.tail.posterior import alpha_posterior

PAIRS = ((2.0, 2.0), (2.0, 2.5), (1.5, 3.0), (3.0, 2.0), (2.5, 3.5), (3.5, 3.5))
BODIES = (("none", 1.0), ("uniform", 0.5), ("bulk", 0.25), ("lognormal", 0.5))

_log = logging.getLogger(__name__)


def differences(full):
    """Measure the coverage of the interval of a layer's difference of alpha; the truth is known."""
    count = 100 if full else 20
    rows = []
    for n, (first, second), (body, share) in itertools.product((128, 512), PAIRS, BODIES):
        rng = np.random.default_rng([n, int(10 * first), int(10 * second), len(body)])
        spectra = [
            simulate.draw_spectra(rng, n, alpha, body, share, count)[0] for alpha in (first, second)
        ]
        measured = [
            alpha_difference(alpha_posterior(a), alpha_posterior(b))
            for a, b in zip(*spectra, strict=True)
        ]
        low, high = np.array([d.interval for d in measured]).T
        truth = second - first
        rows.append(
            {
                "eigenvalues": n,
                "alpha": f"{first:g}, {second:g}",
                "body": body,
                "in the tail": f"{share * n:.0f}",
                "coverage": f"{np.mean((low <= truth) & (truth <= high)):.1%}",
                "mean width": f"{np.mean(high - low):.2f}",
                "bias": f"{np.mean([d.value for d in measured]) - truth:+.3f}",
            }
        )
    return rows


def means(full):
    """Measure the coverage of the interval of the mean over layers, with blocks as the unit."""
    count = 100 if full else 20
    rows = []
    for n_blocks, mean in itertools.product((3, 6, 12), (0.0, 0.5, -0.5)):
        rng = np.random.default_rng([n_blocks, int(10 * abs(mean)), mean < 0])
        hits = []
        for _ in range(count):
            of_block = mean + 0.3 * rng.standard_normal(n_blocks)
            truth = (of_block[:, None] + 0.2 * rng.standard_normal((n_blocks, 4))).ravel()
            first = 2.5 + 0.4 * rng.random(len(truth))
            alphas = [
                np.array([_estimated(rng, alpha) for alpha in side])
                for side in (first, first + truth)
            ]
            blocks = np.repeat(np.arange(n_blocks), 4).tolist()
            _, (low, high) = layers_difference(*alphas, blocks)
            hits.append(low <= mean <= high)
        rows.append(
            {
                "blocks of 4 layers": n_blocks,
                "true mean difference": f"{mean:+.1f}",
                "coverage": f"{np.mean(hits):.1%}",
            }
        )
    return rows


def _estimated(rng, alpha):
    spectrum = simulate.draw_spectra(rng, 128, max(alpha, 1.2), "uniform", 0.5, 1)[0][0]
    return alpha_posterior(spectrum).mean


STAGES = {f.__name__: f for f in (differences, means, groups, power, networks, recipes, contrasts)}
TABLES = [name for name in STAGES if name != "networks"]


def _store(stage, rows):
    """Write the rows of a stage in place of its earlier ones: a line for each cell of its table."""
    kept = [row for row in _results.read("compare", text=COLUMNS) if row["stage"] != stage]
    lines = [
        {"stage": stage, "row": str(i), "column": column, "value": str(value)}
        for i, row in enumerate(rows)
        for column, value in row.items()
    ]
    order = list(STAGES)
    _results.write("compare", sorted([*kept, *lines], key=lambda row: order.index(row["stage"])))


COLUMNS = ("stage", "row", "column", "value")


def tables():
    """Return the tables of docs/compare.md."""
    cells = {}
    for line in _results.read("compare", text=COLUMNS):
        rows = cells.setdefault(line["stage"], {})
        rows.setdefault(line["row"], {})[line["column"]] = line["value"]
    return {name: table_of(list(cells[name].values())) for name in TABLES if name in cells}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the counts of the page")
    parser.add_argument("--only", nargs="*", choices=STAGES, default=list(STAGES))
    parser.add_argument("--write-docs", action="store_true", help="tables of docs/compare.md")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with threadpool_limits(1):
        for name in options.only:
            start = time.perf_counter()
            if rows := STAGES[name](options.full):
                _store(name, rows)
                print(f"\n{STAGES[name].__doc__}\n\n{table_of(rows)}", flush=True)
            _log.info("%s took %.0f s", name, time.perf_counter() - start)
    if options.write_docs:
        write_tables(DOCS / "compare.md", tables())


if __name__ == "__main__":
    main()
