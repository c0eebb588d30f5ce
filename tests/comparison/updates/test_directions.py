"""How far spectra and singular vectors move, against singular value decompositions."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from specdiag.comparison.updates.directions import directions
from specdiag.htsr import esd

DTYPES = ("float64", "float64")
SHAPES = [(40, 25), (25, 40), (30, 30)]


def measured(A, B):
    return directions(A, B, DTYPES, esd.eigenvalues(B - A))


@pytest.fixture(params=SHAPES, ids=str)
def pair(request, rng):
    A = rng.normal(size=request.param)
    return A, A + 0.3 * rng.normal(size=request.param)


def test_every_value_is_that_of_its_definition(pair):
    A, B = pair
    D, k = B - A, 10
    (Ua, a, Va), (Ub, b, Vb) = (np.linalg.svd(W, full_matrices=False) for W in pair)
    found = measured(A, B)
    assert found.n_leading == k
    assert found.spectrum_change == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a))
    assert found.spectrum_share == pytest.approx(
        np.linalg.norm(b - a) ** 2 / np.linalg.norm(D) ** 2
    )
    assert found.relative_spectral_norm == pytest.approx(np.linalg.norm(D, 2) / a[0])
    cosine = np.sum(A * D) / np.linalg.norm(A) / np.linalg.norm(D)
    assert found.scale_share == pytest.approx(cosine**2)
    left, right = Ua[:, :k].T @ Ub[:, :k], Va[:k] @ Vb[:k].T
    assert found.overlap == pytest.approx((np.sum(left**2) / k, np.sum(right**2) / k))
    shares = (np.linalg.norm(Ua[:, :k].T @ D) ** 2, np.linalg.norm(D @ Va[:k].T) ** 2)
    assert found.leading_share == pytest.approx([s / np.linalg.norm(D) ** 2 for s in shares])
    best = [np.abs(c).max(axis=0) for c in (Ua.T @ Ub[:, :k], Va @ Vb[:k].T)]
    assert found.best_match == pytest.approx([x.mean() for x in best])
    assert found.n_intruders == tuple(np.count_nonzero(x < 0.5) for x in best)


def test_cka_is_that_of_outputs_for_white_inputs(pair, rng):
    A, B = pair
    X = np.linalg.qr(rng.normal(size=(200, A.shape[1])))[0]  # X'X = 1 exactly
    first, second = X @ A.T, X @ B.T
    value = np.linalg.norm(second.T @ first) ** 2 / (
        np.linalg.norm(first.T @ first) * np.linalg.norm(second.T @ second)
    )
    assert measured(A, B).cka == pytest.approx(value)


def test_a_rotation_of_the_outputs_turns_them_and_keeps_the_rest(rng):
    A = rng.normal(size=(60, 50))
    Q = ortho_group.rvs(60, random_state=1)
    found = measured(A, Q @ A)
    assert found.spectrum_change < 1e-7
    assert found.overlap[0] < 0.4
    assert found.overlap[1] == pytest.approx(1)
    assert found.cka == pytest.approx(1)
    assert found.n_intruders[0] >= 8
    assert found.n_intruders[1] == 0


def test_a_scaled_matrix_moves_along_itself(rng):
    A = rng.normal(size=(30, 50))
    found = measured(A, 1.25 * A)
    assert found.scale_share == pytest.approx(1)
    assert found.spectrum_share == pytest.approx(1)
    assert found.spectrum_change == pytest.approx(0.25)
    assert found.overlap == pytest.approx((1, 1))


def test_unrelated_matrices_share_what_chance_says(rng):
    overlaps, shares, ckas = [], [], []
    for _ in range(60):
        A, B = rng.normal(size=(2, 60, 45))
        found = measured(A, A + B)
        shares.append(found.leading_share)
        expected_share = [c.expected for c in found.leading_chance]
        found = measured(A, B)
        overlaps.append(found.overlap)
        ckas.append(found.cka - found.cka_chance)
        expected = [c.expected for c in found.overlap_chance]
    assert np.mean(overlaps, axis=0) == pytest.approx(expected, rel=0.1)
    assert expected == [10 / 60, 10 / 45]
    assert np.mean(shares, axis=0) == pytest.approx(expected_share, rel=0.05)
    assert abs(np.mean(ckas)) < 0.01


def test_a_strong_new_direction_is_one_intruder_on_each_side(rng):
    A = rng.normal(size=(80, 70))
    u, v = rng.normal(size=80), rng.normal(size=70)
    found = measured(A, A + np.outer(u, v))
    assert found.n_intruders == (1, 1)


def test_a_matrix_of_low_rank_has_no_more_directions_than_its_rank(rng):
    A = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 30))
    B = A + 0.1 * rng.normal(size=(40, 30))
    found = measured(A, B)
    assert found.n_leading == 3
    assert min(found.overlap) > 0.9


def test_a_zero_matrix_has_no_directions(rng):
    found = measured(np.zeros((20, 12)), rng.normal(size=(20, 12)))
    assert found.n_leading == 0
    assert np.isnan(found.overlap).all()
