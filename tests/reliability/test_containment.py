"""Nothing is read or written outside of a lock's folder, whatever links are in it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import toy
from support.commands import run_forked as run
from support.paths import ROOT
from support.reliability import record

# Runs the command line, and writes every path that it opens, makes, renames or removes.
WATCHED = """
import json, os, sys

seen = []

def hook(event, arguments):
    if event in EVENTS:
        for path in arguments[:2]:
            if isinstance(path, (str, bytes, os.PathLike)):
                folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
                real = os.path.join(os.path.realpath(folder), name)
                # Removing or renaming a link leaves alone what it points to.
                seen.append((event, os.path.realpath(real) if event in FOLLOWING else real))

FOLLOWING = {"open", "os.truncate", "os.chmod", "os.listdir", "os.scandir"}
EVENTS = FOLLOWING | {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link"}
from specdiag.cli.main import main
sys.addaudithook(hook)
sys.argv = ["specdiag", *sys.argv[2:]]
try:
    main()
finally:
    print(json.dumps(seen), file=open(os.environ["SEEN"], "w"))
"""
NET = "checkpoints/desk/base/net.ckpt"
CHILD = "checkpoints/desk/child/net0.ckpt"

# A link in the folder of the lock: its name, and what it points to outside.
LAYOUTS = {
    "all checkpoints": ("checkpoints", "checkpoints"),
    "the scale": ("checkpoints/desk", "checkpoints/desk"),
    "a folder of names": ("checkpoints/desk/base", "checkpoints/desk/base"),
    "a folder, empty": ("checkpoints/desk/child", "empty"),
    "a checkpoint": (NET, NET),
    "a checkpoint, to another file": (NET, "secret"),
    "a checkpoint, to a missing file": (CHILD, "new"),
    "a receipt": (f"{NET}.RECEIPT.json", f"{NET}.RECEIPT.json"),
    "a receipt, to another file": (f"{NET}.RECEIPT.json", "secret"),
    "a Dataset": (f"{NET}.RECEIPT.nc", f"{NET}.RECEIPT.nc"),
    "a Dataset, to another file": (f"{NET}.RECEIPT.nc", "secret"),
    "a table": (f"{NET}.log.csv", f"{NET}.log.csv"),
    "a file lock": ("checkpoints/desk/base/.net.ckpt.lock", "secret"),
    "the file lock of the lock": (".checkpoints.lock.lock", "secret"),
    "the recipes": ("recipes", "recipes"),
    "a recipe": ("recipes/toy.py", "recipes/toy.py"),
    "a module": ("recipes/_more.py", "secret"),
    "the package": ("recipes/__init__.py", "recipes/__init__.py"),
    "the figures": ("figures", "recipes"),
    "by an absolute path": ("checkpoints/desk", None),
    "two links": ("checkpoints/desk/base", "chain"),
}
COMMANDS = (
    "list",
    "alpha base/net",
    "spectra -o out.nc",
    "train child/net0 --force",
    "train base/net --force",
    "lock",
    "figures data.nc --study checkpoints.lock -o drawn",
    "features base/net",
    "features child/net0 --layer out",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    toy.make(folder, children=1)
    assert run(folder, "lock", "--init")[0] == 0
    assert run(folder, "train", "--all")[0] == 0
    assert run(folder, "spectra", "-o", "data.nc")[0] == 0
    return folder


@pytest.fixture
def layout(trained, tmp_path, request):
    """A copy of the lock's folder with one link, and the folder outside that it leads to."""
    root, outside = tmp_path / "lock", tmp_path / "outside"
    shutil.copytree(trained, root)
    shutil.copytree(trained, outside)
    (outside / "secret").write_bytes(b"private")
    (outside / "empty").mkdir()
    (outside / "chain").symlink_to("checkpoints/desk/base")
    (outside / "figures").mkdir()
    link, target = LAYOUTS[request.param]
    (digits,) = {p.name.split(".")[-2] for p in (root / NET).parent.glob("net.ckpt.*.json")}
    link, target = (name and name.replace("RECEIPT", digits) for name in (link, target))
    path = root / link
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    to = outside / target if target else outside.resolve() / "checkpoints" / "desk"
    path.symlink_to(to if target is None else os.path.relpath(to, path.parent))
    return root, outside


def digests(folder):
    return {
        path.relative_to(folder): path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
    }


def watched(root, command, seen):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SEEN": str(seen), "MPLBACKEND": "svg"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    arguments = [sys.executable, "-c", WATCHED, "specdiag", *command.split()]
    done = subprocess.run(
        arguments, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    return done, json.loads(seen.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, indirect=True)
def test_nothing_outside_of_the_folder_is_opened_or_written(layout, tmp_path):
    root, outside = layout
    before = digests(outside)
    for command in COMMANDS:
        done, events = watched(root, command, tmp_path / "seen")
        assert "Traceback" not in done.stderr
        assert digests(outside) == before, command
        real = str(outside.resolve())
        assert [(e, p) for e, p in events if p == real or p.startswith(real + os.sep)] == []
    record("containment", layouts_of_links=len(LAYOUTS), commands=len(COMMANDS))


def test_a_file_url_outside_of_the_folder_needs_a_flag(trained, tmp_path):
    root = tmp_path / "lock"
    root.mkdir()
    weights = shutil.copy(trained / NET, tmp_path / "weights.ckpt")
    (root / "recipes").mkdir()
    (root / "recipes" / "net.py").write_text(
        "from specdiag.lock.entry import Entry, Source\n\n\ndef entries():\n"
        f"    source = Source(url={Path(weights).as_uri()!r})\n"
        "    return [Entry(name='net', scale='desk', group='g', recipe='net', source=source)]\n"
    )
    assert run(root, "lock", "--init")[0] == 0
    for command in (["fetch"], ["train", "--all"]):
        status, out, _ = run(root, *command)
        assert status == 1
        assert re.search(r"is outside of the lock's folder; if you trust the lock, give", out)
        assert not (root / "checkpoints" / "desk" / "net.ckpt").exists()
    assert run(root, "fetch", "--allow-local")[0] == 0
    assert (root / "checkpoints" / "desk" / "net.ckpt").read_bytes() == Path(weights).read_bytes()


def test_a_file_url_in_the_folder_is_read(trained, tmp_path):
    root = tmp_path / "lock"
    (root / "recipes").mkdir(parents=True)
    weights = shutil.copy(trained / NET, root / "weights.ckpt")
    (root / "recipes" / "net.py").write_text(
        "from specdiag.lock.entry import Entry, Source\n\n\ndef entries():\n"
        f"    source = Source(url={Path(weights).as_uri()!r})\n"
        "    return [Entry(name='net', scale='desk', group='g', recipe='net', source=source)]\n"
    )
    assert run(root, "lock", "--init")[0] == 0
    assert run(root, "fetch")[0] == 0
