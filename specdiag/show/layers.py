"""Measured layers -> a table for people, JSON and CSV for machines."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specdiag.checkpoint.weights.find import weights
from specdiag.checkpoint.weights.weight import Weight
from specdiag.dataset.build import unique_names
from specdiag.dataset.schema.layers import SCHEMA, layer_value
from specdiag.htsr.layers import Layer
from specdiag.htsr.null.verdicts import HEAVIER, VERDICTS
from specdiag.htsr.others.disagreements import disagreements
from specdiag.htsr.others.packages import PACKAGES
from specdiag.htsr.statistics import MIN_LAYERS
from specdiag.htsr.tail.alternatives import ALTERNATIVES
from specdiag.htsr.verdict import MAX_Q, summarise
from specdiag.show.table import render
from specdiag.wording import (
    accounting,
    counted,
    csv_cell,
    number,
    p_value,
    part,
    printable,
    some,
    without_nan,
)

if TYPE_CHECKING:
    from specdiag.checkpoint.reader import Checkpoint

# Each end of an interval and each alternative has a column.
_SUFFIXES = {"ci_bound": ("lower", "upper"), "alternative": ALTERNATIVES}
_COLUMNS = {
    name: [f"{name}_{suffix}" for suffix in _SUFFIXES[spec.dims[2]]] if spec.dims[2:] else [name]
    for name, spec in SCHEMA.items()
    if spec.dims[:2] == ("checkpoint", "layer") and name != "row_start"
}
REPEATS = (
    "an interval takes the eigenvalues for independent draws: it is not how far alpha moves when a "
    "network is trained again"
)
_EVIDENCE = (
    "  log10 factor: power of ten of the odds of a constant exponent against one that steepens; "
    "from 0.7 on it is favoured five to one"
)
_STYLES: dict[str, dict[str, Any]] = {
    "degenerate": {"fg": "yellow"},
    "failed": {"fg": "red"},
    "skipped": {"dim": True},
}
_OF_KS_FIT = {"alpha_ks", "n_tail_ks", "KS"}
_OF_TRAPS = {"traps", "soft rank", "localised"}
_MORE_OF_TRAPS = {"trap p", "trap ratio", "beyond", "ipr out", "ipr in"}
_OF_EVIDENCE = {"gaussian p", "scales p", "row sd", "column sd", "offset", "log10 factor"}
_OF_PACKAGES = {f"{name} {field}" for name in PACKAGES for field in ("xmin", "D")}
# Columns that a narrow terminal drops, in this order, and the characters that names then need.
_DROPPED = (
    ({*_OF_KS_FIT, *_OF_EVIDENCE, *_MORE_OF_TRAPS, "stable rank", "spectral norm"}, 24),
    ({"P(1.9-2.1)", "n_tail"}, 20),
    ({"gof p", "null q", *_OF_TRAPS}, 8),
)


def as_json(
    checkpoints: Sequence["Checkpoint"],
    measured: Sequence[Sequence[Layer]],
    more: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return all values but the eigenvalues as one JSON object; NaN and infinity become null.

    `more` has further keys of each checkpoint.
    """
    rows = [
        {
            "name": name,
            "path": str(checkpoint.path) if checkpoint.path else None,
            "layers": [layer_row(layer) | {"shape": layer.shape} for layer in layers],
            "summary": summarise(layers),
            "not_matrices": [w.name for w in weights(checkpoint) if not w.is_matrix],
            "notes": checkpoint.notes,
            **keys,
        }
        for name, checkpoint, layers, keys in zip(
            unique_names(checkpoints),
            checkpoints,
            measured,
            more or [{}] * len(measured),
            strict=True,
        )
    ]
    return json.dumps({"checkpoints": without_nan(rows)}, indent=2, allow_nan=False)


def as_csv(checkpoints: Sequence["Checkpoint"], measured: Sequence[Sequence[Layer]]) -> str:
    """Return CSV with a row for each matrix; a cell without a value is empty.

    Texts are those of `csv_cell`, which no terminal and no spreadsheet runs.
    """
    text = io.StringIO()
    header = [column for columns in _COLUMNS.values() for column in columns]
    header += dict.fromkeys(name for layers in measured for x in layers for name in x.beside)
    writer = csv.DictWriter(text, ["checkpoint", "layer", *header], lineterminator="\n")
    writer.writeheader()
    for name, layers in zip(unique_names(checkpoints), measured, strict=True):
        for layer in layers:
            row = {"checkpoint": name} | without_nan(layer_row(layer))
            writer.writerow({k: csv_cell(v) if isinstance(v, str) else v for k, v in row.items()})
    return text.getvalue()


def layer_row(layer: Layer) -> dict[str, Any]:
    """Return the name of a layer and all its values in the schema; an interval has two columns.

    The values of other packages follow, if they were asked.
    """
    row = {"layer": layer.name}
    for name, columns in _COLUMNS.items():
        value = layer_value(layer, name)
        row |= zip(columns, value if len(columns) > 1 else [value], strict=True)
    return row | layer.beside


