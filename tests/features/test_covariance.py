import copy
import math
import re

import ml_dtypes
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from specdiag.features import covariance
from specdiag.features.conditioning import MIN_BLOCKS, noise_floor
from specdiag.features.covariance import FeatureCovariance, attach
from support.paths import ROOT

seeds = st.integers(0, 2**32 - 1)


def measured(features, **how):
    seen = FeatureCovariance(precision=how.pop("precision", None))
    seen.update(features, **how)
    return seen.result()


def windows(rng, n=12, tokens=10, d=6, condition=100.0):
    return rng.standard_normal((n, tokens, d)) * np.geomspace(1, condition**-0.5, d)


def numpy_spectrum(rows):
    rows = np.asarray(rows, dtype=np.float64).reshape(-1, np.shape(rows)[-1])
    return np.linalg.eigvalsh(np.atleast_2d(np.cov(rows.T)))[::-1]


def numbers(result):
    """What a result says, as one vector."""
    pairs = [v for k, v in vars(result).items() if k.endswith("_interval")]
    names = ("condition_number", "effective_rank", "participation_ratio", "top1_fraction")
    return np.concatenate(
        [result.eigenvalues, [getattr(result, k) for k in names], np.ravel(pairs)]
    )


def depends_on_rounding(result):
    """Check that the published condition number is stored, and that no text shows its digits.

    Which eigenvalue is the smallest positive one depends on the last bits.
    """
    positive = result.eigenvalues[result.eigenvalues > 0]
    assert result.condition_number_published == positive[0] / positive[-1]
    line = "  as published       not resolved, depends on rounding"
    assert line in str(result).splitlines()
    cell = "<td>condition_number_published</td><td>not resolved, depends on rounding</td>"
    assert cell in result._repr_html_()


# --- accumulating ---------------------------------------------------------------------------------------


@given(seed=seeds, n=st.integers(2, 20), tokens=st.integers(1, 8), d=st.integers(1, 8))
def test_streamed_eigenvalues_are_those_of_numpy_cov(seed, n, tokens, d):
    x = np.random.default_rng(seed).standard_normal((n, tokens, d)) + 3
    seen = FeatureCovariance()
    for part in np.array_split(x, 3):
        seen.update(part)
    expected = numpy_spectrum(x)
    np.testing.assert_allclose(seen.result().eigenvalues, expected, atol=1e-13 * expected[0])


def exact_spectrum(x):
    """Eigenvalues of the covariance in 60 digits."""
    with mpmath.workdps(60):
        rows = mpmath.matrix(x.tolist())
        mean = [mpmath.fsum(rows[:, j]) / rows.rows for j in range(rows.cols)]
        for j in range(rows.cols):
            for i in range(rows.rows):
                rows[i, j] -= mean[j]
        values = mpmath.eigsy(rows.T * rows / (rows.rows - 1), eigvals_only=True)
        return np.array(sorted(map(float, values), reverse=True))


def test_a_mean_a_million_times_the_spread_costs_no_digits_however_the_rows_come(rng):
    x = 1e6 + rng.standard_normal((120, 4)) * np.geomspace(1, 1e-4, 4)
    expected = exact_spectrum(x)
    close = {"rtol": 0, "atol": 1e-14 * expected[0]}
    np.testing.assert_allclose(measured(x).eigenvalues, expected, **close)
    for _ in range(5):
        cuts = np.sort(rng.choice(np.arange(1, 120), 9, replace=False))
        parts = []
        for rows in np.split(rng.permutation(x), cuts):
            parts.append(FeatureCovariance())
            parts[-1].update(rows)
        first, *rest = parts
        for part in rest:
            first.merge(part)
        np.testing.assert_allclose(first.result().eigenvalues, expected, **close)
    naive = x.T @ x / len(x) - np.outer(x.mean(axis=0), x.mean(axis=0))
    assert abs(np.linalg.eigvalsh(naive)[0] / expected[-1]) > 1000


