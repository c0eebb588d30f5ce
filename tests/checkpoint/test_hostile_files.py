"""No file makes the reader run code, hang or overflow; errors are ValueError or OSError."""

import json
import os
import pickle
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from specdiag.checkpoint.export import export
from specdiag.checkpoint.reader import open_checkpoint
from support import corpus
from support.hostile import mutate


def read_all(checkpoint):
    return {t.name: t.read() for t in checkpoint.tensors if t.problem is None}


@pytest.mark.parametrize("kind", corpus.REFUSED)
def test_a_broken_file_is_refused_with_the_reason_in_one_line(kind, tmp_path):
    data, expected = corpus.REFUSED[kind]
    path = corpus.write(tmp_path, data)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert expected in message
    assert path.name in message
    assert len(message.splitlines()) == 1
    assert len(message) < 400


@pytest.mark.parametrize("kind", corpus.ODD)
def test_an_odd_file_can_be_opened_and_read(kind, tmp_path):
    checkpoint = open_checkpoint(corpus.write(tmp_path, corpus.ODD[kind]))
    assert read_all(checkpoint)["w"].tolist() == [1, 1, 1, 1]
    json.dumps(checkpoint.metadata, allow_nan=False)
    assert len(json.dumps(checkpoint.metadata)) < 20_000_000


@pytest.mark.parametrize("kind", corpus.BAD_VALUES)
def test_damaged_values_raise_when_they_are_read(kind, tmp_path):
    data, expected = corpus.BAD_VALUES[kind]
    checkpoint = open_checkpoint(corpus.write(tmp_path, data))
    with pytest.raises(ValueError, match=expected) as caught:
        checkpoint.tensors[0].read()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", corpus.UNREADABLE)
def test_a_tensor_that_cannot_be_read_is_listed_with_its_problem(kind, tmp_path):
    data, expected = corpus.UNREADABLE[kind]
    (tensor,) = open_checkpoint(corpus.write(tmp_path, data)).tensors
    assert tensor.name == "w"
    assert expected in tensor.problem
    with pytest.raises(ValueError, match="cannot be read"):
        tensor.read()


@pytest.mark.parametrize("position", corpus.POSITIONS)
@pytest.mark.parametrize("payload", corpus.payloads(""))
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_nothing_in_a_pickle_is_ever_run(container, payload, position, tmp_path):
    marker = tmp_path / "marker"
    body = corpus.POSITIONS[position](corpus.payloads(f"touch {marker}")[payload])
    data = corpus.torch_zip(body) if container == "zip" else corpus.legacy(body)
    try:
        checkpoint = open_checkpoint(corpus.write(tmp_path, data))
    except ValueError:
        pass
    else:
        read_all(checkpoint)
    assert not marker.exists()


@pytest.mark.parametrize("payload", ["REDUCE", "STACK_GLOBAL", "INST", "OBJ", "a builtin", "map"])
def test_the_payloads_run_in_pythons_own_unpickler(payload, tmp_path):
    marker = tmp_path / "marker"
    protocol = b"\x80\x04" if payload == "STACK_GLOBAL" else b""
    pickle.loads(protocol + corpus.payloads(f"touch {marker}")[payload] + b".")
    assert marker.exists()


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    with pytest.raises(ValueError, match="not a regular file"):
        open_checkpoint(corpus.pipe(tmp_path))


def test_a_shard_that_is_a_pipe_is_refused(tmp_path):
    corpus.pipe(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "pipe.pt"}}')
    with pytest.raises(ValueError, match="not a regular file"):
        open_checkpoint(tmp_path)


def test_a_device_is_refused():
    with pytest.raises(ValueError, match="not a regular file"):
        open_checkpoint(os.devnull)


def test_messages_escape_all_but_printable_characters(tmp_path):
    path = tmp_path / "gr\u00f6\u00dfe\n\x1b[2J\u202e.pt"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="empty") as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith("gr\u00f6\u00dfe\\n\\x1b[2J\\u202e.pt: ")


def test_a_missing_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "gone.pt")


def test_a_file_that_changes_after_opening_is_noticed(tmp_path):
    path = corpus.write(tmp_path, corpus.GOOD)
    tensor = open_checkpoint(path).tensors[0]
    path.write_bytes(corpus.GOOD + b"more")
    with pytest.raises(ValueError, match="changed since it was opened"):
        tensor.read()


def test_a_file_that_vanishes_after_opening_is_an_os_error(tmp_path):
    path = corpus.write(tmp_path, corpus.GOOD)
    tensor = open_checkpoint(path).tensors[0]
    path.unlink()
    with pytest.raises(OSError, match=r"file\.pt"):
        tensor.read()


