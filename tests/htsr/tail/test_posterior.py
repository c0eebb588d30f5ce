import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammainc
from scipy.stats import gamma

from specdiag.htsr.tail.change_points import CHANGES, NO_BODY, RATES, layout
from specdiag.htsr.tail.posterior import (
    MIN_WINDOW,
    OUTLIERS,
    OUTLIERS_PRIOR,
    SHORT_PRIOR,
    SHORT_TAIL,
    alpha_posterior,
    mixture_posterior,
    posterior_mean,
    windows,
)

seeds = st.integers(0, 2**32 - 1)


def pareto(rng, n, alpha):
    return (1 - rng.random(n)) ** (-1 / (alpha - 1))


def with_body(rng, n_tail, n_body, alpha):
    return np.concatenate([pareto(rng, n_tail, alpha), rng.uniform(0.1, 1, n_body)])


def evidence(rate, count, total):
    """Integrate a Gamma(1, rate) prior times the likelihood of exponential spacings, numerically.

    With h = exp(v), the integrand is smooth and vanishes at both ends.
    """
    v, step = np.linspace(-45, 25, 70_001, retstep=True)
    log_density = math.log(rate) + (1 + count) * v - (rate + total) * np.exp(v)
    return float(np.log(np.exp(log_density - log_density.max()).sum() * step) + log_density.max())


def segmentations(edges):
    """Yield every way to cut the edges into segments, as lists of the positions of their ends."""
    last = len(edges) - 1
    for chosen in itertools.product([False, True], repeat=max(last - 1, 0)):
        yield [0, *(i + 1 for i, cut in enumerate(chosen) if cut), *([last] if last else [])]


def log_body(E, edges, scale):
    """Sum the evidence of a body over all segmentations, one by one."""
    scores = []
    for changes in CHANGES:
        for ends in segmentations(edges):
            score = -math.log(len(CHANGES))
            for t, u in itertools.pairwise(ends):
                # The hazard stays to the start of the last bin, and changes within it.
                score -= changes * math.log2(edges[u - 1] / edges[t])
                if u < len(edges) - 1:
                    score += math.log(1 - (edges[u - 1] / edges[u]) ** (changes / math.log(2)))
                part = E[edges[t] : edges[u]]
                g = [evidence(r * scale, len(part), sum(part)) for r in RATES]
                score += np.logaddexp(*g) - math.log(2)
            scores.append(score)
    return np.logaddexp.reduce(scores)


def slow_windows(x):
    """Compute the formulas of the modules' docstrings by enumeration and numerical integration."""
    x = np.sort(x)[::-1]
    E = [i * math.log(x[i - 1] / x[i]) for i in range(1, len(x))]
    scale = np.median(E) / math.log(2)
    edges = layout(len(E)).ends
    place = np.log2(edges)
    prior = np.log([*np.diff(place), NO_BODY])
    scores = []
    for t, end in enumerate(edges):
        below = log_body(E, edges[t:], scale) if t < len(edges) - 1 else 0
        for outliers in OUTLIERS:
            if end - outliers < MIN_WINDOW:
                continue
            score = prior[t] + below
            score += SHORT_PRIOR * math.log(min((end - outliers + 1) / SHORT_TAIL, 1))
            # Flat prior: Gamma(1, r) of density r in the limit of small r.
            score += evidence(1e-12, end - outliers, sum(E[outliers:end])) - math.log(1e-12)
            if outliers:
                score += math.log(OUTLIERS_PRIOR / (len(OUTLIERS) - 1))
                score += evidence(scale, outliers, sum(E[:outliers]))
            else:
                score += math.log(1 - OUTLIERS_PRIOR)
            scores.append((outliers, end, sum(E[outliers:end]), score))
    outliers, ends, totals, score = map(np.array, zip(*sorted(scores), strict=True))
    weights = np.exp(score - score.max())
    return ends, outliers, totals, weights / weights.sum()


