"""How often the goodness of fit rejects true tails, and others."""

import logging

import numpy as np

from benchmarks import _simulate as simulate
from benchmarks._pages import table
from benchmarks._results import read, write
from benchmarks._tables import NAMES, column, rate
from specdiag.htsr.tail.goodness_of_fit import goodness_of_fit
from specdiag.htsr.verdict import MIN_GOF_P

_log = logging.getLogger(__name__)


def gof(full):
    """Write how often the goodness of fit rejects true tails, and others."""
    count = 400 if full else 20
    rows = []
    for n in simulate.SIZES:
        for index, (case, alpha, draw) in enumerate(simulate.gof_cases(n, count)):
            spectra = draw(np.random.default_rng([5, n, index]))
            p = np.array([goodness_of_fit(x, seed=i) for i, x in enumerate(spectra)])
            rejected = np.mean(p < MIN_GOF_P)
            rows.append(
                {"case": case, "alpha": alpha, "n": n, "count": len(p), "rejected": rejected}
            )
        _log.info("gof %d", n)
    write("gof", rows)


def counts():
    return {"spectra a case of goodness of fit": int(min(column(read("gof"), "count")))}


def rejections():
    cases = read("gof")
    rows = []
    for case, alpha in dict.fromkeys((x["case"], str(x["alpha"])) for x in cases):
        these = [x for x in cases if x["case"] == case and str(x["alpha"]) == alpha]
        cells = [rate(x["rejected"], x["count"]) for x in these]
        known = "no power law" if alpha == "nan" else f"{float(alpha):g}"
        name = f"{case} : 1" if case.startswith("gaussian") else NAMES.get(case, case)
        rows.append([name, known, *cells])
    return table(["body, or case", "alpha", *(f"n = {n}" for n in simulate.SIZES)], rows)


TABLES = {"gof": rejections}
