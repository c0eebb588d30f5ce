import copy

import ml_dtypes
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdiag.features import covariance
from specdiag.features.covariance import FeatureCovariance
from support.features import measured, numbers, numpy_spectrum, windows

seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, n=st.integers(2, 20), tokens=st.integers(1, 8), d=st.integers(1, 8))
def test_streamed_eigenvalues_are_those_of_numpy_cov(seed, n, tokens, d):
    x = np.random.default_rng(seed).standard_normal((n, tokens, d)) + 3
    seen = FeatureCovariance()
    for part in np.array_split(x, 3):
        seen.update(part)
    expected = numpy_spectrum(x)
    np.testing.assert_allclose(seen.result().eigenvalues, expected, atol=1e-13 * expected[0])


def exact_spectrum(x):
    """Return the eigenvalues of the covariance, computed with 60 digits."""
    with mpmath.workdps(60):
        rows = mpmath.matrix(x.tolist())
        mean = [mpmath.fsum(rows[:, j]) / rows.rows for j in range(rows.cols)]
        for j in range(rows.cols):
            for i in range(rows.rows):
                rows[i, j] -= mean[j]
        values = mpmath.eigsy(rows.T * rows / (rows.rows - 1), eigvals_only=True)
        return np.array(sorted(map(float, values), reverse=True))


def test_a_mean_a_million_times_the_spread_costs_no_digits(rng):
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


def test_merging_with_an_empty_accumulator_changes_nothing(rng):
    x = windows(rng)
    full, empty = FeatureCovariance(), FeatureCovariance()
    full.update(x)
    full.merge(empty)
    empty.merge(full)
    np.testing.assert_array_equal(numbers(empty.result()), numbers(measured(x)))


def test_many_groups_are_merged_into_blocks_and_all_are_counted(rng):
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


def test_later_calls_continue_a_group_whose_label_is_any_kind_of_scalar(rng):
    x = windows(rng)
    label = np.arange(12) % 6
    seen = FeatureCovariance()
    seen.update(x[:4], groups=label[:4])
    seen.update(x[4:8], groups=torch.tensor(label[4:8]))
    seen.update(x[8:], groups=[*map(int, label[8:10]), *label[10:]])
    expected = measured(x, groups=label)
    assert (seen.result().n_groups, expected.n_groups) == (6, 6)
    np.testing.assert_allclose(numbers(seen.result()), numbers(expected), rtol=1e-9)


def test_labels_of_tokens_or_of_windows_give_the_same_groups(rng):
    x = windows(rng)
    label = np.array([f"trial {i % 7}" for i in range(12)])
    by_row = measured(x, groups=label)
    by_token = measured(x, groups=np.repeat(label[:, None], 10, axis=1))
    flat = measured(x.reshape(-1, 6), groups=np.repeat(label, 10))
    for other in (by_token, flat):
        np.testing.assert_allclose(numbers(other), numbers(by_row), rtol=1e-9)


def test_each_window_is_a_group_and_a_matrix_is_one_group(rng):
    x = windows(rng)
    assert measured(x).n_groups == 12
    assert measured(x.reshape(-1, 6)).n_groups == 1
    assert measured(x.reshape(3, 4, 10, 6)).n_groups == 3


def test_masked_padding_changes_nothing(rng):
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
def test_every_floating_dtype_of_numpy_and_torch_is_read_exactly_and_is_the_precision(rng, dtype):
    x = windows(rng)
    rounded = x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    on_torch = torch.tensor(x).to(getattr(torch, dtype)).requires_grad_()
    for features in (rounded, on_torch):
        result = measured(features)
        assert result.precision == dtype
        np.testing.assert_array_equal(
            result.eigenvalues, measured(rounded.astype(float)).eigenvalues
        )


def test_the_precision_is_the_coarsest_one_seen_unless_it_is_given(rng):
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
            "mask is bool of shape (2,): expected bool or 0 and 1, of shape (3,), true to keep",
        ),
        (
            np.ones((3, 2)),
            {"mask": np.ones(3)},
            "mask is float64 of shape (3,): expected bool or 0 and 1, of shape (3,), true to keep",
        ),
        (
            np.ones((3, 2)),
            {"mask": np.array([0, 1, 2])},
            "mask holds 2: expected bool or 0 and 1, of shape (3,), true to keep",
        ),
        (
            np.ones((3, 4, 2)),
            {"groups": [0, 1]},
            "groups have shape (2,): expected (3,) or (3, 4)",
        ),
        (np.ones((3, 2)), {"groups": [0, 1]}, "groups have shape (2,): expected (3,)"),
    ],
)
def test_invalid_rows_are_refused_with_their_reason_and_change_nothing(rng, features, how, message):
    seen = FeatureCovariance()
    seen.update(rng.standard_normal((4, 2)))
    before = numbers(seen.result())
    with pytest.raises(ValueError) as error:
        seen.update(features, **how)
    assert str(error.value) == message
    np.testing.assert_array_equal(numbers(seen.result()), before)


def test_other_invalid_arguments_are_refused_with_their_reason(rng):
    with pytest.raises(ValueError) as error:
        FeatureCovariance(precision="fp8")
    expected = "expected one of bfloat16, float16, tf32, float32, float64"
    assert str(error.value) == f"precision is 'fp8': {expected}"
    with pytest.raises(ValueError) as error:
        FeatureCovariance(max_blocks=12)
    assert str(error.value) == "max_blocks is 12: expected 8, 16, 32 or 64"
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


def test_equal_labels_are_one_group_in_one_call_or_several(rng):
    x = rng.standard_normal((4, 3))
    once, twice = FeatureCovariance(), FeatureCovariance()
    once.update(x, groups=[1, 1.0, "1", True])
    for row, label in zip(x, [1, 1.0, "1", True], strict=True):
        twice.update(row[None], groups=[label])
    assert once.result().n_groups == twice.result().n_groups == 4


@pytest.mark.parametrize("groups", [3, "abc"])
def test_groups_that_are_not_labels_are_refused(rng, groups):
    with pytest.raises(ValueError, match="expected one label for every entry of") as error:
        FeatureCovariance().update(rng.standard_normal((3, 2)), groups=groups)
    assert str(error.value) == f"groups is {groups!r}: expected one label for every entry of (3,)"


def test_a_given_precision_is_kept_by_a_merge(rng):
    given, other = FeatureCovariance(precision="float32"), FeatureCovariance()
    for part in (given, other):
        part.update(rng.standard_normal((9, 2)).astype(np.float16))
    given.merge(other)
    assert given.result().precision == "float32"
