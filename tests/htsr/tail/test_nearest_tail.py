"""The search over xmin, against one that computes every distance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdiag.htsr.statistics import median
from specdiag.htsr.tail.power_law import TIE, fit_alpha


def plain_fit(x):
    """Return alpha, xmin and distance of the nearest tail, one xmin after the other."""
    x = np.sort(x)
    logs = np.log(x) - np.log(x[0])
    best = (np.inf, np.nan, np.nan)
    for i in range(len(x) - 1):
        n, excess = len(x) - i, (logs[i:] - logs[i]).sum()
        if excess <= n * TIE or (i and logs[i] - logs[i - 1] <= TIE):
            continue
        alpha = 1 + n / excess
        fitted = 1 - np.exp((1 - alpha) * (logs[i:] - logs[i]))
        distance = np.abs(fitted - np.arange(n) / n).max()
        best = min(best, (distance, alpha, x[i]))
    return best


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 200),
    st.sampled_from(["pareto", "lognormal", "uniform", "rounded"]),
    st.integers(0, 2**32),
)
def test_the_nearest_tail_is_that_of_a_search_over_all(n, law, seed):
    rng = np.random.default_rng(seed)
    x = {
        "pareto": lambda: 1 + rng.pareto(1.5, n),
        "lognormal": lambda: rng.lognormal(0, 2, n),
        "uniform": lambda: 1e-3 + rng.random(n),
        "rounded": lambda: np.round(1 + rng.pareto(1.5, n), 1),
    }[law]()
    distance, alpha, xmin = plain_fit(x)
    fit = fit_alpha(x)
    if not fit.n_tail:
        assert distance == np.inf
        return
    assert fit.ks_distance == pytest.approx(distance, abs=1e-12)
    if fit.xmin == pytest.approx(xmin):  # several can have the same distance, to rounding
        assert fit.alpha == pytest.approx(alpha)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20))
def test_the_median_is_that_of_numpy_bit_by_bit(values):
    assert median(np.array(values)) == np.median(values)
