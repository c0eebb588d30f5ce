"""The simulated spectra have the density, the junction and the share that the calibration says."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks import _bodies as bodies

ALPHA, SHARE = 1.75, 0.5
EVERY = sorted(bodies.BODIES)


def share_of(name):
    """Return the share of the tail that its shape decides, or the first that the body can have."""
    fixed = bodies.BODIES[name].share
    shares = (fixed(ALPHA),) if fixed else (SHARE, 0.75)
    return next(share for share in shares if bodies.is_possible(name, ALPHA, share))


def density_below(name):
    """Return y = log x and the density of y, divided by that of the tail at the junction."""
    below, y = bodies.quantiles(name, ALPHA, share_of(name))
    share = share_of(name)
    middle = (y[1:] + y[:-1]) / 2
    density = np.diff(below) / np.maximum(np.diff(y), 1e-300)
    return middle, density * (1 - share) / (share * (ALPHA - 1))


def test_every_body_belongs_to_one_half_and_every_kind_of_junction_to_both():
    assert sorted((*bodies.TUNING, *bodies.HELD_OUT)) == EVERY
    for names in bodies.HALVES.values():
        junctions = {bodies.BODIES[name].junction for name in names}
        assert junctions == {"jump", "value", "slope", "curvature"}


@pytest.mark.parametrize("name", EVERY)
def test_the_share_above_xmin_is_as_expected_and_the_tail_is_a_power_law(name):
    x, n_tail = bodies.draw(np.random.default_rng(1), name, 1000, ALPHA, share_of(name), 40)
    share = share_of(name)
    assert np.all(np.diff(x, axis=1) <= 0)
    np.testing.assert_array_equal((x >= 1).sum(axis=1), n_tail)
    assert n_tail.sum() / x.size == pytest.approx(share, abs=5 * math.sqrt(share / x.size))
    assert stats.kstest(x[x >= 1], stats.pareto(ALPHA - 1).cdf).pvalue > 1e-4


@pytest.mark.parametrize("name", EVERY)
def test_the_junction_is_as_smooth_as_the_body_says(name):
    """The log density at y = 0 and its derivatives, from a cubic through values just below."""
    y, ratio = density_below(name)
    junction = bodies.BODIES[name].junction
    near = (y > -0.02) & (y < -1e-4)
    if np.any(ratio[near] <= 0):
        assert junction == "jump"
        return
    _, second, slope, value = np.polyfit(y[near], np.log(ratio[near]), 3)
    order = ("jump", "value", "slope", "curvature").index(junction)
    assert (abs(value) < 0.005) == (order > 0)
    if order > 0:
        assert (abs(slope + ALPHA - 1) < 0.02) == (order > 1)
    if order > 1:
        assert (abs(2 * second) < 0.01) == (order > 2)


@pytest.mark.parametrize("name", [n for n in EVERY if bodies.BODIES[n].junction != "jump"])
def test_draws_are_as_dense_below_a_continuous_junction_as_above_it(name):
    x, _ = bodies.draw(np.random.default_rng(2), name, 1000, ALPHA, share_of(name), 400)
    y = np.log(x)
    above, below = np.sum((y >= 0) & (y < 0.02)), np.sum((y < 0) & (y > -0.02))
    assert below / above == pytest.approx(1, abs=0.15)


KNOWN = {
    "uniform": stats.uniform(),
    "rising": stats.beta(3, 1),
    "falling": stats.beta(0.2, 1),
    "log-uniform": stats.loguniform(0.01, 1),
    "gamma": stats.gamma(3, scale=1 / 5),
    "weibull": stats.weibull_min(0.7, scale=0.3),
    "beta": stats.beta(2, 5),
    "triangle": stats.triang(0.5),
    "lognormal-cut": stats.lognorm(0.9, scale=math.exp(-0.8)),
    "half-lognormal": stats.lognorm(0.5),
    "gap-bulk": stats.lognorm(0.3, scale=math.exp(-2)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_body_with_a_name_has_the_distribution_of_scipy(name):
    x, _ = bodies.draw(np.random.default_rng(3), name, 1000, ALPHA, SHARE, 10)
    known = KNOWN[name]
    assert stats.kstest(x[x < 1], lambda v: known.cdf(v) / known.cdf(1)).pvalue > 1e-4


@pytest.mark.parametrize("lower", [0.5, 0.9, 1.8])
def test_a_power_law_below_the_tail_has_its_closed_form(lower):
    """Its integral from v to 1 is (1 - v^r) / r, r = 1 - exponent."""
    share = 0.5 if lower < 1 else 0.75
    x, _ = bodies.draw(np.random.default_rng(4), f"power-{lower}", 1000, 2.0, share, 10)
    r, mass = 1 - (2.0 - lower), (1 - share) / share  # the mass at alpha = 2
    below = x[x < 1]
    assert stats.kstest(below, lambda v: 1 - (1 - v**r) / r / mass).pvalue > 1e-4


@pytest.mark.parametrize("ratio", [1.0, 0.5, 1 / 16])
def test_the_marchenko_pastur_density_has_the_moments_of_the_law(ratio):
    """Its mean is 1 and its variance the ratio M/N (Marchenko & Pastur 1967)."""
    top = (1 + ratio**0.5) ** 2
    y = np.linspace(-40, math.log(top), 200_001)
    x = np.exp(y)
    weight = bodies.marchenko_pastur(x, ratio, top) * x
    mean = weight @ x / weight.sum()
    assert mean == pytest.approx(1, rel=1e-3)
    assert weight @ (x - mean) ** 2 / weight.sum() == pytest.approx(ratio, rel=1e-3)


def test_a_steeper_body_than_can_hold_its_share_is_left_out():
    assert not bodies.is_possible("power-2.5", 1.5, 1 / 16)
    assert all(cell[3] > 1 / 16 for cell in bodies.cells(["power-2.5"], 99) if cell[2] == 1.5)


def test_cells_are_the_same_each_time_and_have_long_enough_tails():
    names = ("rising", "power-0.9", "clauset")
    cells = bodies.cells(names, 8)
    assert cells == bodies.cells(names, 8)
    assert len(set(cells)) == len(cells) == 24
    assert all(n * share >= bodies.ENOUGH for _, n, _, share in cells)
    assert {n for _, n, _, _ in cells} == set(bodies.SIZES)


@pytest.mark.parametrize("name", bodies.TOPS)
def test_a_contaminated_top_keeps_the_rest_of_the_spectrum(name):
    rng = np.random.default_rng(5)
    x, _ = bodies.draw(rng, "none", 100, 2.0, 1.0, 3)
    top = bodies.TOPS[name](rng, x)
    assert np.all(np.diff(top, axis=1) <= 0)
    assert not np.allclose(top[:, 0], x[:, 0])
    np.testing.assert_array_equal(top[:, 50:], x[:, 50:])


def test_limits_approach_the_exponent_they_name():
    rng = np.random.default_rng(6)
    for name in ("Burr", "squared Student's t"):
        x = np.sort(bodies.LIMITS[name](rng, 2.5, (1_000_000,)))[-2000:]
        assert 1 + 1 / np.mean(np.log(x[1:] / x[0])) == pytest.approx(2.5, abs=0.12)
    x = bodies.LIMITS["exponential cut-off at 20 xmin"](rng, 2.5, (100_000,))
    grid = np.geomspace(1, 1e4, 100_001)
    density = grid**-2.5 * np.exp(-grid / 20)
    cdf = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))])
    assert stats.kstest(x, lambda v: np.interp(v, grid, cdf / cdf[-1])).pvalue > 1e-4


def test_sampled_covariances_have_the_moments_of_the_wishart_distribution():
    """E tr S = tr P, E tr S^2 = (1 + 1/N) tr P^2 + (tr P)^2 / N."""
    rng = np.random.default_rng(7)
    population, N = np.array([4.0, 2.0, 1.0, 0.5]), 6
    S = np.array([bodies.sample_covariance(rng, population, N) for _ in range(20_000)])
    trace, square = population.sum(), np.sum(population**2)
    assert S.sum(axis=1).mean() == pytest.approx(trace, rel=0.02)
    second = (1 + 1 / N) * square + trace**2 / N
    assert np.sum(S**2, axis=1).mean() == pytest.approx(second, rel=0.03)
