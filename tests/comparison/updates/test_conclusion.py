"""The sentence about updates, where a weight is zero, scaled, or not compared."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import specdiag
from specdiag.checkpoint.weights.find import open_weights
from specdiag.comparison.updates.adapters import adapter_updates


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    return {f"l{i}.weight": rng.standard_normal((80, 60)) for i in range(4)}


def conclusion(before, after):
    return specdiag.delta(before, after).conclusion


@pytest.mark.parametrize("is_after", [True, False])
def test_a_weight_that_is_zero_on_one_side_has_an_update_of_full_rank(weights, is_after):
    zero = {name: 0 * W for name, W in weights.items()}
    pair = (weights, zero) if is_after else (zero, weights)
    sentence = conclusion(*pair)
    assert "an update of full rank" in sentence
    assert "directions unknown (a weight is zero before or after)" in sentence


@pytest.mark.parametrize(("factor", "text"), [(-1.0, "-1"), (1.1, "1.1"), (0.25, "0.25")])
def test_the_factor_of_scaled_weights_is_named(weights, factor, text):
    scaled = {name: factor * W for name, W in weights.items()}
    dataset = specdiag.delta(weights, scaled)
    assert dataset.conclusion.startswith(f"spectra scaled by {text} (")
    np.testing.assert_allclose(dataset["scale"].values, factor)


def test_matrices_that_could_not_be_compared_are_counted(weights):
    after = weights | {"l0.weight": np.full((80, 60), np.nan), "l1.weight": np.ones((3, 60))}
    expected = (
        "nothing was added: 2 matrices with the same numbers in both; 2 of 4 matrices not compared"
    )
    assert conclusion(weights, after) == expected


def test_the_noise_rank_of_adalora_is_missing(rng, tmp_path):
    factors = {
        "h.0.lora_A": rng.standard_normal((4, 60)).astype(np.float32),
        "h.0.lora_B": rng.standard_normal((80, 4)).astype(np.float32),
        "h.0.lora_E": np.array([[3.0], [2.0], [1.0], [0.5]], dtype=np.float32),
    }
    config = {"peft_type": "ADALORA", "lora_alpha": 4, "r": 4, "init_r": 4}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    tensors = {f"base_model.model.{name}": W for name, W in factors.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (update,) = adapter_updates(open_weights(tmp_path).tensors)
    assert update.kind == "AdaLoRA"
    assert update.rank == 4
    assert np.isnan(update.noise_rank)
