"""The tables of the documentation are those that the stored results of the benchmarks give.

tests/transfer/test_collection.py and tests/recipes/test_behaviour.py check dataset.md and
simulation.md.
"""

import re

import pytest

from benchmarks import (
    _collapse_tables,
    _cost_tables,
    _transfer_tables,
    bars,
    calibration,
    claims,
    collection,
    compare,
    features,
    link,
    transfer,
)
from benchmarks._pages import DOCS
from benchmarks._results import FOLDER, read

PAGES = {
    "benchmarks.md": (
        "bars.csv",
        lambda: {
            **bars.tables(),
            **_cost_tables.tables(read("costs", ("kind", "name"))),
            "collection": collection.page(read("collection")),
        },
    ),
    "calibration.md": ("coverage.csv", calibration.tables),
    "claims.md": ("claims.csv", claims.tables),
    "collapse.md": (
        "collapse_runs.csv",
        lambda: _collapse_tables.tables(read("collapse_runs"), read("collapse")),
    ),
    "compare.md": ("compare.csv", compare.tables),
    "features.md": ("features.csv", features.tables),
    "link.md": ("link.csv", lambda: link.tables(link.measured_so_far())),
    "transfer.md": ("transfer.csv", lambda: _transfer_tables.tables(transfer.rows())),
}


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_a_page_are_made_of_the_stored_results(page):
    file, tables = PAGES[page]
    if not (FOLDER / file).exists():
        pytest.skip(f"no benchmarks/results/{file}: its benchmark has not stored results yet")
    marked = r"<!-- ([\w-]+) -->\n(.*?)\n?<!-- end -->"
    stored = dict(re.findall(marked, (DOCS / page).read_text(encoding="utf-8"), re.DOTALL))
    expected = tables()
    shown = {name: stored.get(name) for name in expected}  # tables of variables have other tests
    assert shown == expected, "run the benchmark with --write-docs"
