import json
import math
import re
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import specdiag
from benchmarks.claims import RESULTS, read_values
from specdiag.cli.main import cli
from specdiag.dataset.spectrum import WITHOUT_VERDICTS
from specdiag.dataset.versions import upgraded
from specdiag.drawing import alpha_by_layer, trajectory
from specdiag.htsr.null.verdicts import HEAVIER
from specdiag.show import claims
from specdiag.show.layers import REPEATS
from specdiag.show.report import Section, report
from specdiag.transfer.verification import findings_of_lock
from specdiag.wording import short
from support.browser import Browser
from support.collections_ import HOSTILE, as_version_1, hostile, readings, study, weights
from support.paths import ROOT
from support.weights import heavy

CLAIMS = Section("Claims", ["Two <b>claims</b>."], ["claim", "ours"], [["R² 0.8", "0.79"]])


@pytest.fixture(scope="module")
def page():
    return report(study(seeds=(42,)), sections=[CLAIMS])


@pytest.fixture(scope="module")
def hostile_page():
    return report(hostile())


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


class Parsed(HTMLParser):
    """The tags of a page with their attributes, its text by tag, and the tags left open."""

    VOID = ("meta", "br", "link", "img", "wbr")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "wbr" and self.text:
            data = self.text.pop()[1] + data
        self.text.append((self.open[-1] if self.open else "", data))

    def of(self, *names):
        return [attrs for tag, attrs in self.tags if tag in names]


@pytest.mark.parametrize("which", ["page", "hostile_page"])
def test_the_page_is_well_formed_and_accessible(which, request):
    parsed = Parsed(request.getfixturevalue(which))
    assert parsed.open == []
    assert parsed.of("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in parsed.tags:
        for key in ("aria-labelledby", "aria-describedby"):
            assert attrs.get(key) in (None, *ids)
        assert not attrs.get("href", "#").removeprefix("#") or attrs["href"][1:] in ids
    figures = parsed.of("svg")
    assert figures
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 40 for svg in figures)
    assert all(region["tabindex"] == "0" for region in parsed.of("div") if "role" in region)


@pytest.mark.parametrize("which", ["page", "hostile_page"])
def test_the_page_loads_nothing_from_elsewhere(which, request):
    text = request.getfixturevalue(which)
    parsed = Parsed(text)
    assert not parsed.of("link", "img", "iframe", "object", "base", "form")
    assert len(parsed.of("script")) == 1
    assert not [a for _, a in parsed.tags if "src" in a or any(k.startswith("on") for k in a)]
    assert "http" not in "".join(
        v or "" for tag, a in parsed.tags if tag != "meta" for v in a.values()
    )
    assert parsed.of("meta")[1]["content"].startswith("default-src 'none'; ")


def test_the_page_is_the_same_every_time():
    dataset = weights(1)
    assert report(dataset) == report(dataset)


def test_the_summary_counts_matrices_by_status(page):
    text = [data for tag, data in Parsed(page).text if tag == "p"]
    assert (
        "Weights of 18 checkpoints; 126 matrices: 90 measured, 18 degenerate, 18 skipped." in text
    )
    assert "5 more without spectra: evaluations of these weights, or missing checkpoints." in text


def test_a_matrix_that_checkpoints_share_counts_once(page):
    dataset = study(seeds=(42,))
    own = dataset.isel(checkpoint=dataset.arm.values != "evaluation")
    n = len(set(own.spectral_norm.values[np.isfinite(own.null_q.values)].astype(np.float32)))
    assert n < 90
    assert (
        f" of the {n} distinct of 90 layers are heavier than random entries of any row and column"
        in page
    )
    assert "distinct" not in "".join(
        data for tag, data in Parsed(report(weights(1))).text if tag == "p"
    )


def test_a_file_of_the_first_version_gets_no_claim_that_was_not_tested():
    dataset = upgraded(as_version_1(weights(1)))
    page = report(dataset)
    text = [data for tag, data in Parsed(page).text if tag == "p"]
    n = int((dataset.gaussian_q <= 0.05).sum())
    assert n == 4
    assert (
        f"{n} of 5 layers are heavier than random entries of one scale (q ≤ 0.05). Row and column "
        "scales were not tested in these."
    ) in text
    assert f"1 checkpoint {WITHOUT_VERDICTS}." in text
    assert HEAVIER not in page
    assert HEAVIER not in alpha_by_layer.caption(dataset)


def test_the_page_says_what_an_interval_does_not_repeat_over(page):
    assert f"{REPEATS.capitalize()}." in [d for tag, d in Parsed(page).text if tag == "p"]


