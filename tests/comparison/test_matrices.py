import math

import ml_dtypes
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import subspace_angles

from specdiag.comparison import matrices
from specdiag.htsr import esd, sameness
from specdiag.htsr.tail.posterior import (
    NO_POSTERIOR,
    alpha_posterior,
    alpha_quantiles,
    mixture_posterior,
)


def spectrum(rng, alpha, n=200):
    return np.sort(1 + rng.pareto(alpha - 1, n))[::-1]


@pytest.fixture
def posteriors(rng):
    return [alpha_posterior(spectrum(rng, alpha)) for alpha in (2.0, 3.0)]


def test_quantiles_of_one_gamma_are_those_of_scipy():
    posterior = mixture_posterior(np.array([12.0]), np.array([9.0]), np.array([1.0]))
    p = np.array([0.01, 0.025, 0.3, 0.5, 0.9, 0.975])
    np.testing.assert_allclose(
        alpha_quantiles(posterior, p), 1 + stats.gamma(12, scale=1 / 9).ppf(p), rtol=3e-5
    )
    assert np.isnan(alpha_quantiles(NO_POSTERIOR, p)).all()


def test_the_difference_of_two_gammas_is_that_of_a_numerical_convolution():
    shapes, rates = (20.0, 35.0), (15.0, 20.0)
    first, second = (
        mixture_posterior(np.array([a]), np.array([b]), np.ones(1))
        for a, b in zip(shapes, rates, strict=True)
    )
    difference = matrices.alpha_difference(first, second)
    a, b = (stats.gamma(k, scale=1 / r) for k, r in zip(shapes, rates, strict=True))

    def below(x):  # P(b - a < x)
        return float(mpmath.quad(lambda t: a.pdf(float(t)) * b.cdf(float(t) + x), [0, 1, 2, 3, 6]))

    assert difference.value == pytest.approx(b.mean() - a.mean())
    assert difference.below_0 == pytest.approx(below(0.0), abs=2e-3)
    assert [below(x) for x in difference.interval] == pytest.approx([0.025, 0.975], abs=1e-3)


def test_exchanging_the_two_changes_every_sign(posteriors):
    there = matrices.alpha_difference(*posteriors)
    back = matrices.alpha_difference(*posteriors[::-1])
    assert there.value == -back.value
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]), rel=1e-12)
    assert there.below_0 == pytest.approx(1 - back.below_0, abs=1e-12)


def test_a_posterior_minus_itself_is_symmetric_about_zero(posteriors):
    difference = matrices.alpha_difference(posteriors[0], posteriors[0])
    assert difference.value == 0
    assert difference.below_0 == 0.5
    assert difference.interval[0] == pytest.approx(-difference.interval[1], rel=1e-12)


def test_without_a_posterior_there_is_no_difference(posteriors):
    for pair in ((NO_POSTERIOR, posteriors[0]), (posteriors[0], NO_POSTERIOR)):
        difference = matrices.alpha_difference(*pair)
        assert np.isnan([difference.value, *difference.interval, difference.below_0]).all()


@given(st.floats(1e-6, 1e6), st.integers(0, 2**31))
def test_the_spectral_distance_has_no_scale_and_is_that_of_quantiles(scale, seed):
    rng = np.random.default_rng(seed)
    a, b = spectrum(rng, 2.0, 60), spectrum(rng, 3.0, 60)
    distance = matrices.spectral_distance(a, b)
    assert matrices.spectral_distance(a, scale * b) == pytest.approx(distance, rel=1e-9)
    # If both have the same number of points, the optimal plan pairs them in order.
    assert distance == pytest.approx(
        np.mean(np.abs(np.log10(a / a.mean()) - np.log10(b / b.mean())))
    )
    assert matrices.spectral_distance(a, a) == 0
    assert math.isnan(matrices.spectral_distance(a, np.empty(0)))


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), m=st.integers(1, 40))
def test_the_spectral_distance_is_that_of_scipy_for_spectra_of_any_sizes(seed, n, m):
    rng = np.random.default_rng(seed)
    first, second = np.round(rng.pareto(2, n) + 1, 1), np.round(rng.pareto(3, m) + 1, 1)
    logs = [np.log10(x / x.mean()) for x in (first, second)]
    expected = stats.wasserstein_distance(*logs)
    assert matrices.spectral_distance(first, second) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (25, 25)])
def test_the_overlap_is_that_of_the_principal_angles_of_scipy(rng, shape):
    A = rng.standard_normal(shape)
    B = A + rng.standard_normal(shape)
    U, _, Vt = np.linalg.svd(A)
    P, _, Qt = np.linalg.svd(B)
    expected = [
        np.mean(np.cos(subspace_angles(x[:, :4], y[:, :4])) ** 2) for x, y in ((U, P), (Vt.T, Qt.T))
    ]
    assert matrices.subspace_overlap(A, B, 4) == pytest.approx(expected, rel=1e-9)


