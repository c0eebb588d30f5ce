"""Comparisons -> tables and sentences for people, JSON for machines."""

import json
import math
from collections.abc import Sequence
from typing import Any

from specdiag.comparison.dataset import Compared, Comparison, pair_value
from specdiag.comparison.matrices import N_LEADING, NO_DIFFERENCE
from specdiag.comparison.pairs import MEASURED, SAME, Pair
from specdiag.dataset.build import unique_names
from specdiag.dataset.schema.comparison import COMPARISON
from specdiag.htsr.layers import Layer
from specdiag.htsr.verdict import MAX_Q, is_meaningful
from specdiag.show.layers import layer_row
from specdiag.show.table import render
from specdiag.wording import accounting, counted, number, p_value, printable, some, without_nan

# As in `specdiag.show.layers`.
_DROPPED = (
    ({"added rank", "added stable rank", "change of P(1.9-2.1)"}, 24),
    ({"shape", "null q", "added alpha"}, 20),
    ({"spectral distance", "overlap"}, 18),
    ({"P(lower)", "95 % interval"}, 8),
)
_LEGEND = {
    "2 - 1": "alpha of 2 minus alpha of 1; of groups, their means over networks",
    "P(lower)": "probability that alpha of 2 is lower",
    "change of P(1.9-2.1)": "of the probability that alpha is from 1.9 to 2.1",
    "null q": f"of 1 and of 2: above {MAX_Q}, random matrices of any row and column scales have an "
    "alpha as low",
    "spectral distance": "by how many decades the eigenvalues of the two lie apart on average, "
    "whatever the scale of the weights (Wasserstein-1)",
    "overlap": f"of the spaces of the {N_LEADING} leading singular vectors: 1 if they are the same",
    "distance": "Frobenius norm of the matrix 2 - 1, the change of the weights, over that of 1",
    "added alpha": "of the matrix 2 - 1; noise: random matrices have an alpha as low",
    "added stable rank": "of the matrix 2 - 1",
    "added rank": "number of eigenvalues of the matrix 2 - 1 above rounding",
    "relation": "where it names a verdict (no evidence, scales), random matrices have an alpha as "
    "low: 2 - 1 would be noise, is not shown, and is in no mean",
}
_TOO_FEW_BLOCKS = 5  # the tests of blocks cannot have a p of 0.05 or less
_OF_LAYERS = [name for name, spec in COMPARISON.items() if spec.dims[:2] == ("comparison", "layer")]


def as_json(compared: Compared) -> str:
    """Return all values but the eigenvalues as one JSON object; NaN and infinity become null."""
    networks = unique_names(compared.checkpoints)
    seeds = [
        [name for name, group in zip(networks, compared.group, strict=True) if group == i]
        for i in range(len(compared.names))
    ]
    rows = [
        {
            "first": compared.names[0],
            "second": compared.names[i],
            "first_seeds": seeds[0],
            "second_seeds": seeds[i],
            "conclusion": comparison.summary["conclusion"],
            "whole": {k: v for k, v in comparison.summary.items() if k != "conclusion"},
            "tensors": [
                {
                    "tensor": pair.name,
                    "relation": pair.relation,
                    "reason": _reason(pair),
                    "relative_distance": pair.distance,
                }
                for pair in comparison.pairs
            ],
            "layers": [_row(pair) for pair in comparison.pairs if pair.is_measured],
        }
        for i, comparison in enumerate(compared.comparisons, start=1)
    ]
    return json.dumps({"comparisons": without_nan(rows)}, indent=2, allow_nan=False)


def _row(pair: Pair) -> dict[str, Any]:
    row = {"layer": pair.name, "first": _measured(pair.first), "second": _measured(pair.second)}
    return row | {name: pair_value(pair, name) for name in _OF_LAYERS}


def _measured(layer: Layer) -> dict[str, Any]:
    """Return the values of a layer, without those of tests: a comparison makes no tests."""
    row = layer_row(layer)
    return {k: v for k, v in row.items() if not k.startswith(("gof", "log_likelihood", "verdict"))}


def _reason(pair: Pair) -> str:
    """Return why a pair was not compared, or else why one of its layers was not measured."""
    reasons = dict.fromkeys(
        layer.reason for layer in (pair.first, pair.second) if layer.status not in MEASURED
    )
    return pair.reason or "; ".join(filter(None, reasons))


def as_table(pairs: Sequence[Pair], width: int | None = None) -> list[str]:
    """Return the lines of the table of the matrices measured in both; [] if there are none.

    Columns without any value are left out: most of those of groups of seeds.
    """
    measured = [pair for pair in pairs if pair.is_measured]
    if not measured:
        return []
    styles = [{"dim": True} if pair.relation in SAME else {} for pair in measured]
    names = [pair.name for pair in measured]
    cells = [_cells(pair) for pair in measured]
    filled = [name for name in cells[0] if any(row[name].strip("- ") for row in cells)]
    cells = [{name: row[name] for name in filled} for row in cells]
    return render(names, cells, styles, _DROPPED, width)


def legend(pairs: Sequence[Pair], table: Sequence[str]) -> list[str]:
    """Return lines that explain the columns in the table of the pairs."""
    shown = {head.strip() for head in table[0].split("  ")} if table else set()
    if not any(map(_noise, pairs)):
        shown.discard("relation")
    return [f"  {head}: {text}" for head, text in _LEGEND.items() if head in shown]


