"""Tables of docs/calibration.md, from the CSV files that `benchmarks.calibration` writes."""

import math

import numpy as np
from scipy.stats import kstest

from benchmarks import _simulate as simulate
from benchmarks._pages import table
from benchmarks._results import read
from specdiag.htsr.verdict import VERDICTS

BAR = (0.92, 0.98)
METHODS = ("specdiag", "weightwatcher", "wwj")
ENOUGH = 30  # eigenvalues in the tail, expected
SIZES = (64, 128, 256, 512)

NAMES = {
    "none": "none (power law throughout)",
    "uniform": "uniform",
    "exponential": "exponential, continuous",
    "exponential-csn": "exponential, smooth (Clauset et al.)",
    "bulk": "separated Marchenko-Pastur bulk",
    "lognormal": "lognormal, smooth",
    "lognormal-cut": "lognormal, cut at xmin",
    "log-uniform": "log-uniform (exponent 1)",
    "two-humps": "two humps",
    "triangular": "triangular",
    "lognormal-far": "lognormal far below xmin",
    "lognormal-columns": "lognormal column scales",
    "spiked": "five spikes on a Gaussian bulk",
}


def tables():
    """Return the tables of docs/calibration.md."""
    return {name: make() for name, make in TABLES.items()}


def column(rows, key):
    return np.array([row[key] for row in rows], dtype=float)


def percent(share):
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def rate(share, count):
    """Return a percentage with its standard error; no hits have the error of one hit."""
    at_least = min(max(share, 1 / count), 1 - 1 / count)
    error = math.sqrt(at_least * (1 - at_least) / count)
    return f"{percent(share)} ± {100 * error:.1f}"


def uniformity(p):
    p_value = kstest(p, "uniform").pvalue
    return f"p = {p_value:.3f}" if p_value >= 0.001 else "p < 0.001"


def mean_and_range(values):
    return f"{percent(values.mean())} ({percent(values.min())}–{percent(values.max())})"


def name_of(kind):
    name, _, parameter = kind.rpartition("-")
    return {
        "student": f"Student's t, {parameter} degrees of freedom",
        "population": f"population power law {parameter}",
        "population-fixed": f"fixed population {parameter}",
    }.get(name, NAMES.get(kind, kind))


def main_cells(*, long):
    return [x for x in read("coverage") if x["group"] == "main" and (x["tail"] >= ENOUGH) == long]


def relative_widths(cells):
    """Return the mean width of every method, over the cells where it has an interval."""
    oracle = column(cells, "oracle_width")
    return [f"{np.nanmean(column(cells, f'{m}_width') / oracle):.2f}" for m in METHODS]


def outside(rows):
    return [x for x in rows if not BAR[0] <= x["specdiag"] <= BAR[1]]


def key_numbers():
    cells = main_cells(long=True)
    rows = {}
    for method in METHODS:
        values = column(cells, method)
        within = np.sum((values >= BAR[0]) & (values <= BAR[1]))
        label = f"coverage of {method}'s 95 % interval: mean, range, cells within 92–98 %"
        rows[label] = f"{mean_and_range(values)} %, {within} of {len(cells)}"
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
    known = [x for x in read("ensembles") if not math.isnan(x["truth"])]
    ratio = column(known, "scatter") / column(known, "posterior_sd")
    label = "sd of the posterior mean over repeated matrices / posterior sd, range"
    rows[label] = f"{ratio.min():.2f}–{ratio.max():.2f}"
    return table(["quantity", "measured"], rows.items())


