"""Share of the cores that measuring a model keeps busy: simulated for 16, real for this machine's.

    python -m benchmarks.cores

Both go through `measure`, with its order, its budget of memory and its pool. In the simulation a
matrix is not read and its measurement is a sleep, as long as its shape takes (from
benchmarks/results/costs.csv) but for a common factor. A core is busy while it has a matrix.
"""

import tempfile
import time
from pathlib import Path

from benchmarks._architectures import ARCHITECTURES, decoder
from benchmarks._cost_tables import Costs, operations
from benchmarks._made_files import write
from benchmarks._results import read
from benchmarks._timing import Measured, as_table
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.weight import Weight
from specdiag.compute import machine
from specdiag.htsr.layers import Layer
from specdiag.htsr.measure import measure
from specdiag.htsr.selection import matrices

SIMULATED = 16
MEMORY = 64 * 10**9
SECONDS = 8  # that the simulation takes if all cores are always busy
BAR = 0.85


class Watched:
    """Passes weights on to a function, and adds up how long it takes."""

    def __init__(self, function):
        self.function, self.seconds = function, []

    def __call__(self, measure_weight, weight):
        """Measure a weight by the function that was given, or else as usual."""
        start = time.perf_counter()
        layer = (self.function or measure_weight)(weight)
        self.seconds.append(time.perf_counter() - start)  # of a list: it is thread-safe
        return layer


def share(weights, *, jobs=None, memory=None, function=None):
    """Return the share of the cores that is busy, and how long the run took."""
    watched = Watched(function)
    with machine.using(jobs=jobs, memory=memory):
        start = time.perf_counter()
        for _ in measure(weights, through=watched):
            pass
        wall = time.perf_counter() - start
        return sum(watched.seconds) / wall / machine.current().n_jobs, wall


def simulated():
    """Return the share of 16 cores that a model of 8B keeps busy."""
    (model,) = (x for x in ARCHITECTURES if x.name == "Llama-3-8B")
    costs = Costs(read("costs", ("kind", "name")))

    def cost(shape):
        seconds, _ = costs.of(shape)
        return seconds if seconds > 0 else operations(max(shape), min(shape)) / 1e10

    total = sum(cost(shape) * count for shape, count in model.shapes.items())
    factor = SECONDS * SIMULATED / total
    weights = [
        Weight(name=f"{n}x{m}.{i}", shape=(n, m), dtype="bfloat16", read=lambda: None)
        for (n, m), count in model.shapes.items()
        for i in range(count)
    ]

    def sleep(weight):
        time.sleep(factor * cost(weight.shape))
        return Layer(name=weight.name, shape=weight.shape, dtype=weight.dtype, status="degenerate")

    return share(weights, jobs=SIMULATED, memory=MEMORY, function=sleep)


def real():
    """Return the share of this machine's cores that a block of a model of 8B keeps busy."""
    block = decoder("", 0, 1, 4096, 1024, 14336)
    names = {f"{n}x{m}.{i}": (n, m) for (n, m), k in block.shapes.items() for i in range(k)}
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "block.safetensors", names, "BF16")
        return share(matrices(open_checkpoint(path)), memory=MEMORY)


def rows():
    """Yield the rows of the simulated and of the real machine."""
    for n, run, what in (
        (SIMULATED, simulated, "a model of 8B, simulated"),
        (machine.current().n_jobs, real, "a block of it, real"),
    ):
        busy, wall = run()
        yield Measured(
            what=f"share of {n} cores busy within 64 GB, {what}",
            value=busy,
            bar=BAR,
            at_least=True,
            note=f"in {wall:.0f} s",
        )


def main():
    print(as_table(list(rows())))


if __name__ == "__main__":
    main()
