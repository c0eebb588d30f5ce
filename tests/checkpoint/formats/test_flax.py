"""MessagePack files as Flax and the msgpack package write them, damaged ones, and hostile ones."""

import random
import struct
from pathlib import Path

import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import specdiag
from specdiag.checkpoint.reader import open_checkpoint
from support.hostile import MAX_MEMORY, mutated, peak_memory, refused

WRITTEN = Path(__file__).with_name("written") / "flax-0.12.8.msgpack"


def array(values):
    """Return an array as flax.serialization packs it."""
    about = (values.shape, values.dtype.name, values.tobytes())
    return msgpack.ExtType(1, msgpack.packb(about, use_bin_type=True))


def packed(path, tree):
    path.write_bytes(msgpack.packb(tree))
    return path


def test_a_file_that_flax_wrote_gives_its_parameters():
    checkpoint = open_checkpoint(WRITTEN)
    values = {tensor.name: tensor.read() for tensor in checkpoint.tensors}
    shapes = {"Dense_0.kernel": (8, 6), "Dense_0.bias": (6,), "Embed_0.embedding": (12, 10)}
    shapes["big"] = (10, 20)  # in two pieces
    assert list(values) == list(shapes)
    for k, (name, shape) in enumerate(shapes.items()):
        expected = np.random.default_rng(k).standard_normal(shape)
        expected = expected.astype(ml_dtypes.bfloat16 if "Embed" in name else np.float32)
        assert values[name].dtype == expected.dtype
        np.testing.assert_array_equal(values[name], expected)
    assert "1 tensor under 'opt_state' is not part of the model" in checkpoint.notes
    assert checkpoint.metadata["name"] == "net"


