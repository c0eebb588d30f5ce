"""Figures of any Dataset, drawn of small collections."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import specdiag
from specdiag.cli.main import cli
from specdiag.drawing import (
    alpha_and_r2,
    alpha_by_layer,
    condition_and_r2,
    drawings,
    esd,
    style,
    trajectory,
)
from specdiag.drawing.seeds import mean_over_seeds
from specdiag.htsr.null import law
from specdiag.htsr.null.verdicts import MEANINGFUL
from specdiag.htsr.statistics import mean_interval
from support.collections_ import collected, hostile, readings, row, study, weights
from support.plots import assert_text_is_readable, points, r2_of

SEEDS = (42, 43, 44)
WHOLE = {"alpha_and_r2": alpha_and_r2, "condition_and_r2": condition_and_r2}


@pytest.fixture(scope="module")
def dataset():
    return study(SEEDS)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "run.csv"
    path.write_text(readings())
    return trajectory.read(path)


def drawn(name, dataset, table):
    if name in WHOLE:
        return WHOLE[name].plot(dataset)
    if name == "trajectory":
        return trajectory.plot(table)
    one = hostile()
    return esd.plot(one, str(one.layer.values[5])) if name == "esd" else alpha_by_layer.plot(one)


@pytest.mark.parametrize("name", [*WHOLE, "alpha_by_layer", "esd", "trajectory"])
def test_text_overlaps_no_other_text_and_stays_in_the_figure(name, dataset, table):
    with style.style():
        assert_text_is_readable(drawn(name, dataset, table))


@pytest.mark.parametrize("name", WHOLE)
def test_axes_are_labelled_and_captions_have_numbers(name, dataset):
    for ax in WHOLE[name].plot(dataset).axes:
        assert ax.get_xlabel()
    assert WHOLE[name].plot(dataset).axes[0].get_ylabel()
    assert re.search(r"\d", WHOLE[name].caption(dataset))


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_a_figure_gives_the_same_file_with_other_settings_of_the_user(kind, dataset):
    import matplotlib as mpl

    with style.style():
        first = style.rendered(alpha_and_r2.plot(dataset), kind)
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.facecolor": "red"}):
        before = dict(mpl.rcParams)
        with style.style():
            second = style.rendered(alpha_and_r2.plot(dataset), kind)
        assert dict(mpl.rcParams) == before
    assert first == second


def test_an_svg_holds_its_text_as_text(dataset):
    with style.style():
        content = style.rendered(condition_and_r2.plot(dataset), "svg")
    text = "".join(ET.fromstring(content).itertext())
    assert "condition number of the features" in text
    assert "<dc:date>" not in content.decode()


def test_alpha_and_r2_shows_means_over_layers_and_seeds(dataset):
    (ax,) = alpha_and_r2.plot(dataset).axes
    drawn = points(ax, "_entry")
    entry = "transfer/area2_bump_scratch"
    mine = dataset.sel(checkpoint=dataset.entry == entry)
    alpha = mine.alpha.where(mine.verdict.isin(MEANINGFUL)).mean("layer").mean()
    at = np.argmin(np.abs(drawn - (float(alpha), r2_of(dataset, entry).mean())).sum(axis=1))
    np.testing.assert_allclose(drawn[at], (float(alpha), r2_of(dataset, entry).mean()))
    assert len(drawn) == len(
        {e for e in dataset.entry.values if not e.startswith(("chronic", "cross"))}
    )
    assert alpha_and_r2.caption(dataset).startswith(
        f"Mean α and test R² of {3 * len(drawn)} checkpoints ({len(drawn)} of the lock's entries; "
    )


def test_the_interval_over_seeds_is_that_of_students_t(rng):
    values = rng.normal(size=5)
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    mean = mean_over_seeds(np.append(values, np.nan))
    np.testing.assert_allclose(mean, (values.mean(), low, high, 5), rtol=1e-5)
    assert np.isnan(mean_interval(values[:1])).all()


def test_the_condition_number_of_one_seed_has_its_own_interval_and_a_bound_an_arrow():
    bound = {"features": {"floor": 1e-3}}
    one = collected([row("a/x", arm="base", r2=0.5), row("a/y", arm="base", r2=0.6, **bound)])
    (ax,) = condition_and_r2.plot(one).axes
    assert ax.get_xscale() == "log"
    np.testing.assert_allclose(points(ax, "_entry")[:, 0], one.condition_number.values)
    ends = [tuple(line.get_xdata()) for line in ax.get_lines() if len(line.get_xdata()) == 2]
    assert tuple(one.condition_number_ci.values[0]) in ends
    (arrow,) = ax.texts
    assert arrow.xy == pytest.approx((one.condition_number.values[1], 0.6))
    assert "Of the condition numbers 1 are lower bounds (arrows)" in condition_and_r2.caption(one)
    assert "One seed each, so there are no intervals of R²." in condition_and_r2.caption(one)


def test_the_null_band_is_that_of_random_matrices_of_the_shape():
    one = weights(1)
    (ax,) = alpha_by_layer.plot(one).axes
    (bars,) = ax.containers
    low, high = law.quantiles((96, 64), (0.05, 0.95))
    assert (bars[0].get_y(), bars[0].get_height()) == pytest.approx((low, high - low))
    assert "(7 matrices: 5 measured, 1 degenerate, 1 skipped)." in alpha_by_layer.caption(one)


def test_the_grey_of_a_spectrum_is_a_density_with_the_norm_of_the_layer():
    one, layer = weights(1), "readout.weight"
    values = specdiag.spectrum(one, layer)
    x, density = esd.random_density(one.sel(layer=layer).isel(checkpoint=0), values, 0.0)
    x, density = np.array(x), np.array(density)
    assert np.trapezoid(density, x) == pytest.approx(1, abs=0.02)
    assert np.trapezoid(x * density, x) == pytest.approx(values.mean(), rel=0.02)
    assert "q against random matrices" in esd.caption(one, layer)


def test_methods_without_a_posterior_show_their_point_estimate(rng):
    one = specdiag.alpha({"a": rng.standard_t(3, (80, 60))}, method="weightwatcher", gof=False)
    (ax,) = alpha_by_layer.plot(one).axes
    assert ax.get_ylabel() == "α"
    assert ax.collections[-1].get_offsets()[0, 1] == one.alpha.item()


def test_a_training_is_drawn_with_a_line_a_matrix(table):
    top, middle, bottom, _ = trajectory.plot(table).axes
    lines = [line for line in top.get_lines() if len(line.get_xdata()) == 4]
    np.testing.assert_allclose(lines[0].get_xydata(), [[1, 4], [100, 3.8], [200, 3.6], [300, 3.4]])
    assert points(top, "_lost").tolist() == [[100, 4.2]]
    assert middle.get_yscale() == "log"
    np.testing.assert_allclose(bottom.get_lines()[-1].get_ydata(), [1, 1, 2 / 64, 2 / 64])
    assert trajectory.caption(table) == (
        "Posterior mean of α with its 95 % interval, Frobenius norm and rank of 5 matrices at 4 "
        "steps from 1 to 300; norm and rank are relative to the first reading. 1 collapsed or not "
        "finite at the end (red); 1 lost their α on the way (cross), as their rank fell below the "
        "gate."
    )


@pytest.mark.parametrize("n", [1, 2, 40, 90])
def test_the_names_of_a_training_are_readable_and_in_the_order_of_the_last_alphas(n, tmp_path):
    path = tmp_path / "run.csv"
    names = [f"encoder.layer.{i // 6}.attention.self.matrix{i % 6}.weight" for i in range(n)]
    path.write_text(readings(names=names))
    found = trajectory.read(path)
    with style.style():
        figure = trajectory.plot(found)
        assert_text_is_readable(figure)
    shown = list(figure.axes[-1].texts)
    assert len(shown) == min(n, 60)
    heights = [text.get_position()[1] for text in shown]
    assert heights == sorted(heights, reverse=True)
    assert shown[-1].get_color() == trajectory.RED
    assert ("Names of 60" in trajectory.caption(found)) == (n == 90)


def test_names_of_a_training_are_no_mathematics_and_no_control_characters(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text(readings(names=["a.$x$.weight", r"a.$\frac{1$", "a.\x1b[31m"]))
    figure = trajectory.plot(trajectory.read(path))
    with style.style():
        content = style.rendered(figure, "svg")
    text = "".join(ET.fromstring(content).itertext())
    for name in ("$x$", r"$\frac{1$", r"\x1b[31m"):
        assert name in text


def test_steps_that_crowd_at_the_beginning_have_a_logarithmic_scale(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text(readings(steps=(1, 2, 4, 8, 512, 1000)))
    assert trajectory.plot(trajectory.read(path)).axes[0].get_xscale() == "symlog"


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"step,name\n1,a\n", "column norm is missing"),
        (readings().replace("3,5", "3,x", 1).encode(), "line 2: alpha_high is 'x', not a number"),
        (b"\xff\xfe", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_an_invalid_table_of_a_training_is_an_error_of_one_line(content, wrong, tmp_path):
    path = tmp_path / "run.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="spectra") as error:
        trajectory.read(path)
    assert str(error.value) == (
        f"{path}: {wrong}; expected the columns step, name, norm, rank, alpha, alpha_low, "
        "alpha_high of a .spectra.csv"
    )


def test_a_table_without_readings_is_an_error_of_one_line(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text("step,name,norm,rank,alpha,alpha_low,alpha_high\n")
    with pytest.raises(ValueError) as error:
        trajectory.read(path)
    assert str(error.value) == (f"{path}: it has no readings; the network has no matrix to measure")


def test_one_checkpoint_has_its_own_figures_and_reasons_for_the_others():
    every = list(drawings.drawings(weights(1)))
    assert [d.name for d in every if d.figure][:2] == [
        "alpha_by_layer",
        "esd_000_layers.0.attention.to_qkv.weight",
    ]
    reasons = {d.name: d.caption for d in every if d.figure is None}
    assert set(reasons) == {"difference", *WHOLE}
    assert reasons["alpha_and_r2"] == (
        "no test R² in the Dataset: `specdiag spectra` adds that of trained checkpoints"
    )


def test_a_collection_of_one_checkpoint_has_no_figure_that_needs_two():
    one = collected([row("base/net", arm="base", r2=0.9)])
    reasons = {d.name: d.caption for d in drawings.drawings(one) if d.figure is None}
    assert set(reasons) == {*WHOLE, "difference"}
    assert reasons["alpha_and_r2"] == (
        "1 checkpoint has both R² and a mean alpha; at least 2 are needed"
    )


def test_the_command_writes_svg_pdf_and_captions(tmp_path):
    data, table, output = (tmp_path / name for name in ("a.nc", "run.csv", "figures"))
    one = weights(1).isel(layer=[0, 5, 6])
    specdiag.save_spectra(one, data)
    table.write_text(readings())
    done = CliRunner().invoke(cli, ["figures", str(data), str(table), "-o", str(output)])
    assert done.exit_code == 0, done.output
    names = ["alpha_by_layer", "esd_000_layers.0.attention.to_qkv.weight", "trajectory_00"]
    expected = {f"{name}.{kind}" for name in names for kind in ("svg", "pdf")}
    assert {p.name for p in output.iterdir()} == {*expected, "captions.txt"}
    captions = (output / "captions.txt").read_text(encoding="utf-8")
    assert f"alpha_by_layer\nAlpha by depth. {alpha_by_layer.caption(one)}\n" in captions
    assert done.output.splitlines()[-1] == f"wrote 7 files in {output}"
    assert (output / "trajectory_00.pdf").read_bytes().startswith(b"%PDF")


def test_an_unknown_checkpoint_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="no checkpoint") as error:
        next(drawings.drawings(weights(1), spectra_of=["other"]))
    assert str(error.value) == "no checkpoint 'other'; the Dataset has model"


def test_an_unknown_checkpoint_has_no_alpha_by_layer():
    with pytest.raises(ValueError, match="no checkpoint") as error:
        alpha_by_layer.plot(weights(1), "other")
    assert str(error.value) == "no checkpoint 'other' in the dataset: it has model"


def test_an_unknown_checkpoint_leaves_no_figures(tmp_path):
    specdiag.save_spectra(weights(1), tmp_path / "a.nc")
    options = ["--checkpoint", "nope", "-o", str(tmp_path / "figures")]
    done = CliRunner().invoke(cli, ["figures", str(tmp_path / "a.nc"), *options])
    assert done.exit_code == 2
    assert done.output.splitlines()[-1] == (
        "Error: --checkpoint: no checkpoint 'nope'; the Dataset has model"
    )
    assert not (tmp_path / "figures").exists()


def test_checkpoints_with_the_same_spectrum_share_a_figure_of_alpha_by_layer():
    arms = ("base", "pretrained", "pretrained")
    one = collected([row(f"a/{i}", arm=arm, r2=0.5) for i, arm in enumerate(arms)])
    by_layer = [d for d in drawings.drawings(one) if d.name.startswith("alpha_by_layer")]
    assert [d.name for d in by_layer] == ["alpha_by_layer_00_a_0", "alpha_by_layer_01_a_1"]
    assert by_layer[1].caption.endswith("Also of 1 other checkpoint, whose spectrum is the same.")
    assert "Also" not in by_layer[0].caption


@pytest.mark.parametrize("word", [r"$\frac{1$", "<script>", "a$b$c"])
def test_labels_from_data_are_not_read_as_mathematics(word):
    rows = [
        row(f"{word}/{i}_{f:g}", arm=word, level=f"{word}{i}", task=word, r2=r2, fraction=f)
        for i, f, r2 in ((1, 0.1, 0.5), (2, 0.1, 0.6), (1, 1, 0.55), (2, 1, 0.5))
    ]
    one = collected(rows)
    drawn = {d.name for d in drawings.drawings(one) if d.figure and style.rendered(d.figure, "svg")}
    assert drawn > {*WHOLE}


def test_three_seeds_have_an_interval_and_two_have_none():
    for seeds, is_shown, text in (
        ((1, 2), False, "without bars"),
        ((1, 2, 3), True, "bars, of three"),
    ):
        one = collected([row("a/x", arm="base", seed=s, r2=0.5 + s / 10) for s in seeds])
        assert np.isfinite(mean_over_seeds(one.r2.values)[1:3]).all() == is_shown
        assert text in alpha_and_r2.caption(one)


def test_ticks_of_a_narrow_spectrum_do_not_overlap(rng):
    q, _ = np.linalg.qr(rng.standard_normal((90, 60)))
    one = specdiag.alpha({"w": q * np.sqrt(np.linspace(1, 3, 60))}, gof=False)
    with style.style():
        figure = esd.plot(one, "w")
        assert_text_is_readable(figure)
    assert len([t for t in figure.axes[0].get_xticklabels() if t.get_text()]) >= 2


@pytest.mark.parametrize("name", [*WHOLE, "alpha_by_layer", "esd", "trajectory"])
def test_a_figure_is_placed_once_as_matplotlib_places_it(name, dataset, table):
    with style.style():
        first, second = (drawn(name, dataset, table) for _ in range(2))
        first.draw_without_rendering()
    contents = [style.rendered(second, kind) for kind in ("svg", "pdf")]
    for ax, other in zip(first.axes, second.axes, strict=True):
        np.testing.assert_allclose(
            other.get_position().bounds, ax.get_position().bounds, atol=0.005
        )
    assert second.get_layout_engine() is None
    assert contents == [style.rendered(second, kind) for kind in ("svg", "pdf")]


def test_labels_of_decades_are_text(rng):
    decades = 10.0 ** np.arange(-4, 4)
    q, _ = np.linalg.qr(rng.standard_normal((90, 60)))
    one = specdiag.alpha({"w": 10 * q * np.sqrt(np.geomspace(1e-4, 2e3, 60))})
    with style.style():
        (ax,) = esd.plot(one, "w").axes
        ax.figure.draw_without_rendering()
    assert ax.get_xscale() == "log"
    text = dict(zip(ax.get_xticks(), ax.get_xticklabels(), strict=True))
    shown = {value: label.get_text() for value, label in text.items() if value in decades}
    assert shown[0.01] == "10⁻²"
    assert shown[1] == "10⁰"
    assert shown[100] == "10²"
