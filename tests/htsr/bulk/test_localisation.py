import math

import numpy as np
import pytest
from mpmath import mp, mpf

from specdiag.htsr.bulk.localisation import (
    NO_LOCALISATION,
    PAIRS,
    inverse_participation_ratio,
    localisation,
    random_ipr_p,
)


def uniform_ratios(rng, n, count):
    return inverse_participation_ratio(rng.standard_normal((n, count)))


@pytest.mark.parametrize("n", [20, 100, 700])
def test_p_values_of_uniform_vectors_are_uniform(n):
    p = np.array([random_ipr_p(x, n) for x in uniform_ratios(np.random.default_rng(n), n, 20_000)])
    for level in (0.5, 0.05, 0.01):
        assert np.mean(p <= level) == pytest.approx(level, rel=0.2)
    assert 2 <= np.count_nonzero(p <= 0.0005) <= 30  # 10 are expected


@pytest.mark.parametrize("n", [16, 384, 4096])
def test_the_law_of_random_ratios_has_their_three_first_moments(n):
    from specdiag.htsr.bulk.localisation import _shifted_lognormal

    origin, location, scale = (mpf(x) for x in _shifted_lognormal(n))
    with mp.workdps(40):

        def moment(k):  # of sum(q_i^2), q Dirichlet with parameters 1/2, from its density
            half, total = mpf(1) / 2, mpf(n) / 2

            def term(*powers):
                rising = mp.fprod(mp.rf(half, 2 * p) for p in powers)
                return rising / mp.rf(total, 2 * sum(powers))

            if k == 1:
                return n * term(1)
            if k == 2:
                return n * term(2) + n * (n - 1) * term(1, 1)
            pairs = 3 * n * (n - 1) * term(2, 1)
            return n * term(3) + pairs + n * (n - 1) * (n - 2) * term(1, 1, 1)

        first, second, third = (moment(k) for k in (1, 2, 3))
        expected = first, second - first**2, third - 3 * first * second + 2 * first**3
        w, size = mp.exp(scale**2), mp.exp(location)
        root = mp.sqrt(w)
        law = (
            origin + size * root,
            size**2 * w * (w - 1),
            size**3 * root**3 * (w - 1) ** 2 * (w + 2),
        )
    for one, other in zip(law, expected, strict=True):
        assert float(one / other) == pytest.approx(1, rel=1e-6)


def test_random_matrices_rarely_have_localised_vectors():
    rng = np.random.default_rng(3)
    for shape in ((150, 90), (60, 200), (30, 24, 3, 3)):
        found = [localisation(rng.standard_normal(shape)) for _ in range(200)]
        assert sum(x.n > 0 for x in found) <= 8  # 2 are expected
        assert np.mean([x.ipr_output for x in found]) < 1.7
        assert np.mean([x.ipr_input for x in found]) < 1.7


def by_svd(W):
    U, _, V = np.linalg.svd(W, full_matrices=False)
    return [
        (np.sum(vectors[:, :PAIRS] ** 4, axis=0) * (len(vectors) + 2) / 3).max()
        for vectors in (U, V.T)
    ]


@pytest.mark.parametrize("shape", [(120, 80), (80, 120), (90, 90), (900, 850), (20, 700)], ids=str)
def test_the_ratios_are_those_of_the_singular_vectors(rng, shape):
    W = rng.standard_normal(shape) * np.exp(rng.standard_normal((shape[0], 1)))
    found = localisation(W)
    assert (found.ipr_output, found.ipr_input) == pytest.approx(by_svd(W), rel=1e-7)
    turned = localisation(W.T)
    assert (turned.ipr_input, turned.ipr_output) == pytest.approx(by_svd(W), rel=1e-7)


def test_the_side_of_a_large_row_is_that_of_the_outputs(rng):
    W = rng.standard_normal((200, 150))
    W[7] *= 8
    found = localisation(W)
    assert found.n == 1
    assert found.ipr_output > 50
    assert found.ipr_input < 2
    assert found.p < 1e-10
    assert localisation(W.T).ipr_input == pytest.approx(found.ipr_output)


def test_a_spread_signal_is_not_localised(rng):
    signal = np.outer(rng.choice([-1, 1], 200), rng.choice([-1, 1], 150))
    found = localisation(rng.standard_normal((200, 150)) + signal)
    assert found.n == 0


def test_vectors_of_equal_singular_values_are_left_out(rng):
    for W in (
        np.eye(80),
        np.eye(60, 90),
        np.diag(np.repeat([3.0, 2.0, 1.0], 30)),
        np.zeros((5, 5)),
    ):
        assert repr(localisation(W)) == repr(NO_LOCALISATION)
    W = np.zeros((100, 100))
    W[0, 0], W[1:, 1:] = 5, np.linalg.qr(rng.standard_normal((99, 99)))[0]
    found = localisation(W)
    assert found.n == 1
    assert found.ipr_output == pytest.approx(102 / 3)
    assert found.p == pytest.approx(2 * random_ipr_p(1.0, 100))


def test_the_pairs_of_a_kernel_are_the_leading_ones_of_all_positions(rng):
    W = rng.standard_normal((40, 30, 2, 2))
    W[3, 4, 1, 1] = 40
    found = localisation(W)
    assert found.n == 1
    assert found.ipr_output > 10
    one = localisation(W[:, :, 1, 1])
    assert found.ipr_output == pytest.approx(one.ipr_output)


@pytest.mark.parametrize("factor", [1e-130, 1e130])
def test_the_ratios_do_not_depend_on_the_scale(rng, factor):
    W = rng.standard_t(3, (100, 80))
    one, other = localisation(W), localisation(W * factor)
    assert other.n == one.n
    assert (other.ipr_output, other.ipr_input) == pytest.approx((one.ipr_output, one.ipr_input))


def test_sides_of_few_components_are_not_tested(rng):
    assert random_ipr_p(0.9, 15) == 1
    assert math.isclose(random_ipr_p(0.01, 16), 1)
    assert localisation(rng.standard_normal((60, 8))).ipr_input > 0
