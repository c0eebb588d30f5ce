"""Calibration of the feature covariance: noise floor, coverage of its intervals, sampling scatter.

    python -m benchmarks.features [--full] [--write-docs]

Prints the tables of docs/features.md. With `--full` what is measured is stored in
benchmarks/results/features*.csv, and `--write-docs` writes the tables of all that is stored into
the page. Seeds are fixed. Cells of the coverage that have a row of as many samples are not
repeated. Fast takes a few minutes on one core, full about half an hour.
"""

import argparse
import logging
import time

from threadpoolctl import threadpool_limits

from benchmarks import _feature_floor as floor
from benchmarks._feature_coverage import COUNTS, WIDTHS, repeat, rows, simulate
from benchmarks._feature_coverage import tables as coverage_tables
from benchmarks._pages import DOCS, write_tables

PAGE = DOCS / "features.md"
STAGES = (*floor.STAGES, "coverage")

_log = logging.getLogger(__name__)


def coverage(full):
    """Measure the coverage of intervals where it is not stored yet, and return the tables."""
    for d, count in zip(WIDTHS, COUNTS, strict=True):
        if full or d <= 64:
            simulate(d, count if full else 10, _log.info)
    if full:
        repeat(_log.info)
    return "\n\n".join(coverage_tables(rows(), rows("features_repeats")).values())


def tables():
    """Return the tables of docs/features.md, from what is stored."""
    return floor.tables() | coverage_tables(rows(), rows("features_repeats"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the counts of the page")
    parser.add_argument("--only", nargs="*", choices=STAGES, default=list(STAGES))
    parser.add_argument("--write-docs", action="store_true", help="write the tables into the page")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with threadpool_limits(1):
        for stage in arguments.only:
            start = time.perf_counter()
            full = arguments.full
            text = coverage(full) if stage == "coverage" else floor.simulate(stage, full)
            _log.info("%s took %.0f s", stage, time.perf_counter() - start)
            print(f"\n{stage}\n{text}")
    if arguments.write_docs:
        write_tables(PAGE, tables())


if __name__ == "__main__":
    main()