def test_a_checkpoint_without_weights_has_no_counts(page):
    (row,) = re.findall(
        r"<tr>[^\n]*cross_<wbr>species/<wbr>rat_<wbr>scratch</bdi></th>(.*)</tr>", page
    )
    assert re.findall("<bdi>(.*?)</bdi>", row) == ["-"] * 8 + [""] + ["-", "-", "missing"]


def test_a_lower_bound_of_a_condition_number_is_not_rounded_up(page):
    dataset = study(seeds=(42,))
    bounds = dataset.condition_number.values[dataset.condition_number_is_bound.values.astype(bool)]
    shown = [float(number) for number in re.findall("<bdi>≥ (.*?)</bdi>", page)]
    assert len(shown) == len(bounds) > 0
    for number, bound in zip(shown, bounds, strict=True):
        assert 0.9 * bound < number <= bound


def test_a_condition_number_with_a_wide_interval_is_shown_as_the_interval():
    dataset = study(seeds=(42,))
    place = int(np.flatnonzero(dataset.condition_number_is_bound.values == 0)[0])
    dataset.condition_number_ci.values[place] = 2.0, 21.0
    assert "<bdi>2.0e+00 to 2.1e+01</bdi>" in report(dataset)


def test_without_an_upper_end_the_lower_end_of_a_condition_number_is_a_bound():
    dataset = study(seeds=(42,))
    place = int(np.flatnonzero(dataset.condition_number_is_bound.values == 0)[0])
    dataset.condition_number.values[place] = math.nan
    dataset.condition_number_ci.values[place] = 3.19, math.nan
    assert "<bdi>≥ 3.1e+00</bdi>" in report(dataset)


def test_names_break_between_their_words_only(page):
    assert "<bdi>layers.0.attention.to_<wbr>qkv.weight</bdi>" in page


def test_a_section_is_shown_as_text(page):
    assert "Two &lt;b&gt;claims&lt;/b&gt;." in page
    assert '<h2 id="section-1">Claims</h2>' in page


def test_figures_without_data_are_listed_with_the_reason(page):
    assert (
        "<li>Alpha of two checkpoints: no comparison in the Dataset: "
        "`specdiag compare -o` writes one</li>" in page
    )


def test_hostile_names_are_text(hostile_page):
    cells = [data for tag, data in Parsed(hostile_page).text if tag == "bdi"]
    for name in HOSTILE:
        assert short(name, 200) in cells
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", hostile_page
    )
    assert max(len(data) for tag, data in Parsed(hostile_page).text if tag == "text") < 80


def test_the_provenance_has_locks_versions_and_settings(page):
    cells = [data for _, data in Parsed(page).text]
    assert "1" * 64 in cells
    assert "locks / 1 / sha256" in cells
    assert "measured_with / 1 / settings / min_eigenvalues" in cells


def test_a_provenance_that_is_not_json_is_shown_as_text():
    dataset = weights(1).assign_attrs(provenance="{<b>")
    assert "<dd><bdi>{&lt;b&gt;</bdi></dd>" in report(dataset)


def test_a_comparison_begins_with_its_conclusion(rng):
    first, second = (
        {"a.weight": rng.standard_t(3, (80, 60)), "b.weight": rng.normal(size=(70, 60))}
        for _ in "12"
    )
    dataset = specdiag.compare(first, second)
    text = report(dataset)
    assert "<h1>Comparison with model#1</h1>" in text
    assert dataset.conclusion.item() in [d.partition(": ")[2] for _, d in Parsed(text).text]


def test_a_comparison_of_groups_names_them_and_their_conclusion(rng):
    seeds = [[{"a.weight": heavy(rng, (80, 60), alpha)} for _ in "12"] for alpha in (1.6, 2.4)]
    dataset = specdiag.compare(*seeds)
    text = report(dataset)
    assert "<h1>Comparison with model#1, model#2 (2 networks)</h1>" in text
    assert dataset.conclusion.item() in [d.partition(": ")[2] for _, d in Parsed(text).text]


