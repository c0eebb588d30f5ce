"""GGUF files -> named tensors, whose blocks are dequantised by the gguf package.

The layout is that of ggml's specification, ``docs/gguf.md``. Its shapes begin with the fastest
axis; here they are reversed, so that a layer is (outputs, inputs), as in torch.
"""

import re
import struct
from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from specdiag.checkpoint.formats.folder import GGUF_SHARD
from specdiag.checkpoint.tensor import (
    ITEMSIZE,
    MAX_NAME,
    Tensor,
    check_count,
    checked_shape,
    numpy_dtype,
    unreadable,
)
from specdiag.files import File, find_file, library, open_file, read_array
from specdiag.wording import shown

VERSIONS = (2, 3)
MAX_HEADER = 512 * 2**20  # bytes of texts and arrays before the tensors
MAX_VALUES = 1_000_000  # texts in arrays: a vocabulary and its merges have up to 700,000
MAX_ENTRIES = 100_000  # of the metadata
MAX_LEVELS = 4  # arrays of arrays
MAXSHARDS = 1000
MAX_TEXT = 10_000  # bytes of a text that is kept as metadata
FEW = 32  # values of an array that is kept as metadata

_SCALARS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))  # codes of struct
_TEXT, _ARRAY = 8, 9
# ggml's numbers of the types whose elements are stored as they are.
_PLAIN = {0: "float32", 1: "float16", 24: "int8", 25: "int16", 26: "int32", 27: "int64"} | {
    28: "float64",
    30: "bfloat16",
}
_LOOKUP = re.compile(r"(per_layer_)?token_embd|token_types|position_embd")  # gguf's own names
_EXPERTS = re.compile(r"_(ch)?exps\.weight$")


