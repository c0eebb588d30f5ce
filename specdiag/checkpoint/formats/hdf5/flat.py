"""HDF5 file of arrays in one group, such as a netCDF file -> nothing, or why it is not opened.

A library that opens such a file follows what the file says: links, virtual datasets and raw data
lead to other files; a declared size is allocated; and where the length of a text differs from that
in the collection that holds it, HDF5 copies past the end of its memory (HDF5 File Format
Specification 3.0, sections III.E and IV.A). So all of this is checked first, from the bytes.
"""

from math import ceil, prod
from struct import unpack
from typing import Any, BinaryIO

import numpy as np

from specdiag.checkpoint.formats.hdf5.attributes import (
    ATTRIBUTE,
    dims_of,
    messages,
    objects,
    parts_of,
)
from specdiag.checkpoint.formats.hdf5.read import (
    LimitError,
    chunk_of,
    errors,
    filter_problem,
    opened_root,
    place_problem,
)
from specdiag.wording import shown

MAX_ARRAYS = 1000
MAX_TIMES = 8  # numbers are stored uncompressed, texts by layer as characters
MAX_BYTES = 256 * 2**20  # allowed for a file of any size
_TEXT_BYTES = 64  # of a Python text without its characters
_ATTRIBUTE_INFO, _SHARED, _UNDEFINED = 0x15, 2, 2**64 - 1
_SIMPLE = (0, 1, 3)  # classes of datatypes: integers, floats, texts of fixed length
_COMPOUND, _REFERENCE, _VARIABLE = 6, 7, 9
_PLACE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])


def check_flat(stream: BinaryIO, size: int, where: str) -> None:
    """Check that everything that a library reads of a file of `size` bytes is in it, and fits.

    Raises
    ------
    ValueError
        If the file has groups, links or values in other files; if its values would take more
        memory than `MAX_TIMES` its size and `MAX_BYTES`; if a text is not where it should be; or
        if the file is damaged.
    """
    import h5py

    with errors(where):
        _check_start(stream, where)
        with opened_root(stream) as root:
            places = _places(root, where)
            known, heaps = {*places.values()}, _Heaps(stream, size)
            for address in (h5py.h5o.get_info(root).addr, *known):
                _check_attributes(stream, address, known, heaps)
            arrays = {name: h5py.h5o.open(root, name) for name in places}
            for name, array in arrays.items():
                if problem := _problem(array, size):
                    raise LimitError(f"{where}: {_shown(name)}: {problem}")
                _check_texts(stream, array, heaps)
            total = heaps.total + sum(map(_memory, arrays.values()))
            most = max(MAX_TIMES * size, MAX_BYTES)
            if total > most:
                text = f"{size:,} bytes would grow to {total:,}; at most {most:,} are read"
                raise LimitError(f"{where}: {text}")


def _check_start(stream: BinaryIO, where: str) -> None:
    """Check that addresses are counted from the begin of the file, and have eight bytes."""
    stream.seek(0)
    start = stream.read(16)
    if not start.startswith(b"\x89HDF\r\n\x1a\n"):
        raise LimitError(f"{where}: not an HDF5 file")
    widths = {0: start[13:15], 1: start[13:15], 2: start[9:11], 3: start[9:11]}
    if not start[8:] or widths.get(start[8]) != bytes([8, 8]):
        raise ValueError("an unknown version, or addresses of another size")


def _places(root: Any, where: str) -> dict[bytes, int]:
    """Return the address of each array, by its name; a link or a group raises ValueError."""
    import h5py

    names, places = list(root), {}
    if len(names) > MAX_ARRAYS:
        raise LimitError(f"{where}: more than {MAX_ARRAYS:,} arrays")
    for name in names:
        if root.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            raise LimitError(f"{where}: {_shown(name)} is a link to another place")
        about = h5py.h5o.get_info(root, name)
        if about.type != h5py.h5o.TYPE_DATASET:
            raise LimitError(f"{where}: {_shown(name)} is no array")
        places[name] = about.addr
    return places


def _shown(name: bytes) -> str:
    return shown(name.decode("utf-8", "replace"))


