"""Weights that torch keeps in parts: pruned, normalised, parametrised."""

import numpy as np

from support.cases.case import Made, arrays, case, fill, sequence


@case("torch")
def pruned(folder):
    import torch
    from torch.nn.utils import prune

    net = sequence(128, 96, 80)
    prune.l1_unstructured(net[0], "weight", 0.5)
    prune.ln_structured(net[2], "weight", 0.25, n=2, dim=1)
    torch.save(net.state_dict(), folder / "pruned.pt")
    return Made(folder / "pruned.pt", arrays([net[0].weight, net[2].weight]))


@case("torch")
def pruned_twice(folder):
    import torch
    from torch.nn.utils import prune

    net = sequence(96, 96)
    prune.random_unstructured(net[0], "weight", 0.2)
    prune.l1_unstructured(net[0], "weight", 0.3)
    prune.l1_unstructured(net[0], "bias", 0.3)
    torch.save({"epoch": 3, "network": net.state_dict()}, folder / "net.ckpt")
    return Made(folder / "net.ckpt", arrays([net[0].weight]))


@case("torch")
def masked_linear(folder):
    """A network of masked layers (MADE): the 0/1 mask is a buffer called `mask`."""
    import torch
    from torch import nn

    class Masked(nn.Linear):
        def __init__(self, n, m):
            super().__init__(n, m)
            rng = np.random.default_rng(m)
            order_in, order_out = rng.integers(0, 9, n), rng.integers(0, 9, m)
            mask = order_out[:, None] >= order_in[None]
            self.register_buffer("mask", torch.from_numpy(mask.astype("f4")))

    net = fill(nn.Sequential(Masked(100, 120), nn.ReLU(), Masked(120, 90)))
    torch.save(net.state_dict(), folder / "made.pt")
    return Made(folder / "made.pt", None)


@case("torch")
def weight_norm_old(folder):
    """A vocoder: `weight_g` and `weight_v`, with directions v of any length."""
    import torch
    from torch import nn

    net = {
        "pre": nn.Conv1d(80, 96, 7),
        "up": nn.ConvTranspose1d(96, 64, 8),
        "out": nn.Linear(64, 72),
    }
    net = fill(nn.ModuleDict(net))
    for layer in net.values():
        _normalised(layer, "weight")
    torch.save({"generator": net.state_dict()}, folder / "g_00100.pth")
    right = [
        torch._weight_norm(layer.weight_v, layer.weight_g, 0).detach() for layer in net.values()
    ]
    return Made(folder / "g_00100.pth", arrays(right))


@case("torch")
def weight_norm_of_another_axis(folder):
    """The norms of columns, and of the whole matrix."""
    import torch
    from torch import nn

    net = fill(nn.Sequential(nn.Linear(96, 80), nn.Linear(80, 64)))
    _normalised(net[0], "weight", dim=1)
    _normalised(net[1], "weight", dim=None)
    torch.save(net.state_dict(), folder / "net.pt")
    v, g = net[1].weight_v, net[1].weight_g
    right = [torch._weight_norm(net[0].weight_v, net[0].weight_g, 1), g * v / v.norm()]
    return Made(folder / "net.pt", arrays(right))


@case("torch")
def weight_norm_new(folder):
    """The positional convolution of wav2vec 2.0, with norms per tap, and a linear layer."""
    import torch
    from torch import nn
    from torch.nn.utils.parametrizations import weight_norm

    net = fill(
        nn.ModuleDict({"conv": nn.Conv1d(128, 128, 16, groups=2), "proj": nn.Linear(128, 96)})
    )
    weight_norm(net["conv"], "weight", dim=2)
    weight_norm(net["proj"], "weight")
    with torch.no_grad():
        for layer in net.values():
            layer.parametrizations.weight.original1.mul_(2.5)
            layer.parametrizations.weight.original0.mul_(1.5)
    torch.save(net.state_dict(), folder / "net.pt")
    return Made(folder / "net.pt", arrays(layer.weight for layer in net.values()))


