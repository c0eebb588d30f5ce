"""ONNX model -> named tensors: its initialisers, and its constants with real values and axes."""

from functools import partial
from typing import Any

from specdiag.checkpoint.formats.onnx.graph import Stored, read_graph
from specdiag.checkpoint.formats.onnx.names import as_in_torch
from specdiag.checkpoint.formats.onnx.quantised import dequantised
from specdiag.checkpoint.formats.onnx.values import check_place, read_stored
from specdiag.checkpoint.formats.onnx.wire import Wire
from specdiag.checkpoint.tensor import ITEMSIZE, Tensor, unreadable
from specdiag.files import File, open_file
from specdiag.wording import counted


def read_onnx(file: File) -> tuple[list[Tensor], dict[str, Any], list[str]]:
    """Return the tensors of an ONNX model, its metadata, and notes.

    Raises
    ------
    ValueError
        If the file is damaged, or names a file outside of its folder.
    FileNotFoundError
        If a file with values is missing.
    """
    with open_file(file) as stream:
        graph = read_graph(Wire(stream, file.size, file.name))
    for stored in graph.tensors.values():
        check_place(file, stored)
    weights, parts = dequantised(graph, partial(read_stored, file))
    tensors = {
        name: weights.get(name) or _tensor(file, stored)
        for name, stored in graph.tensors.items()
        if name not in parts and not (stored.is_constant and _is_operand(stored))
    }
    named, renamed = as_in_torch(tensors, graph, partial(read_stored, file))
    named += [unreadable(s.name, s.shape, s.dtype, "sparse tensor") for s in graph.sparse]
    notes = []
    if renamed:
        notes = [f"{counted(renamed, 'tensor')} named after the operators that use them"]
    return named, dict(graph.metadata), notes


def _is_operand(constant: Stored) -> bool:
    """Return whether a constant is a number, a shape or the like, and so no part of a layer."""
    return not constant.shape or constant.dtype in ("int64", "int32", "bool", "string")


def _tensor(file: File, stored: Stored) -> Tensor:
    name, dtype = stored.name, stored.dtype
    if dtype not in ITEMSIZE:
        return unreadable(name, stored.shape, dtype, f"dtype {dtype} is not supported")
    return Tensor(
        name=name, shape=stored.shape, dtype=dtype, read=partial(read_stored, file, stored)
    )
