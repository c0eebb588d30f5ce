"""Time and memory of measuring matrices on a GPU, over all cores of the same machine.

    python -m benchmarks.gpu

Takes at most eight minutes, and prints the rows of docs/benchmarks.md; rows for which no time is
left are not measured. With --rehearse, the same is done on small matrices by torch's processor.
"""

import argparse
import time

import numpy as np

from benchmarks._made_files import heavy
from benchmarks._pages import table
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.compute.device import AT_ONCE, Device, check
from specdiag.compute.machine import n_cores, using
from specdiag.htsr.measure import measure
from specdiag.htsr.selection import matrices

SECONDS = 8 * 60
BAR = 10  # times faster than the cores
DIGITS = 1e-8  # of alpha
SIZES = {4096: 32, 1024: 64, 2048: 32, 8192: 2}  # rows and columns -> matrices, the bar first
PLACES = (1, 2, 8)  # matrices on the device at once, beside the default
COLUMNS = ["n x n", "GPU s", "all cores s", "ratio", "GPU memory GB", "alpha apart"]


def made(side, count):
    """Return as many weights, scaled copies of four, which takes less time than as many draws."""
    rng = np.random.default_rng(side)
    drawn = [heavy(rng, side, side) for _ in range(min(count, 4))]
    return {f"{i}.weight": drawn[i % len(drawn)] * np.float32(1 + i) for i in range(count)}


def measured(weights, device):
    """Return the seconds that all matrices take, and their alphas."""
    chosen = matrices(open_checkpoint(weights))
    with using(device=device):
        start = time.perf_counter()
        layers = list(measure(chosen))
        return time.perf_counter() - start, np.array([layer.alpha for layer in layers])


def memory(device, *, reset=False):
    """Return the peak memory of the device in GB since the last reset."""
    import torch

    if device.name != "cuda":
        return float("nan")
    peak = torch.cuda.max_memory_allocated()
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return peak / 1e9


def row(side, count, device):
    """Return the cells of one size, and the seconds that a core takes for n^3 operations."""
    weights = made(side, count)
    measured({"warm.weight": weights["0.weight"]}, device)
    memory(device, reset=True)
    on_device, alphas = measured(weights, device)
    peak = memory(device)
    on_cores, expected = measured(weights, "cpu")
    apart = float(np.max(np.abs(alphas / expected - 1)))
    faster = on_cores / on_device
    missed = [f"; bar {BAR}: missed"] if side == next(iter(SIZES)) and faster < BAR else [""]
    cells = [f"{count} of {side:,}", f"{on_device:.3g}", f"{on_cores:.3g}", f"{faster:.3g}"]
    cells[3] += missed[0]
    digits = f"{apart:.1g}" + ("" if apart <= DIGITS else f"; bar {DIGITS:g}: missed")
    return [*cells, f"{peak:.3g}", digits], on_cores / (count * side**3)


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="on torch's processor, small")
    options = parser.parse_args()
    start = time.perf_counter()
    if options.rehearse:
        sizes, name = {128: 4, 192: 2}, "cpu"
    else:
        try:
            check("cuda")
        except ValueError as error:
            parser.exit(2, f"{error}\n")
        sizes, name = SIZES, "cuda"
    device, rows, rate = Device(name), [], 0.0
    for side, count in sizes.items():
        left = SECONDS - (time.perf_counter() - start)
        if 1.5 * rate * count * side**3 < left:
            cells, rate = row(side, count, device)
            rows.append(cells)
    print(f"{described(name)}, {n_cores()} cores, {AT_ONCE} matrices on the device at once\n")
    print(table(COLUMNS, rows))
    side, count = next(iter(sizes.items()))
    weights, places = made(side, count), []
    for at_once in PLACES:
        if time.perf_counter() - start < 0.9 * SECONDS:
            other = Device(name, at_once)
            memory(other, reset=True)
            seconds, _ = measured(weights, other)
            places.append([str(at_once), f"{seconds:.3g}", f"{memory(other):.3g}"])
    print(f"\n{count} of {side:,} with other numbers of matrices at once\n")
    print(table(["at once", "GPU s", "GPU memory GB"], places))


def described(name):
    """Return the name of the device, and the version of torch."""
    import torch

    device = torch.cuda.get_device_name() if name == "cuda" else "torch's processor"
    return f"{device}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
