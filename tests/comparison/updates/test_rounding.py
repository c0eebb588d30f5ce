"""The rank of an update above the rounding of both matrices, and its kind."""

import ml_dtypes
import numpy as np
import pytest

from specdiag.comparison.updates.rounding import kind_of, rounding
from specdiag.htsr import esd

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def stored(W, dtype):
    return W.astype(DTYPES[dtype]).astype(np.float64)


def product(rng, shape, rank, norm):
    D = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    return D * norm / np.linalg.norm(D)


def found(A, B, dtypes):
    spectrum = esd.eigenvalues(B - A)
    return kind_of(spectrum, A.shape, rounding(A, B, dtypes))


@pytest.mark.parametrize("shape", [(96, 200), (200, 96), (128, 128)])
@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 1e-3), ("float16", 0.02), ("bfloat16", 0.1)]
)
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_a_merged_product_shows_its_rank(rng, shape, dtype, size, rank):
    W = stored(rng.standard_t(3, size=shape), dtype)
    after = stored(W + product(rng, shape, rank, size * np.linalg.norm(W)), dtype)
    assert found(W, after, (dtype, dtype)) == ("low rank", rank)


def test_a_rank_shows_when_only_the_second_matrix_was_rounded(rng):
    W = rng.normal(size=(96, 96))
    after = stored(W + product(rng, W.shape, 4, 0.1 * np.linalg.norm(W)), "bfloat16")
    assert found(stored(W, "float32"), after, ("float32", "bfloat16")) == ("low rank", 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_alone_is_no_update(rng, dtype):
    for _ in range(20):
        W = rng.standard_t(3, size=(64, 100)) * np.exp(rng.normal(size=(64, 1)))
        assert found(W, stored(W, dtype), ("float64", dtype)) == ("rounding", 0)


def test_an_update_that_is_lost_in_rounding_claims_no_exact_rank(rng):
    W = stored(rng.normal(size=(128, 128)), "bfloat16")
    for size in (3e-3, 2e-3, 1e-3, 5e-4, 2e-4):
        after = stored(W + product(rng, W.shape, 8, size * np.linalg.norm(W)), "bfloat16")
        kind, rank = found(W, after, ("bfloat16", "bfloat16"))
        assert kind in ("unresolved", "rounding")
        assert rank <= 8 or kind == "unresolved"


def test_a_full_update_is_of_full_rank_or_unresolved_but_never_low(rng):
    W = stored(rng.normal(size=(128, 128)), "bfloat16")
    D = rng.normal(size=W.shape) * np.geomspace(1, 0.01, 128)
    for size in (1.0, 0.1, 0.03, 0.01, 3e-3, 1e-3):
        after = stored(W + D * size * np.linalg.norm(W) / np.linalg.norm(D), "bfloat16")
        assert found(W, after, ("bfloat16", "bfloat16"))[0] != "low rank"


@pytest.mark.parametrize("size", [1e-3, 2e-3, 4e-3, 1e-2])
def test_a_leading_direction_of_a_full_update_in_16_bits_is_no_exact_rank(rng, size):
    after = W = stored(rng.normal(size=(128, 256)), "bfloat16")
    direction = product(rng, W.shape, 1, 1)
    for _ in range(10):
        step = product(rng, W.shape, 128, 1) + direction
        after = stored(after + 0.1 * size * np.linalg.norm(W) * step, "bfloat16")
    assert found(W, after, ("bfloat16", "bfloat16"))[0] in ("unresolved", "rounding")


def test_equal_matrices_have_no_update(rng):
    W = rng.normal(size=(16, 9))
    assert found(W, W, ("float64", "float64")) == ("none", 0)


def test_the_floor_holds_for_rows_of_any_scale(rng):
    for _ in range(10):
        scales = np.exp(2 * rng.normal(size=(80, 1))) * np.exp(2 * rng.normal(size=(1, 60)))
        W = rng.normal(size=(80, 60)) * scales
        rounded = stored(W, "bfloat16")
        largest = esd.eigenvalues(rounded - W)[0]
        floor = rounding(rounded, rounded, ("float64", "bfloat16")).floor
        assert largest < floor < 20 * largest


def test_the_energy_is_that_of_uniform_errors(rng):
    W = rng.normal(size=(300, 200))
    rounded = stored(W, "bfloat16")
    energy = esd.eigenvalues(rounded - W).sum()
    expected = rounding(W, rounded, ("float64", "bfloat16")).energy
    assert energy == pytest.approx(expected[0], rel=0.03)
