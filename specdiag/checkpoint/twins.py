"""Parts of a checkpoint -> those that are one network twice, such as a network and its average.

Two state dicts with the same names and shapes are twins, whatever they are called. Where all
tensors lie in one state dict, the first words of their names say which part they belong to, and
layers of one network are alike, too; there, only a part that is named as an average is a twin.
"""

import re
from collections.abc import Iterable, Mapping, Set
from typing import Any, TypeAlias

from specdiag.checkpoint.names import strip_wrappers
from specdiag.checkpoint.tree import children, is_table, is_tensor, module_state, shape_of

Signature: TypeAlias = "tuple[tuple[str, tuple[int, ...]], ...] | None"

_AVERAGE = re.compile(
    r"(^|_)(ema|swa|avg|averaged?|polyak|shadow|target|teacher|momentum|best|old)(_|$)"
)


def network_signature(node: Any, leaves: Iterable[tuple[tuple[str, ...], Any]]) -> Signature:
    """Return names and shapes of the tensors of a network, or None if the node is none.

    A network is a pickled module, or a state dict: a dict of tensors with dots in their names. It
    has at least two matrices. `leaves` are its entries with their paths.
    """
    if module_state(node) is None and not (
        is_table(node)
        and any("." in key for key, value in children(node) or () if is_tensor(value))
    ):
        return None
    try:
        return _signature([(".".join(path), leaf) for path, leaf in leaves if is_tensor(leaf)])
    except ValueError:  # too deep or too large
        return None


def pick_twins(
    signatures: Mapping[str, Signature], groups: Set[str], chosen: str | None
) -> dict[str, str]:
    """Return the name of the network that is read for each of its twins.

    It is `chosen`, or else the first of `groups` that is not named as an average.
    """
    twins: dict[str, str] = {}
    order = sorted(
        (key for key in signatures if key in groups),
        key=lambda key: (key != chosen, bool(_AVERAGE.search(key.lower()))),
    )
    for read in order:
        if signatures[read] is None or read in twins:
            continue
        for key, signature in signatures.items():
            if key != read and key not in twins and signature == signatures[read]:
                twins[key] = read
    return twins


def flat_twins(tensors: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Return the averages among the parts of one state dict, each with the part it is a twin of.

    Names are compared without their dots: some averages are kept under names without any.
    """
    parts: dict[str, list[tuple[str, Any]]] = {}
    for name, node in tensors:
        part, _, rest = name.partition(".")
        parts.setdefault(part, []).append((rest or part, node))
    averages = [part for part in parts if _AVERAGE.search(part.lower())]
    if not averages:
        return {}
    known: dict[Signature, str] = {}
    for part, members in parts.items():
        if part not in averages:
            known.setdefault(_signature(members, dots=False), part)
    known.pop(None, None)
    found = {part: known.get(_signature(parts[part], dots=False)) for part in averages}
    return {part: read for part, read in found.items() if read}


def _signature(tensors: Iterable[tuple[str, Any]], *, dots: bool = True) -> Signature:
    """Return names and shapes without scalars, or None with fewer than two matrices."""
    shapes = {name: shape_of(node) for name, node in tensors}
    shapes = {name: shape for name, shape in shapes.items() if shape}
    if sum(len(shape) >= 2 for shape in shapes.values()) < 2:
        return None
    strip = strip_wrappers(list(shapes))
    named = {strip(name): shape for name, shape in shapes.items()}
    return tuple(sorted((n if dots else n.replace(".", ""), s) for n, s in named.items()))
