"""Coverage and width of the 95 % intervals of alpha on independent draws."""

import itertools
import logging
import math

import numpy as np
from scipy.special import gammaln

from benchmarks import _simulate as simulate
from benchmarks._pages import table
from benchmarks._results import read, write
from benchmarks._tables import NAMES, column, mean_and_range, percent, rate
from specdiag.htsr import weightwatcher
from specdiag.htsr.tail.posterior import NO_POSTERIOR, alpha_posterior, mixture_posterior
from specdiag.htsr.tail.power_law import fit_alpha
from specdiag.htsr.verdict import MAX_SHORT_TAIL

BORDER = (0.93, 0.975)  # a cell whose first coverage lies outside is measured again
TAIL_BINS = (0, 12, 20, 30, 50, 100, 200, 2000)
BAR = (0.92, 0.98)
METHODS = ("specdiag", "weightwatcher", "wwj")
ENOUGH = 30  # eigenvalues in the tail, expected

_log = logging.getLogger(__name__)


def coverage(full):
    """Write coverage and width of the 95 % intervals of three methods on independent draws."""
    check_wwj()
    count, repeats = (500, 2000) if full else (40, 100)
    others_count = {128: 500, 256: 500, 512: 250, 1024: 100}
    if not full:
        others_count = {n: x // 10 for n, x in others_count.items()}
    rows, flags = [], []
    for index, (group, n, alpha, body, share) in enumerate(simulate.cells()):
        rng = np.random.default_rng([1, index])
        spectra, n_tail = simulate.draw_spectra(rng, n, alpha, body, share, count)
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
            fresh, _ = simulate.draw_spectra(rng, n, alpha, body, share, repeats)
            row["specdiag"] = inside([alpha_posterior(x) for x in fresh], alpha).mean()
            row["specdiag_count"] = repeats
        others = spectra[: others_count[n]]
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


def main_cells(*, long):
    return [x for x in read("coverage") if x["group"] == "main" and (x["tail"] >= ENOUGH) == long]


def relative_widths(cells):
    """Return the mean width of every method, over the cells where it has an interval."""
    oracle = column(cells, "oracle_width")
    return [f"{np.nanmean(column(cells, f'{m}_width') / oracle):.2f}" for m in METHODS]


def outside(rows):
    return [x for x in rows if not BAR[0] <= x["specdiag"] <= BAR[1]]


def key_numbers():
    """Return the rows of this stage in the table of the page's first section."""
    cells = main_cells(long=True)
    rows = {}
    for method in METHODS:
        values = column(cells, method)
        within = np.sum((values >= BAR[0]) & (values <= BAR[1]))
        label = f"coverage of {method}'s 95 % interval: mean, range, cells within 92–98 %"
        rows[label] = f"{mean_and_range(values)} %, {within} of {len(cells)}"
    return rows


def counts():
    cells = read("coverage")
    first = [x["specdiag_count"] for x in cells if x["specdiag"] == x["first"]]
    again = max(column(cells, "specdiag_count"))
    others = {int(x["n"]): int(x["others_count"]) for x in cells}
    return {
        "spectra a cell": int(min(first)),
        "fresh spectra of a cell that is measured again": int(again),
        **{f"spectra for weightwatcher and wwj, n = {n}": x for n, x in others.items()},
    }


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


TABLES = {
    "coverage": coverage_by_body,
    "outside-long": outside_long,
    "outside-short": outside_short,
    "price": price,
    "short-tail": short_tail,
    "holdout": holdout,
}
