"""Blocks of fused attention, against what the models of transformers and torch compute with them.

One token at position 0 is not rotated, so that the queries and keys that a model computes are the
products of its input with the blocks.
"""

import importlib

import numpy as np
import pytest
import torch

from specdiag.checkpoint.weights.find import open_weights

HIDDEN, HEADS = 64, 4
COMMON = {"vocab_size": 50, "num_hidden_layers": 1, "pad_token_id": 0}
LLAMA = COMMON | {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "intermediate_size": 96,
}
GPT = {"vocab_size": 50, "n_embd": HIDDEN, "n_head": HEADS, "n_layer": 1}

# Module of transformers, name of the model, its configuration, and the name of the fused matrix.
MODELS = {
    "gpt2": ("gpt2", "GPT2", GPT, "h.0.attn.c_attn"),
    "bigcode": ("gpt_bigcode", "GPTBigCode", GPT, "h.0.attn.c_attn"),
    "bigcode heads": (
        *("gpt_bigcode", "GPTBigCode"),
        GPT | {"multi_query": False},
        "h.0.attn.c_attn",
    ),
    "phi3": ("phi3", "Phi3", LLAMA, "layers.0.self_attn.qkv_proj"),
    "phi3 grouped": (
        *("phi3", "Phi3"),
        LLAMA | {"num_key_value_heads": 2},
        "layers.0.self_attn.qkv_proj",
    ),
    "neox": ("gpt_neox", "GPTNeoX", LLAMA, "layers.0.attention.query_key_value"),
    "bloom": (
        *("bloom", "Bloom"),
        {"vocab_size": 50, "hidden_size": HIDDEN, "n_head": HEADS, "n_layer": 1},
        "h.0.self_attention.query_key_value",
    ),
    "persimmon": (
        *("persimmon", "Persimmon"),
        LLAMA | {"qk_layernorm": False},
        "layers.0.self_attn.query_key_value",
    ),
    "codegen": ("codegen", "CodeGen", GPT | {"rotary_dim": 8}, "h.0.attn.qkv_proj"),
    "modernbert": ("modernbert", "ModernBert", LLAMA, "layers.0.attn.Wqkv"),
    "falcon one key": (
        *("falcon", "Falcon"),
        LLAMA | {"multi_query": True},
        "h.0.self_attention.query_key_value",
    ),
    "falcon": (
        *("falcon", "Falcon"),
        LLAMA | {"multi_query": False, "alibi": True},
        "h.0.self_attention.query_key_value",
    ),
    "falcon grouped": (
        *("falcon", "Falcon"),
        LLAMA | {"new_decoder_architecture": True, "num_kv_heads": 2},
        "h.0.self_attention.query_key_value",
    ),
}


