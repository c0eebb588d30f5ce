"""Dataset -> one HTML page that holds all of it: to be read anywhere, with no network.

Names of layers and checkpoints are text from elsewhere. They are escaped wherever they stand, and the
page's own policy lets no script run but the one that sorts its tables, and nothing be fetched.
"""

import base64
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree as ET

import numpy as np

from specdiag.htsr.statistics import mean_interval
from specdiag.htsr.verdict import MAX_Q, VERDICTS
from specdiag.plot.drawings import Drawing, drawings, first_of_each, measured
from specdiag.plot.style import rendered
from specdiag.wording import counted, short

if TYPE_CHECKING:
    import xarray as xr

_LONGEST_NAME = 200  # characters shown of a name
_MOST = 6  # checkpoints, and layers of one, that are drawn; `specdiag figures` draws all


class Section(NamedTuple):
    """A part of the page that comes from elsewhere: paragraphs, then a table. All of it is plain text."""

    title: str
    paragraphs: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    @property
    def columns(self) -> list["_Column"]:
        """The header, for the template."""
        return [_Column(title, "name" if i == 0 else "text") for i, title in enumerate(self.header)]

    @property
    def cells(self) -> list[list["_Cell"]]:
        """The rows, for the template."""
        return [[_Cell(short(text, 2000)) for text in row] for row in self.rows]


class _Column(NamedTuple):
    title: str
    kind: str  # name, text or number


class _Cell(NamedTuple):
    text: str
    value: float | None = None  # by which a column of numbers is sorted

    @property
    def parts(self) -> list[str]:
        """The text, in parts between which a line may break: names have no spaces."""
        return re.split(r"(?<=[/_])(?=.)", self.text)


