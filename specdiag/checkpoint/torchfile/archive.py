"""The zip container of torch files, read strictly.

An archive that two readers could interpret differently is refused.
"""

import io
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from specdiag.files import read_array, read_bytes
from specdiag.wording import shown

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_DIRECTORY = 64 * 2**20
# Weights can hardly be compressed, but masks and zeros can: a record that grows more often than
# this, and to more bytes, is a decompression bomb.
MAX_RATIO = 20
MAX_GROWN = 64 * 2**20
MAX_RECORDS = 100_000
CHUNK = 2**20

_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")

_UTF8, _DESCRIPTOR, _DEFLATE_LEVEL = 0x800, 0x8, 0x6
_STORED, _DEFLATED = 0, 8


class Record(NamedTuple):
    """One file inside the archive: `size` bytes, kept as `packed` bytes at `offset`."""

    name: str
    offset: int
    size: int
    packed: int
    deflated: bool
    crc: int


class _Part(io.RawIOBase):
    """A part of an open file, which is read as if it were a file of its own."""

    def __init__(self, stream: BinaryIO, start: int, size: int) -> None:
        self._stream, self._start, self._size = stream, start, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_CUR: self._at, os.SEEK_END: self._size}.get(whence, 0)
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)[: max(self._size - self._at, 0)]
        self._stream.seek(self._start + self._at)
        count: int = self._stream.readinto(view)  # type: ignore[attr-defined]
        self._at += count
        return count


def part_of(stream: BinaryIO, start: int, size: int) -> BinaryIO:
    """Return `size` bytes of an open file from `start` as a file of its own."""
    return io.BufferedReader(_Part(stream, start, size))


class _Entry(NamedTuple):
    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int


def read_directory(stream: BinaryIO, size: int, where: str) -> dict[str, Record]:
    """Return the records of the zip archive, by name, in the order of its directory.

    Raises
    ------
    ValueError
        If names repeat, the two headers of a record differ, records overlap, or a record is
        encrypted, marked as a directory, or compressed by another method than deflate.
    """
    n_entries, directory_size, directory_at = _read_end(stream, size, where)
    data = read_bytes(stream, directory_at, directory_size, where)
    records: dict[str, Record] = {}
    spans = []
    for entry in _entries(data, n_entries, where):
        record = _check_entry(stream, entry, directory_at, where)
        if record.name in records:
            raise ValueError(f"{where}: the record {shown(record.name)} occurs twice")
        records[record.name] = record
        spans.append((entry.header, record.offset + record.packed, record.name))
    spans.sort()
    for (_, stop, _), (start, _, name) in pairwise(spans):
        if start < stop:
            raise ValueError(f"{where}: the record {shown(name)} overlaps the one before it")
    return records


def _read_end(stream: BinaryIO, size: int, where: str) -> tuple[int, int, int]:
    """Return the number of entries, the size and the position of the central directory."""
    cut = ValueError(
        f"{where}: the zip archive has no end: it was cut short; copy or download it again"
    )
    end_at = size - _END.size
    if end_at < 0:
        raise cut
    end = _END.unpack(read_bytes(stream, end_at, _END.size, where))
    if end[0] != b"PK\x05\x06" or end[-1] != 0:
        raise cut
    directory = (end[4], end[5], end[6])
    locator_at = end_at - _END64_LOCATOR.size
    if locator_at >= _END64.size:
        locator = _END64_LOCATOR.unpack(read_bytes(stream, locator_at, _END64_LOCATOR.size, where))
        if locator[0] == b"PK\x06\x07":
            end_at = locator_at - _END64.size
            end64 = _END64.unpack(read_bytes(stream, end_at, _END64.size, where))
            if end64[0] != b"PK\x06\x06" or locator[2] != end_at:
                raise ValueError(f"{where}: the two ends of the zip archive do not fit together")
            wide = (end64[7], end64[8], end64[9])
            for narrow, value, full in zip(directory, wide, (2**16, 2**32, 2**32), strict=True):
                if narrow not in (value, full - 1):
                    raise ValueError(f"{where}: the two ends of the zip archive disagree")
            directory = wide
    _, size_of_directory, start = directory
    if start + size_of_directory != end_at or size_of_directory > MAX_DIRECTORY:
        raise ValueError(
            f"{where}: the zip directory is not at the position given in the end of the archive"
        )
    return directory


