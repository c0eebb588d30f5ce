"""Looking at trees from pickles and from memory: their parts, and plain values for metadata."""

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from specdiag.checkpoint.arrays import is_array, path_of, scalar_value
from specdiag.checkpoint.torchfile.machine import Global, Key, Object, Reference
from specdiag.wording import is_text, shown

MAX_NODES = 500_000
MAX_LEVELS = 40

_TABLES = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter"}
_LISTS = {"builtins.set", "builtins.frozenset", "__builtin__.set", "__builtin__.frozenset"}
_MODULE_SLOTS = ("_parameters", "_buffers", "_modules")


def is_tensor(node: object) -> bool:
    """Tell whether a node is, or describes, a tensor or NumPy array of whatever kind."""
    if type(node) is not Object:
        torch = sys.modules.get("torch")
        return isinstance(node, np.ndarray) or (
            torch is not None and isinstance(node, torch.Tensor)
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
    """Tell whether a node describes a tensor or array of one element, and no parameter."""
    if type(node) is not Object:
        return False
    about = node.state if is_array(node) else node.args[1:]
    size = about[1] if type(about) is tuple and len(about) > 1 else None
    return type(size) is tuple and all(type(n) is int and n == 1 for n in size)


def is_table(node: object) -> bool:
    """Tell whether a node is a mapping or an object that behaves like one."""
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

    Of a pickled torch module they are those of its state dict.
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
    if type(state) is dict and all(slot in state for slot in _MODULE_SLOTS):
        return _module_parts(state)
    parts = [(str(index), value) for index, value in enumerate(node.items or ())]
    parts += [(f"args.{index}", value) for index, value in enumerate(node.args)]
    if type(state) is dict:
        return parts + [(key_text(key), value) for key, value in state.items()]
    return [*parts, ("state", state)]


def _module_parts(state: dict[Any, Any]) -> list[tuple[str, Any]]:
    hidden = state.get("_non_persistent_buffers_set")
    omitted = (
        {name for name in _set_items(hidden) if type(name) is str}
        if type(hidden) is Object
        else set()
    )
    return [
        (key_text(key), value)
        for slot in _MODULE_SLOTS
        for key, value in table_items(state[slot])
        if slot != "_buffers" or key not in omitted
    ]


def _set_items(node: Object) -> list[Any]:
    first = node.args[0] if node.args else None
    return [*(first if isinstance(first, list | tuple) else ()), *(node.items or ())]


def key_text(key: object) -> str:
    """Return the text under which a dict's key is listed."""
    if isinstance(key, str):
        return str(key)
    if isinstance(key, Key):
        key = key.value
    if isinstance(key, tuple) and len(key) < 8 and {type(part) for part in key} <= {str, int}:
        return str(key)
    plain = _scalar(key)
    return plain if isinstance(plain, str) else str(plain)


def _scalar(value: Any) -> object:
    """Return a plain value for anything that is no container; its name in brackets at worst."""
    if type(value) is Object:
        known = scalar_value(value)
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


class Plainer:
    """Turns nodes into values that JSON can hold, within one budget for a whole checkpoint.

    `foreign` counts what could only be named.
    """

    def __init__(self, budget: int = MAX_NODES) -> None:
        self.left = budget
        self.foreign: Counter[str] = Counter()

    def convert(self, node: Any, levels: int = MAX_LEVELS) -> Any:
        """Return a plain value for a node; levels bound the recursion."""
        self.left -= 1 + (len(node) // 64 if isinstance(node, str) else 0)
        if self.left < 0 or levels == 0:
            self.foreign["too large or too deep"] += 1
            return "<too large or too deep>"
        path = path_of(node)
        if is_table(node) or path == "argparse.Namespace":
            return self._table(table_items(node if is_table(node) else node.state), levels)
        if isinstance(node, list | tuple | set | frozenset) or path in _LISTS:
            items = _set_items(node) if type(node) is Object else node
            # The first that finds the budget spent is the last.
            return [self.convert(item, levels - 1) for item in items if self.left >= 0]
        value = _scalar(node)
        if isinstance(value, str) and not isinstance(node, str | float) and value[:1] == "<":
            self.foreign[value[1:-1]] += 1
        return value

    def _table(self, pairs: Iterable[tuple[Any, Any]], levels: int) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for key, value in pairs:
            name = key_text(key)
            if name in table:
                self.foreign["a key that is written like another"] += 1
                continue
            table[name if is_text(name) else shown(name)] = self.convert(value, levels - 1)
            if self.left < 0:
                break
        return table
