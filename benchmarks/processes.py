"""Time of whole processes, each from its start to its last line, over that of others.

    python -m benchmarks.processes model.safetensors [--diffract PYTHON]

One thread each, on one core. The other tools are called as their own pages show: weightwatcher's
`analyze()` of a folder with a file, and `pl_alpha` in a default session of diffract-core. That one
needs Python 3.12, so it has an interpreter of its own.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks._made_files import DTYPES, QWEN_BLOCK, tiny, write
from benchmarks._timing import (
    SPECDIAG,
    Measured,
    as_table,
    one_core,
    ratio_of,
    run,
    seconds_of,
)

WEIGHTWATCHER = """
import sys, tempfile, pathlib
import weightwatcher
with tempfile.TemporaryDirectory() as folder:
    pathlib.Path(folder, "model.safetensors").symlink_to(sys.argv[1])
    pathlib.Path(folder, "config.json").write_text("{}")
    print(weightwatcher.WeightWatcher(model=folder).analyze().to_string())
"""
DIFFRACT = """
import sys
from diffract import Session
from safetensors.numpy import load_file
with Session() as session:
    session.models.add(load_file(sys.argv[1]), model_id="model")
    session.compute.apply("pl_alpha")
    print(session.results.export_metrics("pl_alpha", export_format="dict"))
"""
UNKNOWN = {"long": (2000, 1408), "square": (1408, 1408)}
FAST = ("--null", "none")


def over_weightwatcher(model, pairs, folder):
    """Yield the rows of weightwatcher's script over `specdiag alpha`."""
    block = write(folder / "block.safetensors", QWEN_BLOCK, "BF16")
    for path, name, bars in (
        (model, "MiniLM", (8, 12)),
        (block, "a block of a 0.5B model in bfloat16", (12, np.nan)),
    ):
        for options, how, bar in (((), "default run", bars[0]), (FAST, "--null none", bars[1])):

            def theirs(path=path):
                return run([sys.executable, "-c", WEIGHTWATCHER, path])

            def ours(path=path, options=options):
                return run([SPECDIAG, "alpha", path, *options])

            what = f"weightwatcher's script over `specdiag alpha`, {name}, {how}"
            yield ratio_of(what, theirs, ours, pairs, bar=bar, at_least=True)


def goodness_of_fit(model, pairs, _folder):
    """Yield the row of `--gof`."""
    yield ratio_of(
        "`alpha --gof` over `alpha`, MiniLM",
        lambda: run([SPECDIAG, "alpha", model, "--gof"]),
        lambda: run([SPECDIAG, "alpha", model]),
        pairs,
        bar=1.5,
    )


def cold(pairs, folder, diffract):
    """Yield the rows of the first run on shapes that were never measured before."""
    path = write(folder / "unknown.safetensors", UNKNOWN)
    caches = folder / "home"

    def ours():
        variables = {"HOME": str(caches), "XDG_CACHE_HOME": str(caches / "cache")}
        return run([SPECDIAG, "alpha", path], **variables)

    def first():
        shutil.rmtree(caches, ignore_errors=True)
        caches.mkdir()
        return ours()

    what = "first run over second on unknown shapes, 2000 x 1408 and 1408 x 1408"
    yield ratio_of(what, first, ours, pairs, bar=1.1)
    diffract = Path(diffract or "").absolute()  # its link is kept: it finds its packages by it
    what = "diffract-core's `pl_alpha` over `specdiag alpha`, first run, the same shapes"
    if not has_diffract(diffract):
        yield Measured(what=what, bar=3, at_least=True, note="diffract-core is not installed")
        return
    yield ratio_of(
        what, lambda: run([diffract, "-c", DIFFRACT, path]), first, pairs, bar=3, at_least=True
    )


def has_diffract(python):
    """Return whether an interpreter has diffract-core and safetensors."""
    command = [str(python), "-c", "import diffract, safetensors"]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def commands(model, pairs, folder):
    """Yield the rows of `compare`, `report`, and of starting."""
    noisy = with_noise(model, folder / "noisy.safetensors")
    equal = folder / "equal.safetensors"
    shutil.copyfile(model, equal)
    for other, name in ((noisy, "with a little noise"), (equal, "that is equal")):
        yield ratio_of(
            f"`compare` of MiniLM with a copy {name} over `alpha --null none` of one",
            lambda other=other: run([SPECDIAG, "compare", model, other]),
            lambda: run([SPECDIAG, "alpha", model, *FAST]),
            pairs,
            bar=2.5,
        )
    dataset, page = folder / "minilm.nc", folder / "report.html"
    run([SPECDIAG, "alpha", model, "-o", dataset])
    report = [SPECDIAG, "report", dataset, "-o", page, "--force"]
    yield seconds_of("`report` of MiniLM, s", lambda: run(report), pairs, bar=4)
    helps = [
        seconds_of(f"`{' '.join(['specdiag', *name, '--help'])}`", help_of(name), pairs, bar=0.1)
        for name in ([], *([x] for x in names()))
    ]
    slowest = max(helps, key=lambda row: row.value)
    fields = {"value": slowest.value, "low": slowest.low, "high": slowest.high, "bar": slowest.bar}
    what = f"`--help` of each of {len(helps)} commands, the slowest, s"
    yield Measured(what=what, **fields, note=slowest.what)
    start = [SPECDIAG, "alpha", tiny(folder / "tiny.safetensors")]
    what = "`alpha` of one matrix of 64 x 64, s: imports, and what starting takes"
    yield seconds_of(what, lambda: run(start), pairs, bar=0.25)


def help_of(name):
    return lambda: run([SPECDIAG, *name, "--help"])


def names():
    """Return the names of all commands."""
    from specdiag.cli.main import cli

    return sorted(cli.list_commands(None))


def with_noise(model, path):
    """Write a copy of a model of float32 weights with noise of a thousandth of their sd."""
    from safetensors.numpy import load_file, save_file

    rng = np.random.default_rng(0)
    weights = load_file(model)
    for name, W in weights.items():
        if W.dtype == DTYPES["F32"] and W.ndim == 2:
            noise = rng.standard_normal(W.shape, dtype=np.float32)
            weights[name] = W + np.float32(1e-3) * W.std() * noise
    save_file(weights, path)
    return path


def rows(model, pairs, diffract=None):
    """Yield the row of each pair of processes."""
    model = Path(model).resolve()
    with tempfile.TemporaryDirectory() as name, one_core():
        folder = Path(name)
        yield from over_weightwatcher(model, pairs, folder)
        yield from goodness_of_fit(model, pairs, folder)
        yield from cold(pairs, folder, diffract)
        yield from commands(model, pairs, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--diffract", help="interpreter that has diffract-core and safetensors")
    options = parser.parse_args()
    print(as_table(list(rows(options.file, options.pairs, options.diffract))))


if __name__ == "__main__":
    main()
