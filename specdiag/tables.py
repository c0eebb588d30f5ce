"""Measured layers -> what the command line prints: a table for people, JSON and CSV for machines."""

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from specdiag.layers import Layer, summarise
from specdiag.spectra import SCHEMA, layer_value, unique_names

if TYPE_CHECKING:
    from rich.table import Table

    from specdiag.checkpoint import Checkpoint

_COLUMNS = [name for name, spec in SCHEMA.items() if spec.dims == ("checkpoint", "layer")]
_STYLES = {"degenerate": "yellow", "failed": "red", "skipped": "dim"}
_NAMES_SHOWN = 4


def as_json(checkpoints: Sequence["Checkpoint"], measured: Sequence[Sequence[Layer]]) -> str:
    """Return everything but the eigenvalues as one JSON object; NaN and infinity become null."""
    found = [
        {
            "name": name,
            "path": str(checkpoint.path) if checkpoint.path else None,
            "layers": [_row(layer) for layer in layers],
            "summary": summarise(layers),
            "not_matrices": [t.name for t in checkpoint.tensors if len(t.shape) < 2],
            "notes": checkpoint.notes,
        }
        for name, checkpoint, layers in zip(
            unique_names(checkpoints), checkpoints, measured, strict=True
        )
    ]
    return json.dumps({"checkpoints": _without_nan(found)}, indent=2, allow_nan=False)


def as_csv(checkpoints: Sequence["Checkpoint"], measured: Sequence[Sequence[Layer]]) -> str:
    """Return one row a matrix; an empty cell where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["checkpoint", "layer", *_COLUMNS], lineterminator="\n")
    writer.writeheader()
    for name, layers in zip(unique_names(checkpoints), measured, strict=True):
        writer.writerows({"checkpoint": name} | _without_nan(_row(layer)) for layer in layers)
    return text.getvalue()


def _row(layer: Layer) -> dict[str, Any]:
    return {"layer": layer.name} | {name: layer_value(layer, name) for name in _COLUMNS}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_table(layers: Sequence[Layer]) -> "Table":
    """Return the table of a checkpoint, a row a matrix."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("matrix", overflow="fold")
    for header in ("shape", "alpha", "n_tail", "KS", "stable rank", "spectral norm"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for layer in layers:
        cells = [
            "x".join(map(str, layer.shape)),
            _number(layer.tail.alpha, ".2f"),
            str(layer.tail.n_tail) if layer.tail.n_tail else "-",
            _number(layer.tail.ks_distance, ".3f"),
            _number(layer.stable_rank, ".1f"),
            _number(layer.spectral_norm, "#.3g"),
            layer.status,
        ]
        table.add_row(
            *map(Text, [printable(layer.name), *cells]), style=_STYLES.get(layer.status, "")
        )
    return table


def summary_lines(checkpoint: "Checkpoint", layers: Sequence[Layer]) -> list[str]:
    """Return the summary of a checkpoint: alphas over fit layers, and the accounting."""
    found = summarise(layers)
    n_vectors = sum(len(t.shape) < 2 for t in checkpoint.tensors)
    lines = []
    if found["n_fit"]:
        lines.append(
            f"alpha over {found['n_fit']} fit layers: mean {found['mean_alpha']:.3f}, "
            f"median {found['median_alpha']:.3f}"
        )
        lines.append(
            f"below 2: {found['fraction_below_2']:.0%}   2 to 6: {found['fraction_2_to_6']:.0%}   "
            f"above 6: {found['fraction_above_6']:.0%}"
        )
    else:
        lines.append("no layer could be fit: there is no alpha to report")
    buckets = " + ".join(
        f"{found[f'n_{status}']} {status}"
        for status in ("fit", "degenerate", "skipped", "failed")
        if status != "failed" or found["n_failed"]
    )
    lines.append(
        f"walked {found['n_walked']} matrices = {buckets}"
        f"   ({n_vectors} vectors and scalars are not matrices)"
    )
    lines += [f"  {r['status']}: {r['reason']}: {_some(r['layers'])}" for r in found["reasons"]]
    lines += [f"note: {note}" for note in checkpoint.notes]
    return [printable(line) for line in lines]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def printable(text: str) -> str:
    """Return text from a file with its control characters escaped, so that it stays on its line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
