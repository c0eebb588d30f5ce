"""Finding the model in the tree of dicts, lists and objects that a checkpoint holds."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from specdiag._files import shown

MAX_VISITS = 500_000
MAX_LEVELS = 100
MAX_NAME = 1000

_STATE_DICTS = ("state_dict", "model_state_dict")
_WRAPPERS = (
    *("model_state", "model_weights", "model", "module", "network", "net"),
    *("state", "weights", "params", "parameters", "ema_state_dict", "ema"),
)
# Settings may hold tensors too, which makes them no model.
_SETTINGS = re.compile(r"hyper_?param|hparam|^(config|cfg|args)$")
_ASIDE = re.compile(r"optim|sched|loops?$|callbacks?$|ema$|scaler$|rng|amp$|lr$")
_PREFIXES = ("module.", "model.", "_orig_mod.")
_SCALARS = (str, int, float, bool, bytes, type(None))


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How to look at the nodes of a tree.

    `children` gives the named parts of a node, or None for a leaf; `is_table` tells whether the
    node is a dict, whose other entries are worth keeping; `is_tensor` whether it is a tensor.
    """

    children: Callable[[Any], Iterable[tuple[str, Any]] | None]
    is_table: Callable[[Any], bool]
    is_tensor: Callable[[Any], bool]


@dataclass(kw_only=True, slots=True)
class Model:
    """The tensors of a model by name, what else its state dict and the file hold, what was left."""

    tensors: list[tuple[str, Any]] = field(default_factory=list)
    entries: list[tuple[str, Any]] = field(default_factory=list)
    top: list[tuple[str, Any]] = field(default_factory=list)
    aside: dict[str, int] = field(default_factory=dict)


def find_model(root: Any, shape: Shape, where: str) -> Model:
    """Return the model that a checkpoint's tree holds.

    Wrappers such as ``state_dict`` are opened; optimiser states, schedules, averages and the like
    are left aside and counted; several networks side by side keep their keys in the names.

    Raises
    ------
    ValueError
        If two tensors share a name, or the tree is too deep or too large.
    """
    bearing = _bearing(root, shape)
    model = Model()
    node, skip = root, set[str]()
    counted: dict[int, Any] = {}
    for _ in range(MAX_LEVELS):
        if shape.is_tensor(node) or not shape.is_table(node):
            break
        entries = _entries(node, shape, where)
        settings = {key for key, value in entries.items() if _is_settings(key, value, shape)}
        model.top += [(key, value) for key, value in entries.items() if key in settings]
        entries = {key: value for key, value in entries.items() if key not in settings}
        chosen, dropped = _choose(entries, shape, bearing)
        model.aside |= {key: _count(entries[key], shape, counted) for key in sorted(dropped)}
        skip = settings | dropped
        if chosen is None:
            break
        model.top += [
            (key, value)
            for key, value in entries.items()
            if id(value) not in bearing and not _is_aside(key, value, shape)
        ]
        node, skip = entries[chosen], set()
    for path, leaf in _walk(node, shape, bearing, skip, where):
        target = model.tensors if shape.is_tensor(leaf) else model.entries
        target.append((_name(path, where), leaf))
    refuse_duplicates([name for name, _ in model.tensors], where)
    return model


def _entries(node: Any, shape: Shape, where: str) -> dict[str, Any]:
    parts = list(shape.children(node) or ())
    refuse_duplicates([key for key, _ in parts], where)
    return dict(parts)


def refuse_duplicates(names: Sequence[str], where: str) -> None:
    """Raise ValueError if a name occurs twice."""
    if len(set(names)) != len(names):
        name = next(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"{where}: the name {shown(name)} occurs twice")


def _bearing(root: Any, shape: Shape) -> set[int]:
    """Return the ids of the nodes that are tensors or lead to one."""
    kept = {id(root): root}  # holds on to the nodes: an id is good only while its object lives
    parents: dict[int, list[int]] = {}
    stack, tensors = [root], []
    while stack:
        node = stack.pop()
        if shape.is_tensor(node):
            tensors.append(id(node))
            continue
        for _, child in shape.children(node) or ():
            if type(child) in _SCALARS:
                continue
            parents.setdefault(id(child), []).append(id(node))
            if id(child) not in kept:
                kept[id(child)] = child
                stack.append(child)
    found = set(tensors)
    while tensors:
        for parent in parents.get(tensors.pop(), ()):
            if parent not in found:
                found.add(parent)
                tensors.append(parent)
    return found


