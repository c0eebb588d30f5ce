"""The memory that is planned for a matrix, against what measuring it takes."""

import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.htsr.layers import measure_weight, peak_bytes
from specdiag.htsr.selection import matrices

SHAPES = [(9000, 250), (250, 9000), (1500, 1450), (400, 390), (300, 200, 3, 3), (1100, 240, 3, 3)]
SMALL = 2**20  # bytes of arrays that do not grow with the matrix


def peak(W, folder, **settings):
    """Measure a weight of a file; return the peak of its arrays, that planned, and the layer."""
    save_file({"layer.weight": W}, folder / "a.safetensors")
    (weight,) = matrices(open_checkpoint(folder / "a.safetensors"))
    measure_weight(weight)  # caches and libraries are filled
    tracemalloc.start()
    layer = measure_weight(weight, **settings)
    _, used = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    planned = peak_bytes(weight, settings.get("repeats", False), settings.get("traps", False))
    return used, planned, layer


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_matrix_takes_no_more_memory_than_is_planned(rng, tmp_path, shape, dtype):
    scales = rng.pareto(2, (shape[0], 1)).reshape(-1, *[1] * (len(shape) - 1))
    W = ((0.1 + scales) * rng.standard_normal(shape)).astype(dtype)
    used, planned, layer = peak(W, tmp_path, repeats=W.size < 10**6)
    assert layer.scales_p >= 0  # that test has run, which takes most
    assert planned / 3 <= used <= planned + SMALL


def test_a_sparse_matrix_takes_no_more_memory_than_is_planned(rng, tmp_path):
    W = rng.standard_normal((9000, 250)) * (rng.random((9000, 250)) < 0.008)
    used, planned, layer = peak(W.astype(np.float32), tmp_path)
    assert layer.scales_p >= 0
    assert used <= planned + SMALL


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(9000, 250), (1500, 1450), (1100, 240, 3, 3)], ids=str)
def test_traps_take_no_more_memory_than_is_planned(rng, tmp_path, shape, dtype):
    W = (0.1 * rng.standard_normal(shape)).astype(dtype)
    used, planned, layer = peak(W, tmp_path, traps=True, null="none")
    assert layer.traps.n == 0
    assert planned / 3 <= used <= planned + SMALL
