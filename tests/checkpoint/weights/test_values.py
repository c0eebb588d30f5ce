import copy
import warnings

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from specdiag.checkpoint.weights.values import no_weight

MASK = "only zeros and one other value: a mask"
TRIANGLE = "zero on one side of its diagonal: a mask, or a factor of a weight"
SINUSOIDS = "sinusoids: a table of positions"
UNIT = "rows or columns of length 1: a queue or a table of features"


def positions(n=300, d=64):
    angles = np.arange(n)[:, None] / 10000 ** (np.arange(0, d, 2) / d)
    return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(n, d)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", ml_dtypes.bfloat16])
def test_masks_and_tables_are_known_by_their_values(rng, dtype):
    lower = np.tril(np.ones((80, 80)))
    queue = torch.nn.functional.normalize(torch.randn(64, 200), dim=0).numpy()
    for reason, W in (
        (MASK, lower),
        (MASK, -1e4 * (1 - lower)),
        (MASK, rng.random((80, 60)) < 0.5),
        (TRIANGLE, np.tril(rng.standard_normal((80, 80)))),
        (SINUSOIDS, positions()),
        (SINUSOIDS, positions().T),
        (SINUSOIDS, np.cos(np.outer(np.arange(200), 1 / 10000 ** (np.arange(32) / 32)))),
        (UNIT, queue),
        (UNIT, queue.T),
    ):
        assert no_weight("net.table", W.astype(dtype)) == reason


def test_a_mask_may_hold_minus_infinity():
    mask = np.triu(np.full((80, 80), -np.inf, np.float32), 1)
    assert no_weight("mask", mask) == MASK


@pytest.mark.parametrize("dtype", ["f4", "f8", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
@pytest.mark.parametrize("shape", [(80, 60), (64, 64), (60, 40, 3, 3)])
def test_random_trained_and_initialised_weights_are_weights(rng, shape, dtype):
    W = rng.standard_normal(shape)
    smooth = np.cumsum(rng.standard_normal(shape), axis=0)
    signs = np.sign(W)  # of a binary network
    for values in (W, smooth, signs, signs * (rng.random(shape) < 0.5), W * (W > 0)):
        assert no_weight("net.weight", values.astype(dtype)) == ""
    for values in (W, smooth, W * (W > 0)):
        assert no_weight("net.param", values.astype(dtype)) == ""


@pytest.mark.parametrize("W", [np.zeros((70, 70)), np.full((70, 70), 0.3), 2 * np.eye(70)])
def test_collapsed_and_identity_weights_are_weights(W):
    assert no_weight("fc.weight", W) == ""


def test_weights_whose_rows_are_kept_at_length_one_are_weights(rng):
    W = rng.standard_normal((70, 60))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    assert no_weight("fc.weight", W) == ""
    assert no_weight("prototypes", W) == UNIT
    assert no_weight("rotation", np.linalg.qr(rng.standard_normal((60, 60)))[0]) == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(128, 64), (64, 128), (300, 80)])
def test_weights_that_begin_orthogonal_are_weights_also_without_their_name(shape, dtype):
    W = nn.init.orthogonal_(torch.empty(shape)).to(dtype).double().numpy()
    W = W.astype(ml_dtypes.bfloat16 if dtype == torch.bfloat16 else str(dtype)[6:])
    assert no_weight("W_ih", W) == no_weight("W_ih", W.T) == ""


def triangles(n=257, m=80):
    """Return triangular filters, as of mel frequencies."""
    edges = (n - 1) * (np.linspace(0, 1, m + 2) ** 2)
    bins = np.arange(n)[:, None]
    up = (bins - edges[:-2]) / np.diff(edges)[:-1]
    down = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(up, down))


@pytest.mark.parametrize("dtype", ["f4", "f8", ml_dtypes.bfloat16])
def test_tables_without_a_sign_are_no_weights(rng, dtype):
    bands = "one band of one sign in each row or column: a bank of filters"
    counts = "whole numbers without a sign: counts or indices"
    indices = np.arange(64)[:, None] - np.arange(64) + 63
    for reason, W in (
        (bands, triangles()),
        (bands, triangles().T),
        (bands, -triangles()),
        (counts, rng.poisson(3, (90, 60))),
        (counts, indices),
        (counts, rng.integers(0, 9, (60, 60, 2))),
        ("only 3 values of one sign: a table", rng.choice([0, 0.25, 1], (90, 60))),
    ):
        assert no_weight("net.weight", W.astype(dtype)) == reason


