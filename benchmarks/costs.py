"""What measuring a model costs, by its size: measured to 1B, and computed beyond from its shapes.

    python -m benchmarks.costs [--only machine shapes models] [--largest 8192] [--write-docs]

Each shape, and each whole file up to 1B, is measured in its own process, on one core with one
thread, in bfloat16. The rows are kept in benchmarks/results/costs.csv; `--write-docs` writes the
tables of docs/benchmarks.md from them. Takes about an hour on one busy core, most of it for the
matrices of 8192 columns.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._architectures import ARCHITECTURES, MEASURED
from benchmarks._cost_tables import canonical, tables
from benchmarks._made_files import tiny, write
from benchmarks._pages import DOCS, write_tables
from benchmarks._results import read
from benchmarks._results import write as write_results
from benchmarks._timing import one_core, processor_time, run_and_peak

ENOUGH = 4096**2  # values of one file: small matrices are measured many at once
TEXT = ("kind", "name")


def machine():
    """Yield the rates of one core: floating-point operations, and bytes over the memory bus."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((3072, 3072))
    with threadpool_limits(1):
        seconds = min(processor_time(lambda: A @ A) for _ in range(5))
    yield {"kind": "machine", "name": "flops", "value": 2 * len(A) ** 3 / seconds}
    source, target = np.ones(2**26), np.ones(2**26)
    seconds = min(processor_time(lambda: np.copyto(target, source)) for _ in range(5))
    yield {"kind": "machine", "name": "bus", "value": 2 * source.nbytes / seconds}


def shapes(largest):
    """Yield the cost of one matrix of each shape, without that of starting."""
    chosen = {canonical(shape) for model in ARCHITECTURES for shape in model.shapes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start, base = run_and_peak(["alpha", tiny(folder / "tiny.safetensors")])
        yield {"kind": "machine", "name": "start", "value": start}
        yield {"kind": "machine", "name": "interpreter", "value": base}
        for n, m in sorted(chosen, key=lambda shape: (shape[1], shape[0])):
            if m > largest or n > 10 * m:  # an output layer is computed from the other two
                continue
            count = max(1, min(ENOUGH // (n * m), 24))
            path = write(
                folder / "shape.safetensors", {f"layer{i}": (n, m) for i in range(count)}, "BF16"
            )
            seconds, peak = run_and_peak(["alpha", path])
            yield {
                "kind": "shape",
                "name": f"{n}x{m}",
                "value": (seconds - start) / count,
                "peak": peak - base,
            }


def models(_largest):
    """Yield the cost of whole files."""
    for model in ARCHITECTURES:
        if model.parameters > MEASURED:
            continue
        names = {
            f"{n}x{m}.{i}": (n, m) for (n, m), count in model.shapes.items() for i in range(count)
        }
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder) / "model.safetensors", names, "BF16")
            seconds, peak = run_and_peak(["alpha", path])
        yield {"kind": "model", "name": model.name, "value": seconds, "peak": peak}


STAGES = {"machine": lambda _: machine(), "shapes": shapes, "models": models}


def store(rows):
    """Write rows in place of earlier ones of the same kind and name."""
    kept = {(row["kind"], row["name"]): row for row in read("costs", TEXT)}
    kept |= {(row["kind"], row["name"]): {"peak": "", **row} for row in rows}
    columns = ("kind", "name", "value", "peak")
    order = ["machine", "shape", "model"]
    lines = [{c: row[c] for c in columns} for row in kept.values()]
    write_results("costs", sorted(lines, key=lambda row: order.index(row["kind"])))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=STAGES, default=list(STAGES))
    parser.add_argument("--largest", type=int, default=8192, help="columns of the largest shape")
    parser.add_argument("--write-docs", action="store_true", help="tables of docs/benchmarks.md")
    options = parser.parse_args()
    with one_core():
        for stage in options.only:
            for row in STAGES[stage](options.largest):
                print(row, flush=True)
                store([row])
    if options.write_docs:
        write_tables(DOCS / "benchmarks.md", tables(read("costs", TEXT)))


if __name__ == "__main__":
    main()
