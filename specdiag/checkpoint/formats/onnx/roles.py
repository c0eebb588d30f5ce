"""Operators of an ONNX model -> what they do with each tensor that it stores."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from math import prod
from typing import NamedTuple

import numpy as np

from specdiag.checkpoint.formats.onnx.axes import (
    Groups,
    followed,
    letters_of_einsum,
    letters_of_product,
)
from specdiag.checkpoint.formats.onnx.graph import Graph, Node, Stored
from specdiag.checkpoint.tensor import MAX_DIMENSIONS, Tensor

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
    dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger", "FusedConv"), ("convolution", (1,)))
    | dict.fromkeys(("MatMul", "Gemm", "FusedMatMul", "FusedGemm"), ("linear", (0, 1)))
    | dict.fromkeys(("MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits"), ("linear", (1,)))
    | dict.fromkeys(("QLinearMatMul", "QGemm"), ("linear", (3,)))
    | {
        "DynamicQuantizeMatMul": ("linear", (1,)),
        "QLinearConv": ("convolution", (3,)),
        "Attention": ("linear", (1,)),
    }
    | dict.fromkeys(RECURRENT, ("recurrent", (1, 2)))
    | {"Gather": ("", (0,)), "Einsum": ("", (0, 1))}
)
# Operators that work value by value with a second operand.
_BY_VALUE = {
    *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Mean", "Where", "PRelu", "Mod"),
    *("And", "Or", "Xor", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"),
    *("LayerNormalization", "BatchNormalization", "InstanceNormalization", "GroupNormalization"),
    *("Concat", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "RMSNormalization"),
}
_WITH_GRAPHS = ("If", "Loop", "Scan")
_STATES = {(op, position) for op in RECURRENT for position in (4, 5, 6)}


class Use(NamedTuple):
    """An operator that uses a tensor, and as which of its inputs."""

    node: Node
    position: int


class End(NamedTuple):
    """An operator that a stored tensor reaches, and what happens to the tensor before.

    Attributes
    ----------
    use : Use
    groups : tuple of tuple of int or None
        The axes of the tensor in each axis of the operand; None if they are not known.
    is_computed : bool
        Whether the operand is computed from the tensor, and perhaps others, by the model.
    """

    use: Use
    groups: Groups | None
    is_computed: bool


def uses_of(graph: Graph) -> dict[str, list[Use]]:
    """Return the operators that use each value, in their order."""
    uses: dict[str, list[Use]] = {}
    for node in graph.nodes:
        for position, name in enumerate(node.inputs):
            uses.setdefault(name, []).append(Use(node, position))
    return uses


class Uses:
    """What the operators of a model do with the tensors that it stores.

    Parameters
    ----------
    graph : Graph
    read : callable
        Returns the values of a stored tensor.
    """

    def __init__(self, graph: Graph, read: Callable[[Stored], np.ndarray]) -> None:
        self._graph, self._read = graph, read
        self.by_name = uses_of(graph)

    def known(self, tensor: Tensor, name: str) -> Tensor:
        """Return a tensor that is called `name` in the graph with its role, and facts.

        The role is ``'operand'`` for states of recurrent layers, for what the model combines with
        values of its own, value by value, and for constants that reach no layer; ``'embedding'``
        for a matrix whose rows are looked up; ``'computed'`` for what the model computes the weight
        of a layer from; ``'convolution'``, ``'linear'`` or ``'recurrent'`` for the weight of such a
        layer; ``'axes:src'`` and the like for the weight of a product that tells the axes;
        otherwise empty.
        """
        ends = self._ends(tensor, name)
        inputs = {(end.use.node.op, end.use.position) for end in ends}
        layers = [end for end in ends if _layer(end.use)]
        aside = {i for i in inputs if i in _STATES}
        if len(tensor.shape) > 1:  # vectors are biases and norms
            aside |= {i for i in inputs if i[0] in _BY_VALUE or i == ("Gemm", 2)}
        is_real = tensor.dtype.startswith(("float", "bfloat"))
        is_constant = self._graph.tensors[name].is_constant and not tensor.rule
        if not layers and ((inputs and inputs == aside) or is_constant):
            return replace(tensor, role="operand")
        if any(_is_lookup(use, self._graph) for use in self.by_name.get(name, ())):
            return replace(tensor, role="embedding" if len(tensor.shape) == 2 else "")
        direct = [end for end in layers if not end.is_computed]
        if layers and not direct:
            return replace(tensor, role="computed" if is_real else "")
        found = [known for end in direct if (known := self._role(tensor, end))]
        role, groups = min(found, default=("", 1))
        return replace(tensor, role=role, facts={"groups": groups} if groups > 1 else {})

    def _role(self, tensor: Tensor, end: End) -> tuple[str, int] | None:
        """Return the role that the layer at an end gives a tensor, and its number of groups."""
        node, position = end.use
        kind, n = _LAYERS[node.op][0], len(tensor.shape)
        if kind == "convolution":
            order = [axis for group in end.groups or () for axis in group]
            in_order = order == [*range(n)] and all(len(group) < 2 for group in end.groups or ())
            return (kind, max(1, node.numbers.get("group", 1))) if in_order else None
        if n < 3 or node.op not in ("MatMul", "FusedMatMul", "Gemm", "Einsum"):
            return (kind, 1) if kind and (kind != "linear" or n == 2) else None
        if node.op == "Einsum":
            letters = letters_of_einsum(end.groups, tensor.shape, node, position)
        else:
            letters = letters_of_product(end.groups, tensor.shape)
        return (f"axes:{letters}", 1) if letters else None

    def _ends(self, tensor: Tensor, name: str) -> list[End]:
        """Return the operators that use a tensor, also behind those that hand it on.

        What the model computes from stored tensors alone is followed, too.
        """
        start: Groups = tuple((axis,) for axis in range(len(tensor.shape)))
        pending: list[tuple[str, Groups | None, bool]] = [(name, start, False)]
        ends, seen, left = list[End](), {name}, MAX_USES
        while pending and left > 0:
            value, groups, computed = pending.pop()
            uses = self.by_name.get(value, [])[:left]
            left -= len(uses) + 1
            for use in uses:
                node = use.node
                is_fixed = any(output in self._fixed for output in node.outputs)
                joins = node.op == _JOIN and is_fixed  # not with what the layers compute
                hands_on = joins or (node.op in _HAND_ON and use.position == 0)
                if hands_on or (is_fixed and not _layer(use)):
                    after = None
                    if hands_on:
                        after = followed(groups, node, tensor.shape, self._sizes)
                    fresh = [output for output in node.outputs if output not in seen]
                    pending += [(output, after, computed or not hands_on) for output in fresh]
                    seen |= {*fresh}
                else:
                    ends.append(End(use, groups, computed))
        return ends

    @cached_property
    def _fixed(self) -> set[str]:
        """The names of the values that the model computes from stored tensors alone."""
        found = {*self._graph.tensors}
        for node in self._graph.nodes:
            inputs = [name for name in node.inputs if name]
            if inputs and found.issuperset(inputs) and node.op not in _WITH_GRAPHS:
                found |= {*node.outputs}
        return found

    def _sizes(self, name: str) -> tuple[int, ...] | None:
        stored = self._graph.tensors.get(name)
        if not stored or stored.dtype != "int64" or prod(stored.shape) > MAX_DIMENSIONS:
            return None
        return tuple(self._read(stored).reshape(-1).tolist())


def _layer(use: Use) -> bool:
    """Return whether an operator multiplies with the tensor as a layer does with its weight."""
    return use.position in _LAYERS.get(use.node.op, ("", ()))[1]


def _is_lookup(use: Use, graph: Graph) -> bool:
    """Return whether an operator takes rows of a table, by indices that it gets."""
    node, position = use
    if node.op != "Gather" or position != 0 or node.numbers.get("axis", 0) != 0:
        return False
    return len(node.inputs) > 1 and node.inputs[1] not in graph.tensors
