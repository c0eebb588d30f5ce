"""docs/lockfile.md explains every key of the lock, and the networks of its recipe learn."""

import re
import runpy
from dataclasses import fields

import numpy as np
import pytest

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.lock import entry as classes
from specdiag.lock.entry import Lock
from specdiag.lock.lockfile import dumps, loads
from specdiag.lock.recipe import Job
from specdiag.lock.resolve import resolve
from support.paths import ROOT

DOCUMENT = (ROOT / "docs" / "lockfile.md").read_text()


def test_the_documentation_explains_every_key_of_the_lock():
    table = DOCUMENT[DOCUMENT.index("| `name`") : DOCUMENT.index("\nValues of one")].strip()
    explained = {
        k for row in table.splitlines() for k in re.findall(r"`([\w.]+)`", row.split("|")[1])
    }
    parts = {"parent": "Parent", "inputs": "Input", "source": "Source", "file": "FileRecord"}
    parts |= {"metrics.NAME": "Metric", "reported": "Reported", "cost": "Cost"}
    keys = {f"{k}.{f.name}" for k, cls in parts.items() for f in fields(getattr(classes, cls))}
    own = {f.name for f in fields(classes.Entry)} - {"parent", "inputs", "source", "file"}
    assert explained == keys | own - {"metrics", "reported", "cost"}


@pytest.fixture
def tutorial(tmp_path):
    """The entries of the recipe in the documentation, and a function that builds one."""
    path = tmp_path / "net.py"
    path.write_text(re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[1])
    recipe = runpy.run_path(str(path))

    def build(entry, steps=None):
        folder = tmp_path / entry.name
        folder.mkdir(exist_ok=True)
        parent = entry.parent and tmp_path / entry.parent.name / "weights"
        job = Job(
            name=entry.name,
            scale=entry.scale,
            params=entry.params | ({"steps": steps} if steps else {}),
            parent=parent,
            inputs={},
            folder=folder,
            output=folder / "weights",
        )
        return recipe["build"](job), open_checkpoint(job.output)

    return loads(dumps(resolve(Lock(), recipe["entries"]())[0])).entries, build


def test_the_recipe_of_the_tutorial_learns_and_its_child_keeps_the_first_layer(tutorial):
    (base, child), build = tutorial
    trained, weights = build(base)
    tuned, tuned_weights = build(child)
    assert trained["r2"][0] > 0.9
    assert tuned["r2"][0] > 0.3
    first = [w.tensors[0] for w in (weights, tuned_weights)]
    assert [tensor.name for tensor in first] == ["in.weight", "in.weight"]
    np.testing.assert_array_equal(*(tensor.read() for tensor in first))


def test_the_recipe_of_the_tutorial_resumes_where_it_stopped(tutorial, tmp_path):
    (base, _), build = tutorial
    whole, _ = build(base)
    for path in (tmp_path / "base").iterdir():
        path.unlink()
    build(base, steps=250)
    assert build(base)[0] == whole