def counts():
    cells, verdicts = read("coverage"), read("verdicts")
    first = [x["specdiag_count"] for x in cells if x["specdiag"] == x["first"]]
    again = max(column(cells, "specdiag_count"))
    others = {int(x["n"]): int(x["others_count"]) for x in cells}
    random = [x["count"] for x in verdicts if x["kind"] in simulate.NO_TAIL[:2]]
    heavy = [x["count"] for x in verdicts if x["kind"] in simulate.HEAVY]
    rows = [
        ["spectra a cell", int(min(first))],
        ["fresh spectra of a cell that is measured again", int(again)],
        *([f"spectra for weightwatcher and wwj, n = {n}", x] for n, x in others.items()),
        ["Gaussian and uniform matrices a shape", int(min(random))],
        ["heavy-tailed and other matrices a shape", int(min(heavy))],
        ["matrices an ensemble and shape", int(min(column(read("ensembles"), "count")))],
        ["spectra a case of goodness of fit", int(min(column(read("gof"), "count")))],
    ]
    return table(["counts", ""], rows)


def coverage_by_body():
    return _coverage_table(main_cells(long=True), simulate.BODIES)


def holdout():
    cells = [x for x in read("coverage") if x["group"] == "holdout"]
    return _coverage_table(cells, simulate.HOLDOUT_BODIES)


def _coverage_table(cells, bodies):
    rows = []
    for body in bodies:
        these = [x for x in cells if x["body"] == body]
        widths = relative_widths(these)
        rates = [mean_and_range(column(these, m)) for m in METHODS]
        rows.append([NAMES[body], len(these), *rates, *widths])
    header = ["body", "cells", *METHODS, *(f"width {m}" for m in METHODS)]
    return table(header, rows)


def outside_long():
    return _cell_table(outside(main_cells(long=True)))


def outside_short():
    return _cell_table(outside(main_cells(long=False)))


def _cell_table(cells):
    if not cells:
        return "None."
    rows = [
        [
            *(int(x["n"]), f"{x['alpha']:g}", NAMES[x["body"]], f"{x['tail']:.0f}"),
            *(rate(x["specdiag"], x["specdiag_count"]), int(x["specdiag_count"])),
            percent(x["short_tail"]),
        ]
        for x in cells
    ]
    return table(
        ["n", "alpha", "body", "tail", "coverage %", "spectra", "flagged short %"],
        rows,
    )


def price():
    cells = main_cells(long=True)
    pure = [x for x in cells if x["body"] == "none"]
    groups = [(f"no body, n = {n}", [x for x in pure if x["n"] == n]) for n in simulate.SIZES]
    for low, high in ((30, 63), (64, 127), (128, 255), (256, 1024)):
        these = [x for x in cells if x["body"] != "none" and low <= x["tail"] < high + 1]
        groups.append((f"body, tail of {low}–{high}", these))
    rows = []
    for name, these in groups:
        oracle = column(these, "oracle_width")
        widths = relative_widths(these)
        errors = [f"{np.mean(column(these, k) / oracle * 3.92):.2f}" for k in ("rmse", "ks_rmse")]
        bias = f"{np.mean(column(these, 'bias') / oracle * 3.92):+.2f}"
        rows.append([name, len(these), *widths, *errors, bias])
    header = ["spectrum", "cells", *(f"width {m}" for m in METHODS)]
    header += ["rmse posterior mean", "rmse KS alpha", "bias posterior mean"]
    return table(header, rows)


def short_tail():
    rows = []
    for x in read("short_tail"):
        shares = [percent(x[k]) for k in ("flagged", "coverage", "coverage_unflagged")]
        high = "" if x["high"] > 1000 else f"–{x['high']:.0f}"
        rows.append([f"{x['low']:.0f}{high or ' or more'}", int(x["count"]), *shares])
    return table(
        ["true tail", "spectra", "flagged %", "coverage %", "coverage of unflagged %"], rows
    )


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
    verdicts = read("verdicts")
    rows = []
    for kind in (*simulate.HEAVY, *simulate.OTHER):
        cells = []
        for M in SIZES:
            these = [x for x in verdicts if x["kind"] == kind and x["M"] == M]
            shares = [f"{100 * column(these, k).mean():.0f}" for k in ("heavy", "power law")]
            cells.append(" / ".join(shares))
        these = [x for x in verdicts if x["kind"] == kind]
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
    verdicts = read("verdicts")
    rows = []
    for kind in (*simulate.NO_TAIL, *simulate.HEAVY, *simulate.OTHER):
        these = [x for x in verdicts if x["kind"] == kind]
        shares = [f"{100 * column(these, word).mean():.0f}" for word in VERDICTS]
        rows.append([name_of(kind), int(column(these, "count").sum()), *shares])
    return table(["matrix", "matrices", *VERDICTS], rows)


