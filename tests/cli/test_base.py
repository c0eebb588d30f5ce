"""The option --base of the commands, and the argument of the functions."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import specdiag
from support.commands import run_forked


@pytest.fixture
def folder(tmp_path, rng):
    """Return a folder with a LoRA, its base, both merged, and another network."""
    A, B = rng.standard_normal((8, 60)).astype("f4"), rng.standard_normal((70, 8)).astype("f4")
    base = {f"h.{i}.q.weight": rng.standard_normal((70, 60)).astype("f4") for i in range(5)}
    adapter = {f"base_model.model.h.0.q.lora_{x}.weight": v for x, v in (("A", A), ("B", B))}
    save_file(adapter, tmp_path / "lora.safetensors")
    save_file(base, tmp_path / "base.safetensors")
    save_file(
        base | {"h.0.q.weight": base["h.0.q.weight"] + 2 * B @ A}, tmp_path / "sum.safetensors"
    )
    save_file({"x.weight": A}, tmp_path / "other.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 16}')
    return tmp_path


def test_the_commands_measure_the_merged_weights(folder):
    options = ("lora.safetensors", "--base", "base.safetensors", "--json")
    _, merged, _ = run_forked(folder, "alpha", *options)
    _, plain, _ = run_forked(folder, "alpha", "sum.safetensors", "--json")
    one, other = (json.loads(text)["checkpoints"][0]["layers"] for text in (merged, plain))
    assert len(one) == 5
    for a, b in zip(one, other, strict=True):
        assert (a["layer"], a["alpha"]) == (b["layer"], pytest.approx(b["alpha"], rel=1e-4))
    _, listed, _ = run_forked(folder, "weights", *options[:-1])
    assert "LoRA: W + 2 B A" in listed
    assert "note: merged with the base 'base': 1 weight with updates, 4 as in the base" in listed


def test_a_base_and_its_adapter_are_compared(folder):
    options = ("base.safetensors", "lora.safetensors", "--base", "base.safetensors")
    status, out, _ = run_forked(folder, "compare", *options)
    assert status == 0
    assert "4 of 5 weights bit-identical" in out


def test_a_base_that_does_not_fit_is_one_line(folder):
    _, _, err = run_forked(folder, "alpha", "lora.safetensors", "--base", "other.safetensors")
    assert err == (
        "specdiag: lora.safetensors: other: 1 of 1 weights that lora updates are not in it with "
        "their shape, such as 'base_model.model.h.0.q', (70, 60)\n"
    )
    status, _, err = run_forked(folder, "alpha", "lora.safetensors", "--base", "none.pt")
    assert status == 2
    assert "'none.pt' does not exist" in err


def test_the_base_is_never_written_over_and_is_recorded(folder):
    options = ("lora.safetensors", "--base", "base.safetensors", "-o")
    status, _, err = run_forked(folder, "alpha", *options, "base.safetensors")
    assert (status, "it is one of the files to read" in err) == (2, True)
    assert run_forked(folder, "alpha", *options, "a.nc")[0] == 0
    dataset = specdiag.open_spectra(folder / "a.nc")
    assert json.loads(dataset.attrs["provenance"])["settings"]["base"] == "base.safetensors"


def test_the_functions_take_a_base(folder, rng):
    paths = [folder / f"{name}.safetensors" for name in ("lora", "base", "sum")]
    from_file = specdiag.alpha(paths[0], base=paths[1])
    in_memory = specdiag.alpha(
        paths[0], base={f"h.{i}.q.weight": np.ones((70, 60)) for i in range(5)}
    )
    assert from_file.layer.values.tolist() == in_memory.layer.values.tolist()
    settings = json.loads(in_memory.attrs["provenance"])["settings"]
    assert settings["base"] == "model"
    compared = specdiag.compare(paths[2], paths[0], base=paths[1])
    assert np.isfinite(compared.alpha).all()