def _choose(
    entries: dict[str, Any], shape: Shape, bearing: set[int]
) -> tuple[str | None, set[str]]:
    """Return the key under which the model lies, if any, and the keys that are not part of it."""
    tensors = {key for key, value in entries.items() if shape.is_tensor(value)}
    groups = [key for key, value in entries.items() if id(value) in bearing and key not in tensors]
    kept = [key for key in groups if not _is_aside(key, entries[key], shape)]
    kept = kept or [key for key in groups if "ema" in key.lower()]
    chosen = next((key for key in _STATE_DICTS if key in kept), None)
    if chosen is None and len(kept) == 1 and kept[0] in _WRAPPERS:
        chosen = kept[0]
    if chosen is None:
        return None, set(groups) - set(kept)
    return chosen, {*groups, *tensors} - {chosen}


def _is_settings(key: str, value: Any, shape: Shape) -> bool:
    return bool(_SETTINGS.search(key.lower())) and not shape.is_tensor(value)


def _is_aside(key: str, value: Any, shape: Shape) -> bool:
    if any(_ASIDE.match(word) for word in re.split(r"[^a-z]+", key.lower())):
        return True
    # What torch's optimisers call their state, whatever the entry's name.
    return shape.is_table(value) and {"state", "param_groups"} <= {
        name for name, _ in islice(shape.children(value) or (), 8)
    }


def _count(node: Any, shape: Shape, seen: dict[int, Any]) -> int:
    """Return how many tensors lie below a node and are not among the nodes already seen."""
    if id(node) in seen:
        return 0
    seen[id(node)] = node
    stack, count = [node], 0
    while stack:
        node = stack.pop()
        if shape.is_tensor(node):
            count += 1
            continue
        for _, child in shape.children(node) or ():
            if type(child) not in _SCALARS and id(child) not in seen:
                seen[id(child)] = child
                stack.append(child)
    return count


def _walk(
    root: Any, shape: Shape, bearing: set[int], skip: set[str], where: str
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield tensors and the plain entries of dicts with their paths; a cycle is not followed."""
    if shape.is_tensor(root):
        yield ("tensor",), root
        return
    levels: list[tuple[Any, Iterator[tuple[str, Any]]]] = [
        (root, (part for part in shape.children(root) or () if part[0] not in skip))
    ]
    open_ids = {id(root)}
    path: list[str] = []
    visits = 0
    while levels:
        node, parts = levels[-1]
        for key, child in parts:
            visits += 1
            if visits > MAX_VISITS:
                raise ValueError(f"{where}: more than {MAX_VISITS:,} entries")
            if shape.is_tensor(child):
                yield (*path, key), child
            elif id(child) not in bearing:
                if shape.is_table(node):
                    yield (*path, key), child
            elif id(child) not in open_ids:
                if len(levels) >= MAX_LEVELS:
                    raise ValueError(f"{where}: tensors lie deeper than {MAX_LEVELS} levels")
                levels.append((child, iter(shape.children(child) or ())))
                open_ids.add(id(child))
                path.append(key)
                break
        else:
            levels.pop()
            open_ids.discard(id(node))
            del path[-1:]


def _name(path: tuple[str, ...], where: str) -> str:
    name = ".".join(path)
    if len(name) > MAX_NAME:
        raise ValueError(f"{where}: a name of {len(name):,} characters; at most {MAX_NAME:,}")
    return name


def strip_wrappers(names: list[str]) -> Callable[[str], str]:
    """Return the function that takes the prefixes of wrapper modules off the names.

    ``module.``, ``model.`` and ``_orig_mod.`` go while all names start with them; the component
    ``_orig_mod`` goes everywhere unless that would make two names equal.
    """
    prefix = ""
    while True:
        more = next((p for p in _PREFIXES if _all_start(names, prefix + p)), None)
        if more is None:
            break
        prefix += more

    def strip(name: str) -> str:
        return name.removeprefix(prefix)

    def strip_all(name: str) -> str:
        return strip(name).replace("._orig_mod.", ".").removeprefix("_orig_mod.")

    fully = {strip_all(name) for name in names}
    return strip_all if len(fully) == len(names) and "" not in fully else strip


def _all_start(names: list[str], prefix: str) -> bool:
    return bool(names) and all(n.startswith(prefix) and len(n) > len(prefix) for n in names)
