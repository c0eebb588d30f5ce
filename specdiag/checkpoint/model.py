"""Tree of a checkpoint -> the tensors of its model by name, and the entries beside them."""

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from specdiag.checkpoint.tensor import MAX_LEVELS, MAX_NAME, MAX_NAMES
from specdiag.checkpoint.tree import SCALARS, children, is_number, is_table, is_tensor
from specdiag.checkpoint.twins import STATE_DICTS, find_twins, names_under
from specdiag.wording import counted, shown, some

MAX_VISITS = 200_000

_EMA = re.compile(r"(model_)?ema(_(model|net|state|weights|params))?(_(state_)?dict)?")
_WRAPPERS = re.compile(
    rf"model(_state|_weights)?|module|net(work)?|state|weights|param(eter)?s|{_EMA.pattern}"
)
# Entries beside a model, by their whole names: a network may be called 'scheduler_net'.
_SETTINGS = re.compile(r"(datamodule_)?(hyper_?param(eter)?s|hparams)|config|cfg|args")
_RNG = r"(\w+_)?(rng|random)(_states?)(_all)?|(\w+_)?rng"
_ASIDE = re.compile(
    r"(optim(izer)?s?|opt|(lr_)?sched(uler)?s?|(grad_)?scaler|amp)(_states?)?(_dicts?)?(_?\d+)?"
    rf"|lr|loops|callbacks|{_RNG}|{_EMA.pattern}"
)


class NoNetworkError(ValueError):
    """A checkpoint is the state of an optimizer, which is no network."""


@dataclass(kw_only=True, slots=True)
class Model:
    """The tensors of a model, and the other content of its checkpoint.

    Attributes
    ----------
    tensors, entries : list of (name, node)
        Tensors and other entries of the state dict, in order.
    top : list of (name, node)
        Entries beside the state dict, such as hyper-parameters.
    aside : Counter
        Number of tensors that are not part of the model, by the entry that holds them.
    twins : dict
        Name of the network that is read, by the name of each other network of the same names and
        shapes.
    """

    tensors: list[tuple[str, Any]] = field(default_factory=list)
    entries: list[tuple[str, Any]] = field(default_factory=list)
    top: list[tuple[str, Any]] = field(default_factory=list)
    aside: Counter[str] = field(default_factory=Counter)
    twins: dict[str, str] = field(default_factory=dict)


def find_model(root: Any, where: str, which: str | None = None) -> Model:
    """Return the model that a checkpoint's tree holds.

    Wrappers such as ``state_dict`` are opened; if there are several networks, their names are part
    of the tensors' names. Of networks with the same names and shapes, such as one and its average,
    one is read. Optimiser states, settings, averages and the like are left out and their tensors
    counted. A file and the same checkpoint loaded into memory give the same model.

    Parameters
    ----------
    root : node
    where : str
        Name of the file, for messages.
    which : str, optional
        Name of the entry that holds the network to read, instead of the one that is chosen.

    Raises
    ------
    ValueError
        If the tree is the state of an optimiser, or has no entry `which`; if two tensors share a
        name, or the tree is too deep or too large.
    """
    with_tensors = _ids_with_tensors(root)
    twins = find_twins(root, which, partial(_walk, with_tensors=with_tensors), _is_optimizer)
    if twins.root is not root:
        root, with_tensors = twins.root, _ids_with_tensors(twins.root)
    model = Model(twins=twins.read)
    node, aside, parts_seen = root, set[str](), list[str]()
    counted: dict[int, Any] = {}
    here: tuple[str, ...] = ()
    optimizers: set[str] = set()
    for _ in range(MAX_LEVELS):
        if _is_optimizer(node):
            raise NoNetworkError(no_network(where))
        if is_tensor(node) or not (is_table(node) or type(node) in (list, tuple)):
            break
        parts = list(children(node) or ())
        _refuse_duplicates([key for key, _ in parts], where)
        entries = dict(parts)
        candidates = {key: value for key, value in entries.items() if id(value) in with_tensors}
        parts_seen += [key for key, value in candidates.items() if not is_tensor(value)]
        chosen: str | None
        wanted = next(iter(twins.chosen[len(here) :]), which)
        if wanted is not None and not is_tensor(candidates.get(wanted, np.empty(0))):
            chosen, aside, which = wanted, candidates.keys() - {wanted}, None
        else:
            alone = {
                p[len(here)] for p in twins.paths if len(p) > len(here) and p[: len(here)] == here
            }
            chosen, aside = _choose(candidates, alone, type(node) in (list, tuple))
        optimizers |= {key for key in aside if _is_optimizer(candidates[key])}
        for key in sorted(aside):
            model.aside[key] += _count(candidates[key], counted)
        model.top += [(key, candidates[key]) for key in aside if _SETTINGS.fullmatch(key.lower())]
        if chosen is None:
            break
        model.top += [
            (key, value)
            for key, value in entries.items()
            if key not in candidates and not _is_training(key, value)
        ]
        node, aside, here = entries[chosen], set(), (*here, chosen)
    _fill(model, _walk(node, with_tensors, aside, where), counted, where)
    optimizers |= {key for key in model.aside if "optim" in key.lower()}
    if optimizers and not model.tensors:
        raise NoNetworkError(no_network(where, sorted(optimizers)))
    _choose_part(model, which, [*parts_seen, *twins.read], where)
    return model


