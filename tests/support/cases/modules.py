"""Modules and arrays in memory: a weight is what the forward pass of its module uses."""

import numpy as np

from support.cases.case import Made, arrays, case, fill, heavy, kernel, linears, sequence


@case("torch")
def memory_normalised(folder):
    """Weight norm and spectral norm, old and new, and a chain of two parametrizations."""
    import torch
    from torch import nn
    from torch.nn.utils import parametrizations, parametrize

    net = fill(nn.ModuleDict({f"l{i}": nn.Linear(96, 80) for i in range(5)}))
    torch.nn.utils.weight_norm(net["l0"])
    torch.nn.utils.spectral_norm(net["l1"])
    parametrizations.weight_norm(net["l2"])
    parametrizations.spectral_norm(net["l3"])
    parametrizations.weight_norm(net["l4"])
    parametrize.register_parametrization(net["l4"], "weight", nn.Tanh())
    net.eval()
    for layer in net.values():
        layer(torch.zeros(1, 96))
    return Made(net, arrays(layer.weight for layer in net.values()))


@case("torch")
def memory_orthogonal_and_symmetric(folder):
    """Functions that no file tells: the module computes them."""
    from torch import nn
    from torch.nn.utils import parametrizations, parametrize

    class Skew(nn.Module):
        def forward(self, x):
            return x.triu(1) - x.triu(1).T

    net = fill(nn.Sequential(nn.Linear(96, 64), nn.Linear(80, 80), nn.Linear(64, 96)))
    parametrizations.orthogonal(net[0])
    parametrize.register_parametrization(net[1], "weight", Skew())
    return Made(net, arrays([net[1].weight, net[2].weight, net[0].weight]))


@case("torch")
def memory_pruned(folder):
    from torch.nn.utils import prune

    net = sequence(96, 128, 80)
    prune.l1_unstructured(net[0], "weight", 0.4)
    prune.ln_structured(net[2], "weight", 0.2, n=1, dim=0)
    return Made(net, arrays([net[0].weight, net[2].weight]))


@case("torch")
def memory_buffers(folder):
    """Buffers of any values, kept in a state dict or not; a parameter that is a table."""
    import torch
    from torch import nn

    net = nn.Module()
    net.fc, net.tokens = nn.Linear(96, 80), nn.Embedding(200, 96)
    fill(net)
    net.register_buffer("features", torch.from_numpy(heavy(80, 96, seed=5)))
    net.register_buffer("cache", torch.from_numpy(heavy(80, 96, seed=6)), persistent=False)
    return Made(net, arrays([net.fc.weight]))


@case("torch")
def memory_wrapped(folder):
    """A module within another one, and tied layers."""
    import torch
    from torch import nn

    body = sequence(96, 96, 96)
    body[2].weight = body[0].weight
    wrapped = nn.DataParallel(torch.compile(body))
    return Made(wrapped, arrays([body[0].weight]))


@case("torch", "transformers", "peft")
def memory_lora(folder):
    """A model of peft in memory: the forward pass adds the update."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn

    base = sequence(96, 128, 80)
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=32, target_modules=["0"]))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.from_numpy(heavy(*p.shape)))
    layer = model.base_model.model[0]
    update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * 4
    assert isinstance(layer.base_layer, nn.Linear)
    return Made(model, arrays([layer.base_layer.weight + update, model.base_model.model[2].weight]))


@case("torch")
def memory_recurrent(folder):
    from torch import nn

    net = fill(nn.ModuleDict({"rnn": nn.LSTM(64, 96), "att": nn.MultiheadAttention(96, 2)}))
    return Made(net, arrays(p for p in net.parameters() if p.ndim == 2))


@case("torch")
def memory_kernels(folder):
    """Kernels of all ranks, transposed and grouped, a bilinear form, and one-channel kernels."""
    from torch import nn

    net = nn.Sequential(nn.Conv1d(64, 80, 65), nn.ConvTranspose2d(80, 64, 4), nn.Conv3d(64, 64, 3))
    net.extend([nn.Bilinear(80, 64, 72), nn.Conv2d(64, 64, 9, groups=64)])
    fill(net)
    return Made(net, arrays(layer.weight for layer in list(net)[:4]))


@case()
def memory_arrays(folder):
    """A tree of arrays, as flax and Haiku keep it, with lists of layers."""
    tree = {"params": {"blocks": [{"w": heavy(80, 96, seed=i)} for i in range(2)]}}
    tree["params"]["head"] = {"kernel": heavy(96, 64), "bias": np.zeros(64, "f4")}
    image = np.moveaxis(kernel(96, 64, 3, 3), (0, 1), (-1, -2))
    tree["params"]["conv"] = {"kernel": image, "bias": np.zeros(96, "f4")}
    right = [tree["params"]["head"]["kernel"], image]
    right += [block["w"] for block in tree["params"]["blocks"]]
    return Made(tree, [np.float64(a) for a in right])


@case("torch", "transformers")
def memory_vision_transformer(folder):
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 1}
    model = fill(ViTModel(ViTConfig(**sizes, num_attention_heads=2, image_size=64, patch_size=8)))
    return Made(model, linears(model))
