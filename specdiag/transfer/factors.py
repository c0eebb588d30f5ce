"""Entries of a lock -> the experimental factors of a collection, and labels that tell the entries apart.

Params are whatever a recipe wrote there. What is known here are the names that the recipes of this
repository use; elsewhere a factor is '' or NaN.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from specdiag.lock.entry import Entry
from specdiag.wording import numbered

# What is decoded from a recording, by what the names of sessions contain.
_TASKS = {
    "center_out": "center_out",
    "random_target": "random_target",
    "area2_bump": "area2_bump",
    "dmfc_rsg": "interval_timing",
    r"^(of|lt|ww|mmaze)_\d": "open_field",
}


def factors(entry: Entry, parent: Entry | None) -> dict[str, Any]:
    """Return what an experiment varies, under the names of `specdiag.dataset.schema.COLLECTION`.

    Parameters
    ----------
    entry : Entry
    parent : Entry or None
        Where an evaluation says nothing of its own, such as the seed, its parent's params hold: it has
        its weights.
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
    """Return the arm of a transfer, by what it starts from and what it trains; '' when that is unknown.

    From scratch there are two, with the same `transfer`: the one with a budget of its own has
    `_tuned` in its name, at the end or before what varies: `scratch_tuned_10`.
    """
    start, core = (_text(entry.params, "transfer", key) for key in ("start", "core"))
    if start == "random":
        return "scratch_tuned" if re.search(r"_tuned(_|$)", entry.name) else "scratch"
    if start == "parent":
        return "pretrained" if core == "frozen" else "plastic"
    return "" if entry.parent else "base"


def _task(entry: Entry, params: Mapping[str, Any]) -> str:
    """Return what is decoded, by the sessions; else what is simulated, else the recordings' name."""
    sessions = _at(params, "data", "sessions")
    names = [str(name) for name in sessions] if isinstance(sessions, list) else []
    found = [task for key, task in _TASKS.items() if any(re.search(key, name) for name in names)]
    brainsets = [item.brainset for item in entry.inputs if item.brainset]
    return " + ".join(found) or _text(params, "simulation", "task") or " + ".join(brainsets)


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


def labels(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a label for each entry, given its factors: its name, with what sets it apart from its like.

    That is the scale, or the seed, or both, such as `base/net (seed 43)`; else a number.
    """
    texts = [{"scale": one["scale"], "seed": f"seed {one['seed']:g}"} for one in found]
    values: dict[tuple[str, str], set[str]] = {}
    for one, text in zip(found, texts, strict=True):
        for key, value in text.items():
            values.setdefault((one["entry"], key), set()).add(value)
    long = []
    for one, text in zip(found, texts, strict=True):
        apart = [value for key, value in text.items() if len(values[one["entry"], key]) > 1]
        long.append(one["entry"] + f" ({', '.join(apart)})" * bool(apart))
    return numbered(long)
