import contextlib
import io
import logging
import math
import warnings

import numpy as np
import pytest

import specdiag
from specdiag.htsr.others import weightwatcher
from specdiag.htsr.others.methods import METHODS
from support.paths import ROOT


def matrix(rng, n, m, alpha):
    values = (1 - rng.random(min(n, m))) ** (-1 / (alpha - 1))
    U, _, V = np.linalg.svd(rng.standard_normal((n, m)), full_matrices=False)
    return (U * np.sqrt(values) @ V).astype(np.float32)


@pytest.fixture
def weights(rng):
    return {f"l{a}.weight": matrix(rng, 200, 120, a) for a in (1.8, 2.5, 4.0)}


def slow_wwj(W):
    """Compute the published formulas, one window at a time."""
    gram = (W.T @ W) / np.float32(max(W.shape))
    x = np.linalg.eigvalsh(gram).astype(float)
    x = x[x > 1e-9 * x[-1]]
    windows = []
    for i in range(len(x) - 50 + 1):
        tail = x[i:]
        n, S = len(tail), np.log(tail / x[i]).sum()
        alpha = 1 + n / S
        F = 1 - (tail / x[i]) ** (1 - alpha)
        D = np.abs(F - np.arange(1, n + 1) / n).max()
        r = 1 / x.mean()
        score = -np.log(tail).sum() + math.lgamma(1e-3 + n) - (1e-3 + n) * math.log(1e-3 + S)
        score -= n * math.log(r) - r * tail.sum()
        windows.append((D, alpha, n, S, score))
    D, alpha, n, S, score = map(np.array, zip(*windows, strict=True))
    weight = np.exp(score - score.max())
    averaged = 1 + (weight / weight.sum()) @ ((1e-3 + n) / (1e-3 + S))
    return alpha[D.argmin()], n[D.argmin()], averaged


def test_wwj_agrees_with_its_formulas(weights):
    for W in weights.values():
        fit, posterior, rank = weightwatcher.wwj(W)
        alpha, n_tail, averaged = slow_wwj(W)
        assert fit.alpha == pytest.approx(alpha, rel=1e-9)
        assert fit.n_tail == n_tail
        assert posterior.mean == pytest.approx(averaged, rel=1e-6)
        assert rank == 120
        values = np.linalg.eigvalsh(W.astype(np.float64).T @ W / max(W.shape))
        assert posterior.n_tail >= 50
        assert fit.xmin == pytest.approx(values[-fit.n_tail], rel=1e-3)
        assert values[0] * (1 - 1e-4) <= posterior.xmin <= values[-50] * (1 + 1e-4)


def test_the_rope_of_wwj_is_that_of_its_frequentist_window(weights):
    from scipy.stats import gamma

    W = weights["l1.8.weight"]
    fit, posterior, _ = weightwatcher.wwj(W)
    shape = 1e-3 + fit.n_tail
    window = gamma(shape, scale=1 / (1e-3 + fit.n_tail / (fit.alpha - 1)))
    assert posterior.rope == pytest.approx(window.cdf(1.1) - window.cdf(0.9), abs=1e-4)


def test_weightwatcher_depends_on_the_scale_and_the_default_does_not(weights):
    """Test the absolute floor, which the default method avoids."""
    W = weights["l2.5.weight"]
    for method, same in (("specdiag", True), ("weightwatcher", False)):
        large, small = (
            specdiag.alpha({"a": W * np.float32(scale)}, method=method, gof=False).alpha.item()
            for scale in (1, 2.0**-10)
        )
        assert (large == pytest.approx(small, rel=1e-9)) is same


def test_wwj_calls_collapsed_matrices_degenerate(rng):
    # About half of the 49 eigenvalues that are only rounding are positive, and count as rank.
    collapsed = {"a.weight": np.outer(np.ones(80), np.ones(50)), "b.weight": np.zeros((60, 60))}
    dataset = specdiag.alpha(collapsed, method="wwj")
    assert dataset.status.values.tolist() == [["degenerate", "degenerate"]]


def test_the_method_weightwatcher_gives_what_weightwatcher_reports(weights):
    import torch

    filters, level = list(warnings.filters), logging.getLogger().level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import weightwatcher

        model = torch.nn.ModuleDict()
        for name, W in weights.items():
            linear = torch.nn.Linear(W.shape[1], W.shape[0], bias=False)
            linear.weight.data = torch.from_numpy(W)
            model[name.replace(".", "_")] = linear
        model["conv"] = torch.nn.Conv2d(40, 60, 3, bias=False)
        expected = weightwatcher.WeightWatcher(model=model).analyze()
    warnings.filters[:] = filters
    logging.getLogger().setLevel(level)
    documented = (ROOT / "docs" / "definitions.md").read_text()
    assert [name for name in expected.columns if f"`{name}`" not in documented] == []
    kernel = model["conv"].weight.detach().numpy()
    dataset = specdiag.alpha(weights | {"conv": kernel}, method="weightwatcher")
    for name in ("alpha", "alpha_ks"):
        np.testing.assert_allclose(dataset[name].values[0], expected.alpha, rtol=1e-6)
    matrix = np.array(["conv" not in str(name) for name in expected.longname])
    weighted = dataset.alpha_hat.values[0]  # weightwatcher scales kernels by sqrt(1/2)
    np.testing.assert_allclose(weighted[matrix], expected.alpha_weighted[matrix], rtol=1e-6)
    np.testing.assert_array_equal(dataset.n_tail.values[0], expected.num_pl_spikes)
    low = expected.alpha - 1.96 * expected.sigma
    np.testing.assert_allclose(dataset.alpha_ci.values[0, :, 0], low, rtol=1e-6)
    assert np.isnan(dataset.gof_p).all()


def test_an_unknown_method_is_refused(weights):
    with pytest.raises(ValueError) as error:
        specdiag.alpha(weights, method="x")
    expected = "method is 'x': expected one of specdiag, weightwatcher, wwj, median, peak, farms"
    assert str(error.value) == expected


@pytest.mark.parametrize("method", [name for name in METHODS if name != "farms"])
def test_xmin_is_an_eigenvalue_by_every_method(weights, method):
    dataset = specdiag.alpha(weights, method=method, gof=False)
    for layer in weights:
        cell = dataset.sel(layer=layer).squeeze()
        values = specdiag.spectrum(dataset, layer)
        eps = np.finfo(np.float32 if method == "wwj" else np.float64).eps
        for xmin in (cell.xmin.item(), cell.xmin_ks.item()):
            assert np.abs(values - xmin).min() < 10 * eps * values[0]


@pytest.mark.parametrize("option", ["gof", "repeats"])
def test_what_only_specdiag_measures_is_refused_beside_other_methods(option, rng):
    network = {"w": rng.standard_normal((60, 80))}
    with pytest.raises(
        ValueError, match=f"^{option} belongs to the method specdiag, not to median"
    ):
        specdiag.alpha(network, method="median", **{option: True})
