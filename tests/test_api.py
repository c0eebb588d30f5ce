"""Public names of the package, deprecated ones, and what type checkers see of both."""

import ast
import inspect
import re
import subprocess
import sys
from importlib.metadata import version

import pytest

import specdiag
from support.paths import ROOT

PACKAGES = ("drawing", "show")


def test_every_public_name_can_be_imported():
    for name in set(specdiag.__all__) - {*PACKAGES, "plot", "__version__"}:
        assert callable(getattr(specdiag, name))
    assert all(callable(getattr(specdiag.plot, name)) for name in specdiag.plot.__all__)
    assert specdiag.__version__ == version("specdiag")
    assert dir(specdiag) == specdiag.__all__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'specdiag' has no attribute 'nonsense'"):
        specdiag.nonsense  # noqa: B018


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "specdiag" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {alias.asname: node.module for node in block.body for alias in node.names}
    assert homes == {name: f"specdiag.{home}" for name, home in specdiag._HOME.items()}
    assert (ROOT / "specdiag" / "py.typed").is_file()


@pytest.mark.parametrize(
    ("old", "new"), [("save", "save_spectra"), ("rank_gate", "resolved_eigenvalues")]
)
def test_an_old_name_works_and_names_the_new_one(old, new):
    with pytest.warns(
        DeprecationWarning, match=f"^specdiag.{old} is deprecated; use specdiag.{new}$"
    ):
        assert callable(getattr(specdiag, old))


def test_drawings_and_the_report_are_reached_without_an_import_of_their_own():
    code = (
        "import specdiag as s; s.show.report.report; s.drawing.esd.plot; s.plot.esd; print('there')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "there\n", "")


def test_every_public_name_is_described_on_the_page_of_the_documentation():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    names = [*set(specdiag.__all__) - {*PACKAGES, "plot", "__version__"}]
    names += [f"plot.{name}" for name in specdiag.plot.__all__]
    missing = [n for n in names if f":: specdiag.{n}\n" not in page]
    assert missing == []


def test_every_record_that_a_public_function_returns_is_described_there_too():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    functions = [getattr(specdiag, n) for n in {*specdiag._HOME}]
    returned = [str(inspect.signature(function).return_annotation) for function in functions]
    records = {name for text in returned for name in re.findall(r"specdiag\.[\w.]+", text)}
    assert {r for r in records if f"autoclass:: {r}\n" not in page} == set()
    assert records


@pytest.mark.parametrize(
    "arguments",
    [
        {"split": "a.weight=2"},
        {"split": ["a.weight=2"]},
        {"layers": ["a*"]},
        {"which": 3},
    ],
)
def test_arguments_of_a_wrong_type_are_named(arguments, rng):
    network = {"a.weight": rng.standard_normal((60, 60))}
    (name,) = arguments

    with pytest.raises(ValueError, match=f"^{name} is .*: expected"):
        specdiag.alpha(network, **arguments)
    with pytest.raises(ValueError, match=f"^{name} is .*: expected"):
        specdiag.compare(network, network, **arguments)


def test_an_empty_list_is_no_checkpoint():
    with pytest.raises(ValueError, match="needs at least one checkpoint"):
        specdiag.alpha([])