DTYPES = [hnp.floating_dtypes(endianness="<"), hnp.integer_dtypes(endianness="<")]
DTYPES += [hnp.boolean_dtypes(), hnp.complex_number_dtypes(endianness="<", sizes=(64, 128))]
NAMES = st.text(st.characters(exclude_characters=".", categories=("L", "N")), min_size=1)


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(NAMES, hnp.arrays(st.one_of(DTYPES), hnp.array_shapes(min_dims=0)), min_size=1)
)
def test_any_arrays_are_read_as_msgpack_wrote_them(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("flax") / "m.msgpack"
    tree = {name: array(values) for name, values in arrays.items()}
    tensors = open_checkpoint(packed(path, {"net": {"a": tree, "b": [1.5, None, -7]}})).tensors
    found = {tensor.name.rpartition(".")[2]: tensor.read() for tensor in tensors}
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        assert found[name].dtype == values.dtype
        assert found[name].shape == values.shape
        assert found[name].tobytes() == values.tobytes()


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text()
        | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=50,
    )
)
def test_any_values_beside_the_arrays_are_skipped_as_msgpack_wrote_them(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("flax") / "m.msgpack"
    W = array(np.ones((2, 2)))
    tensors = open_checkpoint(packed(path, {"x": value, "w": {"kernel": W, "y": value}})).tensors
    assert [tensor.read().tolist() for tensor in tensors] == [[[1, 1], [1, 1]]]


def test_a_former_optimizer_of_flax_gives_its_target(tmp_path):
    W = array(np.ones((2, 2)))
    tree = {"optimizer": {"target": {"Dense_0": {"kernel": W}}, "state": {"mu": W, "nu": W}}}
    checkpoint = open_checkpoint(packed(tmp_path / "m.msgpack", tree))
    assert [t.name for t in checkpoint.tensors] == ["Dense_0.kernel"]
    assert checkpoint.notes == ("2 tensors under 'optimizer' are not part of the model",)


def test_a_network_of_flax_is_measured_like_its_arrays(tmp_path, rng):
    W = rng.standard_normal((96, 64))
    path = packed(tmp_path / "m", {"params": {"Dense_0": {"kernel": array(W)}}})
    np.testing.assert_array_equal(specdiag.alpha(path).alpha, specdiag.alpha(W).alpha)


def extension(kind, data):
    return b"\xc9" + struct.pack(">Ib", len(data), kind) + data


def described(shape, dtype="float32", data=bytes(16)):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


def chunked(shape, *chunks):
    sizes, parts = ({str(i): x for i, x in enumerate(xs)} for xs in (shape, chunks))
    return {"__msgpack_chunked_array__": True, "shape": sizes, "chunks": parts}


def extensions(levels):
    data = b"\xc0"
    for _ in range(levels):
        data = extension(1, data)
    return data


def root(value):
    return b"\x81\xa6params" + (value if isinstance(value, bytes) else msgpack.packb(value))


GOOD = {"w": array(np.ones((2, 2), np.float32))}
HOSTILE = {
    "cut in an array": (root(GOOD)[:-1], "bytes are announced"),
    "bytes after its end": (root(GOOD) + b"\0", "bytes follow its end"),
    "no array": (root({"w": b"0" * 400}), "MessagePack without arrays"),
    "a dict of 2**32 entries": (root(b"\xdf\xff\xff\xff\xff" + bytes(99)), "are announced"),
    "a list of 2**32 values": (root(b"\xdd\xff\xff\xff\xff" + bytes(99)), "are announced"),
    "a text of 2**32 bytes": (root(b"\xdb\xff\xff\xff\xff" + bytes(99)), "are announced"),
    "an array of 2**32 bytes": (root(b"\xc9\xff\xff\xff\xff\x01" + bytes(99)), "are announced"),
    "an array longer than its extension": (
        root({"w": msgpack.ExtType(1, b"\x93\x91\x04\xa7float32\xc4\x10" + bytes(8)), "v": b"1"}),
        "are announced",
    ),
    "lists nested 100,000 deep": (root(b"\x91" * 100_000 + b"\xc0"), "levels of them"),
    "dicts nested 100,000 deep": (root(b"\x81\xa1a" * 100_000 + b"\xc0"), "levels of them"),
    "arrays nested 3,000 deep": (root(extensions(3000)), "levels of them"),
    "lists in a shape nested deeply": (
        root({"w": msgpack.ExtType(1, b"\x93" + b"\x91" * 1000 + b"\xc0")}), "levels of them"
    ),
    "a million values": (root(b"\xdd\x00\x0f\x42\x40" + bytes(10**6)), "more than 500,000 values"),
    "a key twice": (root(b"\x82\xa1a\xc0\xa1a\xc0"), "occurs twice"),
    "a dict as key": (root(b"\x81\x80\xc0"), "a key is no text"),
    "an array as key": (root(b"\x81" + extension(1, msgpack.packb(((), "int8", b"1")))), "no text"),
    "a key that is not UTF-8": (root(b"\x81\xa2\xff\xfe\xc0"), "not UTF-8"),
    "a byte that is never used": (root(b"\xc1"), "no known type"),
    "a shape that does not fit": (root({"w": described((5,))}), "do not fit its shape"),
    "a negative shape": (root({"w": described((-4,))}), "negative"),
    "a huge shape": (root({"w": described((2**62, 2**62))}), "2**63 bytes"),
    "a shape of texts": (root({"w": described(("4",))}), "whole numbers"),
    "a shape of a dict": (root({"w": described({})}), "whole numbers"),
    "an array that is no list": (root({"w": msgpack.ExtType(1, b"\xc0")}), "not (shape, dtype"),
    "an array without a dtype": (root({"w": described((4,), None)}), "do not fit"),
    "values that are text": (root({"w": described((4,), "float32", "x" * 16)}), "do not fit"),
    "a bool of sevens": (root({"w": described((16,), "bool", b"\7" * 16)}), "a bool tensor holds"),
    "objects": (root({"w": described((2,), "object")}), "dtype object is not supported"),
    "pieces that do not fit": (root(chunked((9,), *GOOD.values())), "pieces do not fit"),
    "pieces of no arrays": (root(GOOD | {"p": chunked((4,), "xxxx")}), "pieces do not fit"),
    "no pieces": (root(GOOD | {"p": chunked((0,))}), "pieces do not fit"),
    "pieces that are not numbered": (
        root(GOOD | {"p": {"__msgpack_chunked_array__": True, "shape": 3}}), "not numbered"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(kind, tmp_path):
    data, expected = HOSTILE[kind]
    (tmp_path / "m.msgpack").write_bytes(data)
    refused(tmp_path / "m.msgpack", expected)


@pytest.mark.parametrize("kind", ["a dict of 2**32 entries", "a million values", "a huge shape"])
def test_a_hostile_file_takes_little_memory(kind, tmp_path):
    (tmp_path / "m.msgpack").write_bytes(HOSTILE[kind][0])
    assert peak_memory(tmp_path / "m.msgpack") < MAX_MEMORY


def test_other_extensions_are_never_interpreted(tmp_path):
    tree = {"w": GOOD["w"], "x": msgpack.ExtType(2, b"junk"), "y": msgpack.Timestamp(1, 2)}
    (tensor,) = open_checkpoint(packed(tmp_path / "m.msgpack", tree)).tensors
    assert tensor.read().tolist() == [[1, 1], [1, 1]]


def test_every_truncation_is_refused(tmp_path):
    data = WRITTEN.read_bytes()
    for length in range(0, len(data), 13):
        (tmp_path / "m.msgpack").write_bytes(data[:length])
        with pytest.raises(ValueError):
            open_checkpoint(tmp_path / "m.msgpack")


def test_mutated_files_raise_only_value_and_os_errors(tmp_path):
    data = WRITTEN.read_bytes()
    assert 0 < mutated(tmp_path / "m.msgpack", data, random.Random(1), 1000) < 1000
