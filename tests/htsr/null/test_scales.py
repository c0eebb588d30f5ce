import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import polygamma

from specdiag.htsr.null import scales
from specdiag.htsr.null.scales import balanced, fourth_moment


def matrix(seed, n=60, m=40):
    return np.random.default_rng(seed).standard_normal((n, m))


def scaled(seed, row_sd, column_sd, n=60, m=40):
    rng = np.random.default_rng(seed)
    r, c = np.exp(row_sd * rng.standard_normal(n)), np.exp(column_sd * rng.standard_normal(m))
    return r[:, None] * rng.standard_normal((n, m)) * c


@given(st.integers(0, 1000), st.floats(1, 3), st.floats(1, 3))
def test_rows_and_columns_get_the_same_mean_square(seed, row_sd, column_sd):
    (Z,) = balanced(scaled(seed, row_sd, column_sd)).slices
    # What remains is at most the noise of the scales of Gaussian entries.
    for axis, noise in ((0, 1 / 60), (1, 1 / 40)):
        logs = np.log((Z**2).mean(axis=axis)) / 2
        assert logs.var() < noise / 2
        assert abs(logs.mean()) < 0.1


@given(st.integers(0, 1000), st.floats(-30, 30), st.booleans())
def test_a_common_factor_a_sign_and_transposition_change_nothing(seed, log_factor, turned):
    W = scaled(seed, 0.5, 0.3)
    first, row_sd, column_sd, offset = balanced(W)
    other = -np.exp(log_factor) * W
    again, *sds = balanced(other.T if turned else other)
    assert sds == pytest.approx(
        [*([column_sd, row_sd] if turned else [row_sd, column_sd]), offset], abs=1e-3
    )
    again = again.transpose(0, 2, 1) if turned else again
    np.testing.assert_allclose(again, -first, atol=5e-3)


@given(st.integers(0, 1000))
def test_a_permutation_of_rows_and_columns_permutes_the_result(seed):
    rng = np.random.default_rng(seed)
    W = scaled(seed, 0.5, 0.3)
    rows, columns = rng.permutation(60), rng.permutation(40)
    again, *sds = balanced(W[rows][:, columns])
    first, *expected = balanced(W)
    np.testing.assert_allclose(again, first[:, rows][:, :, columns], atol=1e-4)
    assert sds == pytest.approx(expected, abs=1e-5)


@given(st.integers(0, 1000), st.floats(0.5, 2))
def test_large_scales_are_removed_as_if_they_had_not_been(seed, sd):
    """Test that what depends on the scales is only what shrinkage leaves of them."""
    rng = np.random.default_rng(seed)
    W = scaled(seed, 1, 1)
    r, c = np.exp(sd * rng.standard_normal((60, 1))), np.exp(sd * rng.standard_normal(40))
    first, again = balanced(W).slices, balanced(r * W * c).slices
    assert np.sqrt(np.mean((first - again) ** 2)) < 0.1


def test_a_gaussian_matrix_is_left_almost_alone():
    changes = []
    for seed in range(20):
        W = matrix(seed, 128, 128)
        (Z,), row_sd, column_sd, offset_share = balanced(W)
        changes.append(np.sqrt(np.mean((Z - W) ** 2)))
        assert max(row_sd, column_sd) < 0.05
        assert offset_share < 0.002
    assert np.mean(changes) < 0.03


@pytest.mark.parametrize("sd", [0.1, 0.3, 1.0])
def test_the_sds_are_those_of_the_scales(sd):
    found = [balanced(scaled(seed, sd, 0, 300, 200))[1:] for seed in range(10)]
    row_sd, column_sd, offset_share = np.mean(found, axis=0)
    assert row_sd == pytest.approx(sd, rel=0.2)
    assert column_sd < 0.03
    assert offset_share < 0.002


def test_the_noise_of_the_scales_is_that_of_chi_square_numbers():
    for size in (1, 2, 3, 10, 100, 5000):
        assert scales._noise(size) == pytest.approx(polygamma(1, size / 2) / 4, rel=1e-6)


def test_an_offset_is_removed():
    for offset in (0.1, 1.0, 100.0):
        W = matrix(1, 200, 100) + offset
        (Z,), _, _, share = balanced(W)
        assert share == pytest.approx(offset**2 / (1 + offset**2), abs=0.01)
        assert np.linalg.svd(Z, compute_uv=False)[0] < 1.1 * (math.sqrt(200) + math.sqrt(100))


def test_rows_columns_and_slices_of_zeros_are_left_out():
    W = np.random.default_rng(2).standard_normal((30, 20, 3, 3))
    W[4], W[:, 5], W[:, :, 0] = 0, 0, 0
    assert balanced(W).slices.shape == (6, 29, 19)
    np.testing.assert_array_equal(
        balanced(W).slices, balanced(np.delete(np.delete(W, 4, 0), 5, 1)[:, :, 1:]).slices
    )


@pytest.mark.parametrize("size", [1e-20, 1e-30, 3e-39])
def test_dead_channels_count_as_zeros(size):
    W = matrix(5).astype("f4")
    W[[3, 7]] *= np.float32(size)
    W[:, 11] *= np.float32(size)
    dead = W.copy()
    dead[[3, 7]] = dead[:, 11] = 0
    slices, *sds = balanced(W)
    expected, *expected_sds = balanced(dead)
    np.testing.assert_array_equal(slices, expected)
    assert sds == expected_sds


def test_channels_that_decay_at_rates_of_their_own_are_balanced():
    W = matrix(6, 98, 480).astype("f4")
    decay = np.logspace(-3, -39, 20)[:, None] * np.exp(4 * matrix(7, 20, 480))
    W[:20] *= decay.astype("f4")
    slices, row_sd, column_sd, _ = balanced(W)
    assert np.isfinite(slices).all()
    assert 0 < row_sd < 10
    assert column_sd < 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "bfloat16"])
def test_the_input_of_any_type_is_not_changed(dtype):
    import ml_dtypes

    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    W = (50 * scaled(3, 0.5, 0.5)).astype(dtype)
    before = W.copy()
    result = balanced(W)
    np.testing.assert_array_equal(W, before)
    np.testing.assert_allclose(result.slices, balanced(W.astype(np.float64)).slices, rtol=1e-5)


@pytest.mark.parametrize("largest", [1e-120, 1e120])
def test_no_square_leaves_the_range_of_float32(largest):
    W = scaled(4, 0.5, 0.5)
    np.testing.assert_allclose(
        balanced(largest * W).slices, balanced(W).slices, rtol=1e-4, atol=1e-4
    )


def test_the_fourth_moment_is_that_of_the_distribution():
    rng = np.random.default_rng(5)
    assert fourth_moment(rng.standard_normal((2, 300, 300)).astype(np.float32)) == pytest.approx(
        3, rel=0.02
    )
    signs = rng.choice([-1, 1], (1, 50, 50)).astype(np.float32)
    assert fourth_moment(3 * signs) == pytest.approx(1)
    assert fourth_moment(np.eye(50, dtype=np.float32)[None]) == pytest.approx(50)


@pytest.mark.parametrize("factor", [10.0, 1 / 20])
def test_one_row_of_another_scale_is_divided_by_it(factor):
    """Test that the scale of one row of many is kept, although it adds little to the variance."""
    W = matrix(3, 384, 96)
    W[7] *= factor
    (Z,) = balanced(W).slices
    assert np.mean(Z[7] ** 2) == pytest.approx(1, abs=0.15)
