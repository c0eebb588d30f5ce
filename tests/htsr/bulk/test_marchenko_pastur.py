"""The Marchenko-Pastur law of a bulk."""

import math

import numpy as np
import pytest
from scipy import integrate

from specdiag.htsr import esd
from specdiag.htsr.bulk.marchenko_pastur import (
    bulk_variance,
    marchenko_pastur_density,
    marchenko_pastur_distance,
    marchenko_pastur_edge,
)


def distribution(x, ratio):
    """Return the share of the law of unit variance below x, by quadrature of its density."""
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2

    def density(y):
        return math.sqrt(max((high - y) * (y - low), 0)) / (2 * math.pi * ratio * y)

    above, _ = integrate.quad(density, min(max(x, low), high), high, limit=500)
    return 1 - above


@pytest.mark.parametrize("ratio", [1.0, 0.5, 1 / 16, 0.01])
def test_half_of_the_law_lies_below_its_median(ratio):
    shape = (10_000, round(10_000 * ratio))
    median = 1 / bulk_variance(np.ones(3), shape)
    assert distribution(median, ratio) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("shape", [(200, 200), (800, 200), (150, 600)])
def test_the_edge_of_a_gaussian_matrix_is_that_of_its_variance(rng, shape):
    W = rng.normal(scale=3, size=shape)
    ratio = min(shape) / max(shape)
    variance = bulk_variance(esd.eigenvalues(W), shape)
    assert variance == pytest.approx(9, rel=0.03)
    edge = marchenko_pastur_edge(variance, shape)
    assert edge == pytest.approx(9 * (1 + math.sqrt(ratio)) ** 2, rel=0.03)


def test_the_density_is_that_of_random_matrices(rng):
    n, m = 600, 240
    values = esd.eigenvalues(2 * rng.standard_normal((n, m)))
    edges = np.linspace(0.5, 10.7, 13)
    counts, _ = np.histogram(values, edges)
    x = np.linspace(0.5, 10.7, 6001)
    density = marchenko_pastur_density(x, 4.0, m / n)
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-3)
    assert np.trapezoid(x * density, x) == pytest.approx(4, abs=1e-2)
    expected = [np.trapezoid(part, dx=x[1] - x[0]) for part in np.split(density[:-1], 12)]
    np.testing.assert_allclose(counts / m, expected, atol=0.01)


@pytest.mark.parametrize("shape", [(60, 60), (150, 60)])
def test_the_distance_is_that_of_kolmogorov_and_smirnov(rng, shape):
    values = esd.eigenvalues(rng.standard_t(2.5, shape))
    variance = bulk_variance(values, shape)
    below = [distribution(x / variance, min(shape) / max(shape)) for x in values[::-1]]
    n = len(values)
    expected = max(max(f - k / n, (k + 1) / n - f) for k, f in enumerate(below))
    assert marchenko_pastur_distance(values, variance, shape) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", [(300, 300), (1200, 300)])
def test_a_random_matrix_is_within_a_few_eigenvalues_of_the_law(rng, shape):
    values = esd.eigenvalues(rng.standard_normal(shape))
    distance = marchenko_pastur_distance(values, bulk_variance(values, shape), shape)
    assert 0.5 / 300 <= distance < 8 / 300
    heavy = esd.eigenvalues(rng.standard_t(1.5, shape))
    assert marchenko_pastur_distance(heavy, bulk_variance(heavy, shape), shape) > 0.1
