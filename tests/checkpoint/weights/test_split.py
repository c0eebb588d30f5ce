import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from specdiag.checkpoint.weights import pieces as pieces_of
from specdiag.checkpoint.weights.find import open_weights
from specdiag.checkpoint.weights.split import SplitError, parse


def numbered(*shape):
    return np.arange(np.prod(shape), dtype="f8").reshape(shape)


GPT2 = {
    "h.0.attn.c_attn.weight": numbered(6, 18),
    "h.0.attn.c_attn.bias": numbered(18),
    "h.0.attn.c_proj.weight": numbered(6, 6),
    "h.0.attn.c_proj.bias": numbered(6),
}


def pieces(state, *splits):
    """Return the values of all weights by name."""
    return {w.name: w.read() for w in open_weights(state, splits=splits).tensors}


def test_equal_blocks_lie_along_the_columns_of_conv1d():
    found = pieces(GPT2, "*.c_attn.weight=a,b")
    assert list(found)[:2] == ["h.0.attn.c_attn.weight[a]", "h.0.attn.c_attn.weight[b]"]
    W = GPT2["h.0.attn.c_attn.weight"]
    np.testing.assert_array_equal(found["h.0.attn.c_attn.weight[b]"], W[:, 9:])


def test_a_square_conv1d_has_its_outputs_where_its_neighbour_has_them():
    W = GPT2["h.0.attn.c_proj.weight"]
    found = pieces(GPT2, "*.c_proj.weight=2")
    np.testing.assert_array_equal(found["h.0.attn.c_proj.weight[head 1]"], W[:, 3:])
    linear = GPT2 | {"h.0.attn.c_attn.weight": numbered(18, 6)}
    found = pieces(linear, "*.c_proj.weight=2")
    np.testing.assert_array_equal(found["h.0.attn.c_proj.weight[head 1]"], W[3:])


def test_heads_are_cut_in_each_block():
    found = pieces(GPT2, "*.c_attn.weight=q,k,v/3")
    W = GPT2["h.0.attn.c_attn.weight"]
    for b, block in enumerate("qkv"):
        for h in range(3):
            start = 6 * b + 2 * h
            name = f"h.0.attn.c_attn.weight[{block}][head {h}]"
            np.testing.assert_array_equal(found[name], W[:, start : start + 2])
    assert len(found) == 9 + 3


def test_heads_of_the_inputs_are_columns():
    state = {"o_proj.weight": numbered(4, 6)}
    found = pieces(state, "o_proj.weight=3@columns")
    np.testing.assert_array_equal(found["o_proj.weight[head 2]"], state["o_proj.weight"][:, 4:])
    assert [len(w) for w in pieces(state, "o_proj.weight=2").values()] == [2, 2]


def test_blocks_of_given_sizes_have_their_own_numbers_of_heads():
    state = {"qkv.weight": numbered(16, 4)}
    found = pieces(state, "qkv.weight=q:8/4,k:4/2,v:4/2")
    assert list(found) == [
        *(f"qkv.weight[q][head {i}]" for i in range(4)),
        *(f"qkv.weight[{b}][head {i}]" for b in "kv" for i in range(2)),
    ]
    np.testing.assert_array_equal(np.concatenate(list(found.values())), state["qkv.weight"])


def test_blocks_in_groups_are_gathered_from_all_groups():
    W = numbered(12, 4)
    found = pieces({"query_key_value.weight": W}, "*=2x(q,k,v)")
    rows = W.reshape(2, 3, 2, 4)
    for i, block in enumerate("qkv"):
        read = found[f"query_key_value.weight[{block}]"]
        np.testing.assert_array_equal(read, rows[:, i].reshape(4, 4))
    heads = pieces({"query_key_value.weight": W}, "*=2x(q,k,v)/2")
    np.testing.assert_array_equal(heads["query_key_value.weight[k][head 1]"], rows[1, 1])


def test_a_stack_is_cut_into_the_matrices_of_its_last_axes():
    W = numbered(2, 3, 5, 4)
    found = pieces({"W_Q": W}, "W_Q=stack")
    assert list(found) == [f"W_Q[{i}][{j}]" for i in range(2) for j in range(3)]
    np.testing.assert_array_equal(found["W_Q[1][2]"], W[1, 2])


def test_matrices_of_a_stack_are_cut_into_blocks():
    W = numbered(2, 6, 4)
    found = pieces({"experts": W}, "experts=stack", "experts=gate,up")
    np.testing.assert_array_equal(found["experts[1][up]"], W[1, 3:])
    assert len(found) == 4


def test_letters_say_what_each_axis_is():
    W = numbered(4, 2, 3)
    heads = pieces({"q": W}, "q=axes:rsc")
    np.testing.assert_array_equal(heads["q[1]"], W[:, 1])
    np.testing.assert_array_equal(pieces({"q": W}, "q=axes:rcc")["q"], W.reshape(4, 6))
    kernel = pieces({"k": W}, "k=axes:tcr")["k"]
    np.testing.assert_array_equal(kernel, W.transpose(2, 1, 0))


def test_a_kernel_and_a_whole_weight_stay_one():
    state = GPT2 | {"k": numbered(8, 16, 3)}
    found = pieces(state, "k=kernel", "*.c_attn.weight=whole")
    assert found.keys() == state.keys()


def test_letters_of_another_number_than_the_axes_are_an_error():
    expected = "split 'k=axes:srcc': k is 8x16x3, and needs 3 letters"
    with pytest.raises(SplitError, match=expected):
        open_weights({"k": numbered(8, 16, 3)}, splits=["k=axes:srcc"])