def _entries(data: bytes, n_entries: int, where: str) -> Iterable[_Entry]:
    position = 0
    if n_entries > MAX_RECORDS:
        raise ValueError(f"{where}: {n_entries:,} records; at most {MAX_RECORDS:,} are read")
    for index in range(n_entries):
        if position + _CENTRAL.size > len(data):
            raise ValueError(f"{where}: the zip directory ends before entry {index:,}")
        fields = _CENTRAL.unpack_from(data, position)
        name_length, extra_length, comment_length = fields[10:13]
        start = position + _CENTRAL.size
        name = data[start : start + name_length]
        extra = data[start + name_length : start + name_length + extra_length]
        position = start + name_length + extra_length + comment_length
        if fields[0] != b"PK\x01\x02" or position > len(data):
            raise ValueError(f"{where}: entry {index:,} of the zip directory is damaged")
        if fields[15] & 0x10 or name.endswith(b"/"):
            raise ValueError(f"{where}: entry {index:,} of the zip archive is a directory")
        size, packed, header = _widen(extra, (fields[9], fields[8], fields[16]), where)
        yield _Entry(name, fields[3], fields[4], fields[7], packed, size, header)
    if position != len(data):
        raise ValueError(f"{where}: the zip directory holds more than its {n_entries:,} entries")


def _widen(extra: bytes, values: tuple[int, ...], where: str) -> list[int]:
    """Return the values, each 2**32 - 1 replaced by the next 64-bit value of the extra field."""
    wide = b""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            wide = extra[4 : 4 + length]
        extra = extra[4 + length :]
    result = []
    for value in values:
        if value != 2**32 - 1:
            result.append(value)
        elif len(wide) >= 8:
            result.append(int.from_bytes(wide[:8], "little"))
            wide = wide[8:]
        else:
            raise ValueError(f"{where}: a 64-bit size is missing in the zip archive")
    return result


def _check_entry(stream: BinaryIO, entry: _Entry, limit: int, where: str) -> Record:
    try:
        name = entry.name.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{where}: a record's name is not UTF-8: {entry.name[:60]!r}") from None
    place = f"{where}: record {shown(name)}"
    if entry.flags & ~(_UTF8 | _DESCRIPTOR | _DEFLATE_LEVEL):
        raise ValueError(f"{place}: encrypted, or compressed in an unknown way ({entry.flags:#x})")
    if entry.method not in (_STORED, _DEFLATED):
        raise ValueError(f"{place}: compression method {entry.method} is not supported")
    if entry.method == _STORED and entry.packed != entry.size:
        raise ValueError(f"{place}: not compressed, but has two different sizes")
    start = _check_local(stream, entry, limit, place)
    return Record(name, start, entry.size, entry.packed, entry.method == _DEFLATED, entry.crc)


def _check_local(stream: BinaryIO, entry: _Entry, limit: int, place: str) -> int:
    """Return the start of the data; raise ValueError if the two headers of a record differ."""
    differs = ValueError(f"{place}: its two headers in the zip archive differ; the file is damaged")
    name_end = entry.header + _LOCAL.size + len(entry.name)
    if name_end > limit:
        raise ValueError(f"{place}: lies outside the archive")
    header = read_bytes(stream, entry.header, _LOCAL.size + len(entry.name), place)
    fields = _LOCAL.unpack_from(header)
    signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
    start: int = name_end + extra_length
    if start + entry.packed > limit:
        raise ValueError(f"{place}: {entry.packed:,} bytes do not fit in the archive")
    same = (signature, flags, method) == (b"PK\x03\x04", entry.flags, entry.method)
    if not same or name_length != len(entry.name) or header[_LOCAL.size :] != entry.name:
        raise differs
    size, packed = _widen(stream.read(extra_length), (size, packed), place)
    later = flags & _DESCRIPTOR and (crc, packed, size) == (0, 0, 0)
    if not later and (crc, packed, size) != (entry.crc, entry.packed, entry.size):
        raise differs
    return start


