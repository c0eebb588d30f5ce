"""The commands of docs/lockfile.md print the output that the page shows."""

import json
import re

import pytest

from support.commands import run, states
from support.paths import ROOT

PAGE = ROOT / "docs" / "lockfile.md"
RECIPE = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
STEPS = re.findall(r"```\nspecdiag (.*?)\n```\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "net.py").write_text(RECIPE)
    return tmp_path


def test_the_commands_of_the_tutorial_print_what_it_shows(folder):
    assert [command for command, _ in STEPS] == ["lock --init", "train --missing", "list"]
    for command, expected in STEPS:
        status, out, _ = run(folder, *command.split())
        assert (status, out) == (0, expected)
    status, out, _ = run(folder, "compare", "base", "tuned")
    assert status == 0
    assert out.splitlines()[-2] == (
        "same spectrum by construction: the one measured matrix is bit-identical, so no alpha can "
        "differ; what differs: out"
    )
    recipe = folder / "recipes" / "net.py"
    recipe.write_text(RECIPE.replace('"steps": 1000', '"steps": 900'))
    assert run(folder, "lock")[1] == (
        "changed base (desk): params.steps; its record is dropped\n"
        "changed tuned (desk): parent; its record is dropped\n"
    )
    assert states(folder) == {"base": "stale", "tuned": "ok"}
    run(folder, "train", "base")
    assert states(folder) == {"base": "ok", "tuned": "stale"}


def test_the_notebook_is_stored_without_outputs():
    cells = json.loads(PAGE.with_name("tutorial.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert [(c["outputs"], c["execution_count"]) for c in code] == [([], None)] * len(code)
