import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, ks_2samp, kstest

from specdiag.htsr import null
from specdiag.htsr.esd import eigenvalues
from specdiag.htsr.tail.posterior import posterior_mean


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Set a new cache folder, and forget the draws of other tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    null._gaussian_draws.cache_clear()
    yield tmp_path
    null._gaussian_draws.cache_clear()


def alpha_of_noise(rng, shape):
    return posterior_mean(eigenvalues(rng.standard_normal(shape)))


@pytest.mark.parametrize("shape", [(60, 60), (200, 50)])
def test_the_tridiagonal_model_draws_the_alphas_of_gaussian_matrices(rng, shape):
    drawn = null.simulate(*shape)
    direct = [alpha_of_noise(rng, shape) for _ in range(400)]
    assert len(drawn) == 1000
    assert ks_2samp(drawn, direct).pvalue > 0.01


@pytest.mark.parametrize("shape", [(128, 128), (512, 128), (256, 128)])
def test_null_p_values_of_gaussian_matrices_are_uniform(shape):
    rng = np.random.default_rng(3)
    draws = null.gaussian_draws(shape)
    p = [null.p_value(alpha_of_noise(rng, shape), draws) for _ in range(200)]
    assert kstest(p, "uniform").pvalue > 0.01


def test_the_table_in_the_package_is_what_is_drawn_now():
    shipped = null.gaussian_draws((64, 64))
    np.testing.assert_allclose(shipped, null.simulate(64, 64), rtol=1e-6)


def test_a_new_shape_is_drawn_once_and_cached(cache, caplog):
    caplog.set_level("INFO", logger="specdiag")
    first = null.gaussian_draws((70, 33))
    assert "drawing 1000 random matrices of 70 x 33 for the null, once" in caplog.text
    caplog.clear()
    null._gaussian_draws.cache_clear()
    np.testing.assert_array_equal(null.gaussian_draws((33, 70)), first)
    assert caplog.text == ""


@pytest.mark.parametrize("damage", [b"", b"not an array", b"PK\x03\x04", None])
def test_a_damaged_cache_is_drawn_again(cache, damage):
    first = null.gaussian_draws((70, 33))
    (file,) = cache.rglob("*.npy")
    if damage is None:
        np.save(file, first[::-1])
    else:
        file.write_bytes(damage)
    null._gaussian_draws.cache_clear()
    np.testing.assert_array_equal(null.gaussian_draws((70, 33)), first)
    np.testing.assert_array_equal(np.load(file), first)


def test_draws_need_no_cache(cache, caplog):
    (cache / "specdiag").write_text("a file where the folder should be")
    assert len(null.gaussian_draws((70, 33))) == 1000
    assert "the null of 70x33 could not be cached" in caplog.text


def test_a_kernel_is_compared_with_pooled_slices(cache):
    assert len(null.gaussian_draws((40, 20, 3, 1))) == 1000
    assert [p.name for p in cache.rglob("*.npy")] == ["40x20x3.npy"]


def test_the_number_of_draws_falls_with_the_size():
    assert [null.n_draws(n) for n in (50, 512, 513, 1024, 4096, 4097)] == [
        *(1000, 1000, 400, 400, 200, 100),
    ]


def test_the_p_value_counts_draws_that_are_as_low():
    draws = np.arange(1.0, 100)
    assert null.p_value(0.5, draws) == 0.01
    assert null.p_value(50.0, draws) == 0.51
    assert null.p_value(1e9, draws) == 1.0
    assert math.isnan(null.p_value(math.nan, draws))
    assert math.isnan(null.p_value(2.0, np.empty(0)))


@given(st.lists(st.floats(0, 1), max_size=50))
def test_the_false_discovery_rate_is_that_of_scipy_and_nan_is_left_out(p):
    q = null.false_discovery_rate([math.nan, *p])
    assert math.isnan(q[0])
    if p:
        np.testing.assert_allclose(q[1:], false_discovery_control(p), atol=1e-12)


def test_the_two_nulls_answer_different_questions():
    """Test heavy-tailed entries without correlation: only the Gaussian null is rejected."""
    rng = np.random.default_rng(5)
    gaussian, permutation = [], []
    for _ in range(6):
        W = rng.standard_t(2.5, (96, 96))
        alpha = posterior_mean(eigenvalues(W))
        gaussian.append(null.p_value(alpha, null.gaussian_draws(W.shape)))
        permutation.append(null.p_value(alpha, null.permutation_draws(W)))
    assert max(gaussian) < 0.05
    assert 0.2 < np.mean(permutation) < 0.8


def test_the_permutation_null_detects_correlation_and_is_seeded():
    rng = np.random.default_rng(6)
    scales = np.sqrt((1 - rng.random(128)) ** (-1 / 1.5))
    W = scales[:, None] * rng.standard_normal((128, 128))
    draws = null.permutation_draws(W, seed=1)
    assert len(draws) == null.PERMUTATIONS
    assert null.p_value(posterior_mean(eigenvalues(W)), draws) < 0.05
    np.testing.assert_array_equal(null.permutation_draws(W, seed=1), draws)
    assert not np.array_equal(null.permutation_draws(W, seed=2), draws)