class _Heaps:
    """The collections of values of variable length in a file of `size` bytes, read once each.

    `total` is the number of bytes of all values that were asked for.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.total = 0
        self._stream, self._left = stream, size
        self._read: dict[int, dict[int, bytes]] = {}

    def get(self, place: tuple[int, int, int], width: int = 1) -> bytes:
        """Return the value at a place; raise ValueError if it has another number of bytes.

        A place is the number of items of `width` bytes, the collection, and the number in it.
        """
        length, address, number = place
        if length == 0 and 0 in (address, number):
            return b""
        if address not in self._read:
            self._read[address] = dict(objects(self._stream, address, is_strict=True))
            self._left -= sum(map(len, self._read[address].values()))
        if self._left < 0:
            raise ValueError("collections of texts that overlap")
        value = self._read[address].get(number)
        if value is None or len(value) != length * width:
            raise ValueError("a text of another length than that of its place")
        self.total += len(value)
        return value


def _check_attributes(stream: BinaryIO, address: int, known: set[int], heaps: _Heaps) -> None:
    """Check that each attribute of an object is a number, a text, or refers to an array.

    `known` holds the addresses of the arrays.
    """
    for kind, flags, data in messages(stream, address):
        if kind == _ATTRIBUTE_INFO and len(data) >= 2:
            at = 4 if data[1] & 1 else 2
            if int.from_bytes(data[at : at + 8], "little") != _UNDEFINED:
                raise LimitError("more attributes than specdiag writes")
        if kind != ATTRIBUTE:
            continue
        if flags & _SHARED or len(data) < 9 or data[0] not in (1, 2, 3):
            raise LimitError("an attribute of an unknown kind")
        if data[0] > 1 and data[1] & 3:
            raise LimitError("an attribute that shares its type")
        _check_attribute(data, known, heaps)


def _check_attribute(data: bytes, known: set[int], heaps: _Heaps) -> None:
    name, kind, space, at = parts_of(data)
    type_class, dims = kind[0] & 15, dims_of(space)
    if type_class == _COMPOUND and name.rstrip(b"\0") == b"REFERENCE_LIST":
        return  # nobody reads it
    if dims is None or type_class not in (*_SIMPLE, _REFERENCE, _VARIABLE):
        raise LimitError("an attribute that is neither a number nor a text")
    if type_class != _VARIABLE:
        return
    is_text, count = kind[1] & 15 == 1, prod(dims)
    if not is_text and (kind[8] & 15 != _REFERENCE or unpack("<I", kind[12:16])[0] != 8):
        raise LimitError("an attribute of lists")
    if at + count * _PLACE.itemsize > len(data):
        raise ValueError("an attribute is cut")
    for place in np.frombuffer(data, _PLACE, count, at).tolist():
        value = heaps.get(place, 1 if is_text else 8)
        if not is_text and not known.issuperset(np.frombuffer(value, "<u8").tolist()):
            raise ValueError("an attribute refers to another place than an array")


def _problem(dataset: Any, size: int) -> str:
    """Return why an array of a file of `size` bytes is not read, or ''."""
    import h5py

    kind = dataset.get_type()
    is_number = kind.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT)
    if not is_number and kind.get_class() != h5py.h5t.STRING:
        return "neither numbers nor texts"
    if dataset.shape is None or (is_number and kind.get_size() > 16):
        return "an unknown type of numbers"
    chunk = chunk_of(dataset)
    pieces = prod(ceil(n / m) for n, m in zip(dataset.shape, chunk, strict=False))
    if pieces > max(size // 8, 10_000):  # the place of a piece takes more than eight bytes
        return f"it is in {pieces:,} pieces"
    return place_problem(dataset) or filter_problem(dataset)


def _memory(dataset: Any) -> int:
    """Return the number of bytes that the values of an array take in memory."""
    import h5py

    kind, shape = dataset.get_type(), dataset.shape
    n, chunk = prod(shape), prod(chunk_of(dataset))
    largest = max(n, chunk) * int(kind.get_size())
    if kind.get_class() != h5py.h5t.STRING:
        return largest
    is_characters = kind.get_size() == 1 and len(shape) > 1 and not kind.is_variable_str()
    return largest + _TEXT_BYTES * (prod(shape[:-1]) if is_characters else n)


def _check_texts(stream: BinaryIO, dataset: Any, heaps: _Heaps) -> None:
    """Check the place of every text of an array of texts of variable length."""
    import h5py

    kind = dataset.get_type()
    if kind.get_class() != h5py.h5t.STRING or not kind.is_variable_str():
        return
    layout = dataset.get_create_plist()
    if layout.get_nfilters() or layout.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED:
        raise LimitError("the places of texts are compressed, or given once for all")
    spans = []
    if chunk_of(dataset):
        for i in range(dataset.get_num_chunks()):
            piece = dataset.get_chunk_info(i)
            spans.append((piece.byte_offset, piece.size))
    elif dataset.get_storage_size():
        offset = dataset.get_offset()
        if offset is None:
            raise LimitError("texts in the header of an array")
        spans.append((offset, dataset.get_storage_size()))
    for offset, length in spans:
        stream.seek(offset)
        places = np.frombuffer(stream.read(length), _PLACE)
        for place in places.tolist():
            heaps.get(place)
