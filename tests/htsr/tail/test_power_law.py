import contextlib
import io
import logging
import math
import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdiag.htsr import esd
from specdiag.htsr.tail.power_law import fit_alpha

seeds = st.integers(0, 2**32 - 1)


def pareto(rng, n, alpha):
    return (1 - rng.random(n)) ** (-1 / (alpha - 1))


@pytest.fixture(scope="module")
def weightwatcher_fitter():
    """Import weightwatcher, which prints, warns, and silences every warning that follows."""
    filters, level = list(warnings.filters), logging.getLogger().level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from weightwatcher.WW_powerlaw import WWFit
    warnings.filters[:] = filters
    logging.getLogger().setLevel(level)
    return WWFit


@pytest.fixture(scope="module")
def powerlaw_fitter():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import powerlaw

    def fit(x):
        # Without the range, powerlaw 2.0 limits alpha to 3.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return powerlaw.Fit(x, parameter_ranges={"alpha": (1, None)}, verbose=False)

    return fit


def with_body(rng, n, alpha):
    tail = pareto(rng, n // 2, alpha)
    return np.concatenate([tail, rng.uniform(0.05, 1, n - n // 2)])


@pytest.mark.parametrize(
    ("n", "alpha"), [*product([60, 384], [1.5, 2.0, 3.0, 4.0, 6.0]), (1000, 1.5), (1000, 4.0)]
)
@pytest.mark.parametrize("sample", [pareto, with_body])
def test_the_fit_equals_weightwatcher_and_powerlaw(
    rng, weightwatcher_fitter, powerlaw_fitter, sample, n, alpha
):
    x = sample(rng, n, alpha)
    ours, ww, pl = fit_alpha(x), weightwatcher_fitter(x), powerlaw_fitter(x)
    assert ours.alpha == pytest.approx(ww.alpha, rel=1e-10)
    assert ours.alpha == pytest.approx(pl.power_law.alpha, rel=1e-10)
    assert ours.xmin == ww.xmin == pl.xmin
    assert ours.ks_distance == pytest.approx(ww.D, abs=1e-10)
    assert ours.ks_distance == pytest.approx(pl.power_law.D, abs=1e-10)
    assert ours.n_tail == len(ww.data) == pl.n_tail
    assert ours.sigma == pytest.approx(ww.sigma, rel=1e-10)


@pytest.mark.parametrize("alpha", [1.5, 2.0, 4.0, 6.0])
def test_the_exponent_of_simulated_tails_is_estimated(rng, alpha):
    errors = [fit_alpha(pareto(rng, 2000, alpha)).alpha - alpha for _ in range(20)]
    assert abs(np.mean(errors)) < 0.05 * (alpha - 1)


def oracle(x):
    """Compute the fit step by step from its definition."""
    x = np.sort(x)
    best = (math.inf, math.nan, math.nan, 0)
    for xmin in np.unique(x):
        tail = x[x >= xmin]
        n = len(tail)
        if tail[-1] == xmin:
            continue
        alpha = 1 + n / np.log(tail / xmin).sum()
        rank_below = np.arange(n) / n
        distance = np.abs(1 - (tail / xmin) ** (1 - alpha) - rank_below).max()
        best = min(best, (distance, alpha, xmin, n))
    return best


@given(seed=seeds, n=st.integers(2, 150), ties=st.booleans())
def test_the_fit_agrees_with_the_definition(seed, n, ties):
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 12, n).astype(float) if ties else rng.lognormal(sigma=2, size=n)
    distance, alpha, xmin, n_tail = oracle(x)
    fit = fit_alpha(x)
    assert fit.n_tail == n_tail
    if n_tail:
        assert fit.ks_distance == pytest.approx(distance, abs=1e-12)
        assert (fit.alpha, fit.xmin) == pytest.approx((alpha, xmin), rel=1e-10)


@given(seed=seeds, factor=st.sampled_from([1e-24, 1e-3, 3.0, 1e24]))
def test_alpha_and_its_distance_do_not_depend_on_the_scale(seed, factor):
    x = with_body(np.random.default_rng(seed), 120, 2.5)
    one, other = fit_alpha(x), fit_alpha(x * factor)
    assert other.alpha == pytest.approx(one.alpha, rel=1e-9)
    assert other.ks_distance == pytest.approx(one.ks_distance, rel=1e-9)
    assert other.xmin == pytest.approx(one.xmin * factor, rel=1e-9)
    assert other.n_tail == one.n_tail


def test_repeated_eigenvalues_are_one_candidate_in_spite_of_rounding(rng):
    """Test two levels, 40 and 60 times: rounding of a rotation must not add candidates."""
    W = np.diag(np.repeat([1.0, 0.5], [40, 60]))
    Q, _ = np.linalg.qr(rng.standard_normal((100, 100)))
    exact, rotated = (fit_alpha(esd.eigenvalues(M)) for M in (W, Q @ W))
    assert exact.n_tail == rotated.n_tail == 100
    assert rotated.alpha == pytest.approx(exact.alpha, rel=1e-9)


@pytest.mark.parametrize("x", [[], [1.0], [2.0, 2.0, 2.0], np.full(80, 0.1)])
def test_without_two_distinct_values_there_is_no_fit(x):
    fit = fit_alpha(x)
    assert fit.n_tail == 0
    assert math.isnan(fit.alpha)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[1.0, 2.0]], "eigenvalues have shape (1, 2): expected one dimension"),
        (1.0, "eigenvalues have shape (): expected one dimension"),
        (
            [1.0, 0.0],
            "eigenvalues must be positive and finite: drop those below the rank gate",
        ),
        (
            [1.0, math.nan],
            "eigenvalues must be positive and finite: drop those below the rank gate",
        ),
        (
            [1.0, math.inf],
            "eigenvalues must be positive and finite: drop those below the rank gate",
        ),
    ],
)
def test_invalid_eigenvalues_are_refused_with_their_reason(x, message):
    with pytest.raises(ValueError) as error:
        fit_alpha(x)
    assert str(error.value) == message


def test_eigenvalues_may_span_six_hundred_decades():
    assert fit_alpha(np.geomspace(1e-300, 1e300, 80)).n_tail > 2
