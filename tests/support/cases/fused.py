"""Matrices that hold several: which rows are queries, keys, values or gates differs by library.

`blocks` of a case are the true parts of each such matrix, as its forward pass splits it.
"""

import json
from itertools import pairwise

import numpy as np

from support.cases.case import Made, arrays, case, fill, heavy, linears

NEEDS = ("torch", "transformers")


def _saved(folder, model, blocks, extra=()):
    model.save_pretrained(folder)
    return Made(folder, linears(model) + arrays(extra), blocks=arrays(blocks))


def _of_heads(weight, n_heads, counts=(1, 1, 1)):
    """Return queries, keys and values of groups of heads that lie side by side."""
    groups = weight.reshape(-1, sum(counts), weight.shape[0] // n_heads, weight.shape[1])
    ends = np.cumsum((0, *counts))
    return [groups[:, a:b].flatten(0, 2) for a, b in pairwise(ends)]


@case(*NEEDS)
def codegen(folder):
    """Four groups of rows, each with queries, values and keys, in that order."""
    from transformers import CodeGenConfig, CodeGenForCausalLM

    sizes = {"n_embd": 128, "n_layer": 1, "n_head": 4, "rotary_dim": 16, "vocab_size": 150}
    model = fill(CodeGenForCausalLM(CodeGenConfig(**sizes, n_positions=64)))
    weight = model.transformer.h[0].attn.qkv_proj.weight
    parts = weight.reshape(4, 3, 32, 128)
    return _saved(folder, model, [parts[:, i].reshape(128, 128) for i in range(3)])


@case(*NEEDS)
def falcon_of_one_key(folder):
    """Multi-query attention: all queries, then one key and one value."""
    from transformers import FalconConfig, FalconForCausalLM

    sizes = {"hidden_size": 192, "num_hidden_layers": 1, "num_attention_heads": 3}
    model = FalconForCausalLM(FalconConfig(**sizes, vocab_size=150, multi_query=True))
    weight = fill(model).transformer.h[0].self_attention.query_key_value.weight
    return _saved(folder, model, weight.split((192, 64, 64)))


@case(*NEEDS)
def falcon_of_groups(folder):
    """Grouped queries: for each group its queries, its key and its value."""
    from transformers import FalconConfig, FalconForCausalLM

    sizes = {"hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 8}
    kind = {"new_decoder_architecture": True, "num_kv_heads": 4}
    model = FalconForCausalLM(FalconConfig(**sizes, **kind, vocab_size=150))
    weight = fill(model).transformer.h[0].self_attention.query_key_value.weight
    parts = weight.reshape(4, 4, 16, 128)
    blocks = [parts[:, :2].reshape(128, 128), parts[:, 2].reshape(64, 128)]
    return _saved(folder, model, [*blocks, parts[:, 3].reshape(64, 128)])


@case(*NEEDS)
def big_code(folder):
    """GPT-2's names, but linear layers with their output first, and one key for all queries."""
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    sizes = {"n_embd": 128, "n_layer": 1, "n_head": 2, "vocab_size": 150, "n_positions": 64}
    model = fill(GPTBigCodeForCausalLM(GPTBigCodeConfig(**sizes, multi_query=True)))
    weight = model.transformer.h[0].attn.c_attn.weight
    return _saved(folder, model, weight.split((128, 64, 64)))


@case(*NEEDS)
def big_code_of_heads(folder):
    """The same without a shared key: then each head has its query, key and value side by side."""
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    sizes = {"n_embd": 128, "n_layer": 1, "n_head": 2, "vocab_size": 150, "n_positions": 64}
    model = fill(GPTBigCodeForCausalLM(GPTBigCodeConfig(**sizes, multi_query=False)))
    weight = model.transformer.h[0].attn.c_attn.weight
    return _saved(folder, model, _of_heads(weight, 2 * 3))


@case(*NEEDS)
def mpt(folder):
    from transformers import MptConfig, MptForCausalLM

    model = fill(MptForCausalLM(MptConfig(d_model=128, n_layers=1, n_heads=2, vocab_size=150)))
    weight = model.transformer.blocks[0].attn.Wqkv.weight
    return _saved(folder, model, weight.chunk(3))


@case(*NEEDS)
def persimmon(folder):
    from transformers import PersimmonConfig, PersimmonForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 1}
    config = PersimmonConfig(**sizes, num_attention_heads=2, vocab_size=150)
    model = fill(PersimmonForCausalLM(config))
    weight = model.model.layers[0].self_attn.query_key_value.weight
    return _saved(folder, model, _of_heads(weight, 2 * 3))


@case(*NEEDS)
def modern_bert(folder):
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    sizes = {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 1}
    config = ModernBertConfig(**sizes, num_attention_heads=2, vocab_size=150, pad_token_id=0)
    model = fill(ModernBertForMaskedLM(config))
    layer = model.model.layers[0]
    blocks = [*layer.attn.Wqkv.weight.chunk(3), *layer.mlp.Wi.weight.chunk(2)]
    return _saved(folder, model, blocks)


@case(*NEEDS)
def glm(folder):
    from transformers import Glm4Config, Glm4ForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 1, "head_dim": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0}
    model = fill(Glm4ForCausalLM(Glm4Config(**sizes, **heads, vocab_size=150)))
    return _saved(folder, model, model.model.layers[0].mlp.gate_up_proj.weight.chunk(2))