def test_a_sparse_file_larger_than_memory_can_be_opened_and_its_small_tensor_read(tmp_path):
    size = 2**40
    header = {
        "huge": corpus.entry(shape=(size // 4,), offsets=(0, size)),
        "w": corpus.entry(offsets=(size, size + 16)),
    }
    path = corpus.write(tmp_path, corpus.safetensors_file(header))
    os.truncate(path, path.stat().st_size + size + 16)
    huge, small = open_checkpoint(path).tensors
    assert huge.shape == (size // 4,)
    assert small.read().tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["torch zip", "legacy", "safetensors"])
def test_every_truncation_is_refused_or_noticed(kind, tmp_path):
    data = corpus.honest_files()[kind]
    lengths = {*range(0, len(data), 37), *range(len(data) - 40, len(data))}
    for length in sorted(lengths):
        with pytest.raises(ValueError):
            read_all(open_checkpoint(corpus.write(tmp_path, data[:length])))


def fuzz(tmp_path, n_mutants, seed):
    """Read mutants of valid files; return the number of those that gave all values."""
    rng = random.Random(seed)
    files = corpus.honest_files()
    (tmp_path / "one.safetensors").write_bytes(files["safetensors"])
    weight_map = dict.fromkeys(corpus.honest_arrays(), "one.safetensors")
    files["index"] = json.dumps({"weight_map": weight_map}).encode()
    files["whole pickle"] = corpus.torch_zip(corpus.POSITIONS["as a key"](b"K\x01"))
    originals = corpus.honest_arrays()
    originals["twin"] = originals["half"]
    export(originals | {"words": {"a": 1}}, tmp_path / "out.safetensors")
    files["export"] = (tmp_path / "out.safetensors").read_bytes()
    kinds = list(files)
    survivors = 0
    for index in range(n_mutants):
        kind = kinds[index % len(kinds)]
        try:
            values = read_all(open_checkpoint(corpus.write(tmp_path, mutate(files[kind], rng))))
        except (ValueError, OSError):
            continue
        survivors += 1
        if kind in ("torch zip", "export"):
            assert_same_or_absent(values, originals)
    return survivors


def assert_same_or_absent(values, originals):
    for name, array in values.items():
        assert array.dtype == originals[name].dtype
        np.testing.assert_array_equal(array, originals[name])


def test_mutated_files_raise_only_value_and_os_errors(tmp_path):
    survivors = fuzz(tmp_path, 2000, seed=1)
    assert 0 < survivors < 2000


@pytest.mark.slow
def test_many_mutated_files_raise_only_value_and_os_errors(tmp_path):
    assert 0 < fuzz(tmp_path, 5000, seed=2) < 5000


def test_mutated_pickles_raise_only_value_errors(tmp_path):
    """The mutants above fail at the checksum of the pickle; here the checksum is correct."""
    rng = random.Random(3)
    bodies = [
        corpus.table(w=corpus.tensor(), x=value, y=corpus.laughs(5, b"K\x01"))
        for value in corpus.payloads(f"touch {tmp_path / 'marker'}").values()
    ]
    for index in range(2000):
        body = mutate(bodies[index % len(bodies)], rng)
        try:
            read_all(open_checkpoint(corpus.write(tmp_path, corpus.torch_zip(body))))
        except ValueError:
            continue
    assert not (tmp_path / "marker").exists()


def test_tuples_nested_400_000_deep_do_not_overflow_the_stack(tmp_path):
    """A stack overflow ends a process, so the test opens the file in another one."""
    deep = corpus.nested(b"", b"\x85", 400_000)
    path = corpus.write(tmp_path, corpus.with_value(deep))
    code = f"from specdiag.checkpoint.reader import open_checkpoint; open_checkpoint({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


FLOODS = {
    "dicts": b"}" * 5_900_000,
    "sets": b"\x8f" * 5_900_000,
    "a list of frozen sets": b"(" + b"(\x91" * 499_000 + b"l",
    "a list of dicts of one entry": b"(" + b"}NNs" * 499_000 + b"l",
    "a list of extension codes": (
        b"(" + b"".join(b"\x84" + i.to_bytes(4, "little") for i in range(499_000)) + b"l"
    ),
}


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux reports the peak of the memory there"
)
@pytest.mark.parametrize(
    "kind",
    [
        *("dicts", "sets", "a list of frozen sets"),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in [*FLOODS][3:]),
    ],
)
def test_a_flood_of_containers_takes_little_memory(kind, tmp_path):
    path = corpus.write(tmp_path, corpus.with_value(FLOODS[kind]))
    code = (
        "from specdiag.checkpoint.reader import open_checkpoint\n"
        f"try: open_checkpoint({str(path)!r})\n"
        "except ValueError as error: assert 'more than 500,000' in str(error)\n"
        "status = open('/proc/self/status').read()\n"
        "print(status.partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400 * 2**10  # KiB; Python and NumPy take about 30 MiB of it


def test_28_000_tensors_are_within_the_limits(tmp_path):
    tensors = b"".join(corpus.text(f"layer.{i}") + corpus.tensor() for i in range(28_000))
    path = corpus.write(tmp_path, corpus.torch_zip(b"}(" + tensors + b"u"))
    assert len(open_checkpoint(path).tensors) == 28_000


def test_reading_gives_no_warnings(tmp_path):
    path = corpus.write(tmp_path, corpus.with_value(b"S'caf\\xe9'\n"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_checkpoint(path).metadata == {"x": "<builtins.bytes>"}
