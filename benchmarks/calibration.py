"""Calibration by simulation: coverage, false alarms, power and goodness of fit.

    python -m benchmarks.calibration [--fast | --full] [--only STAGE ...] [--write-docs]

Every stage is a module: it writes a CSV file into benchmarks/results and makes tables of it.
`--write-docs` writes the tables of docs/calibration.md from those files alone, and
`python -m figures` draws its pictures. Seeds are fixed: the same counts give the same numbers. Fast
takes about two minutes on one core, full about twenty.
"""

import argparse
import logging
import time

from threadpoolctl import threadpool_limits

from benchmarks import (
    _coverage,
    _coverage_tables,
    _goodness_of_fit,
    _minilm,
    _rank_statistics,
    _repeat,
    _sampled_matrices,
    _verdicts,
    kind,
    null_ladder,
    null_law,
    traps,
)
from benchmarks._pages import DOCS, table, write_tables

STAGES = {
    "coverage": _coverage.coverage,
    "matrices": _sampled_matrices.sampled_matrices,
    "ranks": _rank_statistics.rank_statistics,
    "verdicts": _verdicts.verdicts,
    "repeat": _repeat.repeat,
    "gof": _goodness_of_fit.gof,
    "minilm": _minilm.minilm,
}
MODULES = (
    *(_coverage_tables, null_law, null_ladder, _verdicts),
    *(_repeat, _goodness_of_fit, kind, _minilm, traps),
)

_log = logging.getLogger(__name__)


def tables():
    """Return the tables of docs/calibration.md."""
    key = _joined("key_numbers")
    counts = _joined("counts")
    joined = {
        "key": table(["quantity", "measured"], key.items()),
        "counts": table(["counts", ""], counts.items()),
    }
    return joined | {name: make() for module in MODULES for name, make in module.TABLES.items()}


def _joined(function):
    """Return the rows that the modules with such a function have for a table of all stages."""
    made = [getattr(module, function)() for module in MODULES if hasattr(module, function)]
    return {label: value for rows in made for label, value in rows.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--fast", action="store_true", help="a tenth of the spectra (the default)")
    size.add_argument("--full", action="store_true", help="the counts of the page")
    parser.add_argument("--only", nargs="*", choices=STAGES, help="these stages; none: only docs")
    parser.add_argument("--write-docs", action="store_true", help="write the tables of the page")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    chosen = list(STAGES) if arguments.only is None else arguments.only
    with threadpool_limits(1):
        for name in chosen:
            start = time.perf_counter()
            STAGES[name](arguments.full)
            _log.info("%s took %.0f s", name, time.perf_counter() - start)
    if arguments.write_docs:
        write_tables(DOCS / "calibration.md", tables())


if __name__ == "__main__":
    main()
