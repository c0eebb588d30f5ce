"""Alphas of two networks, or of two groups of seeds -> differences of means and their intervals.

Plain arrays in and out. Differences are second minus first. With two networks the layers are the
sampling units, with groups the seeds. Alpha is above 1 on both sides, so each mean m has the
interval of `statistics.alpha_interval`, l to u, and their difference that of Zou & Donner (2008,
Statistics in Medicine 27(10)), made of the two:

    m2 - m1 - sqrt((m2 - l2)^2 + (u1 - m1)^2)   to   m2 - m1 + sqrt((u2 - m2)^2 + (m1 - l1)^2)

It needs independent errors. What the layers of two networks have in common cancels in the
difference, so there both errors are reduced by one factor, to the variance of the difference. If
errors are small, the interval is Student's t; if they are large, no end is farther than two alphas
above 1 can be from each other.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from specdiag.htsr.statistics import LEVEL, alpha_interval
from specdiag.htsr.tail.power_law import Array

# Share of the variance of a layer's alpha over seeds that all layers of a network have in common,
# where it is not measured (docs/compare.md has measured values).
ASSUMED_CORRELATION = 0.5
SHARED = "the part of a layer's scatter between seeds that all layers of a network share"
ASSUMPTION = (
    "assuming that all layers of a network share half of their scatter between seeds (intraclass "
    f"correlation {ASSUMED_CORRELATION:g})"
)
MIN_BLOCKS = 3  # two give Student's t one degree of freedom: 12.7 standard errors to each side

Interval = tuple[float, float]

_NO_INTERVAL = (math.nan, math.nan)


def layers_difference(
    first: Array, second: Array, blocks: Sequence[Hashable], correlation: float = 0.0
) -> tuple[float, Interval]:
    """Return the difference of mean alpha of two networks, and its interval over blocks of layers.

    Layers of a block are not independent, so the errors of the means are those of the sums of
    residuals by block (Liang & Zeger 1986, Biometrika 73(1)), with n_blocks - 1 degrees of freedom.

    Layers of one network are not independent either: its seed moves all of them. Two networks
    cannot show by how much, so an intraclass correlation r is assumed, and the variances are
    multiplied by 1 + n_blocks r / (1 - r). That is the post hoc correction of Varnell, Murray &
    Baker (2001), Evaluation Review 25(4), for one group per condition.

    Parameters
    ----------
    first, second : ndarray of shape (n_layers,)
        Alpha of each layer in either network.
    blocks : sequence of shape (n_layers,)
        The block of each layer.
    correlation : float
        0 for an interval about these two networks, `ASSUMED_CORRELATION` for one about other seeds.

    Returns
    -------
    difference : float
        NaN without layers.
    interval : tuple of float
        NaN for fewer than `MIN_BLOCKS` blocks.
    """
    if not len(first):
        return math.nan, _NO_INTERVAL
    means = float(first.mean()), float(second.mean())
    labels = {block: i for i, block in enumerate(dict.fromkeys(blocks))}
    n = len(labels)
    if n < MIN_BLOCKS:
        return means[1] - means[0], _NO_INTERVAL
    index = [labels[block] for block in blocks]
    pairs = zip((first, second), means, strict=True)
    sums = np.array([np.bincount(index, weights=alpha - mean) for alpha, mean in pairs])
    variances = np.sum(sums**2, axis=1)
    variance = float(np.sum((sums[1] - sums[0]) ** 2))
    if not variance:
        return means[1] - means[0], (means[1] - means[0],) * 2
    variances *= variance / variances.sum()  # without what the two have in common
    variances *= n / (n - 1) / len(first) ** 2 * (1 + n * correlation / (1 - correlation))
    return means[1] - means[0], _difference_interval(means, variances, n - 1)


def correlation_limit(first: Array, second: Array, blocks: Sequence[Hashable]) -> float:
    """Return the smallest intraclass correlation with which the interval of the difference has 0.

    It is 0 if the interval has 0 already for these two networks, and NaN without an interval. The
    interval widens with the correlation, so the value is found by bisection, to 1e-4.
    """

    def has_0(correlation: float) -> bool:
        _, (low, high) = layers_difference(first, second, blocks, correlation)
        return low <= 0 <= high

    if math.isnan(layers_difference(first, second, blocks)[1][0]):
        return math.nan
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if has_0(middle) else (middle, high)
    return 0.0 if has_0(0.0) else high


def seeds_difference(first: Array, second: Array) -> tuple[float, Interval]:
    """Return the difference of mean alpha of two groups of seeds, and its interval over the seeds.

    Layers within a seed may depend on each other in any way: the values here are those of a layer,
    or means over the same layers, and their scatter over seeds contains all of it. The degrees of
    freedom are those of Satterthwaite (1946, Biometrics Bulletin 2(6)) for two variances (Welch
    1947, Biometrika 34(1)), but at most twice those of the smaller group, as many as two groups of
    its size have. Without this limit 5 % become 6 % for 2 seeds against 5, and 11 % against 12, as
    Satterthwaite's number is itself estimated, from the scatter of the smaller group.

    A group of one seed has no scatter. Relative to alpha - 1, it is taken to be that of the other
    group, as it is if both are of one recipe.

    Parameters
    ----------
    first, second : ndarray of shape (n_seeds,)

    Returns
    -------
    difference : float
    interval : tuple of float
        NaN for one seed on both sides, or if no value differs between the seeds of a group.
    """
    n = len(first), len(second)
    means = float(first.mean()), float(second.mean())
    difference = means[1] - means[0]
    relative = [float(x.std(ddof=1)) / (x.mean() - 1) for x in (first, second) if len(x) > 1]
    if not any(relative):
        return difference, _NO_INTERVAL
    scatter = np.array([relative[0], relative[-1]]) * (np.array(means) - 1)
    variances = scatter**2 / n
    if len(relative) == 2:
        freedom = float(variances.sum() ** 2 / np.sum(variances**2 / (np.array(n) - 1)))
        freedom = min(freedom, 2 * (min(n) - 1))
    else:
        freedom = max(n) - 1
    return difference, _difference_interval(means, variances, freedom)


def _difference_interval(
    means: tuple[float, float], variances: Array, freedom: float
) -> tuple[float, float]:
    """Return the interval of the second mean minus the first: see the module."""
    first, second = means
    (low1, high1), (low2, high2) = (
        alpha_interval(mean, math.sqrt(variance), freedom)
        for mean, variance in zip(means, variances, strict=True)
    )
    below, above = (
        math.hypot(second - low2, high1 - first),
        math.hypot(high2 - second, first - low1),
    )
    return second - first - below, second - first + above


def intraclass_correlation(
    groups: Sequence[Array], blocks: Sequence[Hashable]
) -> tuple[float, Interval]:
    """Return the share of the variance over seeds that the blocks of a network have in common.

    That is ICC(3, 1) of Shrout & Fleiss (1979, Psychological Bulletin 86(2)) with its interval from
    the distribution of F: seeds are its subjects, blocks its judges. The mean squares are pooled
    over the groups, after each block's mean over the seeds of its group is subtracted.

    Parameters
    ----------
    groups : sequence of ndarray of shape (n_seeds, n_layers)
        Alpha of each group of seeds.
    blocks : sequence of shape (n_layers,)
        The block of each layer. The values of a block are averaged.

    Returns
    -------
    correlation : float
        From -1 / (n_blocks - 1) to 1. It is negative if the means of networks differ by less than
        independent blocks let them.
    interval : tuple of float
        95 %. All three are NaN without two seeds in a group and two blocks that vary.
    """
    names = list(dict.fromkeys(blocks))
    freedom = sum(len(group) - 1 for group in groups)
    k = len(names)
    if freedom < 1 or k < 2:
        return math.nan, _NO_INTERVAL
    of_block = [[block == name for block in blocks] for name in names]
    seeds = rest = 0.0
    for group in groups:
        means = np.array([group[:, chosen].mean(axis=1) for chosen in of_block]).T
        residuals = means - means.mean(axis=0)
        of_seed = residuals.mean(axis=1, keepdims=True)
        seeds += k * float(np.sum(of_seed**2)) / freedom
        rest += float(np.sum((residuals - of_seed) ** 2)) / (freedom * (k - 1))
    if not rest:
        return math.nan, _NO_INTERVAL
    from scipy.stats import f

    tail = (1 - LEVEL) / 2
    ends = f.ppf([tail, 1 - tail], freedom, freedom * (k - 1))
    low, value, high = (
        (ratio - 1) / (ratio + k - 1)
        for ratio in (seeds / rest / ends[1], seeds / rest, seeds / rest / ends[0])
    )
    return float(value), (float(low), float(high))


def sign_tests(block_means: Array) -> tuple[float, float]:
    """Return the two-sided p-values of the sign test and of Wilcoxon's signed-rank test.

    Both are over blocks whose mean is not zero: Wilcoxon (1945), Biometrics Bulletin 1(6). Equal
    distances from zero share the mean of their ranks, and both p-values are exact. NaN if there are
    no such blocks.
    """
    moved = block_means[block_means != 0]
    if not len(moved):
        return math.nan, math.nan
    sizes, index = np.unique(np.abs(moved), return_inverse=True)
    counts = np.bincount(index, minlength=len(sizes))
    twice = (2 * np.cumsum(counts) - counts + 1)[index]  # the ranks, doubled, are whole numbers
    return _two_sided(np.ones_like(twice), moved > 0), _two_sided(twice, moved > 0)


def _two_sided(weights: NDArray[np.int64], positive: NDArray[np.bool_]) -> float:
    """Return how probable a sum of weights as far out is, if each counts with probability 1/2."""
    probability = np.ones(1)
    for weight in weights:
        grown = np.zeros(len(probability) + weight)
        grown[: len(probability)] += probability / 2
        grown[weight:] += probability / 2
        probability = grown
    total = int(weights[positive].sum())
    tail = min(probability[: total + 1].sum(), probability[total:].sum())
    return min(1.0, 2 * float(tail))
