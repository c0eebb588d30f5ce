"""Names of quantised weights; files whose parts do not fit each other."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.tensor import numpy_dtype, unpacked
from specdiag.checkpoint.weights.find import weights
from specdiag.checkpoint.weights.quantised.codes import FP4, FP6
from specdiag.checkpoint.weights.quantised.rules import quantised


def packed(codes, bits):
    """Return codes as 32-bit words, by shifting them into one large integer for each row."""
    rows = []
    for row in codes:
        number = sum(int(code) << (bits * i) for i, code in enumerate(row))
        n_words = -(-len(row) * bits // 32)
        rows.append(list(number.to_bytes(4 * n_words, "little")))
    return np.array(rows, np.uint8).view("<i4")


@given(st.data(), st.integers(1, 8), st.integers(1, 3), st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_codes_are_unpacked_as_they_were_packed(data, bits, n_rows, n):
    codes = data.draw(arrays(np.uint8, (n_rows, n), elements=st.integers(0, 2**bits - 1)))
    np.testing.assert_array_equal(unpacked(packed(codes, bits), bits, n), codes)


def test_the_tables_of_small_floats_are_those_of_ml_dtypes():
    codes = np.arange(64, dtype=np.uint8)
    np.testing.assert_array_equal(FP6, codes.view(ml_dtypes.float6_e2m3fn).astype(np.float32))
    fp4 = codes[:16].view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(FP4, fp4)


NAMES = (
    ("qweight", "qzeros", "scales", "g_idx"),
    ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"),
    ("weight_packed", "weight_scale", "weight_global_scale", "input_global_scale"),
    ("weight", "weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"),
    ("weight", "SCB", "weight_format"),
    ("weight", "weight_scale", "weight_scale_2", "weight_zero_point", "input_scale"),
    ("weight", "weight_scale_inv", "weight_scale"),
    ("weight", "scales", "biases"),
    ("up_blocks", "up_scales"),
    ("up.blocks", "up.scales"),
    ("W_q", "scale", "zero", "nbits", "shape"),
    ("weight._data", "weight._scale"),
    ("weight._data._data", "weight._scale", "weight._shift"),
    ("_weight_qdata", "_weight_scale"),
)
DTYPES = ["uint8", "int8", "int32", "uint32", "int64", "float32", "float16"]
DTYPES += ["float8_e4m3fn", "float8_e8m0fnu", "bfloat16"]
SIZES = st.sampled_from([0, 1, 2, 3, 4, 8, 16, 32, 64])


@given(
    st.sampled_from(NAMES).flatmap(
        lambda names: st.fixed_dictionaries(
            {names[0]: st.tuples(st.sampled_from(DTYPES), st.lists(SIZES, max_size=4))},
            optional={
                name: st.tuples(st.sampled_from(DTYPES), st.lists(SIZES, max_size=3))
                for name in names[1:]
            },
        )
    ),
    st.integers(0, 255),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_parts_that_do_not_fit_give_one_reason_and_never_an_error(described, byte):
    state = {}
    for name, (dtype_name, shape) in described.items():
        dtype = numpy_dtype(dtype_name)
        data = np.full(int(np.prod(shape)) * dtype.itemsize, byte, np.uint8)
        state[f"layers.0.fc.{name}"] = data.view(dtype).reshape(shape)
    found = weights(open_checkpoint(state))
    assert {name for weight in found for name in weight.tensors} == state.keys()
    for weight in found:
        try:
            values = weight.read()
        except ValueError:
            continue
        if not weight.reason:
            assert values.shape == weight.shape


def ones(described):
    state = {}
    for name, text in described.items():
        dtype, *shape = text.split()
        state[f"layers.0.fc.{name}"] = np.ones([int(n) for n in shape], numpy_dtype(dtype))
    return state


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        (
            {"qweight": "int32 8 1", "qzeros": "int32 8 1", "scales": "float16 8 9"},
            "packed as GPTQ or AWQ, not dequantised: its shapes are of no known layout",
        ),
        (
            {"qweight": "int32 5 32", "qzeros": "int32 1 5", "scales": "float16 1 32"},
            "packed as GPTQ or AWQ, not dequantised: of 5 bits there are several layouts",
        ),
        (
            {"qweight": "int16 8 8", "qzeros": "int16 2 1", "scales": "float16 2 8"},
            "packed as GPTQ or AWQ, not dequantised: codes of int16",
        ),
        (
            {"weight": "uint8 8 4", "weight_scale": "float16 8 2", "weight_scale_2": "float32"},
            "bytes with scales, not dequantised: its scales do not fit",
        ),
        (
            {"weight": "uint8 64 8", "weight_scale": "float8_e4m3fn 64 1"},
            "bytes with scales, not dequantised: its scales of the whole tensor do not fit",
        ),
        (
            {"weight": "int8 8 8", "weight_scale": "float32 3 1"},
            "numbers with scales, not dequantised: its scales do not fit",
        ),
        (
            {"weight": "int16 8 8", "weight_scale": "float32 8 1"},
            "numbers with scales, not dequantised: codes of int16",
        ),
        (
            {"weight_packed": "int32 8 1", "weight_scale": "float16 8 1"},
            "packed by compressed-tensors, not dequantised: without shape",
        ),
        (
            {
                "weight_packed": "int32 8 1",
                "weight_scale": "float16 8 1",
                "weight_shape": "int64 2",
            },
            "packed by compressed-tensors, not dequantised: its shapes do not fit",
        ),
        (
            {"gate_blocks": "uint8 3 8 2 4", "gate_scales": "uint8 3 8 2"},
            "packed as MXFP4, not dequantised: its shapes do not fit",
        ),
        (
            {
                "weight": "uint8 32 1",
                "weight.absmax": "float32 1",
                "weight.quant_map": "float32 16",
            },
            "packed by bitsandbytes in 4 bits, not dequantised: without quant_state",
        ),
        (
            {"weight": "int8 8 8", "SCB": "float32 7"},
            "quantised by bitsandbytes to int8, not dequantised: its shapes do not fit",
        ),
        (
            {"weight": "int8 8 8", "SCB": "float32 8", "weight_format": "uint8"},
            "quantised by bitsandbytes to int8, not dequantised: its order is that of a GPU",
        ),
        (
            {"W_q": "uint8 8 8", "scale": "float16 8 1", "zero": "float16 8 1", "nbits": "int32 1"},
            "packed by HQQ, not dequantised: without shape",
        ),
        (
            {
                "weight._data._data": "uint8 8 8",
                "weight._scale": "float32 8 1",
                "weight._shift": "int8 8 1",
            },
            "packed by quanto, not dequantised",
        ),
        (
            {"_weight_qdata": "int8 8 8", "_weight_scale": "float32 8 1"},
            "quantised by torchao, not dequantised",
        ),
        (
            {"codes": "int8 8 4 2", "codebooks": "float16 2 256 1 8", "scales": "float16 8 1 1 1"},
            "packed by AQLM, not dequantised",
        ),
        (
            {
                "indices": "int32 1 8 64",
                "centroids.weight": "float16 1 4096",
                "weight_scale": "float16 64",
            },
            "packed by VPTQ, not dequantised",
        ),
        (
            {"weight": "int16 16 64", "scales": "float16 64 64", "tables2": "float16 16 16 2"},
            "packed by HIGGS, not dequantised",
        ),
        (
            {"B": "int32 8 128", "s": "float16 64 64", "workspace": "int32 64"},
            "packed by Marlin, not dequantised",
        ),
        (
            {"weight_packed": "int32 64 8", "scale_packed": "float16 64 64", "meta": "int16 64 8"},
            "sparse, packed by compressed-tensors, not dequantised",
        ),
        (
            {"compressed": "float16 64 64", "bitmask": "uint8 64 16", "shape": "int64 2"},
            "sparse, packed by compressed-tensors, not dequantised",
        ),
        (
            {"words": "int32 8 128", "steps": "float16 64 8", "places": "uint8 64 8"},
            "integers with tables of scales, in a layout that is not known",
        ),
        (
            {"weight": "int8 64 64", "weight_scales": "float16 64"},
            "quantised by EETQ, not dequantised",
        ),
        (
            {"embedding_quantized": "uint8 64 32", "embedding_scale": "float32 64 1"},
            "numbers with scales, not dequantised: codes of uint8",
        ),
        (
            {"x_quantized": "int8 64 64", "x_scale": "float32 64", "x_zero_point": "int8 64"},
            "numbers with scales, not dequantised: its scales do not fit",
        ),
        (
            {"weight": "uint8 16 64", "weight_scale": "bfloat16 1"},
            "bytes with scales, not dequantised: its shapes do not fit",
        ),
        (
            {"weight": "uint32 64 8", "scales": "float16 64 1", "biases": "float16 64 1"},
            "packed by MLX, not dequantised: without config.json, which tells its bits",
        ),
        (
            {"weight": "uint32 64 8", "scales": "uint8 64 3"},
            "packed by MLX, not dequantised: its scales do not fit",
        ),
    ],
)
def test_all_tensors_of_a_weight_that_is_not_dequantised_have_one_reason(described, reason):
    state = ones(described)
    (weight,) = weights(open_checkpoint(state))
    assert weight.reason == reason
    assert sorted(weight.tensors) == sorted(state)
    assert weight.read().tobytes() == b"".join(state[name].tobytes() for name in weight.tensors)


STATE = {"quant_type": "nf4", "blocksize": 64, "shape": [8, 16], "dtype": "float32"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (json.dumps(STATE | {"shape": [8, 17]}), "its shape and bytes do not fit"),
        (json.dumps(STATE | {"shape": [2**62, 2**62]}), "its shape and bytes do not fit"),
        (json.dumps(STATE | {"shape": [-8, -16]}), "its quant_state is invalid"),
        (json.dumps(STATE | {"shape": [8, 16.0]}), "its quant_state is invalid"),
        (json.dumps(STATE | {"shape": None}), "its quant_state is invalid"),
        (json.dumps(STATE | {"shape": [True, 128]}), "its quant_state is invalid"),
        (json.dumps(STATE | {"blocksize": 0}), "its quant_state is invalid"),
        (json.dumps(STATE | {"blocksize": -64}), "its quant_state is invalid"),
        (json.dumps(STATE | {"blocksize": 3}), "its quant_state is invalid"),
        (json.dumps(STATE | {"blocksize": 32}), "its scales do not fit"),
        (json.dumps([STATE]), "its quant_state is invalid"),
        ("{" * 5000, "its quant_state is invalid"),
        ("\xff\xfe", "its quant_state is invalid"),
        ("", "its quant_state is invalid"),
        (" " * 20000 + json.dumps(STATE), "its quant_state is invalid"),
    ],
)
def test_an_invalid_quant_state_gives_one_reason(text, why):
    state = {
        "weight": np.ones((64, 1), np.uint8),
        "weight.absmax": np.ones(2, np.float32),
        "weight.quant_map": np.ones(16, np.float32),
        "weight.quant_state.bitsandbytes__nf4": np.frombuffer(text.encode(), np.uint8),
    }
    (weight,) = weights(open_checkpoint(state))
    assert weight.reason == f"packed by bitsandbytes in 4 bits, not dequantised: {why}"
    state["weight.quant_state.bitsandbytes__nf4"] = np.frombuffer(
        json.dumps(STATE).encode(), np.uint8
    )
    (weight,) = weights(open_checkpoint(state))
    assert (weight.reason, weight.shape) == ("", (8, 16))


@pytest.mark.parametrize(
    "described",
    [
        {
            "relative_position_bias_table": "float32 225 64",
            "relative_position_index": "int32 225 225",
        },
        {"weight": "float32 64 64", "hits": "int32 64 64"},
        {"rows": "float32 32 32", "mask": "uint8 32 512"},
        {"table": "float32 64 16", "counts": "int64 64 64"},
        {"table": "float32 9 16", "counts": "int32 64 64"},
    ],
)
def test_indices_and_counts_beside_tables_are_no_quantised_weights(described):
    found = weights(open_checkpoint(ones(described)))
    assert [len(weight.tensors) for weight in found] == [1, 1]


def test_four_bit_floats_of_torch_and_their_scales_have_one_reason(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    packed = torch.arange(128, dtype=torch.uint8).reshape(8, 16).view(torch.float4_e2m1fn_x2)
    scales = torch.ones(8, 2).to(torch.float8_e4m3fn)
    state = {"l.weight": packed, "l.weight_scale": scales, "l.weight_scale_2": torch.tensor(0.5)}
    torch.save(state, tmp_path / "a.pt")
    safetensors.save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        (weight,) = weights(open_checkpoint(tmp_path / name))
        assert len(weight.tensors) == 3
        assert "is not supported" in weight.problem


def test_groups_outside_of_the_scales_are_one_line_when_the_weight_is_read():
    state = {
        "qweight": np.zeros((2, 8), np.int32),
        "qzeros": np.zeros((2, 1), np.int32),
        "scales": np.ones((2, 8), np.float16),
        "g_idx": np.full(16, 7, np.int32),
    }
    (weight,) = weights(open_checkpoint(state))
    with pytest.raises(ValueError, match="groups outside of the 2"):
        weight.read()


def test_columns_of_compressed_tensors_that_were_sorted_have_the_scale_of_their_group(rng):
    """Releases before 0.18 wrote `weight_g_idx`, by which columns know their group."""
    codes, groups = rng.integers(0, 16, (4, 64)), rng.permutation(64) // 32
    scales = rng.random((4, 2)).astype(np.float16)
    state = {
        "weight_packed": packed(codes, 4),
        "weight_scale": scales,
        "weight_shape": np.array([4, 64]),
        "weight_g_idx": groups.astype(np.int32),
    }
    tensors = {t.name: t for t in open_checkpoint(state).tensors}
    (weight,) = quantised(tensors, {})
    expected = (codes - 8) * scales.astype(np.float32)[:, groups]
    np.testing.assert_allclose(weight.read(), expected, 1e-6)
    state["weight_g_idx"][:] = -1
    expected = (codes - 8) * scales.astype(np.float32).repeat(32, 1)
    np.testing.assert_allclose(weight.read(), expected, 1e-6)
