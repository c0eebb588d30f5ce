"""Object header of an HDF5 file -> the attributes that are texts, with all sizes checked.

HDF5 believes the length that a file gives for a text of variable length, up to four gigabytes, and
never leaves a collection of texts with free space of no bytes. So its texts are read here, from the
bytes that its specification (HDF5 File Format Specification 3.0, sections III.E and IV.A) defines.
"""

from collections.abc import Iterator
from math import prod
from struct import unpack
from typing import BinaryIO

from specdiag.wording import is_text

MAX_BLOCK = 2**20  # bytes of an object header
MAX_BLOCKS = 100
MAX_HEAP = 64 * 2**20  # bytes of a collection of texts: a configuration is one text
MAX_TEXTS = 100_000
ATTRIBUTE, _CONTINUATION = 0x0C, 0x10
_FIXED, _VARIABLE = 3, 9  # classes of datatypes


def texts_of(stream: BinaryIO, address: int) -> dict[str, str | list[str]]:
    """Return the attributes of an object that are a text or an array of texts, by their names.

    Those in an unknown layout are left out. The stream is read in pieces of limited size.

    Raises
    ------
    ValueError
        If the header of the object is damaged.
    """
    found: dict[str, str | list[str]] = {}
    heaps: dict[int, dict[int, bytes]] = {}
    for kind, _, data in messages(stream, address):
        name, value = _attribute(stream, data, heaps) if kind == ATTRIBUTE else ("", "")
        if name:
            found[name] = value
    return found


def messages(stream: BinaryIO, address: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield kind, flags and data of the messages of an object header, but continuations."""
    start = _part(stream, address, 64)
    is_new = start.startswith(b"OHDR")
    if is_new:
        about, at = start[5], 6
        at += (16 if about & 0x20 else 0) + (4 if about & 0x10 else 0)
        width = 1 << (about & 3)
        size = int.from_bytes(start[at : at + width], "little")
        blocks = [(address + at + width, size)]
        extra = 2 if about & 4 else 0
    else:
        blocks, extra = [(address + 16, unpack("<I", start[8:12])[0])], 0
    for _ in range(MAX_BLOCKS):
        if not blocks:
            break
        position, size = blocks.pop()
        block, at = _part(stream, position, size), 0
        while at + 8 <= len(block):
            if is_new:
                kind, length, flags = unpack("<BHB", block[at : at + 4])
                at += 4 + extra
            else:
                kind, length, flags = unpack("<HHB", block[at : at + 5])
                at += 8
            data = block[at : at + length]
            at += length
            if kind != _CONTINUATION:
                yield kind, flags, data
            elif len(data) >= 16:
                position, size = unpack("<QQ", data[:16])
                # A new block begins with its signature and ends with a checksum.
                blocks.append((position + 4, size - 8) if is_new else (position, size))


def _attribute(
    stream: BinaryIO, data: bytes, heaps: dict[int, dict[int, bytes]]
) -> tuple[str, str | list[str]]:
    """Return name and value of an attribute; an empty name if it is no text."""
    nothing: tuple[str, str] = ("", "")
    if len(data) < 9 or data[0] not in (1, 2, 3) or (data[0] > 1 and data[1] & 3):
        return nothing
    name, kind, space, values_at = parts_of(data)
    dims = dims_of(space)
    if len(kind) < 8 or dims is None or prod(dims) > MAX_TEXTS:
        return nothing
    count, width = prod(dims), unpack("<I", kind[4:8])[0]
    is_variable = kind[0] & 15 == _VARIABLE and kind[1] & 15 == 1
    if not is_variable and (kind[0] & 15 != _FIXED or width > MAX_BLOCK):
        return nothing
    width = 16 if is_variable else width
    values = [data[values_at + i * width :][:width] for i in range(count)]
    if is_variable:
        values = [_of_heap(stream, value, heaps) for value in values]
    texts = [value.rstrip(b"\0").decode("utf-8", "replace") for value in values]
    key = name.rstrip(b"\0").decode("utf-8", "replace")
    if not all(map(is_text, [key, *texts])):
        return nothing
    return key, texts if dims else "".join(texts)


def parts_of(data: bytes) -> tuple[bytes, bytes, bytes, int]:
    """Return name, datatype and dataspace of an attribute message, and where its values begin."""
    sizes, at = unpack("<3H", data[2:8]), 9 if data[0] == 3 else 8
    parts = []
    for size in sizes:
        parts.append(data[at : at + size])
        at += -(-size // 8) * 8 if data[0] == 1 else size
    name, kind, space = parts
    return name, kind, space, at


def dims_of(space: bytes) -> tuple[int, ...] | None:
    """Return the shape that a dataspace message gives; None for one that is empty or unknown."""
    if len(space) < 4 or space[0] not in (1, 2) or (space[0] == 2 and space[3] == 2):
        return None
    rank, start = space[1], 8 if space[0] == 1 else 4
    if rank > 32 or len(space) < start + 8 * rank:
        return None
    return unpack(f"<{rank}Q", space[start : start + 8 * rank])


def _of_heap(stream: BinaryIO, value: bytes, heaps: dict[int, dict[int, bytes]]) -> bytes:
    """Return a text of variable length: (length, collection, number in the collection)."""
    if len(value) < 16:
        return b""
    length, address, number = unpack("<IQI", value)
    if length == 0:
        return b""
    if address not in heaps:
        if len(heaps) >= MAX_BLOCKS:
            raise ValueError("its texts are in too many places")
        heaps[address] = dict(objects(stream, address))
    return heaps[address].get(number, b"")[:length]


def objects(
    stream: BinaryIO, address: int, *, is_strict: bool = False
) -> Iterator[tuple[int, bytes]]:
    """Yield the texts of a collection by their numbers.

    If `is_strict`, what HDF5 would read past its end, or for ever, raises ValueError.
    """
    start = _part(stream, address, 16)
    if not start.startswith(b"GCOL\1"):
        raise ValueError("a collection of texts is damaged")
    heap = _part(stream, address, int.from_bytes(start[8:], "little"), MAX_HEAP)
    at = 16
    while at + 16 <= len(heap):
        number, length = unpack("<H6xQ", heap[at : at + 16])
        if number == 0:  # the rest is free
            if is_strict and length != len(heap) - at:
                raise ValueError("a collection of texts is damaged")
            break
        if is_strict and at + 16 + length > len(heap):
            raise ValueError("a collection of texts is damaged")
        yield number, heap[at + 16 : at + 16 + length]
        at += 16 + -(-length // 8) * 8


def _part(stream: BinaryIO, start: int, length: int, limit: int = MAX_BLOCK) -> bytes:
    """Return bytes of the file; fewer where it ends."""
    if start >= 2**62 or length > limit:
        raise ValueError("the place of a text is damaged")
    stream.seek(start)
    return stream.read(length)
