"""Storages of a torch file, and tensors as views of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import NamedTuple

import numpy as np

from specdiag.checkpoint.tensor import (
    ITEMSIZE,
    Tensor,
    check_bytes,
    numpy_dtype,
    shape_text,
    unreadable,
)
from specdiag.checkpoint.torchfile import archive
from specdiag.checkpoint.torchfile.archive import Record
from specdiag.files import File, open_file, read_array


class Storage(NamedTuple):
    """The position of elements: in a record of a zip archive, or directly in the file."""

    n_bytes: int
    offset: int
    record: Record | None


@dataclass(kw_only=True, slots=True)
class TorchFile:
    """An open torch file.

    Attributes
    ----------
    storages : mapping of str to Storage
    dtypes : dict
        Dtype of each storage, set by the first tensor; the others must agree.
    verified : set of str
        Names of the records whose checksum was verified.
    """

    file: File
    storages: Mapping[str, Storage]
    dtypes: dict[str, str] = field(default_factory=dict)
    verified: set[str] = field(default_factory=set)


class Layout(NamedTuple):
    """Where the elements of a tensor lie in its storage, counted in elements."""

    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    flips: tuple[str, ...]


def view(source: TorchFile, name: str, key: str, dtype: str, layout: Layout, where: str) -> Tensor:
    """Return the tensor whose elements lie in the storage `key`.

    Raises
    ------
    ValueError
        If they leave the storage.
    """
    shape, stride, stored = layout.shape, layout.stride, source.storages[key]
    try:
        problem = _check_view(layout, stored.n_bytes // ITEMSIZE[dtype])
    except ValueError as error:
        raise ValueError(f"{where}: {error}; the file is damaged") from None
    if problem:
        return unreadable(name, shape, dtype, problem)
    identity = (source.file, key, *layout) if 0 not in shape else None
    read = partial(_read_view, source, stored, dtype, layout)

    def read_rows(start: int, stop: int) -> np.ndarray:
        rows = layout._replace(
            offset=layout.offset + start * stride[0], shape=(stop - start, *shape[1:])
        )
        return _read_view(source, stored, dtype, rows)

    return Tensor(
        name=name,
        shape=shape,
        dtype=dtype,
        identity=identity,
        read=read,
        read_rows=read_rows if shape else None,
    )


def _check_view(layout: Layout, capacity: int) -> str | None:
    """Return why a view of a storage cannot be read, or None.

    Raises
    ------
    ValueError
        If the view leaves the storage.
    """
    offset, shape, stride, _ = layout
    if type(offset) is not int or not 0 <= offset < 2**63 or len(stride) != len(shape):
        raise ValueError("its offset or strides are invalid")
    if 0 in shape:
        return None
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if last >= capacity:
        raise ValueError(
            f"shape {shape_text(shape)} reaches element {last:,} of a storage of {capacity:,}"
        )
    if any(size > 1 and step == 0 for size, step in zip(shape, stride, strict=True)):
        return "expanded (stride 0)"
    if prod(shape) > capacity:
        return "overlapping view with more elements than its storage"
    return None


def _read_view(source: TorchFile, storage: Storage, dtype: str, layout: Layout) -> np.ndarray:
    offset, shape, stride, flips = layout
    kind = numpy_dtype(dtype)
    if 0 in shape:
        return np.empty(shape, dtype=kind)
    extent = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    data = _read_storage(source, storage, offset * kind.itemsize, extent * kind.itemsize)
    check_bytes(data, dtype, source.file.name)
    strides = tuple(step * kind.itemsize for step in stride)
    view: np.ndarray = np.ndarray(shape, kind, buffer=data.data, strides=strides)
    values = np.ascontiguousarray(view).reshape(shape)  # it makes a scalar one-dimensional
    if "conj" in flips:
        np.conj(values, out=values)
    if "neg" in flips:
        np.negative(values, out=values)
    return values


def _read_storage(source: TorchFile, storage: Storage, start: int, length: int) -> np.ndarray:
    """Return some bytes of a storage; the first read verifies the whole storage."""
    file, record = source.file, storage.record
    with open_file(file) as stream:
        if record is None:
            return read_array(stream, storage.offset + start, length, file.name)
        if record.deflated or length == record.size:
            data = archive.read_record(stream, record, file.name)[start : start + length]
        else:
            if record.name not in source.verified:
                archive.verify_stored(stream, record, file.name)
            data = read_array(stream, record.offset + start, length, file.name)
    source.verified.add(record.name)
    return data
