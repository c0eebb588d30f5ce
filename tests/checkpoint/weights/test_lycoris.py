"""Adapters of LyCORIS, kohya and ComfyUI: updates that are no product of two matrices."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch.nn.functional import conv2d

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import open_weights, weights

STEM = "lora_unet_attn_to_q"


def found(state):
    checkpoint = open_checkpoint(state)
    all_weights = weights(checkpoint)
    used = [name for weight in all_weights for name in weight.tensors]
    assert sorted(used) == sorted(t.name for t in checkpoint.tensors)
    return {weight.name: weight for weight in all_weights}


def with_base(folder, adapter, base):
    save_file(adapter, folder / "adapter.safetensors")
    save_file(base, folder / "base.safetensors")
    opened = open_weights(folder / "adapter.safetensors", base=folder / "base.safetensors")
    used = [name for weight in opened.tensors for name in weight.tensors]
    assert sorted(used) == sorted([*adapter, *base])
    return {weight.name: weight for weight in opened.tensors}


def arrays(rng, **shapes):
    return [rng.standard_normal(shape).astype("f4") for shape in shapes.values()]


@pytest.mark.parametrize("n", [6, 9])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_shape_of_the_lengths_of_dora_tells_rows_from_columns(axis, n, tmp_path, rng):
    """The oracle is torch's weight norm along the same axis."""
    W, A, B = arrays(rng, W=(n, 6), A=(2, 6), B=(n, 2))
    m = rng.random((n, 1) if axis == 0 else (1, 6)).astype("f4")
    state = {f"{STEM}.lora_down.weight": A, f"{STEM}.lora_up.weight": B, f"{STEM}.dora_scale": m}
    (weight,) = with_base(tmp_path, state, {"attn.to_q.weight": W}).values()
    V, lengths = torch.from_numpy(W + B @ A), torch.from_numpy(m)
    np.testing.assert_allclose(weight.read(), torch._weight_norm(V, lengths, axis), rtol=1e-4)
    assert weight.rule.startswith("DoRA: m V / |V|")


def test_the_lengths_of_dora_rescale_a_kronecker_product_too(tmp_path, rng):
    W, first, second = arrays(rng, W=(6, 6), first=(2, 3), second=(3, 2))
    m = rng.random((1, 6)).astype("f4")
    state = {f"{STEM}.lokr_w1": first, f"{STEM}.lokr_w2": second, f"{STEM}.dora_scale": m}
    state[f"{STEM}.alpha"] = np.array(1.0, "f4")
    (weight,) = with_base(tmp_path, state, {"attn.to_q.weight": W}).values()
    V = torch.from_numpy(W + np.kron(first, second))
    np.testing.assert_allclose(
        weight.read(), torch._weight_norm(V, torch.from_numpy(m), 1), rtol=1e-4
    )


def test_lengths_of_dora_that_do_not_fit_are_one_reason(rng):
    A, B, m = arrays(rng, A=(2, 6), B=(9, 2), m=(1, 7))
    state = {f"{STEM}.lora_down.weight": A, f"{STEM}.lora_up.weight": B, f"{STEM}.dora_scale": m}
    (weight,) = found(state).values()
    assert weight.reason == "DoRA whose lengths do not fit: not computed"


def test_lengths_of_the_inputs_of_a_kernel_do_not_fit_an_update_that_is_a_matrix(tmp_path, rng):
    W, A, B = arrays(rng, W=(6, 6, 3, 3), A=(6, 2), B=(2, 54))
    state = {
        f"{STEM}.hada_w{i}_{part}": value for i in (1, 2) for part, value in (("a", A), ("b", B))
    }
    state[f"{STEM}.dora_scale"] = rng.random((1, 6, 1, 1)).astype("f4")
    state[f"{STEM}.alpha"] = np.array(2.0, "f4")
    (weight,) = with_base(tmp_path, state, {"attn.to_q.weight": W}).values()
    assert weight.reason == "DoRA whose lengths do not fit: not computed"


