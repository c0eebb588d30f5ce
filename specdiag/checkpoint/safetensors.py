"""The safetensors format: a header of JSON, then the values without gaps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from specdiag.checkpoint.tensor import (
    ITEMSIZE,
    Tensor,
    check_bytes,
    check_count,
    checked_shape,
    combined_hash,
    elements_hash,
    numpy_dtype,
    unreadable,
)
from specdiag.files import File, open_file, read_array, read_bytes
from specdiag.wording import is_text, shown

MAX_HEADER = 100_000_000  # the format's own limit
MAX_VALUES = 2_000_000  # a tensor takes about 8
RECORD = "specdiag_export"  # the metadata key whose text holds everything that is not a tensor

# In the order in which the safetensors package writes them, so that every tensor is aligned.
_DTYPES = dict(
    pair.split()
    for pair in (
        *("U64 uint64", "I64 int64", "F64 float64", "C64 complex64"),
        *("F32 float32", "U32 uint32", "I32 int32"),
        *("BF16 bfloat16", "F16 float16", "U16 uint16", "I16 int16"),
        *("F8_E5M2FNUZ float8_e5m2fnuz", "F8_E4M3FNUZ float8_e4m3fnuz"),
        *("F8_E8M0 float8_e8m0fnu", "F8_E4M3 float8_e4m3fn", "F8_E5M2 float8_e5m2"),
        *("I8 int8", "U8 uint8", "BOOL bool"),
    )
)
CODES = {dtype: code for code, dtype in _DTYPES.items()}


def parse_json(data: bytes, where: str) -> Any:
    """Return the content of strict JSON.

    Raises
    ------
    ValueError
        If the text is invalid JSON, is nested too deeply, or has content that readers interpret
        differently: repeated keys, NaN, or half of a surrogate pair.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for key, value in pairs:
            if key in table:
                raise ValueError(f"the key {shown(key)} occurs twice")
            table[key] = value
        return table

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number in JSON")

    if data.count(b",") + data.count(b"[") > MAX_VALUES:
        raise ValueError(f"{where}: more than {MAX_VALUES:,} values")
    try:
        content = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=refuse)
        # Half of a surrogate pair can only be written as an escape.
        are_texts = rb"\ud" not in data.lower() or is_text(json.dumps(content, ensure_ascii=False))
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError(f"{where}: not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON ({error})") from None
    if not are_texts:
        raise ValueError(f"{where}: a text is not valid Unicode")
    return content


