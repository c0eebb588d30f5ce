import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize

from specdiag.htsr.tail.change_points import MIN_SPACINGS
from specdiag.htsr.tail.goodness_of_fit import (
    ALTERNATIVES,
    EVALUATIONS,
    exponential_family,
    goodness_of_fit,
    likelihood_ratios,
    maximise,
)
from specdiag.htsr.tail.power_law import TIE

seeds = st.integers(0, 2**32 - 1)


def pareto(rng, n, alpha):
    return (1 - rng.random(n)) ** (-1 / (alpha - 1))


def test_a_true_power_law_is_rejected_at_no_more_than_the_nominal_rate():
    rng = np.random.default_rng(11)
    p = np.array([goodness_of_fit(pareto(rng, 200, 2.5)) for _ in range(200)])
    assert np.mean(p <= 0.1) <= 0.16  # 0.1 + 3 standard errors
    assert 0.3 < np.median(p) < 0.8


def test_a_spectrum_without_power_law_is_rejected(rng):
    from specdiag.htsr.esd import eigenvalues

    p = [goodness_of_fit(eigenvalues(rng.standard_normal((256, 256)))) for _ in range(10)]
    assert np.mean(np.array(p) < 0.1) >= 0.7


@given(seed=seeds, factor=st.sampled_from([1e-20, 5.0, 1e20]))
def test_the_p_value_does_not_depend_on_the_scale_and_the_seed_reproduces_it(seed, factor):
    x = np.random.default_rng(seed).lognormal(size=80)
    expected = goodness_of_fit(x, seed=seed)
    assert goodness_of_fit(x * factor, seed=seed) == goodness_of_fit(x, seed=seed) == expected
    assert 1 / 301 <= expected <= 1


def plain_p_value(x, seed):
    """The p-value without a short cut: every tail of every replicate is compared with its fit."""
    logs = np.sort(np.log(x))[::-1]
    n = len(logs)
    sizes = np.unique(np.round(np.geomspace(MIN_SPACINGS, n - 1, 48)).astype(int))

    def fit(row):
        fits = [(1.0, math.nan, sizes[0])]
        for k in sizes:
            excess = row[:k].cumsum()[-1] - k * row[k]
            if excess > k * TIE:
                rate = k / excess
                steps = (np.arange(k) + 0.5) / k
                apart = np.abs(np.exp((row[k] - row[:k]) * rate) - steps).max() + 0.5 / k
                fits.append((apart, rate, k))
        return min(fits, key=lambda fit: fit[0])

    distance, beta, k = fit(logs)
    rng = np.random.default_rng(seed)
    used = exceeded = 0
    batch = 40
    while used < 300:
        count = min(batch, 300 - used)
        in_tail = rng.random((count, n)) < k / n
        body = logs[rng.integers(k, n, (count, n))]
        drawn = np.where(in_tail, logs[k] + rng.standard_exponential((count, n)) / beta, body)
        for row in np.sort(drawn)[:, ::-1]:
            used += 1
            exceeded += fit(row)[0] >= distance
            if exceeded == 20:
                return 20 / used
        batch *= 2
    return (exceeded + 1) / 301


