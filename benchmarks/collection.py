"""Time and memory to build, save and open a collection of many checkpoints, and read a spectrum.

    python -m benchmarks.collection [--checkpoints 1000] [--layers 100] [--write-docs]

The files of the checkpoints are made up: three matrices under many names. Each step runs in its own
process, because peak memory is one number a process. Memory is that beyond the imports, in sizes of
the file.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks._pages import DOCS, table, write_tables
from benchmarks._results import write


def made_up(folder, checkpoints, layers):
    """Write the spectra of checkpoints with 64, 128 or 256 eigenvalues a layer."""
    from specdiag.checkpoint.reader import open_checkpoint
    from specdiag.dataset.build import build
    from specdiag.dataset.netcdf import save_spectra
    from specdiag.htsr.layers import measure_weight
    from specdiag.htsr.selection import matrices

    rng = np.random.default_rng(0)
    measured = []
    for side in (64, 128, 256):
        opened = open_checkpoint({"weight": rng.standard_normal((side, side)) ** 3})
        measured.append(measure_weight(matrices(opened)[0], gof=False))
    named = [replace(measured[i % 3], name=f"layers.{i}.weight") for i in range(layers)]
    save_spectra(build([opened], [named], {}), folder / "0.nc")
    content = (folder / "0.nc").read_bytes()
    for i in range(1, checkpoints):
        (folder / f"{i}.nc").write_bytes(content)


def rows(folder):
    from specdiag.dataset.netcdf import read_spectra
    from specdiag.lock.entry import Entry
    from specdiag.transfer.collection import Row
    from specdiag.transfer.factors import factors

    collected = []
    for path in sorted(folder.glob("[0-9]*.nc"), key=lambda path: int(path.stem)):
        entry = Entry(name=f"net/{path.stem}", scale="desk", group="g", recipe="r")
        made = {
            **factors(entry, None),
            "state": "ok",
            "sha256": "",
            "how": "trained",
            "n_changed": 0,
        }
        evaluation = {"r2": 0.5, "session_r2": {"monday": 0.5}}
        collected.append(Row(made, read_spectra(path), "", evaluation))
    return collected


def build(folder):
    from specdiag.transfer.collection import build as built

    return built(rows(folder), [])


def build_and_save(folder):
    from specdiag import save_spectra

    save_spectra(build(folder), folder / "all.nc")


def open_and_select(folder):
    from specdiag import open_spectra, spectrum

    with open_spectra(folder / "all.nc") as dataset:
        spectrum(dataset, "layers.7.weight", str(dataset.checkpoint.values[-1]))


def mean_alpha(folder):
    from specdiag import open_spectra

    with open_spectra(folder / "all.nc") as dataset:
        dataset.alpha.where(dataset.status == "fit").mean("layer").load()
        dataset.r2.load()


def load_all(folder):
    from specdiag import open_spectra

    with open_spectra(folder / "all.nc") as dataset:
        dataset.load()


def imports_only(_folder):
    import h5netcdf  # noqa: F401
    import xarray  # noqa: F401

    from specdiag.dataset import spectra  # noqa: F401


STEPS = {
    "importing xarray and what reads netCDF": imports_only,
    "reading the files and building": build,
    "the same, and saving": build_and_save,
    "opening and one spectrum": open_and_select,
    "opening, mean alpha and R² of every checkpoint": mean_alpha,
    "opening and loading all": load_all,
}


def results(checkpoints, layers):
    """Return one row per step, each measured in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        made_up(Path(folder), checkpoints, layers)
        measured = []
        for name in STEPS:
            options = ["--step", name, "--folder", folder]
            command = [sys.executable, "-m", "benchmarks.collection", *options]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            measured.append(
                {"checkpoints": checkpoints, "layers": layers, **json.loads(done.stdout)}
            )
        parts = sum(path.stat().st_size for path in Path(folder).glob("[0-9]*.nc"))
        whole = (Path(folder) / "all.nc").stat().st_size
    base = measured[0]["memory"]
    for row in measured:
        row["memory"] = round((row["memory"] - base) / (whole / 1e6), 2)
        row["file"], row["parts"] = (round(size / 1e6, 1) for size in (whole, parts))
    return measured[1:]


def step(name, folder):
    """Print seconds and peak memory in MB; importing is not counted."""
    imports_only(folder)
    start = time.perf_counter()
    STEPS[name](folder)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps({"step": name, "seconds": round(seconds, 2), "memory": memory}))


def page(measured):
    """Return the table of the page: the largest size, and how it grew from the smaller one."""
    n = len(measured) // 2
    few, many = (int(row["checkpoints"]) for row in (measured[0], measured[n]))
    header = ["step", f"seconds for {many:,} checkpoints", f"a checkpoint, over that of {few:,}"]
    rows = [
        [
            big["step"],
            big["seconds"],
            f"{big['seconds'] / small['seconds'] * few / many:.2f}",
            big["memory"],
        ]
        for small, big in zip(measured[:n], measured[n:], strict=True)
    ]
    return table([*header, "peak memory beyond the imports, over the file's size"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--write-docs", action="store_true", help="keep the results, fill the page")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step(arguments.step, arguments.folder)
        return
    sizes = [arguments.checkpoints // 4, arguments.checkpoints]
    measured = [row for n in sizes for row in results(n, arguments.layers)]
    text = page(measured)
    print(text)
    print(f"{measured[-1]['file']} MB from {measured[-1]['parts']} MB beside the checkpoints")
    if arguments.write_docs:
        write("collection", measured)
        write_tables(DOCS / "benchmarks.md", {"collection": text})


if __name__ == "__main__":
    main()