@given(seed=seeds, n_groups=st.sampled_from([3, 60, 64, 65, 150]))
def test_merging_in_any_order_gives_the_same_result(seed, n_groups):
    rng = np.random.default_rng(seed)
    x = windows(rng, n=n_groups, tokens=3, d=3)
    parts = []
    for rows in np.array_split(np.arange(n_groups), 3):
        parts.append(FeatureCovariance())
        parts[-1].update(x[rows], groups=rows)
    a, b, c = copy.deepcopy(parts)
    b.merge(c)
    a.merge(b)
    d, e, f = copy.deepcopy(parts)
    f.merge(d)
    f.merge(e)
    whole = measured(x, groups=np.arange(n_groups))
    for other in (a.result(), f.result()):
        assert (other.n_groups, other.n_blocks) == (whole.n_groups, whole.n_blocks)
        np.testing.assert_allclose(numbers(other), numbers(whole), rtol=1e-9)


def test_an_empty_accumulator_merges_to_nothing_and_takes_over_what_it_is_given(rng):
    x = windows(rng)
    full, empty = FeatureCovariance(), FeatureCovariance()
    full.update(x)
    full.merge(empty)
    empty.merge(full)
    np.testing.assert_array_equal(numbers(empty.result()), numbers(measured(x)))


def test_many_groups_are_folded_into_blocks_and_all_of_them_are_counted(rng):
    x = windows(rng, n=1000, tokens=2)
    result = measured(x, groups=range(1000))
    assert (result.n_groups, result.n_blocks, result.n_samples) == (
        1000,
        covariance.MAX_BLOCKS,
        2000,
    )
    few = measured(x[:64])
    assert (few.n_groups, few.n_blocks) == (64, 64)
    assert measured(x, groups=[0] * 1000).n_groups == 1


def test_a_group_goes_on_in_later_calls_and_its_label_may_come_as_any_scalar(rng):
    x = windows(rng)
    label = np.arange(12) % 6
    seen = FeatureCovariance()
    seen.update(x[:4], groups=label[:4])
    seen.update(x[4:8], groups=torch.tensor(label[4:8]))
    seen.update(x[8:], groups=[*map(int, label[8:10]), *label[10:]])
    expected = measured(x, groups=label)
    assert (seen.result().n_groups, expected.n_groups) == (6, 6)
    np.testing.assert_allclose(numbers(seen.result()), numbers(expected), rtol=1e-9)


def test_labels_a_token_are_those_a_row_repeated(rng):
    x = windows(rng)
    label = np.array([f"trial {i % 7}" for i in range(12)])
    by_row = measured(x, groups=label)
    by_token = measured(x, groups=np.repeat(label[:, None], 10, axis=1))
    flat = measured(x.reshape(-1, 6), groups=np.repeat(label, 10))
    for other in (by_token, flat):
        np.testing.assert_allclose(numbers(other), numbers(by_row), rtol=1e-9)


def test_windows_are_groups_of_their_own_and_a_matrix_is_one(rng):
    x = windows(rng)
    assert measured(x).n_groups == 12
    assert measured(x.reshape(-1, 6)).n_groups == 1
    assert measured(x.reshape(3, 4, 10, 6)).n_groups == 3


def test_padding_that_is_masked_changes_nothing_whatever_it_holds(rng):
    x = windows(rng)
    padded = np.concatenate([x, np.full((12, 5, 6), np.nan)], axis=1)
    mask = np.arange(15) < np.full(12, 10)[:, None]
    np.testing.assert_array_equal(numbers(measured(padded, mask=mask)), numbers(measured(x)))
    on_torch = measured(torch.tensor(padded), mask=torch.tensor(mask))
    np.testing.assert_array_equal(numbers(on_torch), numbers(measured(x)))


def test_a_call_with_everything_masked_adds_nothing(rng):
    seen = FeatureCovariance()
    seen.update(windows(rng), mask=np.zeros((12, 10), dtype=bool))
    assert seen.n_samples == 0


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_every_floating_dtype_of_numpy_and_torch_is_read_exactly_and_remembered(rng, dtype):
    x = windows(rng)
    rounded = x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    on_torch = torch.tensor(x).to(getattr(torch, dtype)).requires_grad_()
    for features in (rounded, on_torch):
        result = measured(features)
        assert result.precision == dtype
        np.testing.assert_array_equal(
            result.eigenvalues, measured(rounded.astype(float)).eigenvalues
        )


