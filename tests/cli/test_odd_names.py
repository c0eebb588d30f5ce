"""Names that a terminal, a spreadsheet or a browser would run, through all that is written."""

import csv
import io
import json
import logging
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import specdiag
from specdiag.cli.main import cli
from specdiag.dataset.escaped import distinct
from specdiag.training.monitor import SpectralMonitor
from specdiag.training.readings import read_readings
from specdiag.wording import is_text
from support.commands import run_forked

DRAWN = ["a\0b", "a\\x00b", "<script>alert(1)</script>", "$\\frac{\x1b[31m\u202e"]
LISTED = ["=HYPERLINK(1)", "+1", "-1", "@a", "\t=1", "a;=1", "]]>--><b>", "x" * 900, "a\nb"]


@pytest.fixture
def file(rng, tmp_path):
    path = tmp_path / "=odd\x1b.safetensors"
    weights = {name: rng.standard_normal((60, 50)).astype(np.float32) for name in DRAWN}
    save_file(weights | {name: np.ones((3, 3), np.float32) for name in LISTED}, path)
    return path


def run(*arguments):
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result


def is_printable(text):
    return all(line.isprintable() for line in text.split("\n"))


def test_csv_has_no_escape_sequence_and_no_formula(file):
    text = run("alpha", file, "--csv").stdout
    assert is_printable(text)
    rows = list(csv.DictReader(io.StringIO(text)))
    names = {row["layer"] for row in rows}
    assert {row["checkpoint"] for row in rows} == {"'=odd\\x1b"}
    assert {"'=HYPERLINK(1)", "'+1", "'-1", "'@a", "\\t=1", "a;'=1", "a\\nb"} <= names
    assert all(float(row["alpha"]) > 1 for row in rows if row["status"] == "fit")


@pytest.mark.parametrize("arguments", [["alpha"], ["weights"], ["compare"], ["alpha", "--json"]])
def test_no_command_prints_an_escape_sequence(file, arguments):
    given = [file] * (1 + (arguments == ["compare"]))
    result = run(*arguments, *given)
    assert is_printable(result.output)


def test_odd_names_are_written_in_escaped_form_with_a_note(file, tmp_path):
    status, out, err = run_forked(tmp_path, "alpha", file, "-o", "a.nc")
    assert status == 0
    assert is_printable(out)
    assert err.startswith("specdiag: 1 text that netCDF cannot hold: written as 'a\\x00b#2'")
    with specdiag.open_spectra(tmp_path / "a.nc") as dataset:
        names = dataset.layer.values.tolist()
    assert {"a\\x00b", "a\\x00b#2", "<script>alert(1)</script>", "\t=1"} <= {*names}
    assert len(names) == len(DRAWN + LISTED)


@given(st.lists(st.text(st.sampled_from("ab\0\ud800\\x0#2\u202e")), unique=True))
def test_different_names_stay_different_in_a_form_that_netcdf_can_hold(names):
    labels = distinct(names)
    assert len({*labels}) == len(names)
    for name, label in zip(names, labels, strict=True):
        assert label.encode().count(0) == 0
        assert label == name or not is_text(name) or "\0" in name


def test_an_odd_name_blocks_neither_a_page_nor_a_figure(file, tmp_path):
    files = "-o", tmp_path / "a.nc", "--plot", tmp_path / "difference.svg"
    run("compare", file, file, *files, "--layers", "*[$<>]*")
    run("report", tmp_path / "a.nc", "-o", tmp_path / "a.html")
    run("figures", tmp_path / "a.nc", "-o", tmp_path / "drawn")
    page = (tmp_path / "a.html").read_text()
    assert is_printable(page)
    assert page.count("<script") == 1
    assert "<b>" not in page
    for path in [tmp_path / "difference.svg", *(tmp_path / "drawn").glob("*.svg")]:
        assert is_printable(path.read_text())
        assert not ET.parse(path).findall(".//{*}script")
    assert is_printable((tmp_path / "drawn" / "captions.txt").read_text())


def test_an_export_shows_no_escape_sequence_and_keeps_the_names(file, tmp_path):
    out = tmp_path / "out.safetensors"
    run("export", file, out)
    text = out.with_suffix(".json").read_text()
    assert is_printable(text)
    assert {*json.loads(text)["sha256"]} == {*DRAWN, *LISTED}


def test_a_text_that_no_format_can_hold_is_written_from_memory(rng, tmp_path, caplog):
    weights = {"\ud800": rng.standard_normal((60, 50)), "plain": rng.standard_normal((60, 50))}
    dataset = specdiag.alpha(weights).assign_attrs(history="made\nhere", about="a\0b")
    specdiag.save_spectra(dataset, tmp_path / "a.nc")
    with specdiag.open_spectra(tmp_path / "a.nc") as read:
        assert read.layer.values.tolist() == ["\\ud800", "plain"]
        assert (read.attrs["history"], read.attrs["about"]) == ("made\nhere", "a\\x00b")
    assert dataset.layer.values.tolist() == ["\ud800", "plain"]
    assert caplog.record_tuples == [
        (
            "specdiag.dataset.escaped",
            logging.WARNING,
            "1 text that netCDF cannot hold: written as '\\ud800'",
        )
    ]


def test_a_monitor_that_resumes_knows_odd_names_again(rng, tmp_path):
    log = tmp_path / "spectra.csv"
    weights = {"=a\0\ud800": rng.standard_normal((60, 50))}
    SpectralMonitor(every=1, log=log)(1, weights)
    (first,) = read_readings(log)
    assert first.name == "'=a\\x00\\ud800"
    monitor = SpectralMonitor(every=1, log=log)
    monitor(2, {name: values * 1e-9 for name, values in weights.items()})
    assert list(monitor.dead) == list(weights)
    assert [r.name for r in read_readings(log)] == [first.name] * 2
