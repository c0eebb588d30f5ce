import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from specdiag.comparison import means

alphas = st.floats(1.01, 20)
seeds = st.lists(alphas, min_size=2, max_size=6).map(np.array)


def layers(rng, n, mean=3.0, sd=0.01):
    """Return alphas that differ so little that the bound at 1 has no effect."""
    return mean + sd * rng.standard_normal(n)


def network_seeds(rng, n_seeds, n_layers, icc, sd=0.3):
    """Return alphas of seeds whose layers share the part `icc` of their variance over seeds."""
    shared = rng.standard_normal((n_seeds, 1)) * math.sqrt(icc)
    own = rng.standard_normal((n_seeds, n_layers)) * math.sqrt(1 - icc)
    of_layer = np.linspace(2.5, 3.5, n_layers)
    return of_layer + sd * (shared + own)


def test_the_interval_over_independent_layers_is_that_of_a_paired_t_test(rng):
    a, b = layers(rng, 9), layers(rng, 9, 3.2)
    difference, interval = means.layers_difference(a, b, range(9))
    expected = stats.ttest_rel(b, a)
    assert difference == pytest.approx(np.mean(b - a))
    assert interval == pytest.approx(expected.confidence_interval(), rel=1e-3)


def test_layers_that_repeat_within_blocks_are_no_more_evidence(rng):
    a, b = layers(rng, 6), layers(rng, 6)
    once = means.layers_difference(a, b, range(6))[1]
    blocks = np.repeat(np.arange(6), 3).tolist()
    thrice = means.layers_difference(np.repeat(a, 3), np.repeat(b, 3), blocks)[1]
    assert thrice == pytest.approx(once)


def test_an_assumed_correlation_widens_the_interval_as_varnell_has_it(rng):
    a, b = layers(rng, 12), layers(rng, 12)
    low, high = means.layers_difference(a, b, range(12))[1]
    wide = means.layers_difference(a, b, range(12), 0.5)[1]
    assert np.ptp(wide) / (high - low) == pytest.approx(math.sqrt(1 + 12), rel=0.01)


def test_fewer_than_three_blocks_have_a_difference_but_no_interval():
    a, b = np.array([2.0, 3.0, 2.5]), np.array([2.1, 3.3, 2.6])
    difference, interval = means.layers_difference(a, b, ["x", "y", "y"])
    assert difference == pytest.approx(0.5 / 3)
    assert np.isnan(interval).all()
    assert math.isnan(means.correlation_limit(a, b, ["x", "y", "y"]))
    assert math.isnan(means.layers_difference(a[:0], b[:0], [])[0])


@given(st.lists(st.tuples(alphas, alphas), min_size=3, max_size=20), st.floats(0, 0.95))
def test_an_interval_over_layers_is_possible_and_changes_only_signs_when_exchanged(pairs, r):
    a, b = np.array(pairs).T
    blocks = range(len(a))
    difference, (low, high) = means.layers_difference(a, b, blocks, r)
    assert low <= difference <= high
    back = means.layers_difference(b, a, blocks, r)
    assert back[0] == pytest.approx(-difference)
    assert back[1] == pytest.approx((-high, -low))
    wider = means.layers_difference(a, b, blocks, (1 + r) / 2)[1]
    assert wider[0] <= low + 1e-9
    assert high - 1e-9 <= wider[1]


@pytest.mark.parametrize("of", ["layers", "seeds"])
def test_no_end_of_an_interval_needs_an_alpha_below_one(of):
    a, b = np.array([3.0, 3.01, 2.99]), np.array([1.05, 1.1, 4.6])
    student = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert student.low < 1 - a.max()
    intervals = (
        (means.layers_difference(a, b, range(3))[1], means.layers_difference(b, a, range(3))[1])
        if of == "layers"
        else (means.seeds_difference(a, b)[1], means.seeds_difference(b, a)[1])
    )
    assert 1 - a.max() < intervals[0][0]
    assert intervals[1][1] < a.max() - 1


def test_at_the_limit_of_the_correlation_the_interval_just_touches_zero(rng):
    a, b = layers(rng, 8, 3.0, 0.1), layers(rng, 8, 3.3, 0.1)
    limit = means.correlation_limit(a, b, range(8))
    assert 0 < limit < 1
    low, high = means.layers_difference(a, b, range(8), limit)[1]
    assert min(abs(low), abs(high)) < 1e-3
    assert means.correlation_limit(a, a[::-1], range(8)) == 0


@given(seeds, seeds)
def test_an_interval_over_seeds_contains_the_difference_and_is_possible(first, second):
    difference, (low, high) = means.seeds_difference(first, second)
    assert difference == pytest.approx(second.mean() - first.mean())
    if np.ptp(first) + np.ptp(second) < 1e-6:
        return
    assert low <= difference <= high
    back = means.seeds_difference(second, first)[1]
    assert back == pytest.approx((-high, -low))


@pytest.mark.parametrize("n", [2, 3, 6])
def test_the_interval_over_seeds_is_that_of_welch_for_groups_of_one_size(rng, n):
    a, b = layers(rng, n), layers(rng, n, 3.1, 0.02)
    expected = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert means.seeds_difference(a, b)[1] == pytest.approx(tuple(expected), rel=0.01)


