import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from benchmarks import _ladder_families as families
from specdiag.htsr import esd
from specdiag.htsr.null.ladder import (
    false_discovery_rate,
    initialisation_p,
    null_test,
    scales_test,
)
from specdiag.htsr.null.scales import balanced
from specdiag.htsr.tail.posterior import posterior_mean


def judged(W, dtype=np.float32, **settings):
    W = np.asarray(W, dtype=dtype)
    values = esd.resolved_eigenvalues(esd.eigenvalues(W), W.shape, dtype)
    return null_test(posterior_mean(values), W.shape, lambda: W, dtype, **settings)


def scales_p(W, **settings):
    return scales_test(lambda: W, np.float64, **settings)[0]


def share(draw, name="null_p", count=40, shape=(128, 128)):
    rng = np.random.default_rng(1)
    return np.mean([getattr(judged(draw(rng, *shape)), name) <= 0.05 for _ in range(count)])


# One matrix for each kind of fault that a Gaussian null alone has: scales of rows, of columns, of
# blocks; heavy-tailed, sparse or rounded entries; zeros; an offset.
FAULTS = (
    *("row scales 0.3", "column scales 1", "fused, scales 1 3 9", "half of the rows / sqrt(24)"),
    *("student 2", "sparse 10 %", "zero rows", "layer norm folded", "int8, a scale a row"),
    *("8 x 8 lognormal blocks", "lognormal cell variances", "row means"),
)


@pytest.mark.parametrize("kind", FAULTS)
def test_matrices_in_which_nothing_was_learned_are_not_called_heavier_than_random(kind):
    # 40 matrices with a rate of 5 % give 7 alarms or more in 0.5 % of all cases.
    assert share(families.UNLEARNED[kind]) <= 6 / 40


def test_the_gaussian_null_alone_calls_row_scales_heavy():
    assert share(families.UNLEARNED["row scales 0.3"], "gaussian_p") == 1


@pytest.mark.parametrize("kind", ["kernel, channel scales", "kernel, position scales"])
def test_kernels_with_scales_are_not_called_heavier_than_random(kind):
    rng = np.random.default_rng(2)
    alarms = [judged(families.KERNELS[kind](rng, (32, 16, 3, 3))).null_p <= 0.05 for _ in range(40)]
    assert np.mean(alarms) <= 6 / 40


def test_very_sparse_matrices_are_compared_with_their_own_signs_flipped():
    assert share(families.sparse(0.015), count=12, shape=(200, 150)) <= 3 / 12
    W = families.sparse(0.01)(np.random.default_rng(3), 200, 150)
    assert scales_p(W, seed=1) == scales_p(W, seed=1) != scales_p(W, seed=2)


@pytest.mark.parametrize("kind", ["population 3.5", "planted 40 x 0.1"])
def test_learned_structure_beats_every_null(kind):
    assert share(families.LEARNED[kind], count=10) == 1
    assert share(families.rows(0.3, families.LEARNED[kind]), count=10) == 1


def test_structure_along_the_axes_is_scales():
    rng = np.random.default_rng(4)
    result = judged(families.columns(1)(rng, 300, 200))
    assert result.gaussian_p < 1e-3
    assert result.null_p == result.scales_p > 0.05
    assert result.column_scale_sd == pytest.approx(1, rel=0.2)
    assert result.row_scale_sd < 0.05


def test_the_second_rung_is_run_only_after_the_first_is_beaten():
    W = np.random.default_rng(5).standard_normal((100, 80))
    read = []
    result = null_test(20.0, W.shape, lambda: read.append(1) or W, np.float64)
    assert result.null_p == result.gaussian_p > 0.05
    assert all(map(math.isnan, (result.scales_p, result.row_scale_sd, result.column_scale_sd)))
    assert not read
    beaten = null_test(2.0, W.shape, lambda: W, np.float64)
    assert beaten.null_p == max(beaten.gaussian_p, beaten.scales_p)


@given(st.integers(0, 100), st.floats(-20, 20), st.booleans())
def test_no_p_value_depends_on_scale_order_or_transposition(seed, log_factor, turned):
    rng = np.random.default_rng(seed)
    W = families.rows(0.5, families.planted(10, 0.1))(rng, 60, 90)
    V = np.exp(log_factor) * W[rng.permutation(60)][:, rng.permutation(90)]
    first = judged(W, np.float64)
    again = judged(V.T if turned else V, np.float64)
    assert again.gaussian_p == pytest.approx(first.gaussian_p, rel=1e-4)
    assert again.scales_p == pytest.approx(first.scales_p, rel=0.1, abs=2e-3, nan_ok=True)


@given(st.integers(0, 30))
def test_large_row_and_column_scales_do_not_change_the_second_p_value(seed):
    rng = np.random.default_rng(seed)
    W = families.rows(1, families.columns(1))(rng, 80, 80)
    V = families.rows(1, families.columns(1, lambda *_: W))(rng, 80, 80)
    first, again = scales_p(W), scales_p(V)
    assert again == pytest.approx(first, abs=0.15)


def test_a_matrix_that_lost_rank_is_measured_in_double_precision():
    rng = np.random.default_rng(6)
    W = rng.standard_normal((200, 60)) @ rng.standard_normal((60, 150))
    slices = balanced(W).slices
    doubles = esd.eigenvalues(np.moveaxis(slices, 0, 2))
    assert len(esd.resolved_eigenvalues(doubles, W.shape, np.float32)) <= 62
    assert not math.isnan(scales_p(W))


@pytest.mark.parametrize(
    "W",
    [
        np.eye(64),
        np.kron(np.eye(8), np.ones((8, 8))),
        np.where(np.add.outer(np.arange(64), np.arange(64)) % 2, 1.0, -1.0),
        np.triu(np.random.default_rng(7).standard_normal((64, 64))),
        np.outer(np.arange(1.0, 65), np.arange(1.0, 65)),
    ],
    ids=["identity", "blocks", "rank one", "triangle", "outer product"],
)
def test_degenerate_matrices_give_a_p_value_or_none_and_no_error(W):
    p = scales_p(W)
    assert math.isnan(p) or 0 < p <= 1


def test_the_initialisation_is_beaten_by_rank():
    assert initialisation_p(2.0, [3.0, 4.0, 1.5, math.nan]) == 2 / 4
    assert initialisation_p(2.0, range(3, 22)) == 1 / 20
    assert initialisation_p(2.0, [2.0]) == 1
    assert math.isnan(initialisation_p(math.nan, [2.0]))
    assert math.isnan(initialisation_p(2.0, []))


def test_few_heavy_layers_of_many_are_found():
    p = np.concatenate([np.full(20, 1e-5), np.linspace(0.01, 1, 204)])
    assert np.sum(false_discovery_rate(p) <= 0.05) >= 20


@given(st.lists(st.floats(0, 1), max_size=50))
def test_the_false_discovery_rate_is_that_of_scipy_and_nan_is_left_out(p):
    q = false_discovery_rate([math.nan, *p])
    assert math.isnan(q[0])
    if p:
        np.testing.assert_allclose(q[1:], false_discovery_control(p), atol=1e-12)
