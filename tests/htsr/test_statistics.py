import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from specdiag.htsr.statistics import (
    MIN_LAYERS,
    alpha_mean_interval,
    mean,
    mean_interval,
    student_quantile,
)

many_alphas = st.lists(st.floats(1.01, 50), min_size=MIN_LAYERS, max_size=30)


@pytest.mark.parametrize("freedom", [1, 2, 7, 36, 500])
def test_the_quantile_of_student_is_that_of_scipy(freedom):
    assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-6)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20), st.sampled_from([0.5, 0.95, 0.99]))
def test_the_interval_is_that_of_a_t_test(values, level):
    values = np.array(values)
    low, high = np.ravel(mean_interval(values[:, None], level))
    if np.ptp(values) > 1e-6:
        expected = stats.ttest_1samp(values, 0).confidence_interval(level)
        assert low + high == pytest.approx(2 * values.mean(), abs=1e-9)
        assert high - low == pytest.approx(expected.high - expected.low, rel=1e-6)
    else:
        np.testing.assert_allclose((low, high), values[0], atol=1e-5)
    assert mean_interval(values, level) == (low, high)


def test_one_value_has_no_interval():
    assert np.isnan(mean_interval(np.array([1.0]))).all()
    assert np.shape(mean_interval(np.ones((1, 3)))) == (2, 3)


def test_a_mean_leaves_out_nan():
    assert mean([1.0, math.nan, 3.0]) == 2.0
    assert math.isnan(mean([math.nan]))
    assert math.isnan(mean([]))


@given(many_alphas)
def test_the_interval_of_mean_alpha_contains_it_and_stays_above_one(values):
    center, (low, high) = alpha_mean_interval(values)
    assert center == pytest.approx(np.mean(values))
    assert 1 < low <= center <= high
    # Its ends are equally far from the mean on the scale of log(alpha - 1).
    assert (low - 1) * (high - 1) == pytest.approx((center - 1) ** 2)
    assert alpha_mean_interval([*values, math.nan]) == (center, (low, high))


def test_the_interval_of_mean_alpha_is_that_of_a_t_test_if_layers_hardly_differ(rng):
    values = 3 + 1e-4 * rng.standard_normal(9)
    _, interval = alpha_mean_interval(values)
    assert interval == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(), rel=1e-8)


def test_few_layers_have_no_mean_of_alpha():
    assert np.isnan(np.hstack(alpha_mean_interval(range(2, MIN_LAYERS + 1)))).all()
    assert np.isfinite(np.hstack(alpha_mean_interval(range(2, MIN_LAYERS + 2)))).all()


@pytest.mark.parametrize("sd", [0.3, 0.6])
def test_the_interval_of_mean_alpha_covers_more_often_than_students_t(sd):
    rng = np.random.default_rng(5)
    truth = 1 + math.exp(sd**2 / 2)
    samples = 1 + rng.lognormal(0, sd, (4000, 6))
    intervals = np.array([alpha_mean_interval(x)[1] for x in samples])
    plain = np.transpose(mean_interval(samples.T))
    ours, theirs = (np.mean((x[:, 0] < truth) & (truth < x[:, 1])) for x in (intervals, plain))
    assert theirs < ours
    assert ours > 0.92
