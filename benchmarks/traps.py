"""False alarms and power of the traps of a permuted copy, and of localised singular vectors.

    python -m benchmarks.traps [--full] [--write-docs]

Random matrices, whose elements are independent: how many have a trap, and, of two families, a
localised vector. Another family has one large element. Seeds are fixed. A row for each family and
shape is stored in benchmarks/results/traps.csv, and `--write-docs` writes the table of
docs/calibration.md from what is stored. Fast takes about half a minute, full about ten.
"""

import argparse
import logging
import math
import zlib

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._pages import DOCS, table, write_tables
from benchmarks._results import read, write
from specdiag.htsr.bulk.localisation import localisation
from specdiag.htsr.bulk.traps import permuted_traps
from specdiag.htsr.esd import eigenvalues

PAGE = DOCS / "calibration.md"
COUNTS = {
    (60, 60): 1000,
    (700, 64): 600,
    (128, 384): 400,
    (512, 512): 200,
    (32, 32, 3, 3): 600,
}
FAST = 20

_log = logging.getLogger(__name__)


def _with_a_large_element(factor):
    def draw(rng, shape):
        W = rng.standard_normal(shape)
        W[(0,) * len(shape)] = factor * math.prod(shape[:2]) ** 0.25
        return W

    return draw


def _pruned(rng, shape):
    return rng.standard_normal(shape) * (rng.random(shape) < 0.1)


FAMILIES = {
    "Gaussian": lambda rng, shape: rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    "signs": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
    "lognormal 0.5, either sign": lambda rng, shape: (
        rng.lognormal(0, 0.5, shape) * rng.choice([-1.0, 1.0], shape)
    ),
    "exponential": lambda rng, shape: rng.standard_exponential(shape),
    "Student, 10 degrees": lambda rng, shape: rng.standard_t(10, shape),
    "Student, 6 degrees": lambda rng, shape: rng.standard_t(6, shape),
    "Student, 4 degrees": lambda rng, shape: rng.standard_t(4, shape),
    "Gaussian, 90 % zeros": _pruned,
    "one element of 1.5 times the limit": _with_a_large_element(1.5),
    "one element of twice the limit": _with_a_large_element(2),
}


def measured(name, shape, count):
    """Return the row of a family and shape."""
    traps, vectors = [], []
    for i in range(count):
        rng = np.random.default_rng([zlib.crc32(name.encode()), *shape, i])
        W = FAMILIES[name](rng, shape).astype(np.float32)
        traps.append(permuted_traps(W, eigenvalues(W), seed=i))
        if name in ("Gaussian", "Laplace"):
            vectors.append(localisation(W).n > 0)
    return {
        "family": name,
        "shape": "x".join(map(str, shape)),
        "count": count,
        "traps": float(np.mean([x.n > 0 for x in traps])),
        "median ratio": float(np.median([x.ratio for x in traps])),
        "localised": float(np.mean(vectors)) if vectors else math.nan,
    }


def by_family():
    """Return the table of the page: a row a family, a column a shape."""
    stored = {(row["family"], row["shape"]): row for row in read("traps", ("family", "shape"))}
    shapes = ["x".join(map(str, shape)) for shape in COUNTS]
    lines = [
        [name, *(_percent(stored[name, shape]["traps"]) for shape in shapes)] for name in FAMILIES
    ]
    lines += [
        [f"localised vectors, {name}"]
        + [_percent(stored[name, shape]["localised"]) for shape in shapes]
        for name in ("Gaussian", "Laplace")
    ]
    counts = [f"{shape} ({stored['Gaussian', shape]['count']:.0f})" for shape in shapes]
    return table(["elements", *counts], lines)


def _percent(share):
    return f"{100 * share:.1f}"


TABLES = {"traps": by_family}


def main():
    """Draw the matrices, and write the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="as many as the page shows")
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with threadpool_limits(1):
        rows = []
        for shape, count in COUNTS.items():
            for name in FAMILIES:
                rows.append(measured(name, shape, count if options.full else FAST))
                _log.info("%s", rows[-1])
    if options.full:
        write("traps", rows)
    if options.write_docs:
        write_tables(PAGE, {name: make() for name, make in TABLES.items()})


if __name__ == "__main__":
    main()
