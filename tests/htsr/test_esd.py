import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

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


@pytest.mark.parametrize("ratio", [1.0, 0.5, 1 / 16, 0.01])
def test_half_of_the_marchenko_pastur_law_lies_below_its_median(ratio):
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2

    def density(x):
        return math.sqrt(max((high - x) * (x - low), 0)) / (2 * math.pi * ratio * x)

    median = esd._marchenko_pastur_median(ratio)
    above, _ = integrate.quad(density, median, high)
    assert above == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("shape", [(200, 200), (800, 200), (150, 600)])
def test_the_edge_of_a_gaussian_matrix_is_that_of_its_variance(rng, shape):
    W = rng.normal(scale=3, size=shape)
    ratio = min(shape) / max(shape)
    edge = esd.marchenko_pastur_edge(esd.eigenvalues(W), shape)
    assert edge == pytest.approx(9 * (1 + math.sqrt(ratio)) ** 2, rel=0.03)


def test_a_gaussian_matrix_has_a_spike_in_about_five_percent_of_cases(rng):
    hits = 0
    for _ in range(400):
        W = rng.standard_normal((300, 75))
        hits += esd.count_spikes(esd.eigenvalues(W), W.shape) > 0
    assert 5 <= hits <= 40  # 20 expected; the variance of the bulk is estimated too


def test_planted_spikes_are_counted(rng):
    W = rng.standard_normal((400, 100))
    U, _, V = np.linalg.svd(rng.standard_normal((400, 100)), full_matrices=False)
    W += U[:, :4] @ np.diag([60.0, 70.0, 80.0, 90.0]) @ V[:4]
    assert esd.count_spikes(esd.eigenvalues(W), W.shape) == 4


def test_the_marchenko_pastur_density_is_that_of_random_matrices(rng):
    n, m = 600, 240
    values = esd.eigenvalues(2 * rng.standard_normal((n, m)))
    edges = np.linspace(0.5, 10.7, 13)
    counts, _ = np.histogram(values, edges)
    x = np.linspace(0.5, 10.7, 6001)
    density = esd.marchenko_pastur_density(x, 4.0, m / n)
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-3)
    assert np.trapezoid(x * density, x) == pytest.approx(4, abs=1e-2)
    expected = [np.trapezoid(part, dx=x[1] - x[0]) for part in np.split(density[:-1], 12)]
    np.testing.assert_allclose(counts / m, expected, atol=0.01)
