"""The tables of the documentation are those that the stored results of the benchmarks give.

Not here: compare.md, features.md and benchmarks.md, whose benchmarks have no stored results; dataset.md
and simulation.md, which test_collection.py and test_simulated_tasks.py make again.
"""

import re

import pytest

from benchmarks import (
    _calibration_page,
    _collapse_page,
    _transfer_page,
    claims,
    collapse,
    link,
    transfer,
)
from benchmarks._pages import DOCS

RESULTS = DOCS.parent / "benchmarks" / "results"
PAGES = {
    "calibration.md": ("coverage.csv", _calibration_page.tables),
    "claims.md": ("claims.csv", claims.tables),
    "collapse.md": (
        "collapse_runs.csv",
        lambda: _collapse_page.tables(
            *(collapse.rows_of(RESULTS / f"{name}.csv") for name in ("collapse_runs", "collapse"))
        ),
    ),
    "link.md": ("link.csv", lambda: link.tables(link.read())),
    "transfer.md": ("transfer.csv", lambda: _transfer_page.tables(transfer.rows())),
}


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_a_page_are_made_of_the_stored_results(page):
    file, tables = PAGES[page]
    if not (RESULTS / file).exists():
        pytest.skip(f"no benchmarks/results/{file}: its benchmark has not stored results yet")
    marked = r"<!-- ([\w-]+) -->\n(.*?)\n?<!-- end -->"
    stored = dict(re.findall(marked, (DOCS / page).read_text(encoding="utf-8"), re.DOTALL))
    assert stored == tables(), "run the benchmark with --write-docs"
