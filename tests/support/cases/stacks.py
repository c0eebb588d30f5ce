"""Tensors with three and more axes: kernels, heads, experts, layers; and gates in one matrix."""

import numpy as np

from support.cases.case import Made, arrays, case, fill, heavy, kernel, linears


def _saved(folder, tensors, right, name="net.pt"):
    import torch

    state = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in tensors.items()}
    torch.save(state, folder / name)
    right = None if right is None else [np.float64(a) for a in right]
    return Made(folder / name, right)


@case("torch")
def heads_of_transformer_lens(folder):
    """TransformerLens: W_Q (heads, model, head), b_Q (heads, head), W_O (heads, head, model)."""
    names = {}
    stacks = []
    for i, part in enumerate("QKV"):
        stacks.append(heavy(3, 128, 64, seed=i))
        names |= {
            f"blocks.0.attn.W_{part}": stacks[-1],
            f"blocks.0.attn.b_{part}": np.zeros((3, 64), "f4"),
        }
    stacks += [heavy(3, 64, 128, seed=5), heavy(128, 256, seed=6), heavy(256, 128, seed=7)]
    names |= {"blocks.0.attn.W_O": stacks[3], "blocks.0.attn.b_O": np.zeros(128, "f4")}
    names |= {"blocks.0.mlp.W_in": stacks[4], "blocks.0.mlp.b_in": np.zeros(256, "f4")}
    names |= {"blocks.0.mlp.W_out": stacks[5], "blocks.0.mlp.b_out": np.zeros(128, "f4")}
    names |= {"embed.W_E": heavy(300, 128, seed=8), "pos_embed.W_pos": heavy(100, 128, seed=9)}
    stacks.append(heavy(128, 300, seed=10))
    names |= {"unembed.W_U": stacks[-1], "unembed.b_U": np.zeros(300, "f4")}
    names |= {"blocks.0.attn.mask": np.tril(np.ones((100, 100), "f4")).astype(bool)}
    return _saved(folder, names, stacks)


@case("torch")
def heads_without_biases(folder):
    """Heads as (heads, model, head), with nothing beside that tells."""
    return _saved(folder, {"attn.q_heads": heavy(8, 256, 64), "fc.weight": heavy(96, 80)}, None)


@case("torch")
def experts_stacked(folder):
    """Experts of several libraries: (experts, in, out), (experts, out, in), with a router."""
    tensors = {
        "block.router.weight": heavy(8, 128),
        "block.experts.gate_up_proj": heavy(8, 128, 192, seed=1),
        "block.experts.down_proj": heavy(8, 96, 128, seed=2),
        "moe.gate.wg.weight": heavy(4, 128, seed=3),
        "moe.experts.w1": heavy(4, 256, 128, seed=4),
        "moe.experts.b1": np.zeros((4, 256), "f4"),
        "moe.experts.w2": heavy(4, 128, 256, seed=5),
        "moe.experts.b2": np.zeros((4, 128), "f4"),
    }
    right = [v for k, v in tensors.items() if v.ndim > 2 or "router" in k or "wg" in k]
    return _saved(folder, tensors, right)


@case("torch")
def experts_of_two_kinds(folder):
    """Layers of stacked experts beside layers of one expert, as models alternate them."""
    tensors = {}
    for i in range(2):
        tensors[f"layers.{i}.router.weight"] = heavy(4, 80, seed=10 * i)
        tensors[f"layers.{i}.experts.input_linear.weight"] = heavy(4, 192, 80, seed=10 * i + 1)
        tensors[f"layers.{i}.experts.output_linear.weight"] = heavy(4, 80, 96, seed=10 * i + 2)
        tensors[f"layers.{i}.shared.input_linear.weight"] = heavy(192, 80, seed=10 * i + 3)
        tensors[f"layers.{i}.shared.output_linear.weight"] = heavy(80, 96, seed=10 * i + 4)
    return _saved(folder, tensors, list(tensors.values()))


@case("torch")
def recurrent_layers(folder):
    """LSTM with a projection, GRU, a plain RNN and their cells: four, three and one gate."""
    import torch
    from torch import nn

    layers = {"lstm": nn.LSTM(96, 128, proj_size=64), "gru": nn.GRU(64, 72, bidirectional=True)}
    layers |= {"rnn": nn.RNN(80, 64), "cell": nn.LSTMCell(96, 64), "gru_cell": nn.GRUCell(64, 96)}
    net = fill(nn.ModuleDict(layers))
    torch.save(net.state_dict(), folder / "net.pt")
    return Made(folder / "net.pt", arrays(p for p in net.parameters() if p.ndim == 2))


