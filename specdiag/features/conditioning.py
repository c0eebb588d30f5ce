"""Moments of features -> condition number, effective rank and more, each with its interval.

Plain arrays in and out. The moments come in blocks of dependent samples (trials, windows, sessions;
see `specdiag.features.covariance`).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specdiag.compute.eigenvalues import eigenvalues_of_gram
from specdiag.features.blocks import Array, Moments, merged
from specdiag.features.estimators import Estimate, estimates, refusal, summaries
from specdiag.notebook import record_html
from specdiag.wording import rounded_down

Interval = tuple[float, float]

MOST_APART = 10.0  # ratio of the ends of an interval beyond which no condition number is printed

# Distance from 1 to the next larger number, coarsest format first. TF32 (matrix products on
# NVIDIA's tensor cores) rounds the two factors to 10 bits and stores float32.
EPS = {"bfloat16": 2**-7, "float16": 2**-10, "tf32": 2**-10, "float32": 2**-23, "float64": 2**-52}


@dataclass(frozen=True, kw_only=True)
class FeatureSpectrum:
    """The spectrum of a covariance of features, with 95 % intervals that contain the estimates.

    With fewer than 5 blocks, or more than half of the samples in one, intervals are NaN, and the
    numbers are those of the sample eigenvalues: ranks too low, condition number too high.

    Attributes
    ----------
    eigenvalues : ndarray of shape (d,)
        Of the sample covariance, descending, in the squared units of the features. The covariance
        is divided by n - 1, as in `numpy.cov`, which is unbiased for independent samples. Sample
        eigenvalues spread further than the true ones, which the numbers below allow for.
    condition_number : float
        lambda_1 / lambda_d. Where lambda_d may lie below the noise floor, it is the lower end of
        the interval: a lower bound. NaN when there are too few samples to bound it from above, or
        no variance. Compare networks by the intervals: where the ends of one are more than a
        factor of 10 apart, the number itself is not printed.
    condition_number_is_bound : bool
        Whether it is that lower bound; its interval then has no upper end.
    condition_number_published : float
        lambda_1 over the smallest positive sample eigenvalue, as in published tables, for
        comparison only. When an eigenvalue does not exceed the noise floor, this value depends on
        rounding: it may change by many orders of magnitude from one machine to another, and is not
        printed.
    numerical_rank : int
        Number of sample eigenvalues above the noise floor.
    noise_floor, noise_floor_source : float, str
        Value that an eigenvalue must exceed to be more than rounding, and which arithmetic sets it
        (see the function `noise_floor`).
    effective_rank : float
        exp(-sum p log p), p = lambda / sum(lambda), between 1 and d: Roy & Vetterli (2007),
        EUSIPCO.
    participation_ratio : float
        sum(lambda)^2 / sum(lambda^2), between 1 and d: Gao et al. (2017), bioRxiv 214262.
    top1_fraction, top5_fraction : float
        Share of the variance of the largest and the five largest eigenvalues.
    trace : float
        Total variance, estimated without bias. The sum of the sample eigenvalues is lower if the
        samples of a block depend on each other.
    precision : str
        Of the forward pass: a name in `EPS`.
    n_samples : int
        Rows of features seen.
    n_effective : float
        Number of independent Gaussian samples whose covariance is as uncertain, at most
        `n_samples`: fewer if the samples of a block depend on each other or have heavy tails. NaN
        without intervals.
    n_groups, n_blocks : int
        Distinct groups seen, and the blocks that they were folded into. Intervals resample blocks.
    """

    eigenvalues: Array
    n_samples: int
    n_effective: float
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
        """The condition number as far as it is known.

        `about 78 [34, 172]`, `between 1 and 1160`, `at least 3 (…)`, or why it is unknown.
        """
        low, high = self.condition_number_interval
        if not self.trace > 0:
            return "unknown (the features do not vary)"
        if self.condition_number_is_bound:
            return f"at least {_down(self.condition_number)} ({self.noise_floor_source} floor)"
        if math.isnan(low):
            if math.isnan(self.condition_number):
                return f"unknown ({self._size})"
            return f"{_short(self.condition_number)} (of the sample)"
        if math.isinf(high):
            samples = f"{self.n_effective:,.0f} effective samples"
            return f"at least {_down(low)} ({samples} of {len(self.eigenvalues)} features)"
        if high > MOST_APART * low:
            return f"between {_down(low)} and {_short(high)}"
        return f"about {_short(self.condition_number)}  [{_short(low)}, {_short(high)}]"

    @property
    def condition_number_published_text(self) -> str:
        """The published condition number, or that it depends on rounding."""
        if self.numerical_rank < len(self.eigenvalues):
            return "not resolved, depends on rounding"
        return _short(self.condition_number_published)

    @property
    def _size(self) -> str:
        return f"{self.n_samples:,} samples of {len(self.eigenvalues)} features"

    def __str__(self) -> str:
        words = "group" if self.n_groups == 1 else "groups"
        folded = f" in {self.n_blocks} blocks" if self.n_blocks != self.n_groups else ""
        effective = "unknown" if math.isnan(self.n_effective) else f"{self.n_effective:,.0f}"
        lines = [
            f"{self._size}, {self.precision}, {self.n_groups:,} {words}{folded}",
            _line("effective samples", effective),
            _line("condition number", self.condition_number_text),
            _line("  as published", self.condition_number_published_text),
            _line("numerical rank", str(self.numerical_rank)),
        ]
        for name in _PLAIN:
            value, (low, high) = getattr(self, name), getattr(self, f"{name}_interval")
            ends = "" if math.isnan(low) else f"  [{low:.3g}, {high:.3g}]"
            lines.append(_line(name.replace("_", " "), f"{value:.4g}{ends}"))
        if math.isnan(self.trace_interval[0]) and self.trace > 0:
            reason = refusal(self.n_blocks, largest_share=1.0)
            lines.append(
                f"no intervals: {reason}; the numbers are those of the sample, whose "
                "ranks are too low and condition number too high"
            )
        return "\n".join(lines)


_PLAIN = ("effective_rank", "participation_ratio", "top1_fraction", "top5_fraction", "trace")


def _line(name: str, value: str) -> str:
    return f"{name:<20} {value}"


def _short(value: float, text: str = "") -> str:
    """Return a number with three digits, or in the given text; with an exponent from 1e5 on."""
    text = text or f"{value:.3g}"
    return text if value >= 1e5 else f"{float(text):g}"


def _down(value: float) -> str:
    """Return a lower bound with two digits, never rounded up."""
    return _short(value, rounded_down(value))


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
    values = eigenvalues_of_gram(total.scatter / (total.count - 1))[::-1]
    floor, source = noise_floor(values, second_moment=second_moment, precision=precision)
    reason = refusal(len(blocks), max(block.count for block in blocks) / total.count)
    if reason or not values[0] > 0:
        numbers = _of_the_sample(values, floor, total.count)
    else:
        numbers = estimates(blocks, total, floor)
    condition = numbers["condition_number"]
    positive = values[values > 0]
    named: dict[str, Any] = {}
    for name in ("condition_number", *_PLAIN):
        named |= {name: numbers[name].value, f"{name}_interval": numbers[name][1:]}
    return FeatureSpectrum(
        eigenvalues=np.maximum(values, 0.0),
        n_samples=total.count,
        n_effective=numbers["n_effective"].value,
        n_groups=n_groups,
        n_blocks=len(blocks),
        precision=precision,
        noise_floor=floor,
        noise_floor_source=source,
        numerical_rank=int(np.count_nonzero(values > floor)),
        condition_number_is_bound=math.isinf(condition.high) and not math.isnan(condition.value),
        condition_number_published=float(positive[0] / positive[-1]) if len(positive) else math.nan,
        **named,
    )


def _of_the_sample(values: Array, floor: float, n_samples: int) -> dict[str, Estimate]:
    """Return the numbers of sample eigenvalues, without intervals."""
    numbers = {name: Estimate(value) for name, value in summaries(values).items()}
    if n_samples <= len(values):  # lambda_d is zero for any network
        numbers["condition_number"] = Estimate(math.nan)
    elif values[0] > 0 and values[-1] <= floor:
        limit = float(values[0]) / floor
        numbers["condition_number"] = Estimate(limit, limit, math.inf)
    trace = float(np.maximum(values, 0.0).sum())
    return numbers | {"trace": Estimate(trace), "n_effective": Estimate(math.nan)}


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