@pytest.mark.parametrize("scale", ["htk", "slaney", "kaldi"])
@pytest.mark.parametrize(
    ("bins", "n", "norm"), [(257, 80, None), (201, 80, "slaney"), (513, 128, None)]
)
def test_the_mel_filters_of_transformers_are_no_weights(scale, bins, n, norm):
    from transformers.audio_utils import mel_filter_bank

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some filters are empty
        bank = mel_filter_bank(bins, n, 0.0, 8000.0, 16000, norm=norm, mel_scale=scale)
    for table in (bank, bank.T.astype("f4")):
        assert no_weight("fb", table).endswith("a bank of filters")


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_rotary_tables_of_every_layout_are_no_weights(dtype):
    angles = np.outer(np.arange(200), 10000.0 ** (-np.arange(0, 64, 2) / 64))
    cos, sin = np.cos(angles), np.sin(angles)
    pairs = np.stack([cos, sin], axis=-1)
    turns = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    for table in (
        np.concatenate([cos, cos], 1),
        pairs,
        pairs.reshape(200, -1),
        turns,
        pairs[None, :, None],
        np.stack([cos, sin]),
        cos[None, None],
    ):
        assert no_weight("cache", table.astype(dtype)) == SINUSOIDS


def test_special_matrices_are_no_weights_unless_they_are_called_so(rng):
    X = rng.standard_normal((100, 70)).astype("f4")
    special = {
        "symmetric: a covariance, distances or a graph": X.T @ X + (X.T @ X).T,
        "one value, or its signs": np.sign(X),
        "one value on the diagonal": 0.5 * np.eye(70, dtype="f4"),
    }
    for reason, W in special.items():
        assert no_weight("statistics", W) == reason
        assert no_weight("fc.weight", W) == ""


LAYERS = [
    nn.Linear(60, 70),
    nn.Bilinear(20, 30, 60),
    nn.Conv1d(60, 70, 3),
    nn.Conv2d(64, 64, 3),
    nn.ConvTranspose2d(64, 64, 4),
    nn.Conv3d(60, 60, 3),
    nn.LSTM(60, 64),
    nn.GRU(60, 64),
    nn.RNN(60, 64),
    nn.MultiheadAttention(64, 4),
    nn.Embedding(300, 64),
    nn.TransformerEncoderLayer(64, 4),
]
STARTS = [
    lambda W: W,
    nn.init.orthogonal_,
    nn.init.xavier_uniform_,
    nn.init.kaiming_normal_,
    lambda W: nn.init.trunc_normal_(W, std=0.02),
    lambda W: nn.init.sparse_(W, 0.9) if W.ndim == 2 else W,
    lambda W: nn.init.eye_(W) if W.ndim == 2 else W,
    lambda W: nn.init.dirac_(W) if W.ndim in (3, 4, 5) else W,
    nn.init.zeros_,
    lambda W: nn.init.constant_(W, 0.3),
    lambda W: W.mul_(torch.rand_like(W) < 0.2),
    lambda W: W.mul_(torch.rand(W.shape[0], *[1] * (W.ndim - 1)) < 0.5),
    lambda W: W.relu_(),
    lambda W: W.copy_(W.to(torch.float8_e4m3fn).to(W.dtype)),
    lambda W: W.copy_((W / W.abs().max() * 7).round()),
]


@pytest.mark.parametrize("start", range(len(STARTS)))
@pytest.mark.parametrize("layer", range(len(LAYERS)))
def test_layers_of_torch_are_weights_however_they_begin_or_are_pruned(layer, start):
    torch.manual_seed(layer)
    module = copy.deepcopy(LAYERS[layer])
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            with torch.no_grad():
                STARTS[start](parameter)
            assert no_weight(name, parameter.detach().numpy()) == "", name


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38], ids=str)
@pytest.mark.parametrize("shape", [(70, 70), (90, 60), (60, 60, 3)])
@pytest.mark.filterwarnings("error")
def test_values_that_are_not_finite_or_overflow_give_no_warning(rng, shape, value):
    W = rng.standard_normal(shape).astype(np.float32)
    W.flat[:3] = value
    for name in ("spatial.weight", "table"):
        assert no_weight(name, W) == no_weight(name, np.abs(W)) == ""


@pytest.mark.filterwarnings("error")
def test_signalling_values_that_are_no_numbers_give_no_warning():
    W = np.full((70, 60), 0.5, np.float32)
    W.view(np.uint32)[3, 4] = 0x7F800001
    assert no_weight("table", W) == ""
