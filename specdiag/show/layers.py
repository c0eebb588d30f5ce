"""Measured layers -> what the command line prints: a table for people, JSON and CSV for machines."""

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from specdiag.dataset.schema import SCHEMA, layer_value
from specdiag.dataset.spectra import unique_names
from specdiag.htsr.goodness_of_fit import ALTERNATIVES
from specdiag.htsr.layers import Layer
from specdiag.htsr.verdict import MAX_Q, summarise
from specdiag.show.table import render
from specdiag.wording import number, printable, some, without_nan

if TYPE_CHECKING:
    from specdiag.checkpoint.reader import Checkpoint

# The ends of an interval and the alternatives have a column each.
_SUFFIXES = {"ci_bound": ("lower", "upper"), "alternative": ALTERNATIVES}
_COLUMNS = {
    name: [f"{name}_{suffix}" for suffix in _SUFFIXES[spec.dims[2]]] if spec.dims[2:] else [name]
    for name, spec in SCHEMA.items()
    if spec.dims[:2] == ("checkpoint", "layer") and name != "row_start"
}
_STYLES: dict[str, dict[str, Any]] = {
    "degenerate": {"fg": "yellow"},
    "failed": {"fg": "red"},
    "skipped": {"dim": True},
}
# What a narrow terminal does without, in this order, until names have that much room.
_DROPPED: tuple[tuple[set[str], int], ...] = (
    (set(), 10_000),
    ({"mean", "KS", "stable rank", "spectral norm"}, 24),
    ({"ROPE", "n_tail"}, 20),
    ({"gof p", "null q"}, 8),
)


def as_json(checkpoints: Sequence["Checkpoint"], measured: Sequence[Sequence[Layer]]) -> str:
    """Return everything but the eigenvalues as one JSON object; NaN and infinity become null."""
    found = [
        {
            "name": name,
            "path": str(checkpoint.path) if checkpoint.path else None,
            "layers": [layer_row(layer) | {"shape": layer.shape} for layer in layers],
            "summary": summarise(layers),
            "not_matrices": [t.name for t in checkpoint.tensors if len(t.shape) < 2],
            "notes": checkpoint.notes,
        }
        for name, checkpoint, layers in zip(
            unique_names(checkpoints), checkpoints, measured, strict=True
        )
    ]
    return json.dumps({"checkpoints": without_nan(found)}, indent=2, allow_nan=False)


def as_csv(checkpoints: Sequence["Checkpoint"], measured: Sequence[Sequence[Layer]]) -> str:
    """Return one row a matrix; an empty cell where there is no value."""
    text = io.StringIO()
    header = [column for columns in _COLUMNS.values() for column in columns]
    writer = csv.DictWriter(text, ["checkpoint", "layer", *header], lineterminator="\n")
    writer.writeheader()
    for name, layers in zip(unique_names(checkpoints), measured, strict=True):
        writer.writerows({"checkpoint": name} | without_nan(layer_row(layer)) for layer in layers)
    return text.getvalue()


def layer_row(layer: Layer) -> dict[str, Any]:
    """Return the name of a layer and all its values in the schema; an interval has two."""
    row = {"layer": layer.name}
    for name, columns in _COLUMNS.items():
        value = layer_value(layer, name)
        row |= zip(columns, value if len(columns) > 1 else [value], strict=True)
    return row


def as_table(layers: Sequence[Layer], width: int | None = None) -> list[str]:
    """Return the lines of the table of a checkpoint: a header, and a row a matrix."""
    cells = [_cells(layer) for layer in layers]
    styles = [_STYLES.get(layer.status, {}) for layer in layers]
    return render([layer.name for layer in layers], cells, styles, _DROPPED, width)


def _cells(layer: Layer) -> dict[str, str]:
    low, high = layer.posterior.interval
    return {
        "shape": "x".join(map(str, layer.shape)),
        "alpha": number(layer.tail.alpha, ".2f") + "*" * _outside(layer),
        "mean": number(layer.posterior.mean, ".2f"),
        "95 % interval": f"{low:.2f} - {high:.2f}" if math.isfinite(low) else "-",
        "n_tail": str(layer.tail.n_tail) if layer.tail.n_tail else "-",
        "KS": number(layer.tail.ks_distance, ".3f"),
        "ROPE": number(layer.posterior.rope, ".2f"),
        "gof p": number(layer.gof_p, ".2f"),
        "null q": number(layer.null_q, ".3f"),
        "stable rank": number(layer.stable_rank, ".1f"),
        "spectral norm": number(layer.spectral_norm, "#.3g"),
        "verdict": layer.verdict or layer.status,
    }


def _outside(layer: Layer) -> bool:
    low, high = layer.posterior.interval
    return layer.tail.alpha < low or layer.tail.alpha > high


def summary_lines(checkpoint: "Checkpoint", layers: Sequence[Layer]) -> list[str]:
    """Return the summary of a checkpoint: alphas over fit layers, and the accounting."""
    found = summarise(layers)
    n_vectors = sum(len(t.shape) < 2 for t in checkpoint.tensors)
    lines = _alpha_lines(found) if found["n_fit"] else ["no layer could be fit: there is no alpha"]
    buckets = " + ".join(
        f"{found[f'n_{status}']} {status}"
        for status in ("fit", "degenerate", "skipped", "failed")
        if status != "failed" or found["n_failed"]
    )
    lines.append(
        f"walked {found['n_walked']} matrices = {buckets}"
        f"   ({n_vectors} vectors and scalars are not matrices)"
    )
    lines += [f"  {r['status']}: {r['reason']}: {some(r['layers'])}" for r in found["reasons"]]
    if any(_outside(layer) for layer in layers):
        lines.append("* outside the interval: its xmin is one of many that explain the spectrum")
    lines += [f"note: {note}" for note in checkpoint.notes]
    return [printable(line) for line in lines]


def _alpha_lines(found: dict[str, Any]) -> list[str]:
    low, high = found["mean_alpha_interval"]
    interval = f" (95 % interval over layers {low:.2f} to {high:.2f})" if math.isfinite(low) else ""
    lines = []
    lines.append(
        f"alpha over {found['n_fit']} fit layers ({found['coverage']:.0%} of those that could be): "
        f"mean {found['mean_alpha']:.3f}{interval}, median {found['median_alpha']:.3f}, "
        f"mean |alpha - 2| {found['mean_distance_from_2']:.2f}"
    )
    lines.append(
        f"below 2: {found['fraction_below_2']:.0%}   2 to 6: {found['fraction_2_to_6']:.0%}   "
        f"above 6: {found['fraction_above_6']:.0%}"
    )
    if math.isfinite(found["rope_fraction"]):
        lines.append(
            f"posterior: mean alpha {found['posterior_mean_alpha']:.3f}, mean P(1.9 to 2.1) "
            f"{found['rope_fraction']:.1%}; intervals inside {found['n_inside_rope']}, outside "
            f"{found['n_outside_rope']}, undecided {found['n_undecided']}"
        )
    if found["n_tested"]:
        words = ", ".join(f"{count} {word}" for word, count in found["verdicts"].items())
        lines.append(
            f"{found['n_distinguishable']} of {found['n_tested']} alphas are lower than a random "
            f"matrix gives (q <= {MAX_Q}); verdicts: {words}"
        )
    return lines