def as_table(
    layers: Sequence[Layer], width: int | None = None, columns: str = "default"
) -> list[str]:
    """Return the lines of the table of a checkpoint: a header, and a row for each matrix.

    Of `columns`, 'all' adds to those of 'default' the p-values of the nulls, the scales and the
    offset that the second one takes out, the evidence for a constant exponent, and the fit of least
    Kolmogorov-Smirnov distance. The goodness of fit, `alpha_repeat_sd`, and traps and localisation
    are shown where they were measured. Of packages that were asked beside specdiag, alpha is shown,
    beside `alpha_ks`, which is by the same rule; 'all' adds their xmin and distance.
    """
    left_out = set() if columns == "all" else _OF_KS_FIT | _OF_EVIDENCE | _MORE_OF_TRAPS
    if all(math.isnan(layer.traps.n) for layer in layers):
        left_out = left_out | _OF_TRAPS | _MORE_OF_TRAPS
    for column, attribute in (("gof p", "gof_p"), ("repeat sd", "alpha_repeat_sd")):
        if all(math.isnan(getattr(layer, attribute)) for layer in layers):
            left_out = left_out | {column}
    if any(layer.beside for layer in layers):
        left_out = left_out - {"alpha_ks"} | (set() if columns == "all" else _OF_PACKAGES)
    rows = [_with_packages(layer) for layer in layers]
    cells = [{name: text for name, text in row.items() if name not in left_out} for row in rows]
    styles = [_STYLES.get(layer.status, {}) for layer in layers]
    table = render([layer.name for layer in layers], cells, styles, _DROPPED, width)
    return [*table, _EVIDENCE] if "log10 factor" in table[0] else table


def _cells(layer: Layer) -> dict[str, str]:
    low, high = layer.posterior.interval
    return {
        "shape": "x".join(map(str, layer.shape)),
        "alpha": number(layer.alpha, ".2f"),
        "95 % interval": f"{low:.2f} - {high:.2f}" if math.isfinite(low) else "-",
        "repeat sd": number(layer.alpha_repeat_sd, ".2g"),
        "n_tail": number(layer.posterior.n_tail, ".0f"),
        "alpha_ks": number(layer.tail.alpha, ".2f"),
        "n_tail_ks": str(layer.tail.n_tail or "-"),
        "KS": number(layer.tail.ks_distance, ".3f"),
        "P(1.9-2.1)": number(layer.posterior.rope, ".2f"),
        "gof p": p_value(layer.gof_p),
        "gaussian p": p_value(layer.gaussian_p),
        "scales p": p_value(layer.scales_p),
        "row sd": number(layer.row_scale_sd, ".2f"),
        "column sd": number(layer.column_scale_sd, ".2f"),
        "offset": number(layer.offset_share, ".0%"),
        "null q": p_value(layer.null_q),
        "log10 factor": number(layer.kind.log10_factor, "+z.1f"),
        "stable rank": number(layer.stable_rank, ".1f"),
        "spectral norm": number(layer.spectral_norm, "#.3g"),
        "traps": number(layer.traps.n, ".0f"),
        "trap p": p_value(layer.traps.p),
        "trap ratio": number(layer.traps.ratio, ".2f"),
        "soft rank": number(layer.traps.soft_rank, ".2f"),
        "beyond": number(layer.traps.n_beyond, ".0f"),
        "localised": number(layer.localisation.n, ".0f"),
        "ipr out": number(layer.localisation.ipr_output, ".1f"),
        "ipr in": number(layer.localisation.ipr_input, ".1f"),
        "verdict": layer.verdict or layer.status,
    }


def _with_packages(layer: Layer) -> dict[str, str]:
    """Return the cells of a layer, with those of other packages before the verdict."""
    cells = _cells(layer)
    last = cells.pop("verdict")
    for name in PACKAGES:
        for field, form in (("alpha", ".2f"), ("xmin", "#.3g"), ("D", ".3f")):
            if f"{name}_{field}" in layer.beside:
                title = name if field == "alpha" else f"{name} {field}"
                cells[title] = number(layer.beside[f"{name}_{field}"], form)
    return cells | {"verdict": last}


