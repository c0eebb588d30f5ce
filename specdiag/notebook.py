"""A dataclass -> an HTML table for notebooks."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from html import escape
from typing import Any

import numpy as np

from specdiag.wording import printable

MAX_ITEMS, MAX_CHARACTERS = 8, 200  # of each value


def record_html(record: Any) -> str:
    """Return an HTML table of the fields of a dataclass: name, value and meaning.

    The meaning is that of the section Attributes of the docstring. All text is escaped, because
    names in a checkpoint can contain markup.
    """
    meanings = _meanings(type(record).__doc__ or "")
    rows = [("field", "value", "meaning")]
    for name in (field.name for field in fields(record)):
        # A record may have the text of a field in a property NAME_text.
        value = getattr(record, f"{name}_text", getattr(record, name))
        rows.append((name, _text(value), meanings.get(name, "")))
    lines = ["".join(f"<td>{escape(printable(cell))}</td>" for cell in row) for row in rows]
    lines[0] = lines[0].replace("td>", "th>")
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<b>{type(record).__name__}</b><table>{body}</table>"


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        ends = f" from {value[0]:.4g} to {value[-1]:.4g}" if value.size else ""
        return f"{value.size} values{ends}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple | Mapping):
        more = f", … ({len(value)})" * (len(value) > MAX_ITEMS)
        return ", ".join(_text(item) for item in [*value][:MAX_ITEMS]) + more
    text = str(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"


def _meanings(doc: str) -> dict[str, str]:
    """Return the text of the section Attributes of a docstring, by field."""
    section = inspect.cleandoc(doc).partition("Attributes\n----------\n")[2]
    entries = re.findall(r"^(\w[\w, ]*?)(?: : .*)?\n((?: +.*\n?)*)", f"{section}\n", re.MULTILINE)
    return {name: " ".join(about.split()) for names, about in entries for name in names.split(", ")}
