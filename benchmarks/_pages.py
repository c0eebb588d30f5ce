"""Rows -> tables of a documentation page, written between its markers."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def table(header, rows):
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def table_of(rows):
    """Return a Markdown table of dicts with the same keys, or '' if there are none."""
    return table(list(rows[0]), [row.values() for row in rows]) if rows else ""


def write_tables(page, tables):
    """Replace the text between `<!-- NAME -->` and `<!-- end -->` for each table of a page."""
    text = page.read_text(encoding="utf-8")
    for name, content in tables.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, n = marked.subn(lambda m, content=content: f"{m[1]}{content}\n{m[2]}", text)
        if n != 1:
            raise ValueError(f"{page.name} has {n} places for the table {name}; expected one")
    page.write_text(text, encoding="utf-8")


def main():
    """Write the tables of variables into docs/dataset.md."""
    from specdiag.dataset.schema.collection import COLLECTION
    from specdiag.dataset.schema.features import COMPARED, FEATURES_SCHEMA
    from specdiag.dataset.schema.layers import SCHEMA
    from specdiag.dataset.schema.variable import as_markdown

    tables = {"schema": as_markdown(SCHEMA), "collection": as_markdown(COLLECTION)}
    tables |= {"features": as_markdown(FEATURES_SCHEMA), "compared": as_markdown(COMPARED)}
    write_tables(DOCS / "dataset.md", tables)


if __name__ == "__main__":
    main()
