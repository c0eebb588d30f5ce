import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from support.commands import run_forked


@pytest.fixture
def file(rng, tmp_path):
    path = tmp_path / "net.safetensors"
    state = {
        "fc.weight_v": rng.standard_normal((80, 60)).astype("f4"),
        "fc.weight_g": np.ones((80, 1), "f4"),
        "fc.bias": np.ones(80, "f4"),
        "head.weight": rng.standard_normal((64, 80)).astype("f4"),
        "small.weight": rng.standard_normal((3, 80)).astype("f4"),
    }
    save_file(state, path)
    return path


def test_weights_lists_each_weight_with_what_it_is_composed_of(file):
    status, out, err = run_forked(".", "weights", file)
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert (status, err) == (0, "")
    assert rows["fc.weight"][:4] == ["80x60", "float32", "2", "weight"]
    assert rows["head.weight"] == ["64x80", "float32", "1", "yes"]
    assert " ".join(rows["small.weight"][3:]) == "too few eigenvalues: 3 of at least 50"
    last = "5 tensors: 3 weights of two or more axes, 2 measured; 1 vector or scalar"
    assert last in out.splitlines()


def test_weights_as_json_account_for_every_tensor(file):
    status, out, _ = run_forked(".", "weights", file, "--json")
    found = {weight["name"]: weight for weight in json.loads(out)["weights"]}
    tensors = [name for weight in found.values() for name in weight["tensors"]]
    assert status == 0
    assert len(tensors) == len(set(tensors)) == 5
    assert found["fc.weight"]["rule"] == "weight norm: g v / |v|"
    assert found["fc.weight"]["measured"] is True
    assert (found["fc.bias"]["measured"], found["fc.bias"]["reason"]) == (False, "vector or scalar")


def test_weights_names_masks_and_tables_that_only_their_values_tell(rng, tmp_path):
    path = tmp_path / "net.safetensors"
    state = {
        "tril": np.tril(np.ones((80, 80), "f4")),
        "query": rng.standard_normal((80, 80)).astype("f4"),
    }
    save_file(state, path)
    status, out, _ = run_forked(".", "weights", path, "--json")
    reasons = {weight["name"]: weight["reason"] for weight in json.loads(out)["weights"]}
    assert status == 0
    assert reasons == {"tril": "only zeros and one other value: a mask", "query": ""}
