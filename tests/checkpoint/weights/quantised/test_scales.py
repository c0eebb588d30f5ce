import ml_dtypes
import numpy as np
import pytest

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import weights

FP8 = ml_dtypes.float8_e4m3fn


def one(state):
    splits = ["*=whole"] if any(values.ndim > 2 for values in state.values()) else []
    (weight,) = weights(open_checkpoint(state), splits)
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
    assert (weight.rule, weight.dtype) == ("FP8 values times scales", "float32")


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


@pytest.mark.parametrize(("shape", "scales"), [((384, 200), (3, 2)), ((200, 384), (2, 3))])
def test_blocks_of_128_are_meant_where_even_blocks_would_fit_too(rng, shape, scales):
    W = np.ones(shape).astype(FP8)
    factors = rng.random(scales).astype(np.float32)
    values = one({"fc.weight": W, "fc.weight_scale_inv": factors}).read()
    expected = factors.repeat(128, 0).repeat(128, 1)[: shape[0], : shape[1]]
    np.testing.assert_array_equal(values, expected)


def test_a_vector_of_scales_with_one_for_each_column_is_applied_to_columns(rng):
    W = rng.integers(-128, 128, (8, 4)).astype(np.int8)
    scales = rng.random(4).astype(np.float32)
    np.testing.assert_array_equal(one({"w": W, "w_scale": scales}).read(), W * scales)
    square = {"w": W[:4], "w_scale": scales}
    np.testing.assert_array_equal(one(square).read(), W[:4] * scales.reshape(4, 1))
    assert one({"w": W, "w_scale": scales[:2]}).reason.endswith("its scales do not fit")


def test_each_matrix_of_a_stack_has_its_scale(rng):
    W = rng.standard_normal((3, 6, 4)).astype(FP8)
    scales = rng.random(3).astype(np.float32)
    weight = one({"up_proj": W, "up_proj_scale": scales})
    np.testing.assert_array_equal(weight.read(), W.astype(np.float32) * scales.reshape(3, 1, 1))
    np.testing.assert_array_equal(weight.read_rows(1, 2), weight.read()[1:2])


def test_scales_of_outputs_that_are_columns_are_applied_to_columns(rng):
    """So it is in Llama 4 in the FP8 of FBGEMM: scales of (experts, out, 1)."""
    W = rng.standard_normal((3, 8, 4)).astype(FP8)
    scales = rng.random((3, 4, 1)).astype(np.float32)
    weight = one({"down_proj": W, "down_proj_scale": scales})
    np.testing.assert_array_equal(weight.read(), W.astype(np.float32) * scales.reshape(3, 1, 4))
    np.testing.assert_array_equal(weight.read_rows(1, 3), weight.read()[1:3])


def test_powers_of_two_in_the_type_of_exponents_are_scales(rng):
    W = rng.standard_normal((4, 64)).astype(FP8)
    scales = np.array([[0.5, 2]] * 4).astype(ml_dtypes.float8_e8m0fnu)
    values = one({"fc.weight": W, "fc.weight_scale_inv": scales}).read()
    expected = W.astype(np.float32) * scales.astype(np.float32).repeat(32, 1)
    np.testing.assert_array_equal(values, expected)


def test_scales_without_quantised_values_are_vectors_of_their_own(rng):
    state = {"norm.weight": rng.standard_normal(4), "norm.weight_scale": np.ones(4)}
    assert [w.reason for w in weights(open_checkpoint(state))] == ["", ""]
