"""Fused matrices -> their blocks: query, key and value; gate and up; the gates of an LSTM or GRU.

A matrix is cut only where names together with the sizes of its neighbours prove how it is laid out.
Libraries lay out matrices of one name differently, so a name alone is no proof. A matrix whose
layout is not proved stays whole, such as `qkv` beside `proj_out`, which has two layouts in
guided-diffusion, and `to_qkv` and `to_kv`, which many authors use.
"""

from specdiag.checkpoint.weights.evidence import Evidence
from specdiag.checkpoint.weights.fused.attention import query_key_value
from specdiag.checkpoint.weights.fused.gates import gated, recurrent
from specdiag.checkpoint.weights.fused.layout import Neighbours, in_blocks
from specdiag.checkpoint.weights.weight import Weight


def cut(weight: Weight, evidence: Evidence) -> list[Weight] | None:
    """Return the blocks that a fused matrix consists of; None if it is one matrix."""
    if len(weight.shape) != 2 or 0 in weight.shape:
        return None
    near = Neighbours(weight, evidence)
    layout = recurrent(near) or query_key_value(near, evidence) or gated(near, evidence)
    return in_blocks(weight, layout) if layout else None
