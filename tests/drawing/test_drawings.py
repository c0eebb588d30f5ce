from collections import Counter

import numpy as np
import pytest

import specdiag
from specdiag.drawing import alpha_by_layer, difference, esd
from specdiag.drawing.drawings import draw_all
from specdiag.wording import short
from support.weights import heavy


@pytest.fixture
def dataset(rng):
    values = (1 - rng.random(80)) ** -0.6
    U, _, V = np.linalg.svd(rng.standard_normal((120, 80)), full_matrices=False)
    return specdiag.alpha(
        {
            "heavy/../$x_1$": U * np.sqrt(values) @ V,
            "noise": rng.standard_normal((90, 60)),
            "dead": np.zeros((60, 60)),
        }
    )


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_the_spectrum_shows_density_fit_xmin_and_edge(dataset):
    layer = "heavy/../$x_1$"
    (ax,) = esd.plot(dataset, layer).axes
    cell = dataset.sel(layer=layer).squeeze()
    drawn = lines(ax)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert drawn["xmin"].get_xdata()[0] == cell.xmin.item()
    assert drawn["Marchenko-Pastur edge"].get_xdata()[0] == cell.mp_edge.item()
    power_law = drawn[f"slope α = {cell.alpha.item():.2f}, {cell.n_tail.item():.0f} in its tail"]
    x, y = power_law.get_xdata(), power_law.get_ydata()
    slope = np.polyfit(np.log(x), np.log(y), 1)[0]
    assert slope == pytest.approx(-cell.alpha.item())
    assert x[0] == pytest.approx(cell.xmin.item())
    share_of_tail = np.trapezoid(y, x)  # of all eigenvalues, up to the largest one
    reach = 1 - (x[-1] / x[0]) ** (1 - cell.alpha.item())
    assert share_of_tail == pytest.approx(reach * cell.n_tail.item() / 80, rel=1e-2)
    assert min(y) > ax.get_ylim()[0]


def test_the_histogram_is_a_density(dataset):
    (ax,) = esd.plot(dataset, "noise").axes
    (stairs,) = [p for p in ax.patches if p.get_label() == "60 eigenvalues"]
    data = stairs.get_data()
    assert np.sum(data.values * np.diff(data.edges)) == pytest.approx(1)


def test_alpha_by_layer_marks_the_degenerate(dataset):
    (ax,) = alpha_by_layer.plot(dataset).axes
    drawn = {c.get_label(): c for c in ax.collections}
    points = {label: c.get_offsets() for label, c in drawn.items()}
    intervals = [segment[:, 1] for segment in drawn["95 % interval"].get_segments()]
    np.testing.assert_allclose(intervals, dataset.alpha_ci.values[0, :2])
    for word, n in Counter(dataset.verdict.values[0, :2].tolist()).items():
        mine = dataset.verdict.values[0, :2] == word
        np.testing.assert_allclose(points[f"{n} {word}"][:, 1], dataset.alpha.values[0, :2][mine])
    assert points["1 degenerate"].tolist() == [[2, 0]]


def test_files_are_named_safely_and_stay_in_the_folder(dataset, tmp_path):
    written = draw_all(dataset, tmp_path / "figures")
    assert {p.parent for p in written} == {tmp_path / "figures"}
    assert [p.name for p in written] == [
        "alpha_by_layer.png",
        "esd_000_heavy_.._x_1_.png",
        "esd_001_noise.png",
    ]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in written)


def test_several_checkpoints_get_a_folder_each(rng, tmp_path):
    both = specdiag.alpha(*({"a": rng.standard_normal((60, 60))} for _ in range(2)))
    written = draw_all(both, tmp_path)
    assert sorted({p.parent.name for p in written}) == ["00_model_1", "01_model_2"]


def test_the_difference_shows_both_alphas_their_difference_and_its_mean(rng):
    first, second = (
        {f"blocks.{i}.weight": heavy(rng, (120, 80)) for i in range(4)}
        | {"dead.weight": np.zeros((60, 60)), "small.weight": np.eye(3)}
        for _ in range(2)
    )
    dataset = specdiag.compare(first, second)
    top, bottom = difference.plot(dataset).axes
    points = {c.get_label(): c.get_offsets() for c in [*top.collections, *bottom.collections]}
    for i in (0, 1):
        drawn = points[f"model#{i + 1}: 4 fit"]
        np.testing.assert_array_equal(drawn[:, 1], dataset.alpha.values[i, :4])
    np.testing.assert_array_equal(points["1 degenerate"], [[4.15, 0.02]])
    np.testing.assert_array_equal(
        points["difference"][:, 1], dataset.alpha_difference.values[0, :4]
    )
    (band,) = bottom.patches
    assert band.get_label() == "mean over 4 layers, 95 % interval for other seeds"
    low, high = dataset.mean_alpha_difference_seed_ci.values[0]
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((low, high))


def test_the_difference_of_groups_shows_a_point_for_each_seed(rng):
    seeds = [
        [{f"{i}.weight": heavy(rng, (90, 60), alpha) for i in range(3)} for _ in range(n)]
        for n, alpha in ((2, 1.7), (3, 2.2))
    ]
    dataset = specdiag.compare(*seeds)
    top, bottom = difference.plot(dataset).axes
    points = {c.get_label(): c.get_offsets() for c in [*top.collections, *bottom.collections]}
    first = points["model#1, model#2 (2 networks): 6 fit"]
    np.testing.assert_array_equal(first[:, 1], dataset.alpha.values[:2].ravel())
    assert len(points[f"{short(str(dataset.group.values[-1]), 30)}: 9 fit"]) == 9
    np.testing.assert_array_equal(points["difference"][:, 1], dataset.alpha_difference.values[0])
    (band,) = bottom.patches
    low, high = dataset.mean_alpha_difference_seed_ci.values[0]
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((low, high))
