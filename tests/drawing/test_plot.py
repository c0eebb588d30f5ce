"""Drawings on the axes of the caller."""

import numpy as np
import pytest

import specdiag
from specdiag.training.trajectory import Trajectory
from support.collections_ import readings, study

pyplot = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _close_all():
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def compared():
    rng = np.random.default_rng(0)
    nets = [{f"l{i}.weight": rng.standard_t(3, (80, 90)) for i in range(5)} for _ in range(2)]
    return specdiag.compare(*nets)


@pytest.fixture(scope="module")
def collection():
    return study(seeds=(42,))


def test_a_spectrum_is_drawn_on_the_axes_of_the_caller(compared):
    figure, (left, right) = pyplot.subplots(1, 2)
    first = str(compared.checkpoint.values[0])

    assert specdiag.plot.esd(compared, "l1.weight", first, ax=left) is left
    assert specdiag.plot.alpha_by_layer(compared, first, ax=right) is right
    assert left.get_xscale() == "log"
    assert left.get_legend().get_texts()
    assert right.get_ylabel() == "α"
    assert figure.axes == [left, right]


def test_both_axes_of_a_difference_are_drawn(compared):
    _, axes = pyplot.subplots(2, 1)
    top, bottom = specdiag.plot.difference(compared, ax=axes)
    assert (top, bottom) == tuple(axes)
    assert (top.get_ylabel(), bottom.get_ylabel()) == ("α", "difference of α, 2 - 1")


@pytest.mark.parametrize("name", ["alpha_and_r2", "condition_and_r2"])
def test_the_drawings_of_a_study_are_functions_too(name, collection):
    _, ax = pyplot.subplots()
    assert getattr(specdiag.plot, name)(collection, ax=ax) is ax
    assert ax.get_ylabel() == "test R²"
    assert ax.get_legend().get_texts()


def test_a_training_is_drawn_on_three_axes(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text(readings())
    _, axes = pyplot.subplots(3, 1)
    assert specdiag.plot.trajectory(path, ax=axes) == list(axes)
    assert axes[0].get_ylabel() == "α (posterior mean)"
    assert len(axes[0].get_legend().get_texts()) == 5
    assert len(specdiag.plot.trajectory(str(path))) == 3


def test_without_axes_a_new_figure_of_pyplot_is_made(compared):
    first = str(compared.checkpoint.values[0])
    ax = specdiag.plot.esd(compared, "l1.weight", first)
    assert pyplot.gcf() is ax.figure
    assert len(specdiag.plot.difference(compared)) == 2
    assert len(pyplot.get_fignums()) == 2


def test_what_cannot_be_drawn_is_named(compared, collection):
    _, ax = pyplot.subplots()
    one = specdiag.alpha({"dead.weight": np.zeros((60, 60)), "few.weight": np.ones((4, 4))})

    with pytest.raises(ValueError, match=r"^layer 'dead.weight' is degenerate: "):
        specdiag.plot.esd(one, "dead.weight")
    with pytest.raises(ValueError, match=r"^layer 'few.weight' is skipped: "):
        specdiag.plot.esd(one, "few.weight")
    with pytest.raises(ValueError, match=r"no layer 'l9' in the dataset"):
        specdiag.plot.esd(one, "l9")
    with pytest.raises(ValueError, match="no comparison in the Dataset"):
        specdiag.plot.difference(one)
    features = specdiag.measure_features(np.eye(8)[:, :3])
    for name in ("difference", "alpha_by_layer", "alpha_and_r2", "condition_and_r2"):
        with pytest.raises(ValueError, match="a Dataset of features, without weights"):
            getattr(specdiag.plot, name)(features)
        with pytest.raises(ValueError, match=r"expected a Dataset of specdiag.alpha, compare"):
            getattr(specdiag.plot, name)(features.assign_attrs(kind="other"))
    for given in (features, [features]):
        with pytest.raises(ValueError, match=r"expected the result of attach with several layers"):
            specdiag.plot.depth(given)
    with pytest.raises(ValueError, match="no test R² in the Dataset"):
        specdiag.plot.alpha_and_r2(compared)
    with pytest.raises(ValueError, match=r"expected a list of 2 matplotlib axes"):
        specdiag.plot.difference(compared, ax=ax)
    with pytest.raises(ValueError, match=r"^ax is 'left': expected matplotlib axes"):
        specdiag.plot.alpha_and_r2(collection, ax="left")
    with pytest.raises(ValueError, match=r"^no readings: expected those of at least one matrix"):
        specdiag.plot.trajectory(Trajectory([]))
