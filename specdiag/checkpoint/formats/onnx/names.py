"""Tensors of an ONNX model -> tensors under the names, and in the layout, that they had in torch.

torch's exporter transposes the weights of a Linear layer for MatMul, changes the order of the gates
of an LSTM or GRU to that of ONNX, and calls the results `onnx::MatMul_123`. Its operators keep the
names of their modules, as in `/encoder/0/MatMul`: the weight is `encoder.0.weight`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import replace
from itertools import pairwise

import numpy as np

from specdiag.checkpoint.formats.onnx.graph import Graph, Node, Stored
from specdiag.checkpoint.formats.onnx.roles import Use, Uses
from specdiag.checkpoint.tensor import Tensor, read_values

_ANONYMOUS = re.compile(r"onnx::\w+_\d+")
_MULTIPLY = ("Gemm", "Conv", "ConvTranspose")
# Names in torch of the inputs of operators.
_LEAVES = {("MatMul", 0): "weight", ("MatMul", 1): "weight"}
_LEAVES |= {(op, 1): "weight" for op in _MULTIPLY} | {(op, 2): "bias" for op in _MULTIPLY}
# For each gate of torch, its place among those of ONNX: input, output, forget, cell for an LSTM;
# update, reset, hidden for a GRU.
_LSTM = (0, 2, 3, 1)
_SWAPPED = "DynamicQuantizeLSTM"  # of onnxruntime: (inputs, gates), not (gates, inputs)
_GATES = {"LSTM": _LSTM, _SWAPPED: _LSTM, "GRU": (1, 0, 2), "RNN": (0,)}
_JOINED = {1: ("weight_ih",), 2: ("weight_hh",), 3: ("bias_ih", "bias_hh")}


def as_in_torch(
    tensors: Mapping[str, Tensor], graph: Graph, read: Callable[[Stored], np.ndarray]
) -> tuple[list[Tensor], int]:
    """Return the tensors under their former names, and how many were renamed.

    Parameters
    ----------
    tensors : dict
        By their names in the graph.
    graph : Graph
    read : callable
        Returns the values of a stored tensor.
    """
    uses = Uses(graph, read)
    taken = {tensor.name for tensor in tensors.values()}
    result: list[Tensor] = []
    renamed = 0
    for key, tensor in tensors.items():
        first = next(iter(uses.by_name.get(key, ())), None)
        known = uses.known(tensor, key)
        parts = [*_of_torch(known, first, taken)] if first else [known]
        parts = _free(parts, known, first, taken)
        taken |= {part.name for part in parts}
        renamed += parts[0].name != tensor.name
        result += parts
    return result, renamed


def _of_torch(tensor: Tensor, use: Use, others: Set[str]) -> Iterator[Tensor]:
    """Yield the tensor as it was in torch, or its parts."""
    node, position = use
    anonymous = _ANONYMOUS.fullmatch(tensor.name) is not None
    if node.op in _GATES and position in _JOINED:
        layer = re.fullmatch(r"/.*_(\d+)", node.name)
        # One name for all parts of the layer: its own, that of its module, or that of its W.
        owner = (_scope(node) if anonymous else _scope(node) or node.name) or node.inputs[1]
        yield from _joined(tensor, node.op, position, owner, layer[1] if layer else "0")
    elif (node.op, position) == ("Attention", 1) and len(tensor.shape) == 2:
        yield from _thirds(tensor, node)
    elif anonymous and (node.op, position) in _LEAVES and _scope(node):
        attention = f"{_scope(node)}.in_proj_bias" in others  # torch.nn.MultiheadAttention
        leaf = "in_proj_weight" if attention else _LEAVES[node.op, position]
        name = f"{_scope(node)}.{leaf}"
        if node.op == "MatMul" and position == 1 and len(tensor.shape) == 2:
            yield _transposed(tensor, name)
        else:
            yield replace(tensor, name=name)
    else:
        yield tensor


def _scope(node: Node) -> str:
    """Return the name of the module that an operator belongs to.

    Members of a Sequential repeat its name: `/layers/layers.0/MatMul`.
    """
    if not node.name.startswith("/"):
        return ""
    parts = node.name.split("/")[1:-1]
    above = pairwise([*parts, ""])
    return ".".join(part for part, below in above if not below.startswith(f"{part}."))


def _transposed(tensor: Tensor, name: str) -> Tensor:
    def read() -> np.ndarray:
        return np.ascontiguousarray(read_values(tensor).T)

    return replace(tensor, name=name, shape=tensor.shape[::-1], read=read, read_rows=None)


def _thirds(tensor: Tensor, node: Node) -> Iterator[Tensor]:
    """Yield queries, keys and values of the operator Attention of onnxruntime, from its columns.

    Its docs/ContribOperators.md has the weight (inputs, queries + keys + values), of equal sizes
    unless they are an attribute.
    """
    n, columns = tensor.shape
    sizes = node.lists.get("qkv_hidden_sizes") or (columns // 3,) * 3
    if len(sizes) != 3 or min(sizes) < 1 or sum(sizes) != columns:
        yield tensor
        return
    for i, label in enumerate(("query", "key", "value")):
        start = sum(sizes[:i])

        def read(start: int = start, stop: int = start + sizes[i]) -> np.ndarray:
            return np.ascontiguousarray(read_values(tensor)[:, start:stop])

        name, shape = f"{tensor.name}.{label}", (n, sizes[i])
        yield replace(tensor, name=name, shape=shape, read=read, read_rows=None)


def _joined(tensor: Tensor, op: str, position: int, owner: str, layer: str) -> Iterator[Tensor]:
    """Yield the weights of each direction of a recurrent layer, their gates in torch's order."""
    gates, leaves = _GATES[op], _JOINED[position]
    swapped = op == _SWAPPED and len(tensor.shape) == 3
    shape = (tensor.shape[0], *tensor.shape[:0:-1]) if swapped else tensor.shape
    n = len(gates) * len(leaves)
    if len(shape) != (2 if position == 3 else 3) or shape[0] not in (1, 2) or shape[1] % n:
        yield tensor
        return
    size = shape[1] // n
    for direction in range(shape[0]):
        for i, leaf in enumerate(leaves):

            def read(direction: int = direction, i: int = i) -> np.ndarray:
                values = read_values(tensor)[direction]
                values = values.T if swapped else values
                blocks = values.reshape(n, size, *shape[2:])
                blocks = blocks[[i * len(gates) + gate for gate in gates]]
                return np.ascontiguousarray(blocks.reshape(len(gates) * size, *shape[2:]))

            name = f"{leaf}_l{layer}{'_reverse' * direction}"
            yield replace(
                tensor,
                name=f"{owner}.{name}" if owner else name,
                shape=(len(gates) * size, *shape[2:]),
                read=read,
                read_rows=None,
            )


def _free(parts: list[Tensor], tensor: Tensor, first: Use | None, taken: set[str]) -> list[Tensor]:
    """Return the parts under names that no other tensor has."""
    if not first or not ({part.name for part in parts} & taken) - {tensor.name}:
        return parts
    operator = first.node.name.split("/")[-1]
    longer = [
        replace(p, name=re.sub(r"(^|\.)(?=[^.]*$)", rf"\g<1>{operator}.", p.name)) for p in parts
    ]
    if {part.name for part in longer} & taken:
        return [tensor]
    return longer
