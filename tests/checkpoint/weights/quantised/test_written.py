"""Weights that libraries have written and dequantised, which are not needed to run the tests.

`written.npz` holds small matrices and what the libraries computed for them on a processor:
AutoGPTQ 0.7.1 (`qlinear_cuda_old`), GPTQModel 7.7.0 (`TorchLinear`, columns sorted by activation,
in both versions of the format), AutoAWQ 0.2.9 (`WQLinear_GEMM`, `dequantize_gemm`), ModelOpt 0.47.0
(`NVFP4QTensor`, `MXFP4QTensor`), MLX 0.32.4 (`mlx.core.quantize`), optimum-quanto 0.2.7, and
HQQ 0.2.8 (`HQQLinear`).
"""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import weights
from specdiag.checkpoint.weights.quantised.rules import quantised


@pytest.fixture(scope="module")
def written():
    with np.load(Path(__file__).parent / "written.npz") as arrays:
        return dict(arrays)


def parts(written, start):
    found = {k.removeprefix(start): v for k, v in written.items() if k.startswith(start)}
    expected = found.pop("expected")
    return found, expected


def only(state, config=None):
    tensors = {t.name: t for t in open_checkpoint(state).tensors}
    (weight,) = quantised(tensors, config or {})
    assert not weight.reason
    assert sorted(weight.tensors) == sorted(state)
    return weight


def same(weight, expected):
    assert weight.shape == expected.shape
    tolerance = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(weight.read(), expected, 1e-6, tolerance)


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("config", [None, {"checkpoint_format": "gptq", "bits": 4}])
def test_gptq_as_autogptq_writes_it(written, bits, config):
    """Scales are rounded to float16 when a layer is saved."""
    state, expected = parts(written, f"autogptq_{bits}_")
    weight = only({f"fc.{name}": values for name, values in state.items()}, config)
    assert (weight.name, weight.rule) == ("fc.weight", f"GPTQ, {bits} bits, groups of 16")
    same(weight, expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_gptq_with_sorted_columns_in_both_versions(written, bits, version):
    state, expected = parts(written, f"gptqmodel_{bits}_")
    first = state.pop("qzeros_v1")
    if version == "gptq":
        state["qzeros"] = first
    same(only(state, {"checkpoint_format": version}), expected)


@pytest.mark.parametrize("stored", [7, 8])
def test_symmetric_gptq_shows_its_version_by_its_zero_points(stored):
    codes = np.arange(16, dtype=np.uint32).reshape(2, 8) % 16
    words = np.bitwise_or.reduce(codes << np.arange(0, 32, 4, dtype=np.uint32), axis=1)
    state = {
        "qweight": words.astype(np.int32).reshape(2, 1).repeat(8, 1),
        "qzeros": np.array([[0x11111111 * stored]], np.uint32).view(np.int32),
        "scales": np.ones((1, 8), np.float16),
    }
    np.testing.assert_array_equal(only(state).read(), [np.arange(16.0) - 8] * 8)


def test_awq_as_autoawq_writes_it(written):
    state, expected = parts(written, "autoawq_")
    weight = only({f"fc.{name}": values for name, values in state.items()})
    assert (weight.name, weight.rule) == ("fc.weight", "AWQ, 4 bits, groups of 16")
    same(weight, expected)


def test_nvfp4_as_modelopt_writes_it(written):
    state, expected = parts(written, "modelopt_nvfp4_")
    state["weight_scale"] = state["weight_scale"].view(ml_dtypes.float8_e4m3fn)
    weight = only(state | {"input_scale": np.float32([1])})
    assert weight.rule == "NVFP4 values times scales"
    same(weight, expected)


def test_mxfp4_as_modelopt_writes_it(written):
    state, expected = parts(written, "modelopt_mxfp4_")
    same(only(state), expected)


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("shifts", ["biases", "qbiases"])
def test_mlx_in_groups(written, bits, shifts):
    """The Metal quantisation of transformers calls the biases of groups `qbiases`."""
    state, expected = parts(written, f"mlx_{bits}_")
    state[shifts] = state.pop("biases")
    settings = {"group_size": 64, "bits": bits}
    named = {f"layers.0.fc.{name}": values for name, values in state.items()}
    weight = only(named, settings)
    assert (weight.name, weight.rule) == ("layers.0.fc.weight", f"MLX, {bits} bits, groups of 64")
    same(weight, expected)
    same(only(named, {"group_size": 32, "bits": 8, "model.layers.0.fc": settings}), expected)


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4", "mxfp8"])
def test_small_floats_of_mlx(written, mode):
    state, expected = parts(written, f"mlx_{mode}_")
    weight = only(state)
    assert weight.rule == f"{mode.upper()} values times scales"
    same(weight, expected)


@pytest.mark.parametrize("kind", ["qint8", "qfloat8"])
def test_values_of_8_bits_as_quanto_writes_them(written, kind):
    state, expected = parts(written, f"quanto_{kind}_")
    dtype = np.int8 if kind == "qint8" else ml_dtypes.float8_e4m3fn
    state["weight._data"] = state["weight._data"].view(dtype)
    weight = only({f"0.{name}": values for name, values in state.items()})
    assert weight.name == "0.weight"
    same(weight, expected)


@pytest.mark.parametrize(("bits", "axis"), [(4, 1), (3, 1), (2, 0)])
def test_hqq_in_groups_of_rows_and_of_columns(written, bits, axis):
    state, expected = parts(written, f"hqq_{bits}_{axis}_")
    weight = only({f"fc.{name}": values for name, values in state.items()})
    assert (weight.name, weight.rule) == ("fc.weight", f"HQQ, {bits} bits")
    same(weight, expected)


def test_a_configuration_beside_the_file_tells_the_version_of_gptq(written, tmp_path):
    import json

    from safetensors.numpy import save_file

    state, expected = parts(written, "gptqmodel_4_")
    del state["qzeros_v1"]
    save_file(state, tmp_path / "model.safetensors")
    for name, config in (
        ("quantize_config.json", {"checkpoint_format": "gptq_v2"}),
        ("config.json", {"quantization_config": {"checkpoint_format": "gptq_v2"}}),
    ):
        (weight,) = weights(open_checkpoint(tmp_path))
        assert not np.allclose(weight.read(), expected, atol=1e-3)
        (tmp_path / name).write_text(json.dumps(config))
        (weight,) = weights(open_checkpoint(tmp_path))
        same(weight, expected)
        (tmp_path / name).unlink()
