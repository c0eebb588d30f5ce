"""HDF5 file -> its datasets and texts, without following a link out of it.

HDF5 can point to other files: by external links, by virtual datasets, and by raw data beside the
file. None of them is opened. Filters that are plugins are not loaded.
"""

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from specdiag.checkpoint.tensor import (
    ITEMSIZE,
    ML_DTYPES,
    Tensor,
    check_bytes,
    numpy_dtype,
    unreadable,
)
from specdiag.checkpoint.torchfile.archive import MAX_GROWN, MAX_RATIO
from specdiag.wording import is_text, one_line, shown

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_OBJECTS = 100_000
MAX_LEVELS = 50
MAX_ATTRIBUTE = 16 * 2**20  # bytes of a text or list of texts
_HEAP = b"GCOL\1\0\0\0"  # signature and version
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}  # built into h5py

Opener: TypeAlias = Callable[[], AbstractContextManager[BinaryIO]]


@dataclass
class Content:
    """The content of a file.

    Attributes
    ----------
    datasets : list of Tensor
        Every dataset, in the order of the names. Its name is its path, with slashes.
    texts : dict
        Texts of attributes by path and name. A list of texts is a list.
    links : list of str
        Paths of links that are not followed.
    """

    datasets: list[Tensor] = field(default_factory=list)
    texts: dict[tuple[tuple[str, ...], str], str | list[str]] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)


def read_hdf5(opened: Opener, size: int, attributes: Sequence[str], where: str) -> Content:
    """Return the datasets of an HDF5 file of `size` bytes, and the named attributes.

    Raises
    ------
    ValueError
        If the file is damaged, or has too many objects.
    """
    content = Content()
    with _errors(where), opened() as stream, _root(_Guarded(stream)) as root:
        _walk(root, content, _Walk(opened, size, attributes, where))
    return content


@dataclass
class _Walk:
    """What a walk through the groups of a file needs."""

    opened: Opener
    size: int
    attributes: Sequence[str]
    where: str
    groups: set[int] = field(default_factory=set)  # addresses of those that were visited
    left: int = MAX_OBJECTS


