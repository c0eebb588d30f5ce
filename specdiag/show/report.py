"""Dataset -> one HTML page that needs no network.

Names of layers and checkpoints may come from strangers. They are escaped everywhere, and the policy
of the page allows one script, which sorts its tables, and no requests.
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

import numpy as np

from specdiag.dataset.spectrum import (
    WITHOUT_VERDICTS,
    layer_counts,
    meaningful_layers,
    n_without_verdicts,
)
from specdiag.dataset.versions import check_has_weights
from specdiag.drawing.drawings import Drawing, drawings, first_of_each, measured
from specdiag.drawing.style import inline_svg, rendered
from specdiag.features.conditioning import MOST_APART
from specdiag.htsr.null.verdicts import HEAVIER, ONE_SCALE, VERDICTS
from specdiag.htsr.statistics import alpha_mean_interval, known
from specdiag.htsr.verdict import MAX_Q
from specdiag.show.layers import REPEATS
from specdiag.training.trajectory import Trajectory
from specdiag.wording import accounting, counted, p_value, printable, rounded_down, short

if TYPE_CHECKING:
    import xarray as xr

_LONGEST_NAME = 200  # characters shown of a name
_MOST = 6  # checkpoints, and layers of one, that are drawn; `specdiag figures` draws all


class Section(NamedTuple):
    """A part of the page that the caller gives as plain text: paragraphs, then a table."""

    title: str
    paragraphs: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    @property
    def columns(self) -> list["_Column"]:
        """Columns of the table, for the template."""
        return [_Column(title, "name" if i == 0 else "text") for i, title in enumerate(self.header)]

    @property
    def cells(self) -> list[list["_Cell"]]:
        """Rows of the table, for the template."""
        return [[_Cell(short(text, 2000)) for text in row] for row in self.rows]


class _Column(NamedTuple):
    title: str
    kind: str  # name, text or number


class _Cell(NamedTuple):
    text: str
    value: float | None = None  # columns of numbers are sorted by it

    @property
    def parts(self) -> list[str]:
        """Parts of the text; a line may break between them, since names have no spaces."""
        return re.split(r"(?<=[/_])(?=.)", self.text)


def report(
    dataset: "xr.Dataset | None",
    *,
    tables: Mapping[str, Trajectory] | None = None,
    sections: Sequence[Section] = (),
    study: Path | None = None,
    title: str = "",
) -> str:
    """Return an HTML page of a Dataset: summary, figures, layers and provenance.

    The same Dataset gives the same bytes.

    Parameters
    ----------
    dataset : xarray.Dataset, optional
        From `specdiag.alpha`, `specdiag.compare`, `specdiag.collect` or `specdiag.open_spectra`.
        Without one, the page has the tables and sections alone.
    tables : mapping of str to Trajectory, optional
        Readings of trainings by their names, from `specdiag.drawing.trajectory.read`.
    sections : sequence of Section
        Further parts, shown after the summary, such as the conclusions of `specdiag.link`.
    study : Path, optional
        Folder with the figures of a study, as of `specdiag.drawing.drawings.drawings`.
    title : str, optional
        By default it names the checkpoints.

    Examples
    --------
    >>> page = specdiag.show.report.report(specdiag.alpha("model.safetensors"))
    >>> Path("report.html").write_text(page, encoding="utf-8")  # from pathlib
    """
    import jinja2
    from markupsafe import Markup

    if dataset is not None:
        check_has_weights(dataset)
    drawn = list(drawings(dataset, tables, most=_MOST, study=study))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("specdiag.show", ""),
        autoescape=True,
        finalize=lambda text: printable(text) if type(text) is str else text,
        undefined=jinja2.StrictUndefined,
    )
    style, script = (
        files("specdiag.show").joinpath(f"report.{kind}").read_text(encoding="utf-8")
        for kind in ("css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        **_of_dataset(dataset, title),
        sections=sections,
        most=_MOST,
        figures=list(_shown_figures(drawn)),
        not_drawn=[drawing for drawing in drawn if drawing.figure is None],
        # Text of this package, not of the Dataset: only this is not escaped.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hash=f"sha256-{digest}",
    )


def _of_dataset(dataset: "xr.Dataset | None", title: str) -> dict[str, Any]:
    """Return the parts of the page that are of a Dataset; they are empty without one."""
    if dataset is None:
        names = ("lead", "conclusions", "summary", "layers", "provenance")
        return {"title": short(title, 80)} | dict.fromkeys(names, ())
    return {
        "title": short(title, 80) or _title(dataset),
        "lead": _lead(dataset),
        "conclusions": _conclusions(dataset),
        "summary": {"header": _summary_header(dataset), "rows": list(_summary_rows(dataset))},
        "layers": _layers(dataset),
        "provenance": list(_provenance(dataset)),
    }


def _title(dataset: "xr.Dataset") -> str:
    names = dataset.checkpoint.values
    if "comparison" in dataset.dims:
        return f"Comparison with {short(str(dataset.group.values[0]), 80)}"
    if len(names) == 1:
        return f"Spectra of {short(str(names[0]), 80)}"
    return f"Spectra of {len(names)} checkpoints"


def _lead(dataset: "xr.Dataset") -> Iterator[str]:
    """Yield sentences that count the matrices by status, and the tails heavier than random ones."""
    at = list(measured(dataset))
    counts = {word: int(n[at].sum()) for word, n in layer_counts(dataset).items()}
    yield f"Weights of {counted(len(at), 'checkpoint')}; {accounting(counts)}."
    first = first_of_each(dataset)[at]
    q = dataset.null_q.values[at]
    if np.isfinite(q).any():
        yield _share(q, first, HEAVIER)
    q = np.where(np.isfinite(q), np.nan, dataset.gaussian_q.values[at])
    if np.isfinite(q).any():  # of a file of an earlier version
        yield f"{_share(q, first, ONE_SCALE)} Row and column scales were not tested in these."
    if n_old := n_without_verdicts(dataset):
        yield f"{counted(n_old, 'checkpoint')} {WITHOUT_VERDICTS}."
    if counts["fit"]:
        yield f"{REPEATS.capitalize()}."
    if n_others := dataset.sizes["checkpoint"] - len(at):
        reasons = "evaluations of these weights, or missing checkpoints"
        yield f"{n_others} more without spectra: {reasons}."


def _share(q: Any, first: Any, null: str) -> str:
    """Return how many layers beat a null; a matrix counts where it is the first of its kind."""
    n_tested, q = int(np.isfinite(q).sum()), q[first]
    n_distinct = int(np.isfinite(q).sum())
    is_shared = n_distinct < n_tested
    of = f"the {n_distinct} distinct of {n_tested}" if is_shared else f"{n_tested}"
    n = int(np.sum(q <= MAX_Q))
    layers = "layer is" if n_tested == 1 else "layers is" if n == 1 else "layers are"
    once = " A matrix in several checkpoints, such as a frozen core, counts once." * is_shared
    return f"{n} of {of} {layers} {null} (q ≤ {MAX_Q}).{once}"


def _conclusions(dataset: "xr.Dataset") -> list[str]:
    if "comparison" not in dataset.dims:
        return []
    pairs = zip(dataset.comparison.values, dataset.conclusion.values, strict=True)
    return [f"{short(str(name))}: {text}" for name, text in pairs]


def _summary_header(dataset: "xr.Dataset") -> list[_Column]:
    numbers = ("matrices", "measured", "degenerate", "skipped", "failed", "mean α")
    header = [_Column("checkpoint", "name"), *(_Column(name, "number") for name in numbers)]
    header += [_Column("95 % interval", "number"), _Column("layers in it", "number")]
    header += [_Column("verdicts", "text")]
    if "r2" in dataset.variables:
        header += [_Column("test R²", "number"), _Column("condition number", "number")]
        header += [_Column("state", "text")]
    return header


def _summary_rows(dataset: "xr.Dataset") -> Iterator[list[_Cell]]:
    counts = list(layer_counts(dataset).values())
    chosen = meaningful_layers(dataset).values
    for i in range(dataset.sizes["checkpoint"]):
        one = dataset.drop_dims("sample").isel(checkpoint=i)
        alpha = known(one.alpha.values[chosen[i]])
        center, interval = alpha_mean_interval(alpha)
        n = [int(count[i]) for count in counts]
        words = Counter(one.verdict.values.tolist())
        row = [_Cell(short(str(one.checkpoint.values), _LONGEST_NAME))]
        row += [_number(x, "d") if any(n) else _Cell("-") for x in (sum(n), *n)]
        row += [_number(center, ".2f"), _interval(*interval)]
        row += [_number(len(alpha), "d") if any(n) else _Cell("-")]
        row += [_Cell(", ".join(f"{words[word]} {word}" for word in VERDICTS if words[word]))]
        if "r2" in dataset.variables:
            condition = float(one.condition_number)
            low, high = one.condition_number_ci.values
            cell = _number(condition, ".2e")
            if MOST_APART * low < high:
                cell = _Cell(f"{low:.1e} to {high:.1e}", condition)
            if low > 0 and not math.isfinite(high):
                cell = _Cell(f"≥ {rounded_down(low)}", low)
            row += [_number(float(one.r2), ".3f"), cell, _Cell(short(str(one.state.values)))]
        yield row


def _number(value: float, form: str) -> _Cell:
    if not math.isfinite(value):
        return _Cell("-")
    return _Cell(p_value(value) if form == "p" else format(value, form), float(value))


def _interval(low: float, high: float) -> _Cell:
    return _Cell(f"{low:.2f} to {high:.2f}", low) if math.isfinite(low) else _Cell("-")


_NUMBERS = {
    "α": ("alpha", ".2f"),
    "95 % interval": ("alpha_ci", ""),
    "tail": ("n_tail", ".0f"),
    "gof p": ("gof_p", "p"),
    "null q": ("null_q", "p"),
    "rank": ("rank", ".0f"),
    "stable rank": ("stable_rank", ".1f"),
    "spectral norm": ("spectral_norm", "#.3g"),
}


def _layers(dataset: "xr.Dataset") -> dict[str, Any]:
    """Return the table of the layers of all checkpoints but evaluations, which repeat weights."""
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
    words = [word for word in VERDICTS if (dataset.verdict == word).any()]
    legend = " ".join(f"{word.capitalize()}: {VERDICTS[word]}." for word in words)
    caption = (
        f"{counted(len(rows), 'matrix', 'matrices')} in the order of the file. α is the posterior "
        "mean, with its 95 % interval; null q compares with random matrices, gof p tests the "
        f"power law. {legend} Click on a heading to sort the table."
    )
    return {"header": header, "rows": rows, "caption": caption}


def _shown_figures(drawn: Sequence[Drawing]) -> Iterator[dict[str, Any]]:
    from markupsafe import Markup

    for i, drawing in enumerate(drawn):
        if drawing.figure is None:
            continue
        label = printable(drawing.caption)
        svg = inline_svg(rendered(drawing.figure, "svg"), label, f"fig{i}-")
        yield {
            "title": drawing.title.replace(r"\$", "$"),
            "caption": drawing.caption,
            "svg": Markup(svg),  # noqa: S704 - serialised from a tree, which escapes text
        }


def _provenance(dataset: "xr.Dataset") -> Iterator[tuple[str, str]]:
    """Yield names and values of the attributes: versions, settings, locks and files."""
    for name in ("title", "Conventions", "schema_version"):
        if name in dataset.attrs:
            yield name, short(str(dataset.attrs[name]), _LONGEST_NAME)
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
        text = value if isinstance(value, str) else json.dumps(value)
        yield path, short(text, 2000) or "none"
