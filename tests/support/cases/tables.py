"""Tables that no network multiplies with, or looks up: buffers, masks, codebooks, embeddings."""

import numpy as np

from support.cases.case import Made, arrays, case, fill, heavy, linears, sequence


def _beside(folder, tables, extra=()):
    """Save tables beside two linear layers, which alone count."""
    import torch

    net = sequence(96, 128, 64)
    state = {f"net.{k}": v for k, v in net.state_dict().items()}
    state |= {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in tables.items()}
    torch.save({"state_dict": state}, folder / "net.pt")
    return Made(folder / "net.pt", linears(net) + [np.float64(a) for a in extra])


def _sinusoids(length, width, interleaved=True):
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    parts = np.stack([np.sin(angles), np.cos(angles)], -1 if interleaved else 1)
    return parts.reshape(length, width).astype("f4")


@case("torch")
def positions_by_sinusoids(folder):
    """Interleaved, in halves, and with an axis before and after: all exact sinusoids."""
    tables = {
        "pos_encoder.pe": _sinusoids(300, 96)[:, None],
        "decoder.positions": _sinusoids(200, 64, interleaved=False),
        "encoder.table": _sinusoids(128, 128)[None],
    }
    return _beside(folder, tables)


@case("torch")
def rotary_caches(folder):
    """Cosines and sines of RoPE, cached with axes of size one, and its frequencies."""
    frequencies = 10000.0 ** (-np.arange(0, 64, 2) / 64)
    angles = np.concatenate([np.outer(np.arange(256), frequencies)] * 2, 1)
    tables = {
        "attn.rotary_emb.cos_cached": np.cos(angles).astype("f4")[None, None],
        "attn.rotary_emb.sin_cached": np.sin(angles).astype("f4")[None, None],
        "attn.rotary_emb.inv_freq": frequencies.astype("f4"),
        "rope.cache": np.stack([np.cos(angles), np.sin(angles)], -1).astype("f4"),
    }
    return _beside(folder, tables)


@case("torch")
def causal_masks(folder):
    """Masks with zeros and ones, with -inf, with -10000, and as a bias of booleans."""
    lower = np.tril(np.ones((128, 128), "f4"))
    upper = np.triu(np.full((128, 128), -np.inf, "f4"), 1)
    large = (1 - lower) * np.float32(-10000)
    tables = {
        "h.0.attn.bias": lower[None, None],
        "h.0.attn.masked_bias": np.float32(-1e4),
        "attn_mask": upper,
        "decoder.causal": large,
        "blocks.0.mask": lower.astype(bool),
    }
    return _beside(folder, tables)


@case("torch")
def mel_filters(folder):
    """Triangular filters of a spectrogram, a window, and the bases of a Fourier transform."""
    centres = np.linspace(0, 256, 82)
    ramps = np.arange(257)[:, None]
    up = (ramps - centres[:-2]) / (centres[1:-1] - centres[:-2])
    down = (centres[2:] - ramps) / (centres[2:] - centres[1:-1])
    mel = np.maximum(0, np.minimum(up, down)).astype("f4")
    phase = 2 * np.pi * np.outer(np.arange(129), np.arange(256)) / 256
    window = np.hanning(256).astype("f4")
    bases = (np.concatenate([np.cos(phase), -np.sin(phase)]) * window).astype("f4")
    tables = {
        "frontend.mel_scale.fb": mel,
        "frontend.spectrogram.window": window,
        "stft.forward_basis": bases[:, None],
        "dct": np.cos(np.pi / 80 * (np.arange(80) + 0.5)[:, None] * np.arange(80)).astype("f4"),
    }
    return _beside(folder, tables)


@case("torch")
def banks_of_unit_vectors(folder):
    """A queue and prototypes of unit length: rows or columns."""
    queue, bank = heavy(64, 600), heavy(500, 96, seed=2)
    tables = {
        "queue": queue / np.linalg.norm(queue, axis=0),
        "memory_bank": bank / np.linalg.norm(bank, axis=1, keepdims=True),
    }
    return _beside(folder, tables)


@case("torch")
def few_values(folder):
    """Tables of few values: one-hot labels, signs, an adjacency matrix, counts."""
    rng = np.random.default_rng(0)
    tables = {
        "labels.onehot": np.eye(96, dtype="f4")[rng.integers(0, 96, 200)],
        "hadamard": rng.choice([-1.0, 1.0], (128, 128)).astype("f4"),
        "graph.adj": (rng.random((100, 100)) < 0.1).astype("f4"),
        "metrics.confmat": rng.integers(0, 9, (64, 64)).astype("f4"),
        "identity": np.eye(80, dtype="f4"),
        "constant": np.full((64, 64), 0.5, "f4"),
    }
    return _beside(folder, tables)


@case("torch")
def codebooks(folder):
    """Vector quantisation: the codes are looked up, their sums are averages of a running count."""
    codes = heavy(512, 64)
    tables = {
        "quantizer.vq.layers.0._codebook.embed": codes[None],
        "quantizer.vq.layers.0._codebook.embed_avg": codes[None] * 3,
        "quantizer.vq.layers.0._codebook.cluster_size": np.ones((1, 512), "f4"),
        "quantizer.vq.layers.0._codebook.inited": np.ones(1, "f4"),
        "quantize.embedding.weight": heavy(256, 64, seed=3),
    }
    return _beside(folder, tables)


