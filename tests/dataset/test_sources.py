"""`specdiag.alpha` takes one array, lists of paths, and names for what is in memory."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import specdiag


@pytest.fixture
def weight(rng):
    return rng.standard_normal((80, 64)).astype(np.float32)


def test_one_array_is_a_network_of_one_matrix(weight):
    expected = specdiag.alpha({"tensor": weight})
    for array in (weight, torch.from_numpy(weight)):
        assert specdiag.alpha(array).identical(expected)


def test_a_list_of_arrays_is_one_network_with_numbered_layers(weight):
    dataset = specdiag.alpha([weight, np.zeros(80), weight + 1])
    assert dataset.sizes["checkpoint"] == 1
    assert list(dataset.layer.values) == ["0", "2"]


def test_a_list_of_paths_is_as_good_as_the_paths(weight, tmp_path):
    paths = [tmp_path / "a.safetensors", str(tmp_path / "b.safetensors")]
    for path in paths:
        save_file({"w": weight}, path)
    assert specdiag.alpha(paths).identical(specdiag.alpha(*paths))
    assert list(specdiag.alpha(paths).checkpoint.values) == ["a", "b"]


def test_networks_in_memory_can_be_named(weight):
    dataset = specdiag.alpha({"w": weight}, {"w": weight + 1}, names=["before", "after"])
    assert list(dataset.checkpoint.values) == ["before", "after"]
    for wrong in (["one"], "ab", []):
        with pytest.raises(ValueError, match="names must be a list of 2 names"):
            specdiag.alpha({"w": weight}, {"w": weight}, names=wrong)


def test_the_network_to_measure_can_be_chosen(weight):
    saved = {
        "net": {"a.w": weight, "b.w": weight + 1},
        "net_ema": {"a.w": 2 * weight, "b.w": weight},
    }
    first, average = specdiag.alpha(saved), specdiag.alpha(saved, which="net_ema")
    assert list(first.layer.values) == list(average.layer.values) == ["a.w", "b.w"]
    ratio = average.spectral_norm / first.spectral_norm
    np.testing.assert_allclose(ratio.sel(layer="a.w"), 2, rtol=1e-5)


def test_a_vector_is_no_network():
    with pytest.raises(ValueError, match="no weight matrix"):
        specdiag.alpha(np.ones(9))
    with pytest.raises(TypeError, match="expected a path, state dict, module or array, not int"):
        specdiag.alpha(3)