def make(module, name, config):
    """Return a small model of transformers with random weights."""
    torch.manual_seed(0)
    package = importlib.import_module(f"transformers.models.{module}")
    settings = {"bos_token_id": 1, "eos_token_id": 2} | config
    model = getattr(package, f"{name}Model")(getattr(package, f"{name}Config")(**settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


def used(model, fused):
    """Return the input of the fused module for one token, and the q, k, v computed from it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    seen = {}
    module = model.get_submodule(fused)
    attention = model.get_submodule(fused.rpartition(".")[0])
    module.register_forward_hook(lambda _, args, out: seen.update(x=args[0], out=out))

    def interface(_, query, key, value, *args, **settings):
        seen["qkv"] = query, key, value
        return value.repeat(1, query.shape[1] // value.shape[1], 1, 1).transpose(1, 2), None

    def recorded(out):
        seen["qkv"] = own(out)
        return seen["qkv"]

    methods = [m for m in ("_split_heads", "_reshape") if hasattr(attention, m)]  # Falcon, BLOOM
    if methods:
        own = getattr(attention, methods[0])
        setattr(attention, methods[0], recorded)
    else:
        ALL_ATTENTION_FUNCTIONS.register("recorded", interface)
        model.config._attn_implementation = "recorded"
    model(torch.tensor([[3]]))
    return seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MODELS)
def test_blocks_are_the_matrices_that_compute_query_key_and_value(kind, tmp_path):
    module, name, config, fused = MODELS[kind]
    model = make(module, name, config)
    model.save_pretrained(tmp_path)
    blocks = [w for w in open_weights(tmp_path).tensors if w.whole == f"{fused}.weight"]
    seen = used(model, fused)
    outputs_in_rows = model.get_submodule(fused).weight.shape[1] == HIDDEN
    bias = model.get_submodule(fused).bias
    x = seen["x"].reshape(-1).detach().numpy()
    assert {w.name[-3:] for w in blocks} == {"[q]", "[k]", "[v]"}
    for label, expected in zip("qkv", seen["qkv"], strict=True):
        (weight,) = (w for w in blocks if w.name.endswith(f"[{label}]"))
        W = weight.read() if outputs_in_rows else weight.read().T
        rows = _rows_of(W, model.get_submodule(fused).weight.detach().numpy(), outputs_in_rows)
        ours = W @ x + (0 if bias is None else bias.detach().numpy()[rows])
        theirs = expected.detach().numpy().reshape(-1, HIDDEN // HEADS)
        if len(theirs) * (HIDDEN // HEADS) > len(ours):  # Falcon repeats keys and values
            theirs = theirs[:: len(theirs) * (HIDDEN // HEADS) // len(ours)]
        np.testing.assert_allclose(ours, theirs.reshape(-1), rtol=1e-3, atol=1e-3)


def _rows_of(block, whole, outputs_in_rows):
    """Return the indices of the outputs that a block has in its whole."""
    whole = whole if outputs_in_rows else whole.T
    index = {row.tobytes(): i for i, row in enumerate(np.ascontiguousarray(whole))}
    return [index[row.tobytes()] for row in np.ascontiguousarray(block)]


@pytest.mark.filterwarnings("ignore")
def test_a_model_in_memory_has_the_blocks_of_its_file(tmp_path):
    module, name, config, fused = MODELS["neox"]
    model = make(module, name, config)
    model.save_pretrained(tmp_path)
    in_memory, in_file = (blocks_of(source, f"{fused}.weight") for source in (model, tmp_path))
    assert in_memory.keys() == in_file.keys() == {*"qkv"}
    for label, block in in_file.items():
        np.testing.assert_array_equal(in_memory[label], block)


def attend(x, blocks, n_heads, context=None):
    """Return what attention computes for tokens x, without biases, before its last matrix."""
    context = x if context is None else context
    q, k, v = (
        (tokens @ torch.tensor(blocks[label]).T).reshape(len(tokens), n_heads, -1).transpose(0, 1)
        for label, tokens in (("q", x), ("k", context), ("v", context))
    )
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)


def blocks_of(source, whole):
    """Return the values of the blocks of a weight by label."""
    found = [w for w in open_weights(source).tensors if w.whole == whole]
    return {w.name.removeprefix(whole)[1:-1]: w.read() for w in found}


def test_blocks_of_torch_attention_compute_what_it_computes():
    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(HIDDEN, HEADS, bias=False)
    x = torch.randn(5, HIDDEN)
    ours = attend(x, blocks_of(module.state_dict(), "in_proj_weight"), HEADS)
    torch.testing.assert_close(ours @ module.out_proj.weight.T, module(x, x, x)[0])


@pytest.mark.filterwarnings("ignore")
def test_blocks_of_mpt_compute_what_it_computes():
    config = {"vocab_size": 50, "d_model": HIDDEN, "n_heads": HEADS, "n_layers": 1}
    module = make("mpt", "Mpt", config).blocks[0].attn
    x = torch.randn(5, HIDDEN)
    state = {f"attn.{name}": value for name, value in module.state_dict().items()}
    state["norm.weight"] = torch.ones(HIDDEN)
    ours = attend(x, blocks_of(state, "attn.Wqkv.weight"), HEADS)
    theirs = module(x[None], position_bias=None)[0][0]
    torch.testing.assert_close(ours @ module.out_proj.weight.T, theirs)


@pytest.mark.filterwarnings("ignore")
def test_blocks_of_blip_compute_what_it_computes():
    from transformers.models.blip.modeling_blip import BlipAttention, BlipVisionConfig

    config = {"hidden_size": HIDDEN, "num_attention_heads": HEADS}
    module = BlipAttention(BlipVisionConfig(**config, attn_implementation="eager"))
    module.qkv.bias.data.zero_()
    x = torch.randn(5, HIDDEN)
    ours = attend(x, blocks_of(module.state_dict(), "qkv.weight"), HEADS)
    torch.testing.assert_close(module.projection(ours), module(x[None])[0][0])


@pytest.mark.filterwarnings("ignore")
def test_blocks_of_cross_attention_are_keys_and_values():
    from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Config

    config = GPT2Config(**GPT, attn_implementation="eager")
    module = GPT2Attention(config, is_cross_attention=True, layer_idx=0).eval()
    x, context = torch.randn(1, 4, HIDDEN), torch.randn(1, 6, HIDDEN)
    blocks = blocks_of(module.state_dict(), "c_attn.weight")
    blocks = {label: block.T for label, block in blocks.items()}  # outputs in columns
    blocks["q"] = module.q_attn.weight.detach().numpy().T
    ours = module.c_proj(attend(x[0], blocks, HEADS, context[0]))
    theirs = module(x, encoder_hidden_states=context)[0]
    torch.testing.assert_close(ours, theirs[0])


def state_of(**shapes):
    """Return random matrices; names have two underscores for a dot."""
    rng = np.random.default_rng(0)
    return {name.replace("__", "."): rng.standard_normal(s) for name, s in shapes.items()}


@pytest.mark.parametrize(
    "shapes",
    [
        # guided-diffusion: two orders of the heads under one name
        {"qkv__weight": (96, 32, 1), "proj_out__weight": (32, 32, 1)},
        {"to_qkv__weight": (96, 32), "to_out__weight": (32, 32)},
        {"to_kv__weight": (64, 32), "to_q__weight": (32, 32), "to_out__weight": (32, 32)},
        # by heads whose number is unknown
        {"query_key_value__weight": (96, 32), "dense__weight": (32, 32)},
        # timm: TinyViT and MaxViT lay out one head after another
        {"attn__qkv__weight": (96, 32), "attn__proj__weight": (32, 32)}
        | {"attn__attention_biases": (4, 9)},
        {"attn__qkv__weight": (96, 32), "attn__proj__weight": (32, 32)}
        | {"attn__rel_pos__relative_position_bias_table": (4, 9, 9)},
        # LightGlue: q, k and v of each feature side by side, under the names of flash-attn
        {"self_attn__Wqkv__weight": (96, 32), "self_attn__out_proj__weight": (32, 32)},
        # queries alone are twice as many as the next matrix takes
        {"qkv__weight": (64, 32), "proj__weight": (32, 32)},
        {"in_proj_weight": (64, 32), "out_proj__weight": (32, 32)},
        {"in_proj_weight": (96, 32)},
        {"c_attn__weight": (96, 32)},
        {"fc1__weight": (64, 32), "fc2__weight": (32, 32)},
        {"mlp__fc1__weight": (128, 32), "mlp__fc2__weight": (32, 128)},
    ],
)
def test_matrices_whose_layout_is_not_proved_stay_whole(shapes):
    state = state_of(**shapes)
    assert {w.name for w in open_weights(state).tensors} == state.keys()
