import ml_dtypes
import numpy as np
import pytest
import torch

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
