"""Operators of an ONNX model -> what they do with each tensor that it stores."""

from collections.abc import Mapping
from typing import NamedTuple

from specdiag.checkpoint.formats.onnx.graph import Graph, Node
from specdiag.checkpoint.tensor import Tensor

MAX_USES = 1000  # operators that are looked at for one tensor
# Operators that hand the values of their first input on, or those of all of them.
_HAND_ON = {
    *("Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Expand"),
    *("Slice", "Split", "DequantizeLinear", "QuantizeLinear"),
}
_JOIN = "Concat"
RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
# For each operator of a layer, the role of its weight and the inputs that it can be.
_LAYERS = (
    dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger"), ("convolution", (1,)))
    | dict.fromkeys(("MatMul", "Gemm"), ("linear", (0, 1)))
    | dict.fromkeys(("MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits"), ("linear", (1,)))
    | dict.fromkeys(("QLinearMatMul", "QGemm"), ("linear", (3,)))
    | {"DynamicQuantizeMatMul": ("linear", (1,)), "QLinearConv": ("convolution", (3,))}
    | dict.fromkeys(RECURRENT, ("recurrent", (1, 2)))
    | {"Gather": ("", (0,)), "Einsum": ("", (0, 1))}
)
_STATES = {(op, position) for op in RECURRENT for position in (4, 5, 6)}


class Use(NamedTuple):
    """An operator that uses a tensor, and as which of its inputs."""

    node: Node
    position: int


def uses_of(graph: Graph) -> dict[str, list[Use]]:
    """Return the operators that use each value, in their order."""
    uses: dict[str, list[Use]] = {}
    for node in graph.nodes:
        for position, name in enumerate(node.inputs):
            uses.setdefault(name, []).append(Use(node, position))
    return uses


def role_of(tensor: Tensor, name: str, graph: Graph, uses: Mapping[str, list[Use]]) -> str:
    """Return the role of a tensor that is called `name` in the graph.

    It is ``'operand'`` for states of recurrent layers, and for constants that reach no layer;
    ``'embedding'`` for a matrix whose rows are looked up; ``'convolution'``, ``'linear'`` or
    ``'recurrent'`` for the weight of such a layer; otherwise empty.
    """
    inputs = {(use.node.op, use.position) for use in _ends(name, uses)}
    layers = [_LAYERS[op][0] for op, position in inputs if position in _LAYERS.get(op, ("", ()))[1]]
    is_constant = graph.tensors[name].is_constant and not tensor.rule
    if (inputs and inputs <= _STATES) or (is_constant and not layers):
        return "operand"
    if any(_is_lookup(use, graph) for use in uses.get(name, ())):
        return "embedding" if len(tensor.shape) == 2 else ""
    role = min(filter(None, layers), default="")
    return role if role != "linear" or len(tensor.shape) == 2 else ""


def _is_lookup(use: Use, graph: Graph) -> bool:
    """Return whether an operator takes rows of a table, by indices that it gets."""
    node, position = use
    if node.op != "Gather" or position != 0 or node.numbers.get("axis", 0) != 0:
        return False
    return len(node.inputs) > 1 and node.inputs[1] not in graph.tensors


def _ends(name: str, uses: Mapping[str, list[Use]]) -> list[Use]:
    """Return the operators that use a value, also behind those that hand it on."""
    ends, pending, seen, left = list[Use](), [name], {name}, MAX_USES
    while pending and left > 0:
        found = uses.get(pending.pop(), [])[:left]
        left -= len(found) + 1
        for use in found:
            node = use.node
            if node.op == _JOIN or (node.op in _HAND_ON and use.position == 0):
                pending += [output for output in node.outputs if output not in seen]
                seen |= {*node.outputs}
            else:
                ends.append(use)
    return ends