@case("torch")
def fused_attention(folder):
    """Queries, keys and values in one matrix under the names of several libraries."""
    tensors = {
        "a.self_attn.in_proj_weight": heavy(384, 128),
        "a.self_attn.in_proj_bias": np.zeros(384, "f4"),
        "a.self_attn.out_proj.weight": heavy(128, 128, seed=1),
        "b.attn.qkv.weight": heavy(384, 128, seed=2),
        "b.attn.proj.weight": heavy(128, 128, seed=3),
        "c.attn.Wqkv.weight": heavy(384, 128, seed=4),
        "c.attn.out_proj.weight": heavy(128, 128, seed=5),
        "d.attention.query_key_value.weight": heavy(384, 128, seed=6),
        "d.attention.dense.weight": heavy(128, 128, seed=7),
        "e.self_attn.qkv_proj.weight": heavy(256, 128, seed=8),
        "e.self_attn.o_proj.weight": heavy(128, 128, seed=9),
        "e.mlp.gate_up_proj.weight": heavy(384, 128, seed=10),
        "e.mlp.down_proj.weight": heavy(128, 192, seed=11),
    }
    return _saved(folder, tensors, [v for v in tensors.values() if v.ndim == 2])


@case("torch")
def attention_of_three_inputs(folder):
    """nn.MultiheadAttention with keys of another width, which is not fused; and a whole block."""
    import torch
    from torch import nn

    net = fill(nn.ModuleDict({"mha": nn.MultiheadAttention(128, 2, kdim=96, vdim=80)}))
    net["block"] = fill(nn.TransformerDecoderLayer(96, 2, 128), seed=30)
    torch.save(net.state_dict(), folder / "net.pt")
    return Made(folder / "net.pt", arrays(p for p in net.parameters() if p.ndim == 2))


@case("torch")
def long_kernels(folder):
    """Kernels of 64 to 512 taps on one axis, and written with a second axis of one."""
    tensors = {
        "conv1.weight": kernel(96, 64, 512),
        "conv1.bias": np.zeros(96, "f4"),
        "conv2.weight": kernel(64, 96, 64, seed=1)[..., None],
        "conv2.bias": np.zeros(64, "f4"),
        "conv2_BN.weight": np.ones(64, "f4"),
        "conv3.weight": kernel(128, 64, 33, seed=2),
        "conv3.bias": np.zeros(128, "f4"),
        "classifier.weight": heavy(72, 128, seed=3),
    }
    return _saved(folder, tensors, [v for v in tensors.values() if v.ndim > 1])


@case("torch")
def kernels_of_one_channel(folder):
    """Depthwise kernels of every size, and a first layer on one channel: vectors, all skipped."""
    import torch
    from torch import nn

    layers = [
        nn.Conv2d(1, 64, 9),
        nn.Conv2d(64, 64, 31, groups=64),
        nn.Conv3d(64, 64, 5, groups=64),
    ]
    layers += [nn.Conv1d(64, 64, 4, groups=64), nn.Conv2d(64, 1, 5), nn.Conv2d(64, 80, 1)]
    layers += [nn.ConvTranspose2d(80, 64, 4, 2), nn.Conv2d(64, 128, 3, groups=2)]
    net = fill(nn.Sequential(*layers))
    torch.save(net.state_dict(), folder / "net.pt")
    return Made(folder / "net.pt", arrays(net[i].weight for i in (5, 6, 7)))


@case("torch")
def bilinear_and_tensors(folder):
    """Bilinear forms, tensor-train cores and couplings: stacks by class, or ambiguous."""
    import torch
    from torch import nn

    net = fill(nn.ModuleDict({"bil": nn.Bilinear(96, 80, 64), "fc": nn.Linear(64, 96)}))
    torch.save(net, folder / "net.pt")
    return Made(folder / "net.pt", arrays([net["bil"].weight, net["fc"].weight]))


@case("torch")
def ensemble_of_linear_layers(folder):
    """An ensemble of five networks as (members, in, out), with biases (members, 1, out)."""
    tensors = {}
    for i, (n, m) in enumerate(((72, 96), (96, 96), (96, 64))):
        tensors[f"layers.{i}.weight"] = heavy(5, n, m, seed=i)
        tensors[f"layers.{i}.bias"] = np.zeros((5, 1, m), "f4")
    return _saved(folder, tensors, [v for k, v in tensors.items() if k.endswith("weight")])


