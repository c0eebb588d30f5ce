"""Text for messages and tables: escaped, cut, counted."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

LEAST_P = 1e-5  # of the nulls: `specdiag.htsr.null.law`

# What a spreadsheet runs, at the start of a cell or behind what it may take for a separator. The
# wide signs are those that Excel takes for the narrow ones (OWASP, "CSV injection").
_FORMULA = re.compile(r"""((?:^|[,;|])[\s"]*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])""")


def printable(text: str) -> str:
    """Return `text` on one line, with every character escaped that is not printable."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_json(text: str) -> str:
    """Return JSON with escapes in place of all characters that are not printable; same content."""
    return re.sub(
        r"[^\n -~]", lambda c: c[0] if c[0].isprintable() else json.dumps(c[0])[1:-1], text
    )


def csv_cell(text: str) -> str:
    """Return text for a cell of CSV: printable, with an apostrophe before what would be a formula.

    A spreadsheet runs text that begins with = + - @, also behind another separator that it splits
    at. The text of a cell stays as it is when it is written again.
    """
    return _FORMULA.sub(r"\1'", printable(text))


def markdown_cell(text: str) -> str:
    """Return text for a cell of a table in Markdown: printable, and nothing in it is markup."""
    return re.sub(r"[\\`*\[\]<|&]", r"\\\g<0>", printable(text))


def shown(text: str, *, quote: bool = True, limit: int = 80) -> str:
    """Return `text` printable and in quotes for a message; of a long text only the beginning."""
    beginning = printable(text if len(text) <= limit else text[: limit - 3] + "...")
    return f"'{beginning}'" if quote else beginning


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, after the file that it concerns, if any."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return printable(where + error.strerror)
    text = "not enough memory" if isinstance(error, MemoryError) else type(error).__name__
    return printable(str(error) or text)


def without_nan(value: Any) -> Any:
    """Return the value with None for NaN and infinity, also in nested dicts and lists."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_text(text: str) -> bool:
    """Return whether `text` can be encoded: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def short(name: str, longest: int = 52) -> str:
    """Return a name printable on one line; of a long name only the end."""
    text = printable(name)
    return text if len(text) <= longest else f"…{text[1 - longest :]}"


def counted(n: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 layer`, `2 layers`, `2 matrices` (given that plural)."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def part(n: int, total: int, noun: str) -> str:
    """Return a part of some things with its verb: `3 of 5 layers are`, `1 of 5 layers is`."""
    return f"{n:,} of {counted(total, noun)} {'is' if 1 in (n, total) else 'are'}"


def tally(words: Iterable[str]) -> str:
    """Return how often each word occurs, in order of first occurrence: `3 ok, 1 missing`."""
    return ", ".join(f"{n:,} {word}" for word, n in Counter(words).items())


def some(names: Sequence[str], most: int = 4) -> str:
    """Return the first names, and how many more there are: `a, b, c, d and 3 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def accounting(counts: Mapping[str, int]) -> str:
    """Return the number of matrices and their statuses: `41 matrices: 37 measured, 4 skipped`.

    Parameters
    ----------
    counts : mapping of str to int
        Number of matrices of each status (fit, degenerate, skipped, failed), under that name or
        `n_` and that name. Zeros are left out.
    """
    statuses = ("fit", "degenerate", "skipped", "failed")
    numbers = {s: int(counts.get(s, counts.get(f"n_{s}", 0))) for s in statuses}
    words = {"fit": "measured"}
    parts = ", ".join(f"{n:,} {words.get(s, s)}" for s, n in numbers.items() if n)
    total = counted(sum(numbers.values()), "matrix", "matrices")
    return f"{total}: {parts}" if parts else total


def numbered(names: Sequence[str]) -> list[str]:
    """Return the names, equal ones with a number: `a, b#1, b#2`."""
    total = Counter(names)
    numbers = {name: count(1) for name in total}
    return [f"{name}#{next(numbers[name])}" if total[name] > 1 else name for name in names]


def number(value: float, form: str) -> str:
    """Return a number in the given format; a dash for NaN and infinity."""
    return format(value, form) if math.isfinite(value) else "-"


def p_value(p: float) -> str:
    """Return a p-value or an adjusted one with two digits, `0.012` or `1e-05`; a dash for NaN.

    It is never printed as 0: where the power of ten is so small that no test resolves it, it is a
    bound.
    """
    return "< 1e-05" if p < LEAST_P else number(p, ".2g")


def rounded_down(value: float) -> str:
    """Return a positive number with two digits, never rounded up: a lower bound, `3.0e+11`."""
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.floor(value / digit) * digit:.1e}"