def test_a_core_stands_between_two_pointwise_convolutions(tmp_path, rng):
    """The oracle is the chain of the three convolutions."""
    down, core, up = arrays(rng, down=(3, 5, 1, 1), core=(3, 3, 3, 3), up=(7, 3, 1, 1))
    state = {"lora_unet_conv.lora_down.weight": down, "lora_unet_conv.lora_mid.weight": core}
    state |= {"lora_unet_conv.lora_up.weight": up, "lora_unet_conv.alpha": np.array(6.0, "f4")}
    weight = found(state)["lora_unet_conv.lora_update"]
    x = torch.randn(1, 5, 6, 6)
    chain = x
    for part in (down, core, up):
        chain = conv2d(chain, torch.from_numpy(part))
    update = torch.from_numpy(weight.read())
    torch.testing.assert_close(conv2d(x, update), 2 * chain, rtol=1e-4, atol=1e-4)
    (W,) = arrays(rng, W=(7, 5, 3, 3))
    (merged,) = with_base(tmp_path, state, {"conv.weight": W}).values()
    np.testing.assert_allclose(merged.read(), W + update.numpy(), rtol=1e-4, atol=1e-5)


def test_a_core_that_does_not_fit_is_one_reason_for_all_three_factors(rng):
    down, core, up = arrays(rng, down=(3, 5, 1, 1), core=(4, 3, 3, 3), up=(7, 3, 1, 1))
    state = {"lora_unet_c.lora_down.weight": down, "lora_unet_c.lora_mid.weight": core}
    (weight,) = found(state | {"lora_unet_c.lora_up.weight": up}).values()
    assert weight.reason == "LoRA with a core that does not fit its factors: not computed"


@pytest.mark.parametrize("has_lora", [True, False])
def test_a_whole_difference_is_added_to_its_base(has_lora, tmp_path, rng):
    W, K, D, A, B = arrays(rng, W=(9, 6), K=(9, 6), D=(9, 6), A=(2, 6), B=(9, 2))
    state = {"lora_unet_attn_to_k.diff": D}
    if has_lora:
        state |= {f"{STEM}.lora_down.weight": A, f"{STEM}.lora_up.weight": B}
    base = {"attn.to_q.weight": W, "attn.to_k.weight": K}
    merged = with_base(tmp_path, state, base)
    np.testing.assert_allclose(merged["attn.to_k.weight"].read(), K + D, rtol=1e-6)
    np.testing.assert_allclose(merged["attn.to_q.weight"].read(), W + has_lora * B @ A, rtol=1e-4)
    assert found(state)["lora_unet_attn_to_k.full_update"].rule == "Full update: D"


def test_a_tensor_called_diff_of_another_network_is_a_weight(rng):
    (D,) = arrays(rng, D=(9, 6))
    (weight,) = found({"layer.diff": D}).values()
    assert (weight.name, weight.rule, weight.reason) == ("layer.diff", "", "")


def test_the_four_factors_of_glora_have_one_reason(rng):
    parts = dict(
        zip(
            ("a1", "a2", "b1", "b2"),
            arrays(rng, a=(2, 6), b=(6, 2), c=(2, 6), d=(6, 2)),
            strict=True,
        )
    )
    (weight,) = found({f"{STEM}.{name}.weight": value for name, value in parts.items()}).values()
    assert weight.reason == "an adapter of the kind GLoRA: not computed"


@pytest.mark.parametrize("prefix", ["diffusion_model.", "text_encoders.clip_l.", "lycoris_"])
def test_files_of_comfyui_without_alpha_have_the_factor_one(prefix, tmp_path, rng):
    W, A, B = arrays(rng, W=(9, 6), A=(2, 6), B=(9, 2))
    name = f"{prefix}blocks.0.q".replace(".", "_") if prefix[-1] == "_" else f"{prefix}blocks.0.q"
    state = {f"{name}.lora_A.weight": A, f"{name}.lora_B.weight": B}
    (weight,) = with_base(tmp_path, state, {"blocks.0.q.weight": W}).values()
    np.testing.assert_allclose(weight.read(), W + B @ A, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shapes", [((4, 6), None), (None, (9, 4)), ((4, 6), (9, 3))])
def test_a_factor_without_one_that_fits_is_no_weight(shapes, rng):
    names = ("q.lora_A.weight", "q.lora_B.weight")
    state = {n: rng.standard_normal(s) for n, s in zip(names, shapes, strict=True) if s}
    for weight in found(state).values():
        assert weight.reason == "a factor of LoRA without another that fits it"
