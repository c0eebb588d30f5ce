"""GGUF files as the gguf package writes them, damaged ones, and hostile ones."""

import random
import struct

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

import specdiag
from specdiag.checkpoint.reader import open_checkpoint
from support.hostile import MAX_MEMORY, mutated, peak_memory, refused

KINDS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0", "MXFP4"]


def write(path, tensors, kind="F32", **about):
    """Write arrays as the gguf package does; return what it dequantises them to."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_head_count(4)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    for key, value in about.items():
        getattr(writer, key)(value)
    values = {}
    for name, array in tensors.items():
        data = gguf.quantize(array, Kind[kind])
        writer.add_tensor(name, data, raw_dtype=Kind[kind])
        values[name] = gguf.dequantize(data, Kind[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", *KINDS])
def test_values_are_those_that_the_gguf_package_dequantises(kind, tmp_path, rng):
    arrays = {
        "blk.0.attn_q.weight": rng.standard_normal((64, 256)).astype(np.float32),
        "blk.0.ffn_up_exps.weight": rng.standard_normal((3, 5, 256)).astype(np.float32),
    }
    expected = write(tmp_path / "m.gguf", arrays, kind)
    tensors = open_checkpoint(tmp_path / "m.gguf").tensors
    assert [t.name for t in tensors] == list(arrays)
    for tensor in tensors:
        values = tensor.read()
        assert values.shape == tensor.shape == arrays[tensor.name].shape
        assert values.dtype.name == tensor.dtype
        np.testing.assert_array_equal(values.astype(np.float32), expected[tensor.name])
        rows = tensor.read_rows(1, 3).astype(np.float32)
        np.testing.assert_array_equal(rows, expected[tensor.name][1:3])
        assert tensor.rule == (f"dequantised from {kind}" if kind in KINDS else "")


@pytest.mark.parametrize(
    "kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ2_XXS", "IQ3_S", "IQ1_M", "NVFP4"]
)
def test_types_that_gguf_only_reads_are_dequantised_by_it(kind, tmp_path, rng):
    n_elements, n_bytes = gguf.GGML_QUANT_SIZES[Kind[kind]]
    data = rng.integers(0, 255, (6, 512 // n_elements * n_bytes), np.uint8)
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    writer.add_tensor("w", data, raw_dtype=Kind[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(data, Kind[kind])
    (tensor,) = open_checkpoint(tmp_path / "m.gguf").tensors
    assert tensor.shape == (6, 512)
    np.testing.assert_array_equal(tensor.read(), expected)


def test_a_type_that_gguf_cannot_dequantise_is_listed_with_that_reason(tmp_path):
    n_elements, n_bytes = gguf.GGML_QUANT_SIZES[Kind.Q8_1]
    header = entry("w", (n_elements, 2), Kind.Q8_1)
    (tmp_path / "m.gguf").write_bytes(file(header, bytes(2 * n_bytes)))
    (tensor,) = open_checkpoint(tmp_path / "m.gguf").tensors
    assert (tensor.dtype, tensor.shape) == ("Q8_1", (2, n_elements))
    assert tensor.problem == "gguf cannot dequantise Q8_1"


def test_metadata_are_kept_without_the_vocabulary(tmp_path):
    write(tmp_path / "m.gguf", {"w": np.zeros((4, 4), np.float32)}, add_chat_template="x" * 20_000)
    metadata = open_checkpoint(tmp_path / "m.gguf").metadata
    assert metadata == {"general.architecture": "llama", "llama.attention.head_count": 4}


def test_the_table_of_tokens_is_an_embedding(tmp_path, rng):
    W = rng.standard_normal((96, 64)).astype(np.float32)
    write(tmp_path / "m.gguf", {"token_embd.weight": W, "output.weight": W + 1})
    layers = specdiag.alpha(tmp_path / "m.gguf")
    status = dict(zip(layers.layer.values, layers.status.values[0], strict=True))
    assert status["token_embd.weight"] == "skipped"
    assert status["output.weight"] != "skipped"


def test_experts_are_measured_one_by_one(tmp_path, rng):
    W = rng.standard_normal((3, 96, 64)).astype(np.float32)
    write(tmp_path / "m.gguf", {"blk.0.ffn_up_exps.weight": W})
    layers = specdiag.alpha(tmp_path / "m.gguf")
    assert list(layers.layer.values) == [f"blk.0.ffn_up_exps.weight[{i}]" for i in range(3)]
    expected = [specdiag.alpha(values).alpha.item() for values in W]
    np.testing.assert_array_equal(layers.alpha.values[0], expected)


def test_all_shards_are_read_where_they_lie_beside_each_other(tmp_path):
    for i in range(3):
        path = tmp_path / f"m-{i + 1:05}-of-00003.gguf"
        about = struct.pack("<Q", 11) + b"split.count" + struct.pack("<IH", 2, 3)
        path.write_bytes(file(entry(f"w{i}"), bytes(16), entries=[about]))
    first = open_checkpoint(tmp_path / "m-00001-of-00003.gguf")
    assert [t.name for t in first.tensors] == ["w0", "w1", "w2"]
    assert first.notes == ()
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    (note,) = open_checkpoint(tmp_path / "m-00001-of-00003.gguf").notes
    assert note.startswith("only a part of the network: 1 of 3 shards; the next is 'm-00002")


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, rng):
    W = rng.standard_normal((4, 32)).astype(np.float32)
    write(tmp_path / "plain.gguf", {"w": W})
    write(tmp_path / "m.gguf", {"w": W}, "Q8_0")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    np.testing.assert_array_equal(open_checkpoint(tmp_path / "plain.gguf").tensors[0].read(), W)
    expected = "m.gguf: reading it needs the package gguf; pip install 'specdiag[formats]'"
    with pytest.raises(ValueError, match="gguf") as error:
        open_checkpoint(tmp_path / "m.gguf")
    assert str(error.value) == expected


# Files made by hand.


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(name="w", dims=(2, 2), kind=0, offset=0):
    dims = b"".join(struct.pack("<Q", size) for size in dims), len(dims)
    return text(name) + struct.pack("<I", dims[1]) + dims[0] + struct.pack("<IQ", kind, offset)


def file(*tensors, entries=(), counts=None, version=3, gap=0):
    """Return a file; the last of `tensors` are the bytes of the values."""
    *tensors, values = tensors
    counts = counts or (len(tensors), len(entries))
    header = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join([*entries, *tensors])
    return header + bytes(-len(header) % 32 + gap) + values


def pair(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def nested(levels):
    return b"".join(struct.pack("<IQ", 9, 1) for _ in range(levels)) + struct.pack("<IQ", 0, 1)


GOOD = file(entry(), bytes(16))
HOSTILE = {
    "cut in the counts": (GOOD[:12], "ends too early"),
    "cut in the values": (GOOD[:-1], "it ends at byte"),
    "version 1": (file(entry(), bytes(16), version=1), "of version 1"),
    "big-endian": (file(entry(), bytes(16), version=3 << 24), "big-endian"),
    "2**63 tensors": (file(entry(), bytes(16), counts=(2**63, 0)), "tensors and 0 entries"),
    "2**40 entries": (file(entry(), bytes(16), counts=(1, 2**40)), "entries are announced"),
    "a name of 2**60 bytes": (file(struct.pack("<Q", 2**60), bytes(99)), "bytes is announced"),
    "a text of 2**60 bytes": (
        file(entry(), bytes(16), entries=[pair("a", 8, struct.pack("<Q", 2**60))]),
        "bytes are announced",
    ),
    "an array of 2**60 numbers": (
        file(entry(), bytes(16), entries=[pair("a", 9, struct.pack("<IQ", 4, 2**60))]),
        "bytes are announced",
    ),
    "an array of 2**60 texts": (
        file(entry(), bytes(16), entries=[pair("a", 9, struct.pack("<IQ", 8, 2**60))]),
        "values in arrays",
    ),
    "arrays nested 100,000 deep": (
        file(entry(), bytes(16), entries=[pair("a", 9, nested(100_000))]), "nested too deeply"
    ),
    "a value of an unknown type": (
        file(entry(), bytes(16), entries=[pair("a", 77, bytes(8))]), "unknown type"
    ),
    "a key twice": (
        file(entry(), bytes(16), entries=[pair("a", 0, b"\1")] * 2), "occurs twice"
    ),
    "a tensor twice": (file(entry(), entry(offset=32), bytes(64)), "occurs twice"),
    "overlapping tensors": (file(entry(), entry("v"), bytes(64)), "overlaps"),
    "an offset beyond the file": (file(entry(offset=2**62), bytes(16)), "it ends at byte"),
    "an offset of 2**64 - 1": (file(entry(offset=2**64 - 1), bytes(16)), "it ends at byte"),
    "a huge shape": (file(entry(dims=(2**62, 2**62)), bytes(16)), "2**63 bytes"),
    "a negative size": (file(entry(dims=(2**64 - 1,)), bytes(16)), "beyond 63 bits"),
    "2**31 axes": (
        file(text("w") + struct.pack("<I", 2**31), bytes(99)), "axes; ggml has at most 4"
    ),
    "rows that are no blocks": (file(entry(dims=(5, 2), kind=8), bytes(99)), "no blocks of 32"),
    "a name that is not UTF-8": (file(entry(b"\xff\xfe"), bytes(16)), "not UTF-8"),
    "an alignment of 3": (
        file(entry(), bytes(16), entries=[pair("general.alignment", 4, b"\3\0\0\0")]),
        "no power of two",
    ),
    "an alignment of text": (
        file(entry(), bytes(16), entries=[pair("general.alignment", 8, text("x"))]),
        "no power of two",
    ),
    "a type that does not exist": (file(entry(kind=99), bytes(16)), "does not know type 99"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(kind, tmp_path):
    data, expected = HOSTILE[kind]
    (tmp_path / "m.gguf").write_bytes(data)
    refused(tmp_path / "m.gguf", expected)


@pytest.mark.parametrize("kind", ["2**63 tensors", "an array of 2**60 texts", "a huge shape"])
def test_a_hostile_file_takes_little_memory(kind, tmp_path):
    (tmp_path / "m.gguf").write_bytes(HOSTILE[kind][0])
    assert peak_memory(tmp_path / "m.gguf") < MAX_MEMORY


def test_every_truncation_is_refused(tmp_path, rng):
    write(tmp_path / "m.gguf", {"w": rng.standard_normal((4, 32)).astype(np.float32)}, "Q8_0")
    data = (tmp_path / "m.gguf").read_bytes()
    for length in range(0, len(data) - 32, 7):  # it ends with up to 31 bytes of padding
        (tmp_path / "m.gguf").write_bytes(data[:length])
        with pytest.raises(ValueError):
            open_checkpoint(tmp_path / "m.gguf")


def test_mutated_files_raise_only_value_and_os_errors(tmp_path, rng):
    write(tmp_path / "m.gguf", {"w": rng.standard_normal((4, 32)).astype(np.float32)}, "Q8_0")
    data = (tmp_path / "m.gguf").read_bytes()
    survivors = mutated(tmp_path / "m.gguf", data, random.Random(1), 500)
    assert 0 < survivors < 500
