"""Tensors of a file -> notes on weights without elements, or in one vector with others."""

import re

from specdiag.checkpoint.formats.content import Content
from specdiag.wording import shown, some

_DEEPSPEED = {"ds_config", "ds_version", "param_shapes"}  # entries of its files


def placeholders(content: Content) -> list[str]:
    """Return notes on weights that have no elements, or lie in one vector with others.

    DeepSpeed is named if the file has its entries, or if most weights are empty: modules whose
    weights are computed elsewhere keep an empty one, too.
    """
    notes = []
    flat = [t.name for t in content.tensors if re.search(r"(^|\.)_?flat_param(_\d+)?$", t.name)]
    if flat:
        notes.append(
            f"flat parameters of FSDP ({some(list(map(shown, flat)), 3)}) hold several weights "
            "each, which cannot be told apart: save the model with SHARDED_STATE_DICT or "
            "FULL_STATE_DICT"
        )
    named = [t for t in content.tensors if re.search(r"(^|\.)weight$", t.name)]
    empty = [shown(t.name) for t in named if 0 in t.shape]
    if empty:
        are = "weight is" if len(empty) == 1 else "weights are"
        note = f"{len(empty):,} {are} empty ({some(empty, 3)})"
        if _DEEPSPEED & content.metadata.keys() or 2 * len(empty) >= len(named):
            note += (
                ", as in a file of DeepSpeed ZeRO-3 whose weights were not gathered: "
                "zero_to_fp32.py of DeepSpeed, or stage3_gather_16bit_weights_on_model_save, "
                "gathers them"
            )
        notes.append(note)
    return notes
