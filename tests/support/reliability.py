"""What the tests of the promises measured -> the table of docs/reliability.md.

    make reliability

runs tests/reliability, slow tests included, and writes the table.
"""

import json

from benchmarks._pages import DOCS, table, write_tables
from support.paths import ROOT

FOLDER = ROOT / "build" / "reliability"
PAGE = DOCS / "reliability.md"
HEADER = ("promise", "what the tests tried", "test")
# Each promise, by the name of its module in tests/reliability.
PROMISES = {
    "outputs": "Nothing is destroyed that specdiag did not make.",
    "containment": "Nothing is read or written outside of a lock's folder.",
    "programs": "Programs of a lock run only where the command says so.",
    "bounds": "Time and memory are bounded.",
    "mutants": "A damaged file ends in one line that names it.",
    "inputs": "Every command refuses every kind of invalid input in one line.",
    "kills": "After a kill or a full disk, each file is the old one or the new one.",
    "resume": "An interrupted training ends in the same bits.",
    "provenance": "A receipt says from what program a checkpoint was made.",
}


def record(promise: str, **numbers: float) -> None:
    """Keep what a test of a promise measured, by what it counts; spaces are written `_`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{promise}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | numbers, indent=1))


def tables() -> dict[str, str]:
    """Return the table of the page."""
    rows = []
    for promise, text in PROMISES.items():
        numbers = json.loads((FOLDER / f"{promise}.json").read_text())
        tried = ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in numbers.items())
        rows.append((text, tried, f"tests/reliability/test_{promise}.py"))
    return {"promises": table(HEADER, rows)}


if __name__ == "__main__":
    write_tables(PAGE, tables())
