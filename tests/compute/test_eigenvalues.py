"""Eigenvalues of Gram matrices, in one stage and in two, against `numpy.linalg.eigvalsh`."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdiag.compute import eigenvalues, lapack
from specdiag.compute.eigenvalues import TWO_STAGE, eigenvalues_of_gram
from specdiag.compute.gram import half_gram

needs_openblas = pytest.mark.skipif(
    lapack.routine("dsytrd_sb2st") is None, reason="NumPy is not linked to OpenBLAS"
)


def rotation(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def singular_values(kind, n, rng):
    return {
        "graded": np.logspace(0, -7, n),
        "clustered": np.repeat([3.0, 2.0, 1.0], -(-n // 3))[:n] + 1e-9 * rng.random(n),
        "equal": np.ones(n),
        "one": np.r_[1.0, np.full(n - 1, 1e-4)],
        "low rank": np.where(np.arange(n) < n // 3, 1 + rng.random(n), 0.0),
        "heavy-tailed": rng.pareto(1.5, n) + 0.1,
        "random": rng.random(n),
    }[kind]


KINDS = ["graded", "clustered", "equal", "one", "low rank", "heavy-tailed", "random"]


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 400),
    exponent=st.integers(-460, 460),
    seed=st.integers(0, 2**32 - 1),
)
def test_both_ways_find_the_eigenvalues_that_a_matrix_was_made_of(kind, n, exponent, seed):
    rng = np.random.default_rng(seed)
    singular = singular_values(kind, n, rng)
    W = np.ldexp((rotation(rng, n) * singular) @ rotation(rng, n), exponent)
    expected = np.ldexp(np.sort(singular**2), 2 * exponent)
    tolerance = 1e-13 * expected[-1]
    with pytest.MonkeyPatch.context() as patch:
        for least in (1, 10**9):  # rows from which on there are two stages
            patch.setattr(eigenvalues, "TWO_STAGE", least)
            values = eigenvalues_of_gram(half_gram(W))
            assert (np.diff(values) >= 0).all()
            np.testing.assert_allclose(values, expected, rtol=1e-10, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n", [1, 2, 5, 64, 200, 384])
def test_below_the_threshold_the_values_are_those_of_numpy_bit_by_bit(n, dtype, rng):
    W = rng.standard_normal((n + 7, n)).astype(dtype)
    values = eigenvalues_of_gram(half_gram(W, dtype))
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, np.linalg.eigvalsh(W.T @ W))


@needs_openblas
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_from_the_threshold_on_the_values_agree_to_a_few_eps_of_the_largest(dtype, rng):
    eps, eps64 = np.finfo(dtype).eps, np.finfo(float).eps
    n = TWO_STAGE
    W = (rng.standard_normal((n, n)) * rng.pareto(2, n)).astype(dtype)
    expected = np.linalg.eigvalsh(W.T @ W)
    values = eigenvalues_of_gram(half_gram(W, dtype))
    np.testing.assert_allclose(
        values, expected, rtol=max(1e-10, 2 * eps), atol=20 * eps64 * expected[-1]
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("least", [1, 10**9])
def test_a_matrix_that_is_not_finite_is_refused(bad, least, rng, monkeypatch):
    monkeypatch.setattr(eigenvalues, "TWO_STAGE", least)
    W = rng.standard_normal((150, 140))
    W[17, 3] = bad
    with pytest.raises(np.linalg.LinAlgError, match="not finite"):
        eigenvalues_of_gram(half_gram(W))


def test_threads_do_not_disturb_each_other(rng, monkeypatch):
    monkeypatch.setattr(eigenvalues, "TWO_STAGE", 200)
    matrices = [rng.standard_normal((n, n)) for n in (90, 210, 250, 300, 130, 220) * 3]
    alone = [eigenvalues_of_gram(half_gram(W)) for W in matrices]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda W: eigenvalues_of_gram(half_gram(W)), matrices))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


# Each is a library in which something is missing or wrong, and the way that is left.
BROKEN = {
    "no OpenBLAS": ("lapack.SPELLINGS.clear()", "_by_numpy"),
    "no routine at all": ("lapack.routine = lambda name: None", "_by_numpy"),
    "no two stages": (
        "lapack.routine = lambda name: None if 'sb2st' in name else real(name)",
        "_by_one_stage",
    ),
    "a routine that does nothing": (
        "lapack.routine = lambda name: (lambda *a: None) if name == 'dsterf' else real(name)",
        "_by_one_stage",
    ),
    "arguments that are refused": (
        "lapack.routine = lambda name: (lambda *a: real(name)(*a[:-1], -7))",
        "_by_numpy",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_library_that_lacks_a_routine_or_has_a_wrong_one_leaves_another_way(case):
    code, way = BROKEN[case]
    script = f"""
import numpy as np
from specdiag.compute import eigenvalues, gram, lapack
real = lapack.routine
{code}
W = np.random.default_rng(0).standard_normal((300, 200))
expected = np.linalg.eigvalsh(W.T @ W)
eigenvalues.TWO_STAGE = 100
values = eigenvalues.eigenvalues_of_gram(W.T @ W)
assert np.array_equal(values, expected), abs(values - expected).max()
assert eigenvalues._solver(two_stages=True).__name__ == {way!r}
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
