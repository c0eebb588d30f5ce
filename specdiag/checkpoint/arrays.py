"""NumPy scalars and arrays as pickles describe them."""

from math import prod
from typing import Any

import numpy as np

from specdiag.checkpoint.tensor import PLAIN_DTYPES, Tensor, check_bytes, checked_shape, unreadable
from specdiag.checkpoint.torchfile.machine import Global, Object
from specdiag.wording import shown

_TEXT_ENCODINGS = {"S": "ascii", "U<": "utf-32-le", "U>": "utf-32-be"}
_CODES = {np.dtype(name).str[1:] for name in PLAIN_DTYPES}
_BYTES = {"builtins.bytes", "builtins.bytearray", "__builtin__.bytes", "__builtin__.bytearray"}


def path_of(node: object) -> str:
    """Return the dotted name of what an object is made by, with NumPy's older names renewed."""
    cls = node.cls if type(node) is Object else None
    return cls.path.replace("numpy.core.", "numpy._core.") if type(cls) is Global else ""


def is_array(node: object) -> bool:
    """Tell whether a node describes a NumPy array."""
    path = path_of(node)
    return path.startswith(("numpy._core.", "numpy.ma.")) and path.endswith(
        ("._reconstruct", "._frombuffer", "._mareconstruct")
    )


def scalar_value(node: Object) -> object:
    """Return the value of ``numpy._core.multiarray.scalar(dtype, bytes)``, or None."""
    if path_of(node) != "numpy._core.multiarray.scalar" or len(node.args) != 2:
        return None
    code, order = _dtype(node.args[0])
    data = bytes_of(node.args[1])
    if data is None:
        return None
    if code[:1] in ("U", "S"):
        try:
            return data.decode(_TEXT_ENCODINGS[code[0] + order * (code[0] == "U")]).rstrip("\0")
        except (UnicodeDecodeError, KeyError):
            return None
    dtype = _plain_dtype(code, order)
    return np.frombuffer(data, dtype)[0] if dtype and len(data) == dtype.itemsize else None


def array_tensor(name: str, node: Object, where: str) -> Tensor:
    """Return the array that a node describes.

    Raises
    ------
    ValueError
        If the size of its data is not what its shape and dtype take.
    """
    parts: tuple[Any, ...] = node.state if type(node.state) is tuple else ()
    if path_of(node).endswith("._frombuffer"):
        parts = (1, *node.args[2:3], *node.args[1:2], node.args[3:] == ("F",), *node.args[:1])
    if len(parts) != 5 or path_of(node).endswith("._mareconstruct"):
        return unreadable(name, (), "unknown", "an unsupported kind of NumPy array")
    _, size, described, fortran, raw = parts
    code, order = _dtype(described)
    dtype = _plain_dtype(code, order)
    shape = checked_shape(size, dtype.itemsize if dtype else 1, where)
    if dtype is None:
        kind = "object" if code[:1] == "O" else shown(code, quote=False)
        return unreadable(name, shape, kind, f"dtype {kind} is not supported")
    data = bytes_of(raw)
    if data is None or len(data) != prod(shape) * dtype.itemsize:
        raise ValueError(f"{where}: its data do not fit its shape; the file is damaged")

    def read() -> np.ndarray:
        flat = np.frombuffer(data, dtype)
        check_bytes(flat.view(np.uint8), dtype.name, where)
        values = flat.reshape(shape, order="F" if fortran is True else "C")
        return np.array(values, dtype=dtype.newbyteorder("="), order="C")

    identity = (node,) if data else None
    return Tensor(name=name, shape=shape, dtype=dtype.name, identity=identity, read=read)


def _dtype(node: Any) -> tuple[str, str]:
    """Return code and byte order of ``dtype(code, False, True)`` with its state."""
    if path_of(node) != "numpy.dtype" or not node.args or type(node.args[0]) is not str:
        return "", ""
    state = node.state
    swapped = type(state) is tuple and state[1:2] == (">",)
    return node.args[0], ">" if swapped else "<"


def _plain_dtype(code: str, order: str) -> np.dtype | None:
    return np.dtype(order + code) if code in _CODES else None


def bytes_of(node: object) -> bytes | None:
    """Return what a node holds as bytes: protocol 2 writes a call that encodes text as Latin-1."""
    if type(node) is bytes:
        return node
    if type(node) is str:  # Python 2 wrote text and bytes alike
        return node.encode()
    if type(node) is not Object:
        return None
    first = node.args[0] if node.args else b""
    if path_of(node) in _BYTES and type(first) is bytes:
        return first
    if path_of(node) == "_codecs.encode" and type(first) is str:
        return first.encode("latin-1") if all(ord(c) < 256 for c in first) else None
    return None
