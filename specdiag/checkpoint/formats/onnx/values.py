"""Tensor of an ONNX model -> its values, out of the model or of a file beside it."""

from math import prod
from pathlib import Path

import numpy as np

from specdiag.checkpoint.formats.onnx.graph import Stored
from specdiag.checkpoint.tensor import ITEMSIZE, check_bytes, numpy_dtype, unpacked
from specdiag.files import File, find_file, library, open_file, read_array, read_bytes
from specdiag.wording import shown

BITS = {"uint4": 4, "int4": 4}  # packed into bytes, the first value in the low bits


def check_place(file: File, stored: Stored) -> None:
    """Raise ValueError, or FileNotFoundError, if the values of a tensor are not where it says."""
    expected = stored_bytes(stored)
    if stored.external:
        _outside(file, stored)
    elif stored.place and expected not in (None, stored.place.stop - stored.place.start):
        raise ValueError(
            f"{file.name}: {shown(stored.name)}: {stored.place.stop - stored.place.start:,} bytes "
            f"for a shape that needs {expected:,}; the file is damaged"
        )


def stored_bytes(stored: Stored) -> int | None:
    """Return the bytes that the values of a tensor take; None for a dtype that is not read."""
    if stored.dtype in BITS:
        return -(-prod(stored.shape) * BITS[stored.dtype] // 8)
    size = ITEMSIZE.get(stored.dtype)
    return None if size is None else prod(stored.shape) * size


def read_stored(file: File, stored: Stored) -> np.ndarray:
    """Return the values of a tensor in its own dtype; those of 4 bits as int8 or uint8.

    Raises
    ------
    ValueError
        If they are damaged, or if the package onnx is needed and not installed.
    """
    where = f"{file.name}: {shown(stored.name)}"
    n_bytes = stored_bytes(stored) or 0
    if stored.external:
        outside, offset = _outside(file, stored)
    elif stored.place:
        outside, offset = file, stored.place.start
    else:
        return _by_library(file, stored, where)
    with open_file(outside) as stream:
        data = read_array(stream, offset, n_bytes, where)
    if stored.dtype in BITS:
        codes = unpacked(data, 4, prod(stored.shape)).reshape(stored.shape)
        return (codes ^ 8).astype(np.int8) - np.int8(8) if stored.dtype == "int4" else codes
    check_bytes(data, stored.dtype, where)
    return data.view(numpy_dtype(stored.dtype)).reshape(stored.shape)


def _by_library(file: File, stored: Stored, where: str) -> np.ndarray:
    """Return values that are stored as a list of numbers, as the package onnx reads them."""
    onnx = library("onnx", where)
    helper = library("onnx.numpy_helper", where)
    start, stop = stored.whole
    with open_file(file) as stream:
        data = read_bytes(stream, start, stop - start, where)
    try:
        values = np.asarray(helper.to_array(onnx.TensorProto.FromString(data)))
    except Exception as error:  # noqa: BLE001 (protobuf raises errors of its own)
        raise ValueError(
            f"{where}: its values do not fit its shape ({type(error).__name__})"
        ) from None
    if values.shape != stored.shape:
        raise ValueError(f"{where}: its values do not fit its shape; the file is damaged")
    small = stored.dtype in BITS
    return values.astype("int8" if stored.dtype == "int4" else "uint8") if small else values


def _outside(file: File, stored: Stored) -> tuple[File, int]:
    """Return the file beside the model that has the values, and their offset in it.

    A model names any file; only plain ones in its own folder are opened.
    """
    where = f"{file.name}: {shown(stored.name)}"
    name = stored.external["location"]
    path = _inside(file.path, name)
    if path is None:
        raise ValueError(
            f"{where}: its values are in {shown(name)}, which is not a plain file in the folder of "
            "the model; only those are read"
        )
    if not path.exists():
        raise FileNotFoundError(
            f"{file.name}: the file {shown(name)} with its values is missing; download it too"
        )
    outside = find_file(path)
    offset, length = (_whole_number(stored.external.get(key, "")) for key in ("offset", "length"))
    expected = stored_bytes(stored)
    if offset is None or length is None or (length and expected not in (None, length)):
        raise ValueError(f"{where}: its place in {shown(name)} does not fit its shape")
    if offset + (expected or 0) > outside.size:
        raise ValueError(
            f"{where}: {shown(name)} has {outside.size:,} bytes, too few for its values; copy or "
            "download it again"
        )
    return outside, offset


def _inside(model: Path, name: str) -> Path | None:
    """Return the path of a file in the folder of a model; None if it is elsewhere.

    A download can consist of links from one folder to the files of another; the values then lie
    beside the file that the link of the model points to.
    """
    relative = Path(name)
    if not name or "\0" in name or "\\" in name or relative.is_absolute() or ".." in relative.parts:
        return None
    path = model.parent / relative
    real = path.resolve()
    if real.is_relative_to(model.parent.resolve()) or real.parent == model.resolve().parent:
        return path
    return None


def _whole_number(text: str) -> int | None:
    if not text:
        return 0
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