def scatter():
    ensembles = read("ensembles")
    rows = []
    for kind in dict.fromkeys(x["kind"] for x in ensembles):
        these = [x for x in ensembles if x["kind"] == kind]
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
    ensembles = read("ensembles")
    shapes = list(dict.fromkeys((int(x["N"]), int(x["M"])) for x in ensembles))
    rows = []
    for kind in dict.fromkeys(x["kind"] for x in ensembles if not math.isnan(x["truth"])):
        these = {(x["N"], x["M"]): x for x in ensembles if x["kind"] == kind}
        cells = [
            f"{x['mean'] - x['truth']:+.2f} / {x['ks_mean'] - x['truth']:+.2f}"
            for x in (these[shape] for shape in shapes)
        ]
        rows.append([name_of(kind), f"{these[shapes[0]]['truth']:g}", *cells])
    return table(["ensemble", "alpha", *(f"{N} × {M}" for N, M in shapes)], rows)


def goodness_of_fit():
    cases = read("gof")
    rows = []
    for case, alpha in dict.fromkeys((x["case"], str(x["alpha"])) for x in cases):
        these = [x for x in cases if x["case"] == case and str(x["alpha"]) == alpha]
        cells = [rate(x["rejected"], x["count"]) for x in these]
        known = "no power law" if alpha == "nan" else f"{float(alpha):g}"
        name = f"{case} : 1" if case.startswith("gaussian") else NAMES.get(case, case)
        rows.append([name, known, *cells])
    return table(["body, or case", "alpha", *(f"n = {n}" for n in simulate.SIZES)], rows)


def minilm():
    layers = read("minilm")
    rows = [
        [
            *(f"`{x['layer'].removesuffix('.weight')}`", x["shape"]),
            *(f"{x['alpha']:.2f}", int(x["n_tail"]), f"{x['posterior_mean']:.2f}"),
            *(f"{x['null_p']:.3f}", f"{x['null_q']:.3f}", f"{x['ks_null_p']:.3f}"),
            *(f"{x['ks_null_q']:.3f}", x["verdict"]),
        ]
        for x in layers
        if max(x["null_q"], x["ks_null_q"]) > 0.05
    ]
    header = ["layer", "shape", "KS alpha", "n_tail", "posterior mean", "`null_p`", "`null_q`"]
    return table([*header, "p of KS alpha", "q of KS alpha", "verdict"], rows)


def minilm_counts():
    """Return a table of how many layers of MiniLM look like random matrices."""
    layers = read("minilm")
    rows = [
        [name, sum(x[key] > 0.05 for x in layers), len(layers)]
        for name, key in (("KS alpha", "ks_null_q"), ("posterior mean", "null_q"))
    ]
    return table(["statistic", "layers with q > 0.05", "layers"], rows)


TABLES = {
    "key": key_numbers,
    "counts": counts,
    "coverage": coverage_by_body,
    "outside-long": outside_long,
    "outside-short": outside_short,
    "price": price,
    "short-tail": short_tail,
    "holdout": holdout,
    "false-alarms": false_alarms,
    "power": power,
    "by-shape": by_shape,
    "words": words,
    "scatter": scatter,
    "bias": bias,
    "gof": goodness_of_fit,
    "minilm-counts": minilm_counts,
    "minilm": minilm,
}
