"""Declared splits, PATTERN=SPEC -> the pieces of the weights whose names the pattern matches.

PATTERN is a shell pattern of names of weights. SPEC is one of those in docs/weights.md: blocks,
such as ``q,k,v`` or ``q:768/12,k:256/4,v:256/4``; heads, such as ``12@columns``; or what the axes
of a tensor are, such as ``stack`` or ``axes:src``.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from specdiag.checkpoint.weights.evidence import Evidence
from specdiag.checkpoint.weights.fused.layout import Neighbours, outputs_axis
from specdiag.checkpoint.weights.pieces import matches, piece
from specdiag.checkpoint.weights.stacks.reading import by_letters
from specdiag.checkpoint.weights.weight import Weight
from specdiag.wording import counted, some

WORDS = ("stack", "kernel", "whole")
AXES = ("rows", "columns")
EXAMPLES = "such as q,k,v or 12 or q,k,v/12 or stack"

_AXES = re.compile(r"axes:(?=.*r)(?=.*c)[srct]{3,8}")
_SPEC = re.compile(
    r"(?:(?P<groups>\d{1,9})x\((?P<inside>[^()]*)\)(?:/(?P<heads>\d{1,9}))?|(?P<blocks>[^()@]+))"
    rf"(?:@(?P<axis>{'|'.join(AXES)}))?"
)
_BLOCK = re.compile(
    r"(?P<name>[A-Za-z_][\w.-]*)(?::(?P<size>\d{1,12}))?(?:/(?P<heads>\d{1,9}))?|(?P<only>\d{1,9})"
)


class SplitError(ValueError):
    """A declared split that is invalid, or does not fit the weights."""


@dataclass(frozen=True)
class Block:
    """A named part of an axis. The size is None if all are equal."""

    name: str
    size: int | None
    n_heads: int | None


@dataclass(frozen=True)
class Split:
    """A declared split: a word of `WORDS`, letters for axes, or blocks in groups along an axis."""

    text: str
    pattern: str
    word: str = ""
    axis: int | None = None
    n_groups: int = 1
    blocks: tuple[Block, ...] = ()
    n_heads: int | None = None  # without blocks

    def error(self, reason: str) -> SplitError:
        """Return the error with this reason."""
        return SplitError(f"split {self.text!r}: {reason}")


def parse(text: str) -> Split:
    """Return the split that a text PATTERN=SPEC declares.

    Raises
    ------
    SplitError
        If it is invalid.
    """
    pattern, equals, spec = text.rpartition("=")
    split = Split(text, pattern)
    if not equals or not pattern or not spec:
        raise split.error(f"expected PATTERN=SPEC, {EXAMPLES} for SPEC")
    spec = re.sub(r"\s+", "", spec)
    if spec in WORDS or _AXES.fullmatch(spec):
        return replace(split, word=spec)
    match = _SPEC.fullmatch(spec)
    if not match:
        raise split.error(f"{spec!r} is no split, {EXAMPLES}")
    split = replace(
        split,
        axis=AXES.index(match["axis"]) if match["axis"] else None,
        n_groups=int(match["groups"] or 1),
    )
    parts = [
        _BLOCK.fullmatch(part) for part in (match["inside"] or match["blocks"] or "").split(",")
    ]
    if not all(parts):
        raise split.error(f"{spec!r} is no split, {EXAMPLES}")
    return _with_blocks(split, [part for part in parts if part], match["heads"])


def _with_blocks(split: Split, parts: Sequence[re.Match[str]], heads: str | None) -> Split:
    if len(parts) == 1 and parts[0]["only"] and split.n_groups == 1:
        split = replace(split, n_heads=int(parts[0]["only"]))
        if not split.n_heads:
            raise split.error("0 heads")
        return split
    blocks = [
        Block(
            part["name"],
            int(part["size"]) if part["size"] else None,
            int(part["heads"]) if part["heads"] else None,
        )
        for part in parts
        if not part["only"]
    ]
    if len(blocks) < max(2, len(parts)) or len({block.name for block in blocks}) < len(blocks):
        raise split.error("expected two or more blocks with different names")
    given = [block.n_heads for block in blocks]
    last = int(heads) if heads else given[-1]
    if given[:-1] == [None] * (len(given) - 1) and last is not None:  # one number for all blocks
        blocks = [replace(block, n_heads=last) for block in blocks]
    for values in ([b.size for b in blocks], [b.n_heads for b in blocks]):
        if 0 in values or (None in values and any(values)):
            raise split.error("expected a size or a number of heads, above 0, for all blocks")
    if not split.n_groups:
        raise split.error("0 groups")
    return replace(split, blocks=tuple(blocks))


def texts_of(split: object) -> tuple[str, ...]:
    """Return PATTERN=SPEC for each pattern and its spec; raise ValueError for anything else."""
    if not isinstance(split, Mapping):
        text = "expected a dict, such as {'*.weight': 'q,k,v'}"
        raise ValueError(f"split is {split!r}: {text}")  # noqa: TRY004 - as for other arguments
    return tuple(f"{pattern}={spec}" for pattern, spec in split.items())


class Splits:
    """The declared splits of a network. Of several that match a weight, the last one counts.

    Parameters
    ----------
    texts : sequence of str
        PATTERN=SPEC each.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._splits = [parse(text) for text in texts]

    def check(self, weights: Sequence[Weight], name: str) -> None:
        """Raise SplitError if a pattern matches none of the whole weights of a network."""
        matrices = [w for w in weights if len(w.shape) >= 2 and not (w.reason or w.problem)]
        for split in self._splits:
            if not any(matches(weight, split.pattern) for weight in matrices):
                raise split.error(
                    f"no weight of {name} matches; of {counted(len(matrices), 'weight')} with two "
                    f"axes or more, it has {some([w.name for w in matrices], 3) or 'none'}"
                )

    def stack(self, weight: Weight) -> list[Weight] | None:
        """Return what a tensor is declared to be, one weight or several; None if nothing is."""
        split = self._last(weight, lambda s: s.word != "")
        if not split:
            return None
        if split.word == "whole":
            return [weight]
        n_axes, letters = len(weight.shape), split.word.removeprefix("axes:")
        if n_axes < 3 or (letters != split.word and len(letters) != n_axes):
            shape = "x".join(map(str, weight.shape))
            needs = "three axes or more" if n_axes < 3 else f"{counted(n_axes, 'letter')}"
            raise split.error(f"{weight.name} is {shape}, and needs {needs}")
        if split.word in WORDS:
            letters = {"stack": "s" * (n_axes - 2) + "rc", "kernel": "rc".ljust(n_axes, "t")}[
                letters
            ]
        return by_letters(letters).apply(weight)

    def blocks(self, weight: Weight, evidence: Evidence) -> list[Weight] | None:
        """Return the blocks and heads of a matrix or kernel, or None if nothing is declared."""
        split = self._last(weight, lambda s: s.word in ("", "whole"))
        if not split:
            return None
        if split.word:
            return [weight]
        axis = split.axis
        if axis is None:
            axis = outputs_axis(Neighbours(weight, evidence))
        return list(_pieces(split, weight, axis))

    def _last(self, weight: Weight, kind: Callable[[Split], bool]) -> Split | None:
        found = [s for s in self._splits if kind(s) and matches(weight, s.pattern)]
        return found[-1] if found and len(weight.shape) >= 2 else None


