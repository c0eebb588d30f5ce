"""Parts of a checkpoint -> those that are one network twice, such as a network and its average.

Two state dicts with the same names and shapes are twins, whatever they are called and wherever in
the file they lie. Inside one state dict, layers of one network are alike, too; there, only a part
that is named as the average of the other is a twin.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from specdiag.checkpoint.names import strip_wrappers
from specdiag.checkpoint.tree import children, is_table, is_tensor, module_state, shape_of

MAX_NETWORKS = 64  # that are compared with each other
MAX_CONTAINERS = 5000  # dicts and lists that are looked into
MAX_LEVELS = 8

Path: TypeAlias = tuple[str, ...]
Walk: TypeAlias = Callable[[Any], Iterable[tuple[Path, Any]]]
Signature: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]

_AVERAGE = re.compile(
    r"(^|_)(ema|swa|avg|averaged?|polyak|shadow|target|teacher|momentum|best|old|lagging|smoothed)"
    r"(_|$)|(^|_)(encoder|enc|net|network|backbone|model)_[km]$|^(key|k)_(encoder|enc|net)$"
)
# Averages of any network beside them: the words have no other meaning.
_ALWAYS = {"ema", "swa", "averaged", "polyak", "shadow"}
# Other words that name an average, and those that may name its network in their place.
_NETWORK_OF: dict[str, set[str]] = {
    "target": {"online", "policy", "local", "eval", "main", "current", "learner", "behaviour"},
    "teacher": {"student"},
    "momentum": {"base", "online", "query", "student"},
    "best": {"last", "latest", "current", "final"},
    "lagging": {"learner", "leading"},
    **{word: {"query", "q"} for word in ("key", "k")},  # in a file with a queue of keys
    **{word: set() for word in ("avg", "average", "old", "smoothed", "m")},
}
_ANY_NETWORK = {"model", "net", "network", "module"}
STATE_DICTS = ("state_dict", "model_state_dict")


class Twins(NamedTuple):
    """The networks of a tree that are one, several times.

    Attributes
    ----------
    root : node
        The tree without the twins that are not read.
    read : dict
        Name of the network that is read, by the name of each of its twins. A name is the path of
        the network with dots.
    paths : tuple of path
        Paths of the networks that are read.
    chosen : path
        Path of the network that was asked for; empty if the tree has no such network.
    """

    root: Any
    read: dict[str, str]
    paths: tuple[Path, ...]
    chosen: Path


def find_twins(
    root: Any, which: str | None, walk: Walk, is_optimizer: Callable[[Any], bool]
) -> Twins:
    """Return the networks of a tree that are twins.

    The one that is read is `which`, or else the first that is not named as an average. `which` is
    the key of a network, of a dict that it lies in, or its whole path with dots. `walk` yields the
    leaves of a node with their paths.
    """
    networks = dict(_networks(root, walk, is_optimizer))
    chosen = _chosen(networks, which)
    order = sorted(
        networks,
        key=lambda path: (
            not chosen or path[: len(chosen)] != chosen,
            any(map(is_average, path)),
            not path or path[-1] not in STATE_DICTS,
        ),
    )
    first: dict[Signature, Path] = {}
    for path in order:
        first.setdefault(networks[path], path)
    twins = {path: first[sign] for path, sign in networks.items() if first[sign] != path}
    return Twins(
        root=_without(root, set(twins)) if twins else root,
        read={".".join(twin): ".".join(path) for twin, path in twins.items()},
        paths=tuple(set(twins.values())),
        chosen=chosen,
    )


def is_average(word: str) -> bool:
    """Return whether a word of a name says that a part is an average or an earlier state."""
    return bool(_AVERAGE.search(_lower(word)))


def _lower(word: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).lower()


def _chosen(networks: Mapping[Path, Signature], which: str | None) -> Path:
    for path in networks:
        if which is not None and which == ".".join(path):
            return path
        if which in path:
            return path[: path.index(which) + 1]
    return ()


def _networks(
    root: Any, walk: Walk, is_optimizer: Callable[[Any], bool]
) -> Iterator[tuple[Path, Signature]]:
    """Yield path and signature of each network; nothing if there are too many.

    A network is a pickled module, or a dict of tensors with dots in their names, with at least two
    matrices.
    """
    found: list[tuple[Path, Signature]] = []
    pending: list[tuple[Path, Any]] = [((), root)]
    signatures: dict[int, Signature | None] = {}  # by the ids of nodes, which the root keeps alive
    opened: set[int] = set()
    while pending:
        path, node = pending.pop()
        if len(opened) + len(pending) > MAX_CONTAINERS or len(found) > MAX_NETWORKS:
            return
        if id(node) in opened or is_optimizer(node):
            continue
        if _is_network(node):
            if id(node) not in signatures:
                signatures[id(node)] = _signature(walk(node))
            sign = signatures[id(node)]
            found += [(path, sign)] if sign else []
        elif len(path) < MAX_LEVELS and (is_table(node) or type(node) in (list, tuple)):
            opened.add(id(node))
            parts = islice(children(node) or (), MAX_CONTAINERS)
            inner = [((*path, key), part) for key, part in parts if _may_hold(part)]
            pending += reversed(inner)
    yield from found


def _is_network(node: Any) -> bool:
    if module_state(node) is not None:
        return True
    parts = children(node) if is_table(node) else None
    return any("." in key for key, value in parts or () if is_tensor(value))


def _may_hold(node: Any) -> bool:
    if is_tensor(node):
        return False
    return is_table(node) or type(node) in (list, tuple) or module_state(node) is not None


def _signature(leaves: Iterable[tuple[Path, Any]]) -> Signature | None:
    """Return names and shapes without scalars, or None with fewer than two matrices."""
    try:
        shapes = {".".join(path): shape_of(leaf) for path, leaf in leaves if is_tensor(leaf)}
    except ValueError:  # too deep or too large
        return None
    shapes = {name: shape for name, shape in shapes.items() if shape}
    if sum(len(shape) >= 2 for shape in shapes.values()) < 2:
        return None
    strip = strip_wrappers(list(shapes))
    return tuple(sorted((strip(name), shape) for name, shape in shapes.items()))


def _without(node: Any, left_out: set[Path]) -> Any:
    """Return a tree without the nodes at some paths; nothing that is kept is copied."""
    if () in left_out:
        return None
    first = {path[0] for path in left_out}
    parts = [
        (key, _without(part, {p[1:] for p in left_out if p[0] == key}) if key in first else part)
        for key, part in children(node) or ()
    ]
    if not is_table(node):
        return [part for _, part in parts]
    return dict(parts) if len(dict(parts)) == len(parts) else node


def flat_twins(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, list[str]]]:
    """Return the averages in one state dict, with the part that each is a twin of, and their names.

    All arrays of an average have one of the same shape and name in the other part. Names are
    compared without dots and underscores: some averages are kept under names without any. The name
    of the part is that of the average without the word that says so (`target_critic` of `critic`),
    or with its counterpart (`teacher` of `student`): `target_encoder` is no twin of
    `source_encoder`. The encoder of keys is one only in a file with a queue of keys, as in MoCo.
    """
    averages: dict[str, list[str]] = {}
    for name in shapes:
        if start := _start_of_average(name):
            averages.setdefault(start, []).append(name)
    inside = {name for names in averages.values() for name in names}
    others = {_plain(name): name for name in shapes if name not in inside}
    has_queue = any(re.search(r"(^|[._])queue", name) for name in shapes)
    found = {}
    for start, names in averages.items():
        arrays = [name for name in names if shapes[name]]
        if sum(len(shapes[name]) >= 2 for name in arrays) < 2:
            continue
        rest = [name.removeprefix(start) for name in arrays]
        rest = [_plain(name) for name in map(strip_wrappers(rest), rest)]
        sizes = [shapes[name] for name in arrays]
        part = start.rstrip("._")
        partners = []
        for key in (key for key in others if key.endswith(rest[0])):
            begin = key.removesuffix(rest[0])
            if [shapes.get(others.get(begin + name, "")) for name in rest] == sizes:
                read = _words(others[key], begin)
                partners.append((*_is_average_of(part, read or begin, has_queue), read))
        best = max(partners, default=(False, False, ""), key=lambda partner: partner[:2])
        if any(best[:2]):
            found[part] = best[2], names
    return found


def _is_average_of(part: str, network: str, has_queue: bool) -> tuple[bool, bool]:
    """Return whether the names tell that a part is the average of a network, and of any at all."""
    words = re.split(r"[._]", _lower(part))
    found = {word for word in words if word in _NETWORK_OF or word in _ALWAYS}
    counterparts = {other for word in found for other in _NETWORK_OF.get(word, ())}
    others = re.split(r"[._]", _lower(network))
    fits = "".join(w for w in words if w not in found | _ANY_NETWORK) == "".join(
        w for w in others if w not in counterparts | _ANY_NETWORK
    )
    return fits and (has_queue or not found & {"k", "key"}), bool(found & _ALWAYS)


def _start_of_average(name: str) -> str:
    """Return a name up to the word that names an average, or ''; `ema_` of ``ema_fc_weight``."""
    *owners, leaf = name.split(".")
    for i, word in enumerate(owners):
        if is_average(word):
            return ".".join(owners[: i + 1]) + "."
    match = re.match(r"(ema|swa|avg)_(?=.)", leaf)
    return ".".join([*owners, match[0]]) if match else ""


def _plain(name: str) -> str:
    return name.replace(".", "").replace("_", "")


def _words(name: str, begin: str) -> str:
    """Return the first words of a name that are `begin` without dots and underscores, or ''."""
    ends = [i for i, character in enumerate(name) if character == "."]
    return next((name[:end] for end in ends if _plain(name[:end]) == begin), "")


def names_under(names: Iterable[str], part: str) -> list[str]:
    """Return the names that lie in a part: those that start with its name and a dot, or with `_`.

    The names may start with those of wrapper modules.
    """
    names = list(names)
    strip = strip_wrappers(names)
    found = [name for name in names if strip(name).startswith(f"{part}.")]
    found = found or [name for name in names if name.startswith(f"{part}.")]
    return found or [name for name in names if strip(name).startswith(f"{part}_")]
