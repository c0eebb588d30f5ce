"""Making an entry destroys no file that specdiag did not make: such a file is moved aside."""

import json
import logging

import pytest

from specdiag.lock import lockfile
from specdiag.lock.entry import Entry, Input, Lock, Source
from specdiag.obtain.beside import move_aside
from support import toy
from support.commands import run_forked

NET = "checkpoints/desk/base/net.ckpt"
NOTES = b"what a user wrote"


@pytest.fixture
def folder(tmp_path):
    toy.make(tmp_path)
    assert run_forked(tmp_path, "lock", "--init")[0] == 0
    return tmp_path


def put(path, content=NOTES):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def train(folder, *arguments):
    status, _, err = run_forked(folder, "train", "base/net", *arguments)
    assert status == 0, err
    return err


def beside(folder, pattern):
    (path,) = (folder / NET).parent.glob(f"net.ckpt.{pattern}")
    return path


def test_a_file_at_the_path_of_an_entry_is_moved_aside_and_named(folder):
    path = put(folder / NET)
    assert "net.ckpt.old-1" in train(folder)
    assert path.with_name("net.ckpt.old-1").read_bytes() == NOTES
    put(path)
    assert "net.ckpt.old-2" in train(folder)
    assert path.with_name("net.ckpt.old-2").read_bytes() == NOTES
    assert path.with_name("net.ckpt.old-1").read_bytes() == NOTES


def test_a_link_at_the_path_of_an_entry_is_moved_aside(folder):
    own = put(folder / "own.ckpt")
    path = folder / NET
    path.parent.mkdir(parents=True)
    path.symlink_to(own)
    train(folder)
    assert own.read_bytes() == NOTES
    assert path.with_name("net.ckpt.old-1").is_symlink()
    assert not path.is_symlink()


def test_a_hard_link_at_the_path_of_an_entry_leaves_the_other_file(folder):
    own = put(folder / "own.ckpt")
    path = folder / NET
    path.parent.mkdir(parents=True)
    path.hardlink_to(own)
    train(folder)
    assert own.read_bytes() == NOTES


def test_a_file_that_specdiag_made_is_replaced(folder):
    assert "old-1" not in train(folder)
    assert "old-1" not in train(folder, "--force")
    assert list(folder.rglob("*.old-1")) == []


@pytest.mark.parametrize("pattern", ["????????????????.json", "????????????????.nc", "log.csv"])
def test_a_file_at_the_path_of_a_side_file_is_moved_aside(folder, pattern):
    train(folder)
    path = beside(folder, pattern)
    ours = path.read_bytes()
    (folder / NET).unlink()
    put(path)
    if pattern.endswith(".nc"):
        run_forked(folder, "spectra", "-o", "all.nc", "base/net")
    err = train(folder)
    assert f"{path.name}.old-1" in err or path.suffix == ".nc"
    run_forked(folder, "spectra", "-o", "all.nc", "base/net")
    assert path.with_name(f"{path.name}.old-1").read_bytes() == NOTES
    if path.suffix != ".json":
        assert path.read_bytes() == ours


def test_only_side_files_of_the_exact_pattern_are_swept(folder):
    train(folder)
    names = ["anything.nc", "mine.json", "0123456789abcdef.nc", "0123456789abcdef.json", "ABC.nc"]
    kept = [put(folder / f"{NET}.{name}") for name in names]
    kept.append(put(folder / f"{NET}.anything.run" / "notes"))
    kept.append(put(folder / NET).with_name(".net.ckpt.notes"))
    put(kept[-1])
    (folder / NET).unlink()
    train(folder)
    train(folder, "--force")
    assert {path.read_bytes() for path in kept} == {NOTES}
    assert list(folder.rglob("*.old-*")) == []


def test_a_file_at_the_path_of_a_build_folder_is_moved_aside(folder):
    recipe = folder / "recipes" / "toy.py"
    working = recipe.read_text()
    recipe.write_text(working.replace('job.params.get("fails")', "True"))
    assert run_forked(folder, "train", "base/net")[0] == 1
    build = beside(folder, "????????????????.run")
    for file in build.iterdir():
        file.unlink()
    build.rmdir()
    put(build)
    recipe.write_text(working)
    assert f"{build.name}.old-1" in train(folder)
    assert build.with_name(f"{build.name}.old-1").read_bytes() == NOTES


def test_a_fetch_moves_a_file_of_a_user_aside(tmp_path, folder):
    train(folder)
    source = Source(url=(folder / NET).as_uri())
    entry = Entry(name="a", scale="desk", group="g", recipe="r", source=source)
    other = tmp_path / "other"
    other.mkdir()
    lockfile.save(Lock(entries=(entry,)), other / "checkpoints.lock")
    path = put(other / "checkpoints" / "desk" / "a.ckpt")
    status, _, err = run_forked(other, "fetch", "--allow-local")
    assert (status, "a.ckpt.old-1" in err) == (0, True)
    assert path.with_name("a.ckpt.old-1").read_bytes() == NOTES
    assert path.read_bytes() == (folder / NET).read_bytes()


def test_an_input_that_is_fetched_moves_a_file_of_a_user_aside(folder):
    source = put(folder / "data.h5", b"data")
    lock = lockfile.load(folder / "checkpoints.lock")
    first = lock.entries[0]
    declared = vars(first) | {"inputs": (Input(id="data", url=source.as_uri()),)}
    entries = (Entry(**declared), *lock.entries[1:])
    lockfile.save(Lock(entries=entries), folder / "checkpoints.lock")
    train(folder)
    (fetched,) = (folder / "inputs").glob("*-data.h5")
    put(fetched)
    train(folder, "--force")
    assert fetched.read_bytes() == b"data"
    assert fetched.with_name(f"{fetched.name}.old-1").read_bytes() == NOTES


def test_receipts_have_the_digests_of_tables(folder):
    train(folder)
    receipt = json.loads(beside(folder, "????????????????.json").read_text())
    assert list(receipt["tables"]) == ["log.csv"]


def test_what_is_missing_is_not_moved(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    move_aside(tmp_path / "missing")
    assert not caplog.records
