"""The commands of the tutorial in docs/recipe.md print the output that it shows."""

import re
import shutil

import pytest

from support.commands import run, states
from support.paths import ROOT

TEXT = (ROOT / "docs" / "recipe.md").read_text()
RECIPE = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1]
STEPS = re.findall(r"```\nspecdiag (.*?)\n```\n\n```text\n(.*?)```", TEXT, re.DOTALL)
NAMES = {"mine/two_days", "mine/frozen", "mine/scratch"}

pytest.importorskip("lightning")
pytest.importorskip("torch_brain")


def without_digits(text):
    """Return the output of a command without R², which depends on the length of a training."""
    return re.sub(r" +-?\d\.\d{3,4} *", " R ", text)


@pytest.fixture
def clone(tmp_path):
    """The recipes and the lock of this repository, and the recipe of the page with few steps."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copy(ROOT / "checkpoints.lock", tmp_path)
    short = re.sub(r"steps=\d+", "steps=4", RECIPE).replace("SECONDS = 300", "SECONDS = 60")
    (tmp_path / "recipes" / "mine.py").write_text(short)
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_tutorial_print_the_output_that_it_shows(clone):
    assert [command for command, _ in STEPS] == ["lock", "train --group mine", "list --group mine"]
    for command, expected in STEPS:
        status, out, _ = run(clone, *command.split())
        assert (status, without_digits(out)) == (0, without_digits(expected))
    assert {name for name, state in states(clone).items() if state == "ok"} == NAMES
    status, out, _ = run(clone, "compare", "mine/two_days", "mine/frozen")
    assert status == 0
    assert out.splitlines()[-2] in TEXT
    assert "features mine/frozen --layers '*'" in TEXT
    before = {path: path.read_bytes() for path in clone.rglob("*.ckpt*") if path.is_file()}
    status, out, _ = run(clone, "features", "mine/frozen", "--layers", "*")
    assert status == 0
    layers = [line.split()[0] for line in out.splitlines()[3:6]]
    assert layers == ["enc_atn.to_q", "enc_atn.to_kv", "enc_atn.to_out"]
    read, ran = (
        run(clone, "features", "mine/frozen", *more)[1].splitlines()[1].split(";")[0]
        for more in ((), ("--layer", "readout"))
    )
    assert read == ran
    assert {path: path.read_bytes() for path in before} == before


def test_an_entry_whose_recording_is_missing_fails_alone_and_leaves_no_file(clone):
    recipe = clone / "recipes" / "mine.py"
    changed = recipe.read_text().replace("\nTHIRD = ", "\nTHIRD = SIMULATED = ")
    changed += (
        "\n\nfrom dataclasses import replace\n\nTHIRD = replace(SIMULATED, simulation=None)\n"
    )
    recipe.write_text(changed)
    assert run(clone, "lock")[0] == 0
    status, out, err = run(clone, "train", "mine/scratch")
    session, brainset = "c_20131023_center_out_reaching", "perich_miller_population_2018"
    folder = clone / "recordings"
    message = out.partition("/recordings.py:")[2].partition(": ")[2]
    assert message == (
        f"{session}: not in {folder}/{brainset}; run: brainsets prepare {brainset} "
        f"--single {session} --processed-dir {folder}\n1 failed\n"
    )
    assert status == 1
    assert "Traceback" not in err
    entries = [p for p in (clone / "checkpoints").rglob("*") if not p.name.endswith(".lock")]
    assert [p.name for p in entries] == ["desk", "mine"]
