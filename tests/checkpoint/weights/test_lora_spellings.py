"""LoRA as libraries other than peft spell it; the oracles are their forward passes in numpy."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import open_weights, weights

R, OUT, IN = 3, 7, 5
UNKNOWN = "its LoRA has a factor that is unknown: put an "
MISFIT = "LoRA whose factors do not fit the weight: not computed"
FUSED = "LoRA of fused blocks, whose sizes the file does not tell: not computed"


def found(source):
    checkpoint = open_checkpoint(source)
    every = weights(checkpoint)
    used = [name for weight in every for name in weight.tensors]
    assert sorted(used) == sorted(t.name for t in checkpoint.tensors)
    return {weight.name: weight for weight in every}


@pytest.fixture
def arrays(rng):
    """Return A (r, in), B (out, r), W (out, in) and inputs X (2, in)."""
    shapes = {"A": (R, IN), "B": (OUT, R), "W": (OUT, IN), "X": (2, IN)}
    return {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}


def close(weight, X, expected):
    np.testing.assert_allclose(X @ weight.read().T, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("stem", "down", "up", "below"),
    [
        ("transformer.h.0.fc", "lora_A", "lora_B", "transformer.h.0.fc.linear.weight"),  # LitGPT
        ("to_q", "lora_down.weight", "lora_up.weight", "to_q.linear.weight"),  # cloneofsimo
        ("q_proj", "lora_a.weight", "lora_b.weight", "q_proj.weight"),  # torchtune
        ("blk.0.attn_q", "weight.lora_a", "weight.lora_b", "blk.0.attn_q.weight"),  # llama.cpp
        (
            "d.linear_qkv",
            "adapter.linear_in.weight",
            "adapter.linear_out.weight",
            "d.linear_qkv.weight",
        ),
        (
            "linear_proj",
            "adapter.linear_in.weight",
            "adapter.linear_out.weight",
            "linear_proj.to_wrap.weight",
        ),
    ],
)
def test_factors_output_first_are_an_update_and_keep_their_base_from_being_measured(
    stem, down, up, below, arrays
):
    """The update of an input x is B (A x), times a factor that the file does not have."""
    A, B, X = arrays["A"], arrays["B"], arrays["X"]
    state = {f"{stem}.{down}": A, f"{stem}.{up}": B}
    (alone,) = found(state).values()
    close(alone, X, (X @ A.T) @ B.T)
    both = found(state | {below: arrays["W"]})
    assert both.keys() == {f"{stem}.lora_update", f"{stem}.weight"}
    assert both[f"{stem}.weight"].reason.startswith(UNKNOWN)
    close(both[f"{stem}.lora_update"], X, (X @ A.T) @ B.T)


@pytest.mark.parametrize("layer", ["linear_qkv", "query_key_value"])
def test_adapters_of_nemo_belong_to_the_layer_that_their_name_says(layer, arrays):
    A, B, X = arrays["A"], arrays["B"], arrays["X"]
    start = "layers.0.self_attention."
    stem = f"{start}adapter_layer.lora_kqv_adapter"
    state = {f"{stem}.linear_in.weight": A, f"{stem}.linear_out.weight": B}
    close(found(state)[f"{stem}.lora_update"], X, (X @ A.T) @ B.T)
    both = found(state | {f"{start}{layer}.weight": arrays["W"]})
    assert both[f"{start}{layer}.weight"].reason.startswith(UNKNOWN)
    close(both[f"{start}{layer}.lora_update"], X, (X @ A.T) @ B.T)


def test_adapters_of_nemo_for_parts_of_a_layer_leave_it_unmeasured(arrays):
    start = "self_attention.adapter_layer.lora_unfused_kqv_adapter"
    state = {"self_attention.linear_qkv.weight": np.ones((3 * OUT, IN), "f4")}
    for block in "qkv":
        state[f"{start}.{block}_adapter.linear_in.weight"] = arrays["A"]
        state[f"{start}.{block}_adapter.linear_out.weight"] = arrays["B"]
    ((name, weight),) = found(state).items()
    assert name == "self_attention.linear_qkv.weight"
    assert weight.reason == MISFIT


def test_a_bottleneck_with_an_activation_is_no_update(rng):
    names = ("layers.0.adapter.linear_in.weight", "layers.0.adapter_1.linear_out.weight")
    state = {name: rng.standard_normal((4, 4)) for name in names}
    assert {name: weight.reason for name, weight in found(state).items()} == dict.fromkeys(
        names, ""
    )


@pytest.mark.parametrize(
    ("parameters", "factor"),
    [({"rank": R, "scale": 20.0}, 20), ({"rank": R, "scale": 10.0, "alpha": 16}, None)],
)
def test_mlx_has_its_factors_input_first_and_a_scale_in_the_config(
    parameters, factor, arrays, tmp_path
):
    """Its forward is x W' + scale (x a) b, where a is (in, r) and b is (r, out)."""
    a, b, W, X = arrays["A"].T.copy(), arrays["B"].T.copy(), arrays["W"], arrays["X"]
    state = {"layers.0.q_proj.lora_a": a, "layers.0.q_proj.lora_b": b}
    (tmp_path / "a").mkdir()
    save_file(state, tmp_path / "a/adapters.safetensors")
    (tmp_path / "a/adapter_config.json").write_text(json.dumps({"lora_parameters": parameters}))
    save_file({"layers.0.q_proj.weight": W}, tmp_path / "b.safetensors")
    ((name, alone),) = found(tmp_path / "a").items()
    assert (name, alone.rank) == ("layers.0.q_proj.lora_update", R)
    close(alone, X, (factor or 1) * (X @ a) @ b)
    if factor:
        (weight,) = open_weights(tmp_path / "a", base=tmp_path / "b.safetensors").tensors
        close(weight, X, X @ W.T + factor * (X @ a) @ b)
    else:
        with pytest.raises(ValueError, match=r"q_proj' is not merged: its LoRA has a factor that "):
            open_weights(tmp_path / "a", base=tmp_path / "b.safetensors")


