"""Tensors of three and more axes are read as the library that wrote them reads them."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from torch import nn

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import weights
from specdiag.htsr import esd
from specdiag.htsr.measure import measure
from specdiag.htsr.null import law
from specdiag.htsr.selection import matrices, skip_reason
from specdiag.htsr.tail.posterior import posterior_mean


def found(source, **settings):
    return {w.name: w for w in weights(open_checkpoint(source, **settings)) if len(w.shape) > 1}


def vectors(source):
    """Return the rules of the weights that are vectors, by name."""
    return {w.name: w.rule for w in weights(open_checkpoint(source)) if len(w.shape) == 1}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


def shapes(source):
    return {name: w.shape for name, w in found(source).items() if not w.reason}


# --- kernels of torch


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(60, 70, 64),
        nn.Conv1d(4, 80, 512),
        nn.Conv2d(20, 30, (1, 7)),
        nn.Conv2d(20, 30, (1, 64)),
        nn.Conv2d(3, 80, 16, bias=False),
        nn.Conv3d(8, 9, (2, 16, 16)),
        nn.ConvTranspose1d(70, 60, 16),
        nn.ConvTranspose2d(70, 60, 4),
        nn.Conv1d(60, 60, 60),
    ],
    ids=str,
)
def test_a_convolution_is_a_kernel_from_its_module_and_from_its_state_dict(layer, tmp_path):
    net = nn.Sequential(nn.Sequential(layer, nn.ReLU()))
    torch.save(net, tmp_path / "module.pt")
    sources = [net, tmp_path / "module.pt"]
    if layer.bias is not None and len(set(layer.weight.shape)) > 1:
        sources.append(net.state_dict())
    if layer.bias is None:
        sources.append({"0.conv.weight": layer.weight})
    for source in sources:
        (weight,) = (w for w in found(source).values())
        assert (weight.reason, weight.shape) == ("", tuple(layer.weight.shape))


def test_a_state_dict_does_not_tell_a_bilinear_layer_of_equal_inputs_from_a_long_kernel():
    for layer in (nn.Bilinear(40, 40, 50), nn.Conv1d(40, 50, 40)):
        (weight,) = found(nn.Sequential(layer).state_dict()).values()
        assert weight.reason == (
            "ambiguous: a kernel of 40 taps, 50x40 (axes:rct), or 50 matrices of 40x40 (axes:src); "
            "--split says which"
        )


def test_a_bilinear_layer_is_the_matrices_of_its_outputs():
    layer = nn.Bilinear(40, 30, 5, bias=False)
    (weight,) = found(layer).values()
    x, y = torch.randn(40), torch.randn(30)
    matrices = torch.from_numpy(weight.read())
    assert weight.shape == (40, 30, 5)
    expected = torch.einsum("i,ijo,j->o", x, matrices, y)
    torch.testing.assert_close(expected, layer(x, y), rtol=1e-4, atol=1e-5)


def test_a_long_kernel_without_bias_is_known_by_the_norm_behind_it():
    net = nn.Sequential(nn.Conv1d(60, 70, 64, bias=False), nn.BatchNorm1d(70))
    assert shapes(net.state_dict()) == {"0.weight": (70, 60, 64)}
    assert "ambiguous" in found({"0.weight": draw(70, 60, 64)})["0.weight"].reason


@pytest.mark.parametrize("transposed", [False, True])
def test_the_groups_of_a_convolution_are_the_blocks_of_what_it_multiplies_with(transposed):
    kind = nn.ConvTranspose1d if transposed else nn.Conv1d
    layer = kind(24, 36, 3, groups=4, bias=False)
    (weight,) = found(layer).values()
    dense = kind(24, 36, 3, bias=False)
    with torch.no_grad():  # the response to each channel and tap
        for channel in range(24):
            for tap in range(3):
                x = torch.zeros(1, 24, 1 if transposed else 3)
                x[0, channel, 0 if transposed else tap] = 1
                y = layer(x)[0, :, tap if transposed else 0]
                if transposed:
                    dense.weight[channel, :, tap] = y
                else:
                    dense.weight[:, channel, tap] = y
    full = esd.eigenvalues(dense.weight.detach().numpy())
    n = math.prod(weight.shape[2:]) * min(weight.shape[:2])
    scale = max(weight.shape[:2]) / 36
    np.testing.assert_allclose(scale * esd.eigenvalues(weight.read()), full[:n], rtol=1e-5)
    assert weight.shape[2:] == (4, 3)


# --- kernels of flax and Keras


def test_a_kernel_of_flax_has_its_inputs_first():
    state = {"Conv_0.kernel": draw(3, 3, 40, 60), "Conv_1.kernel": draw(5, 60, 70)}
    weights = found(state)
    np.testing.assert_array_equal(
        weights["Conv_0.kernel"].read(), state["Conv_0.kernel"].transpose(3, 2, 0, 1)
    )
    np.testing.assert_array_equal(
        weights["Conv_1.kernel"].read(), state["Conv_1.kernel"].transpose(2, 1, 0)
    )


def test_a_kernel_of_flax_gives_the_convolution_of_torch():
    kernel, x = draw(5, 6, 7), draw(1, 20, 6, seed=1)
    taps = np.stack([x[0, t : t + 16] for t in range(5)])  # flax: sum over taps of x[t] @ kernel
    expected = np.einsum("kti,kio->to", taps, kernel)
    weight = found({"conv.kernel": kernel, "conv.bias": draw(7)})["conv.kernel"]
    y = torch.conv1d(torch.from_numpy(x).transpose(1, 2), torch.from_numpy(weight.read()))
    np.testing.assert_allclose(y[0].T, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_the_heads_of_flax_are_one_matrix(bias):
    query, out = draw(64, 4, 20), draw(4, 20, 48)
    state = {"attn.query.kernel": query, "attn.out.kernel": out}
    if bias:
        state |= {"attn.query.bias": draw(4, 20), "attn.out.bias": draw(48)}
    weights = found(state)
    x, y = draw(9, 64), draw(9, 4, 20)
    heads = np.einsum("ni,ihd->nhd", x, query)
    back = np.einsum("nhd,hdo->no", y, out)
    np.testing.assert_allclose(
        x @ weights["attn.query.kernel"].read(), heads.reshape(9, 80), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        y.reshape(9, 80) @ weights["attn.out.kernel"].read(), back, rtol=1e-4, atol=1e-4
    )
    if bias:
        assert vectors(state)["attn.query.bias"] == "vectors: the bias of attn.query.kernel"


def test_layers_that_flax_scans_are_slices():
    state = {
        "layers.attn.query.kernel": draw(6, 64, 4, 16),
        "layers.attn.query.bias": draw(6, 4, 16),
        "layers.mlp.kernel": draw(6, 64, 80),
        "layers.mlp.bias": draw(6, 80),
        "layers.conv.kernel": draw(6, 3, 64, 60),
        "layers.norm.scale": draw(6, 64),
    }
    weights = found(state)
    assert vectors(state)["layers.norm.scale"] == "a stack of 6 vectors"
    for i in range(6):
        assert weights[f"layers.attn.query.kernel[{i}]"].shape == (64, 64)
        assert weights[f"layers.conv.kernel[{i}]"].shape == (60, 64, 3)
        values = weights[f"layers.mlp.kernel[{i}]"].read()
        np.testing.assert_array_equal(values, state["layers.mlp.kernel"][i])


@pytest.mark.parametrize(
    ("name", "shape", "bias", "expected"),
    [
        ("dw.depthwise_kernel", (3, 3, 64, 2), None, (128, 1, 3, 3)),
        ("dw.kernel", (3, 3, 64, 2), 128, (128, 1, 3, 3)),
        ("pw.pointwise_kernel", (1, 1, 64, 80), None, (80, 64, 1, 1)),
        ("conv2d/kernel:0", (3, 3, 16, 32), 32, (32, 16, 3, 3)),
        ("tf.weight", (3, 3, 64, 3), 3, (3, 64, 3, 3)),
        ("spconv.weight", (64, 3, 3, 3, 32), None, (64, 32, 3, 3, 3)),
        ("minkowski.conv.kernel", (27, 32, 64), None, (64, 32, 27)),
        ("modulated.weight", (1, 64, 32, 3, 3), None, (64, 32, 3, 3)),
    ],
)
def test_kernels_of_other_libraries_are_brought_into_one_order(name, shape, bias, expected):
    state = {name: draw(*shape)}
    if bias:
        state[name.replace("kernel", "bias").replace("weight", "bias")] = draw(bias)
    assert shapes(state) == {name: expected}


# --- stacks


def test_experts_are_slices_by_name_by_router_and_by_bias():
    by_name = {"mlp.experts.gate_up": draw(8, 40, 64)}
    by_router = {"moe.input_linear.weight": draw(8, 40, 64), "moe.router.weight": draw(8, 64)}
    by_bias = {"net.weight": draw(8, 40, 64), "net.bias": draw(8, 1, 40)}
    for state in (by_name, by_router, by_bias):
        name = next(iter(state))
        slices = [w for w in found(state).values() if w.whole == name]
        assert [w.name for w in slices] == [f"{name}[{i}]" for i in range(8)]
        for i, w in enumerate(slices):
            np.testing.assert_array_equal(w.read(), state[name][i])


@pytest.mark.parametrize(
    ("name", "shape", "bias"),
    [
        ("blk.conv", (64, 80, 5), 64),
        ("blk.conv", (64, 80, 95), 64),
        ("blk.dw", (64, 80, 5), None),
        ("blk.up", (64, 80, 16), 80),
        ("shared_expert.conv1", (64, 80, 31), None),
        ("image_expert.conv", (64, 96, 3), None),
        ("image_expert.conv", (64, 80, 3, 3, 3), 64),
    ],
)
def test_a_convolution_beside_a_gate_or_in_one_expert_is_no_stack(name, shape, bias):
    state = {f"{name}.weight": draw(*shape), "blk.gate.weight": draw(64, 80)}
    if bias:
        state[f"{name}.bias"] = draw(bias)
    weight = found(state)[f"{name}.weight"]
    assert (weight.reason, len(weight.shape)) == ("", len(shape))


def test_a_grouped_linear_layer_of_convbert_is_no_transposed_kernel():
    from transformers.models.convbert.modeling_convbert import GroupedLinearLayer

    (weight, *rest) = found(GroupedLinearLayer(256, 128, 2).state_dict()).values()
    assert (rest, weight.reason[:30]) == ([], "ambiguous: a kernel of 64 taps")
    groups = found(GroupedLinearLayer(128, 256, 2).state_dict()).values()
    assert [(w.shape, w.reason) for w in groups] == 2 * [((64, 128), "")]


def test_a_bilinear_layer_of_few_outputs_is_ambiguous_without_a_name_or_a_norm():
    layer, conv = nn.Bilinear(64, 80, 5), nn.Conv1d(64, 5, 80)
    for state in (layer.state_dict(), conv.state_dict()):
        weight = found({f"scorer.{name}": value for name, value in state.items()})["scorer.weight"]
        assert weight.reason.startswith("ambiguous: a kernel of 80 taps, 5x64")
    with_norm = nn.Sequential(conv, nn.BatchNorm1d(5)).state_dict()
    named = {f"conv.{name}": value for name, value in conv.state_dict().items()}
    assert shapes(with_norm) == {"0.weight": (5, 64, 80)}
    assert shapes(named) == {"conv.weight": (5, 64, 80)}


def test_a_kernel_called_out_is_from_heads_only_beside_a_projection_to_them():
    kernel = {"out.kernel": draw(3, 64, 128), "out.bias": draw(128)}
    for state in (kernel, {"out.kernel": kernel["out.kernel"]}):
        assert found(state)["out.kernel"].reason.startswith("ambiguous: a kernel of 3 taps")
    heads = kernel | {"qkv.kernel": draw(128, 3, 3, 64), "qkv.bias": draw(3, 3, 64)}
    assert shapes(heads)["out.kernel"] == (192, 128)


def test_the_bias_of_experts_is_no_matrix():
    state = {"experts.down_proj": draw(64, 90, 80), "experts.down_proj_bias": draw(64, 80)}
    assert vectors(state) == {"experts.down_proj_bias": "vectors: the bias of experts.down_proj"}


@pytest.mark.parametrize("hidden", [64, 32])
def test_experts_of_mixtral_are_the_same_in_memory_and_as_saved(hidden, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        hidden_size=hidden,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
        num_local_experts=8,
    )
    model = transformers.MixtralForCausalLM(config)
    model.save_pretrained(tmp_path)
    saved, memory = found(tmp_path), found(model)
    for i in range(8):
        down = memory[f"model.layers.0.mlp.experts.down_proj[{i}]"]
        file = saved[f"model.layers.0.block_sparse_moe.experts.{i}.w2.weight"]
        np.testing.assert_array_equal(down.read(), file.read())
        for leaf, block in (("w1", "gate"), ("w3", "up")):
            part = memory[f"model.layers.0.mlp.experts.gate_up_proj[{i}][{block}]"]
            file = saved[f"model.layers.0.block_sparse_moe.experts.{i}.{leaf}.weight"]
            np.testing.assert_array_equal(part.read(), file.read())
    assert sum(skip_reason(w, 50, False) == "" for w in saved.values()) == sum(
        skip_reason(w, 50, False) == "" for w in memory.values()
    )


@pytest.mark.parametrize("name", ["a.safetensors", "b.pt"])
def test_a_slice_of_a_file_takes_the_memory_of_its_bytes_only(tmp_path, name):
    stack = draw(128, 128, 128)
    save_file({"experts.w": stack}, tmp_path / "a.safetensors")
    torch.save({"experts.w": torch.from_numpy(stack)}, tmp_path / "b.pt")
    slices = list(found(tmp_path / name).values())
    assert len(slices) == 128
    for i in (0, 77, 127):
        tracemalloc.start()
        values = slices[i].read()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        np.testing.assert_array_equal(values, stack[i])
        assert peak < stack.nbytes / 3  # checksums are computed in pieces of 1 MiB


@pytest.mark.parametrize(
    "name", ["mlp.switch_mlp.up_proj.weight", "blk.0.ffn_up_exps.weight", "moe_experts"]
)
def test_experts_of_other_libraries_are_slices(name):
    assert list(found({name: draw(3, 20, 30)})) == [f"{name}[{i}]" for i in range(3)]


def test_packed_layers_of_three_axes_are_stacks_of_linear_layers():
    state = {
        "up.weight": torch.randn(3, 20, 30).to(torch.float8_e4m3fn),
        "up.weight_scale": torch.rand(3, 20, 1),
    }
    assert list(found(state)) == ["up.weight[0]", "up.weight[1]", "up.weight[2]"]


@pytest.mark.parametrize(
    ("shape", "text"),
    [((5, 64, 96), ""), ((4, 24, 96), "ambiguous: a kernel of 4 taps, 96x24 (axes:tcr), or a")],
)
def test_a_kernel_before_its_outputs_is_from_heads_only_if_they_are_as_wide(shape, text):
    (weight,) = found({"c1.kernel": draw(*shape), "c1.bias": draw(96)}).values()
    assert weight.reason.startswith(text)
    assert bool(weight.reason) == bool(text)


def test_more_matrices_than_any_layer_has_experts_are_pooled():
    (weight,) = found({"experts.w": draw(600, 9, 8)}).values()
    assert weight.shape == (9, 8, 600)
    assert weight.rule == "read as 600 matrices of 9x8, pooled (experts)"


def test_heads_of_transformer_lens_are_slices():
    state = {"W_Q": draw(8, 256, 32), "W_O": draw(8, 32, 256), "b_Q": draw(8, 32)}
    weights = found(state)
    assert weights["W_Q[7]"].shape == (256, 32)
    assert weights["W_O[0]"].shape == (32, 256)
    assert vectors(state) == {"b_Q": "vectors: the bias of W_Q"}


def test_heads_are_known_by_the_numbers_of_a_configuration(tmp_path):
    save_file({"attn.proj": draw(4, 64, 16)}, tmp_path / "model.safetensors")
    assert "ambiguous" in found(tmp_path)["attn.proj"].reason
    (tmp_path / "config.json").write_text('{"n_heads": 4, "hidden_size": 64}')
    assert found(tmp_path)["attn.proj[3]"].shape == (64, 16)


def test_experts_in_rows_are_the_experts_of_dbrx(tmp_path):
    from transformers.models.dbrx.modeling_dbrx import DbrxExpertGLU

    glu = DbrxExpertGLU(dbrx_ffn(hidden=64, width=40, experts=4))
    with torch.no_grad():
        for parameter in glu.parameters():
            parameter.copy_(torch.randn_like(parameter))
    state = {f"ffn.experts.mlp.{name}": value for name, value in glu.state_dict().items()}
    state["ffn.router.layer.weight"] = torch.randn(4, 64)
    weights = found(state)
    x = torch.randn(3, 64)
    for i in range(4):
        w1, v1, w2 = (
            torch.from_numpy(weights[f"ffn.experts.mlp.{leaf}[{i}]"].read())
            for leaf in ("w1", "v1", "w2")
        )
        parts = [value.view(4, 40, 64)[i] for value in (glu.w1, glu.v1, glu.w2)]
        torch.testing.assert_close((torch.relu(x @ w1.T) * (x @ v1.T)) @ w2, glu(x, *parts))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("Qwen2Moe", {"num_experts": 4, "shared_expert_intermediate_size": 256}),
        ("DeepseekV3", {"n_routed_experts": 4, "n_shared_experts": 2, "first_k_dense_replace": 0}),
    ],
)
def test_the_linear_layers_of_a_shared_expert_are_one_matrix_each(name, sizes, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_experts_per_tok=2,
        vocab_size=100,
        **sizes,
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    model.save_pretrained(tmp_path)
    shared = {n: tuple(p.shape) for n, p in model.named_parameters() if ".shared_expert" in n}
    assert len(shared) >= 3
    for source in (model, tmp_path):
        weights = found(source)
        assert {n: weights[n].shape for n in shared} == shared


def dbrx_ffn(hidden, width, experts):
    from types import SimpleNamespace

    return SimpleNamespace(
        hidden_size=hidden,
        ffn_hidden_size=width,
        moe_num_experts=experts,
        ffn_act_fn={"name": "relu"},
    )


def test_layers_in_one_tensor_are_known_by_their_number():
    state = {
        "decoder.layers.mlp.fc1.weight": draw(4, 90, 64),
        "decoder.layers.mlp.fc2.weight": draw(4, 64, 90),
        "decoder.layers.attn.weight": draw(4, 64, 64),
    }
    assert all(w.reason.startswith("ambiguous") for w in found(state).values())
    weights = found({"state_dict": state, "args": {"num_layers": 4}})
    assert weights["decoder.layers.mlp.fc1.weight[3]"].shape == (90, 64)
    assert len(weights) == 12


def test_the_relations_of_a_graph_are_slices():
    state = {"conv.weight": draw(6, 64, 96), "conv.bias": draw(96)}
    assert found(state)["conv.weight"].reason.startswith(
        "ambiguous: 6 matrices of 64x96 (axes:src)"
    )
    state["conv.root"] = draw(64, 96)
    assert found(state)["conv.weight[5]"].shape == (64, 96)


def test_a_piece_says_how_much_is_read_for_it(tmp_path):
    save_file(
        {"experts.w": draw(8, 20, 60), "q.kernel": draw(64, 4, 20)}, tmp_path / "a.safetensors"
    )
    weights = found(tmp_path / "a.safetensors")
    assert weights["experts.w[3]"].n_read == 0
    assert weights["q.kernel"].n_read == 64 * 4 * 20


# --- what is no matrix, and what is ambiguous


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        (
            "W",
            (8, 256, 32),
            "ambiguous: a kernel of 32 taps, 8x256 (axes:rct), or 8 matrices of 256x32",
        ),
        (
            "U_matrix",
            (16, 16, 16, 23),
            "ambiguous: a kernel of 16x23 taps, 16x16 (axes:rctt), or 16",
        ),
        ("pos", (1, 100, 32), "ambiguous: a matrix of 100x32, or a table of 100 rows"),
        ("x.kernel", (8, 64, 512), "ambiguous: a kernel of 8 taps, 512x64 (axes:tcr), or a matrix"),
        ("cls", (1, 1, 768), "a vector: one side is longer than 1"),
        ("stack", (12, 1, 64), "a stack of vectors: its second side is 1"),
        ("attn.bias", (1, 1, 64, 64), "called bias"),
        ("attn.attention_biases", (12, 49), "called biases"),
        ("swin.attn_mask", (16, 64, 64), "called mask"),
        ("mixer.A_log", (192, 64), "factors of a state-space model"),
    ],
)
def test_a_tensor_that_is_no_matrix_says_why(name, shape, reason):
    (weight,) = found({name: draw(*shape)}).values()
    assert weight.reason.startswith(reason)


def test_the_factors_of_a_norm_of_several_axes_are_no_matrix():
    (first, second) = found(nn.LayerNorm((60, 70)).state_dict()).values()
    assert (
        first.reason
        == "factors of single values, as of a norm: a bias of the same shape is beside it"
    )
    assert second.reason == "called bias: it is added to values, or masks them"


@pytest.mark.parametrize("layer", [nn.RMSNorm((60, 70)), nn.LayerNorm((60, 70), bias=False)])
def test_a_norm_without_bias_is_known_by_its_class_or_name(layer, tmp_path):
    torch.save(nn.Sequential(layer), tmp_path / "a.pt")
    for source in (layer, tmp_path / "a.pt", nn.ModuleDict({"norm1": layer}).state_dict()):
        (weight,) = found(source).values()
        assert weight.reason == "factors of single values: a norm"


def test_several_inputs_and_outputs_of_flax_are_one_matrix():
    kernel, x = draw(4, 20, 3, 30), draw(9, 4, 20)
    weight = found({"proj.kernel": kernel, "proj.bias": draw(3, 30)})["proj.kernel"]
    expected = np.einsum("nab,abcd->ncd", x, kernel).reshape(9, 90)
    np.testing.assert_allclose(x.reshape(9, 80) @ weight.read(), expected, rtol=1e-4, atol=1e-4)


def test_rows_of_length_1_with_a_bias_beside_are_measured():
    W = draw(90, 64)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    for state, status in (({"W_dec": W}, "skipped"), ({"W_dec": W, "b_dec": draw(64)}, "fit")):
        (layer,) = measure(matrices(open_checkpoint(state)))
        assert layer.status == status


NAMES = [
    *("w", "a.weight", "a.bias", "experts.w", "W_Q", "b_Q", "q.kernel", "q.bias", "conv.weight"),
    *("conv.kernel", "conv.bias", "l.scale", "l.bias", "l.kernel", "experts.router.weight"),
]


@settings(max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from(NAMES), st.lists(st.sampled_from([0, 1, 2, 3, 5, 64]), max_size=6)
    ),
)
def test_the_elements_of_any_arrays_are_parted_among_the_weights(sides):
    start, state = 0, {}
    for name, shape in sides.items():
        if math.prod(shape) > 40_000:
            continue
        state[name] = np.arange(start, start + math.prod(shape), dtype="f8").reshape(shape)
        start += state[name].size
    if not state:
        return
    parts = weights(open_checkpoint(state))
    elements = np.concatenate([w.read().reshape(-1) for w in parts])
    assert sorted(elements) == list(range(start))
    assert all(w.read().shape == w.shape for w in parts)


# --- the null of kernels with many taps


@pytest.mark.parametrize("shape", [(32, 16, 64), (64, 3, 64), (96, 4, 512)])
def test_the_null_holds_for_kernels_of_many_taps(shape):
    p = []
    for seed in range(60):
        values = esd.eigenvalues(draw(*shape, seed=seed))
        p.append(law.p_value(posterior_mean(values), shape))
    assert 0.3 < np.mean(p) < 0.75
    assert np.mean(np.array(p) <= 0.05) <= 0.15