def test_the_page_renders_and_sorts_in_a_browser_and_asks_for_nothing(page, browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    browser.open(path)
    table = "[...document.querySelectorAll('table.sortable')].at(-1)"
    column = f"[...{table}.tHead.rows[0].cells].findIndex(c => c.textContent == 'mean')"
    cells = f"JSON.stringify([...{table}.tBodies[0].rows].map(r => r.cells[{column}].textContent))"
    head = f"{table}.tHead.rows[0].cells[{column}]"

    def shown():
        return json.loads(browser.value(cells))

    before = shown()
    browser.value(f"{head}.querySelector('button').focus()")
    browser.press("Enter", 13)
    up = shown()
    assert browser.value(f"{head}.getAttribute('aria-sort')") == "ascending"
    browser.value(f"{head}.querySelector('button').click()")
    down = shown()
    assert browser.value(f"{head}.getAttribute('aria-sort')") == "descending"
    known = sorted(float(cell) for cell in before if cell != "-")
    dashes = ["-"] * before.count("-")
    assert before != up
    assert [float(c) for c in up[: len(known)]] == known
    assert [float(c) for c in down[: len(known)]] == known[::-1]
    assert up[len(known) :] == down[len(known) :] == dashes
    assert browser.told("Runtime.exceptionThrown") == []
    assert browser.told("Log.entryAdded") == []
    urls = {event["request"]["url"] for event in browser.told("Network.requestWillBeSent")}
    assert urls == {path.as_uri()}


def test_hostile_names_run_no_code_and_fit_the_width_of_a_phone(hostile_page, browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(hostile_page, encoding="utf-8")
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=360,
        height=800,
        deviceScaleFactor=2,
        mobile=True,
    )
    browser.open(path)
    assert browser.value("document.documentElement.scrollWidth") == 360
    assert browser.value("document.scripts.length") == 1
    assert browser.value("document.querySelector('svg text, svg tspan') !== null")
    assert browser.told("Page.javascriptDialogOpening") == []
    assert browser.told("Log.entryAdded") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_schemes(scheme, hostile_page, browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(hostile_page, encoding="utf-8")
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.call("Emulation.setEmulatedMedia", features=[feature])
    browser.open(path)
    paper = luminance(browser.value("getComputedStyle(document.body).backgroundColor"))
    for selector in ("body", "figcaption", "a", "thead th", "svg text", ".muted"):
        color = "fill" if "svg" in selector else "color"
        ink = browser.value(f"getComputedStyle(document.querySelector('{selector}')).{color}")
        low, high = sorted((luminance(ink), paper))
        assert (high + 0.05) / (low + 0.05) >= 4.5, selector
    assert (paper < 0.1) == (scheme == "dark")


def luminance(color):
    """Return the relative luminance of a colour, as WCAG 2 defines it."""
    value = np.array([float(x) for x in re.findall(r"[\d.]+", color)[:3]]) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_the_command_writes_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no lock there, so no figures of a study
    data, table, output = (tmp_path / name for name in ("a.nc", "run.csv", "report.html"))
    specdiag.save_spectra(weights(1), data)
    table.write_text(readings())
    done = CliRunner().invoke(cli, ["report", str(data), str(table), "-o", str(output)])
    assert (done.exit_code, done.output) == (0, f"wrote {output}\n")
    tables = {"run.csv": trajectory.read(table)}
    assert output.read_text(encoding="utf-8") == report(specdiag.open_spectra(data), tables=tables)


def test_the_claims_that_verify_printed_are_a_part_of_the_page(tmp_path):
    data, output, file = (tmp_path / name for name in ("a.nc", "report.html", "claims.json"))
    specdiag.save_spectra(weights(1), data)
    findings = findings_of_lock(ROOT / "checkpoints.lock", read_values(RESULTS))
    file.write_text(claims.as_json(findings, "desk"))
    options = ["--claims", file, "-o", output]
    done = CliRunner().invoke(cli, ["report", *map(str, [data, *options])])
    assert done.exit_code == 0, done.output
    page = unescape(output.read_text(encoding="utf-8")).replace("<wbr>", "")
    assert len(findings) == 34
    for finding in findings:
        assert finding.claim.text in page
        assert f">{finding.outcome}<" in page


@pytest.mark.parametrize("text", ["", "[]", '{"count": 1, "claims": []}', '{"claims": [{}]}', "\0"])
def test_a_file_that_verify_did_not_print_is_refused(tmp_path, text):
    file = tmp_path / "claims.json"
    file.write_text(text)
    message = f"{file}: not what `specdiag verify --json` prints; run it again"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        claims.read_rows(file)


def test_wrong_usage_of_report_is_one_line(tmp_path):
    data = tmp_path / "a.nc"
    data.write_bytes(b"")
    for output, message in (
        (data, f"-o {data}: it is one of the files to read"),
        (tmp_path / "no" / "r.html", f"-o {tmp_path}/no/r.html: there is no folder {tmp_path}/no"),
    ):
        done = CliRunner().invoke(cli, ["report", str(data), "-o", str(output)])
        assert done.exit_code == 2
        assert done.output.splitlines()[-1] == f"Error: {message}"


def test_the_package_ships_its_templates():
    folder = Path(specdiag.__file__).parent / "show"
    assert {p.name for p in folder.glob("report.*")} - {"report.py"} == {
        "report.css",
        "report.html",
        "report.js",
    }
