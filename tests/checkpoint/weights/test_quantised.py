import ml_dtypes
import numpy as np
import pytest

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import weights

FP8 = ml_dtypes.float8_e4m3fn


def one(state):
    (weight,) = weights(open_checkpoint(state))
    assert sorted(weight.tensors) == sorted(state)
    return weight


def test_blocks_of_fp8_are_multiplied_by_their_scales(rng):
    """The kernel of DeepSeek-V3 multiplies blocks of 128 x 128; the last of a side is shorter."""
    W = rng.standard_normal((576, 256)).astype(FP8)
    scales = rng.random((5, 2)).astype(np.float32)
    weight = one({"fc.weight": W, "fc.weight_scale_inv": scales})
    expected = W.astype(np.float32)
    for i in range(5):
        for j in range(2):
            expected[128 * i : 128 * (i + 1), 128 * j : 128 * (j + 1)] *= scales[i, j]
    np.testing.assert_array_equal(weight.read(), expected)
    assert (weight.rule, weight.dtype) == ("FP8 values times scales", "float8_e4m3fn")


@pytest.mark.parametrize("shape", [(), (1,), (6,), (6, 1), (1, 4), (6, 2), (3, 4)])
def test_scales_of_tensor_rows_columns_and_small_blocks_are_applied(rng, shape):
    W = rng.standard_normal((6, 4)).astype(FP8)
    scales = rng.random(shape).astype(np.float32)
    values = one({"fc.weight": W, "fc.weight_scale": scales}).read()
    rows = scales.reshape(-1, 1) if scales.ndim < 2 else scales
    for i in range(6):
        for j in range(4):
            scale = rows[i * len(rows) // 6, j * rows.shape[1] // 4]
            assert values[i, j] == np.float32(W[i, j]) * scale


def test_a_stack_of_experts_has_a_stack_of_scales(rng):
    W = rng.standard_normal((3, 6, 4)).astype(FP8)
    scales = rng.random((3, 2, 1)).astype(np.float32)
    values = one({"gate_up_proj": W, "gate_up_proj_scale_inv": scales}).read()
    np.testing.assert_array_equal(values, W.astype(np.float32) * scales.repeat(3, 1))


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"weight": "u1 8 4", "weight_scale": "f2 8 2", "weight_scale_2": "f4"}, "NVFP4"),
        ({"weight": "i1 8 8", "weight_scale": "f4 8 1"}, "int8 with scales"),
        ({"qweight": "i4 1 8", "qzeros": "i4 2 1", "scales": "f2 2 8", "g_idx": "i4 8"}, "GPTQ"),
        ({"qweight": "i4 8 1", "qzeros": "i4 2 1", "scales": "f2 2 8"}, "AWQ"),
        ({"weight_packed": "i4 8 1", "weight_scale": "f2 8 2", "weight_shape": "i8 2"}, "compress"),
        ({"gate_blocks": "u1 3 8 2 4", "gate_scales": "u1 3 8 2"}, "MXFP4"),
        ({"weight": "u1 32 1", "weight.absmax": "f4 1", "weight.quant_map": "f4 16"}, "in 4 bits"),
        ({"weight": "i1 8 8", "SCB": "f4 8"}, "bitsandbytes to int8"),
        ({"W_q": "u1 8 8", "scale": "f2 8 1", "zero": "f2 8 1"}, "HQQ"),
        ({"weight._data": "i1 8 8", "weight._scale": "f4 8 1"}, "quanto"),
    ],
)
def test_all_tensors_of_a_packed_weight_have_one_reason(state, reason):
    arrays = {}
    for name, text in state.items():
        dtype, *shape = text.split()
        arrays[f"layers.0.fc.{name}"] = np.ones([int(n) for n in shape], dtype)
    weight = one(arrays)
    assert reason in weight.reason
    assert weight.reason.endswith(": not dequantised")
    assert weight.read().tobytes() == b"".join(arrays[name].tobytes() for name in weight.tensors)


def test_scales_without_quantised_values_are_vectors_of_their_own(rng):
    state = {"norm.weight": rng.standard_normal(4), "norm.weight_scale": np.ones(4)}
    assert [w.reason for w in weights(open_checkpoint(state))] == ["", ""]
