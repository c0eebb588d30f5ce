"""Eigenvalues through torch: on its own processor, which takes the same path as a GPU."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import specdiag
from specdiag.compute.device import Device, eigenvalues, of_shape, of_torch
from specdiag.compute.machine import using
from specdiag.htsr import esd
from specdiag.htsr.measure import measure
from specdiag.htsr.selection import matrices
from support.commands import run_forked
from support.paths import ROOT

NO_GPU = not torch.cuda.is_available()
DTYPES = [np.float64, ">f8", np.float32, np.float16, np.int8, np.uint16, bool]
DTYPES += [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]


class Small(Device):
    """A device whose memory is not enough for matrices of a width, or for two at once."""

    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def __init__(self, width=0, *, alone=False):
        super().__init__("cpu", at_once=3)
        self.width, self.alone, self.lock = width, alone, threading.Lock()
        self.running, self.together, self.solved = 0, 0, []

    def _solved(self, matrices, stream):
        with self.lock:
            self.running += 1
            self.together = max(self.together, self.running)
            full = matrices.shape[2] == self.width or (self.alone and self.running > 1)
        try:
            if full:
                raise self.error
            values = super()._solved(matrices, stream)
            self.solved.append(matrices.shape[1:])
            return values
        finally:
            with self.lock:
                self.running -= 1


def heavy(n, m, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, m)) * rng.pareto(1.5, m)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple),
    dtype=st.sampled_from(DTYPES),
    exponent=st.integers(-3, 2),
    seed=st.integers(0, 99),
    order=st.sampled_from("CF"),
)
def test_its_eigenvalues_are_those_of_the_processor(shape, dtype, exponent, seed, order):
    W = np.random.default_rng(seed).standard_normal(shape) * 10.0**exponent
    W = np.asarray(W.astype(dtype), order=order)
    W.flags.writeable = False
    expected = esd.eigenvalues(W)
    with using(device=Device("cpu")):
        values = esd.eigenvalues(W)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-13 * expected[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e160, 1e-160])
def test_values_without_squares_have_the_error_of_the_processor(value):
    W = np.full((60, 50), value)
    with pytest.raises(ValueError, match=r"NaN|range") as expected:
        esd.eigenvalues(W)
    with using(device=Device("cpu")), pytest.raises(ValueError, match=r"NaN|range") as error:
        esd.eigenvalues(W)
    assert str(error.value) == str(expected.value)


@pytest.fixture(scope="module")
def network():
    """Weights of several shapes: kernels, a heavy tail, a broken one, and one of low rank."""
    rng = np.random.default_rng(1)
    weights = {f"{i}.weight": heavy(200 + i, 90 + 10 * i, i) for i in range(6)}
    weights["gaussian.weight"] = rng.standard_normal((150, 120)).astype(np.float32)
    weights["kernel.weight"] = rng.standard_normal((70, 60, 3, 3)).astype(np.float32)
    weights["low.weight"] = (heavy(100, 5) @ heavy(5, 80)).astype(np.float32)
    weights["broken.weight"] = np.full((90, 90), np.nan, np.float32)
    return weights


def layers(weights, device):
    from specdiag.checkpoint.weights.find import open_weights

    with using(jobs=3, device=device):
        return list(measure(matrices(open_weights(weights))))


@pytest.mark.parametrize("device", [Device("cpu"), Small(width=130), Small(alone=True)], ids=str)
def test_a_network_has_the_values_that_the_processor_gives_in_order(network, device):
    for layer, expected in zip(layers(network, device), layers(network, "cpu"), strict=True):
        assert (layer.name, layer.status, layer.reason, layer.rank) == (
            expected.name,
            expected.status,
            expected.reason,
            expected.rank,
        )
        np.testing.assert_allclose(layer.alpha, expected.alpha, rtol=1e-8)
        np.testing.assert_allclose(layer.null_p, expected.null_p, rtol=1e-3)
        np.testing.assert_allclose(layer.kind.slope, expected.kind.slope, rtol=1e-6)


def test_a_matrix_that_does_not_fit_is_left_to_the_processor(network, caplog):
    device = Small(width=130)
    layers(network, device)
    assert (204, 130) not in device.solved
    assert (203, 120) in device.solved
    lines = [record.getMessage() for record in caplog.records]
    line = "cpu: not enough memory; the processor measures a matrix of 204x130"
    assert lines.count(line) == 1


def test_a_matrix_that_fits_only_alone_waits_for_the_others():
    device = Small(alone=True)
    together = [heavy(300, 200, seed)[None] for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        values = list(pool.map(device.eigenvalues, together))
    for W, found in zip(together, values, strict=True):
        np.testing.assert_allclose(found, Device("cpu").eigenvalues(W), rtol=1e-12)


def test_the_next_matrix_is_moved_while_one_is_solved():
    """Two matrices are on the device at once, and no more than it has places for."""
    both = threading.Barrier(2, timeout=20)

    class Meeting(Small):
        def _solved(self, matrices, stream):
            both.wait()
            return super()._solved(matrices, stream)

    device = Meeting()
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(device.eigenvalues, [heavy(90, 60)[None]] * 8))) == 8
    assert device.together <= 3


def test_a_device_that_fails_is_not_asked_again(caplog):
    class Failing(Device):
        def _solved(self, *_):
            raise RuntimeError("CUDA error: an illegal memory access\nmore lines")

    device = Failing("cpu")
    assert device.eigenvalues(heavy(80, 60)[None]) is None
    assert not device.holds((80, 60))
    assert caplog.records[-1].getMessage() == (
        "cpu: CUDA error: an illegal memory access; the processor measures a matrix of 80x60"
    )
    with using(device=device):
        assert of_shape((80, 60)) is None


def test_a_library_without_memory_for_its_buffers_is_tried_again_too():
    class Tight(Small):
        error = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")

    device = Tight(width=60)
    assert device.eigenvalues(heavy(80, 60)[None]) is None
    assert device.eigenvalues(heavy(80, 61)[None]) is not None


def test_threads_share_one_device_that_one_of_them_makes():
    with ThreadPoolExecutor(8) as pool:
        devices = list(pool.map(of_torch, ["cpu"] * 8))
    assert len(set(map(id, devices))) == 1
    assert devices[0].works


def test_a_device_that_cannot_be_started_is_left_out(monkeypatch, caplog):
    def fail(name):
        raise RuntimeError("CUDA error: all devices are busy or unavailable\nCUDA kernel errors")

    monkeypatch.setattr("specdiag.compute.device.Device", fail)
    assert of_torch("busy") is None
    assert of_torch("busy") is None
    line = "busy: CUDA error: all devices are busy or unavailable: the processor measures"
    assert caplog.messages == [line]


def test_what_the_memory_of_the_device_cannot_hold_is_not_tried():
    device = Device("cpu")
    device.memory = 8e6
    assert device.holds((400, 300))
    assert not device.holds((400, 300, 3))
    assert not device.holds((1000, 800))
    with using(device=device):
        assert eigenvalues(heavy(1000, 800)[None]) is None


def test_a_matrix_that_does_not_fit_has_none_of_its_parts_on_the_device(network):
    device = Small()
    need = 8 * (2 * 205 * 140 + 3 * 140**2)
    device.memory = need  # not enough for the largest one: some of it is for torch
    for layer, expected in zip(layers(network, device), layers(network, "cpu"), strict=True):
        if layer.shape == (205, 140):
            assert layer.scales_p == expected.scales_p
            np.testing.assert_array_equal(layer.eigenvalues, expected.eigenvalues)
    assert (205, 140) not in device.solved
    assert (205, 70) not in device.solved  # half of its columns, for the null
    assert (202, 110) in device.solved


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
def test_without_a_gpu_the_default_is_the_processor_bit_by_bit(network, tmp_path):
    save_file(network, tmp_path / "W.safetensors")
    results = [
        run_forked(tmp_path, "alpha", "W.safetensors", "--json", *more)
        for more in ([], ["--device", "cpu"], ["--device", "mps"])
    ]
    assert results[0] == results[1]
    assert results[2][:2] == results[0][:2]
    line = "mps has no float64, which the eigenvalues need: the processor measures\n"
    assert results[2][2].count(line) == 1
    status, out, err = run_forked(tmp_path, "alpha", "W.safetensors", "--device", "cuda")
    assert (status, out) == (2, "")
    assert f"--device 'cuda': torch {torch.__version__} finds no GPU" in err


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
def test_torch_is_not_imported_to_find_out_that_there_is_no_gpu():
    program = """
