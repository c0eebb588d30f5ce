"""Nodes of a checkpoint's tree -> metadata: plain values that JSON can hold."""

from collections import Counter
from typing import Any

from specdiag.checkpoint import tree
from specdiag.wording import is_text, shown

MAX_NODES = 500_000
MAX_LEVELS = 40


class Converter:
    """Converts nodes to values that JSON can hold, within one budget for a whole checkpoint.

    Attributes
    ----------
    left : int
        Nodes that may still be converted.
    foreign : Counter
        Objects that were replaced by their name in angle brackets, by that name.
    """

    def __init__(self) -> None:
        self.left = MAX_NODES
        self.foreign: Counter[str] = Counter()

    def convert(self, node: Any, levels: int = MAX_LEVELS) -> Any:
        """Return a plain value for a node with at most `levels` levels of nesting."""
        self.left -= 1 + (len(node) // 64 if isinstance(node, str) else 0)
        if self.left < 0 or levels == 0:
            self.foreign["too large or too deep"] += 1
            return "<too large or too deep>"
        path = tree.path_of(node)
        if tree.is_table(node):
            return self._table(node, levels)
        if path == "argparse.Namespace":
            return self._table(node.state, levels)
        if isinstance(node, list | tuple | set | frozenset) or path in tree.LISTS:
            items = tree.set_items(node) if type(node) is tree.Object else node
            # The item that exceeds the budget is the last one.
            return [self.convert(item, levels - 1) for item in items if self.left >= 0]
        value = tree.scalar(node)
        if isinstance(value, str) and not isinstance(node, str | float) and value[:1] == "<":
            self.foreign[value[1:-1]] += 1
        return value

    def _table(self, node: Any, levels: int) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for key, value in tree.table_items(node):
            name = tree.key_text(key)
            if name in table:
                self.foreign["a key that is written like another"] += 1
                continue
            table[name if is_text(name) else shown(name)] = self.convert(value, levels - 1)
            if self.left < 0:
                break
        return table
