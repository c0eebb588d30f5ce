"""Eight commands that write files, each with a folder in which it has files to replace."""

import re
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from specdiag.lock import lockfile
from specdiag.lock.entry import Entry, Source
from support import toy
from support.commands import change, run_forked

NET = "checkpoints/desk/base/net.ckpt"
CHILD = "checkpoints/desk/child/net0.ckpt"

# What runs before, so that files are there, and the command.
WRITERS = {
    "alpha": (("alpha", CHILD, "-o", "a.nc"), ("alpha", NET, "-o", "a.nc")),
    "compare": (("compare", NET, CHILD, "-o", "d.nc"), ("compare", CHILD, NET, "-o", "d.nc")),
    "figures": (("figures", "child.nc", "-o", "drawn"), ("figures", "net.nc", "-o", "drawn")),
    "report": (
        ("report", "child.nc", "-o", "r.html"),
        ("report", "net.nc", "-o", "r.html"),
    ),
    "export": (
        ("export", CHILD, "e.safetensors"),
        ("export", NET, "e.safetensors", "--force"),
    ),
    "fetch": ((), ("fetch", "got/net")),
    "train": ((), ("train", "base/net", "--force")),
    "lock": ((), ("lock",)),
}


def study(folder: Path) -> Path:
    """Make a trained lock of toys with an entry to fetch, and two Datasets; return its folder."""
    toy.make(folder)
    assert run_forked(folder, "lock", "--init")[0] == 0
    assert run_forked(folder, "train", "--missing")[0] == 0
    values = np.random.default_rng(1).standard_normal((60, 60)).astype(np.float32)
    save_file({"weight": values}, folder / "published.ckpt")
    path = folder / "checkpoints.lock"
    lock = lockfile.load(path)
    source = Source(url=(folder / "published.ckpt").as_uri())
    entry = Entry(name="got/net", scale="desk", group="g", recipe="toy", source=source)
    lockfile.save(lockfile.Lock(entries=(*lock.entries, entry)), path)
    for name, checkpoint in (("net", NET), ("child", CHILD)):
        assert run_forked(folder, "alpha", checkpoint, "-o", f"{name}.nc")[0] == 0
    return folder


def prepared(original: Path, folder: Path, writer: str) -> tuple[str, ...]:
    """Copy the study and make the files that the command replaces; return its arguments."""
    shutil.copytree(original, folder)
    before, arguments = WRITERS[writer]
    if before:
        assert run_forked(folder, *before)[0] == 0
    if writer == "lock":
        change(folder / "checkpoints.lock", '"steps": 3', '"steps": 2')
    if writer == "fetch":
        lock = folder / "checkpoints.lock"
        url = (original / "published.ckpt").as_uri()
        lock.write_text(lock.read_text().replace(url, (folder / "published.ckpt").as_uri()))
    return arguments


# Written at every run, with the seconds that it took.
TIMED = re.compile(r"checkpoints\.lock|.*\.[0-9a-f]{16}\.json|.*\.run/.*|.*\.specdiag")


def check_old_or_new(now, old, new):
    """Assert that every file is whole: the old one, the new one, or one that is in progress."""
    for name, content in now.items():
        if name.endswith("captions.txt"):  # of the figures that are drawn so far
            assert content == old[name] or new[name].startswith(content)
        elif not TIMED.fullmatch(name):
            assert content in (old.get(name), new.get(name)), name
    for name in old:
        # The JSON of an export is a copy of what its safetensors file holds, and goes first.
        if not TIMED.fullmatch(name) and name != "e.json":
            assert name in now or name not in new, name
