import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from specdiag.htsr.esd import eigenvalues, resolved_eigenvalues
from specdiag.htsr.tail.change_points import tail_ends
from specdiag.htsr.tail.kind import (
    EVIDENCE,
    NO_KIND,
    SLOPE_SD,
    evidence,
    population_values,
    tail_kind,
)

seeds = st.integers(0, 2**32 - 1)


def spectrum(rng, variances, N):
    """Return the eigenvalues of a Gaussian matrix whose rows have these variances."""
    return eigenvalues(np.sqrt(variances)[:, None] * rng.standard_normal((len(variances), N)))


def power_law(rng, n, alpha):
    return (1 - rng.random(n)) ** (-1 / (alpha - 1))


def share_of(calls):
    return np.mean(list(calls))


def integrated_factor(values):
    """Return the log10 factor and the mean slope, with beta integrated numerically.

    The tail's likelihood is the product of exponential densities, one spacing at a time.
    """
    values = np.sort(values)[::-1]
    m = len(values) - 1
    e = np.array([i * math.log(values[i - 1] / values[i]) for i in range(1, m + 1)])
    s = np.median(e) / math.log(2)
    ends, log_below = tail_ends(e)
    windows = [
        (n, k, below)
        for k, below in zip(ends, log_below, strict=True)
        for n in (0, 1, 2, 3, 5, 8, 12)
        if k - n >= 10
    ]
    slopes = np.arange(-30, 21) / 20
    evidence_of = []
    for b in slopes:
        parts = []
        for n, k, below in windows:
            rank = np.arange(n + 1, k + 1)
            shape = (rank / math.exp(np.log(rank).mean())) ** b

            def log_likelihood(beta, shape=shape, e=e[n:k]):
                rate = beta * shape
                return float(np.sum(np.log(rate) - rate * e))

            best = (k - n) / float(shape @ e[n:k])
            top = log_likelihood(best)
            area, _ = quad(
                lambda x, f=log_likelihood, top=top: math.exp(f(x) - top),
                1e-9,
                best * (1 + 12 / math.sqrt(k - n)),
                points=[best],
            )
            outliers = 0.2 / 6 * s * math.factorial(n) / (s + e[:n].sum()) ** (n + 1)
            size = min((k - n + 1) / 30, 1) ** 2
            prior = (outliers if n else 0.8) * size
            parts.append(below + top + math.log(area * prior))
        evidence_of.append(np.logaddexp.reduce(parts))
    evidence_of = np.array(evidence_of)
    steeper = slopes < -0.01
    prior = np.exp(-0.5 * (slopes[steeper] / SLOPE_SD) ** 2)
    against = np.log(prior / prior.sum() @ np.exp(evidence_of[steeper] - evidence_of.max()))
    weight = np.exp(evidence_of - evidence_of.max())
    return (
        (evidence_of[30] - evidence_of.max() - against) / math.log(10),
        float(weight @ slopes / weight.sum()),
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_evidence_is_the_integral_over_the_exponent(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([power_law(rng, 20, 2.5), rng.uniform(0.2, 1, 4 + 6 * seed)])
    kind = evidence(np.sort(values)[::-1])
    factor, slope = integrated_factor(values)
    assert kind.log10_factor == pytest.approx(factor, abs=1e-6)
    assert kind.slope == pytest.approx(slope, abs=1e-6)


@given(seed=seeds, power=st.floats(0.2, 5))
def test_the_evidence_does_not_depend_on_a_power_of_the_values(seed, power):
    """Eigenvalues and singular values have the same kind of tail."""
    x = np.sort(np.random.default_rng(seed).lognormal(size=60))[::-1]
    one, other = evidence(x), evidence(x**power)
    assert other.log10_factor == pytest.approx(one.log10_factor, abs=1e-8)
    assert other.slope == pytest.approx(one.slope, abs=1e-8)


@given(seed=seeds, factor=st.sampled_from([1e-30, 0.02, 3.0, 2.0**60]))
def test_the_kind_does_not_depend_on_the_scale(seed, factor):
    rng = np.random.default_rng(seed)
    x = spectrum(rng, power_law(rng, 40, 2.5), 60)
    one, other = tail_kind(x, (40, 60)), tail_kind(x * factor, (40, 60))
    assert other.log10_factor == pytest.approx(one.log10_factor, abs=1e-8)
    assert other.slope == pytest.approx(one.slope, abs=1e-8)
    assert other.slope_sd == pytest.approx(one.slope_sd, abs=1e-8)


@given(seed=seeds)
def test_neither_the_order_of_eigenvalues_nor_of_sides_matters(seed):
    rng = np.random.default_rng(seed)
    x = spectrum(rng, rng.lognormal(size=40), 50)
    assert tail_kind(rng.permutation(x), (50, 40)) == tail_kind(x, (40, 50))


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_the_values_of_noise_are_nearer_to_each_other_than_its_eigenvalues(rng, ratio):
    """All variances are equal; the eigenvalues spread over the Marchenko-Pastur law."""
    M, N = 400, 400 * ratio
    x = spectrum(rng, np.ones(M), N)
    top = slice(M // 4)
    assert np.ptp(np.log(population_values(x, (M, N))[top])) < 0.75 * np.ptp(np.log(x[top]))


@pytest.mark.parametrize("ratio", [1, 4])
def test_spikes_are_mapped_back_to_the_variances_behind_them(rng, ratio):
    """Of a spike t the eigenvalue is near t (1 + c / (t - 1)): Baik & Silverstein 2006."""
    M, N = 600, 600 * ratio
    c = M / N
    variances = np.ones(M)
    spikes = np.array([40.0, 20.0, 10.0, 6.0])
    expected = spikes * (1 + c / (spikes - 1))
    bulk = spectrum(rng, variances[4:], N)
    x = np.concatenate([expected, bulk])
    np.testing.assert_allclose(population_values(x, (M, N))[:4], spikes, rtol=0.04)


def test_values_out_of_order_do_not_count_for_a_power_law():
    """A signal added to square noise: the map reverses eigenvalues, and the lower factor counts."""
    rng = np.random.default_rng(0)
    M, k = 256, 64
    W = rng.standard_normal((M, M))
    W[np.arange(k), np.arange(k)] += 45 * ((np.arange(k) + 0.5) / k) ** (-1 / 3)
    x = eigenvalues(W)
    values = population_values(x, W.shape)
    assert np.any(np.diff(values[:k]) > 0)
    of_values, of_eigenvalues = evidence(np.sort(values)[::-1]), evidence(x[: len(values)])
    assert of_eigenvalues.log10_factor < EVIDENCE < of_values.log10_factor
    assert tail_kind(x, W.shape) == of_eigenvalues


@pytest.mark.parametrize("shape", [(192, 192), (128, 256), (96, 768)], ids=str)
@pytest.mark.parametrize(
    "strengths",
    [[1.1], [1.6], [4.0], [2.0, 2.0, 2.0], [5.0, 2.0, 1.2]],
    ids=lambda strengths: " ".join(map(str, strengths)),
)
def test_a_few_directions_above_noise_are_no_power_law(shape, strengths):
    """Their strengths are in units of the largest singular value of the noise."""
    rng = np.random.default_rng(0)
    i = np.arange(len(strengths))
    kinds = []
    for _ in range(4):
        W = rng.standard_normal(shape)
        W[i, i] += np.array(strengths) * np.sqrt(shape).sum()
        kinds.append(tail_kind(eigenvalues(W), shape))
    assert max(kind.log10_factor for kind in kinds) < EVIDENCE
    assert np.mean([kind.slope for kind in kinds]) < 0


def test_outliers_above_a_power_law_do_not_hide_it():
    rng = np.random.default_rng(0)
    M = 256
    variances = ((np.arange(M) + 0.5) / M) ** (-1 / 1.5)
    variances[:2] *= 20
    kinds = [tail_kind(spectrum(rng, variances, M), (M, M)) for _ in range(10)]
    assert share_of(kind.log10_factor >= EVIDENCE for kind in kinds) >= 0.8


@pytest.mark.parametrize("N", [256, 1024])
def test_power_laws_are_told_from_tails_that_steepen(N):
    rng = np.random.default_rng(0)
    M, shape = 256, (256, N)
    fixed = ((np.arange(M) + 0.5) / M) ** (-1 / 1.5)
    power = [tail_kind(spectrum(rng, fixed, N), shape) for _ in range(10)]
    assert share_of(k.log10_factor >= EVIDENCE for k in power) >= 0.8
    assert np.mean([k.slope for k in power]) == pytest.approx(0, abs=0.15)
    for draw in (rng.lognormal, rng.exponential):
        other = [tail_kind(spectrum(rng, draw(size=M), N), shape) for _ in range(10)]
        assert share_of(k.log10_factor >= EVIDENCE for k in other) == 0
        assert share_of(k.log10_factor < 0 for k in other) >= 0.8
        assert np.mean([k.slope for k in other]) < -0.15


def test_kernels_are_pooled_over_their_positions():
    rng = np.random.default_rng(0)
    W = rng.standard_normal((128, 200, 3)) * np.sqrt(rng.exponential(size=(128, 1, 1)))
    kind = tail_kind(eigenvalues(W), W.shape)
    assert kind.log10_factor <= -EVIDENCE
    assert kind.slope < -0.15
    W = rng.standard_normal((128, 200, 3)) * np.sqrt(power_law(rng, 128, 2.2))[:, None, None]
    assert tail_kind(eigenvalues(W), W.shape).log10_factor >= EVIDENCE


def test_a_kernel_of_one_position_is_a_matrix(rng):
    x = spectrum(rng, rng.lognormal(size=60), 80)
    assert tail_kind(x, (60, 80, 1, 1)) == tail_kind(x, (60, 80))


@given(seed=seeds, rows=st.integers(0, 80))
def test_rows_of_zeros_change_nothing(seed, rows):
    rng = np.random.default_rng(seed)
    W = np.zeros((60 + rows, 150))
    W[:60] = rng.standard_normal((60, 150)) * np.sqrt(power_law(rng, 60, 2.5))[:, None]
    x = resolved_eigenvalues(eigenvalues(W), W.shape, np.float64)
    assert len(x) == 60
    assert tail_kind(x, W.shape) == tail_kind(x, (60, 150))


@pytest.mark.parametrize(
    "x",
    [
        np.repeat([1.0, 2.0, 5.0, 7.0], 20),
        np.concatenate([[1e12], np.linspace(1, 2, 79)]),
        np.concatenate([np.linspace(1, 2, 40), np.linspace(1e6, 2e6, 40)]),
        np.geomspace(1e200, 1e300, 80),
        np.linspace(1, 1 + 1e-6, 80),
        np.concatenate([np.full(20, 9.0), np.geomspace(1, 8, 60)]),
    ],
    ids=["ties", "one spike", "a gap", "100 decades", "nearly equal", "ties on top"],
)
@pytest.mark.parametrize("shape", [(80, 80), (80, 320), (20, 20, 2, 2)])
def test_unusual_spectra_have_a_finite_factor(x, shape):
    kind = tail_kind(x, shape)
    assert math.isfinite(kind.log10_factor)
    assert -1.5 <= kind.slope <= 1
    assert kind.slope_sd >= 0


@pytest.mark.parametrize(
    "x",
    [[], [2.0], np.arange(1.0, 17), np.ones(40), np.repeat([1.0, 2.0], 20)],
    ids=["none", "one", "sixteen", "equal", "two values"],
)
def test_without_enough_distinct_values_there_is_no_kind(x):
    assert tail_kind(x, (40, 40)) == NO_KIND


def test_invalid_eigenvalues_are_refused():
    with pytest.raises(ValueError, match=r"eigenvalues have shape \(2, 2\)"):
        tail_kind(np.ones((2, 2)), (4, 4))
    with pytest.raises(ValueError, match="eigenvalues must be positive and finite"):
        tail_kind(np.zeros(20), (20, 20))
    with pytest.raises(
        ValueError, match="50 eigenvalues of shape \\(40, 60\\): expected at most 40"
    ):
        tail_kind(np.arange(1.0, 51), (40, 60))
