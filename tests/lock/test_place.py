import re
import sys

import pytest

from specdiag.files import OutsideError
from specdiag.lock.place import beside, inside


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "lock"
    (folder / "checkpoints").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.ckpt").write_bytes(b"private")
    return folder


def test_a_file_of_a_lock_is_below_its_folder_also_if_it_is_missing(root):
    assert inside(root, "checkpoints/a.ckpt") == root.resolve() / "checkpoints" / "a.ckpt"
    assert inside(root, "not/yet/a.ckpt") == root.resolve() / "not" / "yet" / "a.ckpt"


def test_links_within_the_folder_are_followed(root):
    (root / "desk").symlink_to("checkpoints")
    (root / "checkpoints" / "b.ckpt").symlink_to("a.ckpt")
    assert inside(root, "desk/b.ckpt") == root.resolve() / "checkpoints" / "b.ckpt"


def test_a_lock_in_a_folder_that_is_a_link_is_read(root, tmp_path):
    (tmp_path / "here").symlink_to(root)
    assert inside(tmp_path / "here", "checkpoints/a.ckpt") == inside(root, "checkpoints/a.ckpt")


LINKS = {
    "the file": ("checkpoints/a.ckpt", "../../elsewhere/a.ckpt"),
    "the file, to one that is missing": ("checkpoints/a.ckpt", "../../elsewhere/new"),
    "a folder": ("checkpoints/deep", "../../elsewhere"),
    "a folder, by an absolute path": ("checkpoints/deep", "/"),
    "a chain": ("checkpoints/deep", "../chain"),
    "the folder above": ("checkpoints/deep", "../.."),
}


@pytest.mark.parametrize("name", LINKS)
def test_a_link_out_of_the_folder_is_refused(root, name):
    link, target = LINKS[name]
    (root / "chain").symlink_to("../elsewhere")
    (root / link).symlink_to(target)
    relative = link if link.endswith(".ckpt") else f"{link}/a.ckpt"
    message = (
        f"{relative} leads out of the lock's folder by a link; put a file or folder in its place"
    )
    with pytest.raises(OutsideError, match=f"^{re.escape(message)}$"):
        inside(root, relative)


def test_a_file_beside_another_is_in_the_same_folder(root):
    target = inside(root, "checkpoints/a.ckpt")
    assert beside(target, "a.ckpt.evaluation.json").parent == target.parent
    (target.parent / "a.ckpt.log").symlink_to("../chain")
    with pytest.raises(OutsideError):
        beside(target, "a.ckpt.log")


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="pathlib resolves loops of links")
def test_a_loop_of_links_is_refused(root):
    (root / "checkpoints" / "loop").symlink_to("loop")
    with pytest.raises(OutsideError, match=r"^checkpoints/loop/a\.ckpt: a loop of links"):
        inside(root, "checkpoints/loop/a.ckpt")


def test_a_link_that_is_swapped_in_later_is_refused_at_the_next_use(root):
    assert inside(root, "checkpoints/a.ckpt")
    (root / "checkpoints").rename(root / "moved")
    (root / "checkpoints").symlink_to("../elsewhere")
    with pytest.raises(OutsideError):
        inside(root, "checkpoints/a.ckpt")
