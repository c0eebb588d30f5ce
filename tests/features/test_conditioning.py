import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from specdiag.features.conditioning import noise_floor
from specdiag.features.covariance import FeatureCovariance
from support.features import depends_on_rounding, measured, numbers, numpy_spectrum, windows
from support.paths import ROOT

seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, d=st.integers(1, 8))
def test_without_intervals_numbers_are_the_formulas_of_the_sample_eigenvalues(seed, d):
    x = np.random.default_rng(seed).standard_normal((4, 14, d)) * np.geomspace(1, 0.1, d)
    result = measured(x)
    values = numpy_spectrum(x)
    share = values / values.sum()
    assert result.effective_rank == pytest.approx(math.exp(stats.entropy(share)))
    assert result.participation_ratio == pytest.approx(values.sum() ** 2 / (values**2).sum())
    assert result.top1_fraction == pytest.approx(share[0])
    assert result.top5_fraction == pytest.approx(share[:5].sum())
    assert result.trace == pytest.approx(values.sum())
    assert result.condition_number == pytest.approx(values[0] / values[-1])
    assert result.condition_number_published == pytest.approx(values[0] / values[-1])
    assert result.numerical_rank == d


def test_equal_eigenvalues_have_effective_rank_and_participation_ratio_d():
    result = measured(np.concatenate([np.eye(5), -np.eye(5)]))
    assert result.effective_rank == pytest.approx(5)
    assert result.participation_ratio == pytest.approx(5)
    assert result.top1_fraction == pytest.approx(0.2)
    assert result.condition_number == pytest.approx(1)


@given(seed=seeds, exponent=st.integers(-40, 40))
def test_scale_and_rotation_change_nothing_but_the_scale(seed, exponent):
    rng = np.random.default_rng(seed)
    x = windows(rng) + 2
    Q, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    label = range(12)
    plain = measured(x, groups=label, precision="float32")
    moved = measured(x @ Q * 2.0**exponent, groups=label, precision="float32")
    scale = 4.0**exponent
    assert moved.noise_floor == pytest.approx(plain.noise_floor * scale, rel=1e-9)
    assert moved.trace == pytest.approx(plain.trace * scale, rel=1e-9)
    np.testing.assert_allclose(numbers(moved)[6:16], numbers(plain)[6:16], rtol=1e-9)
    assert moved.condition_number_text == plain.condition_number_text


def test_below_the_floor_the_condition_number_is_marked_as_a_lower_bound(rng):
    x = windows(rng, n=40, condition=1e18).astype(np.float32)
    result = measured(x)
    assert result.condition_number_is_bound
    assert result.condition_number_interval == (result.condition_number, math.inf)
    limit = result.eigenvalues[0] / result.noise_floor
    assert limit / 2 < result.condition_number < limit
    assert result.condition_number_text == "at least 1.1e+14 (float32 floor)"
    assert result.noise_floor_source == "float32"
    assert result.numerical_rank == np.count_nonzero(result.eigenvalues > result.noise_floor) == 4
    depends_on_rounding(result)
    in_float64 = measured(x, precision="float64")
    assert in_float64.condition_number_text == "at least 7.4e+14 (float64 arithmetic floor)"


def test_a_direction_without_variance_makes_the_condition_number_a_bound(rng):
    x = windows(rng, n=40)
    x[..., 2] = 7.0
    result = measured(x)
    assert result.numerical_rank == 5
    assert result.condition_number_is_bound
    assert result.condition_number > 1e13


def test_no_more_samples_than_features_give_only_a_lower_bound(rng):
    x = rng.standard_normal((6, 1, 6)) * np.geomspace(1, 1e-3, 6)
    result = measured(x)
    low, high = result.condition_number_interval
    assert (1 <= low < 1e6, high) == (True, math.inf)
    assert math.isnan(result.condition_number)
    assert not result.condition_number_is_bound
    assert result.condition_number_text.endswith(" effective samples of 6 features)")
    assert result.condition_number_text.startswith("at least ")
    assert math.isfinite(result.effective_rank)
    few = measured(x[:4].repeat(1, axis=1))
    assert few.condition_number_text == "unknown (4 samples of 6 features)"


def test_features_without_variance_have_no_ranks_and_one_feature_has_rank_one(rng):
    still = measured(np.full((20, 3), 1e6))
    assert still.trace == 0
    assert still.numerical_rank == 0
    assert np.isnan([still.condition_number, still.effective_rank, still.top1_fraction]).all()
    one = measured(rng.standard_normal((20, 3, 1)))
    assert (one.condition_number, one.effective_rank, one.participation_ratio) == (1, 1, 1)
    assert one.effective_rank_interval == (1, 1)
    assert one.top1_fraction_interval == (1, 1)