@case()
def flax_attention(folder):
    """Flax: kernels (in, heads, head), (heads, head, out), (k, in, out) and (in, out)."""
    rng = np.random.default_rng(3)
    query, out = heavy(128, 192).reshape(128, 3, 64), heavy(192, 128, seed=1).reshape(3, 64, 128)
    conv = np.moveaxis(kernel(96, 64, 5, seed=2), (0, 1), (-1, -2))
    image = np.moveaxis(kernel(96, 64, 3, 3, seed=3), (0, 1), (-1, -2))
    tensors = {
        "params/attn/query/kernel": query,
        "params/attn/query/bias": rng.standard_normal((3, 64)).astype("f4"),
        "params/attn/out/kernel": out,
        "params/attn/out/bias": rng.standard_normal(128).astype("f4"),
        "params/conv/kernel": conv,
        "params/conv/bias": rng.standard_normal(96).astype("f4"),
        "params/image/kernel": image,
        "params/image/bias": rng.standard_normal(96).astype("f4"),
        "params/dense/kernel": heavy(96, 80, seed=4),
        "params/dense/bias": rng.standard_normal(80).astype("f4"),
        "params/embed/embedding": heavy(300, 96, seed=5),
    }
    np.savez(folder / "params.npz", **tensors)
    right = [v for k, v in tensors.items() if k.endswith("kernel")]
    return Made(folder / "params.npz", [np.float64(a) for a in right])


@case()
def flax_layers_by_scan(folder):
    """Flax's scan: the layers are the first axis of every kernel and bias."""
    tensors = {
        "params/layers/mlp/wi/kernel": heavy(6, 96, 256),
        "params/layers/mlp/wi/bias": np.zeros((6, 256), "f4"),
        "params/layers/mlp/wo/kernel": heavy(6, 256, 96, seed=1),
        "params/layers/mlp/wo/bias": np.zeros((6, 96), "f4"),
        "params/layers/ln/scale": np.ones((6, 96), "f4"),
        "params/head/kernel": heavy(96, 80, seed=2),
    }
    np.savez(folder / "params.npz", **tensors)
    right = [v for k, v in tensors.items() if k.endswith("kernel")]
    return Made(folder / "params.npz", [np.float64(a) for a in right])


@case("torch")
def odd_shapes(folder):
    """Shapes from no axis to six, with ones and zeros among them: a table all the same."""
    rng = np.random.default_rng(4)
    shapes = [(), (0,), (5,), (0, 64), (64, 0, 3), (1, 64), (64, 1, 1), (1, 1, 9, 9), (96, 64)]
    shapes += [(64, 64, 1, 1, 1), (2, 2, 64, 2, 64, 2), (1, 1, 1, 1, 1, 1), (80, 64, 2, 2, 2, 2)]
    tensors = {f"t{i}.weight": rng.standard_normal(s).astype("f4") for i, s in enumerate(shapes)}
    return _saved(folder, tensors, None)


@case("torch")
def linear_stacks_of_time_series(folder):
    """One linear map a channel, (channels, in, out), and spectral kernels of complex numbers."""
    rng = np.random.default_rng(5)
    spectral = rng.standard_normal((64, 64, 12)) + 1j * rng.standard_normal((64, 64, 12))
    tensors = {
        "channel_linear.weight": heavy(7, 96, 72),
        "channel_linear.bias": np.zeros((7, 72), "f4"),
        "fno.weights1": spectral.astype("c8"),
        "out.weight": heavy(72, 96, seed=1),
        "out.bias": np.zeros(72, "f4"),
    }
    return _saved(folder, tensors, [tensors["channel_linear.weight"], tensors["out.weight"]])


@case("torch")
def ordinary_image_network(folder):
    """Plain convolutions, transposed ones, batch norm and a head: nothing special."""
    import torch
    from torch import nn

    net = fill(
        nn.Sequential(
            nn.Conv2d(3, 64, 7),
            nn.BatchNorm2d(64),
            nn.Conv2d(64, 96, 3),
            nn.Conv2d(96, 64, 1),
            nn.ConvTranspose2d(64, 80, 2, 2),
            nn.Flatten(),
            nn.Linear(80, 100),
        )
    )
    torch.save({"state_dict": net.state_dict(), "best_acc": 0.5}, folder / "model_best.pth.tar")
    return Made(folder / "model_best.pth.tar", linears(net))
