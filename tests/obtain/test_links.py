"""Links that a stranger leaves at places which no entry of a lock names."""

import hashlib
import json
import os

import numpy as np
import pytest

from specdiag.files import find_file, open_file
from specdiag.lock import lockfile
from specdiag.lock.entry import Entry, FileRecord, Lock
from support import toy
from support.commands import run_forked as run

NET = "checkpoints/desk/base/net.ckpt"


@pytest.fixture
def folder(tmp_path):
    """A folder with a recipe, and beside it one of somebody else."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "notes").write_bytes(b"private")
    folder = tmp_path / "study"
    folder.mkdir()
    toy.make(folder, children=1)
    return folder


def names(folder):
    return [path.name for path in folder.iterdir()]


def start(folder):
    assert run(folder, "lock", "--init")[0] == 0
    return folder / "checkpoints.lock"


@pytest.mark.parametrize("target", ["../outside/new", "../outside/notes"])
def test_a_lock_that_is_a_link_out_of_its_folder_is_not_written(folder, target):
    (folder / "checkpoints.lock").symlink_to(target)
    status, _, err = run(folder, "lock", "--init")
    assert (status, err.count("\n")) == (1, 1)
    assert names(folder.parent / "outside") == ["notes"]
    assert (folder.parent / "outside" / "notes").read_bytes() == b"private"


def test_the_recipes_folder_that_a_new_lock_gets_is_no_link(folder):
    for file in (folder / "recipes").iterdir():
        file.unlink()
    (folder / "recipes").rmdir()
    (folder / "recipes").symlink_to("../outside")
    status, _, err = run(folder, "lock", "--init")
    assert status == 1
    assert "leads out of the lock's folder by a link" in err
    assert names(folder.parent / "outside") == ["notes"]


def test_a_lock_elsewhere_is_not_read_or_changed_through_a_link(folder):
    other = folder.parent / "outside"
    toy.make(other)
    lock = start(other)
    before = lock.read_bytes()
    (folder / "checkpoints.lock").symlink_to(lock)
    for command in (["list"], ["lock"], ["train", "--all"], ["spectra", "-o", "a.nc"]):
        status, _, err = run(folder, *command)
        assert (status, err.count("\n")) == (1, 1)
        assert "leads out of the lock's folder by a link" in err
    assert lock.read_bytes() == before
    assert not (other / "checkpoints").exists()


@pytest.mark.parametrize("target", ["../outside/new", "../outside/checkpoints.lock"])
def test_the_lock_of_a_seed_is_not_written_through_a_link(folder, target):
    start(folder)
    other = folder.parent / "outside" / "checkpoints.lock"
    lockfile.save(Lock(), other)
    before = other.read_bytes()
    (folder / "checkpoints.seed-43.lock").symlink_to(target)
    status, _, err = run(folder, "train", "base/net", "--seed", "43")
    assert status == 1
    assert "checkpoints.seed-43.lock leads out of the lock's folder by a link" in err
    assert other.read_bytes() == before
    assert not (folder.parent / "outside" / "new").exists()


def test_a_link_to_a_lock_elsewhere_does_not_prevent_outputs(folder):
    start(folder)
    assert run(folder, "train", "base/net")[0] == 0
    (folder / "checkpoints.seed-9.lock").symlink_to("../outside/notes")
    assert run(folder, "alpha", "base/net", "-o", "a.nc")[0] == 0


@pytest.mark.parametrize("name", ["code", "receipt", "0.npy", "net.ckpt", "log.csv", "deep/log"])
def test_the_folder_of_a_build_with_a_link_out_of_it_is_not_used(folder, name):
    start(folder)
    recipe = folder / "recipes" / "toy.py"
    working = recipe.read_text()
    recipe.write_text(working.replace('job.params.get("fails")', "True"))
    assert run(folder, "train", "base/net")[0] == 1
    recipe.write_text(working)
    (build,) = (folder / NET).parent.glob("*.run")
    (build / name).parent.mkdir(exist_ok=True)
    (build / name).unlink(missing_ok=True)
    (build / name).symlink_to("../" * (5 + name.count("/")) + "outside/new")
    assert not (build / name).exists()
    status, _, err = run(folder, "train", "base/net")
    assert (status, f"{build.name}.old-1" in err) == (0, True)
    assert names(folder.parent / "outside") == ["notes"]


def test_one_link_fails_one_entry(folder):
    start(folder)
    assert run(folder, "train", "--all")[0] == 0
    (spectra,) = (folder / NET).parent.glob("net.ckpt.*.nc")
    spectra.unlink()
    spectra.symlink_to("../../../../outside/notes")
    assert run(folder, "spectra", "-o", "all.nc")[0] == 0
    spectra.unlink()
    child = folder / "checkpoints" / "desk" / "child"
    child.rename(folder / "moved")
    child.symlink_to("../../../outside")
    status, out, _ = run(folder, "train", "--all", "--force")
    assert status == 1
    assert "checkpoints/desk/child/net0.ckpt leads out of the lock's folder by a link" in out
    assert names(folder.parent / "outside") == ["notes"]


def record_of(folder, path):
    """Write a lock with an entry for a file."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    known = {"sha256": sha256, "size": path.stat().st_size, "tensors": sha256}
    file = FileRecord(path=str(path.relative_to(folder)), **known)
    entry = Entry(name="net", scale="desk", group="g", recipe="toy", file=file)
    lockfile.save(Lock(entries=(entry,)), folder / "checkpoints.lock")