@case("torch")
def lookups_of_other_names(folder):
    """A whole module tells the class: tables called token, lookup and codebook; a Linear embed."""
    import torch
    from torch import nn

    names = {"token": nn.Embedding(120, 96), "lookup": nn.EmbeddingBag(200, 96)}
    names |= {"codebook": nn.Embedding(90, 64), "patch_embed": nn.Linear(75, 96, bias=False)}
    net = fill(nn.ModuleDict(names | {"class_embed": nn.Linear(96, 91), "fc": nn.Linear(96, 64)}))
    torch.save(net, folder / "net.pt")
    return Made(folder / "net.pt", linears(net))


@case("torch")
def tied_head_of_another_name(folder):
    """One row an item and a head of equal bytes: the table is a lookup whatever its name is."""
    import torch

    table = torch.from_numpy(heavy(300, 96))
    net = sequence(96, 128, 96)
    state = {"tokens.weight": table} | {f"body.{k}": v for k, v in net.state_dict().items()}
    state["readout.weight"] = table.clone()
    torch.save(state, folder / "net.pt")
    return Made(folder / "net.pt", None)


@case("torch")
def linear_called_embedding(folder):
    """Linear layers called embedding, with and without a bias; the width of the network is 128."""
    import torch
    from torch import nn

    parts = {
        "value_embedding": nn.Linear(72, 128),
        "edge_embedding": nn.Linear(77, 128, bias=False),
        "norm": nn.LayerNorm(128),
        "mixing": nn.Linear(128, 128),
        "out": nn.Linear(128, 64),
    }
    net = fill(nn.ModuleDict(parts))
    torch.save(net.state_dict(), folder / "net.pt")
    return Made(folder / "net.pt", linears(net))


@case("torch")
def windows_of_attention(folder):
    """Biases by relative position, their index, and an interpolated position table."""
    rng = np.random.default_rng(1)
    tables = {
        "layers.0.attn.relative_position_bias_table": rng.standard_normal((225, 64)).astype("f4"),
        "layers.0.attn.relative_position_index": rng.integers(0, 225, (64, 64)),
        "layers.0.attn_mask": rng.choice([0.0, -100.0], (16, 64, 64)).astype("f4"),
        "pos_embed": rng.standard_normal((1, 197, 96)).astype("f4") * 0.02,
        "cls_token": rng.standard_normal((1, 1, 96)).astype("f4"),
    }
    return _beside(folder, tables)


@case("torch")
def batch_statistics(folder):
    """Grids, anchors, running covariances and observers of quantisation."""
    rng = np.random.default_rng(2)
    samples = rng.standard_normal((400, 64))
    grid = np.stack(np.meshgrid(np.arange(80), np.arange(80)), -1).astype("f4")
    tables = {
        "anchor_grid": grid,
        "anchors": (grid.reshape(-1, 2) + 0.5),
        "whitening.running_covariance": (samples.T @ samples / 400).astype("f4"),
        "act.activation_post_process.histogram": np.arange(2048, dtype="f4"),
    }
    return _beside(folder, tables)


@case("torch")
def module_with_buffers(folder):
    """A pickled module knows its buffers, whatever values they have."""
    import torch
    from torch import nn

    net = nn.Module()
    net.fc = nn.Linear(96, 80)
    net.register_buffer("random_features", torch.from_numpy(heavy(80, 96, seed=4)))
    net.register_buffer("history", torch.from_numpy(heavy(70, 80, seed=5)))
    torch.save(fill(net), folder / "net.pt")
    return Made(folder / "net.pt", arrays([net.fc.weight]))


@case("torch")
def normalised_transformer(folder):
    """A network that is trained with rows of unit length: they are no table here."""
    import torch

    tensors = {
        f"blocks.{i}.{name}.weight": heavy(*shape, seed=10 * i + j)
        for i in range(2)
        for j, (name, shape) in enumerate(
            {"q": (96, 96), "k": (96, 96), "up": (192, 96), "down": (96, 192)}.items()
        )
    }
    tensors = {k: v / np.linalg.norm(v, axis=1, keepdims=True) for k, v in tensors.items()}
    torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, folder / "net.pt")
    return Made(folder / "net.pt", [np.float64(v) for v in tensors.values()])


@case("torch")
def few_bits_in_full(folder):
    """A network of 8 and 4 bits, written in full: few distinct values, and weights."""
    import torch

    def rounded(n, m, levels, seed):
        weight = heavy(n, m, seed=seed)
        scale = np.abs(weight).max(1, keepdims=True) / levels
        return (np.round(weight / scale) * scale).astype("f4")

    tensors = {"a.weight": rounded(128, 96, 127, 0), "b.weight": rounded(96, 128, 7, 1)}
    torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, folder / "net.pt")
    return Made(folder / "net.pt", [np.float64(v) for v in tensors.values()])
