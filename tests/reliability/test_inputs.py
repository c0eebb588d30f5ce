"""Every command refuses every kind of input that it cannot use: in one line that names the file."""

import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import specdiag
from specdiag.cli.main import main
from specdiag.training.readings import Reading, write_readings
from support import toy
from support.hostile_datasets import write_all
from support.reliability import record

HEADER = b"step,name,norm,rank,alpha,alpha_low,alpha_high\n"
CLAIMS = """
from specdiag.transfer.claims import Claim

CLAIMS = (Claim(text="Children differ", value=lambda get: get("child/net0", "r2")),)
"""
# What a command reads -> its forms, with the name of the file for each `?`.
FORMS = {
    "checkpoint": (
        "alpha ?",
        "alpha ? -o out.nc",
        "alpha ? --plot out",
        "alpha adapter.safetensors --base ?",
        "alpha ok.safetensors --initialisation ?",
        "weights ?",
        "export ? out.safetensors",
        "compare ok.safetensors ?",
        "compare ? ok.safetensors",
        "compare ok.safetensors --against ?",
        "compare ok.safetensors ? --delta",
        "watch ? ok.safetensors",
    ),
    "lock": (
        "list --lock ?",
        "lock --lock ?",
        "lock --check --lock ?",
        "fetch base/net --lock ?",
        "train base/net --lock ?",
        "spectra --lock ? -o out.nc",
        "simulate out --lock ?",
        "features base/net --lock ?",
        "verify spectra.nc --lock ?",
    ),
    "npy": ("features ?", "features ok.npy ?", "features ok.npy --groups ? -o out.nc"),
    "npz": ("features ?", "features ? --name *", "features ok.npy --groups ?"),
    "h5": ("features ?", "features ok.npy --groups ?"),
    "nc": ("features ?", "figures ? -o out", "report ? -o out.html", "link ?", "verify ?"),
    "csv": (
        "figures alpha.nc ? -o out",
        "report alpha.nc ? -o out.html",
        "watch ?",
        "features ok.npy --groups ?",
    ),
    "json": ("report spectra.nc --claims ? -o out.html",),
}
CELLS = [(kind, form) for kind, forms in FORMS.items() for form in forms]


