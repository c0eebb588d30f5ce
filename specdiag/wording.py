"""Text for messages and tables: escaped, cut, counted."""

import math
from typing import Any


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
