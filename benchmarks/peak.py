"""Peak memory of `specdiag alpha --memory M`, above that of measuring a tiny file, over M.

    python -m benchmarks.peak

With more jobs than fit, so the budget decides and not the number of cores.
"""

import tempfile
from pathlib import Path

from benchmarks._made_files import gaussian, tiny, write
from benchmarks._timing import Measured, as_table, run_and_peak

JOBS = 8
FILES = {
    "float32, 16384 x 1024 and 4096 x 4096": (
        "F32",
        {"long": (16384, 1024), "square": (4096,) * 2},
    ),
    "bfloat16, 8192 x 2048 and 2048 x 2048": (
        "BF16",
        {"long": (8192, 2048), "square": (2048,) * 2},
    ),
}
COPIES = 4


def rows():
    """Yield a row for each file and budget."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, base = run_and_peak(["alpha", tiny(folder / "tiny.safetensors")])
        for what, (dtype, shapes) in FILES.items():
            copies = {f"{k}{i}": s for k, s in shapes.items() for i in range(COPIES)}
            path = write(folder / "large.safetensors", copies, dtype, gaussian)
            largest = max(8 * n * m for n, m in shapes.values())
            for times in (4, 8):
                yield row(path, times, times * largest, base, what)


def row(path, times, budget, base, what):
    """Return the row of a file that is measured within a budget, in bytes."""
    fields = {
        "what": f"peak memory with --memory {times} times the largest matrix, over that and the "
        f"interpreter: {what}",
        "bar": 1,
    }
    try:
        options = ["--jobs", JOBS, "--memory", f"{budget // 2**20}M"]
        _, peak = run_and_peak(["alpha", path, *options])
    except RuntimeError as error:
        return Measured(**fields, note=str(error).splitlines()[-1])
    sizes = f"{peak / 2**20:.0f} MiB, of {budget / 2**20:.0f} and {base / 2**20:.0f}"
    return Measured(**fields, value=peak / (budget + base), note=sizes)


def main():
    print(as_table(list(rows())))


if __name__ == "__main__":
    main()
