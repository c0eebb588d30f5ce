"""Programs of torch.export and torch files inside zip archives; other archives are named."""

import contextlib
import gzip
import io
import json
import random
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from specdiag.checkpoint.reader import open_checkpoint, tensor_digest
from support import corpus


def network():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(16, 24), nn.BatchNorm1d(24), nn.Linear(24, 16, bias=False))
    layers[2].weight = nn.Parameter(layers[0].weight.detach().T)  # a view with other strides
    return layers.eval()


def exported(path, module=None, **options):
    program = torch.export.export(module or network(), (torch.randn(2, 16),))
    torch.export.save(program, path, **options)
    return path


def test_a_program_of_torch_export_has_the_tensors_of_its_state_dict(tmp_path):
    path = exported(tmp_path / "m.pt2")
    checkpoint = open_checkpoint(path)
    state = torch.export.load(path).state_dict
    assert tensor_digest(checkpoint) == tensor_digest(dict(state))
    roles = {t.name: t.role for t in checkpoint.tensors}
    assert roles["1.running_mean"] == "buffer"
    assert roles["0.weight"] == roles["1.weight"] == ""


def test_tied_weights_of_a_program_are_one(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    checkpoint = open_checkpoint(exported(tmp_path / "m.pt2", Tied()))
    identities = {t.name: t.identity for t in checkpoint.tensors}
    assert identities["a.weight"] == identities["b.weight"] is not None


def test_the_state_dict_of_an_older_program_is_read(tmp_path):
    content = io.BytesIO()
    torch.save(network().state_dict(), content)
    example = io.BytesIO()
    torch.save((torch.ones(3, 3),), example)
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as file:
        file.writestr("version", "5.1")
        file.writestr("serialized_exported_program.json", "{}")
        file.writestr("serialized_state_dict.json", content.getvalue())
        file.writestr("serialized_constants.json", example.getvalue())
        file.writestr("serialized_example_inputs.pt", example.getvalue())
    assert tensor_digest(tmp_path / "m.pt2") == tensor_digest(network())


def edited(path, change):
    """Write a program again with another table of weights."""
    with zipfile.ZipFile(path) as file:
        records = {name: file.read(name) for name in file.namelist()}
    (name,) = (n for n in records if n.endswith("_weights_config.json"))
    table = json.loads(records[name])
    records[name] = json.dumps(change(table) or table).encode()
    with zipfile.ZipFile(path, "w") as file:
        for record, data in records.items():
            file.writestr(record, data)
    return path


def meta(**changes):
    return lambda table: table["config"]["0.weight"]["tensor_meta"].update(changes)


def sizes(*numbers):
    return [{"as_int": number} for number in numbers]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda _: [1], "no table of weights"),
        (lambda t: t.update(config=[]), "no table of weights"),
        (lambda t: t["config"].update({"0.weight": 7}), "'0.weight' is not described"),
        (meta(sizes=sizes(24, 2**40)), "reaches element"),
        (meta(sizes=sizes(-1, 16)), "negative"),
        (meta(sizes=sizes(2**62, 2**62)), "2\\*\\*63 bytes"),
        (meta(sizes="ab"), "whole numbers"),
        (meta(sizes=[{"as_expr": "s0"}]), "whole numbers"),
        (meta(strides=sizes(1)), "offset or strides are invalid"),
        (meta(strides=sizes(2**40, 1)), "reaches element"),
        (meta(storage_offset={"as_int": 10**9}), "reaches element"),
        (meta(storage_offset=None), "offset or strides are invalid"),
        (lambda t: t["config"]["0.weight"].update(path_name="../secret"), "storage is missing"),
        (lambda t: t["config"]["0.weight"].update(path_name=7), "storage is missing"),
    ],
)
def test_a_broken_table_of_weights_is_refused_in_one_line(change, expected, tmp_path):
    path = edited(exported(tmp_path / "m.pt2"), change)
    with pytest.raises(ValueError, match=expected) as caught:
        open_checkpoint(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (meta(dtype=99), "its dtype is not supported"),
        (meta(dtype="7"), "its dtype is not supported"),
        (meta(strides=sizes(0, 1)), "expanded (stride 0)"),
        (lambda t: t["config"]["0.weight"].update(use_pickle=True), "which is pickled"),
    ],
)
def test_a_weight_of_a_program_that_cannot_be_read_is_listed(change, problem, tmp_path):
    tensors = open_checkpoint(edited(exported(tmp_path / "m.pt2"), change)).tensors
    assert problem in {t.name: t.problem for t in tensors}["0.weight"]
    assert len(tensors) == 8


