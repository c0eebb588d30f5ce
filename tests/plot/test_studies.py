import re
from datetime import date
from itertools import combinations
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import specdiag
from specdiag.cli.main import cli
from specdiag.htsr import null
from specdiag.htsr.statistics import mean_interval
from specdiag.plot import (
    alpha_and_r2,
    alpha_by_layer,
    chronic,
    condition_and_r2,
    data_efficiency,
    esd,
    feature_spectra,
    pretrained_and_scratch,
    style,
    trajectory,
)
from specdiag.plot import drawings as figures
from specdiag.plot.seeds import mean_over_seeds
from support.collections_ import DAYS, collected, hostile, readings, row, study, weights

SEEDS = (42, 43, 44)
WHOLE = {
    "pretrained_and_scratch": pretrained_and_scratch,
    "alpha_and_r2": alpha_and_r2,
    "data_efficiency": data_efficiency,
    "condition_and_r2": condition_and_r2,
    "feature_spectra": feature_spectra,
    "chronic": chronic,
}


@pytest.fixture(scope="module")
def dataset():
    return study(SEEDS)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "run.csv"
    path.write_text(readings())
    return trajectory.read(path)


def points(ax, label):
    """Return the points of the lines with a label, in the order of drawing."""
    lines = [line for line in ax.get_lines() if line.get_label() == label]
    return np.concatenate([line.get_xydata() for line in lines])


def r2_of(dataset, entry):
    return dataset.r2.values[dataset.entry.values == entry]