def test_dora_of_mlx_has_its_lengths_in_m(arrays, tmp_path):
    """Its forward is (x W' + scale (x a) b) * m / |W + scale b' a'|, with norms of rows."""
    a, b, W, X = arrays["A"].T.copy(), arrays["B"].T.copy(), arrays["W"], arrays["X"]
    m = np.arange(1.0, OUT + 1, dtype="f4")
    state = {"q.linear.weight": W, "q.lora_a": a, "q.lora_b": b, "q.m": m}
    save_file(state, tmp_path / "adapters.safetensors")
    config = {"fine_tune_type": "dora", "lora_parameters": {"rank": R, "scale": 2.0}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    ((name, weight),) = found(tmp_path).items()
    assert name == "q.weight"
    lengths = np.linalg.norm(W + 2 * b.T @ a.T, axis=1)
    close(weight, X, (X @ W.T + 2 * (X @ a) @ b) * m / lengths)


@pytest.mark.parametrize("names", [("q.lora_a", "q.lora_b"), ("q.lora_A", "q.lora_B")])
@pytest.mark.parametrize("is_turned", [True, False])
def test_of_bare_factors_of_a_square_layer_the_rank_is_the_smaller_side(names, is_turned, rng):
    A, B = rng.standard_normal((R, IN)), rng.standard_normal((IN, R))
    parts = (A.T.copy(), B.T.copy()) if is_turned else (A, B)
    (weight,) = found(dict(zip(names, parts, strict=True))).values()
    np.testing.assert_allclose(weight.read(), B @ A, rtol=1e-5)
    assert weight.rank == R


def test_square_factors_without_an_order_leave_all_tensors_of_their_weight_unmeasured(rng):
    square = rng.standard_normal((6, 6))
    state = {"q.lora_a": square, "q.lora_b": square, "q.weight": square}
    ((name, weight),) = found(state).items()
    assert (name, sorted(weight.tensors)) == ("q.weight", sorted(state))
    assert weight.reason.startswith("LoRA with square factors, whose order the file does not tell")


@pytest.mark.parametrize("below", ["attn.weight", "attn.linear.weight"])
@pytest.mark.parametrize("n_blocks", [2, 3])
def test_fused_blocks_are_one_reason_for_all_tensors_of_the_weight(below, n_blocks, rng, tmp_path):
    """The rows of A are those of each block; which rows of W the blocks are is not in the file."""
    A, B = rng.standard_normal((n_blocks * R, IN)), rng.standard_normal((n_blocks * OUT, R))
    factors = {"attn.lora_A": A, "attn.lora_B": B}
    base = {below: rng.standard_normal((3 * OUT, IN))}
    assert {name: w.reason for name, w in found(factors).items()} == dict.fromkeys(factors, FUSED)
    ((name, weight),) = found(factors | base).items()
    assert (name, weight.reason) == (below, FUSED)
    save_file(factors, tmp_path / "a.safetensors")
    save_file({"attn.weight": base[below]}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=f"^a: no base can be merged: {FUSED}$"):
        open_weights(tmp_path / "a.safetensors", base=tmp_path / "b.safetensors")


def test_the_update_of_one_block_of_a_fused_layer_does_not_leave_the_layer_measured(arrays):
    state = {"attn.lora_A": arrays["A"], "attn.lora_B": arrays["B"]}
    state["attn.linear.weight"] = np.ones((3 * OUT, IN), "f4")
    ((name, weight),) = found(state).items()
    assert (name, weight.reason) == ("attn.linear.weight", MISFIT)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_update_of_a_convolution_of_loralib_is_viewed_as_its_kernel(groups, rng, tmp_path):
    """Its forward uses weight + (B A).view(weight.shape) alpha / r; r k rows are in A."""
    n_out, n_in, k, r = 6, 4, 3, 2
    A = rng.standard_normal((r * k, n_in * k))
    B = rng.standard_normal((n_out // groups * k, r * k))
    W = rng.standard_normal((n_out, n_in // groups, k, k))
    state = {"c.conv.weight": W, "c.lora_A": A, "c.lora_B": B}
    both = found(state)
    assert both["c.weight"].reason.startswith(UNKNOWN)
    np.testing.assert_allclose(both["c.lora_update"].read(), (B @ A).reshape(W.shape), rtol=1e-5)
    save_file({name: state[name] for name in ("c.lora_A", "c.lora_B")}, tmp_path / "a.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2 * r * k}))
    (tmp_path / "b").mkdir()
    save_file({"c.weight": W}, tmp_path / "b/w.safetensors")
    (weight,) = open_weights(tmp_path / "a.safetensors", base=tmp_path / "b/w.safetensors").tensors
    np.testing.assert_allclose(weight.read(), W + 2 * (B @ A).reshape(W.shape), rtol=1e-5)


def written(path, state, alpha, **more):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for key, value in more.items():
        writer.add_array(f"adapter.alora.{key}", value)
    for name, values in state.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_adapter_of_llama_cpp_has_its_alpha_in_its_metadata(arrays, tmp_path):
    """Its forward is W x + alpha / r B (A x), for alpha above 0."""
    A, B, W, X = (arrays[name] for name in "ABWX")
    state = {"blk.0.attn_q.weight.lora_a": A, "blk.0.attn_q.weight.lora_b": B}
    path = written(tmp_path / "a.gguf", state, 6.0)
    ((name, alone),) = found(path).items()
    assert name == "blk.0.attn_q.lora_update"
    close(alone, X, 2 * (X @ A.T) @ B.T)
    save_file({"blk.0.attn_q.weight": W}, tmp_path / "b.safetensors")
    (weight,) = open_weights(path, base=tmp_path / "b.safetensors").tensors
    close(weight, X, X @ W.T + 2 * (X @ A.T) @ B.T)


def test_an_adapter_of_llama_cpp_for_some_tokens_is_not_merged(arrays, tmp_path):
    state = {"blk.0.attn_q.weight.lora_a": arrays["A"], "blk.0.attn_q.weight.lora_b": arrays["B"]}
    path = written(tmp_path / "a.gguf", state, 6.0, invocation_tokens=[5, 6])
    save_file({"blk.0.attn_q.weight": arrays["W"]}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="aLoRA updates it only for the tokens after its invocat"):
        open_weights(path, base=tmp_path / "b.safetensors")


class Merging(nn.Linear):
    """A stand-in for a layer of loralib: x (W + 2 B A)', which evaluation mode merges into W."""

    __module__ = "loralib.layers"

    def __init__(self):
        super().__init__(IN, OUT, bias=False)
        self.lora_A = nn.Parameter(torch.randn(R, IN))
        self.lora_B = nn.Parameter(torch.randn(OUT, R))
        self.merge_weights, self.merged = False, False

    def train(self, mode=True):
        super().train(mode)
        if not mode and getattr(self, "merge_weights", False) and not self.merged:
            self.weight.data += 2 * self.lora_B @ self.lora_A
            self.merged = True
        return self

    def forward(self, X):
        update = 0 if self.merged else 2 * X @ self.lora_A.T @ self.lora_B.T
        return super().forward(X) + update


class OfLitGPT(nn.Module):
    """A stand-in for a layer of LitGPT: x W' + 2 x (B A)', which `merge` adds to W."""

    __module__ = "litgpt.lora"

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(IN, OUT, bias=False)
        self.lora_A = nn.Parameter(torch.randn(R, IN))
        self.lora_B = nn.Parameter(torch.randn(OUT, R))
        self.merged = False

    def merge(self):
        if not self.merged:
            self.linear.weight.data += 2 * self.lora_B @ self.lora_A
            self.merged = True

    def forward(self, X):
        update = 0 if self.merged else 2 * X @ self.lora_A.T @ self.lora_B.T
        return self.linear(X) + update


@pytest.mark.parametrize("kind", [Merging, OfLitGPT])
@pytest.mark.parametrize("is_merged", [True, False])
def test_a_layer_in_memory_has_the_weight_of_its_forward_pass_and_does_not_change(kind, is_merged):
    layer = kind()
    if is_merged:
        layer.merge_weights = True
        layer.merge() if hasattr(layer, "merge") else layer.eval()
    before = {name: values.clone() for name, values in layer.state_dict().items()}
    X = torch.randn(2, IN)
    ((name, weight),) = found(nn.ModuleDict({"fc": layer})).items()
    assert (name, weight.rule) == ("fc.weight", "with its LoRA")
    close(weight, X.numpy(), layer(X).detach().numpy())
    assert all(torch.equal(before[name], values) for name, values in layer.state_dict().items())


@pytest.mark.parametrize(
    ("pattern", "module", "factor"),
    [
        ("^q_proj", "layers.0.q_proj", 2),
        ("^q_proj", "q_proj", 3),
        ("^layers.0.q_proj$", "layers.0.q_proj", 3),
        (r"^.*\.q_proj", "layers.0.q_proj", 3),
        ("q_proj", "layers.0.q_proj", 3),
        ("0.q_proj", "layers.10.q_proj", 2),
    ],
)
def test_an_alpha_pattern_is_matched_as_peft_matches_it(pattern, module, factor, arrays, tmp_path):
    """Peft's `get_pattern_key` is the oracle."""
    from peft.utils.other import get_pattern_key

    assert (get_pattern_key([pattern], module) == pattern) == (factor == 3)
    stem = f"base_model.model.{module}"
    state = {f"{stem}.lora_A.weight": arrays["A"], f"{stem}.lora_B.weight": arrays["B"]}
    save_file(state, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "lora_alpha": 6, "alpha_pattern": {pattern: 9}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (weight,) = found(tmp_path).values()
    np.testing.assert_allclose(weight.read(), factor * arrays["B"] @ arrays["A"], rtol=1e-5)


def test_a_pattern_that_is_not_read_is_named(arrays, tmp_path):
    state = {"q.lora_A.weight": arrays["A"], "q.lora_B.weight": arrays["B"]}
    save_file(state, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "lora_alpha": 6, "alpha_pattern": {"[qk]": 9}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "b").mkdir()
    save_file({"q.weight": arrays["W"]}, tmp_path / "b/b.safetensors")
    with pytest.raises(
        ValueError, match=r"of the alpha_pattern of adapter_config.json, only names"
    ):
        open_weights(tmp_path, base=tmp_path / "b/b.safetensors")
