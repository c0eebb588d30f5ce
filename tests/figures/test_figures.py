"""Figures of this study, drawn of small collections and of the tables in benchmarks/results."""

import re
import shutil
from datetime import date
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import specdiag
from figures import (
    chronic,
    collapse,
    coverage,
    data_efficiency,
    feature_spectra,
    null_p,
    power,
    pretrained_and_scratch,
    ranks,
    transfer,
)
from figures.__main__ import FOLDER, GALLERY, RESULTS, read_rows, with_caption
from specdiag.cli.main import cli
from specdiag.drawing import drawings, style
from support.collections_ import DAYS, collected, row, study, weights
from support.commands import run_forked as run
from support.plots import assert_text_is_readable, points, r2_of

SEEDS = (42, 43, 44)
STUDY = (chronic, data_efficiency, feature_spectra, pretrained_and_scratch)
TABLES = (collapse, coverage, null_p, power, ranks, transfer)
MODULES = [pytest.param(module, id=module.__name__) for module in (*STUDY, *TABLES)]
BROKEN = """
TITLE = "Broken"


def reason_not_drawn(dataset):
    return ""


def caption(dataset):
    return ""


def plot(dataset):
    return 1 / 0
"""


def data_of(module, dataset):
    return read_rows(RESULTS / module.TABLE) if module in TABLES else dataset


@pytest.fixture(scope="module")
def dataset():
    return study(SEEDS)


@pytest.mark.parametrize("module", MODULES)
def test_text_overlaps_no_other_text_and_stays_in_the_figure(module, dataset):
    with style.style():
        assert_text_is_readable(module.plot(data_of(module, dataset)))


@pytest.mark.parametrize("module", MODULES)
def test_axes_are_labelled_and_captions_have_numbers(module, dataset):
    data = data_of(module, dataset)
    axes = module.plot(data).axes
    assert module.TITLE
    assert all(ax.get_xlabel() for ax in axes)
    assert axes[0].get_ylabel() or axes[0].get_title()
    assert re.search(r"\d", module.caption(data))
    assert module.reason_not_drawn(data) == ""


@pytest.mark.parametrize("module", TABLES, ids=lambda m: m.__name__)
def test_a_table_without_rows_is_not_drawn(module):
    assert module.reason_not_drawn([]).startswith(f"benchmarks/results/{module.TABLE} has no row")


@pytest.mark.parametrize("module", TABLES, ids=lambda m: m.__name__)
def test_the_gallery_has_the_picture_and_the_caption_of_the_stored_results(module):
    name = module.__name__.partition(".")[2]
    rows = read_rows(RESULTS / module.TABLE)
    text = GALLERY.read_text(encoding="utf-8")
    assert with_caption(text, name, module.caption(rows)) == text, "run python -m figures"
    with style.style():
        drawn = style.rendered(module.plot(rows), "svg").decode()
    stored = (GALLERY.parent / f"{name}.svg").read_text(encoding="utf-8")
    assert labels(drawn) == labels(stored)


def labels(svg):
    """Return the text of an SVG: coordinates may differ between versions of matplotlib."""
    return [text.strip() for text in ET.fromstring(svg).itertext() if text.strip()]


def test_the_gallery_shows_every_figure_and_every_picture_once():
    shown = re.findall(r"\]\((\w+)\.svg\)", GALLERY.read_text(encoding="utf-8"))
    pictures = {path.stem for path in GALLERY.parent.glob("*.svg")}
    modules = {path.stem for path in GALLERY.parent.glob("[!_]*.py")}
    assert sorted(shown) == sorted(pictures)
    assert modules < pictures


def test_an_svg_holds_its_text_as_text(dataset):
    with style.style():
        content = style.rendered(data_efficiency.plot(dataset), "svg")
    text = "".join(ET.fromstring(content).itertext())
    assert "share of the training data (%)" in text
    assert "<dc:date>" not in content.decode()


@pytest.mark.parametrize("word", [r"$\frac{1$", "<script>", "a$b$c"])
def test_labels_from_data_are_not_read_as_mathematics(word):
    rows = [
        row(f"{word}/{i}_{f:g}", arm=word, level=f"{word}{i}", task=word, r2=r2, fraction=f)
        for i, f, r2 in ((1, 0.1, 0.5), (2, 0.1, 0.6), (1, 1, 0.55), (2, 1, 0.5))
    ]
    for module in (data_efficiency, feature_spectra):
        assert style.rendered(module.plot(collected(rows)), "svg")


def test_one_checkpoint_has_no_figure_that_compares_several():
    one = collected([row("base/net", arm="base", r2=0.9)])
    reasons = {d.name: d.caption for d in drawings.drawings(one, study=FOLDER) if not d.figure}
    names = {module.__name__.partition(".")[2] for module in STUDY}
    assert set(reasons) == {*drawings.WHOLE, *names} - {"feature_spectra"}
    assert reasons["data_efficiency"] == (
        "no study with R² trains an arm on several fractions of its data"
    )


