"""No command replaces a file that specdiag did not write, whatever leads to it."""

import hashlib
import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

import specdiag
from specdiag.cli.main import cli
from specdiag.training.monitor import SpectralMonitor
from specdiag.transfer.evaluation import write_evaluation
from support import toy
from support.collections_ import weights
from support.reliability import record

NET = "checkpoints/desk/base/net.ckpt"
OTHER = "checkpoints/desk/child/net0.ckpt"
# A command, and what it writes when its last word is a target: a file, or a file of a folder.
COMMANDS = {
    "alpha -o": (("alpha", NET, "-o"), "out.nc"),
    "alpha --plot": (("alpha", NET, "--plot"), "drawn/alpha_by_layer.png"),
    "alpha --plot of two": (("alpha", NET, OTHER, "--plot"), "drawn/00_net/alpha_by_layer.png"),
    "compare -o": (("compare", NET, OTHER, "-o"), "out.nc"),
    "compare --delta -o": (("compare", NET, OTHER, "--delta", "-o"), "out.nc"),
    "compare --plot svg": (("compare", NET, OTHER, "--plot"), "out.svg"),
    "compare --plot pdf": (("compare", NET, OTHER, "--plot"), "out.pdf"),
    "compare --plot png": (("compare", NET, OTHER, "--plot"), "out.png"),
    "spectra -o": (("spectra", "-o"), "out.nc"),
    "features --plot": (("features", "base/net", "--layer", "out", "--plot"), "out.svg"),
    "features -o": (("features", "features.npy", "-o"), "out.nc"),
    "features --plot, of a file": (("features", "features.npy", "--plot"), "out.pdf"),
    "figures -o": (
        ("figures", "data.nc", "--study", "checkpoints.lock", "-o"),
        "drawn/captions.txt",
    ),
    "figures -o, svg": (("figures", "data.nc", "-o"), "drawn/alpha_by_layer_00_base_net.svg"),
    "figures -o, pdf": (("figures", "data.nc", "-o"), "drawn/alpha_by_layer_00_base_net.pdf"),
    "report -o": (("report", "data.nc", "-o"), "out.html"),
    "watch -o": (("watch", NET, OTHER, "-o"), "out.html"),
    "watch -o, csv": (("watch", NET, OTHER, "-o"), "out.csv"),
    "watch -o, nc": (("watch", NET, OTHER, "-o"), "out.nc"),
    "watch --plot": (("watch", NET, OTHER, "--plot"), "out.svg"),
    "verify -o": (("verify", "data.nc", "-o"), "out.md"),
    "export": (("export", NET), "out.safetensors"),
    "export, its JSON": (("export", NET), "out.json"),
    "lock --init": (("lock", "--init", "--lock"), "out.lock"),
}
WITHOUT_FORCE = ("lock --init",)  # it replaces no file


CLAIMS = """
from specdiag.transfer.claims import Claim

CLAIMS = (Claim(text="R2", value=lambda get: get("base/net", "r2"), tolerance=0.1),)
"""
FIGURE = """
TITLE = "Nothing"


def reason_not_drawn(dataset):
    return "there is nothing to draw"


def plot(dataset):
    return None


def caption(dataset):
    return ""
"""


