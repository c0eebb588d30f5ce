import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from specdiag.transfer import rank_correlation as ranks

N = 24
ONE = np.zeros(N, dtype=np.intp)
STRATA = np.repeat([0, 1, 2], [5, 8, 11])
tied = arrays(float, N, elements=st.integers(0, 9).map(float))
varied = tied.filter(lambda x: all(np.ptp(x[s == STRATA]) > 0 for s in range(3)))


@given(tied, tied)
def test_in_one_stratum_it_is_scipys_spearman(x, y):
    (rho,) = ranks.correlation(x, y, ONE)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(rho)
    else:
        assert rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


@given(varied, varied)
def test_over_strata_it_is_the_correlation_of_ranks_within_each(x, y):
    def centred(values):
        parts = [values[s == STRATA] for s in range(3)]
        scaled = [stats.rankdata(part) / (len(part) + 1) for part in parts]
        return np.concatenate([part - part.mean() for part in scaled])

    expected = np.corrcoef(centred(x), centred(y))[0, 1]
    assert ranks.correlation(x, y, STRATA)[0] == pytest.approx(expected, abs=1e-12)


@given(varied, varied)
def test_a_stratum_in_which_one_is_constant_is_left_out(x, y):
    x, y = np.append(x, [4.0, 4.0, 4.0]), np.append(y, [1.0, 2.0, 3.0])
    strata = np.append(STRATA, [3, 3, 3])
    for first, second in ((x, y), (y, x)):
        expected = ranks.correlation(first[:N], second[:N], STRATA)
        np.testing.assert_allclose(ranks.correlation(first, second, strata), expected, atol=1e-12)


def test_the_partial_correlation_is_that_of_the_residuals(rng):
    x, y, z = rng.standard_normal((3, N)) + rng.standard_normal(N)
    a, b, c = (stats.rankdata(values) for values in (x, y, z))
    design = np.column_stack([np.ones(N), c])
    left = [v - design @ np.linalg.lstsq(design, v)[0] for v in (a, b)]
    expected = np.corrcoef(*left)[0, 1]
    assert ranks.correlation(x, y, ONE, z)[0] == pytest.approx(expected, abs=1e-12)


def test_the_partial_correlation_has_its_closed_form(rng):
    x, y, z = rng.standard_normal((3, N)) + rng.standard_normal(N)
    r = stats.spearmanr(np.array([x, y, z]), axis=1).statistic
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert ranks.correlation(x, y, ONE, z)[0] == pytest.approx(expected, abs=1e-12)


def test_a_constant_third_variable_removes_nothing_and_one_equal_to_x_removes_everything(rng):
    x, y = rng.standard_normal((2, N))
    np.testing.assert_allclose(
        ranks.correlation(x, y, ONE, np.ones(N)), ranks.correlation(x, y, ONE)
    )
    assert np.isnan(ranks.correlation(x, y, ONE, 2 * x + 1)).all()


@given(varied, varied, arrays(float, N, elements=st.integers(0, 3).map(float)))
def test_weights_are_copies_of_rows(x, y, weights):
    copies = np.repeat(np.arange(N), weights.astype(int))
    rho = ranks.correlation(x, y, STRATA, weights=weights[None])[0]
    strata = STRATA[copies]
    expected = ranks.correlation(x[copies], y[copies], strata)[0] if len(copies) else math.nan
    assert rho == pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(varied, varied, tied, st.permutations(range(N)))
def test_only_ranks_count_and_rows_have_no_order(x, y, z, order):
    for third in (None, z):
        rho = ranks.correlation(x, y, STRATA, third)
        monotone = ranks.correlation(np.exp(x / 3), y**3, STRATA, third)
        np.testing.assert_allclose(monotone, rho, atol=1e-12)
        np.testing.assert_allclose(ranks.correlation(-x, y, STRATA, third), -rho, atol=1e-12)
        order = np.array(order)
        moved = None if third is None else third[order]
        shuffled = ranks.correlation(x[order], y[order], STRATA[order], moved)
        np.testing.assert_allclose(shuffled, rho, atol=1e-12)


def test_many_rows_of_x_are_correlated_at_once(rng):
    x, y = rng.standard_normal((7, N)), rng.standard_normal(N)
    expected = [ranks.correlation(row, y, STRATA)[0] for row in x]
    np.testing.assert_allclose(ranks.correlation(x, y, STRATA), expected)


