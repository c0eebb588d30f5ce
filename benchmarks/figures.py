"""Draws the examples of docs/figures.md, with their captions, from the checkpoints of the desk scale.

specdiag spectra --lock checkpoints.lock --lock checkpoints.seed-43.lock ... -o spectra.nc
python -m benchmarks.figures spectra.nc
"""

import argparse
import re
from pathlib import Path

import specdiag
from benchmarks._pages import DOCS
from specdiag.lock.lockfile import find, load
from specdiag.plot import trajectory
from specdiag.plot.drawings import WHOLE, drawings
from specdiag.plot.style import save_figure, style

PAIR = ("data_efficiency/scratch_100", "data_efficiency/scratch_tuned_100")
BASE = "base/poyo_mp_converged"


def examples(dataset):
    """Yield name, figure and caption of the first drawing of each kind."""
    root = DOCS.parent
    lock = load(root / "checkpoints.lock")
    base, *pair = (root / find(lock, name, "desk").path for name in (BASE, *PAIR))
    readings = base.with_name(f"{base.name}.spectra.csv")
    compared = specdiag.compare(*pair)
    seen = set()
    one_seed = dataset.isel(checkpoint=dataset.seed.values == 42)  # of all three a megabyte
    for found in (
        *(d for d in drawings(one_seed) if d.name == "pretrained_and_scratch"),
        *drawings(dataset, {BASE: trajectory.read(readings)}),
        *(d for d in drawings(compared) if d.name == "difference"),
    ):
        kinds = ("alpha_by_layer", "esd", "trajectory", *WHOLE)
        kind = next(k for k in kinds if found.name.startswith(k))
        if found.figure and kind not in seen:
            seen.add(kind)
            yield kind, found.figure, found.caption


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spectra", type=Path)
    page = DOCS / "figures.md"
    text = page.read_text(encoding="utf-8")
    with specdiag.open_spectra(parser.parse_args().spectra) as dataset, style():
        for name, figure, caption in examples(dataset.load()):
            save_figure(figure, DOCS / "figures" / f"{name}.svg")
            quoted = re.compile(rf"(\]\(figures/{name}\.svg\)\n\n> )[^\n]*")
            text, n = quoted.subn(lambda m, c=caption: m[1] + c, text)
            if n != 1:
                raise ValueError(f"{page.name} has {n} places for {name}")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