def test_the_coarsest_precision_seen_counts_unless_it_is_given(rng):
    x = windows(rng)
    seen, given = FeatureCovariance(), FeatureCovariance(precision="tf32")
    for kind in (np.float32, np.float64):
        seen.update(x.astype(kind))
        given.update(x.astype(kind))
    assert (seen.result().precision, given.result().precision) == ("float32", "tf32")
    seen.merge(given)
    assert seen.result().precision == "tf32"


@pytest.mark.parametrize(
    ("features", "how", "message"),
    [
        (np.float32(1), {}, "features have shape (): expected (..., d)"),
        (np.ones((3, 0)), {}, "features have shape (3, 0): expected (..., d)"),
        (
            np.ones((3, 2), np.int64),
            {},
            "features are int64: expected float64, float32, float16 or bfloat16",
        ),
        (
            torch.ones(3, 2, dtype=torch.complex64),
            {},
            "features are complex64: expected float64, float32, float16 or bfloat16",
        ),
        (np.ones((3, 5)), {}, "features have width 5: 2 in earlier calls"),
        (
            np.array([[1, np.nan], [np.inf, -1e200]]),
            {},
            "3 of 4 feature values are NaN, infinite or > 1e150",
        ),
        (
            np.ones((3, 2)),
            {"mask": np.ones(2, dtype=bool)},
            "mask is bool of shape (2,): expected bool of shape (3,), True to keep",
        ),
        (
            np.ones((3, 2)),
            {"mask": np.ones(3)},
            "mask is float64 of shape (3,): expected bool of shape (3,), True to keep",
        ),
        (
            np.ones((3, 4, 2)),
            {"groups": [0, 1]},
            "groups have shape (2,): expected (3,) or (3, 4)",
        ),
    ],
)
def test_what_cannot_be_added_is_refused_with_its_reason_and_leaves_no_trace(
    rng, features, how, message
):
    seen = FeatureCovariance()
    seen.update(rng.standard_normal((4, 2)))
    before = numbers(seen.result())
    with pytest.raises(ValueError) as error:
        seen.update(features, **how)
    assert str(error.value) == message
    np.testing.assert_array_equal(numbers(seen.result()), before)


def test_other_bad_arguments_are_refused_with_their_reason(rng):
    with pytest.raises(ValueError) as error:
        FeatureCovariance(precision="fp8")
    expected = "expected one of bfloat16, float16, tf32, float32, float64"
    assert str(error.value) == f"precision is 'fp8': {expected}"
    a, b = FeatureCovariance(), FeatureCovariance()
    for seen, message in ((a, "no samples"), (b, "1 sample")):
        with pytest.raises(ValueError) as error:
            seen.result()
        assert str(error.value) == f"{message}: a covariance needs at least 2"
        b.update(np.ones(3))
    a.update(np.ones(2))
    with pytest.raises(ValueError) as error:
        a.merge(b)
    assert str(error.value) == "features have width 3 there and 2 here"


# --- what the spectrum says -----------------------------------------------------------------------------


@given(seed=seeds, d=st.integers(1, 8))
def test_ranks_and_fractions_are_those_of_their_formulas(seed, d):
    x = np.random.default_rng(seed).standard_normal((8, 7, d)) * np.geomspace(1, 0.1, d)
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
def test_nothing_but_scale_changes_with_scale_and_rotation(seed, exponent):
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


