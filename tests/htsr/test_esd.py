import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdiag.htsr import esd

seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, n=st.integers(1, 40), m=st.integers(1, 40))
def test_eigenvalues_are_squared_singular_values_over_the_larger_side(seed, n, m):
    W = np.random.default_rng(seed).standard_normal((n, m))
    expected = np.linalg.svd(W, compute_uv=False) ** 2 / max(n, m)
    values = esd.eigenvalues(W)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-13 * expected[0])
    assert np.all(np.diff(values) <= 0)


@given(seed=seeds, n=st.integers(2, 30), m=st.integers(2, 30))
def test_the_spectrum_is_that_of_the_transpose_and_of_any_rotation(seed, n, m):
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((n, m))
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    expected = esd.eigenvalues(W)
    for same in (W.T, Q @ W):
        np.testing.assert_allclose(esd.eigenvalues(same), expected, atol=1e-12 * expected[0])


def test_a_convolution_kernel_is_one_matrix_for_every_position(rng):
    W = rng.standard_normal((20, 12, 3, 2))
    expected = np.concatenate(
        [np.linalg.svd(W[:, :, i, j], compute_uv=False) ** 2 / 20 for i in range(3) for j in (0, 1)]
    )
    np.testing.assert_allclose(esd.eigenvalues(W), np.sort(expected)[::-1], rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8, np.float32])
def test_any_real_dtype_is_measured_in_float64(rng, dtype):
    W = (rng.standard_normal((30, 20)) * 10).astype(dtype)
    expected = esd.eigenvalues(W.astype(np.float64))
    np.testing.assert_array_equal(esd.eigenvalues(W), expected)


@pytest.mark.parametrize(
    ("W", "message"),
    [
        (np.ones(3), "W has shape (3,): expected a matrix (n, m) or a kernel (out, in, …)"),
        (np.ones((0, 3)), "W has shape (0, 3): expected a matrix (n, m) or a kernel (out, in, …)"),
        (np.ones((2, 2)) * 1j, "W is complex: expected real numbers"),
        (np.array([[1, np.nan], [np.inf, 1]]), "2 of 4 values are NaN or infinite"),
        (
            np.full((2, 2), 1e200),
            "the largest value is 1.0e+200: its square leaves the float64 range",
        ),
        (
            np.full((2, 2), 1e-200),
            "the largest value is 1.0e-200: its square leaves the float64 range",
        ),
    ],
)
def test_an_invalid_matrix_is_refused_with_its_reason(W, message):
    with pytest.raises(ValueError) as error:
        esd.eigenvalues(W)
    assert str(error.value) == message


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(400, 100), (100, 400), (128, 128)])
@pytest.mark.parametrize("rank", [1, 10, 60])
def test_the_gate_counts_the_rank_of_a_product_in_every_dtype(rng, dtype, shape, rank):
    n, m = shape
    W = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, m))
    stored = W.astype(dtype)
    values = esd.eigenvalues(stored)
    above = len(esd.resolved_eigenvalues(values, shape, dtype))
    # Rounding a rank-1 matrix to 16 bits gives larger errors in some rows and columns, so a few
    # eigenvalues of the errors exceed the gate.
    assert rank <= above <= rank + (2 if rank == 1 else 0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_the_gate_keeps_a_full_rank_matrix_in_every_dtype(rng, dtype):
    W = rng.standard_normal((512, 256)).astype(dtype)
    values = esd.eigenvalues(W)
    np.testing.assert_array_equal(esd.resolved_eigenvalues(values, W.shape, dtype), values)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.float8_e4m3fn])
def test_the_gate_allows_for_the_coarse_steps_of_subnormal_numbers(rng, dtype):
    """Test a rank-1 matrix so small that its dtype has only a few steps: it is not full-rank."""
    W = np.outer(rng.standard_normal(200), rng.standard_normal(200))
    step = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    stored = (W * 20 * step).astype(dtype)
    values = esd.eigenvalues(stored)
    assert len(esd.resolved_eigenvalues(values, W.shape, dtype)) < 50


@given(seed=seeds, factor=st.sampled_from([1e-12, 1e-3, 7.0, 1e12]))
def test_the_gate_is_proportional_to_the_scale(seed, factor):
    W = np.random.default_rng(seed).standard_normal((60, 8)) @ np.ones((8, 60))
    one, other = esd.eigenvalues(W), esd.eigenvalues(W * factor)
    gates = [esd.rank_gate(v, W.shape, np.float64) for v in (one, other)]
    assert gates[1] / gates[0] == pytest.approx(factor**2, rel=1e-9)


def test_stable_rank_and_entropy_have_their_closed_forms():
    assert esd.stable_rank(np.array([4.0, 2.0, 2.0])) == 2.0
    assert math.isnan(esd.stable_rank(np.zeros(3)))
    assert esd.spectral_entropy(np.full(7, 3.0)) == pytest.approx(1)
    p = np.array([0.5, 0.25, 0.25])
    assert esd.spectral_entropy(8 * p) == pytest.approx(1.5 * math.log(2) / math.log(3))
    assert math.isnan(esd.spectral_entropy(np.array([2.0])))


def test_the_effective_rank_counts_equal_eigenvalues():
    assert esd.effective_rank(np.full(7, 3.0)) == pytest.approx(7)
    assert esd.effective_rank(np.array([2.0, 1.0, 1.0])) == pytest.approx(2**1.5)
    assert math.isnan(esd.effective_rank(np.empty(0)))


def test_the_product_of_the_largest_eigenvalues_falls_below_one():
    assert esd.erg_count(np.array([4.0, 2.0, 1.0, 1.0])) == 4  # over their mean of 2: 2, 2, 1, 1/2
    assert esd.erg_count(np.array([9.0, 1.0, 1.0, 1.0])) == 3  # over 3: 3, 1, 1/3
    assert esd.erg_count(np.array([2.0, 0.0])) == 2
    assert esd.erg_count(np.full(5, 3.0)) == 5


def test_the_product_is_that_of_weightwatcher_where_it_stays_in_range(rng):
    from weightwatcher.RMT_Util import detX_constraint

    for size in (20, 60, 120):
        values = esd.eigenvalues(rng.standard_t(3, (size, 2 * size)))
        count, _ = detX_constraint(values[::-1])
        assert esd.erg_count(values) == count


def test_the_product_of_a_large_matrix_is_exact():
    logs = np.linspace(4, -4, 5001)
    values = np.exp(logs)
    mean = math.log(values.mean())
    expected = next(k for k in range(1, 5002) if math.fsum(logs[:k]) < k * mean)
    assert esd.erg_count(values) == expected
    assert logs[: expected // 2].sum() > math.log(np.finfo(float).max)  # the product overflows
