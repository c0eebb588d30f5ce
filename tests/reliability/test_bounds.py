"""A small file cannot make much work: names, shared elements, compressed zeros, exports."""

import json
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch
from click.testing import CliRunner

from specdiag.checkpoint.export import export
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import open_weights
from specdiag.cli.main import cli
from support.corpus import safetensors_file
from support.reliability import record

LONG = {"long": "a" * 1001, "deep": "a." * 100 + "b", "module": "module." * 50_000 + "w"}


def save_torch(path, name):
    torch.save({name: torch.ones(2, 2)}, path)


def save_legacy(path, name):
    torch.save({name: torch.ones(2, 2)}, path, _use_new_zipfile_serialization=False)


def save_safetensors(path, name):
    safetensors.numpy.save_file({name: np.ones((2, 2), np.float32)}, path)


def save_npz(path, name):
    np.savez(path, **{name: np.ones((2, 2))})


def save_msgpack(path, name):
    msgpack = pytest.importorskip("msgpack")
    array = msgpack.packb(((2, 2), "float32", np.ones(4, np.float32).tobytes()))
    path.write_bytes(msgpack.packb({name: msgpack.ExtType(1, array)}))


def save_gguf(path, name):
    text = name.encode()
    head = b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, len(text)) + text
    data = head + struct.pack("<IQQIQ", 2, 2, 2, 0, 0)
    path.write_bytes(data + bytes(-len(data) % 32) + np.ones(4, np.float32).tobytes())


def save_onnx(path, name):
    onnx = pytest.importorskip("onnx")
    stored = onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), name)
    graph = onnx.helper.make_graph([], "g", [], [], [stored])
    onnx.save(onnx.helper.make_model(graph), path)


WRITERS = {
    ".pt": save_torch,
    ".ckpt": save_legacy,
    ".safetensors": save_safetensors,
    ".npz": save_npz,
    ".msgpack": save_msgpack,
    ".gguf": save_gguf,
    ".onnx": save_onnx,
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("suffix", WRITERS)
def test_a_name_that_is_too_long_or_too_deep_is_refused_in_every_format(tmp_path, suffix, name):
    path = tmp_path / f"m{suffix}"
    try:
        WRITERS[suffix](path, LONG[name])
    except (ValueError, RuntimeError, struct.error) as error:
        pytest.skip(f"its library writes no such name: {type(error).__name__}")
    with pytest.raises(ValueError, match=r"name|damaged|deeper") as error:
        open_checkpoint(path)
    assert "m." in str(error.value)
    assert len(str(error.value)) < 400


def test_the_work_for_names_grows_with_their_length(tmp_path):
    header = {}
    for index in range(1000):
        offsets = [4 * index, 4 * index + 4]
        header["module." * 99 + str(index)] = {
            "dtype": "F32",
            "shape": [1],
            "data_offsets": offsets,
        }
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_file(header, bytes(4000)))
    assert open_checkpoint(path).tensors[5].name == "5"


def shifted_views(path, n=100, size=2**16):
    base = torch.randn(size + n)
    side = int(size**0.5)
    torch.save({f"w{i}": base[i : i + size].view(side, side) for i in range(n)}, path)


def test_views_that_share_their_elements_are_measured_up_to_a_bound(tmp_path):
    shifted_views(tmp_path / "m.pt")
    found = open_weights(tmp_path / "m.pt").tensors
    read = [w for w in found if not w.reason]
    assert len(read) == 2**22 // 2**16
    assert "out of proportion to a file of" in found[-1].reason


def test_an_export_of_shared_elements_is_refused_without_force(tmp_path):
    shifted_views(tmp_path / "m.pt", n=9)
    target = tmp_path / "out.safetensors"
    run = CliRunner().invoke(cli, ["export", str(tmp_path / "m.pt"), str(target)])
    assert isinstance(run.exception, ValueError)
    assert "--force" in str(run.exception)
    assert not target.exists()
    export(tmp_path / "m.pt", target, overwrite=True)
    assert target.stat().st_size > 9 * 2**18


def test_a_compressed_matrix_of_zeros_has_a_reason_and_no_null_is_drawn(tmp_path):
    path = tmp_path / "m.npz"
    np.savez_compressed(path, w=np.zeros((4000, 4000), np.float32))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    run = CliRunner().invoke(cli, ["alpha", str(path), "--json"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    layer = json.loads(run.stdout)["checkpoints"][0]["layers"][0]
    assert layer["status"] == "skipped"
    assert "out of proportion" in layer["reason"]
    assert peak < 2**26


def many_tensors(path):
    one = {"dtype": "F32", "shape": [1]}
    header = {
        f"layers.{i}.weight": one | {"data_offsets": [4 * i, 4 * i + 4]} for i in range(10**5)
    }
    path.write_bytes(safetensors_file(header, bytes(4 * 29_000)))


@pytest.mark.parametrize(
    "text", ["a." * 10**6 + "b = 1", "\n".join(f"[a{i}.b.c.d.e]" for i in range(150_000))]
)
def test_a_lock_of_many_levels_is_refused_before_it_is_parsed(tmp_path, text):
    lock = tmp_path / "checkpoints.lock"
    lock.write_text(text)
    run = CliRunner().invoke(cli, ["list", "--lock", str(lock)])
    assert "a key of more than 50 parts" in str(run.exception)


def many_records(path):
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(70_000):
            archive.writestr(f"m/data/{i}", b"")


def deep_pickle(path):
    torch.save({"w": torch.ones(2, 2), "x": list(range(10**6))}, path)


def many_matrices(path):
    one = {"dtype": "F32", "shape": [2, 2]}
    header = {
        f"l{i}.lm_head.weight": one | {"data_offsets": [16 * i, 16 * i + 16]} for i in range(29_000)
    }
    path.write_bytes(safetensors_file(header, bytes(16 * 29_000)))


LARGE = {
    "matrices": many_matrices,
    "tensors": many_tensors,
    "records": many_records,
    "list": deep_pickle,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LARGE)
def test_a_file_of_many_parts_is_read_or_refused_in_ten_seconds(tmp_path, kind):
    path = tmp_path / "m.pt"
    LARGE[kind](path)
    start = time.process_time()
    CliRunner().invoke(cli, ["weights", str(path)])
    seconds = time.process_time() - start
    assert seconds < 10
    record("bounds", **{f"seconds_for_a_file_of_many_{kind}": round(seconds, 1)})