def _cells(pair: Pair) -> dict[str, str]:
    """Return the cells of a pair, without the difference of alpha if either alpha is noise."""
    first, second = pair.first, pair.second
    noise = _noise(pair)
    low, high = NO_DIFFERENCE.interval if noise else pair.alpha.interval
    change = "" if first.status == second.status else f", {first.status} to {second.status}"
    added = "noise" if pair.added_null_q > MAX_Q else number(pair.added.mean, ".2f")
    return {
        "shape": "x".join(map(str, first.shape)),
        "alpha 1": number(first.alpha, ".2f"),
        "alpha 2": number(second.alpha, ".2f"),
        "2 - 1": "-" if noise else number(pair.alpha.value, "+z.2f"),
        "95 % interval": f"{low:+z.2f} to {high:+z.2f}" if low < high else "-",
        "P(lower)": number(pair.alpha.below_0, ".2f") if low < high else "-",
        "change of P(1.9-2.1)": "-" if noise else number(pair.rope_difference, "+z.2f"),
        "null q": f"{p_value(first.null_q)} {p_value(second.null_q)}",
        "spectral distance": number(pair.spectral_distance, ".3f"),
        "overlap": number(sum(pair.overlap) / 2, ".2f"),
        "distance": number(pair.distance, ".2g"),
        "added alpha": added,
        "added stable rank": number(pair.added_stable_rank, ".1f"),
        "added rank": number(pair.added_rank, ".0f"),
        "relation": pair.relation + change + noise,
    }


def _noise(pair: Pair) -> str:
    """Return which alphas mean nothing, if the pair has a difference: `, no evidence in both`."""
    sides = (pair.first, pair.second)
    if pair.relation != "different" or math.isnan(pair.alpha.value):
        return ""
    words = ["" if is_meaningful(x.status, x.verdict) else x.verdict for x in sides]
    if words[0] == words[1]:
        return f", {words[0]} in both" if words[0] else ""
    return "".join(f", {word} in {i}" for i, word in enumerate(words, start=1) if word)


def summary_lines(comparison: Comparison, names: tuple[str, str]) -> list[str]:
    """Return the lines that compare two checkpoints as a whole, with the conclusion at the end."""
    whole = comparison.summary
    lines = [_identity_line(comparison.pairs), *_other_tensors(comparison.pairs, names)]
    if whole["n_compared"]:
        lines += _alpha_lines(whole)
    lines += [
        f"{name}: {_mean(whole[label])}; {accounting(whole[label])}"
        for label, name in zip(("first", "second"), names, strict=True)
    ]
    return [printable(line) for line in [*lines, whole["conclusion"]]]


def _mean(summary: dict[str, Any]) -> str:
    if not math.isfinite(summary["mean_alpha"]):
        n = summary["n_meaningful"]
        return f"no mean alpha: it means something in {n} of {counted(summary['n_fit'], 'layer')}"
    return (
        f"mean alpha {summary['mean_alpha']:.2f}, P(1.9 to 2.1) {summary['rope_fraction']:.1%} on "
        "average"
    )


def _identity_line(pairs: Sequence[Pair]) -> str:
    measured = [pair for pair in pairs if pair.is_measured]
    return "; ".join(
        f"{sum(p.relation == 'identical' for p in group)} of {len(group)} {noun} bit-identical"
        for group, noun in ((measured, "compared matrices"), (pairs, "weights"))
    )


def _other_tensors(pairs: Sequence[Pair], names: tuple[str, str]) -> list[str]:
    """Return a line for each relation, with the tensors that are not in the table."""
    label = {"only in first": f"only in {names[0]}", "only in second": f"only in {names[1]}"}
    groups: dict[str, list[str]] = {}
    for pair in pairs:
        if not pair.is_measured and pair.relation not in SAME:
            distance = f"distance {pair.distance:.2g}" if math.isfinite(pair.distance) else ""
            about = "; ".join(filter(None, (_reason(pair), distance)))
            shown = pair.name + f" ({about})" * bool(about)
            groups.setdefault(label.get(pair.relation, pair.relation), []).append(shown)
    return [f"  {relation}: {some(listed)}" for relation, listed in groups.items()]


def _alpha_lines(whole: dict[str, Any]) -> list[str]:
    def interval(name: str) -> str:
        low, high = whole[name]
        return f"{low:+z.2f} to {high:+z.2f}" if math.isfinite(low) else "none"

    layers = (
        f"alpha, second minus first, over {whole['n_compared']} of "
        f"{counted(whole['n_comparable'], 'layer')} in {counted(whole['n_blocks'], 'block')}: mean "
        f"{whole['mean_alpha_difference']:+.3f}, 95 % interval over blocks "
        f"{interval('mean_alpha_difference_ci')}"
    )
    seeds = (
        f"95 % interval for other seeds {interval('mean_alpha_difference_seed_ci')}, "
        f"{whole['seed_basis']}"
    )
    n_blocks = whole["n_blocks"]
    least = f" (over {counted(n_blocks, 'block')} neither can be below {p_value(2 / 2**n_blocks)})"
    tests = (
        f"sign test p {p_value(whole['sign_p'])}, Wilcoxon p {p_value(whole['wilcoxon_p'])}"
        f"{least * (n_blocks <= _TOO_FEW_BLOCKS)}; mean difference of P(1.9 to 2.1) "
        f"{whole['mean_rope_difference']:+z.3f}"
    )
    low, high = whole["intraclass_correlation_ci"]
    if math.isfinite(low):
        seeds += f" ({low:.2f} to {high:.2f})"
    return [layers, seeds, tests]
