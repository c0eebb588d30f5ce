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


@pytest.fixture
def adapter(rng, tmp_path):
    """Return the folder of an adapter of the values, of which one is dead, and its base."""
    base = tmp_path / "base.safetensors"
    names = [f"h.{i}.attn.{role}_proj" for i in range(2) for role in "qv"]
    save_file({f"{n}.weight": heavy(rng, (80, 64), 2.5).astype(np.float32) for n in names}, base)
    folder = tmp_path / "adapter"
    folder.mkdir()
    factors = {}
    for i in range(2):
        stem = f"base_model.model.h.{i}.attn.v_proj"
        factors[f"{stem}.lora_A.weight"] = rng.normal(size=(4, 64)).astype(np.float32)
        factors[f"{stem}.lora_B.weight"] = (i * rng.normal(size=(80, 4))).astype(np.float32)
    save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 0.4}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder, base


def test_alpha_of_an_adapter_shows_the_ranks_that_it_uses(adapter):
    status, out, _ = run("alpha", adapter[0])
    assert status == 0
    (line,) = [line for line in out.splitlines() if line.startswith("adapter of")]
    assert line.startswith("adapter of 2 updates (LoRA), rank used 4 of 4, effective rank 3.")
    assert "noise rank 4, nothing but noise in 1 of 1" in line
    assert line.endswith("dead (nothing is added): base_model.model.h.0.attn.v_proj.lora_update")


def test_alpha_of_an_adapter_and_its_base_shows_what_is_added(adapter):
    folder, base = adapter
    status, out, _ = run("alpha", folder, "--base", base)
    assert status == 0
    assert out.strip().endswith(
        "an update of rank 4 in 1 of 2 value projections, nothing in 3 of 4 matrices"
    )
    found = json.loads(run("alpha", folder, "--base", base, "--json")[1])["checkpoints"][0]
    alone = json.loads(run("alpha", folder, "--json")[1])["checkpoints"][0]
    assert found["adapter"].keys() == alone["adapter"].keys()
    assert [row["rank"] for row in found["adapter"]["ranks"]] == [0, 4]
    assert alone["adapter"]["updates"] is None
    assert found["adapter"]["conclusion"] in out
    kinds = {row["layer"]: row["update_kind"] for row in found["adapter"]["updates"]}
    assert kinds["h.1.attn.v_proj.weight"] == "low rank"
    assert list(kinds.values()).count("none") == 3


def test_alpha_of_a_network_without_an_adapter_has_no_such_key(adapter):
    (row,) = json.loads(run("alpha", adapter[1], "--json")[1])["checkpoints"]
    assert "adapter" not in row
