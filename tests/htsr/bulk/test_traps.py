import math

import numpy as np
import pytest

from specdiag.htsr.bulk.tracy_widom import tracy_widom_tail
from specdiag.htsr.bulk.traps import NO_TRAPS, permuted_traps
from specdiag.htsr.esd import eigenvalues


def traps_of(W, seed=0):
    return permuted_traps(W, eigenvalues(W), seed=seed)


def permuted(W, seed):
    """Return the eigenvalues of W'W for a permuted copy without its mean, by singular values."""
    values = W.flatten()
    np.random.default_rng(seed).shuffle(values)
    return np.linalg.svd((values - values.mean()).reshape(W.shape), compute_uv=False) ** 2


def test_every_number_is_that_of_the_singular_values_of_a_permuted_copy(rng):
    W = rng.laplace(size=(90, 60)) + np.outer(*(rng.standard_normal(n) / 2 for n in (90, 60)))
    copy, own = permuted(W, 5), np.linalg.svd(W, compute_uv=False) ** 2
    found = traps_of(W, seed=5)
    assert found.soft_rank == pytest.approx(copy[0] / own[0], rel=1e-12)
    assert found.n_beyond == np.count_nonzero(own > copy[0])
    grid = np.sort(np.concatenate([copy, own])) * (1 + 1e-12)
    gaps = [abs(np.mean(copy <= x) - np.mean(own <= x)) for x in grid]
    assert found.distance == pytest.approx(max(gaps))
    values = W - W.mean()
    variance, kurtosis = np.mean(values**2), np.mean(values**4) / np.mean(values**2) ** 2 - 3
    assert np.square(values).max() < math.sqrt(W.size) * variance  # no element is left out
    a, b = math.sqrt(89.5), math.sqrt(59.5)
    end = (a + b) ** 2 + kurtosis * (math.sqrt(90) + math.sqrt(60)) ** 2 / math.sqrt(90 * 60)
    spread = (a + b) * (1 / a + 1 / b) ** (1 / 3)
    assert found.ratio == pytest.approx(copy[0] / (end * variance), rel=1e-12)
    x = (copy[0] / variance - end) / spread
    assert found.p == pytest.approx(float(tracy_widom_tail(x)), rel=1e-9)


FAMILIES = {
    "Gaussian": lambda rng, shape: rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    "signs": lambda rng, shape: rng.choice([-0.1, 0.1], shape),
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
    "exponential": lambda rng, shape: rng.standard_exponential(shape),
    "Student 10": lambda rng, shape: rng.standard_t(10, shape),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(120, 120), (200, 60)], ids=str)
def test_about_one_in_a_hundred_random_matrices_has_a_trap(family, shape):
    rng = np.random.default_rng(11)
    alarms = sum(traps_of(FAMILIES[family](rng, shape)).n > 0 for _ in range(250))
    assert alarms <= 13  # 2.5 are expected; of exponential elements 4 at these sizes


def test_about_one_in_a_hundred_random_kernels_has_a_trap(rng):
    alarms = sum(traps_of(rng.uniform(-1, 1, (40, 24, 3, 3))).n > 0 for _ in range(250))
    assert alarms <= 9


def test_large_elements_are_traps_one_by_one(rng):
    W = rng.standard_normal((200, 150))
    for i, size in enumerate((40.0, -30.0, 25.0, 20.0)):
        W[17 * i, 11 * i] = size
    assert traps_of(W).n == 4


def test_an_enormous_element_hides_no_other(rng):
    W = rng.standard_normal((200, 200))
    W[3, 4], W[30, 40], W[100, 2] = 1e8, 1e4, 40.0
    assert traps_of(W).n == 3


def test_a_signal_of_many_small_elements_is_no_trap(rng):
    n, m = 300, 200
    signal = np.outer(rng.standard_normal(n), rng.standard_normal(m)) * 6 / math.sqrt(n)
    found = traps_of(rng.standard_normal((n, m)) + signal)
    assert found.n == 0
    assert found.n_beyond == 1
    assert found.soft_rank < 0.5


def test_a_common_offset_is_no_trap(rng):
    W = rng.standard_normal((200, 100))
    assert traps_of(W + 5).n == 0
    assert traps_of(W + 5).p == pytest.approx(traps_of(W).p, rel=1e-6)


def test_no_number_depends_on_the_scale(rng):
    W = rng.standard_t(4, (120, 80))
    expected = traps_of(W)
    for factor in (1e-130, 2.0**-20, 1e130):
        found = traps_of(W * factor)
        for name in ("n", "p", "ratio", "soft_rank", "n_beyond", "distance"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_the_stored_dtype_moves_numbers_by_rounding_alone(rng, dtype):
    import ml_dtypes  # noqa: F401 - it names bfloat16

    W = rng.standard_normal((200, 100))
    W[5, 5] = 30
    expected, found = traps_of(W), traps_of(W.astype(dtype))
    assert found.n == expected.n == 1
    assert found.ratio == pytest.approx(expected.ratio, rel=0.01)


def test_the_permutation_follows_the_seed(rng):
    W = rng.standard_normal((90, 60))
    assert traps_of(W, seed=1) == traps_of(W, seed=1)
    assert traps_of(W, seed=1).ratio != traps_of(W, seed=2).ratio


def test_equal_elements_have_no_permuted_spectrum():
    for W in (np.zeros((60, 60)), np.full((60, 70), 0.3)):
        assert repr(traps_of(W)) == repr(NO_TRAPS)


def test_the_weights_are_left_as_they_are(rng):
    W = rng.standard_normal((90, 60))
    before = W.copy()
    traps_of(W)
    assert np.array_equal(W, before)
    W.flags.writeable = False
    traps_of(W)


def test_a_pruned_matrix_has_an_edge_that_follows_its_kurtosis(rng):
    ratios = []
    for _ in range(20):
        W = rng.standard_normal((300, 200)) * (rng.random((300, 200)) < 0.1)
        ratios.append(traps_of(W).ratio)
    assert np.mean(ratios) == pytest.approx(1, abs=0.04)  # 1.17 without the kurtosis
