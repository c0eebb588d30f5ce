import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from specdiag.features import blocks
from specdiag.features.blocks import Moments
from specdiag.features.estimators import SUMMARIES, Jackknife, _between, estimates
from support.features import measured, numpy_spectrum

seeds = st.integers(0, 2**32 - 1)


def moments(rows):
    mean = rows.mean(axis=0)
    return Moments(count=len(rows), mean=mean, scatter=(rows - mean).T @ (rows - mean))


def scaled(trials):
    """Return the sums of trials, and the scale of their variance."""
    total = moments(np.concatenate(trials))
    return blocks.scaled([moments(rows) for rows in trials], total), np.trace(total.scatter) / (
        total.count - 1
    )


def average(products, weights):
    return sum(products) / sum(weights)


def traces_by_enumeration(trials):
    """Return tr(S^2), tr(S)^2 and tr(S) as averages over all choices of different trials."""
    n = [len(rows) for rows in trials]
    s = [rows.sum(axis=0) for rows in trials]
    M = [rows.T @ rows for rows in trials]
    two, three, four = ([*itertools.permutations(range(len(n)), size)] for size in (2, 3, 4))
    n2, n3, n4 = (
        [math.prod(n[i] for i in chosen) for chosen in all_] for all_ in (two, three, four)
    )
    mean4 = average([(s[a] @ s[b]) * (s[c] @ s[d]) for a, b, c, d in four], n4)
    square = (
        average([np.trace(M[a] @ M[b]) for a, b in two], n2)
        - 2 * average([s[b] @ M[a] @ s[c] for a, b, c in three], n3)
        + mean4
    )
    squared = (
        average([np.trace(M[a]) * np.trace(M[b]) for a, b in two], n2)
        - 2 * average([np.trace(M[a]) * (s[b] @ s[c]) for a, b, c in three], n3)
        + mean4
    )
    one = sum(map(np.trace, M)) / sum(n) - average([s[a] @ s[b] for a, b in two], n2)
    return square, squared, one


@given(seed=seeds, d=st.integers(1, 4), k=st.integers(5, 6))
def test_traces_are_averages_over_all_choices_of_different_blocks(seed, d, k):
    rng = np.random.default_rng(seed)
    trials = [rng.standard_normal((rng.integers(1, 5), d)) + 0.3 for _ in range(k)]
    sums, scale = scaled(trials)
    centre = np.concatenate(trials).mean(axis=0)
    centred = [(rows - centre) / math.sqrt(scale) for rows in trials]
    seen = np.vstack([blocks.traces(sums), blocks.trace(sums)])
    close = {"rtol": 1e-7, "atol": 1e-9}
    np.testing.assert_allclose(seen[:, 0], traces_by_enumeration(centred), **close)
    for i in range(k):
        rest = centred[:i] + centred[i + 1 :]
        np.testing.assert_allclose(seen[:, 1 + i], traces_by_enumeration(rest), **close)


def test_the_curvature_is_that_of_all_pairs_of_different_blocks():
    rng = np.random.default_rng(3)
    trials = [rng.standard_normal((5, 3)) for _ in range(7)]
    sums, scale = scaled(trials)
    centre = np.concatenate(trials).mean(axis=0)
    M = [(rows - centre).T @ (rows - centre) / (5 * scale) for rows in trials]
    S = np.mean(M, axis=0)
    E = [(one - np.trace(one) / np.trace(S) * S) / np.trace(S) for one in M]
    own = [float((one**2).sum()) for one in E]
    pairs = [
        ((E[a] * E[b]).sum() + (own[a] + own[b]) / 12) / 49
        for a, b in itertools.permutations(range(7), 2)
    ]
    ratio = np.trace(S) ** 2 / (S**2).sum()
    assert blocks.curvature(sums) == pytest.approx(math.sqrt(2 * np.dot(pairs, pairs)) * ratio)


