"""Rows of text -> aligned columns for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from specdiag.wording import printable, shown

_LONGEST_NAME = 200  # characters, in a table that is not for a terminal
_SHORTEST_NAME = 8


def aligned(rows: Sequence[Sequence[str]], alignment: str = "<") -> list[str]:
    """Return the rows as lines, their columns two spaces apart.

    Parameters
    ----------
    rows : sequence of sequence of str
        All of one length; cells are made printable.
    alignment : str
        A character for each column, `<` for left and `>` for right. The last character also
        applies to all further columns.
    """
    columns = []
    for i, cells in enumerate(zip(*rows, strict=True)):
        column = [printable(cell) for cell in cells]
        side = alignment[min(i, len(alignment) - 1)]
        width = max(map(len, column))
        columns.append([f"{cell:{side}{width}}" for cell in column])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def render(
    names: Sequence[str],
    cells: Sequence[Mapping[str, str]],
    styles: Sequence[Mapping[str, Any]],
    droppable: Sequence[tuple[set[str], int]],
    width: int | None,
) -> list[str]:
    """Return the lines of a table of matrices: a header, a rule, and a row for each matrix.

    Parameters
    ----------
    names : sequence of str
        Names of the matrices.
    cells : sequence of mapping of str to str
        The other cells of each row, by column: words in the last column, numbers in the others.
    styles : sequence of mapping
        Arguments of `click.style` for each row.
    droppable : sequence of (set of str, int)
        If the table is too wide, these sets of columns are dropped one after another, until the
        names have room for so many characters. Then the names are shortened.
    width : int, optional
        Columns of the terminal; None keeps the whole table.
    """
    names = [shown(name, quote=False, limit=_LONGEST_NAME) for name in names]
    taken = {column: max(len(column), *(len(row[column]) for row in cells)) for column in cells[0]}
    longest = max(len("matrix"), *map(len, names))
    room, columns = longest, list(taken)
    for dropped, needed in ((set[str](), longest), *droppable):
        columns = [column for column in columns if column not in dropped]
        if width is None:
            break
        room = min(longest, width - sum(2 + taken[column] for column in columns))
        if room >= min(needed, longest):
            break
    rows = [
        [_shortened(name, room), *(row[column] for column in columns)]
        for name, row in zip(names, cells, strict=True)
    ]
    alignment = "<" + ">" * (len(columns) - 1) + "<"
    header, *lines = aligned([["matrix", *columns], *rows], alignment)
    rule = "-" * max(map(len, (header, *lines)))
    return [header, rule, *(click.style(x, **s) for x, s in zip(lines, styles, strict=True))]


def _shortened(name: str, room: int) -> str:
    """Return a name that fits: without .weight, its words cut to three letters from the left."""
    room = max(room, _SHORTEST_NAME)
    words = name.removesuffix(".weight").split(".") if len(name) > room else [name]
    for i, word in enumerate(words):
        if len(".".join(words)) <= room:
            break
        words[i] = word[:3]
    short = ".".join(words)
    return short if len(short) <= room else f"…{short[1 - room :]}"
