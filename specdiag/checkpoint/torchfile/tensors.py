"""Zip files written by torch, and the tensors in all torch files: storages and views of them."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from specdiag.checkpoint.tensor import (
    ITEMSIZE,
    MAX_DIMENSIONS,
    Tensor,
    check_bytes,
    checked_shape,
    numpy_dtype,
    shape_text,
    unreadable,
)
from specdiag.checkpoint.torchfile import archive
from specdiag.checkpoint.torchfile.archive import Record, part_of
from specdiag.checkpoint.torchfile.machine import MAX_PICKLE
from specdiag.checkpoint.torchfile.pickle_reader import interpret
from specdiag.checkpoint.tree import Global, Object, Reference, array_tensor, is_array, path_of
from specdiag.files import File, open_file, read_array
from specdiag.wording import shown

_STORAGE_DTYPES = (
    {"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"}
    | {"ComplexDouble": "complex128", "ComplexFloat": "complex64", "Bool": "bool"}
    | {"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8"}
    | {"QInt8": "qint8", "QInt32": "qint32", "QUInt8": "quint8"}
    | {"QUInt4x2": "quint4x2", "QUInt2x4": "quint2x4"}
)
_SHORT_DTYPES = {"half": "float16", "float": "float32", "double": "float64", "long": "int64"}
_PROBLEMS = {
    "_rebuild_sparse_tensor": "sparse tensor",
    "_rebuild_sparse_csr_tensor": "sparse tensor",
    "_rebuild_qtensor": "quantised tensor",
    "_rebuild_nested_tensor": "nested tensor",
    "_rebuild_meta_tensor_no_storage": "meta tensor: it has no values",
    "_rebuild_wrapper_subclass": "distributed or wrapped tensor",
    "_rebuild_device_tensor_from_numpy": "tensor of another device",
    "_rebuild_device_tensor_from_cpu_tensor": "tensor of another device",
}
MAX_DEFLATED = 32 * 2**20  # torch stores the description without compression
_WRAPPED_LEVELS = 8  # a parameter of a subclass of a tensor takes three


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


def read_zip(file: File, start: int = 0, size: int | None = None) -> tuple[Any, TorchFile]:
    """Return the object that a zip archive written by torch describes, and its storages.

    The archive is the whole file, or `size` bytes of it from `start`.

    Raises
    ------
    ValueError
        If the archive is damaged, is not a torch checkpoint, or was written on a big-endian
        machine.
    """
    size = file.size if size is None else size
    with open_file(file) as whole:
        stream = part_of(whole, start, size)
        records = archive.read_directory(stream, size, file.name)
        root = _archive_root(records, file.name)
        byteorder = records.get(f"{root}/byteorder")
        if byteorder and archive.read_small(stream, byteorder, 16, file.name) != b"little":
            raise ValueError(
                f"{file.name}: not little-endian; save it again on a little-endian machine"
            )
        record = records[f"{root}/data.pkl"]
        limit = MAX_DEFLATED if record.deflated else MAX_PICKLE
        data = archive.read_small(stream, record, limit, file.name)
    content = io.BytesIO(data)
    tree = interpret(content, len(data), f"{file.name}: {shown(record.name, quote=False)}")
    if content.tell() != len(data):
        raise ValueError(f"{file.name}: bytes follow the pickle in {shown(record.name)}")
    prefix = f"{root}/data/"
    storages = {
        name.removeprefix(prefix): _storage(record, start)
        for name, record in records.items()
        if name.startswith(prefix)
    }
    return tree, TorchFile(file=file, storages=storages)


def _storage(record: Record, start: int) -> Storage:
    offset = start + record.offset
    return Storage(record.size, offset, record._replace(offset=offset))


def _archive_root(records: Mapping[str, Record], where: str) -> str:
    pickles = [name for name in records if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) == 1:
        return pickles[0].removesuffix("/data.pkl")
    if pickles:
        raise ValueError(f"{where}: {len(pickles)} records are called data.pkl; one is expected")
    if records and all(name.endswith(".npy") for name in records):
        raise ValueError(f"{where}: NumPy arrays (.npz) are not a checkpoint; pass them as a dict")
    raise ValueError(f"{where}: a zip archive without data.pkl, not written by torch.save")


def storage_id(reference: object, where: str) -> tuple[str, str, int]:
    """Return key, dtype and number of elements from a storage's persistent id."""
    damaged = ValueError(f"{where}: the description of a storage is invalid")
    if type(reference) is not Reference:
        raise damaged
    fields = reference.id
    if type(fields) is str:  # protocol 0 writes the id as text
        match = re.fullmatch(
            r"\('storage', <class '([\w.]+)'>, '(\w+)', '[\w:]+', ([0-9]{1,18})(?:, None)?\)",
            fields,
        )
        if not match:
            raise damaged
        fields = ("storage", Global(match[1]), match[2], "", int(match[3]), None)
    if type(fields) is not tuple or len(fields) not in (5, 6) or fields[5:] not in ((), (None,)):
        raise damaged
    kind, cls, key, _, numel = fields[:5]
    if type(kind) is not str or kind != "storage" or type(cls) is not Global:
        raise damaged
    if type(key) is not str or type(numel) is not int or not 0 <= numel < 2**60:
        raise damaged
    match = re.fullmatch(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage", cls.path)
    name = match[1] if match else ""
    if name == "Untyped":
        return key, "bytes", numel
    if name not in _STORAGE_DTYPES:
        raise ValueError(f"{where}: the storage class {shown(cls.path)} is unknown")
    return key, _STORAGE_DTYPES[name], numel


def torch_tensor(source: TorchFile, name: str, node: Object) -> Tensor:
    """Return the tensor or array that `node` describes.

    Raises
    ------
    ValueError
        If the description is invalid or points outside of the storage.
    """
    where = f"{source.file.name}: {shown(name)}"
    if is_array(node):
        return array_tensor(name, node, where)
    for _ in range(_WRAPPED_LEVELS):
        function, args = path_of(node).rpartition(".")[2], node.args
        if function.startswith("_rebuild_parameter"):
            inner = args[0] if args else None
        elif function.startswith("_rebuild_from_type"):
            inner = _retyped(args)
        else:
            break
        if not isinstance(inner, Object):
            raise ValueError(f"{where}: the tensor inside is missing")  # noqa: TRY004
        node = inner
    if function not in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        return _unsupported(name, function, args)
    return _strided(source, name, args, where, untyped=function == "_rebuild_tensor_v3")


def _retyped(args: tuple[Any, ...]) -> Object | None:
    """Return the call inside ``_rebuild_from_type_v2(function, type, args, state)``."""
    if len(args) < 3 or type(args[2]) is not tuple:
        return None
    return Object(args[0], args[2])


def _unsupported(name: str, function: str, args: tuple[Any, ...]) -> Tensor:
    """Return a tensor that is listed but cannot be read, with its shape and dtype if known."""
    problem = _PROBLEMS.get(function, f"unsupported ({shown(function, quote=False)})")
    shape: tuple[int, ...] = ()
    dtype = "unknown"
    if function.startswith("_rebuild_sparse") and len(args) > 1 and type(args[1]) is tuple:
        args = args[1]
    for arg in args:
        if type(arg) is Global and arg.path.startswith("torch.") and dtype == "unknown":
            dtype = dtype_name(arg)
        size = plain_size(arg)
        if type(size) is tuple and not shape and all(type(length) is int for length in size):
            shape = size[:MAX_DIMENSIONS]
    return unreadable(name, shape, dtype, problem)


def dtype_name(dtype: Global) -> str:
    """Return the name of a dtype of torch."""
    name = shown(dtype.path.removeprefix("torch."), quote=False)
    return _SHORT_DTYPES.get(name, name)


class _Layout(NamedTuple):
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    flips: tuple[str, ...]


def _strided(
    source: TorchFile, name: str, args: tuple[Any, ...], where: str, *, untyped: bool
) -> Tensor:
    if len(args) < (7 if untyped else 4):
        raise ValueError(f"{where}: its description is incomplete")
    key, dtype, numel = storage_id(args[0], where)
    if untyped != (dtype == "bytes") or (untyped and type(args[6]) is not Global):
        raise ValueError(f"{where}: the description of its dtype is invalid")
    if untyped:
        dtype = dtype_name(args[6])
    if source.dtypes.setdefault(key, dtype) != dtype:
        raise ValueError(
            f"{where}: storage {shown(key)} is {source.dtypes[key]} elsewhere and {dtype} here"
        )
    shape = checked_shape(plain_size(args[2]), ITEMSIZE.get(dtype, 1), where)
    if dtype not in ITEMSIZE:
        kind = "quantised tensor" if dtype.startswith("q") else f"dtype {dtype} is not supported"
        return unreadable(name, shape, dtype, kind)
    stored = source.storages.get(key)
    n_bytes = numel if untyped else numel * ITEMSIZE[dtype]
    if stored is None or stored.n_bytes != n_bytes:
        size = f"{stored.n_bytes:,} bytes" if stored else "missing"
        raise ValueError(f"{where}: storage {shown(key)} is {size} instead of {n_bytes:,} bytes")
    stride = checked_shape(plain_size(args[3]), 1, f"{where}, strides")
    layout = _Layout(args[1], shape, stride, _flips(args[-1], dtype, where))
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


def plain_size(size: object) -> object:
    """Return the tuple inside a ``torch.Size``, any other value unchanged."""
    if type(size) is Object and size.cls == Global("torch.Size") and size.args:
        return size.args[0]
    return size


def _flips(metadata: object, dtype: str, where: str) -> tuple[str, ...]:
    """Return which of conjugation and negation torch applies only when the values are used."""
    if type(metadata) is not dict:
        return ()
    flips = tuple(name for name in ("conj", "neg") if metadata.get(name) is True)
    if flips and not dtype.startswith(("complex", "float16", "float32", "float64")):
        raise ValueError(f"{where}: {dtype} values marked as {' and '.join(flips)}")
    return flips


def _check_view(layout: _Layout, capacity: int) -> str | None:
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


def _read_view(source: TorchFile, storage: Storage, dtype: str, layout: _Layout) -> np.ndarray:
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
