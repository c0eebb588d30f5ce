"""Distributed checkpoints of torch are read as torch reads them, without running anything."""

import contextlib
import dataclasses
import io
import itertools
import os
import pickle
import random
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

import specdiag
from specdiag.checkpoint.reader import open_checkpoint, tensor_digest
from support import corpus
from support.commands import run
from support.paths import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


def save(state, folder, **options):
    dcp.save(state, checkpoint_id=str(folder), no_dist=True, **options)
    return folder


def trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 56))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 64)).sum().backward()
    optimizer.step()
    return model, optimizer


def oracle(folder):
    """Return the state dict that torch loads from a distributed checkpoint."""
    dcp_to_torch_save(folder, folder.parent / "whole.pt")
    return open_checkpoint(folder.parent / "whole.pt")


def assert_equal(ours, theirs):
    assert [(t.name, t.shape, t.dtype) for t in ours.tensors] == [
        (t.name, t.shape, t.dtype) for t in theirs.tensors
    ]
    assert tensor_digest(ours) == tensor_digest(theirs)
    assert ours.metadata == theirs.metadata
    assert ours.notes == theirs.notes


def in_file(module, optimizer):
    return {"model": module.state_dict(), "optimizer": optimizer.state_dict()}


STATES = {
    "a model and its optimizer": lambda m, o: {
        "model": m.state_dict(), "optimizer": o.state_dict(), "epoch": 3
    },
    "a state dict": lambda m, _: m.state_dict(),
    "lists, dtypes and scalars": lambda m, o: {
        "state_dict": m.state_dict() | {"half": torch.ones(3, 4).half(), "n": torch.tensor(7)},
        "solver": o.state_dict(),
        "hyper_parameters": {"lr": 0.1, "layers": [1, 2], "name": "x"},
    },
    "brain floats and nested lists": lambda *_: {
        "blocks": [{"w": torch.randn(8, 8).bfloat16()}, {"w": torch.eye(8)}], "flag": True
    },
    "an average beside it": lambda m, _: {"net": m.state_dict(), "net_ema": m.state_dict()},
}  # fmt: skip


@pytest.mark.parametrize("kind", STATES)
def test_a_distributed_checkpoint_is_read_as_the_file_that_torch_makes_of_it(kind, tmp_path):
    folder = save(STATES[kind](*trained()), tmp_path / "run")
    assert_equal(open_checkpoint(folder), oracle(folder))


def test_several_files_of_one_process_are_read(tmp_path):
    writer = FileSystemWriter(tmp_path / "run", single_file_per_rank=False)
    folder = save(in_file(*trained()), tmp_path / "run", storage_writer=writer)
    assert len([*folder.glob("*.distcp")]) > 4
    assert_equal(open_checkpoint(folder), oracle(folder))


