"""Local zarr folder -> arrays that are read in pieces by the zarr library.

The library runs what the metadata name: a filter of version 2 may be a pickle. So the codecs are
checked first, and nothing but arrays and groups below the folder is opened.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from specdiag.checkpoint.safetensors import parse_json
from specdiag.checkpoint.tensor import PLAIN_DTYPES, checked_shape
from specdiag.checkpoint.torchfile.archive import MAX_GROWN, MAX_RATIO
from specdiag.features.files.array import NAMELESS, PACKING, Array, unpacked
from specdiag.files import library, read_file
from specdiag.wording import one_line, shown

MAX_METADATA = 2**24  # bytes of a file that describes an array
MAX_FILES = 2_000_000
MAX_CHUNK = 2**30  # bytes of a chunk in memory
# Codecs that only move or compress bytes.
_CODECS = {
    *("bytes", "transpose", "sharding_indexed", "gzip", "zstd", "blosc", "crc32c", "vlen-utf8"),
    *("zlib", "lz4", "bz2", "lzma", "shuffle", "numcodecs.zlib", "numcodecs.shuffle"),
}


def read_zarr(folder: Path) -> list[Array]:
    """Return the arrays of a zarr folder of version 2 or 3, by their names with slashes.

    Raises
    ------
    ValueError
        If zarr is not installed, or the folder has none, is damaged, or has a codec that is not
        known to move and compress bytes alone.
    """
    where = shown(folder.name, quote=False)
    library("zarr", where)
    arrays = []
    for path, size in _folders(folder, where):
        about = _metadata(path, where)
        if about is not None:
            arrays.append(_array(folder, path, about, size, where))
    if not arrays:
        raise ValueError(f"{where}: no array of zarr in this folder")
    return arrays


def _folders(folder: Path, where: str) -> list[tuple[Path, int]]:
    """Return every folder, sorted, and the bytes of all files in and below it.

    A link, and anything but folders and regular files, raises ValueError.
    """
    sizes: dict[Path, int] = {}
    left = MAX_FILES
    for place, folders, files in os.walk(folder, topdown=False):
        left -= len(files)
        entries = [*os.scandir(place)]
        for entry in entries:
            if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                raise ValueError(f"{where}: {shown(entry.name)} is neither a file nor a folder")
        if left < 0:
            raise ValueError(f"{where}: more than {MAX_FILES:,} files")
        own = sum(entry.stat().st_size for entry in entries if entry.is_file())
        sizes[Path(place)] = own + sum(sizes[Path(place, name)] for name in folders)
    return sorted(sizes.items())


def _metadata(path: Path, where: str) -> dict[str, Any] | None:
    """Return what describes the array in a folder, None if it is none."""
    for name in ("zarr.json", ".zarray"):
        if (path / name).is_file():
            about = parse_json(read_file(path / name, MAX_METADATA), f"{where}: {name}")
            if not isinstance(about, dict):
                raise ValueError(f"{where}: {name} is not a table of JSON")
            is_array = name == ".zarray" or about.get("node_type") == "array"
            return about if is_array else None
    return None


def _array(folder: Path, path: Path, about: dict[str, Any], size: int, where: str) -> Array:
    name = path.relative_to(folder).as_posix() if path != folder else NAMELESS
    place = f"{where}: {shown(name)}"
    shape = checked_shape(about.get("shape"), 1, place)
    try:
        problem = _problem(about)
    except (AttributeError, TypeError):  # something else in the place of a table or a list
        problem = "its metadata are damaged"
    if problem:
        return Array(name, shape, "unknown", lambda _: iter(()), problem)
    with _errors(place):
        dtype = _opened(path).dtype
    kind = dtype.name if dtype.name in PLAIN_DTYPES else "text" if dtype.kind in "SUOT" else ""
    problem = "" if kind else f"dtype {dtype} is not supported"
    if (grown := prod(shape) * dtype.itemsize) > max(MAX_RATIO * size, MAX_GROWN):
        problem = f"{size:,} bytes would grow to {grown:,}"
    return Array(name, shape, kind or str(dtype), partial(_pieces, path, place), problem)


def _problem(about: dict[str, Any]) -> str:
    """Return why an array is not read: a codec that is not known, or pieces that are too large."""
    names = {str(name) for name in _codecs(about)}
    if others := names - _CODECS:
        return f"the codec {shown(min(others))} is not known to compress bytes alone"
    grid = about.get("chunk_grid")
    chunk = about.get("chunks") or (
        grid.get("configuration", {}).get("chunk_shape") if isinstance(grid, dict) else None
    )
    if not isinstance(chunk, list) or not all(type(n) is int and n > 0 for n in chunk):
        return "its chunks are not a list of whole numbers"
    if prod(chunk) * 8 > MAX_CHUNK:
        return f"chunks of {prod(chunk):,} values"
    return ""


def _codecs(value: Any) -> Iterator[Any]:
    """Yield the names of all codecs: of a compressor and filters, or of a list of codecs."""
    for key in ("codecs", "index_codecs", "filters"):
        for codec in value.get(key) or []:
            yield from _names(codec)
    if value.get("compressor"):
        yield from _names(value["compressor"])
    for transformer in value.get("storage_transformers") or []:
        yield f"storage transformer {transformer}"


def _names(codec: Any) -> Iterator[Any]:
    if not isinstance(codec, dict):
        yield codec
        return
    yield codec.get("id", codec.get("name"))
    configuration = codec.get("configuration")
    if isinstance(configuration, dict):
        yield from _codecs(configuration)


def _opened(path: Path) -> Any:
    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of formats that may change
        return zarr.open_array(zarr.storage.LocalStore(path, read_only=True), mode="r")


def _pieces(path: Path, where: str, n: int) -> Iterator[np.ndarray]:
    with _errors(where):
        array = _opened(path)
        packing = {
            name: float(array.attrs[name])
            for name in PACKING
            if isinstance(array.attrs.get(name), int | float)
        }
        for i in range(0, array.shape[0], n):
            values = np.asarray(array[i : i + n])
            if values.dtype.kind in "fiu":
                values = unpacked(values, packing)
            yield values.astype(object) if values.dtype.kind in "SUOT" else values


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """Turn the errors of the library, of many types, into a ValueError of one line."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{where}: not read by zarr: {one_line(error)}") from error