@pytest.mark.parametrize(
    ("precision", "c"), [("float32", 1 + 50 / 12), ("tf32", 1 / 6), ("float16", 1)]
)
def test_the_floor_is_a_multiple_of_the_second_moment_with_the_mean_in_it(precision, c):
    eps = {"float32": 2**-23, "tf32": 2**-10, "float16": 2**-10}[precision]
    values = np.geomspace(1, 1e-3, 50)
    floor, source = noise_floor(values, second_moment=400.0, precision=precision)
    assert (floor, source) == (pytest.approx(2 * c * eps**2 * 400), precision)


def test_the_interval_of_a_rank_ends_at_the_number_of_features(rng):
    result = measured(rng.standard_normal((10, 5, 3)))
    for low, high in (result.effective_rank_interval, result.participation_ratio_interval):
        assert 1 <= low <= high <= 3


def test_dependence_within_groups_widens_intervals_unless_groups_are_split(rng):
    trial = rng.standard_normal((60, 1, 6)) + 0.3 * rng.standard_normal((60, 10, 6))

    def width(result):
        return math.log(result.trace_interval[1] / result.trace_interval[0])

    as_tokens = measured(trial.reshape(-1, 6), groups=range(600))
    assert width(measured(trial)) > 2 * width(as_tokens)


def test_fewer_than_five_groups_have_no_intervals_and_the_text_says_why(rng):
    result = measured(windows(rng, n=4))
    assert all(np.isnan(v).all() for k, v in vars(result).items() if k.endswith("_interval"))
    why = (
        "the numbers are those of the sample, whose ranks are too low and condition number too high"
    )
    assert str(result).endswith(
        "no intervals: 4 of the 5 groups they need (groups are the trials of samples; "
        f"independent samples are a group each); {why}"
    )
    assert result.condition_number_text.endswith(" (of the sample)")
    assert math.isnan(result.n_effective)
    assert np.isfinite(measured(windows(rng, n=5)).trace_interval).all()


def test_one_group_with_most_of_the_samples_allows_no_intervals(rng):
    label = [0] * 60 + [i % 9 + 1 for i in range(60)]
    x = rng.standard_normal((120, 3))
    assert np.isfinite(measured(x, groups=label).trace_interval).all()
    result = measured(np.concatenate([x, x[:1]]), groups=[*label, 0])
    assert np.isnan(result.trace_interval).all()
    assert "no intervals: more than half of the samples are in one block; " in str(result)


@pytest.mark.parametrize(
    ("n", "text"), [(64, "at least 1 (64 effective"), (160, "between 1 and "), (2000, "about 1.0")]
)
def test_the_condition_number_of_equal_variances_is_as_certain_as_the_samples_allow(n, text):
    result = measured(np.random.default_rng(0).standard_normal((n, 1, 128)))
    assert result.condition_number_text.startswith(text)
    assert str(result).splitlines()[1] == f"effective samples    {n:,}"
    for name in ("effective_rank", "participation_ratio"):
        low, high = getattr(result, f"{name}_interval")
        assert 100 < low <= getattr(result, name) <= high == 128
    if n == 160:
        assert str(result) in (ROOT / "docs" / "features.md").read_text(encoding="utf-8")


def test_a_bound_by_the_floor_needs_a_held_out_direction_below_it(rng):
    """With few samples, the smallest sample eigenvalue is zero in any precision."""
    x = windows(rng, n=8, tokens=1, d=12, condition=1e3)
    assert not measured(x, precision="float32").condition_number_is_bound
    x[..., 6:] = 0
    assert measured(x[:, :, :8], precision="float32").condition_number_is_bound


@pytest.mark.slow
@pytest.mark.parametrize("name", ["condition_number", "effective_rank", "participation_ratio"])
def test_the_interval_covers_where_the_smallest_eigenvalue_is_biased(name):
    scale = np.geomspace(1, 1e-6, 8)
    share = scale / scale.sum()
    truth = {
        "condition_number": 1e6,
        "effective_rank": math.exp(stats.entropy(share)),
        "participation_ratio": 1 / (share**2).sum(),
    }[name]
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        trial = np.sqrt(0.5) * (rng.standard_normal((50, 1, 8)) + rng.standard_normal((50, 10, 8)))
        low, high = getattr(measured(trial * np.sqrt(scale)), f"{name}_interval")
        hits += low <= truth <= high
    assert hits >= 180


def test_the_text_of_a_result_has_one_line_for_each_number(rng):
    text = str(measured(windows(rng, n=100).astype(np.float32)))
    assert [line.split("  ")[0] for line in text.splitlines()[1:]] == [
        *("effective samples", "condition number", "", "numerical rank"),
        *("effective rank", "participation ratio", "top1 fraction", "top5 fraction", "trace"),
    ]
    assert text.splitlines()[0].startswith("1,000 samples of 6 features, float32, 100 groups in ")


def test_the_text_says_that_features_do_not_vary():
    covariance = FeatureCovariance()
    covariance.update(np.ones((50, 4)))
    assert covariance.result().condition_number_text == "unknown (the features do not vary)"
