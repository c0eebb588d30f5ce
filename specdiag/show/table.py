"""Aligned columns for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from specdiag.wording import shown as shown_name

_LONGEST_NAME = 200  # characters in a table that is not for a terminal


def render(
    names: Sequence[str],
    cells: Sequence[Mapping[str, str]],
    styles: Sequence[Mapping[str, Any]],
    droppable: Sequence[tuple[set[str], int]],
    width: int | None,
) -> list[str]:
    """Return the lines of a table: a header, and a row a matrix.

    Parameters
    ----------
    names : sequence of str
        Of the matrices.
    cells : sequence of mapping of str to str
        The other cells of each row by column; words in the last column, numbers in the others.
    styles : sequence of mapping
        Of each row, for `click.style`.
    droppable : sequence of (set of str, int)
        Columns that a table which is too wide does without, in this order, until names have that much
        room; then names are shortened.
    width : int, optional
        Columns of the terminal.
    """
    names = [shown_name(name, quote=False, limit=_LONGEST_NAME) for name in names]
    taken = {name: max(len(name), *(len(row[name]) for row in cells)) for name in cells[0]}
    longest = max(len("matrix"), *map(len, names))
    room, shown = longest, list(taken)
    for dropped, needed in droppable:
        shown = [name for name in shown if name not in dropped]
        if width is None:
            break
        room = min(longest, width - sum(2 + taken[name] for name in shown))
        if room >= min(needed, longest):
            break

    def line(name: str, row: Mapping[str, str]) -> str:
        numbers = [row[column].rjust(taken[column]) for column in shown[:-1]]
        return "  ".join([_shortened(name, room).ljust(room), *numbers, row[shown[-1]]])

    rows = [
        click.style(line(name, row), **style)
        for name, row, style in zip(names, cells, styles, strict=True)
    ]
    header = line("matrix", {name: name for name in taken})
    return [header, "-" * (len(header) - len(shown[-1]) + taken[shown[-1]]), *rows]


def _shortened(name: str, room: int) -> str:
    """Return a name that fits: without .weight, its words cut to three letters from the left."""
    room = max(room, 8)
    words = name.removesuffix(".weight").split(".") if len(name) > room else [name]
    for i, word in enumerate(words):
        if len(".".join(words)) <= room:
            break
        words[i] = word[:3]
    short = ".".join(words)
    return short if len(short) <= room else f"…{short[1 - room :]}"
