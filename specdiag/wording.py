"""Text for messages and tables: escaped, cut, counted."""

import math
from typing import Any

_NAMES_SHOWN = 4


def printable(text: str) -> str:
    """Return `text` on one line: whatever is not printable is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(text: str, *, quote: bool = True, limit: int = 80) -> str:
    """Return `text` printable and cut to `limit` characters, for a message."""
    short = printable(text if len(text) <= limit else text[: limit - 3] + "...")
    return f"'{short}'" if quote else short


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line; an error of the system names its file first."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return printable(f"{error.filename}: {error.strerror}")
    text = "not enough memory" if isinstance(error, MemoryError) else type(error).__name__
    return printable(str(error) or text)


def without_nan(value: Any) -> Any:
    """Return the value, or what is nested in it, with None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_text(text: str) -> bool:
    """Tell whether `text` can be encoded: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def short(name: str, longest: int = 52) -> str:
    """Return a name on one line, printable: its end when it is long."""
    text = printable(name)
    return text if len(text) <= longest else f"…{text[1 - longest :]}"


def counted(n: int, noun: str) -> str:
    """Return a number of things, in words."""
    return f"{n} {noun}" + "s" * (n != 1)


def some(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def number(value: float, form: str) -> str:
    """Return a number in the given format, a dash for none."""
    return format(value, form) if math.isfinite(value) else "-"