@settings(max_examples=25, deadline=None)
@given(seed=seeds, n=st.integers(18, 150), kind=st.sampled_from(["pareto", "body", "rounded"]))
def test_replicates_that_are_decided_early_give_the_same_p_value(seed, n, kind):
    rng = np.random.default_rng(seed)
    x = {
        "pareto": pareto(rng, n, 2.5),
        "body": np.append(rng.random(n - n // 4) + 0.2, pareto(rng, n // 4, 2.0)),
        "rounded": np.round(rng.lognormal(size=n), 1) + 0.1,
    }[kind]
    assert goodness_of_fit(x, seed=seed) == plain_p_value(x, seed)


@settings(max_examples=200, deadline=None)
@given(
    seed=seeds,
    n=st.integers(3, 400),
    spread=st.floats(0.01, 3),
    kind=st.sampled_from(["normal", "exponential", "uniform", "outlier"]),
    curve=st.sampled_from([np.square, np.expm1]),
)
def test_a_likelihood_is_largest_after_few_evaluations(seed, n, spread, kind, curve):
    rng = np.random.default_rng(seed)
    y = {
        "normal": np.abs(rng.normal(size=n)),
        "exponential": rng.exponential(size=n),
        "uniform": rng.random(n),
        "outlier": np.append(rng.random(n), 20.0),
    }[kind] * spread
    moments, evaluated = exponential_family(y, curve), []

    def counted(theta):
        evaluated.append(theta)
        return moments(theta)

    if moments(np.array([1.0, 1e-9]))[1][1] <= 1:
        return  # the power law is the best of the family, and nothing is searched
    best = maximise(counted)
    assert len(evaluated) <= EVALUATIONS == 50
    log_z = moments(best)[0]
    for nearby in best * (1 + rng.normal(scale=[[1e-3], [1e-5]], size=(2, 2))):
        assert -nearby.sum() - moments(nearby)[0] <= -best.sum() - log_z + 1e-12 * abs(log_z)


@pytest.mark.parametrize("x", [[], np.arange(1.0, 17), np.ones(50)])
def test_without_a_tail_there_is_no_p_value(x):
    assert math.isnan(goodness_of_fit(x))


@pytest.fixture(scope="module")
def powerlaw_package():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import powerlaw

    def compare(x, xmin, alternative):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = powerlaw.Fit(x, xmin=xmin, parameter_ranges={"alpha": (1, None)}, verbose=False)
            nested = alternative == "truncated_power_law"
            return fit.distribution_compare("power_law", alternative, nested=nested)

    return compare


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_the_ratios_are_those_of_the_powerlaw_package(rng, powerlaw_package, alternative):
    x = np.append(np.exp(np.abs(rng.normal(0.4, 0.8, size=300))), 1.0)  # bends down
    ratio, p = likelihood_ratios(x, 1.0)[alternative]
    expected_ratio, expected_p = powerlaw_package(x, 1.0, alternative)
    if alternative == "truncated_power_law":
        # The package may stop before the maximum of the likelihood; the test below finds it, too.
        assert ratio <= expected_ratio + 1e-6
    else:
        assert ratio == pytest.approx(expected_ratio, rel=2e-3)
        assert p == pytest.approx(expected_p, rel=2e-2)


def brute_force(y, curve):
    """Return the log-likelihood of the best exp(-a y - b curve(y)) on y >= 0, b > 0."""
    grid = np.linspace(0, 40 * y.mean(), 40_001)
    with np.errstate(over="ignore"):
        bent = np.minimum(curve(grid), 1e300)

    def negative(theta):
        exponent = -theta[0] * grid - math.exp(theta[1]) * bent
        top = exponent.max()
        log_z = top + math.log(integrate.simpson(np.exp(exponent - top), x=grid))
        return (theta[0] * y + math.exp(theta[1]) * curve(y)).sum() + len(y) * log_z

    starts = [(1 / y.mean(), math.log(1e-3)), (0.0, 0.0), (-1.0, 0.0)]
    return -min(optimize.minimize(negative, s, method="Nelder-Mead").fun for s in starts)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("alternative", "curve"), [("lognormal", np.square), ("truncated_power_law", np.expm1)]
)
def test_the_alternative_has_the_largest_likelihood_of_its_family(seed, alternative, curve):
    rng = np.random.default_rng(seed)
    x = pareto(rng, 60, 2.2) if seed % 2 else np.exp(np.abs(rng.normal(0.5, 0.7, 60)))
    y = np.log(x)
    power_law = -len(y) * math.log(y.mean()) - len(y)
    ratio, _ = likelihood_ratios(x, 1.0)[alternative]
    assert power_law - ratio == pytest.approx(brute_force(y, curve), abs=2e-3)


@given(seed=seeds, n=st.integers(3, 200))
def test_an_alternative_that_contains_the_power_law_never_fits_worse(seed, n):
    x = np.random.default_rng(seed).lognormal(sigma=1.5, size=n)
    ratios = likelihood_ratios(x, x.min())
    assert set(ratios) == set(ALTERNATIVES)
    for name in ("lognormal", "truncated_power_law", "stretched_exponential"):
        ratio, p = ratios[name]
        assert ratio <= 1e-6
        assert 0 <= p <= 1


def test_a_tail_of_two_values_has_no_ratio():
    assert all(math.isnan(r) for r, _ in likelihood_ratios([1.0, 1.0, 2.0], 1.0).values())


@pytest.mark.parametrize(
    ("tail", "xmin"), [([1.0, 2.0, 3.0], 0.0), ([1.0, 2.0, 3.0], 2.0), ([1.0, 2.0], math.nan)]
)
def test_a_tail_that_reaches_below_xmin_is_refused(tail, xmin):
    with pytest.raises(ValueError, match="expected a positive number, no eigenvalue below it"):
        likelihood_ratios(tail, xmin)