def test_traces_have_no_bias_although_samples_within_blocks_depend_on_each_other():
    """Test seven trials whose ten samples differ little, about a mean that is not zero."""
    rng = np.random.default_rng(0)
    values = np.array([3.0, 1.0, 0.5])
    seen = []
    for _ in range(4000):
        trial = rng.standard_normal((7, 1, 3)) + 0.3 * rng.standard_normal((7, 10, 3))
        sums, scale = scaled([*(trial * np.sqrt(values / 1.09) + 2)])
        one = blocks.trace(sums)[0] * scale
        seen.append([*blocks.traces(sums)[:, 0] * scale**2, one])
    expected = np.array([(values**2).sum(), values.sum() ** 2, values.sum()])
    error = stats.sem(seen)
    assert (np.abs(np.mean(seen, axis=0) - expected) < 4 * error).all()
    assert (error < 0.03 * expected).all()


@given(seed=seeds, k=st.integers(5, 12), d=st.integers(1, 5))
def test_spectra_are_those_of_all_rows_and_of_held_out_rows(seed, k, d):
    rng = np.random.default_rng(seed)
    trials = [rng.standard_normal((rng.integers(4, 9), d)) + rng.random(d) for _ in range(k)]
    sums, scale = scaled(trials)
    both = blocks.spectra(sums)
    np.testing.assert_allclose(
        both.sample[0] * scale, numpy_spectrum(np.concatenate(trials)), rtol=1e-9
    )
    total, n = np.zeros(d), sum(map(len, trials))
    for fold in range(min(blocks.FOLDS, k)):
        own = np.concatenate(trials[fold :: blocks.FOLDS])
        others = np.concatenate([t for i, t in enumerate(trials) if i % blocks.FOLDS != fold])
        _, vectors = np.linalg.eigh(np.atleast_2d(np.cov(others.T)))
        total += (((own - others.mean(axis=0)) @ vectors[:, ::-1]) ** 2).sum(axis=0)
    np.testing.assert_allclose(both.held_out[0] * scale, total / n, rtol=1e-6)
    assert both.smooth.sum() == pytest.approx(both.held_out.sum())
    assert (np.diff(both.smooth, axis=1) < 1e-12).all()


@given(seed=seeds, k=st.integers(5, 9))
def test_without_a_block_the_total_variance_is_that_of_the_other_rows(seed, k):
    rng = np.random.default_rng(seed)
    trials = [rng.standard_normal((rng.integers(3, 6), 4)) + rng.random(4) for _ in range(k)]
    sums, scale = scaled(trials)
    seen = blocks.spectra(sums).sample.sum(axis=1) * scale
    for i in range(k):
        rest = np.concatenate(trials[:i] + trials[i + 1 :])
        assert seen[1 + i] == pytest.approx(rest.var(axis=0, ddof=1).sum())


@given(seed=seeds, share=st.floats(0, 1))
def test_the_estimates_are_of_a_spectrum_with_the_unbiased_participation_ratio(seed, share):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.pareto(2, (1, 6)))[:, ::-1]
    y = x.mean() + 0.3 * (x - x.mean())
    both = blocks.Spectra(x, y, y)
    p = (x + share * (y - x))[0] / x.sum()
    between = _between(both, np.array([1 / float(p @ p)]))[0]
    np.testing.assert_allclose(between, p, atol=1e-6)
    np.testing.assert_allclose(_between(both, np.ones(1)), x / x.sum())
    np.testing.assert_allclose(_between(both, np.full(1, 6.0)), y / y.sum())