def test_the_degrees_of_freedom_are_at_most_those_of_the_smaller_group_twice(rng):
    a, b = layers(rng, 12), layers(rng, 2, sd=0.002)
    _, (low, high) = means.seeds_difference(a, b)
    error = math.hypot(stats.sem(a), stats.sem(b))
    assert stats.ttest_ind(b, a, equal_var=False).df > 2
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 2) * error, rel=1e-3)


def test_a_single_seed_has_the_scatter_of_the_other_group(rng):
    a = layers(rng, 5)
    _, interval = means.seeds_difference(a, a.mean(keepdims=True))
    error = a.std(ddof=1) * math.sqrt(1 + 1 / 5)
    reach = stats.t.ppf(0.975, 4) * error
    assert np.ptp(interval) / 2 == pytest.approx(reach, rel=1e-3)
    assert np.isnan(means.seeds_difference(a[:1], a[1:2])[1]).all()
    assert np.isnan(means.seeds_difference(np.full(3, 2.0), np.full(3, 2.5))[1]).all()


@pytest.mark.parametrize("icc", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_seeds_of_one_recipe_are_called_different_in_at_most_five_percent(n_seeds, icc):
    rng = np.random.default_rng([n_seeds, int(10 * icc)])
    alarms = 0
    for _ in range(2000):
        first, second = (network_seeds(rng, n_seeds, 6, icc).mean(axis=1) for _ in range(2))
        low, high = means.seeds_difference(first, second)[1]
        alarms += low > 0 or high < 0
    assert alarms / 2000 < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 2000)


def anova_correlation(table):
    """Return the intraclass correlation by hand: two-way analysis of variance, seed by seed."""
    n, k = len(table), len(table[0])
    grand = sum(map(sum, table)) / (n * k)
    of_seed = [sum(row) / k for row in table]
    of_layer = [sum(row[j] for row in table) / n for j in range(k)]
    seeds = k * sum((m - grand) ** 2 for m in of_seed) / (n - 1)
    rest = 0.0
    for i in range(n):
        for j in range(k):
            rest += (table[i][j] - of_seed[i] - of_layer[j] + grand) ** 2
    rest /= (n - 1) * (k - 1)
    between = (seeds - rest) / k  # the variance that the layers of a seed have in common
    return between / (between + rest)


def test_the_intraclass_correlation_is_that_of_an_analysis_of_variance_by_hand(rng):
    group = network_seeds(rng, 7, 5, 0.6)
    r, (low, high) = means.intraclass_correlation([group], range(5))
    assert r == pytest.approx(anova_correlation(group.tolist()))
    assert low < r < high
    # Two groups with the same residuals have the same correlation, whatever their means are.
    both, closer = means.intraclass_correlation([group, group + rng.random(5)], range(5))
    assert both == pytest.approx(r)
    assert closer[0] > low
    # Layers of a block count as one.
    twice, blocks = np.repeat(group, 2, axis=1), np.repeat(range(5), 2).tolist()
    assert means.intraclass_correlation([twice], blocks)[0] == pytest.approx(r)


def test_the_intraclass_correlation_of_shrout_and_fleiss_is_that_of_their_paper():
    # Table 2 of Shrout & Fleiss (1979); ICC(3, 1) is 0.71 in table 4.
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    r, _ = means.intraclass_correlation([np.array(ratings, float)], range(4))
    assert r == pytest.approx(0.715, abs=5e-4)


def test_the_interval_of_the_intraclass_correlation_covers():
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(1000):
        groups = [network_seeds(rng, n, 6, 0.5) for n in (3, 4)]
        _, (low, high) = means.intraclass_correlation(groups, range(6))
        hits += low < 0.5 < high
    assert hits / 1000 == pytest.approx(0.95, abs=0.02)


def test_one_block_or_one_seed_has_no_intraclass_correlation(rng):
    group = network_seeds(rng, 4, 3, 0.5)
    assert np.isnan(np.hstack(means.intraclass_correlation([group], "aaa"))).all()
    assert np.isnan(np.hstack(means.intraclass_correlation([group[:1]], "abc"))).all()


def test_sign_tests_are_those_of_scipy_without_zeros():
    d = np.array([0.4, 0.1, -0.2, 0.7, 0.9, 0.3])
    expected = stats.binomtest(5, 6).pvalue, stats.wilcoxon(d).pvalue
    assert means.sign_tests(d) == pytest.approx(expected)
    assert means.sign_tests(np.append(d, 0.0)) == pytest.approx(expected)
    assert np.isnan(means.sign_tests(np.zeros(3))).all()


@given(
    moved=st.lists(st.integers(-6, 6).filter(bool), min_size=1, max_size=9),
    seed=st.integers(0, 2**32 - 1),
)
def test_sign_tests_count_all_signs_of_the_ranks(moved, seed):
    d = np.array(moved, dtype=float)
    ranks = stats.rankdata(np.abs(d))
    signs = np.array(list(itertools.product([0, 1], repeat=len(d))))
    for weights, p in zip((np.ones(len(d)), ranks), means.sign_tests(d), strict=True):
        sums, total = signs @ weights, weights[d > 0].sum()
        tail = min(np.mean(sums <= total), np.mean(sums >= total))
        assert p == pytest.approx(min(1, 2 * tail), rel=1e-12)
    many = np.random.default_rng(seed).normal(0.3, 1, 45)
    expected = stats.binomtest(int(np.sum(many > 0)), 45).pvalue, stats.wilcoxon(many).pvalue
    assert means.sign_tests(many) == pytest.approx(expected, rel=1e-9)
