"""MessagePack files of Flax -> the tree of their arrays.

`flax.serialization` writes nested dicts, whose arrays are extensions of type 1: MessagePack of
(shape, name of the dtype, bytes). Arrays of more than a gigabyte are dicts of pieces. The values of
arrays are not read with the tree: their places are kept.
"""

import struct
from collections.abc import Sequence
from math import prod
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from specdiag.checkpoint.tensor import (
    ITEMSIZE,
    Tensor,
    check_bytes,
    checked_shape,
    numpy_dtype,
    unreadable,
)
from specdiag.files import File, open_file, read_array, read_bytes
from specdiag.wording import shown

MAX_VALUES = 500_000
MAX_TEXT = 1_000_000
MAX_LEVELS = 100
_CHUNKED = "__msgpack_chunked_array__"
_ARRAY, _SCALAR = 1, 3
_NUMBERS = dict(zip(range(0xCA, 0xD4), "fdBHIQbhiq", strict=True))  # codes of struct
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
# Kind and bytes of the length, by the first byte.
_LENGTHS = {
    first + i: (kind, size)
    for first, kind, sizes in (
        (0xC4, "bytes", (1, 2, 4)),
        (0xC7, "extension", (1, 2, 4)),
        (0xD9, "text", (1, 2, 4)),
        (0xDC, "list", (2, 4)),
        (0xDE, "dict", (2, 4)),
    )
    for i, size in enumerate(sizes)
}


class _Array(NamedTuple):
    """An array as its extension describes it, and where its bytes are."""

    shape: tuple[int, ...]
    dtype: str
    start: int
    length: int


class _Bytes(NamedTuple):
    """Bytes that are no array."""

    start: int
    length: int


def read_flax(file: File) -> dict[str, Any]:
    """Return the tree of a file: dicts and lists of plain values, with a Tensor for each array.

    Raises
    ------
    ValueError
        If the file is damaged, or no dict that holds an array.
    """
    with open_file(file) as stream:
        reader = _Reader(stream, file)
        tree = reader.value(file.size)
        if stream.tell() != file.size:
            raise reader.damaged("bytes follow its end")
    if not isinstance(tree, dict) or not reader.n_arrays:
        raise ValueError(f"{file.name}: MessagePack without arrays, as Flax writes them")
    return parameters_first(_with_tensors(tree, file))


