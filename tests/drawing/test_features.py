"""Effective rank and condition number by depth."""

import numpy as np
import pytest

import specdiag
from specdiag.drawing.features import LONGEST, depth, depth_caption
from specdiag.drawing.features import spectrum as drawn
from specdiag.drawing.style import save_figure
from specdiag.features.covariance import FeatureCovariance
from support.plots import assert_text_is_readable, points, texts

pyplot = pytest.importorskip("matplotlib.pyplot")


def spectrum(deviations, n=400, *, grouped=True):
    covariance = FeatureCovariance()
    samples = np.random.default_rng(0).normal(size=(n, len(deviations))) * deviations
    covariance.update(samples, groups=np.arange(n) if grouped else None)
    return covariance.result()


@pytest.fixture(scope="module")
def spectra():
    return {
        "encoder.layer.0.attention.query": spectrum([4.0, 2.0, 1.0]),
        "normed": spectrum([4.0, 1.0, 1.0, 0.0]),
        "of_the_sample": spectrum([2.0, 1.0], grouped=False),
        "still": spectrum([0.0, 0.0]),
    }


def test_dots_are_effective_ranks_as_shares_of_the_width(spectra):
    figure = depth(spectra, "a network")
    ranks, _ = figure.axes
    shares = [spectra[name].effective_rank / len(spectra[name].eigenvalues) for name in spectra]
    np.testing.assert_allclose(
        points(ranks, "effective rank"), [[0, shares[0]], [1, shares[1]], [2, shares[2]]]
    )
    assert ranks.get_title() == "a network"
    assert_text_is_readable(figure)


def test_condition_numbers_show_how_far_they_are_known(spectra):
    _, conditions = depth(spectra).axes
    first, normed, sample, _ = spectra.values()
    assert points(conditions, "estimate").tolist() == [[0, first.condition_number]]
    assert points(conditions, "at least so much").tolist() == [
        [1, normed.condition_number_interval[0]]
    ]
    label = "of the sample, without an interval"
    assert points(conditions, label).tolist() == [[2, sample.condition_number]]
    assert depth_caption(spectra).endswith("1 condition numbers are lower bounds, at triangles.")


def test_layers_are_named_unless_there_are_too_many(spectra):
    assert "normed" in [text for text, _ in texts(depth(spectra))]
    one = spectra["normed"]
    many = depth({f"layers.{i}": one for i in range(LONGEST + 1)})
    assert "layers.3" not in [text for text, _ in texts(many)]
    assert "layer, in the order of the forward pass" in [text for text, _ in texts(many)]


def test_forty_layers_are_readable(spectra):
    one = spectra["encoder.layer.0.attention.query"]
    figure = depth({f"encoder.layer.{i}.attention.self.query": one for i in range(40)})
    assert_text_is_readable(figure)


def test_names_from_strangers_are_no_mathematics(spectra):
    figure = depth({"$a_1$": spectra["normed"], "_b": spectra["normed"]}, "$x$")
    figure.draw_without_rendering()
    labels = {text for text, _ in texts(figure)}
    assert {r"\$a_1\$", r"\$x\$"} <= labels


@pytest.mark.parametrize("scales", [(1e140, 1.0), (1e140, 1e-140), (1e-140, 1.0)])
def test_features_of_very_different_sizes_are_drawn(scales, tmp_path, rng):
    dataset = specdiag.measure_features(*(rng.normal(size=(300, 8)) * one for one in scales))
    save_figure(drawn(dataset), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_features_that_do_not_vary_are_named_and_not_drawn(spectra):
    with pytest.raises(ValueError, match=r"^array 1: features do not vary"):
        drawn(specdiag.measure_features(np.ones((20, 3))))
    with pytest.raises(ValueError, match=r"^still: features do not vary"):
        depth({"still": spectra["still"]})


def test_depth_is_drawn_on_the_axes_of_the_caller(spectra):
    _, axes = pyplot.subplots(2, 1)
    assert list(specdiag.plot.depth(spectra, ax=axes)) == list(axes)
    assert axes[1].get_ylabel() == "condition number"
    pyplot.close("all")
    with pytest.raises(ValueError, match=r"^no layers: expected the result of attach"):
        specdiag.plot.depth({})
