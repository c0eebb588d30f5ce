import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from specdiag.htsr.tail.alternatives import (
    ALTERNATIVES,
    EVALUATIONS,
    GROWTH,
    SQUARE,
    exponential_family,
    likeliest_shape,
    likelihood_ratios,
    maximise,
    weibull_profile,
)

seeds = st.integers(0, 2**32 - 1)


def pareto(rng, n, alpha):
    return (1 - rng.random(n)) ** (-1 / (alpha - 1))


@settings(max_examples=200, deadline=None)
@given(
    seed=seeds,
    n=st.integers(3, 400),
    spread=st.floats(0.01, 3),
    kind=st.sampled_from(["normal", "exponential", "uniform", "outlier"]),
    curve=st.sampled_from([SQUARE, GROWTH]),
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


@np.errstate(over="ignore")
def exact_moments(y, curve, theta):
    """log Z and the means of both statistics by adaptive quadrature of the density's two sides."""
    mean, level = y.mean(), curve.value(y).mean()

    def bent(x):
        return min(float(curve.value(np.float64(x))) / level, 1e300)

    def exponent(x):
        return -theta[0] * x / mean - theta[1] * bent(x)

    found = optimize.minimize_scalar(
        lambda x: -exponent(x), bounds=(0, 60 * mean), method="bounded"
    )
    mode = max((0.0, float(found.x)), key=exponent)
    width = mean
    while exponent(mode + width) < exponent(mode) - 50:
        width /= 2

    def integral(statistic):
        ends = [max(mode - 2**k * width, 0.0) for k in range(60, -3, -1)] + [mode]
        ends += [mode + 2**k * width for k in range(-3, 12)]
        return sum(
            integrate.quad(
                lambda x: statistic(x) * math.exp(exponent(x) - exponent(mode)), *part, epsabs=1e-14
            )[0]
            for part in pairwise(sorted(set(ends)))
        )

    total = integral(lambda _: 1.0)
    first = integral(lambda x: x / mean) / total
    second = integral(bent) / total
    return exponent(mode) + math.log(total), first, second


@pytest.mark.parametrize("curve", [SQUARE, GROWTH], ids=["square", "growth"])
@pytest.mark.parametrize("theta", [(1.0, 1e-6), (0.3, 0.4), (0.0, 2.0), (-3.0, 2.0), (-40.0, 30.0)])
@pytest.mark.parametrize("spread", [0.02, 1.0, 4.0])
def test_the_moments_of_a_family_are_those_of_adaptive_quadrature(curve, theta, spread):
    y = spread * np.array([0.0, 0.2, 0.5, 1.1, 3.2])
    log_z, first, _ = exponential_family(y, curve)(np.array(theta))
    np.testing.assert_allclose([log_z, *first], exact_moments(y, curve, theta), rtol=1e-8)


@given(seed=seeds, n=st.integers(3, 300), spread=st.floats(0.01, 5))
def test_a_shape_is_likeliest_after_few_evaluations(seed, n, spread):
    y = spread * np.abs(np.random.default_rng(seed).normal(size=n))
    profile, evaluated = weibull_profile(y), []

    def counted(shapes):
        evaluated.extend(shapes)
        return profile(shapes)

    low, high = 1e-4 / y.mean(), min(50 / y.mean(), 300 / y.max())
    best = likeliest_shape(counted, low, high)
    assert len(evaluated) <= EVALUATIONS
    values = profile(np.geomspace(low, high, 5000))[0]
    if best:
        assert profile(np.array([best]))[0][0] >= values.max() - 1e-13
    else:
        assert values.argmax() < 5000 / 31


def test_values_far_above_xmin_have_their_likelihood_in_full():
    y = np.log([100.0, 104.0, 109.0, 95.0, 101.0])
    expected = stats.norm.logpdf(y, y.mean(), y.std()).sum()  # nothing of it is cut at 0
    power_law = -len(y) * math.log(y.mean()) - len(y)
    ratio, _ = likelihood_ratios(np.exp(y), 1.0)["lognormal"]
    assert power_law - ratio == pytest.approx(expected, rel=1e-9)


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
