import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import weights

STEM = "base_model.model.layers.0.q_proj"


def factors(rng, r=3, n=7, m=5):
    return rng.standard_normal((r, m)).astype("f4"), rng.standard_normal((n, r)).astype("f4")


def found(source):
    checkpoint = open_checkpoint(source)
    all_weights = weights(checkpoint)
    used = [name for weight in all_weights for name in weight.tensors]
    assert sorted(used) == sorted(t.name for t in checkpoint.tensors)
    return {weight.name: weight for weight in all_weights}


def saved(folder, state, **config):
    save_file(state, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA"} | config
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        ({"lora_alpha": 6}, 2),
        ({"lora_alpha": 6, "use_rslora": True}, 6 / 3**0.5),
        ({"lora_alpha": 6, "alpha_pattern": {"q_proj": 9}}, 3),
        ({"lora_alpha": 6, "alpha_pattern": {"k_proj": 9}}, 2),
        ({"lora_alpha": 6, "alpha_pattern": {".*q_proj": 9}}, 3),
        ({"lora_alpha": 6, "alpha_pattern": {r"^.*\.proj$": 9, r".*\.q_proj$": 12}}, 4),
        ({"lora_alpha": 6, "alpha_pattern": {"proj": 9}}, 2),
    ],
)
def test_an_adapter_gives_the_update_with_the_factor_of_its_config(rng, tmp_path, config, factor):
    A, B = factors(rng)
    state = {f"{STEM}.lora_A.weight": A, f"{STEM}.lora_B.weight": B}
    ((name, weight),) = found(saved(tmp_path, state, r=3, **config)).items()
    np.testing.assert_allclose(weight.read(), factor * B @ A, rtol=1e-5)
    assert (name, weight.shape, weight.rank) == (f"{STEM}.lora_update", (7, 5), 3)
    assert weight.rule.startswith("LoRA update: ")


def test_base_and_adapter_of_one_file_are_merged(rng, tmp_path):
    """The forward pass of peft is x W' + factor (x A') B'."""
    A, B = factors(rng)
    W, x = (rng.standard_normal(s).astype("f4") for s in ((7, 5), (2, 5)))
    state = {f"{STEM}.base_layer.weight": W}
    state |= {f"{STEM}.lora_A.default.weight": A, f"{STEM}.lora_B.default.weight": B}
    (weight,) = found(saved(tmp_path, state, lora_alpha=6)).values()
    np.testing.assert_allclose(x @ weight.read().T, x @ W.T + 2 * (x @ A.T) @ B.T, rtol=1e-4)
    assert (weight.name, weight.rank) == (f"{STEM}.weight", None)
    assert weight.rule == "LoRA: W + 2 B A"


def test_dora_rescales_the_rows_of_the_merged_weight(rng, tmp_path):
    A, B = factors(rng)
    W, m = rng.standard_normal((7, 5)).astype("f4"), rng.random(7).astype("f4")
    state = {f"{STEM}.base_layer.weight": W, f"{STEM}.lora_magnitude_vector.default.weight": m}
    state |= {f"{STEM}.lora_A.default.weight": A, f"{STEM}.lora_B.default.weight": B}
    (weight,) = found(saved(tmp_path, state, lora_alpha=3)).values()
    V = torch.from_numpy(W + B @ A)
    expected = torch.from_numpy(m)[:, None] * V / torch.linalg.norm(V, dim=1)[:, None]
    np.testing.assert_allclose(weight.read(), expected, rtol=1e-5)


def test_a_base_whose_factor_is_unknown_is_not_measured(rng):
    A, B = factors(rng)
    state = {"q.weight": np.eye(7, 5), "q.lora_A.default.weight": A, "q.lora_B.default.weight": B}
    both = found(state)
    assert both["q.weight"].reason.startswith("its LoRA has a factor that is unknown: put an ")
    np.testing.assert_allclose(both["q.lora_update"].read(), B @ A, rtol=1e-5)
    assert both["q.lora_update"].rule == "LoRA update: B A, of unknown factor"


def test_the_alpha_of_kohya_is_a_tensor(rng):
    A, B = factors(rng)
    state = {
        "unet_q.lora_down.weight": A,
        "unet_q.lora_up.weight": B,
        "unet_q.alpha": np.array(6.0),
    }
    weight = found(state)["unet_q.lora_update"]
    np.testing.assert_allclose(weight.read(), 2 * B @ A, rtol=1e-5)
    assert weight.rule == "LoRA update: B A alpha / 3"


