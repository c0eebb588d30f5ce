"""Moments of features -> condition number, effective rank and more, each with its interval.

Plain arrays in and out. The moments come in blocks of dependent samples (trials, windows, sessions;
see `specdiag.features.covariance`). Every interval is a delete-a-block jackknife, so dependence
within a block does not make it too short.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdiag.notebook import record_html
from specdiag.wording import rounded_down

Array = NDArray[np.float64]
Interval = tuple[float, float]

LEVEL = 0.95
MIN_BLOCKS = 5  # with fewer than 4 degrees of freedom the t quantile makes intervals too wide
NO_INTERVAL = (math.nan, math.nan)

# Distance from 1 to the next larger number, coarsest format first. TF32 (matrix products on
# NVIDIA's tensor cores) rounds the two factors to 10 bits and stores float32.
EPS = {"bfloat16": 2**-7, "float16": 2**-10, "tf32": 2**-10, "float32": 2**-23, "float64": 2**-52}


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Count, mean (d,) and scatter matrix sum((x - mean)(x - mean)') (d, d) of samples."""

    count: int
    mean: Array
    scatter: Array


def merged(a: Moments, b: Moments) -> Moments:
    """Return the moments of the samples of both.

    The pairwise update of Chan, Golub & LeVeque (1979), STAN-CS-79-773. Unlike E[xx'] - mean mean',
    it subtracts no large sums.
    """
    count = a.count + b.count
    delta = b.mean - a.mean
    between = np.outer(delta, delta * (a.count * b.count / count))
    mean = a.mean + delta * (b.count / count)
    return Moments(count=count, mean=mean, scatter=a.scatter + b.scatter + between)


def without(total: Moments, part: Moments) -> Moments:
    """Return the moments of the samples of `total` that are not in `part`; undoes `merged`."""
    count = total.count - part.count
    mean = total.mean + (total.mean - part.mean) * (part.count / count)
    delta = part.mean - mean
    between = np.outer(delta, delta * (count * part.count / total.count))
    return Moments(count=count, mean=mean, scatter=total.scatter - part.scatter - between)


@dataclass(frozen=True, kw_only=True)
class FeatureSpectrum:
    """The spectrum of a covariance of features. Intervals are 95 %, NaN with fewer than 5 blocks.

    Attributes
    ----------
    eigenvalues : ndarray of shape (d,)
        Of the covariance, descending, in the squared units of the features. The covariance is
        divided by n - 1, as in `numpy.cov`, which is unbiased for independent samples; only `trace`
        and the eigenvalues depend on that divisor.
    condition_number : float
        lambda_1 / lambda_d. Where lambda_d does not exceed the noise floor, it is lambda_1 / floor:
        a lower bound, because the true lambda_d is below the floor. (lambda_1 over the last
        eigenvalue above the floor would say nothing about those below it.) NaN when there are no
        more samples than features (lambda_d is then zero for any network) or no variance.
    condition_number_is_bound : bool
        Whether it is that lower bound; its interval then has no upper end.
    condition_number_published : float
        lambda_1 over the smallest positive eigenvalue, as in published tables, for comparison only.
        When an eigenvalue does not exceed the noise floor, this value depends on rounding: it may
        change by many orders of magnitude from one machine to another, and is not printed.
    numerical_rank : int
        Number of eigenvalues above the noise floor.
    noise_floor, noise_floor_source : float, str
        Value that an eigenvalue must exceed to be more than rounding, and which arithmetic sets it
        (see the function `noise_floor`).
    effective_rank : float
        exp(-sum p log p), p = lambda / trace, between 1 and d: Roy & Vetterli (2007), EUSIPCO.
    participation_ratio : float
        trace^2 / sum(lambda^2), between 1 and d: Gao et al. (2017), bioRxiv 214262.
    top1_fraction, top5_fraction : float
        Share of the variance of the largest and the five largest eigenvalues.
    trace : float
        Total variance.
    precision : str
        Of the forward pass: a name in `EPS`.
    n_samples : int
        Rows of features seen.
    n_groups, n_blocks : int
        Distinct groups seen, and the blocks that they were folded into. Intervals resample blocks.
    """

    eigenvalues: Array
    n_samples: int
    n_groups: int
    n_blocks: int
    precision: str
    noise_floor: float
    noise_floor_source: str
    numerical_rank: int
    condition_number: float
    condition_number_interval: Interval
    condition_number_is_bound: bool
    condition_number_published: float
    effective_rank: float
    effective_rank_interval: Interval
    participation_ratio: float
    participation_ratio_interval: Interval
    top1_fraction: float
    top1_fraction_interval: Interval
    top5_fraction: float
    top5_fraction_interval: Interval
    trace: float
    trace_interval: Interval

    _repr_html_ = record_html

    @property
    def condition_number_text(self) -> str:
        """The condition number, `1.20e+06`; its bound, `>= 3.0e+11 (…)`; or why it is unknown."""
        if self.condition_number_is_bound:
            at_least = rounded_down(self.condition_number)
            return f">= {at_least} ({self.noise_floor_source} floor)"
        if not self.trace > 0:
            return "unknown (the features do not vary)"
        if math.isnan(self.condition_number):
            return f"unknown ({self._size})"
        return f"{self.condition_number:.2e}"

    @property
    def condition_number_published_text(self) -> str:
        """The published condition number, or that it depends on rounding."""
        if self.numerical_rank < len(self.eigenvalues):
            return "not resolved, depends on rounding"
        return f"{self.condition_number_published:.2e}"

    @property
    def _size(self) -> str:
        return f"{self.n_samples:,} samples of {len(self.eigenvalues)} features"

    def __str__(self) -> str:
        words = "group" if self.n_groups == 1 else "groups"
        folded = f" in {self.n_blocks} blocks" if self.n_blocks != self.n_groups else ""
        ends = NO_INTERVAL if self.condition_number_is_bound else self.condition_number_interval
        lines = [
            f"{self._size}, {self.precision}, {self.n_groups:,} {words}{folded}",
            _line("condition number", self.condition_number_text, ends),
            _line("  as published", self.condition_number_published_text),
            _line("numerical rank", str(self.numerical_rank)),
        ]
        for name in _PLAIN:
            value, interval = getattr(self, name), getattr(self, f"{name}_interval")
            lines.append(_line(name.replace("_", " "), f"{value:.4g}", interval))
        if self.n_blocks < MIN_BLOCKS:
            lines.append(f"no intervals: {self.n_blocks} of the {MIN_BLOCKS} groups they need")
        return "\n".join(lines)


