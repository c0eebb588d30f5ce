"""`specdiag compare --delta`: the table, the sentence, JSON and the Dataset."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import specdiag
from specdiag.dataset.schema.updates import UPDATES
from support.commands import run_forked
from support.weights import heavy


def run(*arguments):
    return run_forked(".", *arguments)


@pytest.fixture
def files(rng, tmp_path):
    base = {
        f"h.{i}.attn.{role}_proj.weight": heavy(rng, (80, 64), 2.5).astype(np.float32)
        for i in range(2)
        for role in "qv"
    }
    after = dict(base)
    for name, W in base.items():
        if "v_proj" in name:
            D = rng.normal(size=(80, 3)) @ rng.normal(size=(3, 64))
            after[name] = (W + 0.1 * np.linalg.norm(W) / np.linalg.norm(D) * D).astype(np.float32)
    paths = [tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"]
    for path, network in zip(paths, (base, after), strict=True):
        save_file(network, path)
    return paths


def test_it_prints_updates_and_a_sentence(files):
    status, out, err = run("compare", *files, "--delta")
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[0] == "tuned, added to base"
    rows = [line.split() for line in lines if line.startswith("h.")]
    assert [row[0] for row in rows] == ["h.0.attn.v_proj.weight", "h.1.attn.v_proj.weight"]
    assert [row[2] for row in rows] == ["3", "3"]
    assert "the same in both: h.0.attn.q_proj.weight, h.1.attn.q_proj.weight" in lines
    sentence = specdiag.delta(*files).conclusion
    assert sentence in lines
    assert sentence.endswith(
        "an update of rank 3 in 2 of 2 value projections, nothing in 2 of 4 matrices"
    )


def test_json_and_dataset_have_the_same_numbers(files, tmp_path):
    output = tmp_path / "updates.nc"
    status, out, _ = run("compare", *files, "--delta", "--json", "-o", output)
    assert status == 0
    (found,) = json.loads(out)["updates"]
    dataset = specdiag.open_spectra(output).isel(checkpoint=0)
    assert found["conclusion"] == dataset.conclusion
    assert [row["layer"] for row in found["layers"]] == list(dataset.layer.values)
    for row in found["layers"]:
        cell = dataset.sel(layer=row["layer"])
        for name, spec in UPDATES.items():
            for side in dataset.side.values if "side" in spec.dims[2:] else ():
                value = row[f"{name}_{side}"]
                np.testing.assert_equal(
                    np.nan if value is None else value, cell[name].sel(side=side).item()
                )
    assert len({tuple(row) for row in found["layers"]}) == 1


def test_options_that_do_not_go_with_it_are_usage_errors(files):
    for options, other in (
        (["--against", files[1]], "--against"),
        (["--plot", "a.png"], "--plot"),
    ):
        status, out, err = run("compare", files[0], "--delta", *options, files[1])
        assert (status, out) == (2, "")
        assert err.strip().endswith(f"--delta and {other} exclude each other")


def test_only_matrices_that_match_are_measured(files):
    status, out, _ = run("compare", *files, "--delta", "--layers", "h.0.*")
    assert status == 0
    assert "h.1." not in out
