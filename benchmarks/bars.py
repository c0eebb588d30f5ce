"""Every bar of time and memory, in one run: paired, medians, missed ones marked.

    python -m benchmarks.bars model.safetensors [--only GROUP ...] [--write-docs]

`--write-docs` keeps the rows of the groups that were run in benchmarks/results/bars.csv, and writes
the table of docs/benchmarks.md from it. Takes about half an hour on two busy cores.
"""

import argparse
import math

from benchmarks import cores, engine, peak, processes
from benchmarks._pages import DOCS, write_tables
from benchmarks._results import read, write
from benchmarks._timing import Measured, as_table

GROUPS = {
    "processes": lambda o: processes.rows(o.file, o.pairs, o.diffract),
    "engine": lambda o: engine.rows(o.file, o.pairs),
    "cores": lambda _: cores.rows(),
    "peak": lambda _: peak.rows(),
}
TEXT = ("group", "what", "note")


def store(group, rows):
    """Write the rows of a group in place of its earlier ones."""
    kept = [row for row in read("bars", TEXT) if row["group"] != group]
    lines = [{"group": group, **vars(row), "at_least": int(row.at_least)} for row in rows]
    order = list(GROUPS)
    write("bars", sorted(kept + lines, key=lambda row: order.index(row["group"])), digits=4)


def tables():
    """Return the table of docs/benchmarks.md."""
    rows = [
        Measured(
            **{k: v for k, v in row.items() if k != "group"} | {"at_least": row["at_least"] > 0}
        )
        for row in read("bars", TEXT)
    ]
    return {"bars": as_table(rows)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="MiniLM, as safetensors")
    parser.add_argument("--only", nargs="*", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--diffract", help="interpreter that has diffract-core and safetensors")
    parser.add_argument("--write-docs", action="store_true", help="the table of docs/benchmarks.md")
    options = parser.parse_args()
    for group in options.only:
        rows = []
        for row in GROUPS[group](options):
            print(f"| {' | '.join(row.cells())} |", flush=True)
            rows.append(row)
        if options.write_docs:
            store(group, rows)
        missed = sum(row.result == "missed" for row in rows)
        bars = sum(not math.isnan(row.bar) for row in rows)
        print(f"{group}: {missed} of {bars} bars missed", flush=True)
    if options.write_docs:
        write_tables(DOCS / "benchmarks.md", tables())


if __name__ == "__main__":
    main()
