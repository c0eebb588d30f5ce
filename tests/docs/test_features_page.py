"""docs/features.md: the command on the networks of docs/lockfile.md prints what the page shows."""

import re

from support.commands import run_forked as run
from support.paths import ROOT

PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
LOCK_PAGE = (ROOT / "docs" / "lockfile.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## On the command line") : PAGE.index("## Fields of the result")]


def blocks(text, kind):
    """Return the contents of the fenced blocks of a kind, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [content for which, content in found if which == kind]


def test_the_recipe_of_the_page_measures_what_the_page_shows(tmp_path):
    recipe = blocks(LOCK_PAGE, "python")[0] + "\n\n" + blocks(SECTION, "python")[0]
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "net.py").write_text(recipe)
    assert run(tmp_path, "lock", "--init")[0] == 0
    assert run(tmp_path, "train", "--all")[0] == 0
    command = blocks(SECTION, "")[1].split()
    assert command[:2] == ["specdiag", "features"]
    status, out, err = run(tmp_path, *command[1:])
    assert (status, err) == (0, "")
    (expected,) = blocks(SECTION, "text")
    assert words(out) == words(expected)


def words(text):
    """Return the words of a text; numbers with two digits, which rounding seldom changes."""
    return [f"{float(w):.2g}" if re.fullmatch(r"[\d.]+", w) else w for w in text.split()]