def test_metadata_that_each_process_wrote_for_itself_are_put_together(tmp_path):
    state = in_file(*trained())
    whole = save(state, tmp_path / "run")
    names = [*state["model"]]
    write(tmp_path / "apart", {n: (state["model"][n], None) for n in names[:2]})
    (tmp_path / "apart" / ".metadata").rename(tmp_path / "apart" / "__0.metadata")
    write(
        tmp_path / "apart", {n: (state["model"][n], None) for n in names[2:]}, name="__1_0.distcp"
    )
    (tmp_path / "apart" / ".metadata").rename(tmp_path / "apart" / "__1.metadata")
    assert tensor_digest(tmp_path / "apart") == tensor_digest(whole)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_what_several_processes_wrote_is_read_as_torch_reads_it(world, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = [sys.executable, "-W", "ignore", str(ROOT / "tests/support/gloo_save.py")]
    ranks = [
        subprocess.Popen([*script, str(rank), str(world), str(tmp_path / "run"), str(port)])
        for rank in range(world)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0] * world
    checkpoint = open_checkpoint(tmp_path / "run")
    assert_equal(checkpoint, oracle(tmp_path / "run"))
    assert len(checkpoint.tensors) == 7
    assert checkpoint.metadata == {"epoch": 7}
    more = {t.name.removeprefix("more."): t.read() for t in checkpoint.tensors if "more" in t.name}
    assert tensor_digest(tmp_path / "run-safetensors") == tensor_digest(more)
    parts = open_checkpoint(tmp_path / "run-0.pt").tensors
    assert {t.name: t.shape for t in parts} == {name: W.shape for name, W in more.items()}
    assert all("one part of a distributed tensor" in t.problem for t in parts)


def archive(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def boxes(shape, cuts):
    """Return the chunks of a grid: `cuts` has the positions of the cuts along each axis."""
    sides = [list(itertools.pairwise([0, *c, n])) for n, c in zip(shape, cuts, strict=True)]
    return [tuple(zip(*box, strict=True)) or ((), ()) for box in itertools.product(*sides)]


def write(folder, tensors, name="__0_0.distcp", change=lambda metadata: metadata, **values):
    """Write a checkpoint whose tensors are cut into chunks, with the classes of torch.

    `tensors` has a tensor and its chunks (None: one) by name.
    """
    folder.mkdir(exist_ok=True)
    described, stored, data = {}, {}, b""
    for key, (tensor, chunks) in tensors.items():
        listed = []
        for start, stop in chunks or [((0,) * tensor.ndim, tuple(tensor.shape))]:
            part = tensor[tuple(itertools.starmap(slice, zip(start, stop, strict=True)))]
            content = archive(part.clone())
            stored[MetadataIndex(key, start)] = _StorageInfo(name, len(data), len(content))
            listed.append(ChunkStorageMetadata(torch.Size(start), part.size()))
            data += content
        properties = TensorProperties(dtype=tensor.dtype)
        described[key] = TensorStorageMetadata(properties, tensor.size(), listed)
    for key, value in values.items():
        described[key] = BytesStorageMetadata()
        stored[MetadataIndex(key)] = _StorageInfo(name, len(data), len(archive(value)))
        data += archive(value)
    (folder / name).write_bytes(data)
    metadata = Metadata(described, {key: (key,) for key in described}, stored)
    (folder / ".metadata").write_bytes(pickle.dumps(change(metadata) or metadata))
    return folder


@st.composite
def grids(draw):
    shape = draw(st.lists(st.integers(0, 7), max_size=4))
    cuts = [sorted(draw(st.sets(st.integers(1, n), max_size=3))) if n else [] for n in shape]
    return tuple(shape), cuts


@given(grid=grids(), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int64]))
@settings(max_examples=40, deadline=None)
def test_a_tensor_is_put_together_from_any_grid_of_chunks(grid, dtype, tmp_path_factory):
    shape, cuts = grid
    tensor = torch.arange(int(np.prod(shape))).reshape(shape).to(dtype)
    folder = write(
        tmp_path_factory.mktemp("grid") / "run", {"w": (tensor, boxes(shape, cuts)[::-1])}
    )
    (ours,) = open_checkpoint(folder).tensors
    (theirs,) = open_checkpoint({"w": tensor}).tensors
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert (ours.read() == theirs.read()).all()
    if shape:
        first = shape[0] // 3
        assert ours.read_rows is not None
        assert (ours.read_rows(first, shape[0]) == theirs.read()[first:]).all()
    torch_reads = torch.empty(shape, dtype=dtype)
    if 0 not in shape:
        dcp.load({"w": torch_reads}, checkpoint_id=str(folder), no_dist=True)
        assert torch.equal(torch_reads, tensor)


def test_rows_are_read_from_the_chunks_that_hold_them_and_from_no_other(tmp_path):
    tensor = torch.randn(8, 5)
    folder = write(tmp_path / "run", {"w": (tensor, boxes((8, 5), [[4], []]))})
    data = (folder / "__0_0.distcp").read_bytes()
    (folder / "__0_0.distcp").write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    (opened,) = open_checkpoint(folder).tensors
    assert (opened.read_rows(1, 4) == tensor[1:4].numpy()).all()
    with pytest.raises(ValueError, match="zip archive"):
        opened.read_rows(3, 5)


def test_what_trainers_keep_beside_the_chunks_is_part_of_the_metadata(tmp_path):
    folder = save({"model": trained()[0].state_dict()}, tmp_path / "run")
    torch.save({"epoch": 3, "hyper_parameters": {"lr": 0.1}, "seed": 1}, folder / "meta.pt")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.metadata == {"epoch": 3, "hyper_parameters": {"lr": 0.1}, "seed": 1}
    assert [t.name for t in checkpoint.tensors] == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("planner", [True, False])
def test_an_optimizer_of_flat_names_is_left_aside(planner, tmp_path):
    names = ("decoder.w", "optimizer.state.w", "chained_0.optimizer.state.w")
    tensors = {name: (torch.randn(9, 9), None) for name in names}
    change = lambda m: m if planner else dataclasses.replace(m, planner_data=None)  # noqa: E731
    checkpoint = open_checkpoint(write(tmp_path / "run", tensors, change=change))
    assert [t.name for t in checkpoint.tensors] == ["decoder.w"]
    assert checkpoint.notes == ("2 tensors under 'optimizer' are not part of the model",)


