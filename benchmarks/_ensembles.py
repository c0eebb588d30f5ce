"""Scatter of alpha over repeated matrices, beside the posterior of one."""

import logging
import math

import numpy as np

from benchmarks import _simulate as simulate
from benchmarks._coverage import inside
from benchmarks._pages import table
from benchmarks._results import read, write
from benchmarks._tables import column, mean_and_range, name_of
from specdiag.htsr import esd
from specdiag.htsr.tail.posterior import alpha_posterior
from specdiag.htsr.tail.power_law import fit_alpha

ENSEMBLES = (
    *("gaussian", "student-2", "student-4", "population-2", "population-3"),
    *("population-fixed-2", "population-fixed-3"),
)

_log = logging.getLogger(__name__)


def ensembles(full):
    """Write how far alpha scatters from matrix to matrix, and the posterior of one matrix."""
    count = 200 if full else 10
    rows = []
    for M in (128, 256, 512):
        for N in (M, 4 * M):
            for index, kind in enumerate(ENSEMBLES):
                rng = np.random.default_rng([4, N, M, index])
                spectra = [
                    esd.eigenvalues(simulate.draw_matrix(rng, kind, N, M)) for _ in range(count)
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


def key_numbers():
    """Return the rows of this stage in the table of the page's first section."""
    known = [x for x in read("ensembles") if not math.isnan(x["truth"])]
    ratio = column(known, "scatter") / column(known, "posterior_sd")
    label = "sd of the posterior mean over repeated matrices / posterior sd, range"
    return {label: f"{ratio.min():.2f}–{ratio.max():.2f}"}


def counts():
    return {"matrices an ensemble and shape": int(min(column(read("ensembles"), "count")))}


def scatter():
    stored = read("ensembles")
    rows = []
    for kind in dict.fromkeys(x["kind"] for x in stored):
        these = [x for x in stored if x["kind"] == kind]
        scatters, sds = column(these, "scatter"), column(these, "posterior_sd")
        ratio = scatters / sds
        covered = "–" if math.isnan(these[0]["truth"]) else mean_and_range(column(these, "covered"))
        rows.append(
            [
                name_of(kind),
                f"{scatters.mean():.2f}",
                f"{sds.mean():.2f}",
                f"{ratio.mean():.2f} ({ratio.min():.2f}–{ratio.max():.2f})",
                f"{column(these, 'ks_scatter').mean():.2f}",
                covered,
            ]
        )
    header = ["ensemble", "sd of posterior mean", "mean posterior sd", "ratio (range over shapes)"]
    return table([*header, "sd of KS alpha", "intervals that hold the limit, %"], rows)


def bias():
    stored = read("ensembles")
    shapes = list(dict.fromkeys((int(x["N"]), int(x["M"])) for x in stored))
    rows = []
    for kind in dict.fromkeys(x["kind"] for x in stored if not math.isnan(x["truth"])):
        these = {(x["N"], x["M"]): x for x in stored if x["kind"] == kind}
        cells = [
            f"{x['mean'] - x['truth']:+.2f} / {x['ks_mean'] - x['truth']:+.2f}"
            for x in (these[shape] for shape in shapes)
        ]
        rows.append([name_of(kind), f"{these[shapes[0]]['truth']:g}", *cells])
    return table(["ensemble", "alpha", *(f"{N} × {M}" for N, M in shapes)], rows)


TABLES = {"scatter": scatter, "bias": bias}
