import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from specdiag.htsr.statistics import mean, mean_interval, student_quantile


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