def test_the_overlap_of_the_same_space_is_one_and_of_orthogonal_ones_zero(rng):
    Q = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    A = Q[:, :3] @ np.diag([3.0, 2.0, 1.0]) @ Q[:3, :10]
    B = Q[:, 3:6] @ np.diag([3.0, 2.0, 1.0]) @ Q[3:6, :10]
    assert matrices.subspace_overlap(A, 7 * A, 3) == pytest.approx((1, 1))
    assert matrices.subspace_overlap(A, B, 3)[0] == pytest.approx(0, abs=1e-12)
    assert np.isnan(matrices.subspace_overlap(A, B, 0)).all()


def test_the_change_by_training_is_separated_from_rounding(rng):
    A = rng.standard_normal((120, 80))
    added = 1e-3 * rng.standard_normal((120, 3)) @ rng.standard_normal((3, 80))
    stored = [W.astype(np.float32).astype(np.float64) for W in (A, A + added)]
    floor = sum(esd.storage_floor(esd.eigenvalues(W), W.shape, np.float32) for W in stored)
    spectrum, gate = matrices.added_eigenvalues(*stored, floor)
    assert np.count_nonzero(spectrum > gate) == 3
    np.testing.assert_allclose(spectrum[:3], esd.eigenvalues(added)[:3], rtol=1e-3)


def same(A, B, dtypes=(np.float32, np.float32)):
    """Return whether two matrices, stored in the given dtypes, have the same spectrum."""
    stored = [W.astype(dtype) for W, dtype in zip((A, B), dtypes, strict=True)]
    spectra = [esd.eigenvalues(W) for W in stored]
    shifts = [
        sameness.rounding_shift(s, W.shape, W.dtype, np.abs(W.astype(float)).max())
        for s, W in zip(spectra, stored, strict=True)
    ]
    return sameness.same_spectrum(*spectra, *shifts)


@pytest.fixture(scope="module")
def heavy():
    rng = np.random.default_rng(7)
    U, _, Vt = np.linalg.svd(rng.standard_normal((384, 256)), full_matrices=False)
    return U * np.sqrt(1 + rng.pareto(1.5, 256)) @ Vt


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_rotated_or_rescaled_matrix_has_the_same_spectrum(heavy, rng, dtype):
    Q = np.linalg.qr(rng.standard_normal((256, 256)))[0]
    assert same(heavy, heavy @ Q, (dtype, dtype))
    assert same(heavy, 3.7 * heavy, (dtype, dtype))


def test_a_rescaled_matrix_of_few_large_entries_has_the_same_spectrum(rng):
    W = rng.standard_cauchy((300, 200))
    for dtype in (np.float32, np.float64):
        assert same(W, 1.1 * W, (dtype, dtype))


def test_a_rotation_computed_in_float32_has_the_same_spectrum(heavy, rng):
    Q = np.linalg.qr(rng.standard_normal((256, 256)))[0].astype(np.float32)
    assert same(heavy, heavy.astype(np.float32) @ Q)


@pytest.mark.parametrize(
    ("dtype", "distance"), [(np.float64, 1e-9), (np.float32, 1e-4), (ml_dtypes.bfloat16, 0.02)]
)
def test_a_small_change_of_the_weights_is_not_rounding(heavy, rng, dtype, distance):
    change = distance * np.sqrt(np.mean(heavy**2)) * rng.standard_normal(heavy.shape)
    assert not same(heavy, heavy + change, (dtype, dtype))


def test_spectra_of_other_sizes_or_of_nothing_are_not_the_same(heavy):
    a = esd.eigenvalues(heavy)
    shift = sameness.rounding_shift(a, heavy.shape, np.float64, 1.0)
    assert not sameness.same_spectrum(a, a[:-1], shift, shift[:-1])
    assert not sameness.same_spectrum(a, 0 * a, shift, shift)


@pytest.mark.parametrize(
    ("dtype", "distance"), [(np.float64, 1e-14), (np.float32, 1e-6), (ml_dtypes.bfloat16, 0.02)]
)
def test_a_small_change_is_neither_rounding_nor_a_rotation(heavy, rng, dtype, distance):
    eps = esd.precision(dtype)[0]
    change = distance * np.sqrt(np.mean(heavy**2)) * rng.standard_normal(heavy.shape)
    Q = np.linalg.qr(rng.standard_normal((256, 256)))[0]
    stored, moved, rotated, *rescaled = (
        W.astype(dtype).astype(float)
        for W in (heavy, heavy + change, heavy @ Q, *(c * heavy for c in (0.013, 0.4, 3.7, 5.7)))
    )
    assert matrices.is_small_change(stored, moved, eps)
    assert not matrices.is_small_change(stored, rotated, eps)
    assert [matrices.is_small_change(stored, scaled, eps) for scaled in rescaled] == [False] * 4