def test_specdiag_draws_the_modules_beside_a_lock_that_is_given_and_no_others(
    tmp_path, monkeypatch, dataset
):
    specdiag.save_spectra(dataset.isel(checkpoint=[0], layer=[0, 4, 5]), tmp_path / "a.nc")
    (tmp_path / "figures").mkdir()
    for name in ("feature_spectra.py", "coverage.py"):
        shutil.copy(FOLDER / name, tmp_path / "figures")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints.lock").write_text("lock-version = 1\n")
    study = ["--study", "checkpoints.lock"]
    for i, (more, names) in enumerate(
        [([], set()), (study, {"feature_spectra.svg", "feature_spectra.pdf"})]
    ):
        done = CliRunner().invoke(cli, ["figures", "a.nc", *more, "-o", f"out_{i}"])
        assert done.exit_code == 0, done.output
        written = {path.name for path in (tmp_path / f"out_{i}").iterdir()}
        assert {n for n in written if n.startswith(("feature", "coverage"))} == names
    done = CliRunner().invoke(cli, ["report", "a.nc", *study, "-o", "a.html"])
    assert done.exit_code == 0, done.output
    assert feature_spectra.TITLE in (tmp_path / "a.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import nothing_of_that_name",
            "figures/broken.py:1: ModuleNotFoundError: No module named",
        ),
        ('TITLE = "Broken"', "figures/broken.py: no plot; add it, or begin the file's name with"),
        (BROKEN, "figures/broken.py:14: ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_module_is_an_error_of_one_line(source, message, tmp_path, monkeypatch):
    specdiag.save_spectra(weights(1).isel(layer=[0, 4]), tmp_path / "a.nc")
    (tmp_path / "checkpoints.lock").write_text("lock-version = 1\n")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "broken.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    status, out, err = run(tmp_path, "figures", "a.nc", "--study", "checkpoints.lock", "-o", "out")
    assert status == 1
    assert out == ""
    assert err.splitlines()[-1].startswith(f"specdiag: {message}")
    assert "Traceback" not in err


@pytest.mark.parametrize("result", ["5", "None"])
def test_a_result_of_plot_that_is_not_a_figure_is_refused(result, tmp_path, monkeypatch):
    specdiag.save_spectra(weights(1).isel(layer=[0, 4]), tmp_path / "a.nc")
    (tmp_path / "checkpoints.lock").write_text("lock-version = 1\n")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "broken.py").write_text(BROKEN.replace("1 / 0", result))
    monkeypatch.chdir(tmp_path)
    status, _, err = run(tmp_path, "figures", "a.nc", "--study", "checkpoints.lock", "-o", "out")
    assert (status, err.splitlines()[-1]) == (
        1,
        f"specdiag: figures/broken.py: plot() returned {result}; expected a matplotlib Figure",
    )
    assert "\n\nalpha_by_layer\n" in (tmp_path / "out" / "captions.txt").read_text()


def test_data_efficiency_shows_mean_and_interval_by_arm(dataset):
    (ax,) = data_efficiency.plot(dataset).axes
    drawn = points(ax, "scratch")
    np.testing.assert_allclose(drawn[:, 0], [10, 25, 50, 100], rtol=0.05)
    expected = [r2_of(dataset, f"data_efficiency/scratch_{f}").mean() for f in (10, 25, 50, 100)]
    np.testing.assert_allclose(drawn[:, 1], expected)
    bars = [segment[:, 1] for c in ax.collections for segment in c.get_segments()]
    values = r2_of(dataset, "data_efficiency/scratch_10")
    bar = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert any(np.allclose(drawn_bar, bar, rtol=1e-4) for drawn_bar in bars)
    assert "data_efficiency (desk): pretrained n = 12, scratch n = 12." in data_efficiency.caption(
        dataset
    )


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
        f"3 seeds, R² {min(expected):.3f} to {max(expected):.3f}, mean of the least-squares slopes "
        f"of 3 seeds {np.mean(slopes):+.3f} a year (95 % {low:+.3f} to {high:+.3f})."
    ) in chronic.caption(dataset)


def test_a_slope_without_an_interval_is_not_in_the_caption(dataset):
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
    pairs = {(names[i], names[j]) for i, j in pretrained_and_scratch.pairs(dataset)}
    assert (
        "transfer/area2_bump_pretrained (seed 43)",
        "transfer/area2_bump_scratch (seed 43)",
    ) in pairs
    assert len(pairs) == len(SEEDS) * (2 * 2 + 4)


def test_pretrained_against_scratch_has_a_point_a_layer_and_a_panel_a_control(dataset):
    axes = pretrained_and_scratch.plot(dataset).axes
    assert [ax.get_xlabel() for ax in axes] == [
        "α from scratch (posterior mean)",
        "α from tuned scratch (posterior mean)",
    ]
    text = pretrained_and_scratch.caption(dataset)
    alpha = dataset.alpha.values
    for arm, name, n, ax in zip(
        ("scratch", "scratch_tuned"), ("scratch", "tuned scratch"), (18, 6), axes, strict=True
    ):
        mine = [
            (i, j) for i, j in pretrained_and_scratch.pairs(dataset) if dataset.arm.values[j] == arm
        ]
        expected = np.concatenate([np.stack([alpha[j, :5], alpha[i, :5]], axis=1) for i, j in mine])
        np.testing.assert_array_equal(points(ax, "_pair"), expected)
        x, y = expected.T
        assert (
            f"Against {name}: {n} pairs of one pretrained spectrum, {5 * n} layers fit in both "
            f"({n} others are degenerate or failed in one of the two), α lower pretrained in "
            f"{np.sum(y < x)}, mean difference {np.mean(y - x):+.2f}."
        ) in text


def test_the_caption_names_an_arm_of_one_share(dataset):
    more = [row("data_efficiency/plastic_50", arm="plastic", r2=0.7, fraction=0.5)]
    more += [
        row(f"data_efficiency/scratch_{f}", arm="scratch", r2=0.7, fraction=f) for f in (0.1, 1)
    ]
    assert data_efficiency.caption(collected(more)).endswith(
        "Of one share only, and not drawn: plastic of data_efficiency (desk) (50 %)."
    )
    assert "not drawn" not in data_efficiency.caption(dataset)