def read_small(stream: BinaryIO, record: Record, limit: int, where: str) -> bytes:
    """Return all bytes of a record, at most `limit` of them."""
    if record.size > limit:
        raise ValueError(
            f"{where}: record {shown(record.name)}: {record.size:,} bytes; "
            f"at most {limit:,} are read"
        )
    return read_record(stream, record, where).tobytes()


def check_byteorder(stream: BinaryIO, record: Record | None, where: str) -> None:
    """Raise ValueError if the record `byteorder` says that the storages are big-endian."""
    if record and read_small(stream, record, 16, where) != b"little":
        raise ValueError(f"{where}: not little-endian; save it again on a little-endian machine")


def read_record(stream: BinaryIO, record: Record, where: str) -> np.ndarray:
    """Return all bytes of a record as an array of uint8; verify its checksum."""
    if record.deflated:
        data = _inflate(stream, record, where)
    else:
        data = read_array(stream, record.offset, record.size, where)
    _check_crc(zlib.crc32(data.data), record, where)
    return data


def stream_record(stream: BinaryIO, record: Record, where: str) -> Iterator[bytes]:
    """Yield the bytes of a record in pieces, however large it is; verify its checksum at the end.

    Raises
    ------
    ValueError
        If it cannot be decompressed, or has another size or checksum than its header says.
    """
    place = f"{where}: record {shown(record.name)}"
    inflater = zlib.decompressobj(-zlib.MAX_WBITS) if record.deflated else None
    crc, left = 0, record.size
    for start in range(0, record.packed, CHUNK):
        length = min(CHUNK, record.packed - start)
        piece = read_bytes(stream, record.offset + start, length, where)
        while piece:
            data, piece = piece, b""
            if inflater:
                try:
                    data = inflater.decompress(data, CHUNK)
                except zlib.error as error:
                    raise ValueError(f"{place}: cannot be decompressed ({error})") from None
                piece = inflater.unconsumed_tail
            crc, left = zlib.crc32(data, crc), left - len(data)
            if left < 0:
                break
            yield data
    if left or (inflater and not inflater.eof):
        raise ValueError(f"{place}: does not decompress to {record.size:,} bytes")
    _check_crc(crc, record, where)


def verify_stored(stream: BinaryIO, record: Record, where: str) -> None:
    """Verify the checksum of an uncompressed record, reading a piece at a time."""
    crc = 0
    for offset in range(0, record.size, CHUNK):
        length = min(CHUNK, record.size - offset)
        crc = zlib.crc32(read_bytes(stream, record.offset + offset, length, where), crc)
    _check_crc(crc, record, where)


def _check_crc(crc: int, record: Record, where: str) -> None:
    # torch writes 0 if checksums are switched off.
    if record.crc and crc != record.crc:
        raise ValueError(
            f"{where}: record {shown(record.name)}: the CRC-32 is {crc:08x}, not {record.crc:08x}; "
            "the file is damaged: copy or download it again"
        )


def _inflate(stream: BinaryIO, record: Record, where: str) -> np.ndarray:
    place = f"{where}: record {shown(record.name)}"
    if record.size > max(MAX_RATIO * record.packed, MAX_GROWN):
        raise ValueError(
            f"{place}: {record.packed:,} bytes would grow to {record.size:,}; more than "
            f"{MAX_RATIO} times as many are read up to {MAX_GROWN:,}"
        )
    packed = read_bytes(stream, record.offset, record.packed, where)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # Ask for one byte more than announced, to notice if there are more.
        data = inflater.decompress(packed, record.size + 1)
    except (zlib.error, MemoryError) as error:
        raise ValueError(f"{place}: cannot be decompressed ({error})") from None
    if len(data) != record.size or not inflater.eof:
        raise ValueError(f"{place}: does not decompress to {record.size:,} bytes")
    return np.frombuffer(bytearray(data), dtype=np.uint8)  # writable, as all returned arrays