def bind(path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


# What is no regular file.
NODES = {
    "pipe": os.mkfifo,
    "socket": bind,
    "folder": Path.mkdir,
    "missing": Path.absolute,  # makes nothing
    "loop of links": lambda path: path.symlink_to(path),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "empty device": lambda path: path.symlink_to("/dev/null"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with a file of each kind that a command reads."""
    folder, before = tmp_path_factory.mktemp("study"), Path.cwd()
    os.chdir(folder)
    toy.make(folder)
    (folder / "recipes" / "_claims.py").write_text(CLAIMS)
    for command in ("lock --init", "train --all", "spectra -o spectra.nc"):
        assert command_line(command.split())[0] == 0
    rng = np.random.default_rng(0)
    weights = {f"{i}.weight": rng.standard_normal((60, 50), np.float32) for i in range(2)}
    save_file(weights, "ok.safetensors")
    parts = {"lora_A": (60, 50), "lora_B": (64, 60)}
    lora = {f"a.{n}.weight": rng.standard_normal(s, np.float32) for n, s in parts.items()}
    save_file(lora, "adapter.safetensors")
    specdiag.save_spectra(specdiag.alpha("ok.safetensors", "ok.safetensors"), "alpha.nc")
    write_readings(Path("run.csv"), [Reading(step=1, name="a", norm=1.0, rank=3, alpha=2.0)])
    np.save("ok.npy", rng.standard_normal((30, 3)))
    yield folder
    os.chdir(before)


def command_line(arguments):
    """Run a command in this process; return its status, and whether it ended with an exception."""

    def stop(*_):
        raise AssertionError(f"{' '.join(arguments)} hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    sys.argv = ["specdiag", *arguments]
    try:
        main()
    except SystemExit as error:
        return error.code, ""
    except Exception as error:  # noqa: BLE001 - a user would see its traceback
        return -1, repr(error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return 0, ""


def contents(folder):
    """Return the content of files that no form of a command is meant for."""
    rng = np.random.default_rng(1)
    whole = {
        "lock": (folder / "checkpoints.lock").read_bytes(),
        "nc": (folder / "spectra.nc").read_bytes(),
        "csv": (folder / "run.csv").read_bytes(),
        "checkpoint": (folder / "ok.safetensors").read_bytes(),
    }
    yield from ((f"a whole {kind}", kind, data) for kind, data in whole.items())
    yield from ((f"half a {kind}", "", data[: len(data) // 2]) for kind, data in whole.items())
    for name, data in {
        "nothing": b"",
        "random bytes": rng.bytes(5000),
        "zeros": bytes(5000),
        "a web page": b"<!doctype html><html></html>",
        "JSON": b'{"a": [1, 2]}',
        "deep JSON": b"[" * 100_000,
        "Latin-1": b"\xe9\xe8;\xff" * 50,
        "UTF-16": "step,name\n1,a\n".encode("utf-16"),
        "a long line": b"a," * 200_000,
        "a long cell": b'step,name,"' + b"x" * 200_000,
        "the begin of HDF5": b"\x89HDF\r\n\x1a\n" + bytes(500),
        "an empty archive": b"PK\x05\x06" + bytes(18),
        "large whole numbers": HEADER + b"9" * 400 + b",a,1,5,2,1,3\n",
        "larger whole numbers": HEADER + b"9" * 5000 + b",a,1,5,2,1,3\n",
        "numbers that no training has": HEADER + b"-4,a,1e400,0,1e308,-1e308,1e308\n",
        "carriage returns": HEADER.replace(b"\n", b"\r") + b"1,a\x00\r",
    }.items():
        yield name, "", data


def refused(form, name, capfd):
    """Assert that a form of a command refuses a file: in one line that names it."""
    status, error = command_line(form.replace("?", name).split())
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert (status in (1, 2), error) == (True, ""), (form, name, status)
    assert Path(name).name in lines[-1] or os.path.realpath(name) in lines[-1], (form, lines)
    assert status == 2 or len(lines) == 1, (form, name, lines)
    assert not list(Path().glob("out*")), (form, name)


@pytest.mark.parametrize(("kind", "form"), CELLS)
def test_what_is_no_regular_file_is_refused_before_it_is_opened(study, kind, form, capfd):
    folder = study / "nodes"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, make in NODES.items():
        path = folder / f"{name.replace(' ', '-')}.{kind}"
        make(path)
        refused(form, f"nodes/{path.name}", capfd)
    record("inputs", commands=len({form.split()[0] for _, form in CELLS}), forms=len(CELLS))
    record("inputs", kinds_of_nodes=len(NODES))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "form"), CELLS)
def test_a_damaged_or_other_file_is_refused_in_one_line(study, kind, form, capfd):
    n = 0
    for name, of, data in contents(study):
        path = study / f"damaged.{'pt' if kind == 'checkpoint' else kind}"
        path.write_bytes(data)
        if of != kind:
            refused(form, path.name, capfd)
            n += 1
        assert path.read_bytes() == data, name
    record("inputs", kinds_of_content=n + 1)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS["nc"])
def test_a_hostile_dataset_is_refused_by_every_command(study, form, capfd, tmp_path):
    cases = write_all(study / "alpha.nc", tmp_path)
    for path in cases:
        shutil.move(path, study / "hostile.nc")
        refused(form, "hostile.nc", capfd)
    record("inputs", hostile_Datasets=len(cases))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all files")
@pytest.mark.parametrize(("kind", "form"), CELLS)
def test_a_file_without_permission_is_refused(study, kind, form, capfd):
    path = study / f"secret.{kind}"
    path.write_bytes(b"secret")
    path.chmod(0)
    refused(form, path.name, capfd)
    path.unlink()
