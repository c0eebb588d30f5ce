"""Two checkpoints -> which tensor of the second belongs to which of the first.

Tensors of one name belong together. For names that differ, these rules are tried in this order.
Each pairs what the rules before it left, and only where its key occurs once in each checkpoint:

- without wrappers: the names are equal without the components that wrapper modules add;
- by spelling: their letters and numbers are equal, without case and punctuation;
- without a prefix: they are equal without the first words of one checkpoint's names;
- by equal values: same shape, dtype and bits;
- by shape and order: the remaining tensors of both have the same shapes in the same order.

The rules for prefixes and for shapes are for checkpoints whose names differ as a whole: they are
used while less than half of the matrices have a partner.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from specdiag.checkpoint.names import WRAPPERS
from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.tensor import Tensor, elements_hash
from specdiag.wording import counted, shown, some

MAX_PREFIX = 4  # words
_COMPONENTS = re.compile(
    rf"(?<![^.])({'|'.join(WRAPPERS)}|base_model\.model|base_layer|module|modules_to_save\.\w+)\."
)


@dataclass
class Pairing:
    """The tensors of two checkpoints, with those that were paired so far.

    Attributes
    ----------
    first, second : list of Tensor
        Tensors without a partner, in the order of their checkpoint.
    partner : dict
        Name in the first checkpoint, by name in the second.
    rules : dict
        Rule by name in the second checkpoint, for names that differ.
    """

    first: list[Tensor]
    second: list[Tensor]
    partner: dict[str, str] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)

    def by(self, rule: str, key: Callable[[Tensor], Hashable]) -> None:
        """Pair the tensors whose key is not None and occurs once on each side."""
        a, b = (_unique(side, key) for side in (self.first, self.second))
        self._add(rule, [(a[k], t) for k, t in b.items() if k in a])

    def in_order(self, rule: str) -> None:
        """Pair the tensors one by one, if their shapes are the same."""
        if self.first and [t.shape for t in self.first] == [t.shape for t in self.second]:
            self._add(rule, list(zip(self.first, self.second, strict=True)))

    def _add(self, rule: str, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.partner |= {b.name: a.name for a, b in pairs}
        self.rules |= {b.name: rule for a, b in pairs if a.name != b.name}
        known = set(self.partner.values())
        self.first = [t for t in self.first if t.name not in known]
        self.second = [t for t in self.second if t.name not in self.partner]


def pair_names(first: Checkpoint, second: Checkpoint) -> Pairing:
    """Return which tensors of two checkpoints belong together, and by which rule."""
    pairing = Pairing(list(first.tensors), list(second.tensors))
    needed = min(sum(map(_is_matrix, c.tensors)) for c in (first, second)) / 2

    def few_paired() -> bool:
        return sum(t.name in pairing.partner for t in second.tensors if _is_matrix(t)) < needed

    pairing.by("", lambda t: t.name)
    pairing.by("without wrappers", lambda t: without_wrappers(t.name))
    pairing.by("by spelling", lambda t: (spelling(t.name), t.shape))
    by_name = few_paired()
    if by_name:
        _pair_without_prefix(pairing)
        by_name = few_paired()
    possible = {(t.shape, t.dtype) for t in pairing.first}
    possible &= {(t.shape, t.dtype) for t in pairing.second}
    pairing.by("by equal values", lambda t: _values(t) if (t.shape, t.dtype) in possible else None)
    if by_name:
        pairing.in_order("by shape and order")
    return pairing


def renamed(first: Checkpoint, second: Checkpoint) -> Checkpoint:
    """Return the second checkpoint with the names of the first, and notes on how they were paired.

    Tensors without a partner keep their names.
    """
    pairing = pair_names(first, second)
    if not pairing.rules:
        return second
    tensors = [replace(t, name=pairing.partner.get(t.name, t.name)) for t in second.tensors]
    notes = []
    for rule in dict.fromkeys(pairing.rules.values()):
        names = [name for name, other in pairing.rules.items() if other == rule]
        listed = some([f"{shown(n)} is {shown(pairing.partner[n])}" for n in names], 2)
        notes.append(f"{counted(len(names), 'tensor')} paired {rule}: {listed}")
    return replace(second, tensors=tuple(tensors), notes=(*second.notes, *notes))


def replace_names(checkpoint: Checkpoint, texts: Mapping[str, str]) -> Checkpoint:
    """Return the checkpoint with each text in the names of its tensors replaced by another.

    Raises
    ------
    ValueError
        If two tensors would get one name.
    """

    def new(name: str) -> str:
        for old, text in texts.items():
            name = name.replace(old, text)
        return name

    tensors = tuple(replace(t, name=new(t.name)) for t in checkpoint.tensors)
    name, count = Counter(t.name for t in tensors).most_common(1)[0] if tensors else ("", 1)
    if count > 1:
        raise ValueError(f"{checkpoint.name}: after renaming, {count} tensors are {shown(name)}")
    return replace(checkpoint, tensors=tensors)


def without_wrappers(name: str) -> str:
    """Return a name without the components that wrapper modules add, wherever they are."""
    return _COMPONENTS.sub("", name)


def spelling(name: str) -> str:
    """Return the words and numbers of a name in lower case: `0_Conv.weight` is `0.conv.weight`."""
    return ".".join(re.findall(r"[^\W\d_]+|\d+", without_wrappers(name).lower()))


def _pair_without_prefix(pairing: Pairing) -> None:
    """Pair names that are equal without the first words of one side, if one prefix fits best."""
    sides = pairing.first, pairing.second
    tables = [_unique(side, lambda t: spelling(t.name)) for side in sides]
    fits: Counter[tuple[int, str]] = Counter()
    for i, (table, other) in enumerate((tables, tables[::-1])):
        for name, tensor in table.items():
            for prefix, rest in _splits(str(name)):
                if rest in other:
                    # Equal shapes decide; other sizes of one architecture are paired, too.
                    fits[i, prefix] += 1 + len(tensor.shape) * (tensor.shape == other[rest].shape)
    best = fits.most_common(2)
    if not best or (len(best) == 2 and best[0][1] == best[1][1]):
        return
    (side, prefix), _ = best[0]
    stripped = {id(t) for t in sides[side]}

    def key(tensor: Tensor) -> str | None:
        name = spelling(tensor.name)
        if id(tensor) not in stripped:
            return name
        return name.removeprefix(prefix) if name.startswith(prefix) else None

    pairing.by("without a prefix", key)


def _splits(name: str) -> Iterable[tuple[str, str]]:
    """Yield the first words of a name, with the dot after them, and the rest."""
    words = name.split(".")
    for k in range(1, min(MAX_PREFIX, len(words) - 1) + 1):
        prefix = ".".join(words[:k]) + "."
        yield prefix, name.removeprefix(prefix)


def _values(tensor: Tensor) -> Hashable:
    try:
        return tensor.shape, tensor.dtype, elements_hash(tensor.read())
    except (ValueError, OSError, MemoryError):
        return None


def _is_matrix(tensor: Tensor) -> bool:
    return len(tensor.shape) >= 2


def _unique(tensors: Iterable[Tensor], key: Callable[[Tensor], Hashable]) -> dict[Any, Tensor]:
    """Return the tensors by their keys, without those whose key is None or occurs twice."""
    keyed = [(key(t), t) for t in tensors]
    counts = Counter(k for k, _ in keyed)
    return {k: t for k, t in keyed if k is not None and counts[k] == 1}