@given(
    seed=seeds,
    k=st.integers(5, 12),
    tokens=st.integers(1, 6),
    d=st.integers(1, 12),
    decades=st.floats(0, 16),
    exponent=st.integers(-100, 100),
    kind=st.sampled_from(["normal", "cauchy", "offsets", "one trial varies", "few directions"]),
)
def test_every_interval_is_possible_and_contains_its_estimate(
    seed, k, tokens, d, decades, exponent, kind
):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((k, tokens, d))
    if kind == "cauchy":
        x = np.clip(rng.standard_cauchy((k, tokens, d)), -1e9, 1e9)
    elif kind == "offsets":
        x = x[:, :1].repeat(tokens, axis=1)
    elif kind == "one trial varies":
        x[1:] = 0
    elif kind == "few directions":
        x[..., 1 + d // 3 :] = x[..., :1]
    result = measured(x * np.geomspace(1, 10**-decades, d) * 2.0**exponent, groups=range(k))
    for name in (*SUMMARIES, "trace"):
        low, high = getattr(result, f"{name}_interval")
        least = {"trace": 0, "top1_fraction": 1 / d, "top5_fraction": min(1, 5 / d)}.get(name, 1)
        most = 1 if "fraction" in name else math.inf
        most = d if name in ("effective_rank", "participation_ratio") else most
        assert least * (1 - 1e-9) <= low <= high <= most * (1 + 1e-9)
        value = getattr(result, name)
        if name == "condition_number" and math.isnan(value):
            assert high == math.inf
        else:
            assert low <= value <= high
    assert result.participation_ratio <= result.effective_rank * (1 + 1e-9)
    assert result.top1_fraction <= result.top5_fraction * (1 + 1e-9)
    assert 0 < result.n_effective <= result.n_samples
    assert str(result)


@given(seed=seeds, k=st.integers(5, 20))
def test_of_equal_blocks_the_jackknife_is_that_of_a_mean_and_allows_for_skewness(seed, k):
    x = np.random.default_rng(seed).pareto(3, k)
    values = np.append(x.mean(), (x.sum() - x) / (k - 1))
    jackknife, q = Jackknife(np.full(k, 7.0)), stats.t.ppf(0.975, k - 1)
    error, skewness = stats.sem(x), stats.skew(x)
    assert jackknife.reach(values) == pytest.approx(q * error)
    edgeworth = (2 * q**2 + 1) * skewness / (6 * math.sqrt(k))
    assert jackknife.reach_above(values) == pytest.approx((q + max(edgeworth, 0)) * error)


def test_the_effective_number_is_that_of_independent_samples_and_of_trials():
    rng = np.random.default_rng(1)
    independent = measured(rng.standard_normal((400, 1, 20)))
    assert independent.n_effective == pytest.approx(400, rel=0.05)
    equal = measured(rng.standard_normal((60, 1, 20)).repeat(10, axis=1))
    assert equal.n_effective == pytest.approx(60, rel=0.15)
    tails = rng.standard_normal((400, 1, 20)) / np.sqrt(rng.chisquare(5, (400, 1, 1)) / 5)
    assert measured(tails).n_effective < 300


WAYS = {
    "independent": (32, 1, 0.0),
    "few trials": (6, 12, 0.5),
    "trials": (40, 5, 0.5),
}
VALUES = {
    "white": np.ones(16),
    "k^-1": 1 / np.arange(1, 17),
    "spiked": np.array([50.0, 20, 10, *[1] * 13]),
    "two": np.array([1, 0.6, *[1e-6] * 14]),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spectrum", VALUES)
def test_intervals_cover_and_the_effective_rank_has_little_bias(spectrum, way):
    """Test 150 samples; benchmarks/features.py tests more of them and more cells."""
    values, (k, tokens, correlation) = VALUES[spectrum], WAYS[way]
    share = values / values.sum()
    truth = {
        "condition_number": values[0] / values[-1],
        "effective_rank": math.exp(stats.entropy(share)),
        "participation_ratio": 1 / (share**2).sum(),
        "top1_fraction": share[0],
        "top5_fraction": share[:5].sum(),
    }
    hits, ranks = dict.fromkeys(truth, 0), []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        own, shared = (rng.standard_normal((k, size, 16)) for size in (tokens, 1))
        x = np.sqrt(1 - correlation) * own + np.sqrt(correlation) * shared
        result = measured(x * np.sqrt(values))
        for name, value in truth.items():
            low, high = getattr(result, f"{name}_interval")
            hits[name] += low <= value * (1 + 1e-9) and value <= high * (1 + 1e-9)
        ranks.append(result.effective_rank)
    assert min(hits.values()) >= 0.88 * 150, hits
    assert np.mean(ranks) == pytest.approx(truth["effective_rank"], rel=0.15)


def test_a_floor_below_a_held_out_direction_does_not_change_the_condition_number(rng):
    trials = [rng.standard_normal((30, 4)) * [1, 1, 1, 0.1] for _ in range(12)]
    parts, total = [moments(rows) for rows in trials], moments(np.concatenate(trials))
    seen = {f: estimates(parts, total, f)["condition_number"] for f in (1e-12, 1e-5, 0.0099, 0.1)}
    assert seen[1e-12] == seen[1e-5]
    assert seen[1e-5].low < 100 < seen[1e-5].high < 200
    for floor in (0.0099, 0.1):
        low = seen[floor].low
        assert seen[floor] == (low, low, math.inf)
    assert seen[0.1].low < 11 < seen[0.0099].low * 2
