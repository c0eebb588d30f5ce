"""Updates of networks -> tables and sentences for people, JSON for machines."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from specdiag.comparison.updates.delta import Added
from specdiag.comparison.updates.roles import ROLES
from specdiag.comparison.updates.rounding import KINDS
from specdiag.comparison.updates.update import SIDES, Update, value_of
from specdiag.dataset.schema.updates import UPDATES
from specdiag.show.layers import layer_row
from specdiag.show.table import render
from specdiag.wording import counted, number, printable, some, without_nan

# As in `specdiag.show.layers`.
_DROPPED = (
    ({"effective rank", "CKA", "CKA chance", "match"}, 24),
    ({"spectrum", "in leading", "chance of it"}, 20),
    ({"shape", "stable rank"}, 8),
)
_LEGEND = {
    "rank": "number of eigenvalues of the update above the rounding of both files",
    "relative": "Frobenius norm of the update over that of the weight",
    "spectrum": "by how much of their norm the singular values moved",
    "overlap": "of the 10 leading singular directions before and after, of outputs and of inputs",
    "chance": "95 % limit of the overlap of two unrelated matrices of that shape",
    "in leading": "share of the update in these directions before, of outputs and of inputs",
    "chance of it": "its 95 % limit for unrelated directions",
    "match": "mean best cosine of the 10 leading singular vectors after with any before",
    "new": "how many of these have no match of 0.5 (intruder dimensions), of outputs and of inputs",
    "CKA": "linear CKA of the outputs before and after, for white inputs",
    "CKA chance": "its expectation for unrelated directions",
}
_STYLES: dict[str, dict[str, Any]] = {
    "rounding": {"dim": True},
    "unresolved": {"fg": "yellow"},
}


def as_json(added: Added) -> str:
    """Return all values but the eigenvalues as one JSON object; NaN and infinity become null."""
    rows = [
        {
            "before": added.names[0],
            "after": name,
            "conclusion": summary["conclusion"],
            "whole": {k: v for k, v in summary.items() if k != "conclusion"},
            "layers": [row_of(update) for update in updates],
            "notes": other.notes,
        }
        for name, other, updates, summary in zip(
            added.names[1:], added.others, added.updates, added.summaries, strict=True
        )
    ]
    return json.dumps({"updates": without_nan(rows)}, indent=2, allow_nan=False)


def row_of(update: Update) -> dict[str, Any]:
    """Return the values of an update: of its difference as a layer, and of `UPDATES`."""
    row = layer_row(update.layer)
    row = {k: v for k, v in row.items() if not k.startswith(("gof", "log_likelihood"))}
    for name, spec in UPDATES.items():
        if name == "side":
            continue
        value = value_of(update, name)
        if "side" in spec.dims:
            row |= {f"{name}_{side}": x for side, x in zip(SIDES, value, strict=True)}
        else:
            row[name] = value
    return row


def as_table(updates: Sequence[Update], width: int | None = None) -> list[str]:
    """Return the lines of the table of the matrices to which something was added; [] if none."""
    compared = [update for update in updates if update.kind not in ("", "none")]
    if not compared:
        return []
    styles = [_STYLES.get(update.kind, {}) for update in compared]
    names = [update.name for update in compared]
    return render(names, list(map(_cells, compared)), styles, _DROPPED, width)


def _cells(update: Update) -> dict[str, str]:
    found, layer = update.directions, update.layer
    at_least = ">= " * (update.kind == "unresolved")
    return {
        "shape": "x".join(map(str, layer.shape)),
        "rank": at_least + number(layer.rank, ".0f"),
        "stable rank": number(layer.stable_rank if layer.rank > 0 else math.nan, ".1f"),
        "effective rank": number(update.effective_rank, ".1f"),
        "relative": number(update.relative_norm, ".2g"),
        "spectrum": number(found.spectrum_change, ".2g"),
        "overlap": _sides(found.overlap, ".2f"),
        "chance": number(max(c.limit for c in found.overlap_chance), ".2f"),
        "in leading": _sides(found.leading_share, ".2f"),
        "chance of it": number(max(c.limit for c in found.leading_chance), ".2f"),
        "match": _sides(found.best_match, ".2f"),
        "new": _sides(found.n_intruders, ".0f"),
        "CKA": number(found.cka, ".2f"),
        "CKA chance": number(found.cka_chance, ".2f"),
        "update": update.kind,
    }


def _sides(values: tuple[float, float], form: str) -> str:
    return " ".join(number(value, form) for value in values)


def legend(updates: Sequence[Update], table: Sequence[str]) -> list[str]:
    """Return lines that explain the columns and the kinds in the table of the updates."""
    shown = {head.strip() for head in table[0].split("  ")} if table else set()
    kinds = {update.kind for update in updates} - {"none"}
    lines = [f"  {head}: {text}" for head, text in _LEGEND.items() if head in shown]
    return lines + [f"  {kind}: {text}" for kind, text in KINDS.items() if kind in kinds]


def summary_lines(updates: Sequence[Update], summary: Mapping[str, Any]) -> list[str]:
    """Return lines on roles and depths, on what was not compared, and the conclusion at the end."""
    lines = _roles(summary["roles"]) + _depths(summary["depths"])
    if same := [update.name for update in updates if update.kind == "none"]:
        lines.append(f"the same in both: {some(same)}")
    reasons: dict[str, list[str]] = {}
    for update in updates:
        if not update.kind:
            reasons.setdefault(update.layer.reason, []).append(update.name)
    lines += [f"not compared: {some(names)} ({why})" for why, names in reasons.items()]
    return [printable(line) for line in [*lines, summary["conclusion"]]]


def _roles(roles: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line with the share of the sum of all squared norms that each role has."""
    found = [
        f"{ROLES[role]} {of['share']:.0%} ({of['n_updated']} of {of['n']})"
        for role, of in roles.items()
        if of["n_updated"]
    ]
    return [f"where it is, by squared norm: {', '.join(found)}"] if found else []


def _depths(depths: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Return a line with the shares of the blocks, in thirds if there are many."""
    shares = [(depth, of["share"]) for depth, of in depths.items()]
    if len(shares) < 2 or not any(share > 0 for _, share in shares):
        return []
    if len(shares) <= 12:
        listed = ", ".join(f"{depth}: {share:.0%}" for depth, share in shares)
        return [f"by depth, {counted(len(shares), 'block')}: {listed}"]
    n = len(shares)
    parts = [shares[n * i // 3 : n * (i + 1) // 3] for i in range(3)]
    listed = ", ".join(
        f"{part[0][0]} to {part[-1][0]}: {sum(share for _, share in part):.0%}" for part in parts
    )
    return [f"by depth, {counted(n, 'block')}: {listed}"]
