"""Verdicts of whole matrices: false alarms, power, and the p-values of random matrices."""

import logging
from collections import Counter

import numpy as np
from scipy.stats import kstest

from benchmarks import _simulate as simulate
from benchmarks._pages import table
from benchmarks._results import read, write
from benchmarks._tables import column, name_of, percent
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.htsr.measure import measure
from specdiag.htsr.null.verdicts import VERDICTS
from specdiag.htsr.selection import matrices
from specdiag.htsr.verdict import MAX_Q, MAX_SHORT_TAIL, with_verdicts

SIZES = (64, 128, 256, 512)
ASPECTS = (1, 4)
# Populations get random axes: those along the axes of the matrix are column scales.
POPULATIONS = tuple(kind for kind in simulate.HEAVY if kind.startswith("population"))
ROTATED = (*POPULATIONS, "spiked")

_log = logging.getLogger(__name__)


def verdicts(full):
    """Write the verdicts of whole matrices, one at a time: false alarms and power."""
    random_count, heavy_count = (200, 40) if full else (10, 4)
    rows, p_values = [], []
    kinds = (*simulate.NO_TAIL, *simulate.HEAVY, *simulate.OTHER)
    for N, M in shapes():
        axes = np.linalg.qr(np.random.default_rng([6, M]).standard_normal((M, M)))[0]
        for index, kind in enumerate(kinds):
            count = random_count if kind in simulate.NO_TAIL[:2] else heavy_count
            rng = np.random.default_rng([3, N, M, index])
            layers = []
            for seed in range(count):
                W = simulate.draw_matrix(rng, kind, N, M)
                layers.append(layer_of(W @ axes if kind in ROTATED else W, seed))
            words = Counter(layer.verdict for layer in layers)
            if kind in simulate.NO_TAIL[:2]:
                shape = {"kind": kind, "N": N, "M": M}
                p_values += [shape | {"gaussian_p": float(x.gaussian_p)} for x in layers]
            short = [x.posterior.short_tail > MAX_SHORT_TAIL for x in layers]
            rows.append(
                {
                    "kind": kind,
                    "N": N,
                    "M": M,
                    "count": count,
                    "heavy": np.mean([x.null_p <= MAX_Q for x in layers]),
                    "short_tail": np.mean(short),
                    "alpha": float(np.mean([x.posterior.mean for x in layers])),
                    **{word: words[word] / count for word in VERDICTS},
                }
            )
        _log.info("verdicts %d x %d", N, M)
    write("verdicts", rows)
    write("null_p", p_values)


def shapes():
    return [(aspect * M, M) for M in SIZES for aspect in ASPECTS]


def layer_of(W, seed):
    """Return one matrix with its verdict, measured alone: its null_q is its null_p."""
    layers = measure(matrices(open_checkpoint({"W": W.astype(np.float32)})), gof=False, seed=seed)
    return with_verdicts(layers)[0]


def key_numbers():
    """Return the rows of this stage in the table of the page's first section."""
    rows = {}
    for kind in simulate.NO_TAIL:
        these = [x for x in read("verdicts") if x["kind"] == kind]
        share, count = column(these, "power law"), column(these, "count")
        label = (
            f"verdict *power law* on {kind} matrices ({count.sum():.0f}), and on the worst shape"
        )
        rows[label] = f"{percent(np.average(share, weights=count))} %, {percent(share.max())} %"
    for kind in simulate.NO_TAIL[:2]:
        p = [x["gaussian_p"] for x in read("null_p") if x["kind"] == kind]
        label = f"`gaussian_p` of {kind} matrices: KS test of uniformity"
        rows[label] = uniformity(p)
    return rows


def counts():
    rows = read("verdicts")
    random = [x["count"] for x in rows if x["kind"] in simulate.NO_TAIL[:2]]
    heavy = [x["count"] for x in rows if x["kind"] in simulate.HEAVY]
    return {
        "Gaussian and uniform matrices a shape": int(min(random)),
        "heavy-tailed and other matrices a shape": int(min(heavy)),
    }


def uniformity(p):
    p_value = kstest(p, "uniform").pvalue
    return f"p = {p_value:.3f}" if p_value >= 0.001 else "p < 0.001"


def power():
    stored = read("verdicts")
    rows = []
    for kind in (*simulate.HEAVY, *simulate.OTHER):
        cells = []
        for M in SIZES:
            these = [x for x in stored if x["kind"] == kind and x["M"] == M]
            shares = [f"{100 * column(these, k).mean():.0f}" for k in ("heavy", "power law")]
            cells.append(" / ".join(shares))
        rows.append([name_of(kind), *cells])
    return table(["matrix", *(f"M = {M}" for M in SIZES)], rows)


def by_shape():
    heavy = [x for x in read("verdicts") if x["kind"] in POPULATIONS]
    rows = []
    for M in SIZES:
        cells = []
        for aspect in ASPECTS:
            these = [x for x in heavy if x["M"] == M and x["N"] == aspect * M]
            shares = [f"{100 * column(these, k).mean():.0f}" for k in ("power law", "too few")]
            cells.append(" / ".join(shares))
        rows.append([M, *cells])
    return table(["M", *(f"N/M = {aspect}" for aspect in ASPECTS)], rows)


def words():
    stored = read("verdicts")
    rows = []
    for kind in (*simulate.NO_TAIL, *simulate.HEAVY, *simulate.OTHER):
        these = [x for x in stored if x["kind"] == kind]
        shares = [f"{100 * column(these, word).mean():.0f}" for word in VERDICTS]
        rows.append([name_of(kind), int(column(these, "count").sum()), *shares])
    return table(["matrix", "matrices", *VERDICTS], rows)


TABLES = {
    "power": power,
    "by-shape": by_shape,
    "words": words,
}
