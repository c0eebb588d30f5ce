"""Weight of two axes -> why it is a lookup table, whose rows no network multiplies with a vector.

Each row of a table is trained only as often as its item occurs.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from specdiag.checkpoint.weights.evidence import WIDTH, Evidence, bias_names, parts_of
from specdiag.checkpoint.weights.weight import Weight

# The parameter, or the module that owns its `weight`.
_TABLE = re.compile(
    r"(^|_)emb(ed(ding)?)?s?(_(list|layers?|l))?$|[a-z]Emb(ed(ding)?)?s?$"
    r"|(^|_)embedder(_\d+)?$|[a-z]Embedder(_\d+)?$"
    r"|^embed_(\w+_)?(tokens|positions|in)(_per_layer)?$|^(wte|wpe|shared|W_E|W_pos)$"
)
# Positions that are added to attention, and the items and running sums of vector quantisation.
_OTHERS = re.compile(
    r"(^|_)table$|(^|_)pos(ition(al)?)?_enc(oding)?s?$|(^|_)pos_emb_[hwt]$"
    r"|^rel(ative)?_pos(_[hw])?$|^relative_attention_bias$"
    r"|^_?codebooks?$|^codevectors$|(^|_)embed_avg$|^_?ema_w$"
)
_LISTS = ("s", "_list", "_l")  # names of lists of modules; a singular is a sequence of layers
_LEARNED = re.compile(r"(^|_)(tokens?|latents|prompts?)$")  # parameters only
_HEAD = re.compile(
    r"(^|_)head$|^(output|decoder|unembed(ding)?|embed_out|fc_out|proj_out|readout|(to_)?logits"
    r"|classifier|generator|predictions|softmax)$"
)
_ITEMS = (
    "vocab_size",
    "n_vocab",
    "d_vocab",
    "num_embeddings",
    "num_items",
    "n_items",
    "num_tokens",
)
MAX_HEADS = 16  # output heads that tables are compared to
MANY = 2  # shapes that share a side: it is the width of the network, not the size of one layer


def with_tables(whole: Sequence[Weight], evidence: Evidence) -> list[Weight]:
    """Return the weights, with what tells that they are lookup tables.

    It is the class, the name, a tied output head or the number of items, in this order, as
    docs/weights.md describes. A weight with a bias of the length of its outputs is none.
    """
    matrices = [w for w in whole if len(w.shape) == 2 and not (w.reason or w.problem)]
    heads = [
        w
        for w in matrices
        if _is_head(w) and (_owner(w.name) != "decoder" or _has_bias(w, evidence))
    ][:MAX_HEADS]
    tied = _tied(matrices, evidence)
    return [
        replace(
            w,
            table=_table(w, evidence, heads) or tied.get(w.name, ""),
            has_bias=_has_bias(w, evidence),
        )
        if len(w.shape) > 1
        else w
        for w in whole
    ]


def _tied(matrices: Sequence[Weight], evidence: Evidence) -> dict[str, str]:
    """Return the tables that are tied to a matrix of another name, with a row for each item."""
    by_shape: dict[object, list[Weight]] = {}
    for weight in matrices:
        if not any(part.isdigit() for part in parts_of(weight.name)[:-2]) and not weight.role:
            by_shape.setdefault((weight.shape, weight.dtype), []).append(weight)
    found = {}
    for pair in by_shape.values():
        if len(pair) != 2 or _owner(pair[0].name) == _owner(pair[1].name):
            continue
        shape = pair[0].shape
        rows, columns = _others(shape, evidence)
        biases = evidence.distinct_shapes & {(shape[0],)}
        table = next((w for w in pair if not (_has_bias(w, evidence) or _is_head(w))), None)
        if rows == len(biases) and columns and table and _are_equal(*pair):
            found[table.name] = "tied head"
    return found


def _table(weight: Weight, evidence: Evidence, heads: Sequence[Weight]) -> str:
    first = next((axis for axis, size in enumerate(weight.shape) if size > 1), 0)
    shape = weight.shape[first:]
    if weight.reason or weight.problem:
        return ""
    if weight.role == "embedding":
        return "class"
    leaf = parts_of(weight.name)[-1]
    is_called = _LEARNED.search(leaf) or _OTHERS.search(_owner(weight.name))
    if len(shape) > 1 and (is_called or (len(shape) > 2 and _TABLE.search(leaf))):
        return "name"
    if len(shape) != 2 or weight.role or _has_bias(weight, evidence):
        return ""
    if _TABLE.search(_owner(weight.name)):
        return "" if _is_wide(shape, evidence) else "name"
    if first or _is_head(weight):
        return ""
    if any(_are_equal(weight, head) for head in heads):
        return "tied head"
    in_block = any(part.isdigit() for part in parts_of(weight.name))
    is_table = shape[0] in evidence.numbers(*_ITEMS) and shape[1] in evidence.numbers(*WIDTH)
    return "rows, one an item" if is_table and not in_block and shape[0] != shape[1] else ""


def _are_equal(first: Weight, second: Weight) -> bool:
    """Return whether two weights are the same memory, or equal bit by bit in three of their rows.

    Rows of different trained matrices are never equal; more rows would have to be transferred.
    """
    if (first.shape, first.dtype) != (second.shape, second.dtype) or 0 in first.shape:
        return False
    if first.identity and first.identity == second.identity:
        return True
    n_rows = first.shape[0]
    try:
        return all(
            _row(first, i).tobytes() == _row(second, i).tobytes()
            for i in (0, n_rows // 2, n_rows - 1)
        )
    except (ValueError, OSError, MemoryError):  # reported when it is measured
        return False


def _row(weight: Weight, i: int) -> np.ndarray:
    return weight.read_rows(i, i + 1) if weight.read_rows else weight.read()[i : i + 1]


def _is_head(weight: Weight) -> bool:
    return _HEAD.search(_owner(weight.name)) is not None


def _has_bias(weight: Weight, evidence: Evidence) -> bool:
    """Return whether a vector of the length of its outputs is its bias."""
    names = [bias for name in (weight.name, *weight.tensors) for bias in bias_names(name)]
    biases = map(evidence.weights.get, names)
    return any(bias and len(bias.shape) == 1 and bias.shape[0] in weight.shape for bias in biases)


def _owner(name: str) -> str:
    """Return the name of the parameter, or of the module or list of modules that owns it."""
    *owners, leaf = parts_of(name)
    if not owners or leaf not in ("weight", "kernel"):
        return leaf
    is_list = len(owners) > 1 and owners[-1].isdigit() and owners[-2].endswith(_LISTS)
    return owners[-2] if is_list else owners[-1]


def _is_wide(shape: tuple[int, ...], evidence: Evidence) -> bool:
    """Return whether the rows are the width of the network, and the columns are not."""
    rows, columns = _others(shape, evidence)
    return rows >= MANY and rows > MANY * columns


def _others(shape: tuple[int, ...], evidence: Evidence) -> tuple[int, int]:
    """Return how many other shapes of the file have the rows, and the columns."""
    itself = shape in evidence.distinct_shapes
    rows, columns = (evidence.shapes_with[side] - itself for side in shape)
    return rows, columns
