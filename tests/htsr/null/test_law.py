import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp, kstest, skewnorm

from benchmarks import null_law
from benchmarks._results import read
from specdiag.htsr.esd import eigenvalues
from specdiag.htsr.null import draws, law
from specdiag.htsr.tail.posterior import posterior_mean


def alpha_of_noise(rng, shape):
    return posterior_mean(eigenvalues(rng.standard_normal(shape)))


@pytest.mark.parametrize("shape", [(60, 60), (200, 50), (12, 6, 3, 3)])
def test_the_tridiagonal_model_draws_the_alphas_of_gaussian_matrices(rng, shape):
    sizes = (max(shape[:2]), min(shape[:2]), math.prod(shape[2:]))
    drawn = [posterior_mean(draws.gaussian_spectrum(rng, *sizes)) for _ in range(400)]
    direct = [alpha_of_noise(rng, shape) for _ in range(400)]
    assert ks_2samp(drawn, direct).pvalue > 0.01


@pytest.mark.parametrize("shape", [(128, 128), (70, 512), (96, 64), (40, 24, 3, 3), (64, 3, 7, 7)])
def test_p_values_of_gaussian_matrices_are_uniform(shape):
    rng = np.random.default_rng(3)
    p = [law.p_value(alpha_of_noise(rng, shape), shape) for _ in range(200)]
    assert kstest(p, "uniform").pvalue > 0.01


@given(st.floats(-6, 6), st.floats(-8, 8))
def test_the_distribution_function_is_that_of_scipy(z, a):
    mean, variance, skewness = map(float, skewnorm.stats(a, moments="mvs"))
    expected = skewnorm.cdf(mean + z * math.sqrt(variance), a)
    assert law.skew_normal_cdf(z, skewness) == pytest.approx(expected, abs=1e-9)


@given(
    st.lists(st.floats(1, 1e3), min_size=2, max_size=6),
    st.sampled_from([(64, 64), (50, 4000), (3000, 700), (30000, 9000), (64, 3, 7, 7), (30, 25)]),
)
def test_p_rises_with_alpha_and_stays_within_its_limits(alphas, shape):
    p = [law.p_value(alpha, shape) for alpha in sorted(alphas)]
    assert p == sorted(p)
    assert law.LEAST_P <= p[0] <= p[-1] <= 1
    assert law.p_value(alphas[0], (*shape[1::-1], *shape[2:])) == law.p_value(alphas[0], shape)


def test_an_alpha_that_is_missing_or_infinite_has_the_p_of_its_limit():
    assert math.isnan(law.p_value(math.nan, (64, 64)))
    assert law.p_value(math.inf, (64, 64)) == 1
    assert law.p_value(1.0, (64, 64)) == law.LEAST_P
    assert math.isnan(law.p_value(2.0, (100, 16)))  # no posterior
    assert np.isnan(law.quantiles((100, 16), [0.5])).all()


def test_small_shapes_are_drawn_anew_with_the_same_result():
    rng = np.random.default_rng(4)
    p = [law.p_value(alpha_of_noise(rng, (60, 30)), (60, 30)) for _ in range(200)]
    assert kstest(p, "uniform").pvalue > 0.01
    first = draws.small_shape(60, 30, 1)
    draws.small_shape.cache_clear()
    np.testing.assert_array_equal(draws.small_shape(60, 30, 1), first)
    assert law.p_value(1.01, (60, 30)) == 1 / (1 + draws.DRAWS)


def test_the_law_is_continuous_with_the_draws_of_small_shapes():
    below, above = law.quantiles((100, 49), [0.05, 0.5]), law.quantiles((100, 50), [0.05, 0.5])
    np.testing.assert_allclose(below, above, rtol=0.04)


def test_a_matrix_beyond_the_design_is_compared_with_a_smaller_one():
    at, beyond = law.moments((law.LARGEST, law.LARGEST)), law.moments((60_000, 60_000))
    assert beyond == pytest.approx(at)
    assert law.p_value(20.0, (60_000, 60_000)) == pytest.approx(
        law.p_value(20.0, (law.LARGEST, law.LARGEST))
    )


@pytest.mark.parametrize("shape", [(128, 128), (384, 1536), (64, 64, 3, 3), (60, 30)])
def test_quantiles_have_their_p_values(shape):
    p = np.array([0.01, 0.05, 0.5, 0.95])
    found = [law.p_value(alpha, shape) for alpha in law.quantiles(shape, p)]
    np.testing.assert_allclose(found, p, atol=2e-3)


def test_the_shipped_law_is_the_fit_of_the_committed_design():
    """Test that law.json gives the moments in the CSV file, and that those fit what was drawn."""
    rows = read("null_law_design")
    assert len(rows) > 100
    errors = []
    for row in rows[::7]:
        mean, sd, skewness = law.moments((int(row["N"]), int(row["M"]), int(row["slices"])))
        fitted = [row["fitted_mean"], row["fitted_sd"], row["fitted_skewness"]]
        np.testing.assert_allclose([mean, sd, skewness], fitted, rtol=1e-4, atol=1e-5)
        errors.append((row["mean"] - mean) / sd * math.sqrt(row["count"]))
    assert np.sqrt(np.mean(np.square(errors))) < 2


def test_the_benchmark_fits_the_law_that_it_drew(rng):
    """Test the fit on draws from a known law: it gives the known moments."""
    shapes = [(round(M * ratio), M, 1) for M in null_law.SIZES for ratio in null_law.RATIOS]
    known = {shape: law.moments(shape) for shape in shapes}
    drawn = {s: rng.normal(mean, sd, 400) for s, (mean, sd, _) in known.items()}
    made = null_law.fit(drawn, null_law.MATRIX_TERMS)
    for N, M, _ in [(310, 300, 1), (5000, 70, 1)]:
        found = sum(law.basis(t, N, M, 1) @ np.array(t["coefficients"]) for t in made["mean"])
        mean, sd, _ = law.moments((N, M))
        assert found - math.log(null_law.tau(N, M)) == pytest.approx(mean, abs=0.1 * sd)


def test_the_nodes_of_the_quadrature_are_those_of_numpy_bit_by_bit():
    assert np.array_equal(law.legendre(), np.polynomial.legendre.leggauss(64))
