"""Operators between a stored tensor and the layer that uses it -> what its axes are there.

The axes are followed as groups: for each axis of a value, the axes of the stored tensor that it
consists of, in their order. The letters are those of `specdiag.checkpoint.weights.stacks.reading`:
s for stacked matrices, r for rows, c for columns.
"""

from collections.abc import Callable
from math import prod
from typing import TypeAlias

from specdiag.checkpoint.formats.onnx.graph import Node

Groups: TypeAlias = tuple[tuple[int, ...], ...]
Shape: TypeAlias = tuple[int, ...]

_KEEP = {"Identity", "Cast", "DequantizeLinear", "QuantizeLinear", "Slice", "Split", "Concat"}


def followed(
    groups: Groups | None, node: Node, shape: Shape, sizes: Callable[[str], Shape | None]
) -> Groups | None:
    """Return the groups behind an operator that hands values on; None if they are not followed.

    Parameters
    ----------
    groups : tuple of tuple of int or None
        Those of its first input.
    node : Node
    shape : tuple of int
        That of the stored tensor.
    sizes : callable
        Returns the whole numbers that are stored under a name; None if none are.
    """
    if groups is None or node.op in _KEEP:
        return groups
    if node.op == "Transpose":
        order = node.lists.get("perm") or tuple(reversed(range(len(groups))))
        return tuple(groups[i] for i in order) if sorted(order) == [*range(len(groups))] else None
    axes = node.lists.get("axes")
    if axes is None and len(node.inputs) > 1:
        axes = sizes(node.inputs[1])
    if axes is None:
        return None
    if node.op == "Reshape":
        return _merged(groups, axes, shape)
    if node.op == "Unsqueeze":
        n = len(groups) + len(axes)
        places, left = {axis % n for axis in axes}, iter(groups)
        return tuple(() if i in places else next(left, ()) for i in range(n))
    if node.op == "Squeeze":
        places = {axis % max(1, len(groups)) for axis in axes}
        return tuple(group for i, group in enumerate(groups) if i not in places)
    return None


def _merged(groups: Groups, sizes: Shape, shape: Shape) -> Groups | None:
    """Return the groups behind a Reshape that only merges axes, or leaves them as they are."""
    if len(sizes) > len(groups) or any(size < -1 for size in sizes):
        return None
    known = prod(size for size in sizes if size > 0)
    total = prod(prod(shape[axis] for axis in group) for group in groups)
    found, at = list[tuple[int, ...]](), 0
    for i, size in enumerate(sizes):
        wanted = size
        if size == 0:  # as it is
            wanted = prod(shape[axis] for axis in groups[i])
            known *= wanted
        elif size == -1:
            wanted = total // max(1, known)
        group: tuple[int, ...] = ()
        while at < len(groups) and (not group or prod(shape[a] for a in group) < wanted):
            group += groups[at]
            at += 1
        if prod(shape[axis] for axis in group) != wanted:
            return None
        found.append(group)
    return tuple(found) if at == len(groups) else None


def letters_of_product(groups: Groups | None, shape: Shape) -> str:
    """Return the letters of the axes of an operand of MatMul; '' if they are not known."""
    if groups is None or len(groups) < 2:
        return ""
    *stack, rows, columns = groups
    places = dict.fromkeys(rows, "r") | dict.fromkeys(columns, "c")
    places |= {axis: "s" for group in stack for axis in group}
    return _letters(places, shape)


def letters_of_einsum(groups: Groups | None, shape: Shape, node: Node, position: int) -> str:
    """Return the letters of the axes of an operand of an Einsum of two; '' if they are not known.

    An index that is in the other operand and in the output belongs to a stack, one that is in the
    output alone to the columns, and one that is summed over with the other to the rows.
    """
    left, arrow, output = node.notation.replace(" ", "").partition("->")
    terms = left.split(",")
    if groups is None or not arrow or len(terms) != 2 or "." in terms[position]:
        return ""
    term, other = terms[position], terms[1 - position]
    if len(term) != len(groups) or len({*term}) != len(term):
        return ""
    places = dict[int, str]()
    for index, group in zip(term, groups, strict=True):
        kind = {(True, True): "s", (True, False): "r", (False, True): "c"}.get(
            (index in other, index in output), ""
        )
        if not kind:
            return ""  # summed over alone
        places |= dict.fromkeys(group, kind)
    return _letters(places, shape)


def _letters(places: dict[int, str], shape: Shape) -> str:
    """Return the letters; axes of size 1 belong to the columns."""
    if any(size > 1 and i not in places for i, size in enumerate(shape)):
        return ""
    found = "".join("c" if shape[i] == 1 else places[i] for i in range(len(shape)))
    return found if {*"rc"} <= {*found} else ""