def test_below_the_floor_the_condition_number_is_a_lower_bound_and_says_so(rng):
    x = windows(rng, n=40, condition=1e18).astype(np.float32)
    result = measured(x)
    assert result.condition_number_is_bound
    assert result.condition_number == result.eigenvalues[0] / result.noise_floor
    assert result.condition_number_interval == (result.condition_number, math.inf)
    assert result.condition_number_text == ">= 1.4e+14 (float32 floor)"
    assert result.noise_floor_source == "float32"
    assert result.numerical_rank == np.count_nonzero(result.eigenvalues > result.noise_floor) == 4
    depends_on_rounding(result)
    in_float64 = measured(x, precision="float64")
    assert in_float64.condition_number_text == ">= 9.1e+14 (float64 arithmetic floor)"


def test_a_direction_that_never_varies_makes_a_bound_not_a_number(rng):
    x = windows(rng, n=40)
    x[..., 2] = 7.0
    result = measured(x)
    assert result.numerical_rank == 5
    assert result.condition_number_is_bound
    assert result.condition_number > 1e13


def test_no_more_samples_than_features_say_nothing_about_the_smallest_eigenvalue(rng):
    result = measured(rng.standard_normal((6, 1, 6)))
    assert math.isnan(result.condition_number)
    assert not result.condition_number_is_bound
    assert result.condition_number_text == "unknown (6 samples of 6 features)"
    assert math.isfinite(result.effective_rank)


def test_features_without_variance_have_no_ranks_and_one_feature_has_rank_one(rng):
    still = measured(np.full((20, 3), 1e6))
    assert still.trace == 0
    assert still.numerical_rank == 0
    assert np.isnan([still.condition_number, still.effective_rank, still.top1_fraction]).all()
    one = measured(rng.standard_normal((20, 3, 1)))
    assert (one.condition_number, one.effective_rank, one.participation_ratio) == (1, 1, 1)
    assert one.effective_rank_interval == (1, 1)
    assert math.isnan(one.top1_fraction_interval[0])


@pytest.mark.parametrize(
    ("precision", "c"), [("float32", 1 + 50 / 12), ("tf32", 1 / 6), ("float16", 1)]
)
def test_the_floor_is_a_multiple_of_the_second_moment_with_the_mean_in_it(precision, c):
    eps = {"float32": 2**-23, "tf32": 2**-10, "float16": 2**-10}[precision]
    values = np.geomspace(1, 1e-3, 50)
    floor, source = noise_floor(values, second_moment=400.0, precision=precision)
    assert (floor, source) == (pytest.approx(2 * c * eps**2 * 400), precision)


# --- intervals ------------------------------------------------------------------------------------------


def test_an_interval_is_the_jackknife_over_groups_on_the_log_scale(rng):
    x = windows(rng, n=20)
    whole = np.log(numpy_spectrum(x).sum())
    without = [np.log(numpy_spectrum(np.delete(x, i, axis=0)).sum()) for i in range(20)]
    pseudo = 20 * whole - 19 * np.array(without)
    half = stats.t.ppf(0.975, 19) * stats.sem(pseudo)
    expected = np.exp([np.mean(pseudo) - half, np.mean(pseudo) + half])
    np.testing.assert_allclose(measured(x).trace_interval, expected, rtol=1e-9)


def test_no_interval_of_a_rank_goes_beyond_the_number_of_features(rng):
    result = measured(rng.standard_normal((10, 5, 3)))
    for low, high in (result.effective_rank_interval, result.participation_ratio_interval):
        assert 1 <= low <= high <= 3


def test_dependence_within_groups_widens_intervals_and_splitting_groups_hides_it(rng):
    trial = rng.standard_normal((60, 1, 6)) + 0.3 * rng.standard_normal((60, 10, 6))

    def width(result):
        return math.log(result.trace_interval[1] / result.trace_interval[0])

    as_tokens = measured(trial.reshape(-1, 6), groups=range(600))
    assert width(measured(trial)) > 2 * width(as_tokens)


def test_fewer_than_five_groups_have_no_intervals_and_the_text_says_why(rng):
    result = measured(windows(rng, n=4))
    assert all(np.isnan(v).all() for k, v in vars(result).items() if k.endswith("_interval"))
    assert str(result).endswith(f"no intervals: 4 of the {MIN_BLOCKS} groups they need")
    assert np.isfinite(measured(windows(rng, n=5)).trace_interval).all()


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


