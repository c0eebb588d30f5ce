"""The inert reader gives the same plain values as Python's unpickler, at every protocol."""

import collections
import io
import pickle
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdiag.checkpoint.torchfile.pickle_reader import interpret
from specdiag.checkpoint.tree import Global, Key, Object, Reference
from support import corpus


def load(data):
    return interpret(io.BytesIO(data), len(data), "file")


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
keys = st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**59), 2**59)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys.filter(lambda k: type(k) is not bool), inner)
    ),
    max_leaves=30,
)


@pytest.mark.parametrize("protocol", range(6))
@given(plain)
@settings(max_examples=60)
def test_plain_values_are_those_of_pythons_unpickler(protocol, value):
    loaded = load(pickle.dumps(value, protocol))
    assert loaded == value
    assert repr(loaded) == repr(value)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@given(st.binary())
@settings(max_examples=20)
def test_bytes_are_those_of_pythons_unpickler(protocol, value):
    assert load(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
def test_a_class_becomes_its_name(protocol):
    assert load(pickle.dumps(collections.OrderedDict, protocol)) == Global(
        "collections.OrderedDict"
    )


@pytest.mark.parametrize("protocol", range(6))
def test_an_ordered_dict_is_described_with_its_pairs(protocol):
    node = load(pickle.dumps(collections.OrderedDict(b=1, a=2), protocol))
    assert type(node) is Object
    assert node.cls == Global("collections.OrderedDict")
    assert list(node.pairs.items()) == [("b", 1), ("a", 2)]


@pytest.mark.parametrize("protocol", [4, 5])
def test_sets_are_described_with_their_items(protocol):
    assert load(pickle.dumps({1, 2}, protocol)).items == [1, 2]
    assert load(pickle.dumps(frozenset([1]), protocol)).args == ([1],)


def test_shared_and_cyclic_values_keep_their_identity():
    inner = []
    outer = [inner, inner]
    outer.append(outer)
    loaded = load(pickle.dumps(outer))
    assert loaded[0] is loaded[1]
    assert loaded[2] is loaded


def test_persistent_ids_are_kept_as_references():
    reference = load(b"(K\x01K\x02tQ.")
    assert type(reference) is Reference
    assert reference.id == (1, 2)
    assert load(b"Pabc\n.").id == "abc"


def test_keys_that_could_be_slow_to_hash_are_compared_by_identity():
    (key,) = load(b"}" + corpus.integer(2**61 - 1) + b"Ns.")
    assert type(key) is Key
    assert key.value == 2**61 - 1


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"S'a\\x41\\n\\'\\\\'\n.", "aA\n'\\"),
        (b'S"it\'s"\n.', "it's"),
        (b"U\x02ab.", "ab"),
        (b"T\x02\x00\x00\x00\xff\xfe.", b"\xff\xfe"),
        (b"I01\n.", True),
        (b"I00\n.", False),
        (b"I-12\n.", -12),
        (b"L12L\n.", 12),
        (b"F1.5\n.", 1.5),
        (b"K\x012\x86.", (1, 1)),
        (b"K\x01K\x020.", 1),
        (b"K\x01(K\x02K\x031.", 1),
        (b"(K\x01K\x02d.", {1: 2}),
        (b"\x95" + struct.pack("<Q", 1) + b"N.", None),
    ],
)
def test_old_and_rare_opcodes(data, value):
    assert load(data) == value


def test_reading_stops_right_behind_the_pickle():
    stream = io.BytesIO(b"K\x01.K\x02.")
    assert interpret(stream, 6, "file") == 1
    assert interpret(stream, 6, "file") == 2


def test_messages_give_the_position():
    with pytest.raises(
        ValueError, match=r"^file, byte 3: unknown opcode b'\\xff'; the file is damaged$"
    ):
        load(b"NN\xff")


def test_every_opcode_of_every_protocol_is_known():
    import pickletools

    from specdiag.checkpoint.torchfile.pickle_reader import _OPERATIONS

    known = {opcode.decode("latin-1") for opcode in _OPERATIONS} | {"."}
    assert known == {opcode.code for opcode in pickletools.opcodes}
