"""What unrelated matrices share, against random rotations."""

import math

import numpy as np
import pytest
from scipy.stats import ortho_group

from specdiag.comparison.updates.chance import chance


def draws(n, p, q, count, seed):
    """Return tr(S Q T Q') for random rotations Q and spectra p, q."""
    Q = ortho_group.rvs(n, size=count, random_state=seed)
    return np.einsum("i,kij,j->k", p, Q**2, q)


def spectrum(values):
    return np.array(values, float) / sum(values)


CASES = {
    "two subspaces": (30, [1] * 5 + [0] * 25, [1] * 5 + [0] * 25, 5),
    "two directions": (12, [1] + [0] * 11, [1] + [0] * 11, 1),
    "an update in a subspace": (24, [1] * 6 + [0] * 18, [0.7**i for i in range(24)], 6),
    "CKA": (20, [0.8**i for i in range(20)], [1 / (1 + i) for i in range(20)], None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_expectation_is_exact_and_the_limit_holds_in_95_percent(case):
    n, p, q, scale = CASES[case]
    p, q = spectrum(p), spectrum(q)
    scale = scale or 1 / math.sqrt((p @ p) * (q @ q))
    values = scale * draws(n, p, q, 4000, seed=3)
    found = chance(n, (p @ p, q @ q), scale)
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - found.expected) < 4 * error
    above = float((values > found.limit).mean())
    assert 0.035 < above < 0.065


def test_two_directions_have_the_beta_distribution():
    from scipy.stats import beta

    for n in (2, 3, 50, 4000):
        assert chance(n, (1, 1), 1).limit == pytest.approx(
            beta.ppf(0.95, 0.5, (n - 1) / 2), rel=1e-6
        )


def test_whole_spaces_are_shared_wholly():
    assert chance(7, (1 / 7, 1 / 7), 7) == (1, 1)
    assert chance(7, (1 / 7, 0.5), 3) == pytest.approx((3 / 7, 3 / 7))
    assert chance(1, (1, 1), 1) == (1, 1)
