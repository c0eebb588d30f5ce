"""Chunks of a tensor, which several processes wrote -> the whole tensor."""

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from specdiag.checkpoint.formats.content import Content
from specdiag.checkpoint.safetensors import parse_json, read_header
from specdiag.checkpoint.tensor import (
    ITEMSIZE,
    Tensor,
    checked_shape,
    numpy_dtype,
    shape_text,
    unreadable,
)
from specdiag.files import File
from specdiag.wording import counted, shown

MAX_CHUNKS, MAX_AXES = 4096, 8  # of one tensor in several chunks: all pairs are compared
_PLACES = "DCP_SHARDING_INFO"  # metadata of safetensors files: where their chunks lie


class Chunk(NamedTuple):
    """A box of a tensor: its first element, its lengths along the axes, and how to open it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    open: Callable[[], Tensor]


def assembled(name: str, shape: tuple[int, ...], dtype: str, chunks: Sequence[Chunk]) -> Tensor:
    """Return the tensor of which `chunks` are the parts; they are opened when it is read.

    Its `problem` says so if the chunks leave the tensor, leave a hole in it or overlap.
    """
    if dtype not in ITEMSIZE:
        return unreadable(name, shape, dtype, f"dtype {dtype} is not supported")
    filled = [chunk for chunk in chunks if 0 not in chunk.sizes]
    fault = _fault(shape, filled)
    if fault:
        return unreadable(name, shape, dtype, fault)
    opened: dict[int, Tensor] = {}

    def read_rows(start: int, stop: int) -> np.ndarray:
        values = np.empty((stop - start, *shape[1:]), dtype=numpy_dtype(dtype))
        for index, chunk in enumerate(filled):
            first = max(start, chunk.offsets[0])
            last = min(stop, chunk.offsets[0] + chunk.sizes[0])
            if first < last:
                part = opened[index] = opened.get(index) or _open(chunk, dtype)
                rows = _rows(part, first - chunk.offsets[0], last - chunk.offsets[0])
                values[(slice(first - start, last - start), *_box(chunk)[1:])] = rows
        return values

    def read() -> np.ndarray:
        if len(filled) == 1:
            return _open(filled[0], dtype).read()
        return read_rows(0, shape[0]) if filled else np.empty(shape, dtype=numpy_dtype(dtype))

    rows = read_rows if shape else None
    return Tensor(name=name, shape=shape, dtype=dtype, read=read, read_rows=rows)


def _fault(shape: tuple[int, ...], chunks: Sequence[Chunk]) -> str | None:
    """Return why the chunks do not fill the shape without overlapping, or None."""
    if len(chunks) > MAX_CHUNKS:
        return f"{len(chunks):,} chunks; at most {MAX_CHUNKS:,} are read"
    if len(chunks) > 1 and len(shape) > MAX_AXES:
        return f"chunks of {len(shape)} axes; at most {MAX_AXES} are read"
    if any(len(chunk.offsets) != len(shape) or len(chunk.sizes) != len(shape) for chunk in chunks):
        return "a chunk has another number of axes"
    for chunk in chunks:
        ends = (offset + size for offset, size in zip(chunk.offsets, chunk.sizes, strict=True))
        if any(end > length for end, length in zip(ends, shape, strict=True)):
            return f"a chunk of {shape_text(chunk.sizes)} leaves the shape {shape_text(shape)}"
    n_elements = sum(prod(chunk.sizes) for chunk in chunks)
    if n_elements != prod(shape):
        return f"its chunks have {n_elements:,} elements of {prod(shape):,}"
    return "two of its chunks overlap" if _overlap(chunks) else None


def _overlap(chunks: Sequence[Chunk]) -> bool:
    if len(chunks) < 2:
        return False
    starts = np.array([chunk.offsets for chunk in chunks], dtype=np.int64)
    ends = starts + np.array([chunk.sizes for chunk in chunks], dtype=np.int64)
    return any(
        bool(((starts[i + 1 :] < ends[i]) & (starts[i] < ends[i + 1 :])).all(axis=1).any())
        for i in range(len(chunks) - 1)
    )


def _box(chunk: Chunk) -> tuple[slice, ...]:
    pairs = zip(chunk.offsets, chunk.sizes, strict=True)
    return tuple(slice(offset, offset + size) for offset, size in pairs)


def _rows(tensor: Tensor, start: int, stop: int) -> np.ndarray:
    if tensor.read_rows is None or (start, stop) == (0, tensor.shape[0]):
        return tensor.read()[start:stop]
    return tensor.read_rows(start, stop)


def _open(chunk: Chunk, dtype: str) -> Tensor:
    """Return the tensor that holds a chunk; raise ValueError if it is another than announced."""
    tensor = chunk.open()
    if tensor.problem:
        raise ValueError(f"a chunk cannot be read: {tensor.problem}")
    if (tensor.shape, tensor.dtype) != (chunk.sizes, dtype):
        raise ValueError(
            f"a chunk is {tensor.dtype} of {shape_text(tensor.shape)}, not {dtype} of "
            f"{shape_text(chunk.sizes)}; the files are damaged"
        )
    return tensor


def read_processes(files: Sequence[File]) -> Content:
    """Return the tensors of safetensors files that each hold a chunk of every tensor.

    HuggingFaceStorageWriter of torch.distributed.checkpoint writes one for each process; their
    metadata have the offsets of the chunks, but not the shape of the whole.

    Raises
    ------
    ValueError
        If a file is damaged or has no offsets.
    """
    chunks: dict[str, list[Chunk]] = {}
    dtypes: dict[str, set[str]] = {}
    for file in files:
        tensors, texts = read_header(file)
        places = parse_json(texts.get(_PLACES, "{}").encode(), file.name)
        for tensor in tensors:
            place = places.get(tensor.name) if isinstance(places, dict) else None
            offsets = place.get("saved_offsets") if isinstance(place, dict) else None
            where = f"{file.name}: {shown(tensor.name)}"
            at = checked_shape(offsets, 1, f"{where}: its place in the whole tensor")
            chunk = Chunk(at, tensor.shape, lambda tensor=tensor: tensor)  # type: ignore[misc]
            chunks.setdefault(tensor.name, []).append(chunk)
            dtypes.setdefault(tensor.name, set()).add(tensor.dtype)
    found = []
    for name, parts in chunks.items():
        axes = {len(chunk.offsets) for chunk in parts} | {len(chunk.sizes) for chunk in parts}
        shape = tuple(
            max(chunk.offsets[axis] + chunk.sizes[axis] for chunk in parts)
            for axis in range(min(axes))
        )
        found.append(assembled(name, shape, min(dtypes[name]), parts))
    note = f"put together from {counted(len(files), 'file')}, as each process wrote its own"
    return Content(found, {}, [note])