def test_a_kernel_is_updated_by_a_kernel_and_a_pointwise_convolution(rng):
    conv = torch.nn.Sequential(
        torch.nn.Conv2d(5, 3, 3, bias=False), torch.nn.Conv2d(3, 7, 1, bias=False)
    )
    state = {"c.lora_down.weight": conv[0].weight, "c.lora_up.weight": conv[1].weight}
    weight = found(state)["c.lora_update"]
    x = torch.randn(1, 5, 6, 6)
    direct = torch.nn.functional.conv2d(x, torch.from_numpy(weight.read()))
    assert weight.shape == (7, 5, 3, 3)
    torch.testing.assert_close(direct, conv(x), rtol=1e-4, atol=1e-5)


def test_the_update_of_an_embedding_is_transposed(rng):
    A, B = factors(rng, m=20)
    weight = found({"wte.lora_embedding_A": A, "wte.lora_embedding_B": B})["wte.lora_update"]
    np.testing.assert_allclose(weight.read(), (B @ A).T, rtol=1e-5)


@pytest.mark.parametrize(
    "names",
    [
        ("x.to_q_lora.down.weight", "x.to_q_lora.up.weight", "x.to_q.lora_update"),
        ("fc.lora_A", "fc.lora_B", "fc.lora_update"),
        ("lora_A.weight", "lora_B.weight", "lora_update"),
    ],
)
def test_other_spellings_are_known(rng, names):
    A, B = factors(rng)
    assert list(found({names[0]: A, names[1]: B})) == [names[2]]


def test_two_adapters_of_one_weight_are_two_updates(rng):
    state = {"q.base_layer.weight": np.eye(7, 5)}
    for adapter in ("one", "two"):
        A, B = factors(rng)
        state |= {f"q.lora_A.{adapter}.weight": A, f"q.lora_B.{adapter}.weight": B}
    both = found(state)
    assert list(both) == ["q.weight", "q.lora_update.one", "q.lora_update.two"]
    assert "2 LoRA adapters" in both["q.weight"].reason


def test_adapters_of_other_kinds_have_one_reason(rng):
    names = ("hada_w1_a", "oft_R.weight", "boft_R", "ia3_l", "hra_u", "vera_lambda_b")
    state = {f"x.{name}": rng.standard_normal((4, 4)) for name in names}
    for weight in found(state).values():
        assert weight.reason.startswith("an adapter of another kind than LoRA, DoRA, LoHa and LoKr")


def test_an_invalid_config_is_an_error_that_names_it(rng, tmp_path):
    A, B = factors(rng)
    folder = saved(tmp_path, {"q.lora_A.weight": A, "q.lora_B.weight": B})
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"^adapter_config.json: "):
        found(folder)


@pytest.mark.parametrize(
    "names",
    [
        ("fc.linear.weight", "fc.lora_A", "fc.lora_B"),  # LitGPT
        ("fc.weight", "fc.lora_a.weight", "fc.lora_b.weight"),  # torchtune
        ("fc.weight", "fc.weight.lora_a", "fc.weight.lora_b"),  # llama.cpp
    ],
)
def test_updates_in_the_names_of_other_programs_are_composed(rng, names):
    base, down, up = names
    state = {base: rng.standard_normal((60, 80)), down: rng.standard_normal((4, 80))}
    state[up] = rng.standard_normal((60, 4))
    found = {w.name: w for w in weights(open_checkpoint(state))}
    assert found.keys() == {"fc.weight", "fc.lora_update"}
    assert found["fc.weight"].reason.startswith("its LoRA has a factor that is unknown")
    np.testing.assert_allclose(found["fc.lora_update"].read(), state[up] @ state[down])


@pytest.mark.parametrize(
    ("base", "down", "up"),
    [
        ((60, 80, 3), (12, 240), (180, 12)),  # a kernel that loralib cannot update
        ((180, 60), (12, 60), (180, 4)),  # fused query, key and value of LitGPT
        ((80, 60), (80, 4), (4, 80)),  # of another shape
    ],
)
def test_a_base_has_the_reason_of_factors_that_do_not_fit_it(rng, base, down, up):
    shapes = {"fc.weight": base, "fc.lora_A": down, "fc.lora_B": up}
    state = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    (found,) = weights(open_checkpoint(state))
    assert {*found.tensors} == shapes.keys()
    assert "LoRA" in found.reason


def test_the_blocks_of_a_language_model_are_no_component_of_a_pipeline(rng):
    A, B = factors(rng)
    stem = "transformer.h.0.mlp.fc"
    state = {f"{stem}.linear.weight": np.eye(7, 5), f"{stem}.lora_A": A, f"{stem}.lora_B": B}
    both = found(state)
    assert both[f"{stem}.weight"].reason.startswith(
        "its LoRA has a factor that is unknown: put an "
    )
    assert both[f"{stem}.lora_update"].rule == "LoRA update: B A, of unknown factor"
