"""Tensors of three and more axes whose meaning the lengths of biases and norms beside them tell."""

import numpy as np

from support.cases.case import Made, case, heavy, kernel


def _saved(folder, tensors, right):
    import torch

    state = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in tensors.items()}
    torch.save({"state_dict": state}, folder / "net.pt")
    return Made(folder / "net.pt", [np.float64(tensors[name]) for name in right])


def _zeros(*shape):
    return np.zeros(shape, "f4")


@case("torch")
def relations_of_a_graph(folder):
    """A matrix for each relation, (relations, in, out), and a bias of the length of the outputs."""
    tensors = {
        "conv1.weight": heavy(6, 64, 96),
        "conv1.root": heavy(64, 96, seed=1),
        "conv1.bias": _zeros(96),
        "conv2.weight": heavy(6, 96, 80, seed=2),
        "conv2.root": heavy(96, 80, seed=3),
        "conv2.bias": _zeros(80),
    }
    return _saved(folder, tensors, [k for k in tensors if "bias" not in k])


@case("torch")
def kernels_before_norms(folder):
    """Kernels without a bias, with a norm of the length of their outputs; one of 65 taps."""
    tensors = {
        "stem.conv.weight": kernel(96, 64, 3),
        "stem.bn.weight": _zeros(96) + 1,
        "stem.bn.running_mean": _zeros(96),
        "long.conv.weight": kernel(80, 96, 65, seed=1),
        "long.bn.weight": _zeros(80) + 1,
        "long.bn.running_mean": _zeros(80),
    }
    return _saved(folder, tensors, ["stem.conv.weight", "long.conv.weight"])


@case("torch")
def learned_tokens(folder):
    """Tokens and positions with an axis of one, and tables of windows: no matrix products."""
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(shape).astype("f4")
        for name, shape in {
            "query_tokens": (1, 64, 96),
            "cls_token": (1, 1, 96),
            "mask_token": (1, 1, 96),
            "register_tokens": (1, 4, 96),
            "pos_embed": (1, 196, 96),
            "position_embeddings": (1, 80, 8, 96),
            "prompts": (1, 1, 70, 96),
        }.items()
    }
    tensors["blocks.0.fc.weight"] = heavy(128, 96)
    return _saved(folder, tensors, ["blocks.0.fc.weight"])


@case("torch")
def mixing_of_positions(folder):
    """A matrix over positions for each head, with a bias for each head and position."""
    tensors = {
        "block.spatial.weight": heavy(3, 100, 100),
        "block.spatial.bias": _zeros(3, 100),
        "block.proj.weight": heavy(96, 128, seed=2),
        "block.proj.bias": _zeros(96),
    }
    return _saved(folder, tensors, ["block.spatial.weight", "block.proj.weight"])


@case()
def haiku(folder):
    """Haiku: `w` and `b`, the input first in matrices and kernels."""
    tensors = {
        "net/conv2_d/w": np.moveaxis(kernel(96, 64, 3, 3), (0, 1), (-1, -2)),
        "net/conv2_d/b": _zeros(96),
        "net/linear/w": heavy(96, 80, seed=1),
        "net/linear/b": _zeros(80),
        "net/embed/embeddings": heavy(200, 96, seed=2),
    }
    np.savez(folder / "params.npz", **tensors)
    right = [np.float64(tensors[f"net/{name}/w"]) for name in ("conv2_d", "linear")]
    return Made(folder / "params.npz", right)


@case()
def separable_kernels_of_keras(folder):
    """A depthwise kernel (3, 3, in, 1), which is vectors, and a pointwise one (1, 1, in, out)."""
    pointwise = np.moveaxis(kernel(96, 64, 1, 1), (0, 1), (-1, -2))
    tensors = {
        "sep/depthwise_kernel": np.moveaxis(kernel(64, 1, 3, 3), (0, 1), (-2, -1)),
        "sep/pointwise_kernel": pointwise,
        "sep/bias": _zeros(96),
        "conv1d/kernel": np.moveaxis(kernel(80, 96, 7, seed=3), (0, 1), (-1, -2)),
        "conv1d/bias": _zeros(80),
        "query/kernel": heavy(96, 192, seed=4).reshape(96, 3, 64),
        "query/bias": _zeros(3, 64),
        "attention_output/kernel": heavy(192, 96, seed=5).reshape(3, 64, 96),
        "attention_output/bias": _zeros(96),
    }
    np.savez(folder / "weights.npz", **tensors)
    names = ("sep/pointwise", "conv1d/", "query/", "attention_output/")
    right = [v for k, v in tensors.items() if k.startswith(names) and "bias" not in k]
    return Made(folder / "weights.npz", [np.float64(v) for v in right])


@case("torch")
def stacks_of_layers(folder):
    """Layers stacked by a function transform: every tensor has the layers as its first axis."""
    tensors = {
        "layers.attn.weight": heavy(5, 96, 96),
        "layers.attn.bias": _zeros(5, 96),
        "layers.norm.weight": _zeros(5, 96) + 1,
        "layers.mlp.weight": heavy(5, 128, 96, seed=2),
        "layers.mlp.bias": _zeros(5, 128),
        "head.weight": heavy(80, 96, seed=3),
        "head.bias": _zeros(80),
    }
    return _saved(folder, tensors, [k for k, v in tensors.items() if v.size > 5000])


@case("torch")
def transposed_kernels(folder):
    """Transposed convolutions have their input first: biases have the length of the second axis."""
    tensors = {
        "up1.weight": kernel(96, 64, 4),
        "up1.bias": _zeros(64),
        "up2.weight": kernel(64, 80, 4, 4, seed=1),
        "up2.bias": _zeros(80),
        "up3.weight": kernel(80, 72, 40, seed=2),
        "up3.bias": _zeros(72),
    }
    return _saved(folder, tensors, [k for k in tensors if "bias" not in k])
