"""Nodes of a checkpoint's tree, from a pickle or from memory.

A `Global` is a name that a pickle asks to import, an `Object` a call that it asks to make. Both are
descriptions: nothing is imported or called. Lists, tuples and dicts are those of Python.
"""

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from specdiag.checkpoint.tensor import (
    PLAIN_DTYPES,
    Tensor,
    check_bytes,
    checked_shape,
    unknown,
    unreadable,
)
from specdiag.wording import shown

SCALARS = (str, int, float, bool, bytes, type(None))
_TABLES = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter"}
LISTS = {"builtins.set", "builtins.frozenset", "__builtin__.set", "__builtin__.frozenset"}
_MODULE_SLOTS = ("_parameters", "_buffers", "_modules")
_TEXT_ENCODINGS = {"S": "ascii", "U<": "utf-32-le", "U>": "utf-32-be"}
_CODES = {np.dtype(name).str[1:] for name in PLAIN_DTYPES}
_BYTES = {"builtins.bytes", "builtins.bytearray", "__builtin__.bytes", "__builtin__.bytearray"}


@dataclass(frozen=True, slots=True)
class Global:
    """The dotted name of a class or function that the pickle asks to import."""

    path: str


@dataclass(eq=False, repr=False, slots=True)
class Object:
    """A call that the pickle asks to make: the callable, its arguments, and the state set later."""

    cls: object
    args: tuple[Any, ...]
    state: object = None
    items: list[Any] | None = None
    pairs: dict[Any, Any] | None = None


@dataclass(eq=False, repr=False, slots=True)
class Reference:
    """A persistent id: the pickle's reference to data outside of it."""

    id: object


@dataclass(eq=False, repr=False, slots=True)
class Key:
    """A dict key compared by identity, because hashing it could be slow or overflow the stack."""

    value: object


def path_of(node: object) -> str:
    """Return the dotted name of an object's callable, with older names of NumPy made current."""
    cls = node.cls if type(node) is Object else None
    return cls.path.replace("numpy.core.", "numpy._core.") if type(cls) is Global else ""


def is_tensor(node: object) -> bool:
    """Return whether a node is, or describes, a tensor or an array of any kind.

    In memory, arrays of other libraries are those that NumPy can convert, such as jax.Array and
    xarray.DataArray.
    """
    if type(node) is not Object:
        torch = sys.modules.get("torch")
        return (
            isinstance(node, np.ndarray | Tensor)
            or (torch is not None and isinstance(node, torch.Tensor))
            or (
                all(hasattr(node, name) for name in ("__array__", "shape", "dtype"))
                and not isinstance(node, np.generic | type)
            )
        )
    path = path_of(node)
    last = path.rpartition(".")[2]
    return is_array(node) or (
        path.startswith("torch.")
        and (
            last.startswith("_rebuild_")
            or (path.startswith("torch.distributed.") and last.endswith("Tensor"))
        )
    )


def is_number(node: object) -> bool:
    """Return whether a node describes a tensor or array of one element that is not a parameter."""
    if isinstance(node, Tensor):
        return prod(node.shape) == 1
    if type(node) is not Object:
        return False
    about = node.state if is_array(node) else node.args[1:]
    size = about[1] if type(about) is tuple and len(about) > 1 else None
    return type(size) is tuple and all(type(n) is int and n == 1 for n in size)


def shape_of(node: Any) -> tuple[int, ...]:
    """Return the shape that a tensor's node claims; an empty one if it is unknown."""
    if type(node) is not Object:
        is_lazy = type(node).__name__.startswith("Uninitialized")  # a parameter without a shape
        return () if is_lazy else tuple(int(size) for size in node.shape)
    for _ in range(8):
        about = node.state if is_array(node) else node.args[1:]
        inner = node.args[0] if node.args else None
        if not path_of(node).rpartition(".")[2].startswith("_rebuild_parameter"):
            break
        if type(inner) is not Object:
            return ()
        node = inner
    size = about[1] if type(about) is tuple and len(about) > 1 else None
    if type(size) is Object and path_of(size) == "torch.Size" and size.args:
        size = size.args[0]
    if type(size) is not tuple or not all(type(n) is int for n in size):
        return ()
    return size


def module_state(node: object) -> dict[Any, Any] | None:
    """Return the attributes of a pickled torch module, or None for any other node.

    A module of torch.fx is pickled as a call that has them as its first argument.
    """
    if type(node) is not Object:
        return None
    state: Any = node.state
    if path_of(node).startswith("torch.fx.graph_module.reduce_"):
        state = next((arg for arg in node.args if type(arg) is dict), None)
    return state if type(state) is dict and all(slot in state for slot in _MODULE_SLOTS) else None