@settings(max_examples=6, deadline=None)
@given(seed=seeds, n=st.integers(17, 40), alpha=st.floats(1.3, 6))
def test_the_windows_are_those_of_the_formula(seed, n, alpha):
    x = with_body(np.random.default_rng(seed), n // 2, n - n // 2, alpha)
    logs = np.log(np.sort(x)[::-1])
    for ours, expected in zip(windows(logs), slow_windows(x), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-9)


@given(seed=seeds, n=st.integers(16, 3000))
def test_the_last_eigenvalues_do_not_move_the_edges_at_the_top(seed, n):
    more = n + np.random.default_rng(seed).integers(1, 50)
    one, other = layout(n).ends, layout(int(more)).ends
    shared = one[one < n / 8]
    np.testing.assert_array_equal(shared, other[: len(shared)])


@given(seed=seeds, power=st.floats(0.3, 4))
def test_singular_values_and_eigenvalues_agree(seed, power):
    """alpha - 1 of lambda^p is that of lambda divided by p."""
    x = with_body(np.random.default_rng(seed), 60, 60, 2.2)
    one, other = alpha_posterior(x), alpha_posterior(x**power)
    assert (other.mean - 1) * power == pytest.approx(one.mean - 1, rel=1e-6)
    assert (other.interval[1] - 1) * power == pytest.approx(one.interval[1] - 1, rel=1e-4)


@given(seed=seeds, n=st.integers(1, 40))
def test_the_mixture_is_that_of_scipy(seed, n):
    rng = np.random.default_rng(seed)
    shape, weight = rng.uniform(16, 3000, n), rng.dirichlet(np.ones(n))
    rate = shape / rng.uniform(0.5, 4, n)
    posterior = mixture_posterior(shape, rate, weight)

    def cdf(alpha):
        return weight @ gammainc(shape, rate * max(alpha - 1, 0))

    assert posterior.mean == pytest.approx(1 + weight @ (shape / rate), rel=1e-12)
    second = weight @ (gamma.var(shape, scale=1 / rate) + gamma.mean(shape, scale=1 / rate) ** 2)
    assert posterior.sd == pytest.approx(math.sqrt(second - (posterior.mean - 1) ** 2), rel=1e-6)
    assert cdf(posterior.interval[0]) == pytest.approx(0.025, abs=2e-5)
    assert cdf(posterior.interval[1]) == pytest.approx(0.975, abs=2e-5)
    assert posterior.below_2 == pytest.approx(cdf(2), abs=2e-5)
    assert posterior.rope == pytest.approx(cdf(2.1) - cdf(1.9), abs=4e-5)


@given(seed=seeds, factor=st.sampled_from([1e-24, 0.02, 3.0, 1e24]))
def test_the_posterior_does_not_depend_on_the_scale(seed, factor):
    x = with_body(np.random.default_rng(seed), 60, 60, 2.2)
    one, other = alpha_posterior(x), alpha_posterior(x * factor)
    for name in ("mean", "sd", "below_2", "rope", "n_tail", "short_tail", "n_windows"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9, abs=1e-12)
    assert other.interval == pytest.approx(one.interval, rel=1e-9)
    assert other.xmin == pytest.approx(one.xmin * factor, rel=1e-9)


def smooth(rng, n, alpha):
    """Draw from x^-alpha above 1, an eighth of the values, and x^-(alpha - 0.7) below, continuous.

    Nothing marks this junction: the hazard of log x leaves alpha - 1 without a jump.
    """
    body, mass = alpha - 1.7, 7 / (alpha - 1)  # exponent of the integral, mass below over f(1)
    low = (1 + body * mass * rng.random(n)) ** (-1 / body)
    return np.where(rng.random(n) < 1 / 8, pareto(rng, n, alpha), low)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: pareto(rng, 128, 2.5),
        lambda rng: with_body(rng, 64, 64, 2.5),
        lambda rng: with_body(rng, 512, 512, 2.5),
        lambda rng: smooth(rng, 2048, 2.5),
        lambda rng: pareto(rng, 300, 2.5) * np.repeat([4, 1], [3, 297]),
    ],
    ids=["no body", "short tail", "long tail on a uniform body", "smooth bend", "three outliers"],
)
def test_the_interval_covers_the_exponent_of_simulated_tails(draw):
    """Repeat a part of the calibration: 150 spectra; 0.95 - 3.3 standard errors is 0.89."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(150):
        low, high = alpha_posterior(draw(rng)).interval
        hits += low <= 2.5 <= high
    assert hits >= 133


def test_the_interval_on_a_jump_is_at_most_twice_that_with_known_xmin(rng):
    widths = [np.ptp(alpha_posterior(with_body(rng, 512, 512, 2.0)).interval) for _ in range(20)]
    assert np.median(widths) < 2 * 3.92 / math.sqrt(512)


def test_the_windows_are_the_posterior_of_xmin(rng):
    """Test that longer tails get larger sizes, which are rarely too large: the prior is small."""
    posteriors = {
        n: [alpha_posterior(with_body(rng, n, 500 - n, 2.0)) for _ in range(20)] for n in (40, 300)
    }
    sizes = {n: np.mean([p.n_tail for p in many]) for n, many in posteriors.items()}
    assert sizes[40] < sizes[300] < 300
    for p in posteriors[300]:
        assert p.weights.sum() == pytest.approx(1)
        assert p.n_tail == pytest.approx(p.windows @ p.weights)
        assert p.short_tail == pytest.approx(p.weights[p.windows < 30].sum())
        assert 1 <= p.n_windows <= len(p.windows)
    assert np.median([p.xmin for p in posteriors[300]]) >= 0.9


def test_outliers_above_the_tail_are_counted_and_change_alpha_little(rng):
    x = with_body(rng, 200, 200, 2.0)
    x[np.argsort(x)[-4:]] *= 50
    posterior = alpha_posterior(x)
    assert posterior.n_outliers > 2
    assert alpha_posterior(with_body(rng, 200, 200, 2.0)).n_outliers < 2
    assert posterior.interval[0] < 2.0 < posterior.interval[1]


def test_a_short_tail_has_a_high_probability_of_being_short(rng):
    short = [alpha_posterior(with_body(rng, 18, 400, 2.0)).short_tail for _ in range(20)]
    assert np.mean(np.array(short) > 0.5) > 0.7


@pytest.mark.parametrize(
    "x",
    [
        np.repeat([1.0, 2.0], 40),
        np.repeat([1.0, 2.0, 5.0, 7.0], 10),
        np.concatenate([[1e12], np.linspace(1, 2, 80)]),
        np.concatenate([np.linspace(1, 2, 60), np.linspace(1e6, 2e6, 60)]),
        np.concatenate([np.linspace(1, 50, 200), np.full(1000, 0.9)]),
        np.concatenate([np.linspace(1, 50, 200), np.full(1000, 2.0)]),
        np.concatenate([np.linspace(1, 50, 200), np.full(1000, 99.0)]),
        np.geomspace(1e-300, 1e300, 100),
        np.linspace(1, 1 + 1e-6, 100),
    ],
    ids=[
        "two values",
        "ties",
        "one spike",
        "a gap",
        "ties below",
        "ties within",
        "ties above",
        "600 decades",
        "nearly equal",
    ],
)
def test_unusual_spectra_have_a_finite_posterior(x):
    posterior = alpha_posterior(x)
    low, high = posterior.interval
    assert 1 < low < high < math.inf
    assert low < posterior.mean < high
    assert 0 <= posterior.rope <= 1
    assert posterior_mean(np.sort(x)[::-1]) == pytest.approx(posterior.mean, rel=1e-5)


@pytest.mark.parametrize("x", [[], [1.0] * 15, np.ones(80), np.arange(1.0, 16)])
def test_without_enough_distinct_values_there_is_no_posterior(x):
    assert math.isnan(alpha_posterior(x).mean)


def test_invalid_eigenvalues_are_refused():
    with pytest.raises(ValueError, match=r"eigenvalues have shape \(2, 2\)"):
        alpha_posterior(np.ones((2, 2)))
    with pytest.raises(ValueError, match="eigenvalues must be positive and finite"):
        alpha_posterior(np.zeros(20))
