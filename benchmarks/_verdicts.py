"""Verdicts of whole matrices: false alarms, power, and the p-values of random matrices."""

import logging
from collections import Counter

import numpy as np
from scipy.stats import kstest

from benchmarks import _simulate as simulate
from benchmarks._pages import table
from benchmarks._results import read, write
from benchmarks._tables import column, name_of, percent, rate
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.htsr.layers import matrices, measure
from specdiag.htsr.tail.power_law import fit_alpha
from specdiag.htsr.verdict import MAX_Q, MAX_SHORT_TAIL, MIN_GOF_P, VERDICTS, with_verdicts

SIZES = (64, 128, 256, 512)
ASPECTS = (1, 2, 4, 16)

_log = logging.getLogger(__name__)


def verdicts(full):
    """Write the verdicts of whole matrices, one at a time: false alarms and power."""
    random_count, heavy_count, draws = (200, 40, 500) if full else (10, 4, 100)
    rows, p_values = [], []
    kinds = (*simulate.NO_TAIL, *simulate.HEAVY, *simulate.OTHER)
    for N, M in shapes():
        ks_draws = ks_null(N, M, draws)
        for index, kind in enumerate(kinds):
            count = random_count if kind in simulate.NO_TAIL[:2] else heavy_count
            rng = np.random.default_rng([3, N, M, index])
            layers = [layer_of(simulate.draw_matrix(rng, kind, N, M), i) for i in range(count)]
            words = Counter(layer.verdict for layer in layers)
            p = np.array([layer.null_p for layer in layers])
            if kind in simulate.NO_TAIL[:2]:
                p_values += [{"kind": kind, "N": N, "M": M, "null_p": float(x)} for x in p]
            rows.append(
                {
                    "kind": kind,
                    "N": N,
                    "M": M,
                    "count": count,
                    "heavy": np.mean(p <= MAX_Q),
                    "heavy_ks": np.mean([ks_p(x, ks_draws) <= MAX_Q for x in layers]),
                    "gof_rejects": np.mean([x.gof_p < MIN_GOF_P for x in layers]),
                    "short_tail": np.mean(
                        [x.posterior.short_tail > MAX_SHORT_TAIL for x in layers]
                    ),
                    "alpha": float(np.mean([x.posterior.mean for x in layers])),
                    "ks_alpha": float(np.median([x.tail.alpha for x in layers])),
                    **{word: words[word] / count for word in VERDICTS},
                }
            )
        _log.info("verdicts %d x %d", N, M)
    write("verdicts", rows)
    write("null_p", p_values)


def shapes():
    return [(aspect * M, M) for M in SIZES for aspect in ASPECTS]


def ks_null(N, M, count):
    """Return sorted alphas, of least Kolmogorov-Smirnov distance, of Gaussian matrices."""
    spectra = simulate.gaussian_spectra(np.random.default_rng([6, N, M]), N, M, count)
    return np.sort([fit_alpha(x).alpha for x in spectra])


def ks_p(layer, draws):
    """Return the p-value of the alpha of least Kolmogorov-Smirnov distance, from sorted draws."""
    return (1 + np.searchsorted(draws, layer.tail.alpha, side="right")) / (1 + len(draws))


def layer_of(W, seed):
    """Return one matrix with its verdict, measured alone: its null_q is its null_p."""
    return with_verdicts(measure(matrices(open_checkpoint({"W": W})), seed=seed))[0]


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
        p = [x["null_p"] for x in read("null_p") if x["kind"] == kind]
        label = f"`null_p` of {kind} matrices: KS test of uniformity"
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


def false_alarms():
    rows = []
    p_values = read("null_p")
    for kind in simulate.NO_TAIL:
        for aspect in (1, 2, 4, 16):
            these = [x for x in read("verdicts") if x["kind"] == kind and x["N"] == aspect * x["M"]]
            count = column(these, "count")
            p = [x["null_p"] for x in p_values if x["kind"] == kind and x["N"] == aspect * x["M"]]
            uniform = uniformity(p) if p else "–"
            cells = []
            for key in ("heavy", "power law"):
                share = np.average(column(these, key), weights=count)
                cells += [rate(share, count.sum()), percent(column(these, key).max())]
            rows.append([kind, aspect, int(count.sum()), *cells, uniform])
    header = ["matrix", "N/M", "matrices", "`null_p` ≤ 0.05, %", "worst M", "*power law*, %"]
    return table([*header, "worst M", "uniformity"], rows)


def power():
    stored = read("verdicts")
    rows = []
    for kind in (*simulate.HEAVY, *simulate.OTHER):
        cells = []
        for M in SIZES:
            these = [x for x in stored if x["kind"] == kind and x["M"] == M]
            shares = [f"{100 * column(these, k).mean():.0f}" for k in ("heavy", "power law")]
            cells.append(" / ".join(shares))
        these = [x for x in stored if x["kind"] == kind]
        ks = f"{100 * column(these, 'heavy_ks').mean():.0f}"
        rows.append([name_of(kind), *cells, f"{100 * column(these, 'heavy').mean():.0f}", ks])
    header = ["matrix", *(f"M = {M}" for M in SIZES)]
    return table([*header, "posterior mean, all M", "KS alpha, all M"], rows)


def by_shape():
    heavy = [x for x in read("verdicts") if x["kind"] in simulate.HEAVY]
    rows = []
    for M in SIZES:
        cells = []
        for aspect in (1, 2, 4, 16):
            these = [x for x in heavy if x["M"] == M and x["N"] == aspect * M]
            shares = [f"{100 * column(these, k).mean():.0f}" for k in ("power law", "too few")]
            cells.append(" / ".join(shares))
        rows.append([M, *cells])
    return table(["M", *(f"N/M = {aspect}" for aspect in (1, 2, 4, 16))], rows)


def words():
    stored = read("verdicts")
    rows = []
    for kind in (*simulate.NO_TAIL, *simulate.HEAVY, *simulate.OTHER):
        these = [x for x in stored if x["kind"] == kind]
        shares = [f"{100 * column(these, word).mean():.0f}" for word in VERDICTS]
        rows.append([name_of(kind), int(column(these, "count").sum()), *shares])
    return table(["matrix", "matrices", *VERDICTS], rows)


TABLES = {
    "false-alarms": false_alarms,
    "power": power,
    "by-shape": by_shape,
    "words": words,
}