def test_a_file_beside_a_checkpoint_of_a_lock_is_no_link_out_of_its_folder(folder):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    save_file({"fc.weight": np.ones((60, 50))}, folder / "net.safetensors")
    (folder / "adapter_config.json").symlink_to("../outside/notes")
    status, _, err = run(folder, "weights", "net.safetensors")  # a file that the user names
    assert (status, "leads out" in err) == (1, False)
    record_of(folder, folder / "net.safetensors")
    status, _, err = run(folder, "weights", "net")
    assert status == 1
    assert "adapter_config.json leads out of the lock's folder by a link" in err


@pytest.mark.parametrize("is_link", [False, True])
def test_the_base_of_an_adapter_is_in_the_folder_of_the_lock(folder, is_link):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    rng = np.random.default_rng(0)
    updates = {f"base_model.model.fc.lora_{n}.weight": rng.normal(size=s) for n, s in SIZES.items()}
    save_file(updates, folder / "adapter_model.safetensors")
    base = folder.parent / "outside"
    save_file({"fc.weight": rng.normal(size=(60, 60))}, base / "model.safetensors")
    named = "../outside"
    if is_link:
        named = "./base"
        (folder / "base").symlink_to(base)
    config = {"peft_type": "LORA", "lora_alpha": 8, "r": 4, "base_model_name_or_path": named}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    record_of(folder, folder / "adapter_model.safetensors")
    _, out, err = run(folder, "weights", "net")
    assert "merges them with their base" in out + err


SIZES = {"A": (4, 60), "B": (60, 4)}


def test_a_file_that_is_swapped_while_it_is_opened_is_refused(folder, monkeypatch):
    path, other = folder / "a", folder.parent / "outside" / "notes"
    path.write_bytes(b"publish")
    file, real = find_file(path), os.open

    def swapped(name, *arguments, **settings):
        path.unlink()
        path.symlink_to(other)
        return real(name, *arguments, **settings)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(ValueError, match="changed since it was opened"):
        open_file(file)


def test_modules_in_the_working_folder_are_not_imported(folder):
    from support.commands import run as run_new

    marked = "open('ran', 'w')\n"
    for name in ("numpy", "xarray", "torch", "tomllib", "click", "safetensors"):
        (folder / f"{name}.py").write_text(marked)
    assert run_new(folder, "lock", "--init")[0] == 0
    assert run_new(folder, "list")[0] == 0
    assert not (folder / "ran").exists()