def test_flat_parameters_of_fsdp_are_named(tmp_path):
    flat = {"_fsdp_wrapped_module._flat_param": torch.ones(99)}
    torch.save(flat, tmp_path / "rank0.bin")
    folder = write(tmp_path / "run", {name: (tensor, None) for name, tensor in flat.items()})
    for path in (folder, tmp_path / "rank0.bin"):
        (note,) = open_checkpoint(path).notes
        assert note.startswith("flat parameters of FSDP ('_fsdp_wrapped_module._flat_param') hold")


def test_a_tensor_of_one_chunk_may_have_no_offsets_as_in_the_first_versions(tmp_path):
    def as_before(metadata):
        metadata.storage_data = {
            MetadataIndex(index.fqn): info for index, info in metadata.storage_data.items()
        }

    folder = write(tmp_path / "run", {"w": (torch.ones(9, 9), None)}, change=as_before)
    assert open_checkpoint(folder).tensors[0].read().sum() == 81


def test_compressed_chunks_are_listed_with_the_name_of_the_compression(tmp_path):
    def compress(metadata):
        for info in metadata.storage_data.values():
            info.transform_descriptors = ["stream.zstd/1"]

    folder = write(tmp_path / "run", {"w": (torch.ones(9, 9), None)}, change=compress)
    (tensor,) = open_checkpoint(folder).tensors
    assert tensor.problem == "stored as stream.zstd/1, which is not read"


def test_a_distributed_checkpoint_is_measured_compared_and_exported(tmp_path):
    model, optimizer = trained()
    folder = save(in_file(model, optimizer), tmp_path / "run")
    torch.save(model.state_dict(), tmp_path / "same.pt")
    assert specdiag.alpha(folder).layer.values.tolist() == ["0.weight", "2.weight"]
    digest = specdiag.export(folder, tmp_path / "out.safetensors")
    assert digest == tensor_digest(tmp_path / "same.pt")
    status, out, _ = run(tmp_path, "compare", folder, "same.pt")
    assert status == 0
    assert "identical" in out


@pytest.mark.parametrize("distributed", [False, True])
def test_files_of_torch_in_the_format_of_safetensors_are_read(distributed, tmp_path):
    state = trained()[0].state_dict()
    writer = HuggingFaceStorageWriter(str(tmp_path / "run"), save_distributed=distributed)
    folder = save(state, tmp_path / "run", storage_writer=writer)
    assert tensor_digest(folder) == tensor_digest(state)
    if distributed:
        assert open_checkpoint(folder).notes == (
            "put together from 1 file, as each process wrote its own",
        )
        (file,) = folder.iterdir()
        assert "name the folder to read all" in open_checkpoint(file).notes[0]


def damaged(**changes):
    """Return a change of the metadata that sets fields of the first archive."""

    def change(metadata):
        info = next(iter(metadata.storage_data.values()))
        for name, value in changes.items():
            setattr(info, name, value)

    return change


def entry(**changes):
    """Return a change of the metadata that sets fields of the first tensor."""

    def change(metadata):
        first = next(iter(metadata.state_dict_metadata.values()))
        for name, value in changes.items():
            setattr(first, name, value)

    return change


def as_first_chunk(metadata):
    first, second = metadata.storage_data.values()
    second.offset = first.offset