def is_table(node: object) -> bool:
    """Return whether a node is a mapping or describes one."""
    if type(node) is Object:
        return node.pairs is not None or path_of(node) in _TABLES
    return isinstance(node, Mapping)


def table_items(node: object) -> Iterable[tuple[Any, Any]]:
    """Return keys and values of a dict-like node."""
    if isinstance(node, Mapping):
        return node.items()
    if type(node) is not Object:
        return ()
    if node.pairs is not None:
        return node.pairs.items()
    # Python 2 wrote OrderedDict([[key, value], ...]).
    pairs = node.args[0] if node.args and type(node.args[0]) is list else []
    return [tuple(p) for p in pairs if isinstance(p, list | tuple) and len(p) == 2]


def children(node: object) -> Iterable[tuple[str, Any]] | None:
    """Return the named parts of a node, or None for a leaf.

    The parts of a pickled torch module are those of its state dict.
    """
    if is_tensor(node):
        return None
    if is_table(node):
        return ((key_text(key), value) for key, value in table_items(node))
    if isinstance(node, list | tuple):
        return ((str(index), value) for index, value in enumerate(node))
    if type(node) is not Object:
        return None
    state = node.state
    attributes = module_state(node)
    if attributes is not None:
        return _module_parts(attributes)
    parts = [(str(index), value) for index, value in enumerate(node.items or ())]
    parts += [(f"args.{index}", value) for index, value in enumerate(node.args)]
    if type(state) is dict:
        return parts + [(key_text(key), value) for key, value in state.items()]
    return [*parts, ("state", state)]


def _module_parts(state: dict[Any, Any]) -> list[tuple[str, Any]]:
    hidden = state.get("_non_persistent_buffers_set")
    names = set_items(hidden) if type(hidden) is Object else []
    omitted = {name for name in names if type(name) is str}
    return [
        (key_text(key), value)
        for slot in _MODULE_SLOTS
        for key, value in table_items(state[slot])
        if slot != "_buffers" or key not in omitted
    ]


def set_items(node: Object) -> list[Any]:
    """Return the members of a pickled set."""
    first = node.args[0] if node.args else None
    return [*(first if isinstance(first, list | tuple) else ()), *(node.items or ())]


def key_text(key: object) -> str:
    """Return the text for a key of a dict."""
    if isinstance(key, str):
        return str(key)
    if isinstance(key, Key):
        key = key.value
    if isinstance(key, tuple) and len(key) < 8 and {type(part) for part in key} <= {str, int}:
        return str(key)
    plain = scalar(key)
    return plain if isinstance(plain, str) else str(plain)


def scalar(value: Any) -> object:
    """Return a plain value for a node that is not a container.

    A node without a plain value gives the name of its class in angle brackets.
    """
    if type(value) is Object:
        known = _scalar_value(value)
        value = value if known is None else known
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | int):
        return str(value) if isinstance(value, str) else int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)  # JSON has no infinity
    if type(value) in (Object, Global):
        path = value.path if type(value) is Global else path_of(value) or "object"
        return "<tensor>" if is_tensor(value) else f"<{shown(path, quote=False)}>"
    if type(value) is Reference:
        return "<storage>"
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def is_array(node: object) -> bool:
    """Return whether a node describes a NumPy array."""
    path = path_of(node)
    return path.startswith(("numpy._core.", "numpy.ma.")) and path.endswith(
        ("._reconstruct", "._frombuffer", "._mareconstruct")
    )


def _scalar_value(node: Object) -> object:
    """Return the value of ``numpy._core.multiarray.scalar(dtype, bytes)``, or None."""
    if path_of(node) != "numpy._core.multiarray.scalar" or len(node.args) != 2:
        return None
    code, order = _dtype(node.args[0])
    data = _bytes_of(node.args[1])
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
        If the size of its data does not fit its shape and dtype.
    """
    parts: tuple[Any, ...] = node.state if type(node.state) is tuple else ()
    if path_of(node).endswith("._frombuffer"):
        parts = (1, *node.args[2:3], *node.args[1:2], node.args[3:] == ("F",), *node.args[:1])
    if len(parts) != 5 or path_of(node).endswith("._mareconstruct"):
        return unknown(name, "an unsupported kind of NumPy array")
    _, size, described, fortran, raw = parts
    code, order = _dtype(described)
    dtype = _plain_dtype(code, order)
    shape = checked_shape(size, dtype.itemsize if dtype else 1, where)
    if dtype is None:
        kind = "object" if code[:1] == "O" else shown(code, quote=False)
        return unreadable(name, shape, kind, f"dtype {kind} is not supported")
    data = _bytes_of(raw)
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


def _bytes_of(node: object) -> bytes | None:
    """Return the bytes of a node, or None.

    Protocol 2 writes bytes as a call that encodes text as Latin-1.
    """
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
