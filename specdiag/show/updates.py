"""Updates of networks -> tables and sentences for people, JSON for machines."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from specdiag.comparison.updates.adapters import AdapterUpdate
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


def adapter_row(
    adapter: Sequence[AdapterUpdate], added: tuple[Sequence[Update], Mapping[str, Any]] | None
) -> dict[str, Any]:
    """Return the values of an adapter for JSON; without its base, what it adds to that is None."""
    row: dict[str, Any] = {"ranks": [asdict(update) for update in adapter]}
    if added is None:
        return row | {"conclusion": None, "whole": None, "updates": None}
    updates, summary = added
    whole = {k: v for k, v in summary.items() if k != "conclusion"}
    rows = [row_of(update) for update in updates]
    return row | {"conclusion": summary["conclusion"], "whole": whole, "updates": rows}


def adapter_lines(adapter: Sequence[AdapterUpdate], width: int | None = None) -> list[str]:
    """Return the table of an adapter, and lines that sum it up."""
    cells = [
        {
            "shape": "x".join(map(str, update.shape)),
            "r": number(update.max_rank, ".0f"),
            "rank": number(update.rank, ".0f"),
            "effective rank": number(update.effective_rank, ".1f"),
            "stable rank": number(update.stable_rank, ".1f"),
            "noise rank": number(update.noise_rank, ".0f"),
            "norm": number(update.frobenius_norm, ".3g"),
            "adapter": update.kind + ", dead" * (update.rank == 0),
        }
        for update in adapter
    ]
    styles = [{"fg": "yellow"} if update.rank == 0 else {} for update in adapter]
    dropped = (({"stable rank", "norm"}, 24), ({"shape"}, 8))
    table = render([update.name for update in adapter], cells, styles, dropped, width)
    legend = "  noise rank: directions of the factor that began as zeros that noise would have, too"
    lines = [*table, legend, _about_adapter(adapter)]
    if failed := [f"{update.name} ({update.reason})" for update in adapter if update.reason]:
        lines.append(f"not measured: {some(failed)}")
    return [printable(line) if i >= len(table) else line for i, line in enumerate(lines)]


def _about_adapter(adapter: Sequence[AdapterUpdate]) -> str:
    measured = [update for update in adapter if not math.isnan(update.rank)]
    used = [update for update in measured if update.rank]
    dead = [update.name for update in measured if not update.rank]
    kinds = ", ".join(dict.fromkeys(update.kind for update in adapter))
    parts = [f"adapter of {counted(len(adapter), 'update')} ({kinds})"]
    if used:
        parts.append(f"rank used {_range(used, lambda u: u.rank, '.0f')} of")
        parts[-1] += f" {_range(used, lambda u: u.max_rank, '.0f')}"
        parts.append(f"effective rank {_range(used, lambda u: u.effective_rank, '.1f')}")
        noise = [update for update in used if not math.isnan(update.noise_rank)]
        if noise:
            whole = sum(update.noise_rank == update.rank for update in noise)
            parts.append(f"noise rank {_range(noise, lambda u: u.noise_rank, '.0f')}")
            parts.append(f"nothing but noise in {whole} of {len(noise)}")
    parts.append(f"dead (nothing is added): {some(dead) if dead else 'none'}")
    return ", ".join(parts)


def _range(
    adapter: Sequence[AdapterUpdate], value: Callable[[AdapterUpdate], float], form: str
) -> str:
    """Return the median of values and, if they differ, the smallest and the largest one."""
    values = np.array([value(update) for update in adapter])
    low, high = (number(float(x), form) for x in (values.min(), values.max()))
    middle = number(float(np.median(values)), form)
    return middle if low == high else f"{middle} ({low} to {high})"
