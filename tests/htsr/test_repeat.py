"""The scatter of alpha if rows were drawn again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import specdiag
from specdiag.htsr.esd import eigenvalues
from specdiag.htsr.repeat import SHARE, paired_variance, repeat_sd
from specdiag.htsr.tail.posterior import alpha_posterior


def rows(rng, N, M):
    """Return Gaussian rows whose variances are the quantiles of a power law of exponent 3."""
    return rng.standard_normal((N, M)) * ((np.arange(M) + 0.5) / M) ** -0.25


MATRIX = rows(np.random.default_rng(0), 60, 40)


@settings(max_examples=5)
@given(st.floats(1e-30, 1e30))
def test_the_scale_of_the_weights_does_not_matter(scale):
    assert repeat_sd(scale * MATRIX) == pytest.approx(repeat_sd(MATRIX), rel=1e-6)


def test_the_same_seed_gives_the_same_number_and_another_seed_another():
    assert repeat_sd(MATRIX, seed=3) == repeat_sd(MATRIX, seed=3) != repeat_sd(MATRIX, seed=4)


def test_a_known_alpha_is_not_measured_again():
    known = alpha_posterior(eigenvalues(MATRIX)).mean
    assert repeat_sd(MATRIX, alpha=known) == repeat_sd(MATRIX)
    assert repeat_sd(MATRIX, alpha=2 * known - 1) == pytest.approx(2 * repeat_sd(MATRIX))


def test_a_transposed_matrix_has_the_same_number_unless_it_is_square():
    square = MATRIX[:40]
    assert repeat_sd(MATRIX.T) == pytest.approx(repeat_sd(MATRIX), rel=1e-6)
    assert repeat_sd(square.T) != pytest.approx(repeat_sd(square), rel=0.01)


def test_the_order_of_the_rows_changes_the_number_no_more_than_the_seed_does():
    shuffled = np.random.default_rng(1).permutation(MATRIX)
    squares = [[repeat_sd(W, seed=i) ** 2 for i in range(12)] for W in (MATRIX, shuffled)]
    error = np.hypot(*np.std(squares, axis=1, ddof=1)) / np.sqrt(12)
    assert abs(np.diff(np.mean(squares, axis=1))) < 4 * error


def test_the_variance_of_a_mean_is_the_textbook_one():
    x = np.random.default_rng(2).standard_normal(300)
    variance = paired_variance(lambda chosen: x[chosen].mean(), len(x), 4000, seed=0)
    assert variance == pytest.approx(x.var(ddof=1) / len(x), rel=0.08)


def test_a_function_of_all_its_rows_has_the_variance_of_independent_values():
    """Each subsample gives a value of its own, as the highest order of Hoeffding's terms does."""
    rng = np.random.default_rng(3)
    variance = paired_variance(lambda _: rng.standard_normal(), 300, 4000, seed=0)
    assert variance == pytest.approx(1, rel=0.08)


def test_two_subsamples_leave_out_different_rows():
    seen = []
    paired_variance(lambda chosen: seen.append(set(chosen)) or 0.0, 100, 1, seed=0)
    assert [len(x) for x in seen] == [round(100 * SHARE)] * 2
    assert len(seen[0] | seen[1]) == 100


def test_the_number_is_the_scatter_of_alpha_over_matrices_of_one_population():
    rng = np.random.default_rng(4)
    drawn = [rows(rng, 256, 128) for _ in range(150)]
    posteriors = [alpha_posterior(eigenvalues(W)) for W in drawn]
    scatter = np.std([p.mean for p in posteriors], ddof=1)
    estimates = [repeat_sd(W) for W in drawn[:12]]
    assert 0.8 < np.exp(np.mean(np.log(estimates))) / scatter < 1.25
    assert np.mean([p.sd for p in posteriors]) > 4 * scatter


def test_a_kernel_is_split_by_units_not_by_positions():
    rng = np.random.default_rng(5)
    kernel = rng.standard_normal((60, 20, 3, 1))
    assert repeat_sd(kernel) == pytest.approx(repeat_sd(kernel.transpose(1, 0, 3, 2)), rel=1e-6)


@pytest.mark.parametrize(
    "W",
    [np.zeros((60, 50)), np.eye(60), np.linalg.qr(MATRIX)[0], MATRIX[:, :12], np.ones((1, 1))],
    ids=["zeros", "identity", "orthogonal", "few columns", "one element"],
)
def test_a_matrix_without_an_alpha_has_no_number(W):
    assert np.isnan(repeat_sd(W))


def test_the_dataset_has_the_number_only_when_it_is_asked_for():
    arrays = {"a.weight": rows(np.random.default_rng(6), 90, 60).astype(np.float32)}
    plain, asked = (specdiag.alpha(arrays, gof=False, repeats=x, seed=7) for x in (False, True))
    assert np.isnan(plain.alpha_repeat_sd.item())
    assert asked.alpha_repeat_sd.item() == repeat_sd(arrays["a.weight"], seed=7)
    with pytest.raises(ValueError, match=r"^repeats belongs to the method specdiag, not to weight"):
        specdiag.alpha(arrays, method="weightwatcher", repeats=True)
