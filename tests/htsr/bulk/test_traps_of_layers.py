import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import specdiag
from specdiag.dataset.schema.layers import SCHEMA
from specdiag.htsr.bulk.localisation import localisation
from specdiag.htsr.bulk.traps import permuted_traps
from support.commands import run_forked
from support.paths import ROOT

NAMES = {
    "n_traps": ("traps", "n"),
    "trap_p": ("traps", "p"),
    "trap_ratio": ("traps", "ratio"),
    "soft_rank": ("traps", "soft_rank"),
    "n_beyond_permuted": ("traps", "n_beyond"),
    "permuted_distance": ("traps", "distance"),
    "n_localised": ("localisation", "n"),
    "localised_p": ("localisation", "p"),
    "ipr_output": ("localisation", "ipr_output"),
    "ipr_input": ("localisation", "ipr_input"),
}


@pytest.fixture
def weights(rng):
    trapped = rng.standard_normal((120, 80)).astype(np.float32)
    trapped[4, 5] = 40
    return {
        "calm.weight": rng.standard_normal((90, 100)).astype(np.float32),
        "conv.weight": rng.standard_normal((24, 20, 3, 3)).astype(np.float32),
        "dead.weight": np.zeros((60, 60), np.float32),
        "low.weight": (rng.standard_normal((70, 9)) @ rng.standard_normal((9, 70))).astype("f4"),
        "trapped.weight": trapped,
    }


@pytest.mark.parametrize("method", ["specdiag", "weightwatcher", "wwj"])
def test_the_dataset_has_traps_and_localisation_of_every_layer(weights, method):
    dataset = specdiag.alpha(weights, method=method, traps=True, seed=3).squeeze()
    for name, W in weights.items():
        cell = dataset.sel(layer=name)
        spectrum = specdiag.spectrum(dataset, name)
        parts = {
            "traps": permuted_traps(W, spectrum, seed=3),
            "localisation": localisation(W),
        }
        for variable, (part, attribute) in NAMES.items():
            expected = getattr(parts[part], attribute)
            np.testing.assert_equal(cell[variable].item(), expected)
    assert dataset.n_traps.sel(layer="trapped.weight") == 1
    if method == "specdiag":
        assert dataset.status.sel(layer="low.weight") == "degenerate"
    assert np.isfinite(dataset.n_traps.sel(layer="low.weight"))


def test_without_the_option_there_is_no_value_and_no_other_number_changes(weights):
    plain, asked = (specdiag.alpha(weights, traps=x) for x in (False, True))
    for name in SCHEMA:
        if name in NAMES:
            assert np.isnan(plain[name]).all()
        else:
            assert plain[name].equals(asked[name]), name


def test_a_weight_beyond_the_range_of_squares_has_the_same_traps(weights):
    W = weights["trapped.weight"].astype(np.float64)
    one, other = (specdiag.alpha({"a": x}, traps=True).squeeze() for x in (W, W * 1e200))
    for name in NAMES:
        assert other[name].item() == pytest.approx(one[name].item(), rel=1e-6), name


def test_the_numbers_survive_the_file(weights, tmp_path):
    dataset = specdiag.alpha(weights, traps=True)
    specdiag.save_spectra(dataset, tmp_path / "a.nc")
    opened = specdiag.open_spectra(tmp_path / "a.nc")
    assert all(opened[name].equals(dataset[name]) for name in NAMES)
    assert json.loads(opened.attrs["provenance"])["settings"]["traps"] is True


def test_the_command_shows_traps_when_asked_for(weights, tmp_path):
    save_file(weights, tmp_path / "net.safetensors")
    plain, asked, everything = (
        run_forked(tmp_path, "alpha", "net.safetensors", *more)[1]
        for more in ((), ("--traps",), ("--traps", "--columns", "all"))
    )
    shown = {"traps", "soft rank", "localised"}
    more = {"trap p", "trap ratio", "beyond", "ipr out", "ipr in"}
    headers = [
        set(re.split(r"\s{2,}", text.splitlines()[1])) for text in (plain, asked, everything)
    ]
    assert headers[0].isdisjoint(shown | more)
    assert shown <= headers[1]
    assert headers[1].isdisjoint(more)
    assert shown | more <= headers[2]
    line = (
        "1 of 4 layers have traps, eigenvalues that a permuted copy of the elements has; of random"
    )
    assert f"\n{line} matrices, 1 in 100 has: trapped.weight (1)\n" in asked
    assert "leading singular vectors that are localised" in asked
    assert "permuted" not in plain


def test_json_and_csv_have_the_same_keys_with_and_without_traps(weights, tmp_path):
    save_file(weights, tmp_path / "net.safetensors")
    plain, asked = (
        json.loads(run_forked(tmp_path, "alpha", "net.safetensors", "--json", *more)[1])
        for more in ((), ("--traps",))
    )
    for one, other in zip(*(x["checkpoints"][0]["layers"] for x in (plain, asked)), strict=True):
        assert list(one) == list(other)
        assert all(one[name] is None for name in NAMES), one["layer"]
    trapped = {row["layer"]: row for row in asked["checkpoints"][0]["layers"]}["trapped.weight"]
    assert trapped["n_traps"] == 1
    assert trapped["trap_ratio"] > 1.5


@pytest.mark.realdata
def test_the_page_shows_the_traps_of_a_language_model(minilm):
    page = (ROOT / "docs" / "definitions.md").read_text(encoding="utf-8")
    rows = page.partition("<!-- traps of MiniLM -->\n")[2].partition("<!-- end -->")[0].splitlines()
    dataset = specdiag.alpha(minilm, null="none", traps=True).squeeze()
    assert (dataset.n_traps > 0).sum() == 6
    outputs = dataset.sel(layer=dataset.layer.str.match(r"encoder.layer.\d.output.dense"))
    assert (outputs.n_traps > 0).sum() == 5
    assert outputs.sizes["layer"] == 6
    for row in rows:
        name, *shown, elements = row.strip("| ").split(" | ")
        cell = dataset.sel(layer=name)
        forms = (".0f", ".2f", ".2f", ".0f", ".0f", ".0f")
        names = ("n_traps", "trap_ratio", "soft_rank", "n_localised", "ipr_output", "ipr_input")
        assert shown == [format(cell[n].item(), f) for n, f in zip(names, forms, strict=True)]
        W = load_file(minilm)[name]
        largest = np.sort(np.abs(W).ravel())[:-4:-1] / W.std()
        assert re.findall(r"(?<!output )\b\d+", elements) == [f"{x:.0f}" for x in largest]
        assert np.abs(W).max(axis=1).argmax() == 99
    assert (dataset.n_localised > 0).sum() == 35