_PLAIN = ("effective_rank", "participation_ratio", "top1_fraction", "top5_fraction", "trace")


def _line(name: str, value: str, interval: Interval = NO_INTERVAL) -> str:
    low, high = interval
    return f"{name:<20} {value}" + ("" if math.isnan(low) else f"  [{low:.3g}, {high:.3g}]")


def feature_spectrum(
    blocks: Sequence[Moments], *, precision: str, second_moment: float, n_groups: int
) -> FeatureSpectrum:
    """Return the spectrum of the pooled covariance of blocks of samples.

    Parameters
    ----------
    blocks : sequence of Moments
        One for each block; blocks are taken as independent of each other.
    precision : str
        Of the forward pass, a name in `EPS`.
    second_moment : float
        Mean square of a feature about zero, over samples and features.
    n_groups : int
        How many groups the blocks hold.

    Raises
    ------
    ValueError
        If there are fewer than two samples.
    """
    total = functools.reduce(merged, blocks)
    if total.count < 2:
        raise ValueError(f"{total.count} sample: a covariance needs at least 2")
    values = _spectrum(total)
    floor, source = noise_floor(values, second_moment=second_moment, precision=precision)
    # With no more samples than features, lambda_d is zero for any network.
    enough = total.count > len(values)
    bound = bool(values[-1] <= floor and enough and values[0] > 0)
    estimates = _estimates(values)
    intervals = _jackknife(blocks, total, estimates)
    condition, interval = estimates["condition_number"], intervals.pop("condition_number")
    limit = float(values[0]) / floor if floor > 0 else math.nan
    if bound:
        condition, interval = limit, (limit, math.inf)
    elif not enough:
        condition, interval = math.nan, NO_INTERVAL
    elif interval[1] > limit:
        interval = min(interval[0], limit), math.inf
    positive = values[values > 0]
    named: dict[str, Any] = {name: estimates[name] for name in _PLAIN}
    named |= {f"{name}_interval": intervals[name] for name in _PLAIN}
    return FeatureSpectrum(
        eigenvalues=np.maximum(values, 0.0),
        n_samples=total.count,
        n_groups=n_groups,
        n_blocks=len(blocks),
        precision=precision,
        noise_floor=floor,
        noise_floor_source=source,
        numerical_rank=int(np.count_nonzero(values > floor)),
        condition_number=condition,
        condition_number_interval=interval,
        condition_number_is_bound=bound,
        condition_number_published=float(positive[0] / positive[-1]) if len(positive) else math.nan,
        **named,
    )


