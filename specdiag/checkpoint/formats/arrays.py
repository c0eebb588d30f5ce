"""NumPy files (.npy, .npz) -> named tensors; no pickle in them is ever read."""

import re
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from specdiag.checkpoint.tensor import (
    PLAIN_DTYPES,
    Tensor,
    check_bytes,
    checked_shape,
    numpy_dtype,
    unreadable,
)
from specdiag.checkpoint.torchfile import archive
from specdiag.checkpoint.torchfile.archive import Record
from specdiag.files import File, open_file, read_array, read_bytes
from specdiag.wording import shown

MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000  # bytes, as numpy.load reads at most
# As numpy.save writes it; a structured dtype has a list here. Other writers leave out spaces, and
# Python 2 wrote long numbers as 120L.
_HEADER = re.compile(
    r"\{'descr': ?(?:'(?P<code>[<>|=][\w\[\]]+)'|\[.*\]), ?"
    r"'fortran_order': ?(?P<fortran>True|False), ?"
    r"'shape': ?\((?P<shape>(?:\d{1,19}L?(?:, |,|(?=\))))*)\),? ?\} *\n?"
)
# Fields of the file: magic, two numbers of the version, length of the header in two or four bytes.
_LENGTHS = {1: 2, 2: 4, 3: 4}


class Layout(NamedTuple):
    """Where the elements of an array begin in its file, and how they lie there."""

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype  # object if it is not read
    fortran: bool
    name: str  # of the dtype

    @property
    def is_text(self) -> bool:
        """Whether the elements are texts of a fixed length."""
        return self.dtype.kind in "SU"

    @property
    def is_read(self) -> bool:
        """Whether the elements are numbers or texts that are read."""
        return self.dtype.kind != "O"


def read_npy(file: File) -> tuple[list[Tensor], dict[str, Any], list[str]]:
    """Return the array of a .npy file as a list of one tensor; it has no metadata and no notes.

    Raises
    ------
    ValueError
        If the file is damaged.
    """

    def read(start: int, length: int) -> np.ndarray:
        with open_file(file) as stream:
            return read_array(stream, start, length, file.name)

    with open_file(file) as stream:
        head = stream.read(MAX_HEADER + 12)
    return [_tensor("tensor", head, file.size, read, file.name)], {}, []


def is_npz(names: Iterable[str]) -> bool:
    """Return whether the records of a zip archive are those of a .npz file."""
    names = list(names)
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_npz(file: File) -> tuple[list[Tensor], dict[str, Any], list[str]]:
    """Return the arrays of a .npz file, in their order; it has no metadata.

    Raises
    ------
    ValueError
        If the archive or an array in it is damaged.
    """
    tensors = []
    with open_file(file) as stream:
        for record in archive.read_directory(stream, file.size, file.name).values():
            size = min(record.packed, 2 * MAX_HEADER)
            head = read_bytes(stream, record.offset, size, file.name)
            if record.deflated:
                head = _inflated(head, f"{file.name}: {shown(record.name)}")
            name = record.name.removesuffix(".npy")
            read = partial(_read_record, file, record)
            tensors.append(_tensor(name, head, record.size, read, file.name))
    return tensors, {}, []


def _inflated(packed: bytes, where: str) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, MAX_HEADER + 12)
    except zlib.error as error:
        raise ValueError(f"{where}: cannot be decompressed ({error})") from None


def _read_record(file: File, record: Record, start: int, length: int) -> np.ndarray:
    with open_file(file) as stream:
        return archive.read_record(stream, record, file.name)[start : start + length]


def _tensor(
    name: str, head: bytes, size: int, read: Callable[[int, int], np.ndarray], where: str
) -> Tensor:
    """Return the tensor whose file of `size` bytes starts with `head`."""
    where = f"{where}: {shown(name)}"
    layout = layout_of(head, size, where)
    if not layout.is_read or layout.is_text:
        problem = f"dtype {layout.name} is not supported"
        if layout.name == "object":
            problem = "Python objects in a pickle, which is not read: save each array by itself"
        return unreadable(name, layout.shape, layout.name, problem)
    return Tensor(
        name=name,
        shape=layout.shape,
        dtype=layout.name,
        read=partial(_read, read, layout, where),
    )


def layout_of(head: bytes, size: int, where: str) -> Layout:
    """Return the layout of the array whose file of `size` bytes starts with `head`.

    Raises
    ------
    ValueError
        If the header is invalid, or the data do not fit their shape.
    """
    n_length = _LENGTHS.get(head[6], 0) if head.startswith(MAGIC) and len(head) >= 12 else 0
    if not n_length:
        raise ValueError(f"{where}: not a NumPy array of a known version")
    start = 8 + n_length + int.from_bytes(head[8 : 8 + n_length], "little")
    text = head[8 + n_length : start].decode("latin-1")
    match = _HEADER.fullmatch(text)
    if start > min(len(head), size) or match is None:
        raise ValueError(f"{where}: the header of the array is invalid, or not as NumPy writes it")
    shape = [int(n) for n in re.findall(r"\d+", match["shape"])]
    dtype, name = _dtype(match["code"] or "structured")
    itemsize = 1 if dtype.kind == "O" else dtype.itemsize
    checked = checked_shape(shape, itemsize, where)
    layout = Layout(start, checked, dtype, match["fortran"] == "True", name)
    if layout.is_read and size - start != prod(layout.shape) * itemsize:
        raise ValueError(f"{where}: its data do not fit its shape; the file is damaged")
    return layout


def _dtype(code: str) -> tuple[np.dtype, str]:
    """Return the dtype of the elements, object if it is not read, and its name.

    NumPy writes bfloat16 as two bytes without a name, and no other dtype of two bytes so.
    """
    if code in ("<V2", "|V2"):
        return np.dtype("<u2"), "bfloat16"
    try:
        dtype = np.dtype(code)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.name in PLAIN_DTYPES:
        return dtype, dtype.name
    kind = code.lstrip("<>|=")
    # A long double, "f16" in bytes, is no float16.
    known = {"O": "object", "f16": "float128", "f12": "float96", "f10": "float80"}
    name = known.get(kind) or shown(kind, quote=False)
    return dtype if dtype.kind in "SU" else np.dtype(object), name


def _read(read: Callable[[int, int], np.ndarray], layout: Layout, where: str) -> np.ndarray:
    data = read(layout.start, prod(layout.shape) * layout.dtype.itemsize)
    return elements(data, layout, layout.shape, where)


def elements(data: np.ndarray, layout: Layout, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Return bytes of a file as a C-contiguous array of a shape, in the order of this machine.

    Raises
    ------
    ValueError
        If they are invalid elements of their dtype.
    """
    check_bytes(data, layout.name, where)
    values = data.view(layout.dtype).reshape(shape, order="F" if layout.fortran else "C")
    values = np.array(values, dtype=layout.dtype.newbyteorder("="), order="C")
    return values if layout.is_text else values.view(numpy_dtype(layout.name))
