"""Weights as the libraries that write them dequantise them."""

import json
import warnings

import numpy as np
import pytest

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import weights
from specdiag.checkpoint.weights.quantised.rules import quantised

torch = pytest.importorskip("torch")


def only(tensors, tmp_path, config=None):
    """Return the one weight of tensors that are saved by safetensors, with a config.json."""
    from safetensors.torch import save_file

    folder = tmp_path / "saved"
    folder.mkdir(exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": config or {}}))
    (weight,) = weights(open_checkpoint(folder), ["*=whole"])
    assert not weight.reason
    assert sorted(weight.tensors) == sorted(tensors)
    assert weight.dtype == "float32"
    return weight


def same(weight, expected, tolerance=1e-6):
    values = weight.read()
    assert values.shape == weight.shape == tuple(expected.shape)
    assert values.dtype == np.float32
    largest = float(expected.abs().max())
    np.testing.assert_allclose(values, expected.float().numpy(), tolerance, tolerance * largest)


@pytest.fixture
def bitsandbytes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize(
    ("shape", "storage"), [((96, 80), "uint8"), ((33, 7), "uint8"), ((96, 80), "bfloat16")]
)
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_4_bits(bitsandbytes, tmp_path, kind, nested, shape, storage):
    """The library computes one column, because its processor code wants rows of whole blocks."""
    torch.manual_seed(0)
    packed, state = bitsandbytes.functional.quantize_4bit(
        torch.randn(shape).reshape(-1, 1) * 3,
        quant_type=kind,
        compress_statistics=nested,
        quant_storage=getattr(torch, storage),
    )
    expected = bitsandbytes.functional.dequantize_4bit(packed, state).reshape(shape)
    state.shape = torch.Size(shape)
    tensors = {"fc.weight": packed}
    tensors |= {f"fc.weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    weight = only(tensors, tmp_path)
    assert weight.name == "fc.weight"
    assert weight.rule == f"bitsandbytes {kind}, blocks of 64"
    same(weight, expected)


def test_a_layer_of_bitsandbytes_in_memory_and_in_a_torch_file(bitsandbytes, tmp_path):
    torch.manual_seed(0)
    layer = bitsandbytes.nn.Linear4bit(64, 48, compute_dtype=torch.float32, quant_type="nf4")
    layer = layer.to("cpu")
    packed, state = bitsandbytes.functional.quantize_4bit(torch.randn(48, 64), quant_type="nf4")
    expected = bitsandbytes.functional.dequantize_4bit(packed, state)
    layer.weight = bitsandbytes.nn.Params4bit.from_prequantized(
        packed, {f"weight.{k}": v for k, v in state.as_dict(packed=True).items()}, device="cpu"
    )
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    for source in (layer.state_dict(), tmp_path / "layer.pt"):
        found = {w.name: w for w in weights(open_checkpoint(source))}
        same(found["weight"], expected)


def test_bitsandbytes_int8(bitsandbytes, tmp_path):
    torch.manual_seed(0)
    codes, scales, _ = bitsandbytes.functional.int8_vectorwise_quant(
        torch.randn(96, 80, dtype=torch.float16)
    )
    tensors = {"fc.weight": codes, "fc.SCB": scales, "fc.weight_format": torch.tensor(0).byte()}
    weight = only(tensors, tmp_path)
    same(weight, bitsandbytes.functional.int8_vectorwise_dequant(codes, scales))


def compressed(scheme, tensors, name, tmp_path):
    """Return the weight of what a compressor writes, and what it reads."""
    from compressed_tensors.compressors.base import BaseCompressor

    compressor = BaseCompressor.get_value_from_registry(name)
    written = compressor.compress(tensors, scheme)
    config = {"format": name, "config_groups": {"group_0": scheme.model_dump(mode="json")}}
    named = {f"layers.0.fc.{k}": v for k, v in written.items()}
    weight = only(named, tmp_path, config)
    assert weight.name == "layers.0.fc.weight"
    return weight, compressor.decompress(written, scheme)["weight"]


def scheme_of(**settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization = pytest.importorskip("compressed_tensors.quantization")
    arguments = quantization.QuantizationArgs(**settings)
    return quantization.QuantizationScheme(targets=["Linear"], weights=arguments)


def scales_and_zeros(values, scheme, global_scale=None):
    """Return scales and zero points of the last axis of values, as an observer finds them."""
    from compressed_tensors.quantization.utils import calculate_qparams

    return calculate_qparams(values.amin(-1), values.amax(-1), scheme.weights, global_scale)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [16, 32, None])
def test_integers_of_compressed_tensors(tmp_path, bits, symmetric, group):
    strategy = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    scheme = scheme_of(num_bits=bits, symmetric=symmetric, **strategy)
    torch.manual_seed(bits)
    W = torch.randn(24, 96) + 0.3
    scale, zero = scales_and_zeros(W.reshape(24, -1, group or 96), scheme)
    tensors = {"weight": W, "weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
    weight, expected = compressed(scheme, tensors, "pack-quantized", tmp_path)
    assert weight.rule.startswith(f"compressed-tensors, {bits} bits")
    same(weight, expected)


def test_columns_that_do_not_fill_the_last_integer_are_cut_off(tmp_path):
    scheme = scheme_of(num_bits=4, strategy="channel")
    W = torch.randn(24, 45, generator=torch.Generator().manual_seed(0))
    scale, _ = scales_and_zeros(W.reshape(24, 1, 45), scheme)
    tensors = {"weight": W, "weight_scale": scale}
    same(*compressed(scheme, tensors, "pack-quantized", tmp_path))


def test_a_stack_of_experts_of_compressed_tensors(tmp_path):
    scheme = scheme_of(num_bits=4, strategy="group", group_size=32)
    W = torch.randn(3, 24, 64, generator=torch.Generator().manual_seed(0))
    scale, _ = scales_and_zeros(W.reshape(3, 24, 2, 32), scheme)
    weight, expected = compressed(
        scheme, {"weight": W, "weight_scale": scale}, "pack-quantized", tmp_path
    )
    same(weight, expected)
    np.testing.assert_array_equal(weight.read_rows(1, 3), weight.read()[1:3])


@pytest.mark.parametrize(("kind", "symmetric"), [("int", True), ("int", False), ("float", True)])
@pytest.mark.parametrize(
    ("strategy", "shape"), [("tensor", (1, 24 * 96)), ("channel", (24, 1, 96)), ("group", None)]
)
def test_values_of_8_bits_of_compressed_tensors(tmp_path, kind, strategy, shape, symmetric):
    group = {"group_size": 32} if strategy == "group" else {}
    scheme = scheme_of(num_bits=8, type=kind, strategy=strategy, symmetric=symmetric, **group)
    W = torch.randn(24, 96, generator=torch.Generator().manual_seed(0)) + 0.3
    scale, zero = scales_and_zeros(W.reshape(shape or (24, 3, 32)), scheme)
    tensors = {"weight": W, "weight_scale": scale}
    if not symmetric:
        tensors["weight_zero_point"] = zero
    same(*compressed(scheme, tensors, f"{kind}-quantized", tmp_path))


def test_blocks_of_compressed_tensors_whose_last_ones_are_shorter(tmp_path):
    scheme = scheme_of(num_bits=8, type="float", strategy="block", block_structure=[32, 16])
    W = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
    tensors = {"weight": W, "weight_scale": torch.tensor([[0.01, 0.02], [0.03, 0.04]])}
    same(*compressed(scheme, tensors, "float-quantized", tmp_path))


def test_nvfp4_of_compressed_tensors(tmp_path):
    from compressed_tensors.quantization.utils import generate_gparam

    scheme = scheme_of(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    W = torch.randn(24, 96, generator=torch.Generator().manual_seed(0))
    whole = generate_gparam(W.amin(), W.amax())
    scale, _ = scales_and_zeros(W.reshape(24, 6, 16), scheme, whole)
    tensors = {"weight": W, "weight_scale": scale, "weight_global_scale": whole}
    weight, expected = compressed(scheme, tensors, "nvfp4-pack-quantized", tmp_path)
    assert weight.rule == "NVFP4 values times scales"
    same(weight, expected, 2**-7)  # the library rounds the product to bfloat16


@pytest.mark.parametrize(
    ("name", "bits"),
    [("mxfp4-pack-quantized", 4), ("mxfp6-pack-quantized", 6), ("mxfp8-quantized", 8)],
)
def test_mx_formats_of_compressed_tensors(tmp_path, name, bits):
    settings = {"group_size": 32, "scale_dtype": torch.uint8}
    scheme = scheme_of(num_bits=bits, type="float", strategy="group", **settings)
    W = torch.randn(24, 96, generator=torch.Generator().manual_seed(0))
    scale = 2.0 ** torch.arange(-36, 36).reshape(24, 3)
    W = (W.reshape(24, 3, 32) * scale[..., None]).reshape(24, 96)
    weight, expected = compressed(scheme, {"weight": W, "weight_scale": scale}, name, tmp_path)
    assert weight.rule == f"MXFP{bits} values times scales"
    values = weight.read().reshape(24, 3, 32) / scale.numpy()[..., np.newaxis]
    expected = expected.float().reshape(24, 3, 32) / scale[..., None]
    np.testing.assert_array_equal(values, expected.numpy())


def test_mxfp4_of_gpt_oss(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    g = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, 20, 4, 16), generator=g, dtype=torch.uint8)
    scales = torch.randint(110, 140, (3, 20, 4), generator=g, dtype=torch.uint8)
    expected = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    tensors = {"experts.down_proj_blocks": blocks, "experts.down_proj_scales": scales}
    (folder := tmp_path / "a").mkdir()
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors")
    found = weights(open_checkpoint(folder))
    assert {name for weight in found for name in weight.tensors} == set(tensors)
    values = [weight.read() for weight in found]
    joined = values[0] if len(found) == 1 else np.stack(values)
    np.testing.assert_array_equal(joined, expected.numpy())


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_recurrent_layers_of_onnxruntime(dtype):
    """They have a scale for each direction; the reference of ONNX dequantises along that axis."""
    onnx = pytest.importorskip("onnx")
    reference = pytest.importorskip("onnx.reference")
    node = onnx.helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"], axis=0)
    info = [onnx.helper.make_tensor_value_info(name, 1, None) for name in "xszy"]
    graph = onnx.helper.make_graph([node], "g", info[:3], info[3:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)])
    rng = np.random.default_rng(0)
    codes, zeros = (rng.integers(0, 100, shape).astype(dtype) for shape in ((2, 6, 8), 2))
    scales = rng.random(2).astype(np.float32)
    evaluator = reference.ReferenceEvaluator(model)
    (expected,) = evaluator.run(None, {"x": codes, "s": scales, "z": zeros})
    tensors = {"9_quantized": codes, "9_scale": scales, "9_zero_point": zeros}
    found = {t.name: t for t in open_checkpoint(tensors).tensors}
    (weight,) = quantised(found, {})
    assert (weight.name, weight.shape) == ("9", (2, 6, 8))
    np.testing.assert_allclose(weight.read(), expected, 1e-6)