def test_the_text_of_a_result_has_every_number_on_a_line(rng):
    text = str(measured(windows(rng, n=100).astype(np.float32)))
    assert [line.split("  ")[0] for line in text.splitlines()[1:]] == [
        *("condition number", "", "numerical rank", "effective rank", "participation ratio"),
        *("top1 fraction", "top5 fraction", "trace"),
    ]
    assert text.splitlines()[0].startswith("1,000 samples of 6 features, float32, 100 groups in ")


# --- attached to a network ------------------------------------------------------------------------------


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.core = torch.nn.Linear(3, 6)
        self.readout = torch.nn.Linear(6, 2)

    def features(self, x):
        return torch.tanh(self.core(x))

    def forward(self, x, *, by_keyword=False, twice=False, fail=False):
        found = self.features(x)
        if fail:
            raise RuntimeError("on purpose")
        out = self.readout(input=found) if by_keyword else self.readout(found)
        return out + self.readout(2 * found) if twice else out


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return Decoder().eval()


@pytest.fixture
def batches():
    return [torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]


@pytest.mark.parametrize("by_keyword", [False, True])
def test_what_is_attached_sees_the_input_of_the_readout(decoder, batches, by_keyword):
    with torch.no_grad(), attach(decoder, "readout") as seen:
        for x in batches:
            decoder(x, by_keyword=by_keyword)
        expected = measured(torch.cat([decoder.features(x) for x in batches]))
    np.testing.assert_allclose(numbers(seen.result()), numbers(expected), rtol=1e-6)
    assert seen.result().n_groups == 12
    assert seen.result().precision == "float32"


def test_without_a_name_the_input_of_the_module_itself_is_seen(decoder, batches):
    with torch.no_grad(), attach(decoder) as seen:
        decoder(batches[0])
    np.testing.assert_array_equal(numbers(seen.result()), numbers(measured(batches[0])))


def test_groups_and_mask_hold_for_every_call_within_the_next_forward_and_no_longer(
    decoder, batches
):
    mask = torch.arange(5).expand(4, 5) < 3
    with torch.no_grad(), attach(decoder, "readout") as seen:
        seen.expect(groups=["a", "a", "b", "b"], mask=mask)
        decoder(batches[0], twice=True)
        assert (seen.n_samples, seen.result().n_groups) == (2 * 4 * 3, 2)
        decoder(batches[1])
    assert (seen.n_samples, seen.result().n_groups) == (2 * 4 * 3 + 4 * 5, 2 + 4)


def test_a_forward_that_fails_takes_its_mask_with_it_and_the_hooks_go(decoder, batches):
    with attach(decoder, "readout") as seen:
        seen.expect(mask=torch.zeros(4, 5, dtype=torch.bool))
        with pytest.raises(RuntimeError, match="on purpose"):
            decoder(batches[0], fail=True)
        decoder(batches[0])
    assert seen.n_samples == 20
    with pytest.raises(RuntimeError, match="on purpose"), attach(decoder, "readout"):
        decoder(batches[0], fail=True)
    decoder(batches[0])
    assert seen.n_samples == 20
    assert not decoder._forward_hooks
    assert not decoder.readout._forward_pre_hooks


def test_autocast_sets_the_precision_even_where_features_stay_float32(decoder, batches):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), attach(decoder) as seen:
        decoder(batches[0])
    assert batches[0].dtype == torch.float32
    assert seen.result().precision == "bfloat16"
    how = {"precision": "float32"}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), attach(decoder, **how) as seen:
        decoder(batches[0])
    assert seen.result().precision == "float32"


def test_an_unknown_submodule_is_refused_with_names_like_it(decoder):
    with pytest.raises(ValueError) as error, attach(decoder, "read_out"):
        pass
    assert str(error.value) == "no submodule 'read_out'; near names: readout"


