"""The page of networks shows the tables that the tests compare with."""

import re

from support.golden import CASES, NETWORKS, PAGE, read_table, tables


def test_the_page_shows_the_stored_tables():
    marked = r"<!-- ([\w-]+) -->\n(.*?)\n?<!-- end -->"
    stored = dict(re.findall(marked, PAGE.read_text(encoding="utf-8"), re.DOTALL))
    assert stored == tables(), "make golden"


def test_every_network_has_a_row():
    assert set(read_table("packages")) == set(NETWORKS)
    assert set(read_table("made")) == set(CASES)