import sys
from specdiag.compute.device import in_use, of_shape
from specdiag.compute.machine import using
for path in sys.argv[1:]:
    sys.modules["specdiag.compute.device"]._DRIVERS = (path,)
    with using(device="auto"):
        print(in_use(), of_shape((9000, 9000)), of_shape((4095, 9000)), "torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "/no/such/driver", "/dev/null"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    without, with_driver = done.stdout.splitlines()
    assert without == "None None None False"
    assert with_driver == "auto None None True"  # a driver, but torch finds no GPU


def test_an_unknown_device_is_an_error():
    with pytest.raises(ValueError, match="device is 'tpu': expected one of auto, cuda, mps, cpu"):
        specdiag.alpha({"W": heavy(90, 60)}, device="tpu")


def test_the_device_is_recorded_where_it_measured(network):
    solved = specdiag.alpha(network, device=Device("cpu"))
    provenance = json.loads(solved.attrs["provenance"])
    assert (provenance["device"], provenance["torch"]) == ("cpu", torch.__version__)
    plain = json.loads(specdiag.alpha(network, device="cpu").attrs["provenance"])
    assert "device" not in plain
    compared = specdiag.compare(network, network, device=Device("cpu"))
    assert json.loads(compared.attrs["provenance"])["device"] == "cpu"
