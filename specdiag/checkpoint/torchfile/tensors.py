"""Zip files written by torch, and the tensors that the nodes of all torch files describe."""

import io
import re
from collections.abc import Mapping
from typing import Any

from specdiag.checkpoint.tensor import (
    ITEMSIZE,
    MAX_DIMENSIONS,
    Tensor,
    checked_shape,
    unreadable,
)
from specdiag.checkpoint.torchfile import archive
from specdiag.checkpoint.torchfile.archive import Record, part_of
from specdiag.checkpoint.torchfile.machine import MAX_PICKLE
from specdiag.checkpoint.torchfile.pickle_reader import interpret
from specdiag.checkpoint.torchfile.views import Layout, Storage, TorchFile, view
from specdiag.checkpoint.tree import Global, Object, Reference, array_tensor, is_array, path_of
from specdiag.files import File, open_file
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
        archive.check_byteorder(stream, records.get(f"{root}/byteorder"), file.name)
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
        path = arg.path if type(arg) is Global else ""
        if path.startswith("torch.distributed."):
            problem = "one part of a distributed tensor: save it with torch.distributed.checkpoint"
        elif path.count(".") == 1 and path.startswith("torch.") and dtype == "unknown":
            dtype = dtype_name(Global(path))
        size = plain_size(arg)
        if type(size) is tuple and not shape and all(type(length) is int for length in size):
            shape = size[:MAX_DIMENSIONS]
    return unreadable(name, shape, dtype, problem)


def dtype_name(dtype: Global) -> str:
    """Return the name of a dtype of torch."""
    name = shown(dtype.path.removeprefix("torch."), quote=False)
    return _SHORT_DTYPES.get(name, name)


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
    layout = Layout(args[1], shape, stride, _flips(args[-1], dtype, where))
    return view(source, name, key, dtype, layout, where)


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