def not_of_the_model(counts: Mapping[str, int]) -> list[str]:
    """Return notes on tensors beside a model, from their number in each entry."""
    return [
        f"{counted(count, 'tensor')} under {shown(part)} {'is' if count == 1 else 'are'} "
        "not part of the model"
        for part, count in counts.items()
    ]


def no_network(where: str, parts: Sequence[str] = ()) -> str:
    """Return the message for a file with the state of an optimizer alone."""
    under = f" (under {some([shown(part) for part in parts], 4)})" if parts else ""
    return f"{where}: the state of an optimizer{under}, not a network; name the file of the model"


def _fill(
    model: Model,
    leaves: Iterable[tuple[tuple[str, ...], Any]],
    counted: dict[int, Any],
    where: str,
) -> None:
    """Put the leaves into the model under their names; optimizers are only counted."""
    left = MAX_NAMES
    for path, leaf in leaves:
        name = ".".join(path)
        left -= len(name)
        if len(name) > MAX_NAME or left < 0:
            raise ValueError(
                f"{where}: a name of {len(name):,} characters; at most {MAX_NAME:,} are read, "
                f"and {MAX_NAMES:,} in all"
            )
        if is_tensor(leaf):
            model.tensors.append((name, leaf))
        elif _is_optimizer(leaf):
            model.aside[name] += _count(leaf, counted)
        else:
            model.entries.append((name, leaf))
    _refuse_duplicates([name for name, _ in model.tensors], where)


def _choose_part(model: Model, which: str | None, seen: Sequence[str], where: str) -> None:
    """Leave out all tensors but those whose names lie in the part `which`."""
    if which is None:
        return
    kept = set(names_under([name for name, _ in model.tensors], which))
    if not kept:
        parts = dict.fromkeys(n.partition(".")[0] for n, _ in model.tensors if "." in n)
        listed = some([shown(name) for name in dict.fromkeys([*seen, *parts])], 8) or "none"
        raise ValueError(f"{where}: there is no network {shown(which)}; its parts are {listed}")
    for name, _ in model.tensors:
        if name not in kept:
            model.aside[name.partition(".")[0]] += 1
    model.tensors = [t for t in model.tensors if t[0] in kept]


def _refuse_duplicates(names: Sequence[str], where: str) -> None:
    """Raise ValueError if a name occurs twice."""
    if len(set(names)) != len(names):
        name = next(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"{where}: the name {shown(name)} occurs twice")


