"""Moments of blocks of samples -> summaries of the spectrum of a covariance, with intervals.

The spread of sample eigenvalues depends on d / n, so their effective rank and participation ratio
are too low, and their largest share and condition number too high. Near n = d the correction of
order 1/n is not enough. The estimates here use what holds for any n (see `blocks`): traces without
bias, whose ratio is the participation ratio; the true value of every other summary lies between
those of two spectra, apart from their standard errors, which gives its interval; and its estimate
is that of the spectrum between the two that has the participation ratio found.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from specdiag.features.blocks import (
    FOLDS,
    Array,
    Blocks,
    Moments,
    Spectra,
    curvature,
    scaled,
    spectra,
    trace,
    traces,
)

LEVEL = 0.95
MIN_BLOCKS = 5  # with fewer than 4 degrees of freedom the t quantile is large, the interval useless
SUMMARIES = (
    *("condition_number", "effective_rank", "participation_ratio"),
    *("top1_fraction", "top5_fraction"),
)


class Estimate(NamedTuple):
    """A number within its 95 % interval. The ends are NaN if there is no interval."""

    value: float
    low: float = math.nan
    high: float = math.nan


def summaries(values: Array) -> dict[str, float]:
    """Return the SUMMARIES of eigenvalues in descending order; NaN if all are zero."""
    x = np.maximum(values, 0.0)
    if not x.sum() > 0:
        return dict.fromkeys(SUMMARIES, math.nan)
    p = x / x.sum()
    return {
        "condition_number": float(x[0] / x[-1]) if x[-1] > 0 else math.inf,
        "effective_rank": math.exp(float(_entropy(p))),
        "participation_ratio": 1 / float(p @ p),
        "top1_fraction": float(p[0]),
        "top5_fraction": float(p[:5].sum()),
    }


def refusal(n_blocks: int, largest_share: float) -> str:
    """Return why blocks allow no intervals, by the share of samples in the largest one, or ''."""
    if n_blocks < MIN_BLOCKS:
        return (
            f"{n_blocks} of the {MIN_BLOCKS} groups they need (groups are the trials of samples; "
            "independent samples are a group each)"
        )
    # The jackknife approximates small changes.
    return "more than half of the samples are in one block" if largest_share > 0.5 else ""


def estimates(blocks: Sequence[Moments], total: Moments, floor: float) -> dict[str, Estimate]:
    """Return the SUMMARIES, `trace`, and `n_effective` (without an interval).

    Parameters
    ----------
    blocks : sequence of Moments
        Independent of each other; there is no `refusal`.
    total : Moments
        Those of all blocks; the features vary.
    floor : float
        Variance that an eigenvalue must exceed to be more than rounding. A condition number without
        an upper end has the value `low` if the floor is the reason, and NaN if the samples are.
    """
    scale = float(np.trace(total.scatter)) / (total.count - 1)
    sums = scaled(blocks, total)
    jackknife = Jackknife(sums.size)
    both = spectra(sums)
    slack = jackknife.quantile * curvature(sums)
    ratio, ratios, n_effective = _participation_ratio(sums, both, slack, jackknife)
    between = _between(both, ratios)
    return {
        "n_effective": Estimate(n_effective),
        "participation_ratio": ratio,
        "effective_rank": _effective_rank(both, between, ratio, slack, jackknife),
        "top1_fraction": _fraction(1, both, between[0], ratio, jackknife),
        "top5_fraction": _fraction(5, both, between[0], ratio, jackknife),
        "condition_number": _condition_number(
            both, between[0], floor / scale, n_effective, jackknife
        ),
        "trace": _trace(sums, scale, jackknife),
    }


def replicates(blocks: Sequence[Moments], total: Moments) -> dict[str, Array]:
    """Return logarithms of three summaries, of all blocks and without each: shape (1 + k,).

    They show how the estimates of two networks vary together over the same blocks.
    """
    both, ratios = _ratios(blocks, total)
    return {
        "condition_number": _log_ratio(both.sample[:, 0], both.sample[:, -1]),
        "effective_rank": np.asarray(_entropy(_between(both, ratios)), np.float64),
        "participation_ratio": np.log(ratios),
    }


def shrunken_shares(blocks: Sequence[Moments], total: Moments) -> Array:
    """Return the shares of variance, descending, of which the estimates of a network are."""
    return np.asarray(_between(*_ratios(blocks, total))[0], np.float64)


def _ratios(blocks: Sequence[Moments], total: Moments) -> tuple[Spectra, Array]:
    """Return both spectra, and the participation ratios of all blocks and without each."""
    sums = scaled(blocks, total)
    both, jackknife = spectra(sums), Jackknife(sums.size)
    slack = jackknife.quantile * curvature(sums)
    return both, _participation_ratio(sums, both, slack, jackknife)[1]


class Jackknife:
    """Errors of values of shape (1 + k,): an estimate, and the same without each of k blocks.

    The delete-m_j jackknife, for blocks of unequal size: Busing, Meijer & van der Leeden (1999),
    Statistics and Computing 9. An estimate that is not finite has an infinite error.
    """

    def __init__(self, size: Array) -> None:
        # specdiag.htsr.statistics, which has this quantile too, lies above this package; and
        # importing SciPy costs little beside PyTorch, from which features come.
        from scipy.special import stdtrit

        self._share = size / size.sum()
        freedom = 1 / float(self._share @ self._share) - 1  # k - 1 if all sizes are equal
        self.quantile = float(stdtrit(freedom, (1 + LEVEL) / 2))
        # Folds share the samples that give the eigenvectors of others, so their variances are
        # correlated. The factor of Nadeau & Bengio (2003), Machine Learning 52, has no 2: that of
        # the first and the last eigenvector of equal variances is twice as large.
        folds = min(FOLDS, len(size))
        self._correlation = math.sqrt(1 + 2 * folds / (folds - 1))

    def reach(self, values: Array, *, held_out: bool = False) -> float:
        """Return how far the 95 % interval about values[0] extends to each side."""
        error, _ = self._error_and_skewness(values)
        return self.quantile * error * (self._correlation if held_out else 1.0)

    def reach_above(self, values: Array) -> float:
        """Return how far it extends upwards if few large values may be missing from a sample.

        That is further if the contributions of blocks are skewed to the right, by the first term of
        the Edgeworth expansion of Student's ratio: Hall (1992), J. R. Statist. Soc. B 54, 221-228.
        """
        error, skewness = self._error_and_skewness(values)
        further = (1 + 2 * self.quantile**2) / (6 * math.sqrt(len(self._share)))
        return error * (self.quantile + further * max(skewness, 0.0))

    def correction(self, values: Array) -> float:
        """Return what removes the bias of order 1 / n from values[0]."""
        return float(((1 - self._share) * (values[0] - values[1:])).sum())

    def correlation(self, a: Array, b: Array) -> float:
        """Return the correlation of two estimates over the same blocks, 0 if one has no error."""
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return 0.0
        x, y = self._parts(a), self._parts(b)
        norm = math.sqrt(float(x @ x) * float(y @ y))
        return float(x @ y) / norm if norm > 0 else 0.0

    def _parts(self, values: Array) -> Array:
        """Return what each block adds to an estimate; the error is their root mean square."""
        h = 1 / self._share
        center = len(h) * values[0] - ((1 - self._share) * values[1:]).sum()
        pseudo = h * values[0] - (h - 1) * values[1:]
        return np.asarray((pseudo - center) / np.sqrt(h - 1), np.float64)

    def _error_and_skewness(self, values: Array) -> tuple[float, float]:
        if not np.isfinite(values).all():
            return math.inf, 0.0
        parts = self._parts(values)
        error = math.sqrt(float((parts**2).mean()))
        return error, float(((parts / error) ** 3).mean()) if error > 0 else 0.0


def _trace(blocks: Blocks, scale: float, jackknife: Jackknife) -> Estimate:
    """Return tr(S) in units of `scale`; all of its interval is positive."""
    logs = _log_ratio(trace(blocks), 1.0)
    value = scale * math.exp(logs[0])
    low, high = jackknife.reach(logs), jackknife.reach_above(logs)
    return Estimate(value, value * math.exp(-low), value * math.exp(high))


def _participation_ratio(
    blocks: Blocks, both: Spectra, slack: float, jackknife: Jackknife
) -> tuple[Estimate, Array, float]:
    """Return tr(S)^2 / tr(S^2), its values with and without each block, and `n_effective`.

    For independent Gaussian samples, tr(M_b M_b) of the second moments of a block exceeds what the
    products of different blocks predict by tr(S)^2 + tr(S^2) per sample. The excess is n / n_eff
    times as large if the samples of a block depend on each other, or have heavy tails.
    """
    n, d = float(blocks.size.sum()), both.sample.shape[1]
    square, squared = traces(blocks)  # tr(S^2) and tr(S)^2
    excess = float(np.trace(blocks.products) - (blocks.size**2).sum() * square[0])
    expected = float(square[0] + squared[0])
    n_effective = min(n, n**2 * expected / excess) if min(excess, expected) > 0 else n
    if min(square.min(), squared.min()) > 0:
        logs = np.log(squared / square)
        ratios, reach = np.exp(np.clip(logs, 0.0, math.log(d))), jackknife.reach(logs)
        value = float(ratios[0])
        # Its error grows with the value less than in proportion, so the lower end is further away.
        low, high = value * (1 - reach - slack), value * math.exp(min(reach, math.log(d)))
    else:  # too few samples: errors exceed the traces; sample eigenvalues give the lower end
        logs = _log_ratio(both.sample.sum(axis=1) ** 2, (both.sample**2).sum(axis=1))
        ratios = np.exp(logs)
        value, low, high = float(ratios[0]), math.exp(logs[0] - jackknife.reach(logs)), d
    return _within(value, low, high, (1, d)), ratios, n_effective


def _between(both: Spectra, ratios: Array) -> Array:
    """Return shares of variance on the line between both spectra, with these participation ratios.

    That is where the sum of their squares is 1 / ratio, or an end of the line; shape (1 + k, d).
    """
    x, y = _shares(both.sample), _shares(both.smooth)
    slope, excess = (x * (x - y)).sum(axis=1), (x * x).sum(axis=1) - 1 / ratios
    root = np.sqrt(np.maximum(slope**2 - ((x - y) ** 2).sum(axis=1) * excess, 0.0))
    sums = np.where(slope + root > 0, slope + root, math.inf)
    weight = np.clip(excess / sums, 0.0, 1.0)[:, None]
    return np.asarray((1 - weight) * x + weight * y, np.float64)


def _effective_rank(
    both: Spectra, between: Array, ratio: Estimate, slack: float, jackknife: Jackknife
) -> Estimate:
    """Return exp(-sum p log p), which is never below the participation ratio (Rényi 1961).

    Its estimate lies well within the two spectra. So each end is at most halfway from the estimate
    to the spectrum on its side, apart from standard errors.
    """
    below, entropy, above = map(_entropy, (_shares(both.sample), between, _shares(both.smooth)))
    reach = jackknife.reach(entropy) + slack
    low = max(below[0] - jackknife.reach(below) - slack, (below[0] + entropy[0]) / 2 - reach, 0.0)
    high = min(
        above[0] + jackknife.reach(above, held_out=True),
        (above[0] + entropy[0]) / 2 + reach,
        math.log(between.shape[1]),
    )
    value = max(math.exp(entropy[0]), ratio.value)
    ends = max(math.exp(low), ratio.low), max(math.exp(high), ratio.high)
    return _within(value, *ends, (1, between.shape[1]))


def _fraction(
    count: int, both: Spectra, between: Array, ratio: Estimate, jackknife: Jackknife
) -> Estimate:
    """Return the share of the variance of the `count` largest eigenvalues."""
    above, below = (
        _logit(_shares(rows)[:, :count].sum(axis=1)) for rows in (both.sample, both.held_out)
    )
    low = _expit(below[0] - jackknife.reach(below, held_out=True))
    high = _expit(above[0] + jackknife.reach(above))
    if count == 1:  # sum p^2 <= p_1 <= sqrt(sum p^2)
        low, high = max(low, 1 / ratio.high), min(high, ratio.low**-0.5)
    least = min(1.0, count / len(between))
    return _within(float(between[:count].sum()), low, high, (least, 1))


def _condition_number(
    both: Spectra, between: Array, floor: float, n_effective: float, jackknife: Jackknife
) -> Estimate:
    """Return lambda_1 / lambda_d, without an upper end if lambda_d may be as small as the floor."""
    largest, smallest = both.sample[:, 0], both.sample[:, -1]
    held_out = np.maximum(both.held_out[:, -1], floor)
    below, above = _log_ratio(both.held_out[:, 0], held_out), _log_ratio(largest, smallest)
    low = math.exp(max(below[0] - jackknife.reach(below, held_out=True), 0.0))
    high, limit = above[0] + jackknife.reach(above), math.log(largest[0] / floor)
    is_resolved = smallest[0] > floor and math.isfinite(high)
    if is_resolved and high <= limit:
        value = between[0] / max(between[-1], floor)
        return _within(float(value), low, math.exp(high), (1, math.inf))
    # With no more independent samples than features, lambda_d of the sample is small anyway.
    is_rounding = is_resolved or both.held_out[0, -1] <= floor or n_effective > len(between)
    return Estimate(low if is_rounding else math.nan, low, math.inf)


def _within(value: float, low: float, high: float, limits: tuple[float, float]) -> Estimate:
    """Return an estimate that lies in its interval, and both in the limits of what is possible."""
    low, high = (min(max(end, limits[0]), limits[1]) for end in sorted((low, high)))
    return Estimate(min(max(value, low), high), low, high)


def _entropy(p: Array) -> Any:
    """Return the entropy of shares along the last axis."""
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)


def _shares(rows: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(rows / rows.sum(axis=1, keepdims=True), np.float64)


def _log_ratio(a: Array, b: Array | float) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(a / b), np.float64)


def _logit(x: Array) -> Array:
    x = np.clip(x, np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).epsneg)
    return np.asarray(np.log(x) - np.log1p(-x), np.float64)


def _expit(x: float) -> float:
    return float((1 + np.tanh(x / 2)) / 2)