class _Info(NamedTuple):
    """A tensor as the header describes it; `start` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int


def read_gguf(file: File) -> tuple[list[Tensor], dict[str, Any], list[str]]:
    """Return the tensors of a GGUF file, its metadata, and notes.

    Where its metadata say that it is one of several shards, those beside it are read, too.

    Raises
    ------
    ValueError
        If the file is damaged, or if it holds quantised tensors and gguf is not installed.
    """
    tensors, metadata = _read_one(file)
    count, notes = metadata.get("split.count", 1), []
    match = GGUF_SHARD.fullmatch(file.path.name)
    if type(count) is int and 1 < count <= MAXSHARDS:
        names = [f"{match[1]}-{i + 1:05}-of-{match[2]}.gguf" for i in range(count)] if match else []
        paths = [file.path.with_name(name) for name in names if name != file.path.name]
        missing = [path for path in paths if not path.is_file()]
        if match is None or int(match[2]) != count or missing:
            which = shown(missing[0].name) if missing else "not known from its name"
            notes = [f"only a part of the network: 1 of {count:,} shards; the next is {which}"]
        else:
            tensors += [t for path in paths for t in _read_one(find_file(path))[0]]
    names = [tensor.name for tensor in tensors]
    if len({*names}) != len(names):
        raise ValueError(
            f"{file.name}: a name of a tensor occurs in two shards; download them again"
        )
    return tensors, metadata, notes


def _read_one(file: File) -> tuple[list[Tensor], dict[str, Any]]:
    with open_file(file) as stream:
        header = _Header(stream, file)
        n_tensors = header.start()
        metadata = header.metadata
        infos = header.infos(n_tensors)
    known = [(info, _block(info, file.name)) for info in infos]
    _check_places(known, file)
    return [_tensor(file, info, block) for info, block in known], metadata


class _Header:
    """The part of a file before its tensors, read once from the start."""

    def __init__(self, stream: BinaryIO, file: File) -> None:
        self.stream, self.size, self.where = stream, file.size, file.name
        self.left = MAX_VALUES
        self.metadata: dict[str, Any] = {}
        self.alignment = 32

    def start(self) -> int:
        """Read up to the descriptions of the tensors; return how many there are."""
        self.read(4)
        version, n_tensors, n_entries = self.numbers("IQQ")
        if version not in VERSIONS:
            swapped = version & 0xFFFF == 0
            kind = "big-endian" if swapped else f"of version {version:,}"
            raise ValueError(f"{self.where}: a GGUF file {kind}, which is not read")
        if n_tensors > self.size // 24 or n_entries > MAX_ENTRIES:
            raise self.damaged(f"{n_tensors:,} tensors and {n_entries:,} entries are announced")
        check_count(n_tensors, self.size, self.where)
        seen: set[str] = set()
        for _ in range(n_entries):
            key = self.name()
            if key in seen:
                raise self.damaged(f"the key {shown(key)} occurs twice")
            seen.add(key)
            value = self.value(*self.numbers("I"))
            if value is not None:
                self.metadata[key] = value
        self.alignment = self.metadata.get("general.alignment", 32)
        if type(self.alignment) is not int or self.alignment not in (1 << n for n in range(21)):
            raise self.damaged("the alignment is no power of two")
        return n_tensors

    def infos(self, n_tensors: int) -> list[_Info]:
        """Return the descriptions of the tensors."""
        infos = []
        for _ in range(n_tensors):
            name = self.name()
            where = f"{self.where}: {shown(name)}"
            (n_axes,) = self.numbers("I")
            if n_axes > 8:
                raise ValueError(f"{where}: {n_axes:,} axes; ggml has at most 4")
            shape = checked_shape([*self.numbers("Q" * n_axes)][::-1], 1, where)
            infos.append(_Info(name, shape, *self.numbers("IQ")))
        if len({info.name for info in infos}) != len(infos):
            raise self.damaged("a name of a tensor occurs twice")
        end = self.stream.tell()
        data = end + -end % self.alignment
        return [info._replace(start=data + info.start) for info in infos]

    def value(self, kind: int, level: int = 0) -> Any:
        """Return a value of the metadata; None for long texts, and for arrays that are long."""
        if kind in _SCALARS:
            (value,) = self.numbers(_SCALARS[kind])
            return value
        if kind == _TEXT:
            (length,) = self.numbers("Q")
            return self.text(length) if length <= MAX_TEXT else self.skip(length)
        if kind != _ARRAY or level == MAX_LEVELS:
            raise self.damaged(f"a value of the unknown type {kind:,}, or nested too deeply")
        inner, count = self.numbers("IQ")
        if inner in _SCALARS:
            if count <= FEW:
                return [*self.numbers(_SCALARS[inner] * count)]
            self.skip(count * struct.calcsize(f"<{_SCALARS[inner]}"))
            return None
        self.left -= count
        if self.left < 0:
            raise self.damaged(f"more than {MAX_VALUES:,} values in arrays")
        for _ in range(count):
            if inner == _TEXT:
                self.skip(*self.numbers("Q"))
            else:
                self.value(inner, level + 1)
        return None

    def name(self) -> str:
        (length,) = self.numbers("Q")
        if length > MAX_NAME:
            raise self.damaged(f"a name of {length:,} bytes is announced")
        return self.text(length)

    def text(self, length: int) -> str:
        try:
            return self.read(length).decode()
        except UnicodeDecodeError:
            raise self.damaged("a text is not UTF-8") from None

    def numbers(self, codes: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{codes}", self.read(struct.calcsize(f"<{codes}")))

    def skip(self, length: int) -> None:
        if self.stream.tell() + length > min(self.size, MAX_HEADER):
            raise self.damaged(f"{length:,} bytes are announced that it does not have")
        self.stream.seek(length, 1)

    def read(self, length: int) -> bytes:
        data = self.stream.read(length)
        if len(data) != length or self.stream.tell() > MAX_HEADER:
            raise self.damaged("it ends too early")
        return data

    def damaged(self, what: str) -> ValueError:
        return ValueError(
            f"{self.where}: the header of the GGUF file is invalid: {what}; copy or download it "
            "again"
        )


class _Block(NamedTuple):
    """The elements of a type, and the bytes that a block of them takes."""

    n_elements: int
    n_bytes: int
    name: str
    dequantise: Callable[[np.ndarray], np.ndarray] | None = None
    problem: str = ""


def _block(info: _Info, where: str) -> _Block:
    """Return how the values of a tensor are stored."""
    if info.kind in _PLAIN:
        return _Block(1, ITEMSIZE[_PLAIN[info.kind]], _PLAIN[info.kind])
    gguf = library("gguf", where)
    try:
        kind = gguf.GGMLQuantizationType(info.kind)
        n_elements, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        return _Block(1, 0, f"type {info.kind}", None, f"gguf does not know type {info.kind}")
    block = _Block(n_elements, n_bytes, kind.name, lambda data: gguf.dequantize(data, kind))
    try:
        gguf.dequantize(np.zeros((1, n_bytes), np.uint8), kind)
    except NotImplementedError:
        return block._replace(problem=f"gguf cannot dequantise {kind.name}")
    return block


def _check_places(known: list[tuple[_Info, _Block]], file: File) -> None:
    """Raise ValueError if tensors overlap, or lie outside the file."""
    spans = []
    for info, block in known:
        where = f"{file.name}: {shown(info.name)}"
        if info.shape and info.shape[-1] % block.n_elements:
            raise ValueError(
                f"{where}: rows of {info.shape[-1]:,} are no blocks of {block.n_elements}; the "
                "file is damaged"
            )
        stop = info.start + prod(info.shape) // block.n_elements * block.n_bytes
        if stop > file.size:
            raise ValueError(
                f"{where}: it ends at byte {stop:,}, the file at {file.size:,}; it was cut short: "
                "copy or download it again"
            )
        spans.append((info.start, stop, where))
    spans.sort()
    for (_, stop, _), (start, _, where) in pairwise(spans):
        if start < stop:
            raise ValueError(f"{where}: overlaps the tensor before it; the file is damaged")


def _tensor(file: File, info: _Info, block: _Block) -> Tensor:
    where = f"{file.name}: {shown(info.name)}"
    if block.problem:
        return unreadable(info.name, info.shape, block.name, block.problem)

    def stored(shape: tuple[int, ...]) -> int:
        return prod(shape) // block.n_elements * block.n_bytes

    def part(start: int, shape: tuple[int, ...]) -> np.ndarray:
        with open_file(file) as stream:
            data = read_array(stream, info.start + start, stored(shape), where)
        if block.dequantise is None or not data.size:
            return data.view(numpy_dtype(dtype)).reshape(shape)
        with np.errstate(all="ignore"):  # damaged scales may overflow
            values = block.dequantise(data.reshape(-1, stored(shape[-1:])))
        return values.astype(np.float32, copy=False).reshape(shape)

    def read_rows(first: int, last: int) -> np.ndarray:
        return part(first * stored(info.shape[1:]), (last - first, *info.shape[1:]))

    dtype = "float32" if block.dequantise else block.name
    return Tensor(
        name=info.name,
        shape=info.shape,
        dtype=dtype,
        role="embedding" if _LOOKUP.match(info.name) else "",
        facts={"num_experts": info.shape[0]} if _EXPERTS.search(info.name) else {},
        rule=f"dequantised from {block.name}" if block.dequantise else "",
        read=lambda: part(0, info.shape),
        read_rows=read_rows if len(info.shape) > 1 else None,
    )