def _choose(
    candidates: dict[str, Any], alone: set[str], is_list: bool
) -> tuple[str | None, set[str]]:
    """Return the key of the whole model, or None, and the keys to leave out.

    `candidates` are the entries that are tensors or contain one, `alone` the keys of networks whose
    twins were left out.
    """
    aside = {key for key, value in candidates.items() if _is_beside(key, value)}
    kept = candidates.keys() - aside
    if not kept:
        kept = {key for key in candidates if _EMA.fullmatch(key.lower())}
        aside -= kept
    # A single number, such as the best loss so far, is not a network.
    numbers = {key for key in kept if is_number(candidates[key])}
    groups = {key for key in kept if not is_tensor(candidates[key])}
    chosen = next((key for key in STATE_DICTS if key in groups), None)
    # Beside a state dict, only tensors with the names of modules could be weights.
    alone_named = {key for key in kept - groups if chosen is None or "." in key}
    if not alone_named <= numbers:
        return None, aside
    if chosen is None and len(groups) == 1:
        (only,) = groups
        is_whole = (is_list and not numbers) or only in alone or _WRAPPERS.fullmatch(only)
        chosen = only if is_whole else None
    return chosen, aside if chosen is None else candidates.keys() - {chosen}


def _is_beside(key: str, value: Any) -> bool:
    """Return whether an entry is known not to be part of a model."""
    if is_tensor(value):
        return bool(re.fullmatch(_RNG, key.lower()))
    return bool(_SETTINGS.fullmatch(key.lower())) or _is_training(key, value)


def _is_training(key: str, value: Any) -> bool:
    return bool(_ASIDE.fullmatch(key.lower())) or _is_optimizer(value)


def _is_optimizer(value: Any) -> bool:
    """Return whether a node is the state of a torch optimizer; its entry can have any name."""
    if is_tensor(value) or type(value) in SCALARS or type(value) in (list, tuple):
        return False
    first = islice(children(value) or (), 8)
    return {"state", "param_groups"} <= {name for name, _ in first}


def _parts(node: Any) -> Iterable[Any]:
    """Return the parts of a node that are tensors or could contain one."""
    return (part for _, part in children(node) or () if type(part) not in SCALARS)


def _ids_with_tensors(root: Any) -> set[int]:
    """Return the ids of the nodes that are tensors or contain one."""
    nodes = [root]  # keeps the nodes alive: an id is valid only as long as its object exists
    index = {id(root): 0}
    above, below = array("I"), array("I")  # lists of lists would take many times the memory
    position = 0
    while position < len(nodes):
        for part in _parts(nodes[position]):
            if id(part) not in index:
                index[id(part)] = len(nodes)
                nodes.append(part)
            above.append(position)
            below.append(index[id(part)])
        position += 1
    order = np.argsort(np.frombuffer(below, dtype=np.uint32), kind="stable")
    parents = np.frombuffer(above, dtype=np.uint32)[order]
    ends = np.cumsum(np.bincount(np.frombuffer(below, dtype=np.uint32), minlength=len(nodes)))
    pending = [at for at, node in enumerate(nodes) if is_tensor(node)]
    marked = set(pending)
    while pending:
        at = pending.pop()
        for parent in parents[ends[at - 1] if at else 0 : ends[at]].tolist():
            if parent not in marked:
                marked.add(parent)
                pending.append(parent)
    return {id(nodes[at]) for at in marked}


def _count(node: Any, seen: dict[int, Any]) -> int:
    """Return the number of tensors in a node, without those in nodes already seen."""
    if id(node) in seen:
        return 0
    seen[id(node)] = node
    stack, count = [node], 0
    while stack:
        node = stack.pop()
        count += is_tensor(node)
        for part in _parts(node):
            if id(part) not in seen:
                seen[id(part)] = part
                stack.append(part)
    return count


def _walk(
    root: Any, with_tensors: set[int], aside: Set[str] = frozenset(), where: str = ""
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield tensors and other entries of dicts with their paths; cycles are not followed."""
    if is_tensor(root):
        yield ("tensor",), root
        return
    levels: list[tuple[Any, Iterator[tuple[str, Any]]]] = [
        (root, (part for part in children(root) or () if part[0] not in aside))
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
            if is_tensor(child) or (id(child) in with_tensors and _is_optimizer(child)):
                yield (*path, key), child
            elif id(child) not in with_tensors:
                if is_table(node):
                    yield (*path, key), child
            elif id(child) not in open_ids:
                if len(levels) >= MAX_LEVELS:
                    raise ValueError(f"{where}: tensors lie deeper than {MAX_LEVELS} levels")
                levels.append((child, iter(children(child) or ())))
                open_ids.add(id(child))
                path.append(key)
                break
        else:
            levels.pop()
            open_ids.discard(id(node))
            del path[-1:]
