import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdiag.htsr.tail.change_points import MIN_SPACINGS
from specdiag.htsr.tail.goodness_of_fit import goodness_of_fit
from specdiag.htsr.tail.power_law import TIE

seeds = st.integers(0, 2**32 - 1)


def pareto(rng, n, alpha):
    return (1 - rng.random(n)) ** (-1 / (alpha - 1))


def test_a_true_power_law_is_rejected_at_no_more_than_the_nominal_rate():
    rng = np.random.default_rng(11)
    p = np.array([goodness_of_fit(pareto(rng, 200, 2.5)) for _ in range(200)])
    assert np.mean(p <= 0.1) <= 0.16  # 0.1 + 3 standard errors
    assert 0.3 < np.median(p) < 0.8


def test_a_spectrum_without_power_law_is_rejected(rng):
    from specdiag.htsr.esd import eigenvalues

    p = [goodness_of_fit(eigenvalues(rng.standard_normal((256, 256)))) for _ in range(10)]
    assert np.mean(np.array(p) < 0.1) >= 0.7


@given(seed=seeds, factor=st.sampled_from([1e-20, 5.0, 1e20]))
def test_the_p_value_does_not_depend_on_the_scale_and_the_seed_reproduces_it(seed, factor):
    x = np.random.default_rng(seed).lognormal(size=80)
    expected = goodness_of_fit(x, seed=seed)
    assert goodness_of_fit(x * factor, seed=seed) == goodness_of_fit(x, seed=seed) == expected
    assert 1 / 301 <= expected <= 1


def plain_p_value(x, seed):
    """The p-value without a short cut: every tail of every replicate is compared with its fit."""
    logs = np.sort(np.log(x))[::-1]
    n = len(logs)
    sizes = np.unique(np.round(np.geomspace(MIN_SPACINGS, n - 1, 48)).astype(int))

    def fit(row):
        fits = [(1.0, math.nan, sizes[0])]
        for k in sizes:
            excess = row[:k].cumsum()[-1] - k * row[k]
            if excess > k * TIE:
                rate = k / excess
                steps = (np.arange(k) + 0.5) / k
                apart = np.abs(np.exp((row[k] - row[:k]) * rate) - steps).max() + 0.5 / k
                fits.append((apart, rate, k))
        return min(fits, key=lambda fit: fit[0])

    distance, beta, k = fit(logs)
    rng = np.random.default_rng(seed)
    used = exceeded = 0
    batch = 40
    while used < 300:
        count = min(batch, 300 - used)
        in_tail = rng.random((count, n)) < k / n
        body = logs[rng.integers(k, n, (count, n))]
        drawn = np.where(in_tail, logs[k] + rng.standard_exponential((count, n)) / beta, body)
        for row in np.sort(drawn)[:, ::-1]:
            used += 1
            exceeded += fit(row)[0] >= distance
            if exceeded == 20:
                return 20 / used
        batch *= 2
    return (exceeded + 1) / 301


@settings(max_examples=25, deadline=None)
@given(seed=seeds, n=st.integers(18, 150), kind=st.sampled_from(["pareto", "body", "rounded"]))
def test_replicates_that_are_decided_early_give_the_same_p_value(seed, n, kind):
    rng = np.random.default_rng(seed)
    x = {
        "pareto": pareto(rng, n, 2.5),
        "body": np.append(rng.random(n - n // 4) + 0.2, pareto(rng, n // 4, 2.0)),
        "rounded": np.round(rng.lognormal(size=n), 1) + 0.1,
    }[kind]
    assert goodness_of_fit(x, seed=seed) == plain_p_value(x, seed)


@pytest.mark.parametrize("x", [[], np.arange(1.0, 17), np.ones(50)])
def test_without_a_tail_there_is_no_p_value(x):
    assert math.isnan(goodness_of_fit(x))
