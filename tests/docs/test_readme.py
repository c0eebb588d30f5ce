"""README.md shows what the commands print, and names what there is."""

import re
import shlex

import pytest

from specdiag.cli.main import COMMANDS, cli
from specdiag.htsr.null.verdicts import VERDICTS
from support.commands import run
from support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", README, re.DOTALL)
SHOWN = dict(b[2:].split("\n", 1) for b in BLOCKS if b.startswith("$ "))
LINES = [
    line.partition("#")[0].strip()
    for block in BLOCKS
    for line in block.splitlines()
    if line.startswith("specdiag ")
]


def test_every_output_that_is_shown_is_checked_here():
    assert [command.split()[1] for command in SHOWN] == ["alpha", "compare"]


def test_the_pages_explain_every_verdict_in_the_words_of_the_tool():
    definitions = (ROOT / "docs" / "definitions.md").read_text(encoding="utf-8")
    for word, sentence in VERDICTS.items():
        assert f"| `{word}` | {sentence} |" in README
        assert re.search(rf"\| `{word}` \| [^|]* \| {re.escape(sentence)} \|", definitions)


@pytest.mark.realdata
def test_alpha_prints_what_is_shown(minilm):
    (command, shown), _ = SHOWN.items()
    status, out, err = run(minilm.parent, *shlex.split(command)[1:])
    assert (status, out, err) == (0, f"{shown}\n", "")


def test_compare_prints_what_is_shown():
    _, (command, shown) = SHOWN.items()
    arguments = shlex.split(command.removesuffix(" | tail -2"))[1:]
    paths = [ROOT / "checkpoints" / "desk" / f"{name}.ckpt" for name in arguments[1:]]
    if not all(path.exists() for path in paths):
        pytest.skip("no trained desk checkpoints in checkpoints/desk: run make demo")
    status, out, _ = run(ROOT, *arguments)
    assert (status, out.splitlines()[-2:]) == (0, [*shown.splitlines(), ""])


def test_every_command_is_named_with_options_that_it_has():
    assert {line.split()[1] for line in LINES} == set(COMMANDS)
    for line in LINES:
        command, options = line.split()[1], re.findall(r"(?<=\s)--?[a-z][\w-]*", line)
        has = {
            o for p in cli.get_command(None, command).params for o in (*p.opts, *p.secondary_opts)
        }
        assert set(options) <= has, line


def test_every_file_that_is_linked_is_there():
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [path for path in linked if not (ROOT / path).exists()] == []