def test_the_last_split_that_matches_counts():
    assert len(pieces(GPT2, "*.c_attn.weight=whole", "*.c_attn.weight=a,b")) == 5
    assert len(pieces(GPT2, "*.c_attn.weight=a,b", "*=whole")) == 4


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        ("q,k,v", "expected PATTERN=SPEC, such as q,k,v or 12 or q,k,v/12 or stack for SPEC"),
        ("a=", "expected PATTERN=SPEC, such as q,k,v or 12 or q,k,v/12 or stack for SPEC"),
        ("*.c_attn.weight=q;k", "'q;k' is no split, such as q,k,v or 12 or q,k,v/12 or stack"),
        ("*.c_attn.weight=q,,k", "'q,,k' is no split, such as q,k,v or 12 or q,k,v/12 or stack"),
        ("*.c_attn.weight=q", "expected two or more blocks with different names"),
        ("*.c_attn.weight=q,q", "expected two or more blocks with different names"),
        ("*.c_attn.weight=q,3", "expected two or more blocks with different names"),
        ("*.c_attn.weight=0", "0 heads"),
        ("*.c_attn.weight=0x(q,k)", "0 groups"),
        (
            "*.c_attn.weight=q:2,k",
            "expected a size or a number of heads, above 0, for all blocks",
        ),
        (
            "*.c_attn.weight=q/2,k",
            "expected a size or a number of heads, above 0, for all blocks",
        ),
        (
            "*.c_attn.weight=a,b,c,d",
            "18 columns of h.0.attn.c_attn.weight are not 4 equal blocks",
        ),
        (
            "*.c_attn.weight=q:8,k:9",
            "18 columns of h.0.attn.c_attn.weight are not the sum of the sizes",
        ),
        ("*.c_attn.weight=4", "18 columns of h.0.attn.c_attn.weight are not 4 equal heads"),
        (
            "*.c_attn.weight=q,k,v/4",
            "6 columns of h.0.attn.c_attn.weight[q] are not 4 equal heads",
        ),
        (
            "*.c_attn.weight=4x(q,k)",
            "18 columns of h.0.attn.c_attn.weight are not 4 equal groups",
        ),
        (
            "*.c_attn.weight=6x(q,k)",
            "3 columns of h.0.attn.c_attn.weight in a group are not 2 equal blocks",
        ),
        ("*.c_attn.weight=stack", "h.0.attn.c_attn.weight is 6x18, and needs three axes or more"),
        (
            "*.c_attn.weight=axes:srx",
            "'axes:srx' is no split, such as q,k,v or 12 or q,k,v/12 or stack",
        ),
        (
            "*.qkv.weight=q,k,v",
            (
                "no weight of model matches; of 2 weights with two axes or more, it has "
                "h.0.attn.c_attn.weight, h.0.attn.c_proj.weight"
            ),
        ),
    ],
)
def test_a_split_that_is_invalid_or_fits_nothing_is_one_line(split, reason):
    with pytest.raises(SplitError, match=re.escape(f"split {split!r}: {reason}") + "$"):
        open_weights(GPT2, splits=[split])


@given(st.text(alphabet="qkv,:/x()@=123 rowsclumntaxe*.", max_size=25))
def test_any_text_is_a_split_or_an_error_of_one_line(text):
    try:
        split = parse(f"*={text}")
    except SplitError as error:
        message = str(error)
    else:
        message = ""
        assert bool(split.word) + bool(split.blocks) + bool(split.n_heads) == 1
    assert "\n" not in message


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=2, max_size=4),
    st.sampled_from(["rows", "columns"]),
)
def test_pieces_together_are_exactly_the_elements_of_the_weight(n_groups, blocks, axis):
    parts = [f"b{i}:{size * heads}/{heads}" for i, (size, heads) in enumerate(blocks)]
    n = n_groups * sum(size * heads for size, heads in blocks)
    W = numbered(n, 5) if axis == "rows" else numbered(5, n)
    spec = f"{n_groups}x({','.join(parts)})@{axis}"
    found = list(open_weights({"W": W}, splits=[f"W={spec}"]).tensors)
    values = np.concatenate([w.read().reshape(-1) for w in found])
    np.testing.assert_array_equal(np.sort(values), W.reshape(-1))
    assert all(w.read().shape == w.shape for w in found)


def test_a_piece_of_a_file_is_read_by_its_rows(tmp_path):
    save_file({"q.weight": numbered(12, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 3}))
    found = open_weights(tmp_path / "model.safetensors", splits=["q.weight=3"]).tensors
    assert [w.name for w in found] == [f"q.weight[head {i}]" for i in range(3)]
    np.testing.assert_array_equal(found[1].read_rows(1, 3), numbered(12, 4)[5:7])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [12, 4, 2])
def test_pieces_of_a_file_are_read_in_parts(tmp_path, monkeypatch, axis, size):
    monkeypatch.setattr(pieces_of, "CHUNK", 100)
    W = numbered(*((2052, 12) if axis else (12 * 1100, 3)))
    save_file({"W": W}, tmp_path / "model.safetensors")
    (whole,) = open_weights(tmp_path / "model.safetensors").tensors
    part = pieces_of.piece(whole, "q", axis, 1, size, size)
    at = np.arange(W.shape[axis]) % size >= 1
    expected = W.compress(at, axis)
    np.testing.assert_array_equal(part.read(), expected)
    if part.read_rows:
        np.testing.assert_array_equal(part.read_rows(2, 9), expected[2:9])
    inner = pieces_of.piece(part, "head", 1, 0, 2)
    np.testing.assert_array_equal(inner.read(), expected[:, :2])
