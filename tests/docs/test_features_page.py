"""docs/features.md: the command on the networks of docs/lockfile.md prints what the page shows."""

import re

import pytest

import specdiag
from specdiag.dataset.schema.features import COMPARED, FEATURES_SCHEMA
from specdiag.dataset.schema.variable import as_markdown
from support.commands import run_forked as run
from support.paths import ROOT

PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
DATASET = (ROOT / "docs" / "dataset.md").read_text(encoding="utf-8")
LOCK_PAGE = (ROOT / "docs" / "lockfile.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## On the command line") : PAGE.index("## Files of features")]
FILES = PAGE[PAGE.index("## Files of features") : PAGE.index("### How two are compared")]
DEPTH = PAGE[PAGE.index("## Depth profile") : PAGE.index("## The noise floor")]
TRAINED = ROOT / "checkpoints" / "desk" / "base" / "poyo_mp_converged.ckpt"

LAYERS = PAGE[PAGE.index("## Layers of any torch model") : PAGE.index("## On the command line")]


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


def test_the_files_of_the_page_are_compared_as_the_page_shows(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    exec(blocks(FILES, "python")[0], {})
    (command,) = blocks(FILES, "")
    status, out, _ = run(tmp_path, *command.split()[1:])
    assert status == 0
    (expected,) = blocks(FILES, "text")
    assert words(out[out.index("1: digits") :]) == words(expected)
    assert (tmp_path / "digits.svg").exists()
    assert specdiag.open_spectra(tmp_path / "digits.nc").sizes["comparison"] == 1


def test_the_page_lists_the_variables_of_the_dataset():
    for schema in (FEATURES_SCHEMA, COMPARED):
        assert as_markdown(schema) in DATASET, "run python -m benchmarks._pages"


@pytest.mark.realdata
def test_the_encoder_of_the_page_has_the_ranks_that_the_page_shows(minilm, capsys):
    pytest.importorskip("transformers")
    text = ROOT.joinpath("LICENSE").read_text(encoding="utf-8")
    sentences = [one for one in re.split(r"[.;:]\s", text) if len(one.split()) > 10][:40]
    exec(blocks(LAYERS, "python")[0], {"folder": minilm.parent, "sentences": sentences})
    (expected,) = blocks(LAYERS, "text")
    assert words(capsys.readouterr().out) == words(expected)


def words(text):
    """Return the words of a text; numbers with two digits, which rounding seldom changes."""
    return [f"{float(w):.2g}" if re.fullmatch(r"[\d.]+", w) else w for w in text.split()]


def rows(text):
    """Return the numbers in a table by layer: width, samples, effective samples, effective rank."""
    lines = [line.split() for line in text.splitlines()]
    found = [line for line in lines if line[4:] and line[1].isdigit()]
    return {line[0]: [float(n.replace(",", "")) for n in line[1:5]] for line in found}


@pytest.mark.slow
def test_the_layers_of_a_sentence_encoder_are_those_of_the_page(minilm, capsys):
    pytest.importorskip("transformers")
    pytest.importorskip("matplotlib.pyplot").switch_backend("agg")
    code, _ = blocks(DEPTH, "python")
    name = "sentence-transformers/all-MiniLM-L6-v2"
    assert name in code
    exec(compile(code.replace(name, str(minilm.parent)), "page", "exec"), {})
    printed, shown = rows(capsys.readouterr().out), rows(blocks(DEPTH, "text")[0])
    assert list(printed) == list(shown)
    for layer, (d, samples, _, rank) in shown.items():
        assert printed[layer][:2] == [d, samples]
        assert printed[layer][3] == pytest.approx(rank, rel=0.03)


@pytest.mark.slow
def test_the_classifier_of_the_page_collapses_to_its_classes_less_one(capsys):
    pytest.importorskip("torch")
    _, code = blocks(DEPTH, "python")
    exec(compile(code, "page", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    shown = blocks(DEPTH, "text")[1].splitlines()
    ratios = [[float(n) for n in line.split()[5:]] for line in (*printed, *shown)]
    for ours, pages in zip(ratios[:3], ratios[3:], strict=True):
        assert ours == pytest.approx(pages, rel=0.25)
    assert ratios[2][1:] == pytest.approx([4, 4, 4], rel=0.1)
    assert [line.split()[2] for line in printed[1:]] == ["0", "0"]


@pytest.mark.skipif(not TRAINED.exists(), reason="no trained desk checkpoints: run make demo")
def test_the_layers_of_the_base_are_those_of_the_page():
    command = blocks(DEPTH, "")[0].split()
    status, out, err = run(ROOT, *[word.strip("'") for word in command[1:]])
    assert status == 0, err
    printed, shown = rows(out), rows(blocks(DEPTH, "text")[2])
    assert {k: v[:2] for k, v in shown.items()} == {k: printed[k][:2] for k in shown}
