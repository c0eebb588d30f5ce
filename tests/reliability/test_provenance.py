"""A receipt tells what made a checkpoint, and `list` what a change of its recipe makes stale."""

import ast
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest

from specdiag.lock.code import code_digest, program
from support import toy
from support.commands import change, states
from support.commands import run_forked as run
from support.paths import ROOT
from support.reliability import record

NAMES = ("base/net", "child/net0", "child/net1", "judged/net")
# The log that the toy writes beside itself is no program.
PROGRAM = "recipes/toy.py"


@pytest.fixture
def lock(tmp_path):
    path = toy.make(tmp_path)
    recipe = tmp_path / PROGRAM
    (tmp_path / "recipes" / "_rates.py").write_text("RATE = 1.0\n")
    recipe.write_text(recipe.read_text().replace("import json", "from ._rates import RATE"))
    git(tmp_path, "init")
    assert run(tmp_path, "lock", "--init")[0] == 0
    return path


def git(folder, *arguments):
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        [*command, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(lock):
    git(lock.parent, "add", "recipes")
    git(lock.parent, "commit", "-m", "recipes")
    return git(lock.parent, "rev-parse", "HEAD")


def receipt_file(lock, name):
    (path,) = (lock.parent / "checkpoints/desk").glob(f"{name}.ckpt.{'[0-9a-f]' * 16}.json")
    return path


def receipt(lock, name="base/net"):
    return json.loads(receipt_file(lock, name).read_bytes())


def reasons(lock):
    status, out, err = run(lock.parent, "list", "--json")
    assert (status, err) == (0, "")
    return {row["name"]: row["reason"] for row in json.loads(out)["checkpoints"]}


def append(lock, text, name=PROGRAM):
    with (lock.parent / name).open("a") as file:
        file.write(text)


def without_code(lock, name):
    """Write the receipt of an entry as it was before receipts had the digest of the program."""
    old = receipt(lock, name)
    del old["code"]
    receipt_file(lock, name).write_text(json.dumps(old))


def test_each_module_of_each_recipe_of_this_study_counts_and_its_formatting_does_not(tmp_path):
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    recipes = [path.stem for path in (ROOT / "recipes").glob("[!_]*.py")]
    before = {recipe: code_digest(tmp_path, recipe) for recipe in recipes}
    programs = {recipe: set(program(tmp_path, recipe)) for recipe in recipes}
    modules = set().union(*programs.values())
    for name in modules:
        path = tmp_path / "recipes" / name
        text = path.read_text()
        # Without comments, and with other line breaks and quotes.
        path.write_text(ast.unparse(ast.parse(text)))
        assert {recipe: code_digest(tmp_path, recipe) for recipe in recipes} == before
        path.write_text(text + "\n\nMORE = 1\n")
        changed = {r for r in recipes if code_digest(tmp_path, r) != before[r]}
        assert changed == {recipe for recipe in recipes if name in programs[recipe]}
        path.write_text(text)
    record("provenance", modules=len(modules), recipes=len(recipes))


def test_a_receipt_has_commit_digest_and_versions(lock):
    head = commit(lock)
    run(lock.parent, "train", "--all")
    for name in NAMES:
        made = receipt(lock, name)
        assert re.fullmatch("[0-9a-f]{64}", made["code"])
        assert made["environment"]["commit"] == head
        assert made["environment"]["python"] == "{}.{}.{}".format(*sys.version_info)
        for library in ("specdiag", "numpy", "safetensors"):
            assert made["environment"][library] == version(library)
    assert f'commit = "{head}"' in lock.read_text()
    record("provenance", receipts=len(NAMES))


@pytest.mark.parametrize("changed", ["recipe", "module", "untracked", "ignored"])
def test_the_commit_is_dirty_if_the_program_differs_from_it(lock, changed):
    if changed == "ignored":
        (lock.parent / ".gitignore").write_text("_rates.py\n")
    elif changed == "untracked":
        commit(lock)
        append(lock, "\nfrom . import _more\n")
        (lock.parent / "recipes/_more.py").write_text("")
        git(lock.parent, "add", PROGRAM)
        git(lock.parent, "commit", "-m", "without _more")
    head = commit(lock) if changed != "untracked" else git(lock.parent, "rev-parse", "HEAD")
    if changed in ("recipe", "module"):
        append(lock, "MORE = 1\n", PROGRAM if changed == "recipe" else "recipes/_rates.py")
    run(lock.parent, "train", "base/net")
    assert receipt(lock)["environment"]["commit"] == f"{head}-dirty"


def test_other_files_of_the_repository_do_not_make_the_commit_dirty(lock):
    head = commit(lock)
    (lock.parent / "recipes" / "notes.txt").write_text("to do")
    (lock.parent / "recipes" / "other.py").write_text("from .toy import build\n\ndef entries(): []")
    run(lock.parent, "train", "base/net")
    assert receipt(lock)["environment"]["commit"] == head


@pytest.mark.parametrize("repository", ["none", "without a commit", "broken"])
def test_without_a_commit_none_is_recorded(lock, repository):
    if repository == "none":
        run(lock.parent, "train", "base/net", GIT_CEILING_DIRECTORIES="/")
        (lock.parent / ".git").rename(lock.parent / "git")
    elif repository == "broken":
        (lock.parent / ".git" / "HEAD").write_text("nothing")
    status, _, err = run(lock.parent, "train", "base/net", "--force")
    assert (status, "git" in err) == (0, False)
    assert "commit" not in receipt(lock)["environment"]


def test_the_repository_of_a_hook_is_not_asked(lock, tmp_path_factory):
    """Git sets GIT_DIR for a program that it calls."""
    head, other = commit(lock), tmp_path_factory.mktemp("other")
    git(other, "init")
    run(lock.parent, "train", "base/net", GIT_DIR=str(other / ".git"))
    assert receipt(lock)["environment"]["commit"] == head


def test_no_program_of_the_repository_runs(lock):
    commit(lock)
    git(lock.parent, "config", "core.fsmonitor", "touch ../ran; false")
    run(lock.parent, "train", "base/net")
    assert "commit" in receipt(lock)["environment"]
    assert not list(lock.parent.rglob("ran"))


@pytest.mark.parametrize("module", [PROGRAM, "recipes/_rates.py", "recipes/__init__.py"])
def test_a_change_of_the_program_makes_its_checkpoints_stale(lock, module):
    run(lock.parent, "train", "--all")
    assert set(states(lock.parent).values()) == {"ok"}
    append(lock, "\nMORE = 1\n", module)
    assert reasons(lock) == {
        name: f"its recipe's code changed since it was {how}"
        for name, how in zip(NAMES, ["trained"] * 3 + ["evaluated"], strict=True)
    }
    assert "code changed" in run(lock.parent, "list")[1]
    _, out, err = run(lock.parent, "train", "--missing")
    assert "its recipe's code changed" in err
    assert out.endswith("3 trained, 1 evaluated\n")
    assert set(states(lock.parent).values()) == {"ok"}


def test_comments_and_other_modules_make_nothing_stale(lock):
    run(lock.parent, "train", "--all")
    append(lock, "\n# a comment\n")
    change(lock, '"""A toy:', '"""One toy:')
    append(lock, "CLAIMS = ()\n", "recipes/_claims.py")
    assert set(states(lock.parent).values()) == {"ok"}


def test_a_declaration_that_is_added_makes_nothing_stale(lock):
    run(lock.parent, "train", "--all")
    change(lock, "def entries():\n", 'def entries():\n    yield entry("more/net")\n')
    run(lock.parent, "lock")
    assert states(lock.parent) == {**dict.fromkeys(NAMES, "ok"), "more/net": "missing"}


def test_receipts_of_earlier_versions_and_missing_recipes_stay_as_they_are(lock):
    run(lock.parent, "train", "--all")
    without_code(lock, "base/net")
    append(lock, "MORE = 1\n")
    assert states(lock.parent)["base/net"] == "ok"
    (lock.parent / PROGRAM).unlink()
    assert set(states(lock.parent).values()) == {"ok"}


def test_changed_code_is_accepted(lock):
    run(lock.parent, "train", "--all")
    before, text = receipt(lock), lock.read_text()
    append(lock, "MORE = 1\n")
    assert run(lock.parent, "lock", "base/net", "--accept-code") == (
        0,
        "accepted base/net (desk)\n",
        "",
    )
    assert list(states(lock.parent).values()) == ["ok", "stale", "stale", "stale"]
    after = receipt(lock)
    assert after.pop("accepted") != after["code"]
    assert (after, lock.read_text()) == (before, text)
    assert run(lock.parent, "lock", "--accept-code")[1].count("accepted") == 3
    assert run(lock.parent, "train", "--missing")[1].endswith("4 kept\n")
    append(lock, "MORE = 2\n")
    assert set(states(lock.parent).values()) == {"stale"}
    recipe = lock.parent / PROGRAM
    recipe.write_text(recipe.read_text().replace("MORE = 1\nMORE = 2\n", ""))
    assert set(states(lock.parent).values()) == {"ok"}  # what built them


def test_only_changed_code_is_accepted(lock):
    nothing = "nothing to accept: no checkpoint is stale by its recipe's code alone\n"
    assert run(lock.parent, "lock", "--accept-code") == (0, nothing, "")
    run(lock.parent, "train", "--all")
    change(lock, '"steps": 3', '"steps": 2')
    run(lock.parent, "lock")
    assert run(lock.parent, "lock", "--accept-code") == (0, nothing, "")
    assert set(states(lock.parent).values()) == {"stale"}


def test_changed_code_is_accepted_for_replicates(lock):
    change(lock, '"seed": 0', '"training": {"seed": 0}, "seed": 0')
    run(lock.parent, "lock")
    run(lock.parent, "train", "base/net", "--seed", "1")
    append(lock, "MORE = 1\n")
    arguments = ("lock", "--lock", "checkpoints.seed-1.lock", "--accept-code")
    assert run(lock.parent, *arguments)[:2] == (0, "accepted base/net (desk)\n")


@pytest.mark.parametrize("option", ["--check", "--init"])
def test_accepting_excludes_other_options(lock, option):
    status, out, err = run(lock.parent, "lock", "--accept-code", option)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == "Error: --accept-code takes no --check and no --init"


def test_a_build_that_other_code_began_says_so(lock):
    change(
        lock,
        "        start = start +",
        "        step and os.kill(os.getpid(), 9)\n        start +=",
    )
    assert run(lock.parent, "train", "base/net")[0] == -9
    change(lock, "        step and os.kill(os.getpid(), 9)\n", "")
    status, _, err = run(lock.parent, "train", "base/net")
    assert status == 0
    assert re.search(
        r"^specdiag: base/net: resumes what other code .* without net\.ckpt\.", err, re.MULTILINE
    )
    made = receipt(lock)
    assert made["begun_by"] != made["code"]
    assert states(lock.parent)["base/net"] == "ok"
    assert run(lock.parent, "train", "base/net", "--force")[0] == 0
    assert "begun_by" not in receipt(lock)


def test_a_build_that_failed_leaves_no_folder(lock):
    change(lock, "    for step in", '    raise ValueError("no data")\n    for step in')
    assert run(lock.parent, "train", "base/net")[0] == 1
    assert not list(lock.parent.rglob("*.run"))
