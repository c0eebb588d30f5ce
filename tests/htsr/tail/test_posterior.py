import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammainc
from scipy.stats import gamma

from specdiag.htsr.tail.posterior import (
    BODY_BLOCKS,
    BODY_RATE,
    BODY_SHAPE,
    MIN_SPACINGS,
    TAIL_RATE,
    TAIL_SHAPE,
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


def slow_windows(x):
    """Compute the formula of the module's docstring, one window and one block at a time."""
    x = np.sort(x)[::-1]
    E = [i * math.log(x[i - 1] / x[i]) for i in range(1, len(x))]
    scale = np.median(E) / math.log(2)

    def log_m(a, b, values):
        k, S = len(values), sum(values)
        return a * math.log(b) - math.lgamma(a) + math.lgamma(a + k) - (a + k) * math.log(b + S)

    sizes, scores = range(MIN_SPACINGS, len(E) + 1), []
    for k in sizes:
        m = len(E) - k
        score = -math.log(k + 1) + log_m(TAIL_SHAPE, TAIL_RATE, E[:k])
        n_blocks = max(1, round(BODY_BLOCKS * m ** (1 / 3)))
        edges = [k + math.floor(j / n_blocks * m + 0.5) for j in range(n_blocks + 1)]
        for low, high in itertools.pairwise(edges):
            score += log_m(BODY_SHAPE, BODY_RATE * scale, E[low:high]) if high > low else 0
        scores.append(score)
    weights = np.exp(np.array(scores) - max(scores))
    return np.array(sizes), np.array([sum(E[:k]) for k in sizes]), weights / weights.sum()


@given(seed=seeds, n=st.integers(20, 120), alpha=st.floats(1.3, 6))
def test_the_windows_are_those_of_the_formula(seed, n, alpha):
    x = with_body(np.random.default_rng(seed), n // 2, n - n // 2, alpha)
    logs = np.log(np.sort(x)[::-1])
    for ours, expected in zip(windows(logs), slow_windows(x), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-12)


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


@pytest.mark.parametrize(
    ("n_tail", "n_body", "alpha"), [(128, 0, 2.0), (64, 64, 2.5), (64, 192, 3.0), (128, 384, 1.5)]
)
def test_the_interval_covers_the_exponent_of_simulated_tails(n_tail, n_body, alpha):
    """Repeat a part of the calibration: 200 spectra; 0.95 +- 3.3 standard errors is 0.90 to 1."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(200):
        low, high = alpha_posterior(with_body(rng, n_tail, n_body, alpha)).interval
        hits += low <= alpha <= high
    assert hits >= 180


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
        np.geomspace(1e-300, 1e300, 100),
        np.linspace(1, 1 + 1e-6, 100),
    ],
    ids=["two values", "ties", "one spike", "a gap", "600 decades", "nearly equal"],
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
