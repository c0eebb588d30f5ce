"""HDF5 file -> its datasets and texts, without following a link out of it.

HDF5 can point to other files: by external links, by virtual datasets, and by raw data beside the
file. None of them is opened. Filters that are plugins are not loaded.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from specdiag.checkpoint.formats.hdf5.attributes import texts_of
from specdiag.checkpoint.tensor import (
    ITEMSIZE,
    ML_DTYPES,
    Tensor,
    check_bytes,
    numpy_dtype,
    unreadable,
)
from specdiag.checkpoint.torchfile.archive import MAX_GROWN, MAX_RATIO
from specdiag.wording import one_line, shown

MAX_OBJECTS = 40_000
MAX_LEVELS = 50
_OF_DAMAGE = (
    *(OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError),
    *(MemoryError, OverflowError, struct.error),
)
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
    is_netcdf : bool
    """

    datasets: list[Tensor] = field(default_factory=list)
    texts: dict[tuple[tuple[str, ...], str], str | list[str]] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    is_netcdf: bool = False


def read_hdf5(opened: Opener, size: int, where: str) -> Content:
    """Return the datasets of an HDF5 file of `size` bytes, and the texts of its groups.

    Raises
    ------
    ValueError
        If the file is damaged, or has too many objects.
    """
    import h5py

    content = Content()
    with errors(where), opened() as stream, opened_root(stream) as root:
        content.is_netcdf = h5py.h5a.exists(root, b"_NCProperties")
        walk = _Walk(opened, size, stream, where)
        _walk(root, h5py.h5o.get_info(root).addr, content, walk)
    return content


@dataclass
class _Walk:
    """What a walk through the groups of a file needs."""

    opened: Opener
    size: int
    stream: BinaryIO  # that of h5py, too, which seeks before it reads
    where: str
    groups: set[int] = field(default_factory=set)  # addresses of those that were visited
    left: int = MAX_OBJECTS


@contextmanager
def opened_root(stream: BinaryIO) -> Iterator[Any]:
    """Open a file, and return the identifier of its root group."""
    import h5py

    with h5py.File(stream, "r") as file:
        yield file["/"].id


@contextmanager
def errors(where: str) -> Iterator[None]:
    """Turn the errors of h5py, which are of many types, into a ValueError of one line."""
    try:
        yield
    except LimitError:
        raise
    except _OF_DAMAGE as error:
        text = f"{where}: damaged, or not read by h5py: {one_line(error)}"
        raise ValueError(text + "; get the file again" * bool(where)) from None


class LimitError(ValueError):
    """An error with a message of our own."""


def _walk(
    group: Any, address: int, content: Content, walk: _Walk, links: tuple[bytes, ...] = ()
) -> None:
    import h5py

    path = tuple(link.decode("utf-8", "backslashreplace") for link in links)
    for name, text in texts_of(walk.stream, address).items():
        content.texts[path, name] = text
    names = list(group)
    walk.left -= len(names)
    if walk.left < 0 or len(path) > MAX_LEVELS:
        raise LimitError(
            f"{walk.where}: more than {MAX_OBJECTS:,} objects, or {MAX_LEVELS} levels of groups"
        )
    for link in names:
        part = (*links, link)
        if group.links.get_info(link).type != h5py.h5l.TYPE_HARD:
            content.links.append("/".join((*path, shown(link.decode("utf-8", "replace")))))
            continue
        about = h5py.h5o.get_info(group, link)
        if about.type == h5py.h5o.TYPE_DATASET:
            dataset = h5py.h5o.open(group, link)
            content.datasets.append(_tensor(dataset, part, about.addr, walk))
        elif about.type == h5py.h5o.TYPE_GROUP and about.addr not in walk.groups:
            walk.groups.add(about.addr)  # a group can hold itself
            _walk(h5py.h5o.open(group, link), about.addr, content, walk, part)


def _tensor(dataset: Any, links: tuple[bytes, ...], address: int, walk: _Walk) -> Tensor:
    """Return a dataset as a tensor; one whose values are elsewhere, or too large, has a problem."""
    link = b"/".join(links)
    name = link.decode("utf-8", "backslashreplace")
    shape, dtype = dataset.shape, _dtype(dataset, address, walk.stream)
    problem = place_problem(dataset)
    if not problem and (shape is None or dtype not in ITEMSIZE):
        problem = f"dtype {dtype} is not supported"
    problem = problem or filter_problem(dataset)
    if problem:
        return unreadable(name, shape or (), dtype, problem)
    n_bytes = prod(shape) * ITEMSIZE[dtype]
    largest = max(n_bytes, prod(chunk_of(dataset)) * ITEMSIZE[dtype])
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
        read_rows=partial(_read_rows, walk.opened, link, dtype, f"{walk.where}: {shown(name)}")
        if shape
        else None,
    )


def place_problem(dataset: Any) -> str:
    """Return why the values of a dataset are not in its file, or ''."""
    import h5py

    layout = dataset.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL:
        return "a virtual dataset: its values are in other files"
    return "its values are in another file" if layout.get_external_count() else ""


def filter_problem(dataset: Any) -> str:
    """Return which filter that is a plugin the values of a dataset need, or ''."""
    layout = dataset.get_create_plist()
    filters = {layout.get_filter(i)[0] for i in range(layout.get_nfilters())}
    others = filters - _FILTERS.keys()
    return f"compressed by the HDF5 filter {min(others)}" if others else ""


def chunk_of(dataset: Any) -> tuple[int, ...]:
    """Return the shape of the pieces in which a dataset is stored, () if it is stored whole."""
    import h5py

    layout = dataset.get_create_plist()
    is_chunked = layout.get_layout() == h5py.h5d.CHUNKED
    return tuple(layout.get_chunk()) if is_chunked else ()


def _dtype(dataset: Any, address: int, stream: BinaryIO) -> str:
    try:
        dtype = dataset.dtype
    except TypeError:
        return "unknown"
    is_void = dtype.kind == "V" and dtype.itemsize == 2 and not dtype.names
    if is_void and texts_of(stream, address).get("dtype") == "bfloat16":  # as Keras writes it
        return "bfloat16"
    return str(dtype.name)


def _read(opened: Opener, link: bytes, dtype: str, where: str) -> np.ndarray:
    return _read_part(opened, link, dtype, where, ())


def _read_rows(
    opened: Opener, link: bytes, dtype: str, where: str, start: int, stop: int
) -> np.ndarray:
    return _read_part(opened, link, dtype, where, slice(start, stop))


def _read_part(opened: Opener, link: bytes, dtype: str, where: str, part: Any) -> np.ndarray:
    import h5py

    with errors(where), opened() as stream, opened_root(stream) as root:
        values = np.asarray(h5py.Dataset(h5py.h5o.open(root, link))[part])
    values = values.view(numpy_dtype(dtype)) if dtype in ML_DTYPES else values.astype(dtype)
    check_bytes(values.reshape(-1).view(np.uint8), dtype, where)
    return np.array(values, order="C")
