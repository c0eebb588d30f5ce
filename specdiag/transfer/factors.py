"""Entries of a lock -> the experimental factors of a collection, and distinct labels.

A recipe may write any params. This module knows the names that the recipes of this repository use;
with other names a factor is '' or NaN.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from specdiag.lock.entry import Entry
from specdiag.wording import numbered

# The decoded task, by a pattern in the names of sessions.
_TASKS = {
    "center_out": "center_out",
    "random_target": "random_target",
    "area2_bump": "area2_bump",
    "dmfc_rsg": "interval_timing",
    r"^(of|lt|ww|mmaze)_\d": "open_field",
}


def factors(entry: Entry, parent: Entry | None) -> dict[str, Any]:
    """Return the experimental factors of an entry, under their names in COLLECTION.

    An evaluation has the weights of its parent, so a factor that is missing in its own params, such
    as the seed, is taken from the parent.
    """
    is_evaluation = entry.kind == "evaluation"
    params = {**(parent.params if parent and is_evaluation else {}), **entry.params}
    return {
        "entry": entry.name,
        "parent": entry.parent.name if entry.parent else "",
        "recipe": entry.recipe,
        "scale": entry.scale,
        "group": entry.group,
        "task": _task(entry, params),
        "arm": "evaluation" if is_evaluation else _arm(entry),
        "unit_dropout": _text(params, "unit_dropout", "level"),
        "train_fraction": _number(params, "data", "train_fraction"),
        "seed": _number(params, "training", "seed"),
        "frozen_core": not is_evaluation and _text(params, "transfer", "core") == "frozen",
    }


def _arm(entry: Entry) -> str:
    """Return the arm of a transfer, given its start and its trained part; '' if unknown.

    Two arms start from scratch, with the same `transfer`. The one whose learning rate and budget
    were tuned has `_tuned` in its name, at the end or before a variation, such as
    `scratch_tuned_10`.
    """
    start, core = (_text(entry.params, "transfer", key) for key in ("start", "core"))
    if start == "random":
        return "scratch_tuned" if re.search(r"_tuned(_|$)", entry.name) else "scratch"
    if start == "parent":
        return "pretrained" if core == "frozen" else "plastic"
    return "" if entry.parent else "base"


def _task(entry: Entry, params: Mapping[str, Any]) -> str:
    """Return the decoded task by the sessions, else the simulated one, else the recordings."""
    sessions = _at(params, "data", "sessions")
    names = [str(name) for name in sessions] if isinstance(sessions, list) else []
    tasks = [task for key, task in _TASKS.items() if any(re.search(key, name) for name in names)]
    brainsets = [item.brainset for item in entry.inputs if item.brainset]
    return " + ".join(tasks) or _text(params, "simulation", "task") or " + ".join(brainsets)


def _at(params: Mapping[str, Any], *keys: str) -> Any:
    value: Any = params
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _text(params: Mapping[str, Any], *keys: str) -> str:
    value = _at(params, *keys)
    return value if isinstance(value, str) else ""


def _number(params: Mapping[str, Any], *keys: str) -> float:
    value = _at(params, *keys)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


def labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a distinct label for each entry, given its factors.

    The label is its name. Entries with the same name also get the scale, the seed or both, such as
    `base/net (seed 43)`; if these are equal, too, they are numbered.
    """
    texts = [{"scale": row["scale"], "seed": f"seed {row['seed']:g}"} for row in rows]
    values: dict[tuple[str, str], set[str]] = {}
    for row, text in zip(rows, texts, strict=True):
        for key, value in text.items():
            values.setdefault((row["entry"], key), set()).add(value)
    names = []
    for row, text in zip(rows, texts, strict=True):
        apart = [value for key, value in text.items() if len(values[row["entry"], key]) > 1]
        names.append(row["entry"] + f" ({', '.join(apart)})" * bool(apart))
    return numbered(names)
