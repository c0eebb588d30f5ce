"""Programs of torch.export (.pt2) -> the tensors of their state dicts; no program is loaded.

The archive has the elements of each storage as a record of raw bytes, and a table in JSON that
says which storage, dtype, shape and strides each weight has. Sources: torch/export/pt2_archive
(_package.py, constants.py) and torch/_export/serde/schema.py.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from specdiag.checkpoint.safetensors import parse_json
from specdiag.checkpoint.tensor import ITEMSIZE, Tensor, checked_shape, unreadable
from specdiag.checkpoint.torchfile import archive
from specdiag.checkpoint.torchfile.archive import Record
from specdiag.checkpoint.torchfile.views import Layout, Storage, TorchFile, view
from specdiag.files import File, open_file
from specdiag.wording import shown

MAX_TABLE = 100_000_000
_TABLE = re.compile(r"(?P<folder>(?:[^/]+/)?data/weights/)(?P<model>[^/]+)_weights_config\.json")
# Numbers of torch._export.serde.schema.ScalarType.
_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu",
    34: "uint32",
    35: "uint64",
}


def is_exported(names: Mapping[str, Record]) -> bool:
    """Return whether the records of a zip archive include a table of weights."""
    return any(_TABLE.fullmatch(name) for name in names)


def read_exported(file: File) -> list[Tensor]:
    """Return the tensors of the state dicts in an archive of torch.export.

    Parameters and buffers have that role. If there are several programs, their names are the
    first parts of the tensors' names.

    Raises
    ------
    ValueError
        If the archive is damaged, or its table names bytes that it does not have.
    """
    found: list[Tensor] = []
    with open_file(file) as stream:
        records = archive.read_directory(stream, file.size, file.name)
        for name, record in records.items():
            if name.rpartition("/")[2] == "byteorder":
                archive.check_byteorder(stream, record, file.name)
        tables = [match for name in records if (match := _TABLE.fullmatch(name))]
        for match in tables:
            where = f"{file.name}: {shown(match[0], quote=False)}"
            text = archive.read_small(stream, records[match[0]], MAX_TABLE, file.name)
            table = parse_json(text, where)
            config = table.get("config") if isinstance(table, dict) else None
            if not isinstance(config, dict):
                raise ValueError(f"{where}: no table of weights; the file is damaged")  # noqa: TRY004
            prefix = f"{match['model']}." if len(tables) > 1 else ""
            source = _storages(file, records, match["folder"])
            found += _tensors(source, config, prefix, where)
    return found


def _storages(file: File, records: Mapping[str, Record], folder: str) -> TorchFile:
    storages = {
        name.removeprefix(folder): Storage(record.size, record.offset, record)
        for name, record in records.items()
        if name.startswith(folder)
    }
    return TorchFile(file=file, storages=storages)


def _tensors(
    source: TorchFile, config: Mapping[str, Any], prefix: str, where: str
) -> Iterator[Tensor]:
    for key, entry in config.items():
        meta = entry.get("tensor_meta") if isinstance(entry, dict) else None
        if not isinstance(meta, dict):
            raise ValueError(f"{where}: {shown(key)} is not described")  # noqa: TRY004
        role = "" if entry.get("is_param") else "buffer"
        yield replace(_tensor(source, prefix + key, entry, meta, where), role=role)


def _tensor(
    source: TorchFile, name: str, entry: Mapping[str, Any], meta: Mapping[str, Any], where: str
) -> Tensor:
    where = f"{where}: {shown(name)}"
    number, key = meta.get("dtype"), entry.get("path_name")
    dtype = _DTYPES.get(number, "unknown") if type(number) is int else "unknown"
    shape = checked_shape(_numbers(meta.get("sizes")), ITEMSIZE.get(dtype, 1), where)
    if entry.get("use_pickle"):
        return unreadable(name, shape, dtype, "tensor of a subclass, which is pickled")
    if dtype not in ITEMSIZE:
        return unreadable(name, shape, dtype, "its dtype is not supported")
    if type(key) is not str or key not in source.storages:
        raise ValueError(f"{where}: its storage is missing; the file is damaged")
    stride = checked_shape(_numbers(meta.get("strides")), 1, f"{where}, strides")
    (offset,) = _numbers([meta.get("storage_offset")])
    return view(source, name, key, dtype, Layout(offset, shape, stride, ()), where)


def _numbers(sizes: object) -> list[Any]:
    """Return the numbers of sizes that are written as ``{"as_int": 3}``."""
    items = sizes if isinstance(sizes, list) else [None]
    return [item.get("as_int") if isinstance(item, dict) else None for item in items]