@case(*NEEDS)
def gates_of_experts_alternate(folder):
    """gpt-oss: the columns of gates and of what they gate take turns."""
    from transformers import GptOssConfig, GptOssForCausalLM

    sizes = {"hidden_size": 80, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 120}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64}
    config = GptOssConfig(**sizes, **heads, num_local_experts=4, layer_types=["full_attention"])
    model = fill(GptOssForCausalLM(config))
    mlp = model.model.layers[0].mlp
    stacks = [mlp.experts.gate_up_proj, mlp.experts.down_proj, mlp.router.weight]
    blocks = [expert[:, i::2] for expert in mlp.experts.gate_up_proj for i in (0, 1)]
    blocks += [*mlp.experts.gate_up_proj, *mlp.experts.down_proj]
    return _saved(folder, model, blocks, stacks)


@case(*NEEDS)
def experts_in_rows(folder):
    """DBRX: the experts lie below each other in one matrix of (experts x width, model)."""
    from transformers import DbrxConfig, DbrxForCausalLM

    attention = {"kv_n_heads": 1, "clip_qkv": 8.0, "rope_theta": 1e4}
    experts = {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2}
    sizes = {"d_model": 128, "n_layers": 1, "n_heads": 2, "vocab_size": 150, "max_seq_len": 64}
    config = DbrxConfig(**sizes, attn_config=attention, ffn_config=experts)
    model = fill(DbrxForCausalLM(config))
    block = model.transformer.blocks[0]
    mlp = block.ffn.experts.mlp
    stacks = [mlp.w1, mlp.v1, mlp.w2]
    blocks = [expert for stack in stacks for expert in stack.chunk(4)]
    blocks += block.norm_attn_norm.attn.Wqkv.weight.split((128, 64, 64))
    return _saved(folder, model, blocks, stacks)


@case("torch")
def grouped_keys_of_internlm(folder):
    """InternLM2: `wqkv` has, for each group, its queries, its key and its value."""
    import torch

    weight = torch.from_numpy(heavy(256, 128))
    tensors = {
        "model.layers.0.attention.wqkv.weight": weight,
        "model.layers.0.attention.wo.weight": torch.from_numpy(heavy(128, 128, seed=1)),
    }
    torch.save(tensors, folder / "pytorch_model.bin")
    config = {"model_type": "internlm2", "hidden_size": 128, "num_attention_heads": 8}
    (folder / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 4}))
    parts = weight.reshape(4, 4, 16, 128)
    blocks = [parts[:, :2].reshape(128, 128), parts[:, 2].reshape(64, 128)]
    blocks.append(parts[:, 3].reshape(64, 128))
    return Made(folder, arrays(tensors.values()), blocks=arrays(blocks))


@case("torch")
def sizes_that_prove_nothing(folder):
    """`qkv` and `to_kv` whose rows are no multiple of a width: they stay whole."""
    import torch

    tensors = {
        "a.to_qkv.weight": heavy(384, 128),
        "a.to_kv.weight": heavy(256, 128, seed=1),
        "b.qkv.weight": heavy(200, 128, seed=2),
        "c.in_proj.weight": heavy(400, 128, seed=3),
    }
    torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, folder / "net.pt")
    return Made(folder / "net.pt", [np.float64(v) for v in tensors.values()], blocks=[])
