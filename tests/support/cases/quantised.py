"""Weights in fewer bits: their values, scales and zero points belong to one weight."""

import numpy as np

from support.cases.case import Made, arrays, case, heavy


def _saved(folder, tensors, right):
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors")
    return Made(folder / "model.safetensors", right)


def _weight(n=128, m=96, seed=0):
    import torch

    return torch.from_numpy(heavy(n, m, seed=seed)) * torch.logspace(-1, 1, n)[:, None]


@case("torch", "safetensors")
def eight_bits_per_channel(folder):
    """int8 and float8 with a scale a row, and float8 with one scale; static scales of inputs."""
    import torch

    weight = _weight()
    scale = weight.abs().amax(1, keepdim=True) / 127
    small = (weight / scale).round().to(torch.int8)
    scale8 = weight.abs().amax(1, keepdim=True) / 448
    small8 = (weight / scale8).to(torch.float8_e4m3fn)
    one = weight.abs().max() / 448
    single = (weight / one).to(torch.float8_e4m3fn)
    tensors = {
        "a.q_proj.weight": small,
        "a.q_proj.weight_scale": scale,
        "a.k_proj.weight": small8,
        "a.k_proj.weight_scale": scale8.to(torch.bfloat16),
        "a.v_proj.weight": single,
        "a.v_proj.weight_scale": one,
        "a.v_proj.input_scale": torch.tensor(0.5),
        "a.k_scale": torch.tensor(1.0),
        "norm.weight": torch.ones(96),
    }
    back = scale8.to(torch.bfloat16).double()
    right = [small * scale.double(), small8.double() * back, single.double() * one.double()]
    return _saved(folder, tensors, arrays(right))


@case("torch", "safetensors", "bitsandbytes")
def four_bits_of_bitsandbytes(folder):
    """NF4 with nested scales, as transformers saves it."""
    import bitsandbytes.functional as bnb
    import torch

    weight = torch.from_numpy(heavy(128, 128)).half()
    packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    tensors = {"model.layers.0.mlp.up_proj.weight": packed}
    for name, value in state.as_dict(packed=True).items():
        tensors[f"model.layers.0.mlp.up_proj.weight.{name}"] = value
    right = bnb.dequantize_4bit(packed, state)
    return _saved(folder, {k: v.contiguous() for k, v in tensors.items()}, arrays([right]))


@case("torch", "safetensors", "compressed_tensors")
def packed_by_compressed_tensors(folder):
    """Four bits in groups of 32, packed by the library itself."""
    import torch
    from compressed_tensors.compressors import pack_to_int32

    weight = _weight()
    groups = weight.reshape(128, 3, 32)
    scale = groups.abs().amax(-1) / 7
    small = (groups / scale[..., None]).round().clamp(-8, 7).reshape(128, 96).to(torch.int8)
    tensors = {
        "l.weight_packed": pack_to_int32(small, 4),
        "l.weight_scale": scale,
        "l.weight_shape": torch.tensor([128, 96]),
    }
    back = small.reshape(128, 3, 32).double() * scale[..., None].double()
    return _saved(folder, tensors, arrays([back.reshape(128, 96)]))


@case("torch", "safetensors")
def experts_in_four_bits(folder):
    """MXFP4 of gpt-oss: `_blocks` and `_scales` of stacked experts."""
    import torch

    rng = np.random.default_rng(0)
    blocks = torch.from_numpy(rng.integers(0, 256, (4, 192, 3, 16), dtype="u1"))
    scales = torch.from_numpy(rng.integers(118, 124, (4, 192, 3), dtype="u1"))
    lut = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    lut = np.array(lut + [-v for v in lut])
    bytes_ = blocks.numpy()
    values = np.stack([lut[bytes_ & 15], lut[bytes_ >> 4]], -1).reshape(4, 192, 3, 32)
    values = values * 2.0 ** (scales.numpy()[..., None].astype(int) - 127)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = {
        f"{name}_blocks": blocks,
        f"{name}_scales": scales,
        f"{name}_bias": torch.ones(4, 192),
        "model.layers.0.mlp.router.weight": torch.from_numpy(heavy(64, 96)),
    }
    right = [values.reshape(4, 192, 96), heavy(64, 96).astype("f8")]
    return _saved(folder, tensors, right)


@case("torch", "safetensors")
def layouts_that_are_not_known(folder):
    """Layouts of further libraries: none of their scales, codes and tables is a weight.

    Eight bits of quanto are values times scales.
    """
    import torch

    rng = np.random.default_rng(1)

    def small(*shape, dtype="i1"):
        return torch.from_numpy(rng.integers(-100, 100, shape).astype(dtype))

    scales = torch.from_numpy(heavy(128, 96).clip(0.001)).half()
    tensors = {
        "hqq.W_q": small(64, 128, dtype="u1"),
        "hqq.scale": scales[:, :64].contiguous(),
        "hqq.zero": scales[:, :64].contiguous() + 1,
        "quanto.weight._data": small(128, 96),
        "quanto.weight._scale": scales[:, :1].contiguous(),
        "quanto.input_scale": torch.ones(()),
        "aqlm.codes": small(128, 64, 2, dtype="i2"),
        "aqlm.codebooks": torch.from_numpy(heavy(2, 256, 1, 8)),
        "aqlm.scales": torch.ones(128, 1, 1, 1),
        "eetq.weight": small(96, 128),
        "eetq.weight_scales": scales[0].clone(),
        "marlin.B": small(8, 256, dtype="i4"),
        "marlin.s": scales[:, :64].contiguous(),
        "marlin.workspace": small(64, dtype="i4"),
        "out.weight": torch.from_numpy(heavy(80, 96, seed=5)),
    }
    quanto = tensors["quanto.weight._data"].double() * tensors["quanto.weight._scale"].double()
    return _saved(folder, tensors, arrays([quanto, tensors["out.weight"]]))


@case("torch")
def fake_quantisation(folder):
    """Training with fake quantisation: the weight is there in full, observers beside it."""
    import torch
    from torch import nn

    net = nn.Linear(96, 80)
    state = {"fc.weight": torch.from_numpy(heavy(80, 96)), "fc.bias": net.bias.detach()}
    for part in ("weight_fake_quant", "activation_post_process"):
        state |= {
            f"fc.{part}.fake_quant_enabled": torch.ones(1, dtype=torch.uint8),
            f"fc.{part}.scale": torch.rand(80),
            f"fc.{part}.zero_point": torch.zeros(80, dtype=torch.int32),
            f"fc.{part}.activation_post_process.min_val": -torch.ones(80),
        }
    torch.save(state, folder / "qat.pt")
    return Made(folder / "qat.pt", [heavy(80, 96).astype("f8")])


@case("torch")
def quantised_modules(folder):
    """torch's own quantised linear layer, whose packed weight has no values to read."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(96, 80), nn.ReLU(), nn.Linear(80, 64))
    small = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    torch.save(small.state_dict(), folder / "int8.pt")
    return Made(folder / "int8.pt", [])
