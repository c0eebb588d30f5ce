"""Whole numbers and scales of an ONNX model -> tensors of real weights.

``(values - zero point) * scale``, where scale and zero point are those of the tensor, of each index
along an axis, or of blocks along it: the operator DequantizeLinear of ONNX. The operators that
multiply with quantised weights have them among their inputs; MatMulInteger and ConvInteger do not,
and there the names that onnxruntime gives them tell: ``x_quantized``, ``x_scale``,
``x_zero_point``. MatMulNBits is defined in onnxruntime's ``docs/ContribOperators.md``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from specdiag.checkpoint.formats.onnx.graph import Graph, Node, Stored
from specdiag.checkpoint.formats.onnx.values import stored_bytes
from specdiag.checkpoint.tensor import Tensor, unpacked, unreadable

# Inputs with a weight, its scale and zero point, and the axis that scales of one axis belong to.
_INPUTS = {
    "DequantizeLinear": ((0, 1, 2, 1),),
    "QLinearConv": ((3, 4, 5, 0),),
    "QLinearMatMul": ((3, 4, 5, -1),),
    "QGemm": ((3, 4, 5, -1),),
    "MatMulIntegerToFloat": ((1, 3, 5, -1),),
    "DynamicQuantizeMatMul": ((1, 2, 3, -1),),
    "DynamicQuantizeLSTM": ((1, 8, 9, 0), (2, 10, 11, 0)),
}
_BY_NAME = {"MatMulInteger": -1, "ConvInteger": 0}
_WHOLE = ("int8", "uint8", "int16", "uint16", "int32", "int4", "uint4")
_SUFFIX = "_quantized"

Read = Callable[[Stored], np.ndarray]


@dataclass(frozen=True)
class _Scaled:
    """Quantised values with their scales."""

    values: Stored
    scale: Stored
    zero: Stored | None
    axis: int
    block: int
    op: str


def dequantised(graph: Graph, read: Read) -> tuple[dict[str, Tensor], set[str]]:
    """Return the tensors of quantised weights, by the name of their values; and their other parts.

    Parameters
    ----------
    graph : Graph
    read : callable
        Returns the values of a stored tensor.
    """
    found: dict[str, Tensor] = {}
    parts: set[str] = set()
    others: set[str] = set()  # used by other operators
    for node in graph.nodes:
        used = list[str]()
        for place in _INPUTS.get(node.op, (None,)):
            tensor, names = _of_node(node, place, graph, read)
            if tensor is not None:
                found.setdefault(names[0], tensor)
                parts |= {*names[1:]}
                used += names
        others |= {*node.inputs} - {*used}
    return found, parts - others


def _of_node(
    node: Node, place: tuple[int, int, int, int] | None, graph: Graph, read: Read
) -> tuple[Tensor | None, list[str]]:
    """Return the weight that an operator dequantises, and the names of its parts."""
    if node.op == "MatMulNBits":
        return _of_blocks(node, graph, read)
    inputs = [graph.tensors.get(name) for name in node.inputs]
    if place:
        *places, axis = place
        values, scale, zero = (inputs[i] if i < len(inputs) else None for i in places)
        if node.op == "QGemm" and node.numbers.get("transB"):
            axis = 0
        axis = node.numbers.get("axis", axis)
    elif node.op in _BY_NAME and len(inputs) > 1 and inputs[1]:
        values, axis = inputs[1], _BY_NAME[node.op]
        stem = values.name.removesuffix(_SUFFIX)
        scale, zero = (graph.tensors.get(stem + end) for end in ("_scale", "_zero_point"))
    else:
        return None, []
    if not values or not scale or values.dtype not in _WHOLE:
        return None, []
    block = node.numbers.get("block_size", 0) if node.op == "DequantizeLinear" else 0
    about = _Scaled(values, scale, zero, axis, block, node.op)
    names = [part.name for part in (values, scale, zero) if part]
    return _tensor(about, read), names


def _tensor(about: _Scaled, read: Read) -> Tensor:
    values, scale = about.values, about.scale
    name = values.name.removesuffix(_SUFFIX)
    if not _fits(about, scale) or (about.zero and not _fits(about, about.zero)):
        problem = f"{values.dtype} with scales that do not fit its shape"
        return unreadable(name, values.shape, values.dtype, problem)

    def factors(part: Stored) -> np.ndarray:
        array = read(part).astype(np.float32)
        if about.block:
            array = array.repeat(about.block, about.axis)
            return array.take(range(values.shape[about.axis]), about.axis)
        if array.size == 1:
            return array.reshape(())
        sides = [1] * len(values.shape)
        sides[about.axis] = -1
        return array.reshape(sides)

    def values_of() -> np.ndarray:
        array = read(values).astype(np.float32)
        if about.zero:
            array -= factors(about.zero)
        with np.errstate(all="ignore"):  # damaged scales may overflow
            return np.ascontiguousarray(array * factors(scale))

    rule = f"{values.dtype} times scale ({about.op})"
    return Tensor(name=name, shape=values.shape, dtype="float32", rule=rule, read=values_of)


def _fits(about: _Scaled, part: Stored) -> bool:
    """Return whether scales or zero points have the shape that their operator defines."""
    shape, axis = about.values.shape, about.axis
    if prod(part.shape) == 1 and not about.block:
        return True
    if not -len(shape) <= axis < len(shape):
        return False
    if about.block < 1:
        return part.shape == (shape[axis],)
    blocks = list(shape)
    blocks[axis] = -(-shape[axis] // about.block)
    return part.shape == tuple(blocks)


def _of_blocks(node: Node, graph: Graph, read: Read) -> tuple[Tensor | None, list[str]]:
    """Return the weight of MatMulNBits: (outputs, inputs), each row in blocks with a scale."""
    parts = [graph.tensors.get(name) for name in node.inputs[1:4]]
    parts += [None] * (3 - len(parts))
    packed, scale, zero = parts
    names = [name for name in node.inputs[1:5] if name in graph.tensors]
    rows, columns, bits, block = (
        node.numbers.get(key, default)
        for key, default in (("N", 0), ("K", 0), ("bits", 4), ("block_size", 0))
    )
    if not packed or not scale or min(rows, columns, block) < 1 or bits not in (4, 8):
        return None, []
    n_blocks = -(-columns // block)
    shape = (rows, columns)
    zeros = rows * -(-n_blocks * bits // 8)
    fits = (
        packed.dtype == "uint8"
        and stored_bytes(packed) == rows * n_blocks * block * bits // 8
        and prod(scale.shape) == rows * n_blocks
        and (not zero or prod(zero.shape) in (zeros, rows * n_blocks))
    )
    if not fits or len(names) > (3 if zero else 2):  # the fifth one is an order of the columns
        problem = f"packed in {bits} bits in a layout that is not read"
        return unreadable(packed.name, shape, packed.dtype, problem), names

    def zero_points() -> np.ndarray:
        if not zero:
            return np.full((rows, n_blocks, 1), 2 ** (bits - 1), np.float32)
        values = read(zero)
        if zero.dtype == "uint8" and values.size == zeros:
            values = unpacked(values.reshape(rows, -1), bits, n_blocks)
        return values.astype(np.float32).reshape(rows, n_blocks, 1)

    def values_of() -> np.ndarray:
        q = unpacked(read(packed).reshape(-1), bits, rows * n_blocks * block)
        blocks = q.astype(np.float32).reshape(rows, n_blocks, block) - zero_points()
        with np.errstate(all="ignore"):  # damaged scales may overflow
            blocks *= read(scale).astype(np.float32).reshape(rows, n_blocks, 1)
        return np.ascontiguousarray(blocks.reshape(rows, -1)[:, :columns])

    rule = f"{bits} bits times scale (MatMulNBits)"
    return Tensor(name=packed.name, shape=shape, dtype="float32", rule=rule, read=values_of), names