def texts(figure):
    """Return the boxes of all text that shows, in pixels, by text."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    beyond = []  # the ends of its axis: such a tick is there, and is not drawn
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        beyond += [
            t for tick in ticks if not low <= tick.get_loc() <= high for t in tick.get_children()
        ]
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return [(t.get_text(), t.get_window_extent()) for t in shown if t not in beyond]


@pytest.mark.parametrize("name", [*WHOLE, "alpha_by_layer", "esd", "trajectory"])
def test_text_overlaps_no_other_text_and_stays_in_the_figure(name, dataset, table):
    with style.style():
        if name in WHOLE:
            figure = WHOLE[name].plot(dataset)
        elif name == "trajectory":
            figure = trajectory.plot(table)
        else:
            one = hostile()
            long = str(one.layer.values[5])
            figure = esd.plot(one, long) if name == "esd" else alpha_by_layer.plot(one)
        for text, box in (found := texts(figure)):
            for low, high, end in (
                (box.x0, box.x1, figure.bbox.x1),
                (box.y0, box.y1, figure.bbox.y1),
            ):
                assert low >= -1, text
                assert high <= end + 1, text
    for (a, first), (b, second) in combinations(found, 2):
        assert not first.padded(-1).overlaps(second.padded(-1)), (a, b)


@pytest.mark.parametrize("name", WHOLE)
def test_axes_are_labelled_and_captions_count(name, dataset):
    for ax in WHOLE[name].plot(dataset).axes:
        assert ax.get_xlabel()
    assert WHOLE[name].plot(dataset).axes[0].get_ylabel()
    assert re.search(r"\d", WHOLE[name].caption(dataset))


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_files_are_the_same_every_time_whatever_the_settings_of_the_user(kind, dataset):
    import matplotlib as mpl

    with style.style():
        first = style.rendered(chronic.plot(dataset), kind)
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.facecolor": "red"}):
        before = dict(mpl.rcParams)
        with style.style():
            second = style.rendered(chronic.plot(dataset), kind)
        assert dict(mpl.rcParams) == before
    assert first == second


def test_an_svg_holds_its_text_as_text(dataset):
    with style.style():
        content = style.rendered(data_efficiency.plot(dataset), "svg")
    found = "".join(ET.fromstring(content).itertext())
    assert "share of the training data (%)" in found
    assert "<dc:date>" not in content.decode()


def test_alpha_and_r2_shows_means_over_layers_and_seeds(dataset):
    (ax,) = alpha_and_r2.plot(dataset).axes
    drawn = points(ax, "_entry")
    entry = "transfer/area2_bump_scratch"
    mine = dataset.sel(checkpoint=dataset.entry == entry)
    alpha = mine.alpha_mean.where(mine.status == "fit").mean("layer").mean()
    at = np.argmin(np.abs(drawn - (float(alpha), r2_of(dataset, entry).mean())).sum(axis=1))
    np.testing.assert_allclose(drawn[at], (float(alpha), r2_of(dataset, entry).mean()))
    assert len(drawn) == len(
        {e for e in dataset.entry.values if not e.startswith(("chronic", "cross"))}
    )
    assert alpha_and_r2.caption(dataset).startswith(
        f"Mean α and test R² of {3 * len(drawn)} checkpoints ({len(drawn)} of the lock's entries; "
    )


def test_the_interval_over_seeds_is_students(rng):
    values = rng.normal(size=5)
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    found = mean_over_seeds(np.append(values, np.nan))
    np.testing.assert_allclose(found, (values.mean(), low, high, 5), rtol=1e-5)
    assert np.isnan(mean_interval(values[:1])).all()


def test_data_efficiency_shows_mean_and_interval_by_arm(dataset):
    (ax,) = data_efficiency.plot(dataset).axes
    drawn = points(ax, "scratch")
    np.testing.assert_allclose(drawn[:, 0], [10, 25, 50, 100], rtol=0.05)
    expected = [r2_of(dataset, f"data_efficiency/scratch_{f}").mean() for f in (10, 25, 50, 100)]
    np.testing.assert_allclose(drawn[:, 1], expected)
    bars = [segment[:, 1] for c in ax.collections for segment in c.get_segments()]
    values = r2_of(dataset, "data_efficiency/scratch_10")
    bar = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert any(np.allclose(found, bar, rtol=1e-4) for found in bars)
    assert "data_efficiency (desk): pretrained n = 12, scratch n = 12." in data_efficiency.caption(
        dataset
    )


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


def test_spectra_of_features_end_at_the_noise_floor_of_their_level(dataset):
    (ax,) = feature_spectra.plot(dataset).axes
    dashed = {line.get_ydata()[0] for line in ax.get_lines() if len(set(line.get_ydata())) == 1}
    assert dashed == {1e-7, 1e-5, 1e-3}
    curves = [line for line in ax.get_lines() if len(line.get_xdata()) == 32]
    assert len(curves) == 3 * len(SEEDS)
    shown = dataset.feature_eigenvalue.values[dataset.entry.values == "augmentation/off"]
    assert any(np.array_equal(curve.get_ydata(), shown[0]) for curve in curves)
    legend = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert legend == ["off", "standard", "aggressive", "noise floor"]
    smallest = dataset.feature_eigenvalue.values[dataset.unit_dropout.values == "off"].min()
    assert 0.1 * smallest < ax.get_ylim()[0] < smallest  # whose floor, 1e-7, lies far below


def test_stability_shows_the_sessions_by_their_date(dataset):
    from matplotlib.dates import date2num

    (ax,) = chronic.plot(dataset).axes
    drawn = points(ax, "base/net (desk)")
    days = [date(int(d[:4]), int(d[4:6]), int(d[6:])) for d in DAYS]
    np.testing.assert_array_equal(drawn[:, 0], date2num(days))
    expected = [r2_of(dataset, f"chronic/c_{day}_center_out").mean() for day in DAYS]
    np.testing.assert_allclose(drawn[:, 1], expected)
    years = np.array([day.toordinal() for day in days]) / 365.25
    slopes = []
    for seed in SEEDS:
        own = dataset.isel(checkpoint=dataset.seed.values == seed)
        values = [r2_of(own, f"chronic/c_{day}_center_out").item() for day in DAYS]
        slopes.append(stats.linregress(years, values).slope)
    low, high = stats.ttest_1samp(slopes, 0).confidence_interval()
    assert (
        f"3 seeds, R² {min(expected):.3f} to {max(expected):.3f}, mean of the least-squares slopes of 3 seeds "
        f"{np.mean(slopes):+.3f} a year (95 % {low:+.3f} to {high:+.3f})."
    ) in chronic.caption(dataset)


def test_a_slope_without_an_interval_is_not_told(dataset):
    two = dataset.isel(checkpoint=dataset.seed.values != 44)
    assert "2 seeds, R² " in chronic.caption(two)
    assert "slope" not in chronic.caption(two)


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("c_20131003_center_out", date(2013, 10, 3)),
        ("c_20131399_x_20140101", date(2014, 1, 1)),
        ("of_24365_2", None),
        ("1201310031", None),
    ],
)
def test_the_date_is_read_from_the_name_of_a_session(name, day):
    assert chronic.day_of(name) == day


def test_pairs_differ_in_their_arm_alone(dataset):
    names = dataset.checkpoint.values
    found = {(names[i], names[j]) for i, j in pretrained_and_scratch.pairs(dataset)}
    assert (
        "transfer/area2_bump_pretrained (seed 43)",
        "transfer/area2_bump_scratch (seed 43)",
    ) in found
    assert len(found) == len(SEEDS) * (2 * 2 + 4)


def test_pretrained_against_scratch_has_a_point_a_layer_and_a_panel_a_control(dataset):
    axes = pretrained_and_scratch.plot(dataset).axes
    assert [ax.get_xlabel() for ax in axes] == [
        "α from scratch (posterior mean)",
        "α from tuned scratch (posterior mean)",
    ]
    told = pretrained_and_scratch.caption(dataset)
    alpha = dataset.alpha_mean.values
    for arm, name, n, ax in zip(
        ("scratch", "scratch_tuned"), ("scratch", "tuned scratch"), (18, 6), axes, strict=True
    ):
        found = [
            (i, j) for i, j in pretrained_and_scratch.pairs(dataset) if dataset.arm.values[j] == arm
        ]
        expected = np.concatenate(
            [np.stack([alpha[j, :4], alpha[i, :4]], axis=1) for i, j in found]
        )
        np.testing.assert_array_equal(points(ax, "_pair"), expected)
        x, y = expected.T
        assert (
            f"Against {name}: {n} pairs of one pretrained spectrum, {4 * n} layers fit in both ({n} others are "
            f"degenerate or failed in one of the two), α lower pretrained in {np.sum(y < x)}, mean difference "
            f"{np.mean(y - x):+.2f}."
        ) in told


def test_the_null_band_is_that_of_random_matrices_of_the_shape():
    one = weights(1)
    (ax,) = alpha_by_layer.plot(one).axes
    (bars,) = ax.containers
    draws = null.gaussian_draws((96, 64))
    low, high = np.quantile(draws, (0.05, 0.95))
    assert (bars[0].get_y(), bars[0].get_height()) == pytest.approx((low, high - low))
    assert "walked 6 matrices = 4 fit + 1 degenerate + 1 skipped." in alpha_by_layer.caption(one)


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


def test_a_training_is_read_and_drawn_by_matrix(table):
    top, middle, bottom, _ = trajectory.plot(table).axes
    lines = [line for line in top.get_lines() if len(line.get_xdata()) == 4]
    np.testing.assert_allclose(lines[0].get_xydata(), [[1, 4], [100, 3.8], [200, 3.6], [300, 3.4]])
    assert points(top, "_lost").tolist() == [[100, 4.2]]
    assert middle.get_yscale() == "log"
    np.testing.assert_allclose(bottom.get_lines()[-1].get_ydata(), [1, 1, 2 / 64, 2 / 64])
    assert trajectory.caption(table) == (
        "Posterior mean of α with its 95 % interval, Frobenius norm and rank of 5 matrices at 4 steps from 1 "
        "to 300; norm and rank are relative to the first reading. 1 lost their α on the way (red): their rank "
        "fell below the gate."
    )


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"step,name\n1,a\n", "no column norm"),
        (b"step,name,norm,rank,alpha,alpha_low,alpha_high\n", "no readings in it"),
        (readings().replace("3,5", "3,x", 1).encode(), "line 2: alpha_high is 'x', no number"),
        (b"\xff\xfe", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_what_is_no_table_of_a_training_is_one_line(content, wrong, tmp_path):
    path = tmp_path / "run.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="spectra") as error:
        trajectory.read(path)
    assert str(error.value) == (
        f"{path}: {wrong}; expected the columns name, step, norm, rank, alpha, alpha_low, alpha_high of a "
        ".spectra.csv"
    )


def test_one_checkpoint_has_its_own_figures_and_says_why_others_lack():
    found = list(figures.drawings(weights(1)))
    assert [d.name for d in found if d.figure][:2] == [
        "alpha_by_layer",
        "esd_000_layers.0.attention.to_qkv.weight",
    ]
    lacking = {d.name: d.caption for d in found if d.figure is None}
    assert set(lacking) == {"difference", *WHOLE}
    assert lacking["chronic"] == (
        "no test R² in the Dataset: `specdiag spectra` puts that of trained checkpoints there"
    )


def test_a_collection_of_one_checkpoint_has_what_makes_sense_for_it():
    one = collected([row("base/net", arm="base", r2=0.9)])
    found = {d.name: d.caption for d in figures.drawings(one) if d.figure is None}
    assert set(found) == {*WHOLE, "difference"} - {"feature_spectra"}
    assert found["alpha_and_r2"] == "1 checkpoint with R² and a layer that was fit: two are needed"
    assert found["data_efficiency"] == (
        "no study with R² trains an arm on several fractions of its data"
    )


def test_the_command_writes_vectors_and_captions(tmp_path):
    data, table, output = (tmp_path / name for name in ("a.nc", "run.csv", "figures"))
    one = weights(1).isel(layer=[0, 4, 5])
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


def test_an_unknown_checkpoint_is_an_error_that_names_those_there_are():
    with pytest.raises(ValueError, match="no checkpoint") as error:
        next(figures.drawings(weights(1), spectra_of=["other"]))
    assert str(error.value) == "no checkpoint 'other'; there are model"


def test_an_unknown_checkpoint_leaves_no_figures(tmp_path):
    specdiag.save_spectra(weights(1), tmp_path / "a.nc")
    options = ["--checkpoint", "nope", "-o", str(tmp_path / "figures")]
    done = CliRunner().invoke(cli, ["figures", str(tmp_path / "a.nc"), *options])
    assert done.exit_code == 2
    assert done.output.splitlines()[-1] == (
        "Error: --checkpoint: no checkpoint 'nope'; there are model"
    )
    assert not (tmp_path / "figures").exists()


def test_alpha_by_layer_is_drawn_once_a_spectrum():
    arms = ("base", "pretrained", "pretrained")
    one = collected([row(f"a/{i}", arm=arm, r2=0.5) for i, arm in enumerate(arms)])
    found = [d for d in figures.drawings(one) if d.name.startswith("alpha_by_layer")]
    assert [d.name for d in found] == ["alpha_by_layer_00_a_0", "alpha_by_layer_01_a_1"]
    assert found[1].caption.endswith("Also of 1 other checkpoint, whose spectrum is the same.")
    assert "Also" not in found[0].caption


@pytest.mark.parametrize("word", [r"$\frac{1$", "<script>", "a$b$c"])
def test_labels_from_data_are_no_mathematics(word):
    rows = [
        row(f"{word}/{i}_{f:g}", arm=word, level=f"{word}{i}", task=word, r2=r2, fraction=f)
        for i, f, r2 in ((1, 0.1, 0.5), (2, 0.1, 0.6), (1, 1, 0.55), (2, 1, 0.5))
    ]
    one = collected(rows)
    drawn = {d.name for d in figures.drawings(one) if d.figure and style.rendered(d.figure, "svg")}
    assert {"alpha_and_r2", "condition_and_r2", "data_efficiency", "feature_spectra"} < drawn


def test_two_seeds_have_no_interval_and_three_have():
    for seeds, is_shown, text in (
        ((1, 2), False, "without bars"),
        ((1, 2, 3), True, "bars, of three"),
    ):
        one = collected([row("a/x", arm="base", seed=s, r2=0.5 + s / 10) for s in seeds])
        assert np.isfinite(mean_over_seeds(one.r2.values)[1:3]).all() == is_shown
        assert text in alpha_and_r2.caption(one)


def test_an_arm_of_one_share_is_named(dataset):
    more = [row("data_efficiency/plastic_50", arm="plastic", r2=0.7, fraction=0.5)]
    more += [
        row(f"data_efficiency/scratch_{f}", arm="scratch", r2=0.7, fraction=f) for f in (0.1, 1)
    ]
    assert data_efficiency.caption(collected(more)).endswith(
        "Of one share only, and not drawn: plastic of data_efficiency (desk) (50 %)."
    )
    assert "not drawn" not in data_efficiency.caption(dataset)


def test_ticks_of_a_narrow_spectrum_do_not_overlap(rng):
    q, _ = np.linalg.qr(rng.standard_normal((90, 60)))
    one = specdiag.alpha({"w": q * np.sqrt(np.linspace(1, 3, 60))}, gof=False)
    with style.style():
        figure = esd.plot(one, "w")
        found = texts(figure)
    for (a, first), (b, second) in combinations(found, 2):
        assert not first.padded(-1).overlaps(second.padded(-1)), (a, b)
    assert len([t for t in figure.axes[0].get_xticklabels() if t.get_text()]) >= 2
