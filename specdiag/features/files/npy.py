"""NumPy files (.npy, .npz) of any size -> arrays that are read in pieces; no pickle is read."""

from collections.abc import Iterator
from functools import partial
from math import prod

import numpy as np

from specdiag.checkpoint.formats.arrays import MAX_HEADER, Layout, elements, layout_of
from specdiag.checkpoint.torchfile import archive
from specdiag.checkpoint.torchfile.archive import Record
from specdiag.features.files.array import NAMELESS, Array
from specdiag.files import File, open_file, read_array
from specdiag.wording import shown


def read_npy(file: File) -> list[Array]:
    """Return the array of a .npy file.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    with open_file(file) as stream:
        head = stream.read(MAX_HEADER + 12)
    layout = layout_of(head, file.size, file.name)
    return [_array(NAMELESS, layout, partial(_pieces, file, layout))]


def read_npz(file: File) -> list[Array]:
    """Return the arrays of a .npz file, in their order.

    Raises
    ------
    ValueError
        If the archive or an array in it is damaged.
    """
    arrays = []
    with open_file(file) as stream:
        records = archive.read_directory(stream, file.size, file.name)
        for record in records.values():
            if not record.name.endswith(".npy"):
                raise ValueError(f"{file.name}: {shown(record.name)} in it is no NumPy array")
            where = f"{file.name}: {shown(record.name)}"
            head = b""
            for piece in archive.stream_record(stream, record, file.name):
                head += piece
                if len(head) >= MAX_HEADER + 12:
                    break
            layout = layout_of(head[: MAX_HEADER + 12], record.size, where)
            name = record.name.removesuffix(".npy")
            arrays.append(_array(name, layout, partial(_streamed, file, record, layout)))
    return arrays


def _array(name: str, layout: Layout, pieces: partial[Iterator[np.ndarray]]) -> Array:
    problem = "" if layout.is_read else f"dtype {layout.name} is not supported"
    if layout.name == "object":
        problem = "Python objects in a pickle, which is not read: save each array by itself"
    return Array(name, layout.shape, "text" if layout.is_text else layout.name, pieces, problem)


def _pieces(file: File, layout: Layout, n: int) -> Iterator[np.ndarray]:
    """Yield the entries of an array in a .npy file; in Fortran order their columns are apart."""
    size, count = layout.dtype.itemsize, layout.shape[0]
    columns = prod(layout.shape[1:])
    with open_file(file) as stream:
        for i in range(0, count, n):
            rows = min(n, count - i)
            shape = (rows, *layout.shape[1:])
            if layout.fortran:
                starts = [layout.start + (j * count + i) * size for j in range(columns)]
                parts = [read_array(stream, at, rows * size, file.name) for at in starts]
                data = np.concatenate(parts) if parts else np.empty(0, np.uint8)
            else:
                at = layout.start + i * columns * size
                data = read_array(stream, at, rows * columns * size, file.name)
            yield elements(data, layout, shape, file.name)


def _streamed(file: File, record: Record, layout: Layout, n: int) -> Iterator[np.ndarray]:
    """Yield the entries of an array in a .npz file, whose checksum is verified at the end."""
    where = f"{file.name}: {shown(record.name)}"
    with open_file(file) as stream:
        if layout.fortran:
            data = archive.read_record(stream, record, file.name)[layout.start :]
            values = elements(data, layout, layout.shape, where)
            yield from (values[i : i + n] for i in range(0, len(values), n))
            return
        row = prod(layout.shape[1:]) * layout.dtype.itemsize
        waiting, skip, left = bytearray(), layout.start, layout.shape[0]
        for piece in archive.stream_record(stream, record, file.name):
            skipped = min(skip, len(piece))
            skip -= skipped
            waiting += piece[skipped:]
            while left and row and len(waiting) >= min(n, left) * row:
                rows = min(n, left)
                data = np.frombuffer(bytes(waiting[: rows * row]), np.uint8)
                del waiting[: rows * row]
                left -= rows
                yield elements(data, layout, (rows, *layout.shape[1:]), where)
