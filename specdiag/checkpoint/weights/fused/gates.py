"""Recurrent layers and gated layers -> the layout of their gates."""

import re

from specdiag.checkpoint.weights.evidence import Evidence
from specdiag.checkpoint.weights.fused.layout import Layout, Neighbours, outputs_of_fused

# Number of gates -> their order, in torch (`torch.nn.LSTM`, `torch.nn.GRU`) and in Keras
# (`LSTMCell.call`: i, f, c, o; `GRUCell.call`: z, r, h).
_TORCH = {4: ("input", "forget", "cell", "output"), 3: ("reset", "update", "new")}
_KERAS = {4: ("input", "forget", "cell", "output"), 3: ("update", "reset", "new")}
# weight_ih_l0_reverse; w_ih and enc_w_ih, of weights that are kept as arrays.
_RECURRENT = re.compile(
    r"(?P<start>(?:.*_)?w(?:eight)?)_(ih|hh)(?P<layer>(?:_l\d+(?:_reverse)?)?)", re.DOTALL
)

# A matrix, the matrix that takes half of its outputs, and the names of its halves. Names of
# transformers (Phi-3, GLM, Llama 4, Granite, ModernBERT, ChatGLM), DINOv2 (SwiGLUFFN), llama.cpp
# (Phi-3), diffusers (GEGLU, SwiGLU), OLMo, Mamba, and timm (GluMlp, whose gate is either half).
_HALVES = {
    "gate_up_proj": ("down_proj", ("gate", "up")),
    "input_linear": ("output_linear", ("gate", "up")),
    "mlp1_weight": ("mlp2_weight", ("gate", "up")),  # GPT-OSS of OpenAI: in turn
    "w12": ("w3", ("gate", "up")),
    "dense_h_to_4h": ("dense_4h_to_h", ("gate", "up")),
    "ffn_up": ("ffn_down", ("gate", "up")),
    "Wi": ("Wo", ("gate", "up")),
    "ff_proj": ("ff_out", ("up", "gate")),
    "net.0.proj": ("net.2", ("up", "gate")),
    "mixer.in_proj": ("mixer.out_proj", ("x", "z")),
    "mamba.in_proj": ("mamba.out_proj", ("x", "z")),
    "mlp.fc1": ("mlp.fc2", ("first half", "second half")),
}


def recurrent(near: Neighbours) -> Layout | None:
    """Return the layout of a weight of torch's LSTM, GRU and their cells, or of those of Keras.

    The matrix of the hidden state has as many rows for each gate as there are units. With
    `proj_size`, the units are the columns of `weight_hr`, and the hidden state is shorter.
    """
    if match := _RECURRENT.fullmatch(near.leaf):
        start, layer = match["start"], match["layer"]
        hidden = near.parameter(f"{start}_hh{layer}")
        projection = near.parameter(f"{start}_hr{layer}")
        if not hidden or (projection and projection[0] != hidden[1]):
            return None
        units = projection[1] if projection else hidden[1]
        return _gates(near, hidden[0], units, _TORCH, axis=0)
    # Keras 3 numbers the variables of a cell.
    if near.is_called("cell.vars.0") or near.is_called("cell.vars.1"):
        hidden = near.parameter("1")
        return _gates(near, hidden[1], hidden[0], _KERAS, axis=1) if hidden else None
    if near.leaf in ("kernel", "recurrent_kernel"):
        hidden = near.parameter("recurrent_kernel")
        return _gates(near, hidden[1], hidden[0], _KERAS, axis=1) if hidden else None
    return None


def _gates(
    near: Neighbours, size: int, units: int, orders: dict[int, tuple[str, ...]], axis: int
) -> Layout | None:
    for n_gates, order in orders.items():
        if size == n_gates * units == near.shape[axis]:
            return Layout(dict.fromkeys(order, units), axis)
    return None


def gated(near: Neighbours, evidence: Evidence) -> Layout | None:
    """Return the layout of a matrix with the gates and the values of a gated layer."""
    for fused, (other, labels) in _HALVES.items():
        out = near.module(fused, other) if near.is_called(fused) else None
        found = outputs_of_fused(near.shape, out) if out else None
        if not found or near.shape[found[0]] != 2 * found[1]:
            continue
        axis, half = found
        sizes = dict.fromkeys(labels, half)
        if any(near.is_called(f"feed_forward_{way}.{fused}") for way in ("in", "out")):
            sizes = dict.fromkeys(labels[::-1], half)  # Phi-4-multimodal: the gate is the second
        in_turn = fused == "mlp1_weight"
        if f"{near.name}_bias" in evidence.weights:  # the name does not tell the library
            types = {config.get("model_type") for config in evidence.configs}
            in_turn = "gpt_oss" in types
            if not in_turn and "openai_privacy_filter" not in types:
                return None
        return Layout(dict.fromkeys(labels, 1), axis, half) if in_turn else Layout(sizes, axis)
    return None
