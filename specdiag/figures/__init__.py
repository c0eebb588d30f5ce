"""Figures, one module each: `plot(dataset, ...)` reads a Dataset and returns a matplotlib Figure."""

import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from specdiag._files import printable, write_whole

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def draw_all(dataset: "xr.Dataset", folder: Path) -> list[Path]:
    """Write alpha by layer, and the spectrum of every layer that was fit; return the files.

    Several checkpoints get a folder each. Names of layers may hold anything, so a file is named by
    the position of the layer and what of its name is safe on every file system.
    """
    from specdiag.figures import alpha_by_layer, esd

    written = []
    for i, checkpoint in enumerate(dataset.checkpoint.values):
        home = (
            folder / f"{i:02d}_{_slug(checkpoint)}" if dataset.sizes["checkpoint"] > 1 else folder
        )
        home.mkdir(parents=True, exist_ok=True)
        figures = {"alpha_by_layer": alpha_by_layer.plot(dataset, checkpoint)}
        for j, layer in enumerate(dataset.layer.values):
            if dataset.status.values[i, j] == "fit":
                figures[f"esd_{j:03d}_{_slug(layer)}"] = esd.plot(dataset, layer, checkpoint)
        for name, figure in figures.items():
            path = home / f"{name}.png"
            save_figure(figure, path)
            written.append(path)
    return written


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure, in the format of its extension, whole or not at all."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script without font
        figure.savefig(content, format=path.suffix[1:].lower(), dpi=150)
    write_whole(path, content.getbuffer())


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)[-80:]


def short_title(name: str, longest: int = 52) -> str:
    """Return a title of a layer or checkpoint: its end when it is long, no mathematics."""
    text = printable(name)
    return (text if len(text) <= longest else f"…{text[1 - longest :]}").replace("$", r"\$")
