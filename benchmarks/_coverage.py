"""Coverage and width of the 95 % intervals of alpha, on independent draws.

A cell is a kind of spectrum: a body, a number of values, an exponent and the expected share of the
tail. Where its first coverage is near or beyond the bar, it is measured again with fresh spectra,
and only those count.
"""

import itertools
import logging
import math
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from benchmarks import _bodies as bodies
from benchmarks._results import write
from specdiag.htsr.others import weightwatcher
from specdiag.htsr.tail.posterior import NO_POSTERIOR, alpha_posterior, mixture_posterior
from specdiag.htsr.tail.power_law import fit_alpha
from specdiag.htsr.verdict import MAX_SHORT_TAIL

BORDER = (0.94, 0.98)  # a cell whose first coverage lies outside is measured again
TAIL_BINS = (0, 12, 20, 30, 50, 100, 200, 4097)
OTHERS = {64: 100, 128: 100, 256: 100, 512: 60, 1024: 30}  # spectra for the published rules, by n
CONTAMINATED = ("none", "lognormal", "gamma", "power-1.2", "mp-2", "steep-bend", "power-0.9")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A kind of spectrum: its group, and what `bodies.draw` needs; `top` is what is wrong with it.

    A body of the group 'limit' is a whole distribution, whose share of the tail is not defined.
    """

    group: str
    body: str
    n: int
    alpha: float
    share: float
    top: str = ""

    def draw(self, rng, count):
        """Return spectra of shape (count, n), and their true tail sizes."""
        if self.group == "limit":
            x = bodies.LIMITS[self.body](rng, self.alpha, (count, self.n))
            return -np.sort(-x, axis=1), np.full(count, math.nan)
        x, n_tail = bodies.draw(rng, self.body, self.n, self.alpha, self.share, count)
        return (bodies.TOPS[self.top](rng, x) if self.top else x), n_tail


def cells():
    """Return all cells: without a body, two halves of bodies, and where nothing is claimed."""
    every = [("none", ("none",), 28), *((half, names, 12) for half, names in bodies.HALVES.items())]
    found = [
        Cell(group=group, body=body, n=n, alpha=alpha, share=share)
        for group, names, count in every
        for body, n, alpha, share in bodies.cells(names, count)
    ]
    found += [
        Cell(group="top", body=body, n=n, alpha=alpha, share=share, top=top)
        for top in bodies.TOPS
        for body, n, alpha, share in bodies.cells(CONTAMINATED, 3, sizes=(128, 512, 2048), least=60)
    ]
    found += [
        Cell(group="short", body=body, n=n, alpha=alpha, share=share)
        for body, n, alpha, share in bodies.cells(sorted(bodies.BODIES), 1, least=15, below=30)
    ]
    found += [
        Cell(group="limit", body=body, n=n, alpha=alpha, share=math.nan)
        for body in bodies.LIMITS
        for n in (256, 1024, 4096)
        for alpha in (1.5, 2.5, 4.0)
    ]
    return found


def coverage(full):
    """Write coverage and width of the intervals of every cell, and of two published rules."""
    check_wwj()
    measured = [measure(index, cell, full) for index, cell in enumerate(cells())]
    write("coverage", [row for row, _ in measured])
    write("short_tail", flag_rates(np.concatenate([flags for _, flags in measured], axis=1)))


def measure(index, cell, full):
    """Return the row of a cell, and for each spectrum: true tail size, flagged as short, covered.

    The second is empty in the groups that are no power law with a whole top.
    """
    count, again = (240, 1000) if full else (30, 30)
    spectra, n_tail = cell.draw(np.random.default_rng([1, index]), count)
    ours = [alpha_posterior(x) for x in spectra]
    covered = inside(ours, cell.alpha)
    first = float(covered.mean())
    short = [p.short_tail > MAX_SHORT_TAIL for p in ours]
    plain = cell.group not in ("top", "limit")
    flags = np.stack([n_tail, short, covered]) if plain else np.empty((3, 0))
    if cell.group != "limit" and not BORDER[0] <= first <= BORDER[1]:
        fresh, _ = cell.draw(np.random.default_rng([2, index]), again)
        ours = [alpha_posterior(x) for x in fresh]
    row = {
        "group": cell.group,
        "body": cell.body,
        "junction": bodies.BODIES[cell.body].junction if cell.body in bodies.BODIES else "none",
        "top": cell.top,
        "n": cell.n,
        "alpha": cell.alpha,
        "share": cell.share,
        "tail": cell.n * cell.share,
        "first": first,
        **summary(ours, cell.alpha, cell.n * cell.share),
        **others(cell, spectra),
    }
    _log.info("coverage %d: %s %s %.3f", index, cell.group, cell.body, row["coverage"])
    return row, flags


def summary(posteriors, alpha, tail):
    """Return what a cell's posteriors say: shares, widths and errors.

    Widths are in units of the 95 % interval of one who knows xmin, 3.92 (alpha - 1) / sqrt(tail),
    errors in units of its standard error. A spectrum without an interval counts as a miss, and in
    nothing else.
    """
    low, high = np.array([p.interval for p in posteriors]).T
    error = (alpha - 1) / math.sqrt(tail)
    mean = np.array([p.mean for p in posteriors])
    return {
        "count": len(posteriors),
        "coverage": float(np.mean((low <= alpha) & (alpha <= high))),
        "below": float(np.mean(high < alpha)),
        "above": float(np.mean(low > alpha)),
        "width": float(np.nanmedian(high - low)) / (3.92 * error),
        "mean_width": float(np.nanmean(high - low)) / (3.92 * error),
        "short_tail": float(np.mean([p.short_tail > MAX_SHORT_TAIL for p in posteriors])),
        "bias": float(np.nanmean(mean) - alpha) / error,
        "rmse": rms(mean, alpha) / error,
    }


def others(cell, spectra):
    """Return the coverage of two published rules and the error of alpha_ks, on some spectra."""
    some = spectra[: OTHERS.get(cell.n, 0)] if cell.group in ("none", "tuning", "held out") else []
    error = (cell.alpha - 1) / math.sqrt(cell.n * cell.share)
    row = dict.fromkeys(("others_count", "ks_bias", "ks_rmse"), math.nan)
    row |= {f"{name}{end}": math.nan for name in RULES for end in ("", "_width")}
    if len(some):
        ks = np.array([fit_alpha(x).alpha for x in some])
        row |= {"others_count": len(some), "ks_bias": (ks.mean() - cell.alpha) / error}
        row["ks_rmse"] = rms(ks, cell.alpha) / error
        for name, rule in RULES.items():
            posteriors = [rule(x) for x in some]
            row[name] = float(inside(posteriors, cell.alpha).mean())
            widths = [p.interval[1] - p.interval[0] for p in posteriors]
            if not np.all(np.isnan(widths)):
                row[f"{name}_width"] = float(np.nanmedian(widths)) / (3.92 * error)
    return row


def inside(posteriors, alpha):
    return np.array([p.interval[0] <= alpha <= p.interval[1] for p in posteriors])


def rms(values, truth):
    return math.sqrt(np.nanmean((np.array(values) - truth) ** 2))


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
    for body in ("uniform", "lognormal", "mp-2"):
        x = bodies.draw(rng, body, 128, 2.5, 0.5, 1)[0][0]
        theirs = weightwatcher.wwj(np.diag(np.sqrt(len(x) * x)))[1].interval
        if not np.allclose(wwj_posterior(x).interval, theirs, rtol=1e-3):
            raise RuntimeError(f"wwj on eigenvalues differs from the library on body {body}")


def weightwatcher_posterior(x):
    return weightwatcher.weightwatcher(len(x) * x)[1]


RULES = {"weightwatcher": weightwatcher_posterior, "wwj": wwj_posterior}
