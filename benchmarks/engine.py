"""Time and memory of `specdiag alpha`, as ratios measured side by side in one run.

    python -m benchmarks.engine model.safetensors [--memory-only | --no-memory]

Every ratio is the median over pairs that ran one right after the other, so a machine whose speed
drifts still gives the same ratio. Nothing here is a test: the bars are printed beside.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.htsr.layers import measure
from specdiag.htsr.selection import matrices, skip_reason

WEIGHTWATCHER = """
import sys, tempfile, pathlib
import weightwatcher
with tempfile.TemporaryDirectory() as folder:
    pathlib.Path(folder, "model.safetensors").symlink_to(sys.argv[1])
    pathlib.Path(folder, "config.json").write_text("{}")
    print(weightwatcher.WeightWatcher(model=folder).analyze().to_string())
"""


def timed(function, clock=time.perf_counter):
    start = clock()
    function()
    return clock() - start


def ratio(first, second, pairs, clock=time.perf_counter):
    """Return the median over pairs of time(first) / time(second), after one pair that warms up."""
    seconds = [(timed(first, clock), timed(second, clock)) for _ in range(pairs + 1)][1:]
    return median(a / b for a, b in seconds), median(a for a, _ in seconds)


def chosen_weights(path):
    tensors = [
        t
        for t in matrices(open_checkpoint(path))
        if not skip_reason(t, min_eigenvalues=50, include_embeddings=False)
    ]
    return {t.name: t.read() for t in tensors}


def gram(W):
    A = W.astype(np.float64)
    return A.T @ A if A.shape[0] >= A.shape[1] else A @ A.T


def engine(name, weights, pairs):
    tensors = matrices(open_checkpoint(weights))
    grams = [gram(W) for W in weights.values()]

    def ours():
        return list(measure(tensors, gof=False))

    def gram_and_eigvalsh():
        return [np.linalg.eigvalsh(gram(W)) for W in weights.values()]

    def eigvalsh():
        return [np.linalg.eigvalsh(G) for G in grams]

    # Processor time of one core with one BLAS thread does not depend on what else the machine does.
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    with threadpool_limits(1):
        whole, seconds = ratio(ours, gram_and_eigvalsh, pairs, time.process_time)
        bare, _ = ratio(ours, eigvalsh, pairs, time.process_time)
        fit, _ = ratio(lambda: list(measure(tensors)), ours, pairs, time.process_time)
    os.sched_setaffinity(0, cores)
    print(f"{name:28}{seconds:9.3f} s{whole:12.2f}{bare:14.2f}{fit:14.2f}", flush=True)


def against_weightwatcher(weights, pairs):
    import torch

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        import weightwatcher

    logging.disable(logging.CRITICAL)
    model = torch.nn.ModuleDict()
    for name, W in weights.items():
        linear = torch.nn.Linear(W.shape[1], W.shape[0], bias=False)
        linear.weight.data = torch.from_numpy(W)
        model[name.replace(".", "/")] = linear
    watcher = weightwatcher.WeightWatcher(model=model)
    tensors = matrices(open_checkpoint(weights))
    with contextlib.redirect_stdout(io.StringIO()):
        speedup, _ = ratio(watcher.analyze, lambda: list(measure(tensors, gof=False)), pairs)
    print(f"\nweightwatcher's analyze() over ours, same {len(weights)} layers: {speedup:.1f}")


def whole_process(path, pairs):
    ours = [Path(sys.executable).with_name("specdiag"), "alpha", path]
    theirs = [sys.executable, "-c", WEIGHTWATCHER, str(Path(path).resolve())]

    # One BLAS thread each: two stall on a busy machine, and the ratio would be too high.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

    def run(command):
        subprocess.run(command, check=True, capture_output=True, env=environment)

    speedup, seconds = ratio(lambda: run(theirs), lambda: run(ours), pairs)
    print(f"whole process, weightwatcher over ours: {speedup:.1f}   (bar: at least 8)")
    print(f"  weightwatcher's script takes {seconds:.2f} s")
    helps = [timed(lambda: run([ours[0], "--help"])) for _ in range(pairs + 1)][1:]
    print(f"specdiag --help: {median(helps):.2f} s   (bar: under 0.3 s)")


def write_layers(path, shapes):
    """Write random float32 layers as safetensors, one at a time; return their size in bytes."""
    header, offset = {}, 0
    for i, shape in enumerate(shapes):
        size = 4 * shape[0] * shape[1]
        header[f"layer{i}.weight"] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with Path(path).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes:
            file.write(rng.standard_normal(shape, dtype=np.float32).tobytes())
    return offset


def peak_memory(code):
    """Return the largest resident set, in MiB, of a process that runs the code (Linux).

    It is not ru_maxrss, which a child inherits from its parent.
    """
    code += "; print(next(x for x in open('/proc/self/status') if x.startswith('VmHWM')))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout.split("VmHWM:")[1].split()[0]) / 1024


def memory():
    shapes = [(16384, 1024)] * 28 + [(4096, 4096)] * 4
    largest = 8 * 16384 * 1024 / 2**20
    with tempfile.TemporaryDirectory() as folder:
        small, large = (Path(folder, f"{name}.safetensors") for name in ("small", "large"))
        write_layers(small, [(128, 128)] * 8)
        size = write_layers(large, shapes) / 2**30
        base, peak = (
            peak_memory(
                "from specdiag.cli.main import cli; "
                f"cli(['alpha', {str(path)!r}], standalone_mode=False)"
            )
            for path in (small, large)
        )
    print(
        f"\nfile of {size:.1f} GiB, {len(shapes)} layers, the largest {largest:.0f} MiB in float64"
    )
    print(f"peak {peak:.0f} MiB = interpreter and libraries {base:.0f} MiB", end=" + ")
    print(f"{(peak - base) / largest:.2f} times the largest   (bar: 4)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory-only", action="store_true")
    options = parser.parse_args()
    if not options.memory_only:
        rng = np.random.default_rng(0)
        print(f"{os.cpu_count()} cores, NumPy {np.__version__}\n")
        print("processor time, one core (Linux only)")
        columns = f"{'ours':>11}{'over Gram':>12}{'over bare':>14}{'with gof':>14}"
        print(f"{'fit, interval, null':28}{columns}")
        print(f"{'':28}{'':>11}{'+ eigvalsh':>12}{'eigvalsh':>14}{'over ours':>14}")
        print(f"{'':28}{'':>11}{'bar: 1.25':>12}")
        real = chosen_weights(options.file)
        engine(f"{len(real)} layers of the file", real, options.pairs)
        for n, m, count in ((1024, 1024, 4), (2048, 2048, 2), (4096, 1024, 4)):
            weights = {
                f"layer{i}.weight": rng.standard_normal((n, m), dtype=np.float32)
                for i in range(count)
            }
            engine(f"{count} random {n} x {m}", weights, options.pairs)
        against_weightwatcher(real, options.pairs)
        whole_process(options.file, options.pairs)
    if not options.no_memory:
        memory()


if __name__ == "__main__":
    main()
