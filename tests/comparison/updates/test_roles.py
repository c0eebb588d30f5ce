"""Roles and depths of weights, by their names in networks of several libraries."""

import pytest

from specdiag.comparison.updates.roles import depth_of, role_of

NAMES = {
    "encoder.layer.3.attention.self.query.weight": ("query", 3),
    "encoder.layer.3.attention.self.value.weight": ("value", 3),
    "encoder.layer.3.attention.output.dense.weight": ("output", 3),
    "encoder.layer.3.intermediate.dense.weight": ("mlp", 3),
    "encoder.layer.3.output.dense.weight": ("mlp", 3),
    "embeddings.word_embeddings.weight": ("embedding", -1),
    "pooler.dense.weight": ("other", -1),
    "model.layers.11.self_attn.q_proj.weight": ("query", 11),
    "model.layers.11.self_attn.k_proj.weight": ("key", 11),
    "model.layers.11.self_attn.o_proj.weight": ("output", 11),
    "model.layers.11.mlp.gate_proj.weight": ("mlp", 11),
    "model.layers.11.mlp.experts.3.down_proj.weight": ("mlp", 11),
    "model.embed_tokens.weight": ("embedding", -1),
    "lm_head.weight": ("head", -1),
    "transformer.h.0.attn.c_attn.weight": ("fused attention", 0),
    "transformer.h.0.attn.c_attn.weight[q]": ("query", 0),
    "transformer.h.0.attn.c_attn.weight[v]": ("value", 0),
    "transformer.h.0.attn.c_proj.weight": ("output", 0),
    "transformer.h.0.mlp.c_proj.weight": ("mlp", 0),
    "h.5.mlp.c_fc.weight": ("mlp", 5),
    "proc_layers.2.0.to_qkv.weight": ("fused attention", 2),
    "proc_layers.0.1.1.net.3.weight": ("mlp", 0),
    "enc_ffn.1.net.0.weight": ("mlp", 1),
    "transformer_blocks.1.ff.net.0.proj.weight": ("mlp", 1),
    "enc_atn.to_q.weight": ("query", -1),
    "blocks.7.attn.qkv.weight": ("fused attention", 7),
    "blocks.7.attn.proj.weight": ("output", 7),
    "blk.4.ffn_up.weight": ("mlp", 4),
    "blk.4.attn_q.weight": ("query", 4),
    "gpt_neox.layers.9.attention.query_key_value.weight": ("fused attention", 9),
    "layer1.0.conv1.weight": ("other", 1),
    "fc.weight": ("other", -1),
    "transformer.layer.2.attention.q_lin.weight": ("query", 2),
    "encoder.layers.1.self_attn.in_proj_weight": ("fused attention", 1),
    "encoder.layers.1.linear2.weight": ("mlp", 1),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_tells_role_and_depth(name):
    assert (role_of(name), depth_of(name)) == NAMES[name]
