"""Spikes beyond the bulk, and the Tracy-Widom law that decides about them."""

import math

import numpy as np
import pytest
from scipy.special import airy

from specdiag.htsr import esd
from specdiag.htsr.bulk.marchenko_pastur import bulk_variance
from specdiag.htsr.bulk.tracy_widom import count_spikes, spike_p, tracy_widom_tail


def fredholm_tail(s):
    """Return 1 - det(I - T), T(x, y) = Ai((x + y) / 2) / 2 on (s, oo), by Gauss' quadrature."""
    length = max(16 - s, 8)
    nodes, weights = np.polynomial.legendre.leggauss(80)
    x, w = s + (nodes + 1) / 2 * length, np.sqrt(weights / 2 * length)
    T = w[:, None] * airy(np.add.outer(x, x) / 2)[0] / 2 * w
    return -math.expm1(np.log1p(-np.linalg.eigvalsh(T)).sum())


@pytest.mark.parametrize("s", np.arange(-6.5, 16.1, 0.75))
def test_the_law_is_that_of_its_fredholm_determinant(s):
    rel = 1.5e-3 if s <= 12 else 0.05
    assert tracy_widom_tail(s) == pytest.approx(fredholm_tail(s), rel=rel)


def test_the_law_has_its_published_quantiles():
    # Johnstone (2001), table 1: the 90, 95 and 99 % quantiles.
    tail = tracy_widom_tail(np.array([0.4501, 0.9793, 2.0234]))
    np.testing.assert_allclose(tail, [0.1, 0.05, 0.01], rtol=2e-3)


def spikes_of(W):
    values = esd.eigenvalues(W)
    variance = bulk_variance(values, W.shape)
    return count_spikes(values, variance, W.shape), spike_p(values[0], variance, W.shape)


# None of these shapes is one that the error of the variance was fitted to.
@pytest.mark.parametrize(
    ("shape", "n"), [((56, 55), 800), ((300, 75), 800), ((2000, 60), 300), ((40, 52, 4), 300)]
)
def test_a_gaussian_matrix_has_a_spike_in_about_five_percent_of_cases(rng, shape, n):
    measured = [spikes_of(rng.standard_normal(shape)) for _ in range(n)]
    share = np.mean([count > 0 for count, _ in measured])
    assert abs(share - 0.05) < 4 * math.sqrt(0.05 * 0.95 / n)
    assert all((count > 0) == (p <= 0.05) for count, p in measured)


def test_planted_spikes_are_counted(rng):
    W = rng.standard_normal((400, 100))
    U, _, V = np.linalg.svd(rng.standard_normal((400, 100)), full_matrices=False)
    W += U[:, :4] @ np.diag([60.0, 70.0, 80.0, 90.0]) @ V[:4]
    count, p = spikes_of(W)
    assert count == 4
    assert p < 1e-12


@pytest.mark.parametrize("factor", [1e-60, 1.0, 1e60])
def test_the_scale_of_the_weights_changes_nothing(factor):
    W = np.random.default_rng(3).standard_t(3, (80, 120))
    count, p = spikes_of(W * factor)
    expected_count, expected = spikes_of(W)
    assert count == expected_count
    assert p == pytest.approx(expected, rel=1e-6)