def parameters_first(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tree with the parameters beside the optimizer, if it is a former one of Flax.

    Those hold the parameters as their target: {optimizer: {target: parameters, state: moments}}.
    """
    for name in ("optimizer", "opt"):
        optimizer = tree.get(name)
        if isinstance(optimizer, dict) and isinstance(optimizer.get("target"), dict):
            others = {key: value for key, value in optimizer.items() if key != "target"}
            return {"params": optimizer["target"]} | tree | {name: others}
    return tree


def nested(tensors: Sequence[Tensor]) -> dict[str, Any] | None:
    """Return the tree of tensors whose names have slashes; None if one is below another."""
    tree: dict[str, Any] = {}
    for tensor in tensors:
        *above, leaf = tensor.name.split("/")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                return None
        if leaf in node:
            return None
        node[leaf] = tensor
    return tree


def _with_tensors(node: Any, file: File) -> Any:
    """Return the tree with a Tensor for each array; one of pieces is one array."""
    if isinstance(node, dict):
        if node.get(_CHUNKED) is True:
            return _chunked(node, file)
        return {key: _with_tensors(value, file) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_tensors(value, file) for value in node]
    if isinstance(node, _Array):
        return _tensor(node.shape, [node], file)
    return b"" if isinstance(node, _Bytes) else node


def _chunked(node: dict[str, Any], file: File) -> Tensor:
    """Return the array that a dict of pieces describes."""
    where = f"{file.name}: an array of pieces"
    sizes, pieces = (_listed(node.get(key), where) for key in ("shape", "chunks"))
    shape = checked_shape(sizes, 16, where)
    arrays = [piece for piece in pieces if isinstance(piece, _Array)]
    fits = sum(prod(array.shape) for array in arrays) == prod(shape)
    if len(arrays) != len(pieces) or len({a.dtype for a in arrays}) != 1 or not fits:
        raise ValueError(f"{where}: its pieces do not fit its shape; the file is damaged")
    return _tensor(shape, arrays, file)


def _listed(node: Any, where: str) -> list[Any]:
    """Return the values of a dict whose keys are '0', '1' and so on."""
    if not isinstance(node, dict) or [*node] != [str(i) for i in range(len(node))]:
        raise ValueError(f"{where}: its pieces or its shape are not numbered; the file is damaged")
    return [*node.values()]


def _tensor(shape: tuple[int, ...], pieces: Sequence[_Array], file: File) -> Tensor:
    dtype = pieces[0].dtype
    if dtype not in ITEMSIZE:
        return unreadable("array", shape, dtype, f"dtype {dtype} is not supported")

    def read() -> np.ndarray:
        with open_file(file) as stream:
            parts = [read_array(stream, p.start, p.length, file.name) for p in pieces]
        data = np.concatenate(parts) if len(parts) > 1 else parts[0]
        check_bytes(data, dtype, file.name)
        return data.view(numpy_dtype(dtype)).reshape(shape)

    return Tensor(name="array", shape=shape, dtype=dtype, read=read)


class _Reader:
    """Reads values from the start of a file; bytes are skipped."""

    def __init__(self, stream: BinaryIO, file: File) -> None:
        self._stream, self._where = stream, file.name
        self._left = MAX_VALUES
        self.n_arrays = 0

    def value(self, end: int, level: int = 0) -> Any:
        """Return the next value, which ends before the byte `end`."""
        self._left -= 1
        if self._left < 0 or level > MAX_LEVELS:
            raise ValueError(
                f"{self._where}: more than {MAX_VALUES:,} values, or {MAX_LEVELS} levels of them"
            )
        kind, length = self._head(end, level)
        if kind == "value":
            return length
        start = self._stream.tell()
        if length > end - start:
            raise self.damaged(f"{length:,} bytes or values are announced that it does not have")
        if kind == "list":
            return [self.value(end, level + 1) for _ in range(length)]
        if kind == "dict":
            return self._table(length, end, level)
        if kind == "text":
            return self._text(length)
        self._stream.seek(start + length)
        return _Bytes(start, length)

    def _head(self, end: int, level: int) -> tuple[str, Any]:
        """Return the kind of the next value, and its length, or the value itself."""
        first = self._read(1)[0]
        if first < 0x80 or first >= 0xE0:
            return "value", first if first < 0x80 else first - 256
        if first < 0xC0:
            kind = "dict" if first < 0x90 else "list" if first < 0xA0 else "text"
            return kind, first & (0x1F if kind == "text" else 0x0F)
        if first in (0xC0, 0xC2, 0xC3):
            return "value", {0xC0: None, 0xC2: False, 0xC3: True}[first]
        if first in _NUMBERS:
            code = f">{_NUMBERS[first]}"
            return "value", struct.unpack(code, self._read(struct.calcsize(code)))[0]
        if first in _FIXED_EXTENSIONS:
            return "value", self._extension(_FIXED_EXTENSIONS[first], end, level)
        if first not in _LENGTHS:
            raise self.damaged("a value of no known type")
        kind, size = _LENGTHS[first]
        length = int.from_bytes(self._read(size), "big")
        if kind == "extension":
            return "value", self._extension(length, end, level)
        return kind, length

    def _table(self, length: int, end: int, level: int) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for _ in range(length):
            key = self.value(end, level + 1)
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise self.damaged("a key is no text")
            if str(key) in table:
                raise self.damaged(f"the key {shown(str(key))} occurs twice")
            table[str(key)] = self.value(end, level + 1)
        return table

    def _extension(self, length: int, end: int, level: int) -> Any:
        """Return the array of an extension; None for one that is no array."""
        kind = self._read(1)[0]
        stop = self._stream.tell() + length
        if stop > end:
            raise self.damaged(f"{length:,} bytes are announced that it does not have")
        if kind not in (_ARRAY, _SCALAR):
            self._stream.seek(stop)
            return None
        parts = self.value(stop, level + 1)
        if self._stream.tell() != stop or not isinstance(parts, list) or len(parts) != 3:
            raise self.damaged("an array is not (shape, dtype, bytes)")
        size, dtype, data = parts
        name = dtype if isinstance(dtype, str) else ""
        shape = checked_shape(size, ITEMSIZE.get(name, 1), f"{self._where}: an array")
        n_bytes = prod(shape) * ITEMSIZE[name] if name in ITEMSIZE else None
        if not name or not isinstance(data, _Bytes) or n_bytes not in (None, data.length):
            raise self.damaged("the bytes of an array do not fit its shape")
        self.n_arrays += 1
        return _Array(shape, shown(name, quote=False), *data)

    def _text(self, length: int) -> str:
        if length > MAX_TEXT:
            raise self.damaged(f"a text of {length:,} bytes")
        try:
            return self._read(length).decode()
        except UnicodeDecodeError:
            raise self.damaged("a text is not UTF-8") from None

    def _read(self, length: int) -> bytes:
        return read_bytes(self._stream, self._stream.tell(), length, self._where)

    def damaged(self, what: str) -> ValueError:
        """Return the error of a file that is not what it seems."""
        return ValueError(f"{self._where}: not valid MessagePack of Flax: {what}")
