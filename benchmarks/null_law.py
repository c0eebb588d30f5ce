"""The law of alpha for Gaussian matrices of any shape: draws over a design, fit, held-out check.

    python -m benchmarks.null_law --draws FOLDER [--full] [--part K/N] [--write-docs]

Spectra are drawn into the folder, one file a shape, so a run that was stopped goes on, and a
changed estimator of alpha needs no new draws. From them it writes specdiag/htsr/null/law.json and,
into benchmarks/results, null_law_design.csv (the moments of every shape of the design) and
null_law.csv (rates of p-values at shapes that were not fitted). `--full` takes about ten
minutes on one core. With `--part` it only draws every N-th shape, from the K-th on:
several processes share the work, and one without `--part` follows.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import numpy as np
from scipy.stats import kstest, skew
from threadpoolctl import threadpool_limits

from benchmarks._pages import DOCS, table, write_tables
from benchmarks._results import read, write
from specdiag.htsr.null import law
from specdiag.htsr.null.draws import gaussian_spectrum
from specdiag.htsr.tail.posterior import posterior_mean

LAW = Path(law.__file__).with_name("law.json")
SIZES = (46, 50, 56, 64, 80, 104, 140, 190, 270, 400, 600, 900, 1400, 2300, 4096, 8192)
RATIOS = (1.0, 1.1, 1.5, 3.0, 12.0, 400.0)
SIDES = (1, 2, 3, 6, 12, 32, 64, 128, 256, 512)  # of the slices of a kernel
SLICES = (3, 9, 25, 49, 256)
SLICE_RATIOS = (1.0, 2.5, 30.0)
HELD_OUT = (
    *((50, 50), (77, 77), (130, 65), (310, 300), (384, 96), (384, 384), (900, 700), (768, 768)),
    *((1000, 100), (1024, 256), (1536, 384), (1100, 1000), (3072, 768), (4500, 1500)),
    *((5000, 50), (20_000, 50), (24_000, 100), (50_000, 300), (100_000, 768)),
    *((2800, 2800), (11_008, 4096), (8192, 8192)),
)
HELD_OUT_KERNELS = (
    *((64, 3, 49), (96, 3, 121), (768, 3, 256), (80, 40, 9), (150, 140, 9), (512, 256, 9)),
    *((64, 20, 49), (300, 200, 3), (512, 512, 10), (128, 24, 5), (2048, 512, 9)),
)
ENOUGH = 1000  # draws, for a bar
MISSED = 0.03  # what the splines may miss of the mean, in standard deviations
# Knots in eigenvalues, and the powers of r = sqrt(M / N), of the terms of each moment.
MATRIX_TERMS = {
    "mean": [
        (0, (46, 64, 90, 140, 220, 350, 600, 1200, 3000, 8192)),
        *((power, (46, 90, 220, 700, 8192)) for power in (1, 2, 3, 4)),
    ],
    "log_sd": [(0, (46, 90, 220, 700, 8192)), (1, (46, 220, 8192)), (2, (46, 220, 8192))],
    "skewness": [(0, (46, 200, 8192)), (1, (46, 8192))],
}
KERNEL_TERMS = {
    "mean": [
        (0, (46, 90, 220, 700, 8192), (2, 6, 30, 300)),
        (1, (46, 220, 2000), (2, 12, 300)),
        (2, (46, 220, 2000), (2, 12, 300)),
    ],
    "log_sd": [(0, (46, 220, 2000), (2, 12, 300)), (1, (46, 2000), (2, 300))],
    "skewness": [(0, (46, 200, 8192), (2, 300)), (1, (46, 8192), (2, 300))],
}

_log = logging.getLogger(__name__)


def designs():
    """Return the shapes (N, M, slices) of each design."""
    kernels = [
        (round(side * ratio), side, count)
        for count in SLICES
        for side in SIDES
        for ratio in SLICE_RATIOS
        if law.SMALLEST <= side * count <= 8192
    ]
    return {
        "matrix": [(round(M * ratio), M, 1) for M in SIZES for ratio in RATIOS],
        "kernel": kernels,
        "held-out": [*((N, M, 1) for N, M in HELD_OUT), *HELD_OUT_KERNELS],
    }


def draw(folder, name, shapes, seconds, least, most):
    """Draw spectra of Gaussian matrices, for so many seconds of processor time a shape."""
    for N, M, slices in shapes:
        path = folder / name / f"{N}x{M}x{slices}.npy"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([name == "held-out", N, M, slices])
        start, spectra = time.process_time(), []
        while len(spectra) < most and (
            len(spectra) < least or time.process_time() - start < seconds
        ):
            spectra.append(gaussian_spectrum(rng, N, M, slices).astype(np.float32))
        np.save(path, spectra)
        _log.info("%s %s: %d draws", name, path.stem, len(spectra))


def load(folder, name):
    """Return log(alpha - 1) of the draws of a design, by their shape."""
    drawn = {}
    for N, M, slices in designs()[name]:
        spectra = np.load(folder / name / f"{N}x{M}x{slices}.npy").astype(np.float64)
        drawn[N, M, slices] = np.log([posterior_mean(values) - 1 for values in spectra])
    return drawn


def fit(drawn, terms):
    """Return the terms of a law with their coefficients, by weighted least squares."""
    N, M, slices = np.array(list(drawn), dtype=float).T
    count = np.array([len(y) for y in drawn.values()])
    mean = np.array([y.mean() for y in drawn.values()]) + np.log(tau(N, M))
    log_sd = np.log([y.std(ddof=1) for y in drawn.values()]) + 0.75 / count
    skewness = np.array([skew(y, bias=False) for y in drawn.values()])
    sds, fitted = _solve(terms["log_sd"], N, M, slices, log_sd, np.sqrt(2 * count))
    weight = np.exp(-fitted) / np.sqrt(1 / count + MISSED**2)
    return {
        "mean": _solve(terms["mean"], N, M, slices, mean, weight)[0],
        "log_sd": sds,
        "skewness": _solve(terms["skewness"], N, M, slices, skewness, np.sqrt(count / 6))[0],
    }


def _solve(terms, N, M, slices, target, weight):
    terms = [
        {"power": power, "knots": np.log(knots).tolist()}
        | ({"slice_knots": np.log(others[0]).tolist()} if others else {})
        for power, knots, *others in terms
    ]
    columns = [law.basis(term, N, M, slices) for term in terms]
    X = np.concatenate(columns, axis=1)
    solution = np.linalg.lstsq(X * weight[:, None], target * weight, rcond=1e-10)[0]
    ends = np.cumsum([c.shape[1] for c in columns])
    parts = np.split(solution, ends[:-1])
    made = [t | {"coefficients": p.tolist()} for t, p in zip(terms, parts, strict=True)]
    return made, X @ solution


def tau(N, M):
    return (N**-0.5 + M**-0.5) ** (1 / 3) / (N**0.5 + M**0.5)


def design_rows(drawn):
    """Return drawn and fitted moments of every shape of the design."""
    rows = []
    for (N, M, slices), y in drawn.items():
        mean, sd, skewness = law.moments((N, M, slices))
        rows.append(
            {
                "N": N,
                "M": M,
                "slices": slices,
                "count": len(y),
                "mean": y.mean(),
                "sd": y.std(ddof=1),
                "skewness": skew(y, bias=False),
                "fitted_mean": mean,
                "fitted_sd": sd,
                "fitted_skewness": skewness,
            }
        )
    return rows


def held_out_rows(drawn):
    """Return the rates of p-values of shapes that were not fitted, and their KS distances."""
    rows = []
    for (N, M, slices), y in sorted(drawn.items(), key=lambda x: (x[0][2] > 1, x[0][1], x[0][0])):
        p = np.array([law.p_value(1 + np.exp(value), (N, M, slices)) for value in y])
        test = kstest(p, "uniform")
        rates = {f"p{level:g}": np.mean(p <= level) for level in (0.05, 0.01, 0.001)}
        rows.append(
            {"N": N, "M": M, "slices": slices, "count": len(y)}
            | rates
            | {"ks": test.statistic, "ks_p": test.pvalue}
        )
    return rows


def key_numbers():
    """Return the rows of this benchmark in the table of the first section of calibration.md."""
    rows = [row for row in read("null_law") if row["count"] >= ENOUGH]
    made = {}
    for kind, these in (
        ("matrices", [row for row in rows if row["slices"] == 1]),
        ("kernels", [row for row in rows if row["slices"] > 1]),
    ):
        label = f"law of the null, held-out shapes of {kind} with {ENOUGH:,} draws or more"
        for level, low, high in ((0.05, 0.04, 0.06), (0.01, 0.007, 0.013)):
            rates = [row[f"p{level:g}"] for row in these]
            within = sum(low <= rate <= high for rate in rates)
            made[
                f"{label}: rate at {100 * level:g} %, range, within {100 * low:g}–{100 * high:g} %"
            ] = f"{100 * min(rates):.2f}–{100 * max(rates):.2f} %, {within} of {len(rates)}"
        distances = [row["ks"] for row in these]
        close = sum(x <= 0.05 for x in distances)
        made[f"{label}: KS distance, largest, within 0.05"] = (
            f"{max(distances):.3f}, {close} of {len(distances)}"
        )
    return made


def held_out():
    """Return the table of held-out shapes."""
    rows = []
    for x in read("null_law"):
        shape = f"{x['N']:.0f} × {x['M']:.0f}" + (
            f" × {x['slices']:.0f}" if x["slices"] > 1 else ""
        )
        rates = [f"{100 * x[key]:.{digits}f}" for key, digits in (("p0.05", 1), ("p0.01", 2))]
        rows.append([shape, int(x["count"]), *rates, f"{x['ks']:.3f}", f"{x['ks_p']:.2f}"])
    header = ["shape", "draws", "p ≤ 0.05, %", "p ≤ 0.01, %", "KS distance", "its p"]
    return table(header, rows)


TABLES = {"null-law": held_out}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=Path, required=True, help="folder of the draws")
    parser.add_argument("--full", action="store_true", help="1.5 s a shape of a matrix, not 0.1")
    parser.add_argument("--part", help="K/N: draw every N-th shape from the K-th on, and stop")
    parser.add_argument("--write-docs", action="store_true", help="write the table of the page")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    first, step = map(int, (arguments.part or "0/1").split("/"))
    seconds = {"matrix": 1.5, "kernel": 0.5, "held-out": 8}
    with threadpool_limits(1):
        for name, shapes in designs().items():
            limit = seconds[name] if arguments.full else 0.1
            most = 3000 if name == "held-out" else 500
            draw(arguments.draws, name, shapes[first::step], limit, 12, most)
    if arguments.part:
        return
    drawn = {name: load(arguments.draws, name) for name in designs()}
    made = {"matrix": fit(drawn["matrix"], MATRIX_TERMS)}
    made["kernel"] = fit(drawn["kernel"], KERNEL_TERMS)
    LAW.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    law.coefficients.cache_clear()
    write("null_law_design", design_rows(drawn["matrix"] | drawn["kernel"]))
    write("null_law", held_out_rows(drawn["held-out"]))
    if arguments.write_docs:
        write_tables(DOCS / "calibration.md", {name: make() for name, make in TABLES.items()})


if __name__ == "__main__":
    main()
