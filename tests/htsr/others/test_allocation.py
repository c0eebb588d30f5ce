import math

import numpy as np
import pytest

import specdiag
from specdiag.htsr.others import allocation
from specdiag.htsr.tail.power_law import fit_above
from support.allocation import published, weights

WEIGHTS = weights()


def squared_singular_values(W):
    """Return those of all positions of a kernel, scaled by 1/2 as the published code does."""
    W = W.astype(np.float64)
    if W.ndim == 2:
        return np.linalg.svd(W, compute_uv=False) ** 2
    slices = np.moveaxis(W.reshape(*W.shape[:2], -1), 2, 0)
    return np.linalg.svd(slices, compute_uv=False).ravel() ** 2 / 2


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(("rule", "key"), [("median", "xmin_mid"), ("peak", "xmin_peak")])
def test_median_and_peak_give_what_the_published_code_gives(rule, key, name):
    fit = getattr(allocation, rule)(squared_singular_values(WEIGHTS[name]))
    alpha, distance = published()[key][name]
    assert fit.alpha == pytest.approx(alpha, rel=1e-4)
    assert fit.ks_distance == pytest.approx(distance, abs=1e-4)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("farms_xmin_mid", {}),
        ("farms_xmin_peak", {"rule": "peak"}),
        ("farms_xmin_mid_40_2_4", {"side": 40, "ratio": 2.0, "windows": 4}),
    ],
)
def test_farms_gives_what_the_published_code_gives(key, settings, name):
    if name == "few" and "side" in settings:
        pytest.skip(
            "its window of 8 x 16 of 8 columns is one that the published code cuts to 8 x 8"
        )
    fits = allocation.farms(WEIGHTS[name], **settings)
    alpha, distance = published()[key][name]
    assert np.mean([fit.alpha for fit in fits]) == pytest.approx(alpha, rel=1e-4)
    assert np.mean([fit.ks_distance for fit in fits]) == pytest.approx(distance, abs=1e-4)


@pytest.mark.parametrize(
    ("method", "key"),
    [("median", "xmin_mid"), ("peak", "xmin_peak"), ("farms", "farms_xmin_mid")],
)
def test_the_methods_measure_networks_by_these_rules(method, key):
    networks = {name: W for name, W in WEIGHTS.items() if name != "few"}
    dataset = specdiag.alpha(networks, method=method, min_eigenvalues=8).squeeze()
    assert set(dataset.status.values) == {"fit"}
    for name, W in networks.items():
        cell = dataset.sel(layer=name)
        assert cell.alpha.item() == pytest.approx(published()[key][name][0], rel=1e-4)
        assert cell.alpha_ks.item() == cell.alpha.item()
        if method == "farms":
            assert np.isnan([cell.xmin.item(), *cell.alpha_ci.values]).all()
            continue
        values = specdiag.spectrum(dataset, name)
        assert np.abs(values - cell.xmin.item()).min() < 1e-12 * values[0]
        n = np.count_nonzero(values >= cell.xmin.item() * (1 - 1e-9))
        assert cell.n_tail.item() == n
        reach = 1.96 * (cell.alpha.item() - 1) / math.sqrt(n)
        expected = cell.alpha.item() + np.array([-reach, reach])
        np.testing.assert_allclose(cell.alpha_ci.values, expected)
        assert W.shape == tuple(map(int, cell["shape"].item().split("x")))


def test_the_lower_limit_of_peak_is_a_logarithm_so_that_alpha_depends_on_the_scale(rng):
    power_law = 0.1 * (1 - rng.random(2000)) ** (-1 / 0.5)
    values = np.concatenate([power_law, np.geomspace(10, 10.3, 200)])
    small, large = (allocation.peak(values * scale) for scale in (1e-3, 1.0))
    assert small.xmin * 1e3 < math.log10(0.95 * 10) < large.xmin
    assert abs(small.alpha - large.alpha) > 0.01
    fits = [allocation.median(values * scale).alpha for scale in (1e-3, 1.0)]
    assert fits[0] == pytest.approx(fits[1], rel=1e-12)


def test_hill_above_the_median_finds_the_exponent_of_pareto_draws(rng):
    alpha, n = 2.7, 20001
    x = (1 - rng.random(n)) ** (-1 / (alpha - 1))
    fit = allocation.median(x)
    assert fit.n_tail == n - n // 2
    assert fit.xmin == np.sort(x)[n // 2]
    assert abs(fit.alpha - alpha) < 4 * fit.sigma
    assert fit_above(np.ones(5), 0).n_tail == 0


def test_what_rests_on_rounding_is_degenerate(rng):
    low = rng.standard_normal((100, 20)) @ rng.standard_normal((20, 80))
    half = low.copy()
    half[:, 15:] = rng.standard_normal((100, 65))
    half[:, 0] = half[:, 1]  # one eigenvalue is rounding
    for method, expected in {
        "median": ["half of its eigenvalues are rounding, on which alpha would rest", ""],
        "peak": ["its smallest eigenvalues are rounding, on which alpha would rest"] * 2,
        "farms": ["half of the eigenvalues of its windows are rounding", ""],
    }.items():
        dataset = specdiag.alpha({"low": low, "half": half}, method=method).squeeze()
        assert dataset.reason.values.tolist() == expected


def test_farms_refuses_settings_without_windows():
    with pytest.raises(ValueError) as error:
        allocation.farms(WEIGHTS["few"], windows=1)
    assert str(error.value) == (
        "side 2000, ratio 1.0, windows 1, rule 'median': expected side of at least 1, a positive "
        "ratio, windows of at least 2, and one of median, peak"
    )


def test_farms_does_not_change_with_the_aspect_ratio_of_random_matrices(rng):
    """Test what the paper claims, and what the rule `median` does not keep."""
    wide, square = (rng.standard_normal(shape) / 10 for shape in ((200, 1600), (200, 200)))
    of_windows = [allocation.farms(W)[0].alpha for W in (wide, square)]
    whole = [allocation.median(squared_singular_values(W)).alpha for W in (wide, square)]
    assert abs(of_windows[0] - of_windows[1]) < 0.1
    assert whole[0] > whole[1] + 1


@pytest.mark.realdata
def test_a_trained_network_has_the_published_numbers(minilm):
    dataset = specdiag.alpha(minilm, layers="*layer.0.*", method="median").squeeze()
    expected = {"output.dense": 2.6468353271484375, "attention.self.query": 1.7004369497299194}
    for name, alpha in expected.items():
        cell = dataset.sel(layer=f"encoder.layer.0.{name}.weight")
        assert cell.alpha.item() == pytest.approx(alpha, rel=1e-5)
