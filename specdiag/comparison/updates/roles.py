"""Name of a weight -> its role in the network, such as query projection, and its depth."""

import re

# Role -> its words in names, the plural, and what the last components of a module's name are.
ROLES = {
    "query": "query projections",
    "key": "key projections",
    "value": "value projections",
    "fused attention": "fused attention projections",
    "output": "output projections of attention",
    "mlp": "MLP matrices",
    "embedding": "embedding tables",
    "head": "heads",
    "other": "other matrices",
}
_ATTENTION = r"(att(n|ention)?|atn|self_attn|crossattention|mha)"
_RULES = {
    "embedding": (r"(^|\.)(\w*embed\w*|wte|wpe|lut|\w*_emb|emb)(\.|$)",),
    "fused attention": (
        r"(^|[._])(w?qkv|kv|to_qkv|to_kv|(qkv|in|kv)_proj|query_key_value|linear_qkv)$",
        rf"{_ATTENTION}\.c_attn$",
        r"(^|\.)in_proj_weight$",
    ),
    "query": (r"(^|[._])(q|query|wq|q_proj|to_q|q_lin|linear_q|attn_q)$",),
    "key": (r"(^|[._])(k|key|wk|k_proj|to_k|k_lin|linear_k|attn_k)$",),
    "value": (r"(^|[._])(v|value|wv|v_proj|to_v|v_lin|linear_v|attn_v)$",),
    "output": (
        r"(^|[._])(o|wo|o_proj|to_out|to_out\.0|out_lin|attn_output|linear_proj)$",
        rf"{_ATTENTION}\w*\.(\w+\.)?(output\.dense|dense|out_proj|c_proj|proj|out|output)$",
    ),
    "mlp": (
        r"(^|\.)net\.\d+(\.proj)?$",
        r"(^|\.)(mlp|(\w+_)?ffn?|ffwd|feed_?forward|intermediate|dense_relu_dense|experts?)(\.|$|\d)",
        r"(^|[._])(fc_?[12]|w[123]|lin[12]|linear[12]|(gate|up|down|gate_up)_proj|c_fc)$",
        r"(^|[._])(dense_h_to_4h|dense_4h_to_h|ffn_(up|down|gate)|linear_fc[12])$",
        r"layers?\.\d+\.output\.dense$",
    ),
    "head": (r"(^|\.)(lm_head|classifier|heads?|cls|readout|score)(\.|$)",),
}
_BLOCKS = {"q": "query", "k": "key", "v": "value", "gate": "mlp", "up": "mlp"}


def role_of(name: str) -> str:
    """Return the role of a weight by its name: one of `ROLES`.

    A block of a fused weight, such as ``c_attn.weight[q]``, has the role of its block.
    """
    module, _, block = name.partition("[")
    if (label := block.partition("]")[0].split()) and label[0] in _BLOCKS:
        return _BLOCKS[label[0]]
    module = re.sub(r"\.(weight|kernel|w|lora_update|base_layer\.weight)$", "", module).lower()
    module = module.replace("/", ".")
    found = (r for r, rules in _RULES.items() if any(re.search(rule, module) for rule in rules))
    return next(found, "other")


def depth_of(name: str) -> int:
    """Return the number of the block that a weight is in, from 0; -1 if its name has none.

    It is the first number that is a component of the name or at the end of one: ``layer.3``.
    """
    for word in re.split(r"[./]", name.partition("[")[0]):
        match = re.fullmatch(r"(\D*?)_?(\d+)", word)
        if match and not re.fullmatch(r"(fc|w|lin|linear|conv|c|k|dense|l)", match[1].lower()):
            return int(match[2])
    return -1
