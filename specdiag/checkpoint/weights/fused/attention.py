"""Fused query, key and value -> their layout, from names, sizes and the config.json beside them."""

from collections.abc import Mapping
from typing import Any

from specdiag.checkpoint.weights.evidence import HEADS, KEY_HEADS, Evidence
from specdiag.checkpoint.weights.fused.layout import Layout, Neighbours, outputs_of_fused

# A fused matrix and the matrices that can take the values of its heads, of libraries that lay out
# all queries, then all keys, then all values: transformers (GPT-2, Phi-3, BLIP, ModernBERT), MPT
# and flash-attn (Wqkv), timm and DINO (qkv), Baichuan (W_pack), OLMo (att_proj), ESM-C, llama.cpp.
_IN_ORDER = {
    "c_attn": ("c_proj",),
    "qkv_proj": ("o_proj",),
    "attn.Wqkv": ("attn.out_proj", "attn.Wo"),
    "mixer.Wqkv": ("mixer.out_proj",),
    "qkv": ("proj", "projection"),
    "W_pack": ("o_proj",),
    "att_proj": ("attn_out",),
    "layernorm_qkv.1": ("out_proj",),
    "attn_qkv": ("attn_output",),
}
# Modules and parameters beside `qkv` and `proj` in timm's TinyViT, MaxViT and CoAtNet, which lay
# out the heads one after another.
_BY_HEADS = ("attention_biases", "rel_pos.")

# The same of transformers whose config.json tells the layout.
_BY_CONFIG = {
    "query_key_value": "dense",
    "c_attn": "c_proj",
    "qkv_proj": "out_proj",
    "wqkv": "wo",
}


def query_key_value(near: Neighbours, evidence: Evidence) -> Layout | None:
    """Return the layout of a fused matrix of attention.

    The next matrix takes as many features as there are queries; keys and values share the rest.
    """
    if near.leaf == "in_proj_weight":  # torch.nn.MultiheadAttention
        out = near.parameter("out_proj.weight")
        found = outputs_of_fused(near.shape, out) if out else None
        return _thirds(near, *found) if found else None
    for fused, other in _BY_CONFIG.items():
        out = near.module(fused, other) if near.is_called(fused) else None
        for config in evidence.configs:
            if out and (layout := _by_config(near.shape[0], out[1], config)):
                return layout
    for fused, others in _IN_ORDER.items():
        if near.is_called(fused) and not any(near.has(fused, start) for start in _BY_HEADS):
            for other in others:
                out = near.module(fused, other)
                if out and (layout := _in_order(near, fused, out)):
                    return layout
    return _key_value(near)


def _in_order(near: Neighbours, fused: str, out: tuple[int, ...]) -> Layout | None:
    if fused == "qkv":  # the two can have other inputs and outputs, as in Hiera
        return _thirds(near, 0, out[1]) or (
            _thirds(near, 1, out[0]) if near.leaf == "kernel" else None
        )
    found = outputs_of_fused(near.shape, out)
    if not found:
        return None
    axis, queries = found
    if near.module(fused, "q_attn"):  # cross-attention of GPT-2, where queries are apart
        is_pair = near.shape[axis] == 2 * queries
        return Layout({"k": queries, "v": queries}, axis) if is_pair else None
    keys, odd = divmod(near.shape[axis] - queries, 2)
    if odd or queries % keys:  # several heads of queries share one of keys
        return None
    return Layout({"q": queries, "k": keys, "v": keys}, axis)


def _thirds(near: Neighbours, axis: int, size: int) -> Layout | None:
    return Layout(dict.fromkeys("qkv", size), axis) if near.shape[axis] == 3 * size else None


def _key_value(near: Neighbours) -> Layout | None:
    """Return the layout of `kv` beside `q` and `proj`, as in timm's PVT and Twins."""
    queries, out = (
        near.module("kv", name) if near.is_called("kv") else None for name in ("q", "proj")
    )
    if not queries or not out or near.shape != (2 * queries[0], queries[1]):
        return None
    if out[1] != queries[0] or near.has("kv", _BY_HEADS[0]):
        return None
    return Layout(dict.fromkeys("kv", queries[0]))


def _by_config(size: int, queries: int, config: Mapping[str, Any]) -> Layout | None:
    """Return the layout of `size` rows, of which `queries` are queries, or None if unknown.

    The layouts are those of the `forward` of the model in transformers, or, where it has none, in
    the repository of the model (ChatGLM, InternLM2, RefinedWeb: the first name of Falcon).
    """
    kind = config.get("model_type")
    if kind == "codegen" and size == 3 * queries and queries % 4 == 0:
        return Layout(dict.fromkeys("qvk", queries // 4), 0, 4)
    if kind == "chatglm" and config.get("multi_query_attention"):
        keys = (size - queries) // 2
        return Layout({"q": queries, "k": keys, "v": keys})
    heads = _number(config, HEADS)
    if not heads or queries % heads:
        return None
    width = queries // heads
    one_each = Layout(dict.fromkeys("qkv", width), 0, heads)
    if kind in ("gpt_neox", "gpt_neox_japanese", "bloom", "persimmon"):
        return one_each
    if kind == "gpt_bigcode":
        return None if config.get("multi_query", True) else one_each
    if kind not in ("falcon", "RefinedWeb", "RefinedWebModel", "internlm2"):
        return None
    if kind == "internlm2" or config.get("new_decoder_architecture", kind == "RefinedWeb"):
        groups = _number(config, KEY_HEADS) or heads
        if heads % groups:
            return None
        return Layout({"q": queries // groups, "k": width, "v": width}, 0, groups)
    if config.get("multi_query", True):
        return Layout({"q": queries, "k": width, "v": width})
    return one_each


def _number(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    values = (config.get(key) for key in keys)
    return next((n for n in values if type(n) is int and n > 0), None)
