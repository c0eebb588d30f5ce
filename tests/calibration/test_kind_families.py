"""The matrices on which the kind of tail is measured are what their names say."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks._kind_families import FAMILIES, LIMITS, NOISE, OTHER, POWER_LAW
from benchmarks._quantiles import cut_pareto, exponential_cut, levels, mixture, with_body

u = np.linspace(0.001, 0.999, 999)


@pytest.mark.parametrize("family", [*FAMILIES, NOISE], ids=lambda family: family.name)
def test_a_family_draws_descending_eigenvalues_of_a_matrix(family):
    values, shape = family.draw(np.random.default_rng(0), 32, 64)
    assert math.prod(shape[2:]) * min(shape[:2]) == 32
    assert 0 < len(values) <= 32
    assert np.all(np.diff(values) <= 0)
    assert values[-1] >= 0


def test_half_of_the_families_of_each_truth_are_held_out():
    for truth in (POWER_LAW, OTHER):
        halves = [family.half for family in FAMILIES if family.truth == truth]
        assert halves.count("held out") == halves.count("tuning")
    assert set(LIMITS) < {family.name for family in FAMILIES if family.truth == OTHER}


@pytest.mark.parametrize(
    "quantile",
    [
        with_body(2.5, 0.5, lambda v: 1 - v),
        cut_pareto(2.5, 10),
        exponential_cut(2, 20),
        levels(4, 2, 1),
        mixture(0.2, 1.5, 0.5),
    ],
)
def test_quantiles_descend_with_the_probability_above(quantile):
    assert np.all(np.diff(quantile(u)) <= 0)


def test_quantiles_are_those_of_the_distributions():
    np.testing.assert_allclose(
        with_body(2.5, 0.5, lambda v: 1 - v)(u[:400]), (u[:400] * 2) ** (-2 / 3)
    )
    x = np.array([1.5, 3.0, 9.0])
    above = (x**-1.5 - 10**-1.5) / (1 - 10**-1.5)
    np.testing.assert_allclose(cut_pareto(2.5, 10)(above), x)
    grid = np.linspace(1, 800, 2_000_001)
    density = grid**-2.0 * np.exp(-grid / 20)
    share = density[grid >= 5].sum() / density.sum()
    assert exponential_cut(2, 20)(share) == pytest.approx(5, rel=0.01)
    of_mixture = 0.2 * stats.lognorm.sf(x, 1.5) + 0.8 * stats.lognorm.sf(x, 0.5)
    np.testing.assert_allclose(mixture(0.2, 1.5, 0.5)(of_mixture), x, rtol=1e-3)