def kept(root):
    """Return the files that no command may change, by what they are."""
    (receipt,) = root.glob(f"{NET}.{'[0-9a-f]' * 16}.json")
    (side,) = root.glob(f"{NET}.{'[0-9a-f]' * 16}.nc")
    return {
        "lock": root / "checkpoints.lock",
        "replicate": root / "checkpoints.seed-43.lock",
        "recipe": root / "recipes" / "toy.py",
        "claims": root / "recipes" / "_claims.py",
        "figure": root / "figures" / "drawn.py",
        "checkpoint": root / NET,
        "checkpoint of a replicate": root / NET.replace("desk", "seed-43/desk"),
        "receipt": receipt,
        "side file": side,
        "table": root / f"{NET}.log.csv",
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with a lock and all that can lie beside it."""
    root = tmp_path_factory.mktemp("study")
    toy.make(root, children=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for line in ("lock --init", "train --missing", "train base/net --seed 43"):
            done = CliRunner().invoke(cli, line.split(), catch_exceptions=False)
            assert done.exit_code == 0, done.output
        done = CliRunner().invoke(cli, ["spectra", "-o", "data.nc"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    np.save(root / "features.npy", np.random.default_rng(0).normal(size=(50, 3)))
    (root / "recipes" / "_claims.py").write_text(CLAIMS)
    (root / "figures").mkdir()
    (root / "figures" / "drawn.py").write_text(FIGURE)
    return root


@pytest.fixture
def root(study, tmp_path, monkeypatch):
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    monkeypatch.chdir(folder)
    return folder


def digests(root):
    files = (p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if not p.is_symlink() and p.name != "log"
    }


def run(*words):
    return CliRunner().invoke(cli, [str(word) for word in words])


def lead(way, path, target):
    """Let the name of an output lead to a file that must stay; return the words for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if way == "symbolic link":
        path.symlink_to(os.path.relpath(target, path.parent))
    elif way == "two symbolic links":
        middle = path.parent / "middle"
        middle.unlink(missing_ok=True)
        middle.symlink_to(target)
        path.symlink_to(middle)
    else:
        path.hardlink_to(target)


def cells(root, words, output):
    """Yield words of a command line, and what must stay, for each way that leads to it."""
    path, folder = root / output, output.split("/")[0]
    given = path.parent if "/" in output else path
    if output.startswith("drawn/"):
        given = root / folder
    if "out.json" in output:
        given = path.with_suffix(".safetensors")
    forces = ([], ["--force"])
    read = {"data.nc", "features.npy"} & {*words}
    targets = kept(root) | ({"input": root / read.pop()} if read else {})
    for name, target in targets.items():
        for force in forces:
            if folder != "drawn" and given == path:
                yield f"{name}, named {force}", None, target, [*words, target, *force]
            for way in ("symbolic link", "two symbolic links", "hard link"):
                yield f"{name}, {way} {force}", way, target, [*words, given, *force]
    foreign = root / f"foreign{path.suffix}"
    yield "foreign, named", "named", foreign, [*words, given]
    for way in ("symbolic link", "two symbolic links", "hard link"):
        yield f"foreign, {way}", way, foreign, [*words, given]


COUNTED = {}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_replaces_what_it_did_not_make(root, name):
    words, output = COMMANDS[name]
    path = root / output
    (root / f"foreign{path.suffix}").write_bytes(b"a file of another program\n")
    before = digests(root)
    wrong, count = [], 0
    for cell, way, target, line in cells(root, words, output):
        if name in WITHOUT_FORCE and "--force" in line:
            continue
        if way == "named":
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, path)
        elif way:
            lead(way, path, target)
        done = run(*line)
        count += 1
        after = digests(root)
        lost = {file for file, digest in before.items() if after.get(file) != digest}
        is_kept = path.read_bytes() == target.read_bytes() if way else True
        message = done.stderr.strip().splitlines()[-1:] or [str(done.exception or "")]
        if lost or not is_kept or done.exit_code not in (1, 2) or not message:
            wrong.append((cell, done.exit_code, message, lost, is_kept))
        if way:
            path.unlink()
    assert wrong == []
    COUNTED[name] = count


def test_the_cells_are_counted():
    if len(COUNTED) == len(COMMANDS):
        record("outputs", ways_to_write=len(COUNTED), cells=sum(COUNTED.values()), files_lost=0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow) if words[0] in ("figures", "report") else n
        for n, (words, _) in COMMANDS.items()
        if n not in WITHOUT_FORCE
    ],
)
def test_an_output_of_the_same_type_is_replaced_and_another_file_by_force(root, name):
    words, output = COMMANDS[name]
    path = root / output
    given = root / "drawn" if output.startswith("drawn") else path
    if name == "export, its JSON":
        given = path.with_suffix(".safetensors")
    first = run(*words, given)
    assert first.exit_code == 0, first.output
    content = path.read_bytes()
    again = run(*words, given)
    # Weights are not replaced without --force, not even by those of the same checkpoint.
    assert again.exit_code == int("export" in name), again.output
    path.write_bytes(b"a file of another program\n")
    refused = run(*words, given)
    assert refused.exit_code == (1 if "export" in name else 2)
    message = str(refused.exception) if "export" in name else refused.stderr
    assert "--force" in message
    assert path.read_bytes() == b"a file of another program\n"
    forced = run(*words, given, "--force")
    assert forced.exit_code == 0, forced.output
    assert len(path.read_bytes()) == len(content)


def test_functions_replace_no_file_of_others_either(root):
    dataset = weights(1)
    for name, write in {
        "a.nc": lambda path: specdiag.save_spectra(dataset, path),
        "a.safetensors": lambda path: specdiag.export(root / NET, path),
        "a.json": lambda path: write_evaluation(path, {"session": 0.5}),
        "a.csv": lambda path: SpectralMonitor(log=path)(1, {}),
    }.items():
        path = root / name
        path.write_bytes(b"a file of another program\n")
        with pytest.raises((ValueError, OSError), match=name):
            write(path)
        assert path.read_bytes() == b"a file of another program\n"
