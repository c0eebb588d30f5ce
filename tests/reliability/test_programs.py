"""Which commands run programs that come with a lock or a file: docs/what-a-lock-may-do.md."""

import pytest

from support import toy
from support.commands import run_forked as run
from support.paths import ROOT
from support.reliability import record

MARK = "\nimport os, pathlib\n(pathlib.Path(os.environ['MARKS']) / {name!r}).touch()\n"
CLAIMS = """
from specdiag.transfer.claims import Claim

CLAIMS = (Claim(text="Children differ", value=lambda get: get("child/net0", "r2")),)
"""
FIGURE = """
from matplotlib.figure import Figure

TITLE = "A figure of the study"
reason_not_drawn = lambda dataset: ""
caption = lambda dataset: "One point."


def plot(dataset):
    return Figure()
"""
PROGRAMS = {
    "recipes/__init__.py": "",
    "recipes/_claims.py": CLAIMS,
    "recipes/simulation/__init__.py": "",
    "recipes/simulation/recordings.py": "def write_recordings(*args):\n    return ()\n",
    "figures/__init__.py": "",
    "figures/mine.py": FIGURE,
    "conftest.py": "",
    "setup.py": "",
}

# Every command, and the programs that it may run.
COMMANDS = {
    "alpha hostile.pt": (),
    "alpha base/net child/net0 -o a.nc --plot plots": (),
    "weights hostile.pt": (),
    "weights child/net1": (),
    "compare hostile.pt base/net": (),
    "compare base/net child/net0 -o b.nc --plot b.svg": (),
    "watch hostile.pt base/net": (),
    "watch checkpoints/desk/child -o d.html": (),
    "export hostile.pt a.safetensors": (),
    "export base/net b.safetensors": (),
    "list": (),
    "list --json": (),
    "fetch": (),
    "spectra -o c.nc": (),
    "features base/net": (),
    "features judged/net": (),
    "features base/net --layer out": ("recipes/",),
    "features judged/net --sessions a": ("recipes/",),
    "link spectra.nc": (),
    "figures spectra.nc -o drawn": (),
    "figures spectra.nc --study checkpoints.lock -o study": ("figures/",),
    "report spectra.nc -o a.html": (),
    "report spectra.nc --claims claims.json -o b.html": (),
    "report spectra.nc --study checkpoints.lock -o c.html": ("figures/",),
    "lock --check": ("recipes/",),
    "train base/net --dry-run": ("recipes/",),
    "train child/net0 --force": ("recipes/",),
    "verify spectra.nc": ("recipes/__init__.py", "recipes/_claims.py"),
    "simulate recordings": ("recipes/__init__.py", "recipes/simulation/"),
    "--help": (),
    "--version": (),
}


class Marked:
    """An object whose pickle makes a file."""

    def __reduce__(self):
        return exec, (MARK.format(name="pickle"),)


def hostile_checkpoint(path):
    torch = pytest.importorskip("torch")
    torch.save({"fc.weight": torch.randn(80, 60), "more": Marked()}, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A lock that is trained, with programs that leave a file in the folder MARKS when they run."""
    folder = tmp_path_factory.mktemp("lock")
    toy.make(folder)
    assert run(folder, "lock", "--init")[0] == 0
    assert run(folder, "train", "--all")[0] == 0
    assert run(folder, "spectra", "-o", "spectra.nc")[0] == 0
    (folder / "recipes" / "_claims.py").write_text(CLAIMS)
    (folder / "claims.json").write_text(run(folder, "verify", "spectra.nc", "--json")[1])
    for name, source in PROGRAMS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(source + MARK.format(name=name.replace("/", "@")))
    recipe = folder / "recipes" / "toy.py"
    recipe.write_text(recipe.read_text() + MARK.format(name="recipes@toy.py"))
    hostile_checkpoint(folder / "hostile.pt")
    return folder


def marks_of(folder, tmp_path, *command):
    marks = tmp_path / "marks"
    marks.mkdir()
    status, out, err = run(folder, *command, MARKS=str(marks))
    assert "Traceback" not in err
    return {path.name.replace("@", "/") for path in marks.iterdir()}, status, out, err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_the_programs_that_it_names_and_no_others(folder, tmp_path, command):
    ran, *_ = marks_of(folder, tmp_path, *command.split())
    allowed = COMMANDS[command]
    assert {name for name in ran if not name.startswith(allowed or ("-",))} == set()
    record("programs", command_lines=len(COMMANDS), kinds_of_programs=len(PROGRAMS) + 2)


@pytest.mark.parametrize(
    "command",
    [
        "lock --check",
        "verify spectra.nc",
        "train child/net0 --force",
        "features base/net --layer a",
    ],
)
def test_the_programs_that_a_command_names_do_run(folder, tmp_path, command):
    ran, *_ = marks_of(folder, tmp_path, *command.split())
    assert any(name.startswith("recipes/") for name in ran)


def test_the_page_names_every_command():
    page = (ROOT / "docs" / "what-a-lock-may-do.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"`{command.split()[0]}`" in page or command.startswith("--")