def test_mutations_of_a_program_are_refused_or_noticed(tmp_path):
    data = exported(tmp_path / "m.pt2").read_bytes()
    random.seed(0)
    for _ in range(150):
        mutant = bytearray(data)
        for _ in range(3):
            mutant[random.randrange(len(data))] = random.randrange(256)
        with contextlib.suppress(ValueError):
            for tensor in open_checkpoint(corpus.write(tmp_path, bytes(mutant))).tensors:
                if not tensor.problem:
                    tensor.read()


def policy(path, method=zipfile.ZIP_STORED):
    """Write a zip archive as Stable-Baselines3 does, with a policy and its optimizer."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 16)).sum().backward()
    optimizer.step()
    files = {"policy.pth": model.state_dict(), "policy.optimizer.pth": optimizer.state_dict()}
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("data", "{}")
        for name, value in (files | {"pytorch_variables.pth": {}}).items():
            content = io.BytesIO()
            torch.save(value, content)
            file.writestr(name, content.getvalue())
    return model


def test_the_policy_in_a_zip_archive_is_read_and_its_optimizer_is_not(tmp_path):
    model = policy(tmp_path / "agent.zip")
    checkpoint = open_checkpoint(tmp_path / "agent.zip")
    assert tensor_digest(checkpoint) == tensor_digest(model)
    assert checkpoint.notes == ("read from 'policy.pth' in the archive",)
    assert tensor_digest(tmp_path) == tensor_digest(model)


def test_a_zip_archive_of_several_networks_names_them(tmp_path):
    policy(tmp_path / "agent.zip", zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"files \(policy.pth, policy.optimizer.pth, .*unpack it"):
        open_checkpoint(tmp_path / "agent.zip")
    content = io.BytesIO()
    torch.save(network().state_dict(), content)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as file:
        file.writestr("run/a.pth", content.getvalue())
        file.writestr("run/b.pth", content.getvalue())
    with pytest.raises(ValueError, match=r"zip archive of files \(run/a.pth, run/b.pth\); unpack"):
        open_checkpoint(tmp_path / "two.zip")


@pytest.mark.parametrize("payload", corpus.payloads(""))
def test_nothing_in_a_file_inside_an_archive_is_ever_run(payload, tmp_path):
    marker = tmp_path / "marker"
    body = corpus.table(w=corpus.tensor(), x=corpus.payloads(f"touch {marker}")[payload])
    with zipfile.ZipFile(tmp_path / "agent.zip", "w") as file:
        file.writestr("policy.pth", corpus.torch_zip(body))
    with contextlib.suppress(ValueError):
        open_checkpoint(tmp_path / "agent.zip")
    assert not marker.exists()


def test_archives_of_other_kinds_are_named_with_how_to_unpack_them(tmp_path):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("model_weights.ckpt"))
    for name, data, expected in (
        ("m.nemo", content.getvalue(), "a tar archive: unpack it with 'tar -xf'"),
        ("m.tar.gz", gzip.compress(content.getvalue()), "a tar archive: unpack it with 'tar -xzf'"),
        ("m.pt.gz", gzip.compress(corpus.GOOD), "compressed by gzip: gunzip it first"),
        ("m.gz", b"\x1f\x8b" + bytes(20), "compressed by gzip: gunzip it first"),
        ("m.pth", b"sys_info\0" + content.getvalue()[9:], "written by torch 0.1"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=expected):
            open_checkpoint(tmp_path / name)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
def test_traced_programs_are_read_and_frozen_ones_are_named(tmp_path):
    model = network()
    torch.jit.save(torch.jit.trace(model, torch.randn(2, 16)), tmp_path / "traced.pt")
    names = {t.name: t for t in open_checkpoint(tmp_path / "traced.pt").tensors}
    assert (names["0.weight"].read() == model[0].weight.detach().numpy()).all()
    assert np.isfinite(names["2.weight"].read()).all()
    torch.jit.save(torch.jit.freeze(torch.jit.script(model)), tmp_path / "frozen.pt")
    with pytest.raises(ValueError, match="a frozen TorchScript program"):
        open_checkpoint(tmp_path / "frozen.pt")