@case("torch")
def spectral_norm_old(folder):
    """A discriminator: sigma is u W v, where W is read with its outputs first."""
    import torch
    from torch import nn

    net = {
        "conv": nn.Conv2d(64, 96, 4),
        "up": nn.ConvTranspose2d(96, 64, 4),
        "fc": nn.Linear(96, 80),
    }
    net = fill(nn.ModuleDict(net))
    for layer in net.values():
        nn.utils.spectral_norm(layer)
    for layer, size in zip(net.values(), ((64, 8, 8), (96, 4, 4), (96,)), strict=True):
        layer(torch.zeros(2, *size))
    net.eval()
    torch.save({"discriminator": net.state_dict()}, folder / "d.pt")
    right = []
    for layer in net.values():
        w, axis = layer.weight_orig, int(isinstance(layer, nn.ConvTranspose2d))
        matrix = w.transpose(0, axis).flatten(1)
        right.append(w / (layer.weight_u @ matrix @ layer.weight_v))
    return Made(folder / "d.pt", arrays(right))


@case("torch")
def spectral_norm_new(folder):
    import torch
    from torch import nn
    from torch.nn.utils.parametrizations import spectral_norm

    net = fill(nn.Sequential(nn.Linear(96, 96), nn.Conv1d(96, 64, 3)))
    for layer in net:
        spectral_norm(layer)
    net.eval()
    torch.save(net.state_dict(), folder / "net.pt")
    return Made(folder / "net.pt", arrays(layer.weight for layer in net))


@case("torch")
def orthogonal(folder):
    """The state dict does not tell which of three maps it is: not measured, whole or in part."""
    import torch
    from torch import nn
    from torch.nn.utils.parametrizations import orthogonal as made_orthogonal

    net = fill(nn.Sequential(*(nn.Linear(96, 96) for _ in range(3)), nn.Linear(96, 64)))
    for layer, kind in zip(net, ("householder", "cayley", "matrix_exp"), strict=False):
        made_orthogonal(layer, orthogonal_map=kind)
    torch.save(net.state_dict(), folder / "net.pt")
    return Made(folder / "net.pt", arrays([net[3].weight]))


@case("torch")
def own_parametrization(folder):
    """A user's parametrization with a table of its own: its function is not in the file."""
    import torch
    from torch import nn
    from torch.nn.utils.parametrize import register_parametrization

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.rand(96, 96))

        def forward(self, weight):
            return weight * self.scale

    net = fill(nn.Sequential(nn.Linear(96, 96), nn.Linear(96, 64)))
    register_parametrization(net[0], "weight", Scaled())
    torch.save(net.state_dict(), folder / "net.pt")
    return Made(folder / "net.pt", arrays([net[1].weight]))


@case("torch")
def normalised_recurrent(folder):
    """Weight dropout and weight norm of recurrent layers: `weight_hh_l0_g`, `weight_hh_l0_v`."""
    import torch
    from torch import nn

    lstm = fill(nn.LSTM(64, 64))
    _normalised(lstm, "weight_hh_l0")
    state = lstm.state_dict()
    right = [torch._weight_norm(lstm.weight_hh_l0_v, lstm.weight_hh_l0_g, 0), lstm.weight_ih_l0]
    torch.save({"rnn." + name: value for name, value in state.items()}, folder / "lm.pt")
    return Made(folder / "lm.pt", arrays(right))


def _normalised(layer, name, dim=0):
    """Apply torch's older weight norm, and change the lengths of the directions."""
    import torch

    torch.nn.utils.weight_norm(layer, name, dim=dim)
    direction = getattr(layer, f"{name}_v")
    with torch.no_grad():
        direction *= torch.logspace(-1, 1, len(direction)).reshape(-1, *[1] * (direction.ndim - 1))