def test_a_submodule_called_without_features_is_an_error():
    class Counter(torch.nn.Module):
        def forward(self, n):
            return n

    counter = Counter()
    with attach(counter), pytest.raises(ValueError) as error:
        counter(torch.tensor([3]))
    assert str(error.value) == "the module was called without a floating-point tensor"


# --- a trained network ----------------------------------------------------------------------------------


class Encoder(torch.nn.Module):
    """A BERT encoder with an identity for a readout, run on the weights of a safetensors file."""

    def __init__(self, weights, dtype):
        super().__init__()
        self.w = {name: tensor.to(dtype) for name, tensor in weights.items()}
        self.readout = torch.nn.Identity()

    def linear(self, name, x):
        return torch.nn.functional.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name, x):
        weight, bias = (self.w[f"{name}.LayerNorm.{part}"] for part in ("weight", "bias"))
        return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, 1e-12)

    def forward(self, tokens, mask):
        table = {k: self.w[f"embeddings.{k}_embeddings.weight"] for k in ("word", "position")}
        x = table["word"][tokens] + table["position"][: tokens.shape[1]]
        x = self.norm("embeddings", x + self.w["embeddings.token_type_embeddings.weight"][0])
        for i in range(6):
            layer = f"encoder.layer.{i}"
            parts = [
                self.linear(f"{layer}.attention.self.{k}", x)
                .unflatten(-1, (12, -1))
                .transpose(1, 2)
                for k in ("query", "key", "value")
            ]
            attended = torch.nn.functional.scaled_dot_product_attention(
                *parts, attn_mask=mask[:, None, None]
            )
            attended = attended.transpose(1, 2).flatten(2)
            update = self.linear(f"{layer}.attention.output.dense", attended)
            x = self.norm(f"{layer}.attention.output", x + update)
            hidden = torch.nn.functional.gelu(self.linear(f"{layer}.intermediate.dense", x))
            x = self.norm(f"{layer}.output", x + self.linear(f"{layer}.output.dense", hidden))
        return self.readout(x)


def word_pieces(word, vocabulary):
    """The longest piece of the vocabulary, then the longest of the rest."""
    pieces = []
    while word:
        prefix = "##" if pieces else ""
        ends = (n for n in range(len(word), 0, -1) if prefix + word[:n] in vocabulary)
        end = next(ends, None)
        if end is None:
            return [vocabulary["[UNK]"]]
        pieces.append(vocabulary[prefix + word[:end]])
        word = word[end:]
    return pieces


