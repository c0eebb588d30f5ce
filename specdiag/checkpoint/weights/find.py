"""Checkpoint -> its weights: every tensor is part of exactly one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from specdiag.checkpoint.reader import Checkpoint, Source, open_checkpoint
from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.weights.adapters.adapted import adapted
from specdiag.checkpoint.weights.adapters.base import (
    adapter_config,
    base_beside,
    has_adapter,
    with_base,
)
from specdiag.checkpoint.weights.bounds import stored_bytes, within
from specdiag.checkpoint.weights.computed.normalised import normalised, with_masks
from specdiag.checkpoint.weights.evidence import Evidence, gather
from specdiag.checkpoint.weights.fused import blocks
from specdiag.checkpoint.weights.quantised.rules import quantisation_config, quantised
from specdiag.checkpoint.weights.split import Splits
from specdiag.checkpoint.weights.stacks import cut as stacks
from specdiag.checkpoint.weights.tables import with_tables
from specdiag.checkpoint.weights.weight import Tensors, Weight, plain
from specdiag.wording import some

_RULES: tuple[Callable[[Tensors], Iterator[Weight]], ...] = (
    normalised,
    with_masks,
)


def open_weights(
    source: Source,
    *,
    which: str | None = None,
    base: "Source | None" = None,
    splits: Sequence[str] = (),
) -> Checkpoint:
    """Return a checkpoint of any kind with its weights in place of its tensors.

    Parameters
    ----------
    source, which
        Those of `open_checkpoint`.
    base
        The base of an adapter, to merge its updates with: anything that `open_checkpoint` reads. By
        default, a base that lies beside the adapter is used.
    splits
        Those of `weights`.

    Raises
    ------
    ValueError
        If the base does not fit, or if a file is invalid.
    """
    opened = open_checkpoint(source, which)
    if base is not None and has_adapter(opened):
        return _merged(opened, base, splits)
    note = "" if base is None else "it has no adapter: the base is not used"
    if base is None:
        base, note = base_beside(opened)
        if base:
            try:
                return _merged(opened, base, splits)
            except (ValueError, OSError) as error:
                note = f"the updates alone, because the base beside it is not used: {error}"
    notes = (*_not_read(opened), *opened.notes, *([note] if note else []))
    return of_weights(replace(opened, notes=notes), splits)


def _not_read(checkpoint: Checkpoint) -> list[str]:
    """Return a note that names the tensors of an unknown content, which may be matrices."""
    found = [
        f"{tensor.name} ({tensor.problem})"
        for tensor in checkpoint.tensors
        if tensor.problem and len(tensor.shape) < 2 and tensor.dtype in ("object", "unknown")
    ]
    return [f"not read: {some(found, 4)}"] if found else []


def _merged(adapter: Checkpoint, base: Source, splits: Sequence[str]) -> Checkpoint:
    below = open_checkpoint(base)
    whole, note = with_base(adapter, below, _whole(below))
    parts = _parts(whole, below, splits)
    return replace(adapter, tensors=parts, notes=(*adapter.notes, *below.notes, note))


def weights(checkpoint: Checkpoint, splits: Sequence[str] = ()) -> tuple[Weight, ...]:
    """Return the weights of a checkpoint, in the order of their first tensors.

    Few values are read: shapes that a file stores as values, and rows of tables that may be tied.
    Vectors and scalars are among the weights, so that every element of the file is part of exactly
    one. Tensors that are no weight have a `reason`.

    Tensors are first composed into whole weights; those without a reason are then cut into the
    matrices that they consist of, where evidence tells or splits are declared, PATTERN=SPEC each,
    as `specdiag.checkpoint.weights.split` describes. Weights that were found already are returned
    as they are.

    Raises
    ------
    ValueError
        If an adapter_config.json beside the file is invalid, or a split is or fits no weight.
    """
    if all(isinstance(tensor, Weight) for tensor in checkpoint.tensors):
        return tuple(tensor for tensor in checkpoint.tensors if isinstance(tensor, Weight))
    return _parts(_whole(checkpoint), checkpoint, splits)


def _parts(
    whole: Sequence[Weight], checkpoint: Checkpoint, splits: Sequence[str]
) -> tuple[Weight, ...]:
    """Return the pieces of the whole weights of a checkpoint."""
    evidence = gather(checkpoint, whole)
    declared = Splits(splits)
    declared.check(whole, checkpoint.name)
    whole = with_tables(whole, evidence)
    return tuple(part for weight in whole for part in _cut(weight, evidence, declared))


def of_weights(checkpoint: Checkpoint, splits: Sequence[str] = ()) -> Checkpoint:
    """Return the checkpoint with its weights in place of its tensors."""
    return replace(checkpoint, tensors=weights(checkpoint, splits))


def _cut(weight: Weight, evidence: Evidence, declared: Splits) -> Iterator[Weight]:
    """Yield the pieces of a weight: the slices of a stack, and the blocks of each.

    Splits that are declared come before those that evidence tells.
    """
    if weight.reason or weight.problem:
        yield weight
        return
    for part in declared.stack(weight) or stacks.cut(weight, evidence) or [weight]:
        if part.reason:
            yield part
        else:
            yield from declared.blocks(part, evidence) or blocks.cut(part, evidence) or [part]


def _whole(checkpoint: Checkpoint) -> list[Weight]:
    """Return the whole weights of a checkpoint, in the order of their first tensors."""
    left = {tensor.name: tensor for tensor in checkpoint.tensors}
    position = {name: i for i, name in enumerate(left)}
    found: list[Weight] = []
    _take(left, found, iter(checkpoint.computed))
    _take(left, found, quantised(dict(left), quantisation_config(checkpoint)))
    for rule in _RULES:
        _take(left, found, rule(dict(left)))
    _adapt(left, found, checkpoint)
    for name, tensor in left.items():
        reason = ""
        if tensor.role == "buffer" and name.rpartition(".")[2] != "weight":
            reason = "a buffer of its module, not a parameter"
        elif name.rpartition(".")[2] == "_extra_state":
            reason = "what its module returns from get_extra_state: no parameter"
        elif tensor.role == "operand":
            reason = "an operand that no layer multiplies with"
        elif tensor.role == "computed":
            reason = "the model computes a weight from it, which is not done here"
        elif ".original_module." in f".{name}" and _replaced(name, left):
            reason = "not used: modules_to_save replaces it"
        found.append(plain(tensor, reason=reason))
    found.sort(key=lambda weight: position[weight.tensors[0]])
    stored = stored_bytes(checkpoint.path) if checkpoint.path else None
    return found if stored is None else within(found, stored)


def _take(left: dict[str, Tensor], found: list[Weight], more: Iterator[Weight]) -> None:
    """Move the tensors of weights from those that are left; the first weight of a tensor counts."""
    for weight in more:
        if left.keys() >= {*weight.tensors}:
            found.append(weight)
            for name in weight.tensors:
                del left[name]


def _adapt(left: dict[str, Tensor], found: list[Weight], checkpoint: Checkpoint) -> None:
    """Move the tensors of adapters; a base that is composed itself is merged with its update."""
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    bases = {w.name: w for w in found if w.name.endswith(".base_layer.weight")}
    for weight in bases.values():
        found.remove(weight)
        left |= {name: tensors[name] for name in weight.tensors}
    _take(left, found, adapted(left | bases, adapter_config(checkpoint)))
    _take(left, found, iter(bases.values()))


def _replaced(name: str, left: Tensors) -> bool:
    """Return whether peft has trained a copy of a module, which the network uses instead."""
    owner, _, leaf = name.rpartition("original_module.")
    start = f"{owner}modules_to_save."
    return any(other.startswith(start) and other.endswith(f".{leaf}") for other in left)
