"""The leading eigenvectors of a Gram matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdiag.compute import lapack
from specdiag.compute.eigenvalues import eigenvalues_of_gram
from specdiag.compute.leading import ITERATED, eigenvalues_and_leading, leading_vectors


def gram_of(rng, n, kind):
    W = rng.standard_normal((n, n + 5))
    if kind == "heavy":
        W *= (1 - rng.random(n))[:, None] ** -0.5
    if kind == "low rank":
        W = W[:, :12] @ W[:, :12].T
    return W @ W.T


def check(G, k):
    """The vectors are orthonormal and span the space of the k largest eigenvalues."""
    values = np.linalg.eigvalsh(G)
    vectors = leading_vectors(G.copy(), k)
    assert vectors.shape == (len(G), k)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(k), atol=1e-12)
    found = np.einsum("ij,ij->j", vectors, G @ vectors)
    np.testing.assert_allclose(found, values[len(G) - k :], rtol=1e-10, atol=1e-12 * values[-1])


def check_together(G, k):
    """All eigenvalues are those without vectors bit by bit, and the vectors span the same space."""
    values, vectors = eigenvalues_and_leading(G.copy(), k)
    np.testing.assert_array_equal(values, eigenvalues_of_gram(G.copy()))
    alone = leading_vectors(G.copy(), k)
    assert np.sum((vectors.T @ alone) ** 2) == pytest.approx(k, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 90),
    k=st.integers(1, 10),
    kind=st.sampled_from(["plain", "heavy", "low rank"]),
)
def test_vectors_of_small_matrices_belong_to_the_largest_eigenvalues(seed, n, k, kind):
    G = gram_of(np.random.default_rng(seed), n, kind)
    check(G, min(n, k))
    check_together(G, min(n, k))


@pytest.mark.parametrize("scale", [1e-200, 1e-145, 1e-40, 1e-25, 1e145, 1e200])
def test_vectors_do_not_depend_on_the_scale(rng, scale):
    for n in (40, ITERATED):
        G = gram_of(rng, n, "plain")
        check(G / G.max() * scale, 4)
        check_together(G / G.max() * scale, 4)


@pytest.mark.parametrize("kind", ["plain", "heavy", "low rank"])
def test_vectors_of_large_matrices_belong_to_the_largest_eigenvalues(rng, kind):
    G = gram_of(rng, ITERATED, kind)
    check(G, 10)
    check_together(G, 10)


def test_a_library_without_the_routine_gives_the_same_space(rng, monkeypatch):
    G = gram_of(rng, 60, "heavy")
    fast = leading_vectors(G.copy(), 5)
    monkeypatch.setattr(lapack, "routine", lambda _: None)
    check(G, 5)
    slow = leading_vectors(G.copy(), 5)
    assert np.sum((fast.T @ slow) ** 2) == pytest.approx(5, abs=1e-12)


def test_a_matrix_that_is_not_finite_has_no_vectors():
    with pytest.raises(np.linalg.LinAlgError, match="the Gram matrix is not finite"):
        leading_vectors(np.diag([1.0, np.nan, 2.0]), 1)