class _Guarded(io.RawIOBase):
    """A stream whose reader is given no collection of texts that keeps HDF5 in an endless loop.

    HDF5 2.0 never leaves a global heap (section III.E of its format) with free space of no bytes.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: Any) -> int:
        start = self._stream.tell()
        count: int = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        data, at = bytes(memoryview(buffer)[:count]), -1
        while (at := data.find(_HEAP, at + 1)) >= 0:
            self._stream.seek(start + at)
            self._check(self._stream.read(8 + 8))
        self._stream.seek(start + count)
        return count

    def _check(self, header: bytes) -> None:
        """Raise OSError if the heap whose header was read ends nowhere."""
        size = int.from_bytes(header[8:], "little")
        heap = self._stream.read(min(size, MAX_ATTRIBUTE) - 16) if size > 16 else b""
        at = 0
        while at + 16 <= len(heap):
            index, length = struct.unpack("<H6xQ", heap[at : at + 16])
            if index == 0 and length == 0:
                raise OSError("a collection of texts is damaged")
            at += length if index == 0 else 16 + -(-length // 8) * 8


@contextmanager
def _root(stream: "BinaryIO | _Guarded") -> Iterator[Any]:
    import h5py

    with h5py.File(stream, "r") as file:
        yield file["/"].id


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """Turn the errors of h5py, which are of many types, into a ValueError of one line."""
    try:
        yield
    except _LimitError:
        raise
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{where}: damaged, or not read by h5py: {one_line(error)}") from None


class _LimitError(ValueError):
    """An error with a message of our own."""


def _walk(group: Any, content: Content, walk: _Walk, links: tuple[bytes, ...] = ()) -> None:
    import h5py

    path = tuple(link.decode("utf-8", "backslashreplace") for link in links)
    for name in walk.attributes:
        text = _text(h5py.Group(group), name)
        if text is not None:
            content.texts[path, name] = text
    names = list(group)
    walk.left -= len(names)
    if walk.left < 0 or len(path) > MAX_LEVELS:
        raise _LimitError(
            f"{walk.where}: more than {MAX_OBJECTS:,} objects, or {MAX_LEVELS} levels of groups"
        )
    for name in names:
        part = (*links, name)
        if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            content.links.append("/".join((*path, shown(name.decode("utf-8", "replace")))))
            continue
        about = h5py.h5o.get_info(group, name)
        if about.type == h5py.h5o.TYPE_DATASET:
            dataset = h5py.h5o.open(group, name)
            content.datasets.append(_tensor(dataset, part, about.addr, walk))
        elif about.type == h5py.h5o.TYPE_GROUP and about.addr not in walk.groups:
            walk.groups.add(about.addr)  # a group can hold itself
            _walk(h5py.h5o.open(group, name), content, walk, part)


def _text(owner: Any, name: str) -> str | list[str] | None:
    """Return an attribute of an object that is text, or a list of texts; else None."""
    import h5py

    if not h5py.h5a.exists(owner.id, name.encode()):
        return None
    attribute = h5py.h5a.open(owner.id, name.encode())
    if attribute.shape is None or attribute.get_storage_size() > MAX_ATTRIBUTE:
        return None
    value = owner.attrs[name]
    is_list = isinstance(value, np.ndarray)
    values = value.reshape(-1).tolist() if is_list else [value]
    texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
    if not all(isinstance(text, str) and is_text(text) for text in texts):
        return None
    return texts if is_list else texts[0]


def _tensor(dataset: Any, links: tuple[bytes, ...], address: int, walk: _Walk) -> Tensor:
    """Return a dataset as a tensor; one whose values are elsewhere, or too large, has a problem."""
    import h5py

    link = b"/".join(links)
    name = link.decode("utf-8", "backslashreplace")
    layout = dataset.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL:
        return unreadable(name, (), "unknown", "a virtual dataset: its values are in other files")
    if layout.get_external_count():
        return unreadable(name, (), "unknown", "its values are in another file")
    shape, dtype = dataset.shape, _dtype(dataset)
    if shape is None or dtype not in ITEMSIZE:
        return unreadable(name, shape or (), dtype, f"dtype {dtype} is not supported")
    filters = {layout.get_filter(i)[0] for i in range(layout.get_nfilters())}
    if filters - _FILTERS.keys():
        problem = f"compressed by the HDF5 filter {min(filters - _FILTERS.keys())}"
        return unreadable(name, shape, dtype, problem)
    n_bytes = prod(shape) * ITEMSIZE[dtype]
    chunk = layout.get_chunk() if layout.get_layout() == h5py.h5d.CHUNKED else ()
    largest = max(n_bytes, prod(chunk) * ITEMSIZE[dtype])
    stored = min(dataset.get_storage_size(), walk.size)
    if largest > max(MAX_RATIO * stored, MAX_GROWN):
        problem = f"{stored:,} bytes would grow to {largest:,}"
        return unreadable(name, shape, dtype, problem)
    return Tensor(
        name=name,
        shape=shape,
        dtype=dtype,
        identity=(walk.where, address) if n_bytes else None,
        read=partial(_read, walk.opened, link, dtype, f"{walk.where}: {shown(name)}"),
    )


def _dtype(dataset: Any) -> str:
    import h5py

    try:
        dtype = dataset.dtype
    except TypeError:
        return "unknown"
    is_void = dtype.kind == "V" and dtype.itemsize == 2 and not dtype.names
    if is_void and _text(h5py.Dataset(dataset), "dtype") == "bfloat16":  # as Keras writes it
        return "bfloat16"
    return str(dtype.name)


def _read(opened: Opener, link: bytes, dtype: str, where: str) -> np.ndarray:
    import h5py

    with _errors(where), opened() as stream, _root(stream) as root:
        values = np.asarray(h5py.Dataset(h5py.h5o.open(root, link))[()])
    values = values.view(numpy_dtype(dtype)) if dtype in ML_DTYPES else values.astype(dtype)
    check_bytes(values.reshape(-1).view(np.uint8), dtype, where)
    return np.array(values, order="C")
