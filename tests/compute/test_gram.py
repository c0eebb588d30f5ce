"""Gram matrices in blocks, against the product of the whole matrix."""

import platform
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdiag.compute import lapack
from specdiag.compute.gram import BLOCK, gram, half_gram

DTYPES = ["float64", "float32", "float16", ml_dtypes.bfloat16, "int8", ">f4", "bool"]
SHAPES = [(1, 1), (1, 50), (50, 1), (40, 30), (30, 40), (2 * BLOCK, 50), (50, 2 * BLOCK - 1)]
SHAPES += [(BLOCK + 1, 9), (3 * BLOCK + 5, 100), (100, 5 * BLOCK + 700), (900, 800)]


def whole(W, dtype="float64"):
    A = np.ascontiguousarray(W, dtype)
    return A.T @ A if A.shape[0] >= A.shape[1] else A @ A.T


def assert_same(one, other):
    if platform.machine() in ("x86_64", "AMD64"):
        np.testing.assert_array_equal(one, other)
    else:  # the blocks of BLAS may be others there
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-13 * abs(other).max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_give_the_digits_of_the_whole_product(shape, dtype, rng):
    W = (4 * rng.standard_normal(shape)).astype(dtype)
    assert_same(np.triu(half_gram(W)), np.triu(whole(W)))
    assert_same(gram(W), whole(W))


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_view_gives_the_digits_of_its_copy(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    whole_one = rng.standard_normal((60, 70)).astype(data.draw(st.sampled_from(["f4", "f8"])))
    steps = st.sampled_from([-3, -2, -1, 1, 2, 3])
    W = whole_one[:: data.draw(steps), data.draw(st.integers(0, 60)) :: data.draw(steps)]
    W = W.T if data.draw(st.booleans()) else W
    for dtype in ("float64", "float32"):
        np.testing.assert_array_equal(np.triu(half_gram(W, dtype)), np.triu(whole(W, dtype)))


def test_a_repeated_row_is_a_view_that_is_taken_too(rng):
    W = np.broadcast_to(rng.standard_normal(30), (40, 30))
    np.testing.assert_array_equal(gram(W), whole(W))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_values_that_no_square_can_hold_show_on_the_diagonal(bad, rng):
    for shape in ((70, 60), (60, 70)):
        W = rng.standard_normal(shape)
        W[11, 13] = bad
        assert not np.isfinite(np.diagonal(half_gram(W))).all()


@pytest.mark.skipif(lapack.routine("dsyrk") is None, reason="NumPy is not linked to OpenBLAS")
def test_no_copy_in_float64_is_made_of_a_matrix_in_16_bits(rng):
    W = np.zeros((20 * BLOCK, 100), np.float16)
    tracemalloc.start()
    try:
        half_gram(W)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * (100 * 100 + 2.1 * BLOCK * 100)