def noise_floor(values: Array, *, second_moment: float, precision: str) -> tuple[float, str]:
    """Return the variance that an eigenvalue must exceed to be more than rounding, and its origin.

    The larger of two floors. Both scale with the features, and rotations do not change them.

    - The forward pass: 2 c eps^2 E[x^2]. Rounding errors of the last operations are nearly
      independent between features and proportional to the feature itself, mean included (Higham
      2002, Accuracy and Stability of Numerical Algorithms, sections 2.2 and 3.1; Higham & Mary
      2019, SIAM J. Sci. Comput. 41(5)), so they add about c eps^2 E[x^2] to every eigenvalue of the
      covariance. An eigenvalue below twice that may be wrong by more than a factor of 2. For sums
      in the precision of the features, c = 1 + d / 12: a sum of k terms in order has error variance
      k eps^2 / 48, taken for k = 4 d, the usual width of a feed-forward layer. Where sums are in
      float32 (16-bit formats), c = 1, which allows for about 24 residual blocks that each round
      their sum. In TF32 only the two factors of a product are rounded and nothing is stored:
      c = 1/6. docs/features.md has the calibration.
    - The arithmetic of this function: 2 sqrt(d) eps64 lambda_1, the usual d eps64 lambda_1 (Golub &
      Van Loan, section 8.1) with the square root that random rounding errors give (Higham & Mary).

    Parameters
    ----------
    values : ndarray of shape (d,)
        Eigenvalues, descending.
    second_moment, precision
        As in `feature_spectrum`.
    """
    d, eps = len(values), EPS[precision]
    c = {"bfloat16": 1.0, "float16": 1.0, "tf32": 1 / 6}.get(precision, 1 + d / 12)
    forward = 2 * c * eps**2 * second_moment
    own = 2 * math.sqrt(d) * EPS["float64"] * float(values[0])
    if precision == "float64" or own > forward:
        return max(own, forward), "float64 arithmetic"
    return forward, precision


def _spectrum(moments: Moments) -> Array:
    return np.asarray(np.linalg.eigvalsh(moments.scatter / (moments.count - 1)), np.float64)[::-1]


def _estimates(values: Array) -> dict[str, float]:
    """Return all quantities that have an interval, of a descending spectrum; NaN if it is zero."""
    x = np.maximum(values, 0.0)
    trace = float(x.sum())
    if not trace > 0:
        return dict.fromkeys(_SCALES, math.nan) | {"trace": trace}
    p = x / trace
    seen = p[p > 0]
    return {
        "condition_number": float(x[0] / x[-1]) if x[-1] > 0 else math.inf,
        "effective_rank": math.exp(-float(seen @ np.log(seen))),
        "participation_ratio": 1 / float(p @ p),
        "top1_fraction": float(p[0]),
        "top5_fraction": float(p[:5].sum()),
        "trace": trace,
    }


def _logit(x: Any) -> Any:
    return np.log(x) - np.log1p(-x)


def _expit(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


# The scale on which each estimate is nearly normal, and its inverse.
_RANKS = ("effective_rank", "participation_ratio")
_SCALES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    **dict.fromkeys(("condition_number", *_RANKS, "trace"), (np.log, np.exp)),
    **dict.fromkeys(("top1_fraction", "top5_fraction"), (_logit, _expit)),
}


def _jackknife(
    blocks: Sequence[Moments], total: Moments, whole: dict[str, float]
) -> dict[str, Interval]:
    """Return the interval of every estimate: a jackknife over blocks on the log or logit scale.

    The delete-m_j jackknife, for blocks of unequal size, with Student's t: Busing, Meijer & van der
    Leeden (1999), Statistics and Computing 9. It also removes the bias of order 1/n, which is large
    for sample eigenvalues (the smallest one is too small), so an interval may not contain its
    estimate. The percentile bootstrap would double that bias.
    """
    # specdiag.htsr.statistics, which has this quantile too, lies above this package; and importing
    # SciPy costs little beside PyTorch, from which features come.
    from scipy.special import stdtrit

    size = np.array([block.count for block in blocks], dtype=np.float64)
    if len(blocks) < MIN_BLOCKS or total.count - size.max() < 2:
        return dict.fromkeys(_SCALES, NO_INTERVAL)
    deleted = [_estimates(_spectrum(without(total, block))) for block in blocks]
    quantile = float(stdtrit(len(blocks) - 1, (1 + LEVEL) / 2))
    h = total.count / size
    intervals = {}
    for name, (forward, backward) in _SCALES.items():
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            estimate = forward(np.float64(whole[name]))
            left_out = forward(np.array([values[name] for values in deleted]))
            center = len(blocks) * estimate - ((1 - 1 / h) * left_out).sum()
            pseudo = h * estimate - (h - 1) * left_out
            error = math.sqrt(float(((pseudo - center) ** 2 / (h - 1)).mean()))
            low, high = backward(center + quantile * error * np.array([-1.0, 1.0]))
        if name in _RANKS:
            low, high = np.clip((low, high), 1, len(total.mean))
        finite = math.isfinite(low) and math.isfinite(high)
        intervals[name] = (float(low), float(high)) if finite else NO_INTERVAL
    return intervals