def summary_lines(checkpoint: "Checkpoint", layers: Sequence[Layer]) -> list[str]:
    """Return the summary of a checkpoint: alphas over measured layers, and the accounting."""
    summary = summarise(layers)
    all_weights = weights(checkpoint)
    n_vectors = sum(not w.is_matrix for w in all_weights)
    selected = len(layers) + n_vectors < len(all_weights)  # by --layers
    lines = _alpha_lines(summary, selected) + _verdict_lines(summary) + _trap_lines(layers)
    if summary["n_tested"] and all(math.isnan(layer.gof_p) for layer in layers):
        lines.append("not tested: how well a power law fits above xmin_ks (--gof)")
    if summary["n_fit"]:
        lines.append(REPEATS)
    ignored = f"; {counted(n_vectors, 'vector or scalar', 'vectors and scalars')} ignored"
    lines.append(accounting(summary) + ignored * bool(n_vectors))
    lines += [f"  {r['status']}: {r['reason']}: {some(r['layers'])}" for r in summary["reasons"]]
    lines += _composed_lines(all_weights, {layer.name for layer in layers})
    lines += [f"  {line}" for line in disagreements(layers)]
    lines += [f"note: {note}" for note in checkpoint.notes]
    return [printable(line) for line in lines]


def _composed_lines(all_weights: Sequence[Weight], names: set[str]) -> list[str]:
    """Return the weights that are composed of several tensors, by their rules, and those cut."""
    rules: dict[str, list[str]] = {}
    pieces: dict[str, int] = {}
    for weight in all_weights:
        if weight.name in names and weight.whole:
            pieces[weight.whole] = pieces.get(weight.whole, 0) + 1
        elif weight.name in names and weight.rule:
            rules.setdefault(weight.rule, []).append(weight.name)
    lines = [f"  composed: {rule}: {some(composed)}" for rule, composed in rules.items()]
    cut = [f"{name} into {n}" for name, n in pieces.items()]
    return lines + ([f"  cut: {some(cut)}"] if cut else [])


def _alpha_lines(summary: Mapping[str, Any], selected: bool) -> list[str]:
    if not summary["n_fit"]:
        return ["no layer was measured: no alpha"]
    over = _averaged(summary, selected)
    if not math.isfinite(summary["mean_alpha"]):
        return [f"no mean alpha over {over}: {MIN_LAYERS} layers are needed"]
    low, high = summary["mean_alpha_interval"]
    inside = counted(summary["n_inside_rope"], "layer")
    averages = (
        f"mean alpha {summary['mean_alpha']:.2f} (95 % interval over layers {low:.2f} to "
        f"{high:.2f}), median {summary['median_alpha']:.2f}, over {over}"
    )
    shares = (summary[f"fraction_{name}"] for name in ("below_2", "2_to_6", "above_6"))
    lines = [averages, "below 2: {:.0%}   2 to 6: {:.0%}   above 6: {:.0%}".format(*shares)]
    if math.isfinite(summary["rope_fraction"]):
        lines.append(
            f"close to 2 (1.9 to 2.1): {inside}, not close {summary['n_outside_rope']}, unclear "
            f"{summary['n_undecided']}; probability {summary['rope_fraction']:.1%} on average"
        )
    return lines


def _trap_lines(layers: Sequence[Layer]) -> list[str]:
    """Return which layers have traps, and which localised vectors, if that was measured."""
    tested = [layer for layer in layers if not math.isnan(layer.traps.n)]
    if not tested:
        return []
    trapped = [f"{layer.name} ({layer.traps.n:.0f})" for layer in tested if layer.traps.n]
    local = [f"{x.name} ({x.localisation.n:.0f})" for x in tested if x.localisation.n > 0]
    kinds = {
        "traps, eigenvalues that a permuted copy of the elements has": trapped,
        "leading singular vectors that are localised": local,
    }
    return [
        f"{len(names)} of {counted(len(tested), 'layer')} {'has' if len(tested) == 1 else 'have'} "
        f"{what}; of random matrices, 1 in 100 has" + f": {some(names)}" * bool(names)
        for what, names in kinds.items()
    ]


def _averaged(summary: Mapping[str, Any], selected: bool) -> str:
    """Return which layers the means are over: those whose alpha means something."""
    n, n_fit, matching = summary["n_meaningful"], summary["n_fit"], " that match" * selected
    if not summary["n_tested"]:
        share = "all " if n == n_fit else f"{n} of "
        fit = counted(n_fit, "measured layer") + matching
        return f"{share}{fit}, which were not compared with random matrices"
    unrejected = " and not rejected" * ("rejected" in summary["verdicts"])
    heavier = f"the {counted(n, 'layer')} that {'is' if n == 1 else 'are'} heavier than random"
    return f"{heavier}{unrejected} (of {n_fit} measured{matching})"


def _verdict_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return how many layers are heavier than random, and how many have each verdict."""
    if not summary["n_tested"]:
        return []
    n, tested = summary["n_distinguishable"], summary["n_tested"]
    counts = summary["verdicts"]
    return [
        f"{part(n, tested, 'layer')} {HEAVIER} (q <= {MAX_Q})",
        *(
            f"  {counts[word]} {word}: {text.removeprefix(f'{HEAVIER}; ')}"
            for word, text in VERDICTS.items()
            if word in counts and word != "degenerate"
        ),
    ]