class Runs:
    """A pickle that makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def pairs(*boxes):
    return [ChunkStorageMetadata(torch.Size(at), torch.Size(size)) for at, size in boxes]


BROKEN = {
    "a file in the folder above": (damaged(relative_path="../secret.distcp"), "plain file name"),
    "an absolute path": (damaged(relative_path="/etc/passwd"), "plain file name"),
    "the folder above": (damaged(relative_path=".."), "plain file name"),
    "a path that is a number": (damaged(relative_path=7), "plain file name"),
    "a missing file": (damaged(relative_path="__7_0.distcp"), "'__7_0.distcp' is missing"),
    "a position behind the file": (damaged(offset=10**6), "ends behind"),
    "a huge length": (damaged(length=2**62), "ends behind"),
    "a negative position": (damaged(offset=-1), "position of 'w' is invalid"),
    "a position that is text": (damaged(offset="0"), "position of 'w' is invalid"),
    "two chunks in the same place": (as_first_chunk, "two entries share bytes"),
    "a chunk of 2**40 elements": (
        entry(size=torch.Size([2**40, 4]), chunks=pairs(((0, 0), (2**40, 4)))),
        "more elements than bytes",
    ),
    "a negative size": (entry(size=(-1, 4)), "negative"),
    "a size that is text": (entry(size="ab"), "whole numbers"),
    "65 axes": (entry(size=torch.Size([1] * 65)), "65 dimensions"),
    "chunks that are no list": (entry(chunks=7), "not a list"),
    "a chunk that is no chunk": (entry(chunks=[7]), "a ChunkStorageMetadata is expected"),
    "no dtype": (entry(properties=None), "the dtype of 'w' is invalid"),
    "no tensors": (lambda m: setattr(m, "state_dict_metadata", None), "it lists no tensors"),
    "no files": (lambda m: setattr(m, "storage_data", [1]), "it lists no tensors"),
    "a list in place of the metadata": (lambda m: [m], "a Metadata is expected"),
    "a path 100 levels deep": (
        lambda m: m.planner_data.update(w=("a",) * 100), "the path of 'w' is invalid"
    ),
    "a path that is a list": (
        lambda m: m.planner_data.update(w=["a"]), "the path of 'w' is invalid"
    ),
    "a path inside a tensor": (
        lambda m: m.planner_data.update(w=("a",), v=("a", "b")), "lies inside a tensor"
    ),
    "two tensors of one path": (
        lambda m: m.planner_data.update(w=("a",), v=("a",)), "'v' occurs twice"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_metadata_are_refused_in_one_line(kind, tmp_path):
    change, expected = BROKEN[kind]
    (tmp_path / "secret.distcp").write_bytes(archive(torch.ones(4, 4)))
    tensors = dict.fromkeys("wv", (torch.ones(4, 4), None))
    folder = write(tmp_path / "run", tensors, change=change)
    with pytest.raises((ValueError, FileNotFoundError), match=expected) as caught:
        open_checkpoint(folder)
    assert str(caught.value).startswith("run: ")
    assert len(str(caught.value).splitlines()) == 1


UNREADABLE = {
    "a hole": (entry(chunks=pairs(((0, 0), (2, 4)))), "8 elements of 16"),
    "an overlap": (
        entry(size=torch.Size([4, 6]), chunks=pairs(((0, 0), (4, 4)), ((0, 2), (4, 2)))),
        "overlap",
    ),
    "a chunk outside": (entry(size=torch.Size([2, 4])), "leaves the shape"),
    "another number of axes": (entry(size=torch.Size([16])), "another number of axes"),
    "an archive that is missing": (lambda m: m.storage_data.clear(), "0 elements of 16"),
    "an unknown dtype": (entry(properties=TensorProperties(torch.quint8)), "quint8"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_tensor_with_invalid_chunks_costs_no_other_tensor(kind, tmp_path):
    change, expected = UNREADABLE[kind]
    tensors = {"w": (torch.ones(4, 4), None)}
    if kind == "an overlap":
        tensors = {"w": (torch.ones(4, 6), [((0, 0), (4, 4)), ((0, 2), (4, 4))])}
    folder = write(tmp_path / "run", tensors, change=change)
    other = write(tmp_path / "other", {"good": (torch.eye(4), None)}, name="__1_0.distcp")
    for file in (".metadata", "__1_0.distcp"):
        target = "__1.metadata" if file == ".metadata" else file
        (other / file).rename(folder / target)
    bad, good = open_checkpoint(folder).tensors
    assert expected in bad.problem
    assert (good.read() == np.eye(4)).all()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (archive(torch.ones(2, 8)), "of \\(2, 8\\), not float32 of \\(4, 4\\)"),
        (archive(torch.ones(4, 4).double()), "a chunk is float64"),
        (archive({"w": torch.ones(4, 4)}), "is no tensor"),
        (b"x" * 2000, "zip archive"),
        (archive(torch.ones(4, 4))[:-40], "zip archive"),
    ],
    ids=["shape", "dtype", "no tensor", "no archive", "cut short"],
)
def test_a_chunk_that_is_not_what_the_metadata_say_is_an_error(content, expected, tmp_path):
    change = damaged(length=len(content))
    folder = write(tmp_path / "run", {"w": (torch.ones(4, 4), None)}, change=change)
    (folder / "__0_0.distcp").write_bytes(content)
    (tensor,) = open_checkpoint(folder).tensors
    with pytest.raises(ValueError, match=expected):
        tensor.read()


PLACES = {
    "as the metadata": lambda _, run: run,
    "as a field": lambda m, run: setattr(m, "version", run),
    "as a path": lambda m, run: m.planner_data.update(w=run),
    "as a size": lambda m, run: setattr(m.state_dict_metadata["w"], "size", run),
    "as a file": lambda m, run: damaged(relative_path=run)(m),
}


@pytest.mark.parametrize("place", PLACES)
def test_nothing_in_the_metadata_is_ever_run(place, tmp_path):
    run = Runs(tmp_path / "marker")
    folder = write(
        tmp_path / "run",
        {"w": (torch.ones(4, 4), None)},
        change=lambda metadata: PLACES[place](metadata, run),
    )
    with contextlib.suppress(ValueError):
        assert open_checkpoint(folder).tensors[0].read().sum() == 16
    assert not (tmp_path / "marker").exists()
    pickle.loads((folder / ".metadata").read_bytes())
    assert (tmp_path / "marker").exists()


def test_nothing_in_a_value_beside_the_tensors_is_ever_run(tmp_path):
    values = {"epoch": Runs(tmp_path / "marker"), "step": 3}
    folder = write(tmp_path / "run", {"w": (torch.ones(4, 4), None)}, **values)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.metadata == {"epoch": "<posix.mkdir>", "step": 3}
    assert not (tmp_path / "marker").exists()


def test_entries_of_the_file_beside_the_chunks_are_not_taken_for_chunks(tmp_path):
    folder = write(tmp_path / "run", {"w": (torch.ones(4, 4), None)}, epoch=3)
    paths = (
        b"torch.distributed\n_rebuild_from_chunks",
        b"torch.distributed.checkpoint.metadata\nBytesStorageMetadata",
    )
    for path in paths:
        for args in (b")", corpus.text("w") + b"\x85", b"]\x85"):
            node = b"c" + path + b"\n" + args + b"R"
            (folder / "meta.pt").write_bytes(corpus.torch_zip(corpus.table(x=node, step=b"K\x01")))
            checkpoint = open_checkpoint(folder)
            tensors = {t.name: t for t in checkpoint.tensors}
            assert checkpoint.metadata["epoch"] == 3
            assert tensors.pop("w").read().sum() == 16
            assert all("unsupported" in tensor.problem for tensor in tensors.values())


@pytest.mark.parametrize("transforms", [7, [7], ["a" * 1000], [[[]]], ["x"] * 10**6])
def test_any_description_of_a_compression_is_named_in_a_few_words(transforms, tmp_path):
    change = damaged(transform_descriptors=transforms)
    folder = write(tmp_path / "run", {"w": (torch.ones(4, 4), None)}, change=change)
    (tensor,) = open_checkpoint(folder).tensors
    assert tensor.problem.endswith("which is not read")
    assert len(tensor.problem) < 200


def test_a_huge_size_that_many_chunks_share_is_refused_at_once(tmp_path):
    size = (1,) * 10**6
    folder = write(tmp_path / "run", {"w": (torch.ones(4, 4), None)}, change=entry(size=size))
    with pytest.raises(ValueError, match="1,000,000 dimensions"):
        open_checkpoint(folder)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_file_of_chunks_that_is_no_regular_file_is_refused(kind, tmp_path):
    folder = write(tmp_path / "run", {"w": (torch.ones(4, 4), None)})
    (folder / "__0_0.distcp").unlink()
    (os.mkfifo if kind == "pipe" else os.mkdir)(folder / "__0_0.distcp")
    with pytest.raises(ValueError, match="not a regular file"):
        open_checkpoint(folder)


def test_every_truncation_and_many_mutations_are_refused_or_noticed(tmp_path):
    folder = write(tmp_path / "run", {"a.w": (torch.ones(6, 5), boxes((6, 5), [[2], [3]]))}, n=1)
    data = (folder / ".metadata").read_bytes()
    random.seed(0)
    versions = [data[:length] for length in range(0, len(data), 23)]
    for _ in range(300):
        mutant = bytearray(data)
        for _ in range(random.choice([1, 1, 3])):
            mutant[random.randrange(len(data))] = random.randrange(256)
        versions.append(bytes(mutant))
    for version in versions:
        (folder / ".metadata").write_bytes(version)
        with contextlib.suppress(ValueError, FileNotFoundError):
            for tensor in open_checkpoint(folder).tensors:
                if not tensor.problem:
                    tensor.read()


def test_a_checkpoint_without_its_metadata_is_named(tmp_path):
    folder = write(tmp_path / "run", {"w": (torch.ones(4, 4), None)})
    for file in (".metadata", "__0_0.distcp"):
        with pytest.raises(
            ValueError, match="of a distributed checkpoint of torch: name its folder"
        ):
            open_checkpoint(folder / file)
    (folder / ".metadata").rename(folder / ".metadata.tmp")
    with pytest.raises(FileNotFoundError, match="it was not written to its end"):
        open_checkpoint(folder)
    (folder / ".metadata.tmp").unlink()
    with pytest.raises(FileNotFoundError, match=r"^run: the file '.metadata' of this distributed"):
        open_checkpoint(folder)