def _pieces(split: Split, weight: Weight, axis: int) -> Iterator[Weight]:
    size, odd = divmod(weight.shape[axis], split.n_groups)
    kind = AXES[axis]
    if odd:
        raise split.error(
            f"{weight.shape[axis]:,} {kind} of {weight.name} are not {split.n_groups:,} "
            "equal groups"
        )
    if split.n_heads:
        yield from _heads(split, weight, axis, split.n_heads)
        return
    n_blocks = len(split.blocks)
    sizes = [block.size or size // n_blocks for block in split.blocks]
    if sum(sizes) != size:
        blocks = f"{n_blocks} equal blocks" if not split.blocks[0].size else "the sum of the sizes"
        where = f"{size:,} {kind} of {weight.name}{' in a group' if split.n_groups > 1 else ''}"
        raise split.error(f"{where} are not {blocks}")
    start = 0
    for block, width in zip(split.blocks, sizes, strict=True):
        part = piece(weight, block.name, axis, start, start + width, size)
        start += width
        yield from _heads(split, part, axis, block.n_heads) if block.n_heads else [part]


def _heads(split: Split, weight: Weight, axis: int, n_heads: int) -> list[Weight]:
    width, odd = divmod(weight.shape[axis], n_heads)
    if odd or not width:
        raise split.error(
            f"{weight.shape[axis]:,} {AXES[axis]} of {weight.name} are not {n_heads:,} equal heads"
        )
    return [piece(weight, f"head {i}", axis, i * width, (i + 1) * width) for i in range(n_heads)]