def test_a_shared_value_moves_to_all_rows_of_another_in_the_same_strata(rng):
    cluster = np.array([0, 0, 1, 1, 2, 3, 4])
    strata = np.array([0, 1, 0, 1, 0, 0, 1])
    clusters = ranks.shared_values(cluster, strata)
    source = ranks.arrangements(clusters, 500, rng)
    seen = {tuple(cluster[row].tolist()) for row in source}
    assert seen == {  # 0 and 1 span both strata, 2 and 3 are in the first, 4 is alone in the second
        (*pair, *other, 4) for pair in ((0, 0, 1, 1), (1, 1, 0, 0)) for other in ((2, 3), (3, 2))
    }
    assert math.exp(ranks.log_arrangements(clusters)) == pytest.approx(len(seen))


def test_families_are_exchanged_member_by_member_and_only_with_counterparts(rng):
    family = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3, 4])
    entry = np.array([0, 1, 2, 2, 1, 0, 0, 1, 3, 3])
    clusters = ranks.families(family, entry)
    source = ranks.arrangements(clusters, 500, rng)
    seen = {tuple(row.tolist()) for row in source}
    same, swapped = (0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0)
    assert seen == {(*a, 6, 7, *b) for a in (same, swapped) for b in ((8, 9), (9, 8))}
    assert math.exp(ranks.log_arrangements(clusters)) == pytest.approx(len(seen))


def test_samples_keep_clusters_whole_and_groups_at_their_size(rng):
    family = np.array([0, 0, 1, 1, 2, 2, 3, 4])
    entry = np.array([0, 1, 0, 1, 0, 1, 2, 2])
    drawn = ranks.resamples(ranks.families(family, entry), 300, rng)
    assert np.array_equal(drawn[:, 0:6:2], drawn[:, 1:6:2])
    assert np.all(drawn[:, 0:6:2].sum(axis=1) == 3)
    assert np.all(drawn[:, 6:].sum(axis=1) == 2)
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.2)


def test_the_p_value_is_scipys(rng):
    x, y = rng.standard_normal((2, 7))
    y += x
    one = np.zeros(7, dtype=np.intp)
    clusters = ranks.shared_values(np.arange(7), one)
    chance = ranks.correlation(x[ranks.arrangements(clusters, 20_000, rng)], y, one)
    p = ranks.permutation_p(ranks.correlation(x, y, one)[0], chance)
    exact = stats.permutation_test(
        (x,),
        lambda v: abs(stats.spearmanr(v, y).statistic),
        permutation_type="pairings",
        n_resamples=np.inf,
        alternative="greater",
    ).pvalue
    assert 0.01 < exact < 0.9
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000) + 1e-4)


def test_within_strata_the_p_value_is_that_of_all_arrangements(rng):
    x, y = rng.standard_normal((2, 7))
    strata = np.array([0, 0, 0, 0, 1, 1, 1])
    observed = ranks.correlation(x, y, strata)[0]
    every = [
        ranks.correlation(np.concatenate([a, b]), y, strata)[0]
        for a in itertools.permutations(x[:4])
        for b in itertools.permutations(x[4:])
    ]
    exact = np.mean(np.abs(every) >= abs(observed) - 1e-12)
    clusters = ranks.shared_values(np.arange(7), strata)
    chance = ranks.correlation(x[ranks.arrangements(clusters, 20_000, rng)], y, strata)
    p = ranks.permutation_p(observed, chance)
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000) + 1e-4)


def test_a_p_value_is_never_0_and_missing_without_a_correlation():
    assert ranks.permutation_p(0.9, np.zeros(99)) == 0.01
    assert ranks.permutation_p(-0.5, np.array([0.5, 0.1, -0.5])) == 0.75
    assert math.isnan(ranks.permutation_p(math.nan, np.zeros(9)))


def test_holm_multiplies_by_the_number_of_remaining_tests_and_keeps_the_order():
    # Holm (1979): 4 * 0.01, 3 * 0.02, 2 * 0.03, the last no less than the one before; NaN is no
    # test.
    p = np.array([[0.03, np.nan, 0.01], [0.05, 0.02, np.nan]])
    expected = np.array([[0.06, np.nan, 0.04], [0.06, 0.06, np.nan]])
    np.testing.assert_allclose(ranks.holm(p), expected)
    assert ranks.holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert np.isnan(ranks.holm(np.full(3, np.nan))).all()


@given(
    arrays(
        float,
        st.tuples(st.integers(1, 4), st.integers(1, 9)),
        elements=st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0]),
    )
)
def test_mean_ranks_are_those_of_scipy(values):
    np.testing.assert_array_equal(ranks.mean_ranks(values), stats.rankdata(values, axis=1))
