import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import specdiag
from support.commands import run_forked
from support.weights import heavy


@pytest.fixture
def state(rng):
    return {
        "attn.c_attn.weight": heavy(rng, (64, 192)).astype("f4"),
        "attn.c_attn.bias": np.ones(192, "f4"),
        "attn.c_proj.weight": heavy(rng, (64, 64)).astype("f4"),
        "W_Q": heavy(rng, (2 * 64, 64)).astype("f4").reshape(2, 64, 64),
    }


@pytest.fixture
def file(state, tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(state, path)
    return path


def run(*arguments):
    """Run the command line; returns status, stdout, stderr."""
    return run_forked(".", *arguments)


def test_blocks_that_are_proved_are_rows_of_the_table_and_selected_by_their_whole(file):
    status, out, err = run("alpha", file, "--layers", "*.c_attn.weight")
    rows = [line.split()[0] for line in out.splitlines() if line.startswith("attn")]
    assert (status, err) == (0, "")
    assert rows == [f"attn.c_attn.weight[{block}]" for block in "qkv"]
    assert "  cut: attn.c_attn.weight into 3" in out.splitlines()


def test_a_block_has_the_alpha_of_its_matrix(file, state):
    blocks = specdiag.alpha(file, layers="attn.c_attn.weight[k]")
    alone = specdiag.alpha({"k": state["attn.c_attn.weight"][:, 64:128]})
    assert blocks.alpha.item() == alone.alpha.item()
    assert blocks.layer.item() == "attn.c_attn.weight[k]"


def test_declared_splits_are_the_same_on_the_command_line_and_in_python(file):
    status, out, _ = run("alpha", file, "--split", "W_Q=stack", "--json")
    (found,) = json.loads(out)["checkpoints"]
    names = [layer["layer"] for layer in found["layers"]]
    dataset = specdiag.alpha(file, split={"W_Q": "stack"})
    assert status == 0
    assert {"W_Q[0]", "W_Q[1]"} < {*names}
    assert dataset.layer.values.tolist() == names
    settings = json.loads(dataset.attrs["provenance"])["settings"]
    assert (settings["splits"], settings["which"]) == (["W_Q=stack"], None)


def test_weights_and_compare_take_splits(file):
    whole = ["--split", "*.c_attn.weight=whole"]
    status, out, _ = run("weights", file, *whole)
    assert (status, out.count("c_attn.weight")) == (0, 1)
    status, out, _ = run("compare", file, file, *whole, "--json")
    assert status == 0
    assert "attn.c_attn.weight" in out
    assert "[q]" not in out


def test_compare_reads_the_network_of_an_entry(rng, tmp_path):
    import torch

    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    same = {"fc.weight": torch.tensor(heavy(rng, (64, 64)))}
    for path in paths:
        torch.save({"model": {"fc.weight": torch.tensor(heavy(rng, (64, 64)))}, "ema": same}, path)
    status, out, err = run("compare", *paths, "--which", "ema")
    assert (status, err) == (0, "")
    assert "identical" in out


@pytest.mark.parametrize("command", ["alpha", "weights", "compare"])
@pytest.mark.parametrize(
    ("split", "reason"),
    [
        ("q,k", "expected PATTERN=SPEC, such as q,k,v or 12 or q,k,v/12 or stack for SPEC"),
        ("*.c_attn.weight=5", "192 columns of attn.c_attn.weight are not 5 equal heads"),
        (
            "*.qkv=q,k,v",
            (
                "no weight of net matches; of 3 weights with two axes or more, it has W_Q, "
                "attn.c_attn.weight, attn.c_proj.weight"
            ),
        ),
    ],
)
def test_a_split_that_does_not_fit_is_a_usage_error_of_one_line(file, command, split, reason):
    files = [file, file] if command == "compare" else [file]
    status, out, err = run(command, *files, "--split", split)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].endswith(f"--split {split!r}: {reason}")