def read_header(file: File) -> tuple[list[Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, in the order of their bytes, and its metadata.

    Raises
    ------
    ValueError
        If the header is invalid, or if the tensors overlap, leave holes or exceed the file.
    """
    where = f"{file.name}: safetensors header"
    with open_file(file) as stream:
        if file.size < 10:
            raise ValueError(f"{where}: cut short; copy or download the file again")
        length = int.from_bytes(stream.read(8), "little")
        if length > min(MAX_HEADER, file.size - 8):
            raise ValueError(
                f"{where}: {length:,} bytes are announced, the file has {file.size:,}; "
                "it is damaged or was cut short: copy or download it again"
            )
        header = parse_json(read_bytes(stream, 8, length, where), where)
    if not isinstance(header, dict):
        raise ValueError(f"{where}: not a table of tensors")  # noqa: TRY004
    metadata = header.pop("__metadata__", {})
    if not _is_table_of_texts(metadata):
        raise ValueError(f"{where}: __metadata__ is not a table of texts")
    check_count(len(header), file.size, where)
    entries = [_entry(name, entry, f"{where}: {shown(name)}") for name, entry in header.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    _check_cover(entries, file.size - 8 - length, where)
    return [_tensor(file, 8 + length, entry) for entry in entries], metadata


class _Entry(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _entry(name: str, entry: object, where: str) -> _Entry:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where}: expected dtype, shape and data_offsets")
    code, offsets = entry["dtype"], entry["data_offsets"]
    if not isinstance(code, str):
        raise ValueError(f"{where}: the dtype is not text")  # noqa: TRY004
    dtype = _DTYPES.get(code, shown(code, quote=False))
    shape = checked_shape(entry["shape"], ITEMSIZE.get(dtype, 1), where)
    if not isinstance(offsets, list) or len(offsets) != 2 or {type(o) for o in offsets} != {int}:
        raise ValueError(f"{where}: data_offsets are not two whole numbers")
    begin, end = offsets
    if not 0 <= begin <= end < 2**63:
        raise ValueError(f"{where}: data_offsets run backwards or exceed 63 bits")
    if code in _DTYPES and end - begin != prod(shape) * ITEMSIZE[dtype]:
        raise ValueError(
            f"{where}: {end - begin:,} bytes for {prod(shape):,} elements of {dtype}; "
            "the file is damaged"
        )
    return _Entry(name, dtype, shape, begin, end)


def _check_cover(entries: list[_Entry], n_bytes: int, where: str) -> None:
    position = 0
    for entry in entries:
        if entry.begin != position:
            fault = "overlaps the tensor before it" if entry.begin < position else "follows a hole"
            raise ValueError(f"{where}: {shown(entry.name)} {fault}; the file is damaged")
        position = entry.end
    if position != n_bytes:
        raise ValueError(
            f"{where}: the tensors take {position:,} bytes and the file has {n_bytes:,}; "
            "it was cut short or changed: copy or download it again"
        )


def _tensor(file: File, start: int, entry: _Entry) -> Tensor:
    name, dtype, shape, begin, end = entry
    if dtype not in ITEMSIZE:
        return unreadable(name, shape, dtype, f"dtype {dtype} is not supported")

    row = prod(shape[1:]) * ITEMSIZE[dtype]

    def read() -> np.ndarray:
        return part(begin, end).reshape(shape)

    def read_rows(first: int, last: int) -> np.ndarray:
        return part(begin + first * row, begin + last * row).reshape(last - first, *shape[1:])

    def part(begin: int, end: int) -> np.ndarray:
        where = f"{file.name}: {shown(name)}"
        with open_file(file) as stream:
            data = read_array(stream, start + begin, end - begin, where)
        check_bytes(data, dtype, where)
        return data.view(numpy_dtype(dtype))

    rows = read_rows if shape else None
    return Tensor(name=name, shape=shape, dtype=dtype, read=read, read_rows=rows)


def make_header(tensors: Sequence[Tensor], metadata: Mapping[str, str], where: str) -> bytes:
    """Return the header of a file that holds `tensors` in this order, and its length before it.

    The bytes are those that the safetensors package writes.

    Raises
    ------
    ValueError
        If `read_header` could not read it, for example because it is too large.
    """
    table: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for tensor in tensors:
        end = position + prod(tensor.shape) * ITEMSIZE[tensor.dtype]
        offsets = {"data_offsets": [position, end]}
        table[tensor.name] = {"dtype": CODES[tensor.dtype], "shape": tensor.shape, **offsets}
        position = end
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(f"{where}: the header takes {len(text):,} bytes, more than {MAX_HEADER:,}")
    parse_json(text, where)
    return len(text).to_bytes(8, "little") + text


def sort_key(tensor: Tensor) -> tuple[int, str]:
    """Return the sort key of the safetensors package: the dtype, then the name."""
    return list(_DTYPES).index(CODES[tensor.dtype]), tensor.name


def restore(
    file: File, tensors: list[Tensor], text: str
) -> tuple[list[Tensor], dict[str, Any], list[str]]:
    """Return the tensors of an export in their original order with ties, its metadata and notes.

    Raises
    ------
    ValueError
        If the record is invalid or does not fit the tensors.
    """
    where = f"{file.name}: {RECORD}"
    record = parse_json(text.encode(), where)
    if not isinstance(record, dict) or record.get("version") != 1:
        raise ValueError(f"{where}: its version is not 1; export it again, or update specdiag")
    stored = {tensor.name: tensor for tensor in tensors}
    fields: list[Any] = [record.get(key) for key in ("sha256", "tied", "metadata", "notes")]
    hashes, tied, metadata, notes = fields
    if not _is_table_of_texts(tied) or not stored.keys() >= {*tied.values()}:
        raise ValueError(f"{where}: a tied tensor is missing in the file; export it again")
    if not _is_table_of_texts(hashes) or hashes.keys() != stored.keys() ^ tied.keys():
        raise ValueError(f"{where}: it lists other tensors than the file holds; export it again")
    if not isinstance(metadata, dict) or not isinstance(notes, list):
        raise ValueError(f"{where}: its metadata or notes are invalid; export it again")  # noqa: TRY004
    for name in {*tied.values()}:
        stored[name] = replace(stored[name], identity=(file, name))
    stored |= {name: replace(stored[first], name=name) for name, first in tied.items()}
    if combined_hash(stored.values(), hashes) != record.get("tensor_digest"):
        raise ValueError(f"{where}: the tensor digest does not match the file; it is damaged")
    verified = [_verified(stored[name], expected, file.name) for name, expected in hashes.items()]
    return verified, metadata, [shown(str(note), quote=False, limit=1000) for note in notes]


def _is_table_of_texts(value: object) -> bool:
    return isinstance(value, dict) and all(type(text) is str for text in value.values())


def _verified(tensor: Tensor, expected: str, where: str) -> Tensor:
    """Return the tensor with a `read` that compares the values to their SHA-256."""

    def read() -> np.ndarray:
        values = tensor.read()
        if elements_hash(values) != expected:
            raise ValueError(
                f"{where}: {shown(tensor.name)} does not match its SHA-256; the file is damaged"
            )
        return values

    return replace(tensor, read=read, read_rows=None)
