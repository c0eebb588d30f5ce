"""Simulation-based calibration in a small version; the full one is in docs/calibration.md."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks import _rank_statistics as sbc
from specdiag.htsr.tail.posterior import alpha_posterior, alpha_quantiles


def differences(u):
    return np.searchsorted(np.sort(u), sbc.GRID, side="right") / len(u) - sbc.GRID


def is_inside(u, band):
    low, high = band
    difference = differences(u)
    return bool(np.all((difference >= low) & (difference <= high)))


def test_the_band_holds_95_percent_of_the_curves_of_uniform_ranks(rng):
    band = sbc.band(200)
    inside = [is_inside(rng.random(200), band) for _ in range(2000)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_the_band_is_wider_than_that_of_one_point_and_has_the_level_of_kolmogorov(rng):
    """Kolmogorov's band has one width everywhere: this one is at most as wide in the middle."""
    low, high = sbc.band(1000)
    one_point = stats.binom.ppf(0.975, 1000, 0.5) / 1000 - 0.5
    assert one_point < high[49] < 1.3 * stats.kstwo.ppf(0.95, 1000)
    np.testing.assert_allclose(high, -low[::-1], atol=0.002)


@pytest.mark.parametrize(("shift", "spread"), [(0.3, 1.0), (0.0, 1.4), (0.0, 0.7)])
def test_ranks_of_a_wrong_posterior_leave_the_band(rng, shift, spread):
    u = stats.norm.cdf(shift + spread * rng.standard_normal(1000))
    assert not is_inside(u, sbc.band(1000))


@pytest.mark.parametrize("kind", sbc.KINDS)
def test_ranks_of_alpha_stay_inside_the_band_of_uniform_ranks(kind):
    u = sbc.ranks(sbc.KINDS[kind], np.random.default_rng(11), 300)
    assert is_inside(u, sbc.band(300))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.975])
def test_the_rank_of_a_quantile_is_its_probability(rng, p):
    posterior = alpha_posterior((1 - rng.random(300)) ** -0.8)
    assert sbc.rank(posterior, float(alpha_quantiles(posterior, [p])[0])) == pytest.approx(
        p, abs=1e-4
    )


def test_a_posterior_that_is_cut_to_limits_has_ranks_from_zero_to_one(rng):
    posterior = alpha_posterior((1 - rng.random(300)) ** -0.8)
    low, middle, high = alpha_quantiles(posterior, [0.3, 0.5, 0.7]) - 1
    ranks = [sbc.rank(posterior, 1 + beta, (low, high)) for beta in (low, middle, high)]
    assert ranks == pytest.approx([0, 0.5, 1], abs=1e-3)
    assert sbc.rank(posterior, 1.01, (1e6, math.inf)) in (0.0, 1.0)


def test_spectra_of_the_model_have_the_spacings_of_their_tail(rng):
    """Without outliers the first 15 spacings are exponential with rate alpha - 1."""
    scaled = []
    for _ in range(400):
        x, alpha, _ = sbc.of_model(rng)
        spacings = np.arange(13, 16) * -np.diff(np.log(x[12:16]))
        scaled.append(spacings * (alpha - 1))
    assert stats.kstest(np.concatenate(scaled), "expon").pvalue > 1e-4
