"""Folders, modules and functions stay small enough to be read at once."""

import ast

import pytest

from support.paths import ROOT

SOURCES = [p for top in ("specdiag", "recipes", "figures") for p in (ROOT / top).rglob("*.py")]
FOLDERS = sorted({p.parent for p in SOURCES})
MODULES, LINES, BODY = 10, 350, 50


def name(path):
    return str(path.relative_to(ROOT))


def functions(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node):
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            yield node.name, lines


@pytest.mark.parametrize("folder", [f for f in FOLDERS if f.name != "recipes"], ids=name)
def test_a_folder_has_at_most_ten_modules(folder):
    assert len([p for p in folder.glob("*.py") if p.name[:2] != "__"]) <= MODULES


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_module_and_its_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    assert {f: lines for f, lines in functions(ast.parse(text)) if lines > BODY} == {}


@pytest.mark.parametrize(
    "path",
    [p for p in (ROOT / "specdiag").rglob("__init__.py") if p.parent.parent != ROOT],
    ids=name,
)
def test_a_package_holds_a_docstring_and_nothing_else(path):
    (docstring,) = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(docstring.value.value, str)
