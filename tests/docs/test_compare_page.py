"""docs/compare.md and docs/definitions.md on updates: examples run, and no option is left out."""

import contextlib
import inspect
import io
import logging
import re
import warnings

import numpy as np
import pytest

import specdiag
from specdiag.comparison.updates.rounding import KINDS
from specdiag.dataset.schema.updates import UPDATES
from support.paths import ROOT

PAGE = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
DEFINITIONS = (ROOT / "docs" / "definitions.md").read_text(encoding="utf-8")
ADDED = PAGE[PAGE.index("## What was added") : PAGE.index("## Layer by layer")]


def test_the_example_prints_what_the_page_shows(minilm, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", ADDED, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", ADDED, re.DOTALL)
    monkeypatch.chdir(minilm.parent)
    exec(compile(code, "docs/compare.md", "exec"), {})
    assert capsys.readouterr().out.split() == shown.split()


@pytest.mark.parametrize("name", UPDATES)
def test_every_variable_and_kind_is_on_the_page(name):
    stem = re.sub("_(expected|limit)$", "", name)
    assert f"`{stem}`" in ADDED or name == "side"
    assert all(f"`{kind}`" in ADDED for kind in KINDS)


@pytest.fixture(scope="module")
def weightwatcher():
    pytest.importorskip("weightwatcher")
    filters, level = list(warnings.filters), logging.getLogger().level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import weightwatcher

        yield weightwatcher.WeightWatcher
    warnings.filters[:] = filters
    logging.getLogger().setLevel(level)


def test_every_option_of_weightwatcher_is_in_the_table(weightwatcher):
    start = DEFINITIONS.index("## WeightWatcher's options")
    table = DEFINITIONS[start : DEFINITIONS.index("## WeightWatcher's columns")]
    options = {
        name
        for method in ("analyze", "describe", "distances", "SVDSmoothing", "SVDSharpness")
        for name in inspect.signature(getattr(weightwatcher, method)).parameters
    } - {"self", "model_1", "model_2"}
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]*`", table))))
    assert sorted(options - words) == []


def test_distances_of_weightwatcher_are_those_of_delta(weightwatcher, rng):
    A, B = rng.normal(size=(2, 80, 60))
    row = specdiag.delta({"fc.weight": A}, {"fc.weight": B}).isel(checkpoint=0, layer=0)
    distance = weightwatcher.matrix_distance
    theirs = distance(None, A, B, "euclidean")
    assert row.relative_norm.item() * np.linalg.norm(A) == pytest.approx(theirs)
    assert row.cka.item() == pytest.approx(distance(None, A.T, B.T, "cka") ** 2)
