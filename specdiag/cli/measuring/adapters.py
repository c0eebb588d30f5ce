"""Checkpoints with adapters -> the rank that their updates use and, with a base, what they add."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdiag.cli.options import ERRORS, complain

if TYPE_CHECKING:
    from specdiag.checkpoint.reader import Checkpoint
    from specdiag.checkpoint.tensor import Tensor
    from specdiag.comparison.updates.update import Update


def rows_of_adapters(
    checkpoints: Sequence["Checkpoint"], base: Path | None, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return for each checkpoint the key `adapter` of its JSON: {} if it has no adapter."""
    from specdiag.show import updates as show

    rows: list[dict[str, Any]] = []
    for checkpoint in checkpoints:
        if not _has_adapter(checkpoint):
            rows.append({})
            continue
        found = _added(checkpoint, base, settings) if base else None
        rows.append({"adapter": show.adapter_row(_ranks(checkpoint), found)})
    return rows


def lines_of_adapter(
    checkpoint: "Checkpoint", base: Path | None, settings: Mapping[str, Any], width: int | None
) -> list[str]:
    """Return the lines on the adapter of a checkpoint; [] if it has none."""
    if not _has_adapter(checkpoint):
        return []
    from specdiag.show import updates as show

    lines = ["", *show.adapter_lines(_ranks(checkpoint), width)]
    found = _added(checkpoint, base, settings) if base else None
    if found:
        updates, summary = found
        table = show.as_table(updates, width)
        lines += ["", *table, *show.legend(updates, table), *show.summary_lines(updates, summary)]
    return lines


def _has_adapter(checkpoint: "Checkpoint") -> bool:
    tensors = checkpoint.tensors
    return any(getattr(t, "adapter", "") or getattr(t, "added", None) for t in tensors)


def _ranks(checkpoint: "Checkpoint") -> list[Any]:
    from specdiag.comparison.updates.adapters import adapter_updates

    return adapter_updates(checkpoint.tensors)


def _added(
    checkpoint: "Checkpoint", base: Path, settings: Mapping[str, Any]
) -> "tuple[list[Update], dict[str, Any]] | None":
    """Return the updates of all matrices of a base, and their summary; None if none is merged.

    Only those that the adapter changes are compared.
    """
    names = {t.name for t in checkpoint.tensors if _is_changed(t)}
    if not names:
        return None
    from specdiag.checkpoint.weights.find import open_weights
    from specdiag.comparison.updates.conclusion import summarise_updates
    from specdiag.comparison.updates.delta import updates_of
    from specdiag.comparison.updates.update import unchanged
    from specdiag.htsr.selection import matrices

    try:
        first = open_weights(base, splits=settings.get("splits", ()))
        sides = [
            replace(one, tensors=tuple(t for t in one.tensors if t.name in names))
            for one in (first, checkpoint)
        ]
        (updates,) = updates_of(sides[0], [sides[1]])
    except ERRORS as error:
        complain(error)
        return None
    others = (w for w in matrices(first) if w.name not in names and not w.reason)
    updates += [unchanged(w) for w in others if w.dtype.startswith(("float", "bfloat"))]
    return updates, summarise_updates(updates, (first.name, checkpoint.name))


def _is_changed(tensor: "Tensor") -> bool:
    from specdiag.checkpoint.weights.adapters.base import REPLACED

    return getattr(tensor, "added", None) is not None or tensor.rule == REPLACED