def report(
    dataset: "xr.Dataset",
    *,
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    sections: Sequence[Section] = (),
    study: Path | None = None,
) -> str:
    """Return an HTML page of a Dataset: summary, figures, layers and provenance.

    The same Dataset gives the same bytes.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of `specdiag.alpha`, `specdiag.compare`, `specdiag.collect` or `specdiag.open_spectra`.
    tables : mapping of str to table, optional
        Of `specdiag.plot.trajectory.read`, by the name of the training.
    sections : sequence of Section
        Shown after the summary, such as what `specdiag.link` concludes.
    study : Path, optional
        Folder with the figures of a study, as of `specdiag.plot.drawings.drawings`.

    Examples
    --------
    >>> page = report(specdiag.alpha("model.safetensors"))
    >>> Path("report.html").write_text(page, encoding="utf-8")
    """
    import jinja2
    from markupsafe import Markup

    found = list(drawings(dataset, tables, most=_MOST, study=study))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("specdiag.show", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
    )
    style, script = (
        files("specdiag.show").joinpath(f"report.{kind}").read_text(encoding="utf-8")
        for kind in ("css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        title=_title(dataset),
        lead=_lead(dataset),
        conclusions=_conclusions(dataset),
        summary={"header": _summary_header(dataset), "rows": list(_summary_rows(dataset))},
        sections=sections,
        most=_MOST,
        figures=list(_shown_figures(found)),
        lacking=[drawing for drawing in found if drawing.figure is None],
        layers=_layers(dataset),
        provenance=list(_provenance(dataset)),
        # Of this package, not of the Dataset: the only text that is not escaped.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hash=f"sha256-{digest}",
    )


def _title(dataset: "xr.Dataset") -> str:
    names = dataset.checkpoint.values
    if "comparison" in dataset.dims:
        return f"Comparison with {short(str(names[0]), 80)}"
    if len(names) == 1:
        return f"Spectra of {short(str(names[0]), 80)}"
    return f"Spectra of {len(names)} checkpoints"


def _lead(dataset: "xr.Dataset") -> Iterator[str]:
    """Yield what was walked, and how many alphas are lower than random matrices give."""
    at = list(measured(dataset))
    status = dataset.status.values[at]
    n = {word: int(np.sum(status == word)) for word in ("fit", "degenerate", "skipped", "failed")}
    buckets = " + ".join(
        f"{count} {word}" for word, count in n.items() if count or word != "failed"
    )
    yield f"Weights of {counted(len(at), 'checkpoint')}: walked {sum(n.values())} matrices = {buckets}."
    q = dataset.null_q.values[at]
    if known := int(np.isfinite(q).sum()):
        q = q[first_of_each(dataset)[at]]
        distinct = int(np.isfinite(q).sum())
        of = f"the {distinct} distinct of {known}" if distinct < known else f"{known}"
        yield (
            f"{int(np.sum(q <= MAX_Q))} of {of} alphas are lower than random matrices of the same shape give "
            f"(q ≤ {MAX_Q})."
            + " Checkpoints that share a matrix, such as a frozen core, count once."
            * (distinct < known)
        )
    others = dataset.sizes["checkpoint"] - len(at)
    if others:
        yield (
            f"{others} more have no spectra of their own: they are evaluations of these weights, or are "
            "not there."
        )


def _conclusions(dataset: "xr.Dataset") -> list[str]:
    if "comparison" not in dataset.dims:
        return []
    pairs = zip(dataset.comparison.values, dataset.conclusion.values, strict=True)
    return [f"{short(str(name))}: {text}" for name, text in pairs]


def _summary_header(dataset: "xr.Dataset") -> list[_Column]:
    numbers = ("walked", "fit", "degenerate", "skipped", "failed", "mean α")
    header = [_Column("checkpoint", "name"), *(_Column(name, "number") for name in numbers)]
    header += [_Column("95 % interval", "number"), _Column("verdicts", "text")]
    if "r2" in dataset.variables:
        header += [_Column("test R²", "number"), _Column("condition number", "number")]
        header += [_Column("state", "text")]
    return header


def _summary_rows(dataset: "xr.Dataset") -> Iterator[list[_Cell]]:
    for i in range(dataset.sizes["checkpoint"]):
        one = dataset.drop_dims("sample").isel(checkpoint=i)
        status = one.status.values
        counts = [int(np.sum(status == s)) for s in ("fit", "degenerate", "skipped", "failed")]
        alpha = one.alpha_mean.values[status == "fit"]
        alpha = alpha[np.isfinite(alpha)]
        low, high = mean_interval(alpha)
        words = Counter(one.verdict.values.tolist())
        row = [_Cell(short(str(one.checkpoint.values), _LONGEST_NAME))]
        walked = sum(counts)
        row += [_number(count, "d") if walked else _Cell("-") for count in (walked, *counts)]
        row += [_number(float(alpha.mean()) if len(alpha) else math.nan, ".2f")]
        row += [_interval(low, high)]
        row += [_Cell(", ".join(f"{words[word]} {word}" for word in VERDICTS if words[word]))]
        if "r2" in dataset.variables:
            at_least = "≥ " * bool(one.condition_number_is_bound)
            row += [_number(float(one.r2), ".3f")]
            row += [_number(float(one.condition_number), ".2e", at_least)]
            row += [_Cell(short(str(one.state.values)))]
        yield row


def _number(value: float, form: str, before: str = "") -> _Cell:
    return _Cell(before + format(value, form), float(value)) if math.isfinite(value) else _Cell("-")


def _interval(low: float, high: float) -> _Cell:
    return _Cell(f"{low:.2f} to {high:.2f}", low) if math.isfinite(low) else _Cell("-")


_NUMBERS = {
    "α": ("alpha", ".2f"),
    "mean": ("alpha_mean", ".2f"),
    "95 % interval": ("alpha_ci", ""),
    "tail": ("n_tail", ".0f"),
    "gof p": ("gof_p", ".2f"),
    "null q": ("null_q", ".3f"),
    "rank": ("rank", ".0f"),
    "stable rank": ("stable_rank", ".1f"),
    "spectral norm": ("spectral_norm", "#.3g"),
}


def _layers(dataset: "xr.Dataset") -> dict[str, Any]:
    """Return the table of layers: those of every checkpoint with weights of its own."""
    shown = measured(dataset)
    several = len(shown) > 1
    columns = {name: dataset[name].values for name, _ in _NUMBERS.values()}
    header = [_Column("matrix", "name")]
    header += [_Column("checkpoint", "text")] * several
    header += [_Column("place", "number"), _Column("shape", "text")]
    header += [_Column(title, "number") for title in _NUMBERS]
    header += [_Column("verdict", "text"), _Column("reason", "text")]
    rows = []
    for i, name in shown.items():
        for j in np.flatnonzero(dataset.status.values[i] != "absent"):
            row = [_Cell(short(str(dataset.layer.values[j]), _LONGEST_NAME))]
            row += [_Cell(short(name, _LONGEST_NAME))] * several
            row += [_Cell(str(j), float(j)), _Cell(str(dataset["shape"].values[i, j]))]
            row += [
                _number(columns[column][i, j], form) if form else _interval(*columns[column][i, j])
                for column, form in _NUMBERS.values()
            ]
            row += [_Cell(str(dataset.verdict.values[i, j] or dataset.status.values[i, j]))]
            row += [_Cell(short(str(dataset.reason.values[i, j]), _LONGEST_NAME))]
            rows.append(row)
    caption = (
        f"{counted(len(rows), 'matrix', 'matrices')} in the order of "
        "the file. α is the point estimate, mean the posterior mean with its 95 % interval; gof p tests the "
        "power law, null q compares with random matrices. The headings sort the table."
    )
    return {"header": header, "rows": rows, "caption": caption}


def _shown_figures(found: Sequence[Drawing]) -> Iterator[dict[str, Any]]:
    from markupsafe import Markup

    for i, drawing in enumerate(found):
        if drawing.figure is None:
            continue
        svg = inline_svg(rendered(drawing.figure, "svg"), drawing.caption, f"fig{i}-")
        yield {
            "title": drawing.title.replace(r"\$", "$"),
            "caption": drawing.caption,
            "svg": Markup(svg),  # noqa: S704 - serialised from a tree, which escapes text
        }


def inline_svg(content: bytes, label: str, prefix: str) -> str:
    """Return an SVG of matplotlib for the inside of a page.

    The label is its alternative text, ids get the prefix, so that they are unique in the page, black
    and white become the colours of the page, and its style sheet, which would hold for the whole page,
    is left out.
    """
    root = ET.fromstring(content)  # noqa: S314 - our own
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith("}metadata") or child.find("{*}style") is not None:
                parent.remove(child)
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        node.attrib = {key.rpartition("}")[2]: value for key, value in node.attrib.items()}
        for key, value in node.attrib.items():
            node.attrib[key] = _page_value(key, value, prefix)
    width = root.attrib.pop("width")
    del root.attrib["height"]
    root.attrib |= {"role": "img", "aria-label": label, "style": f"max-width: {width}"}
    return ET.tostring(root, encoding="unicode")


def _page_value(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return prefix + value
    if key == "href":
        return value.replace("#", f"#{prefix}", 1)
    value = value.replace("url(#", f"url(#{prefix}")
    if key == "style":
        value = value.replace("#000000", "currentColor").replace("#ffffff", "var(--paper)")
    return value


def _provenance(dataset: "xr.Dataset") -> Iterator[tuple[str, str]]:
    """Yield what the attribute says of versions, settings, locks and files, one value a line."""
    yield from (
        (name, short(str(dataset.attrs[name]), _LONGEST_NAME))
        for name in ("title", "Conventions", "schema_version")
        if name in dataset.attrs
    )
    text = str(dataset.attrs.get("provenance", ""))
    try:
        yield from _flat("", json.loads(text))
    except ValueError:
        yield "provenance", short(text, 2000) or "none"


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value, 1)
        for key, item in items:
            yield from _flat(f"{path} / {short(str(key))}" if path else short(str(key)), item)
    else:
        yield (
            path,
            short(json.dumps(value) if not isinstance(value, str) else value, 2000) or "none",
        )