@pytest.fixture(scope="module")
def sentences(minilm):
    """Token ids of 40 sentences of the licence, padded, and their mask."""
    lines = minilm.with_name("vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = {piece: i for i, piece in enumerate(lines)}
    text = ROOT.joinpath("LICENSE").read_text(encoding="utf-8").lower()
    found = []
    for sentence in re.split(r"[.;:]\s", text):
        words = re.findall(r"\w+|[^\w\s]", sentence)
        ids = [piece for word in words for piece in word_pieces(word, vocabulary)]
        found.append([vocabulary["[CLS]"], *ids, vocabulary["[SEP]"]])
    found = sorted((ids for ids in found if len(ids) > 10), key=len)[:40]
    longest = max(map(len, found))
    tokens = torch.tensor([ids + [0] * (longest - len(ids)) for ids in found])
    return tokens, torch.arange(longest) < torch.tensor([[len(ids)] for ids in found])


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def encoder(request, minilm):
    from safetensors.torch import load_file

    return Encoder(load_file(minilm), request.param)


@pytest.mark.realdata
def test_features_of_a_trained_encoder_have_the_covariance_of_numpy(encoder, sentences):
    tokens, mask = sentences
    found = []
    with torch.no_grad(), attach(encoder, "readout") as seen:
        for part, kept in zip(tokens.split(20), mask.split(20), strict=True):
            seen.expect(mask=kept)
            found.append(encoder(part, kept)[kept])
    result = seen.result()
    expected = numpy_spectrum(torch.cat(found))
    np.testing.assert_allclose(result.eigenvalues, expected, atol=1e-13 * expected[0])
    assert (result.n_groups, result.n_samples) == (40, int(mask.sum()))
    assert result.precision == str(encoder.w["pooler.dense.weight"].dtype).removeprefix("torch.")
    for name in ("effective_rank", "participation_ratio", "trace"):
        low, high = getattr(result, f"{name}_interval")
        assert 0 < low < high < math.inf


@pytest.mark.realdata
def test_dead_features_of_a_trained_encoder_are_no_condition_number(encoder, sentences):
    """Two scales of its last LayerNorm are 1e-33, and LayerNorm itself takes a direction away."""
    tokens, mask = sentences
    with torch.no_grad():
        result = measured(encoder(tokens, mask), mask=mask)
    assert result.numerical_rank == 384 - 3
    expected = {"float32": ">= 2.8e+13 (float32 floor)"}
    expected["float64"] = ">= 1.1e+14 (float64 arithmetic floor)"
    assert result.condition_number_text == expected[result.precision]
    depends_on_rounding(result)


@pytest.mark.realdata
def test_sentences_padded_and_masked_have_the_spectrum_of_sentences_alone(encoder, sentences):
    tokens, mask = sentences
    padded = torch.nn.functional.pad(tokens, (0, 7))
    kept = torch.nn.functional.pad(mask, (0, 7))
    with torch.no_grad(), attach(encoder, "readout") as together:
        together.expect(groups=range(40), mask=kept)
        encoder(padded, kept)
    with torch.no_grad(), attach(encoder, "readout") as alone:
        for i, (row, real) in enumerate(zip(tokens, mask, strict=True)):
            alone.expect(groups=[i])
            encoder(row[real][None], real[real][None])
    close = 1e-4 if encoder.w["pooler.dense.weight"].dtype == torch.float32 else 1e-9
    together, alone = together.result(), alone.result()
    atol = together.noise_floor
    np.testing.assert_allclose(together.eigenvalues, alone.eigenvalues, rtol=close, atol=atol)
    np.testing.assert_allclose(numbers(together)[384:], numbers(alone)[384:], rtol=10 * close)


@pytest.mark.realdata
def test_rounding_of_a_trained_encoder_in_float32_stays_below_the_floor(minilm, sentences):
    from safetensors.torch import load_file

    weights, (tokens, mask) = load_file(minilm), sentences
    with torch.no_grad():
        single = Encoder(weights, torch.float32)(tokens, mask)[mask]
        double = Encoder(weights, torch.float64)(tokens, mask)[mask]
    floor, _ = noise_floor(
        np.zeros(384), second_moment=float(single.double().square().mean()), precision="float32"
    )
    added = numpy_spectrum(single.double() - double)
    assert floor / 10 < np.median(added) < floor / 2


def test_labels_are_one_group_by_what_they_say_in_one_call_as_in_several(rng):
    x = rng.standard_normal((4, 3))
    once, twice = FeatureCovariance(), FeatureCovariance()
    once.update(x, groups=[1, 1.0, "1", True])
    for row, label in zip(x, [1, 1.0, "1", True], strict=True):
        twice.update(row[None], groups=[label])
    assert once.result().n_groups == twice.result().n_groups == 4


@pytest.mark.parametrize("groups", [3, "abc"])
def test_groups_that_are_no_labels_are_refused(rng, groups):
    with pytest.raises(ValueError, match="expected one label for every entry of") as error:
        FeatureCovariance().update(rng.standard_normal((3, 2)), groups=groups)
    assert str(error.value) == f"groups is {groups!r}: expected one label for every entry of (3,)"


def test_a_given_precision_survives_a_merge(rng):
    given, other = FeatureCovariance(precision="float32"), FeatureCovariance()
    for part in (given, other):
        part.update(rng.standard_normal((9, 2)).astype(np.float16))
    given.merge(other)
    assert given.result().precision == "float32"


def test_features_that_do_not_vary_say_so():
    covariance = FeatureCovariance()
    covariance.update(np.ones((50, 4)))
    assert covariance.result().condition_number_text == "unknown (the features do not vary)"
