"""The Dataset of `specdiag.link` -> tables and sentences, or JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from specdiag.dataset.schema.link import LINK
from specdiag.dataset.spectrum import WITHOUT_VERDICTS
from specdiag.htsr.statistics import MIN_LAYERS
from specdiag.show.table import aligned
from specdiag.transfer.link import ALL_TASKS, MIN_ARRANGEMENTS, QUANTITIES
from specdiag.wording import counted, number, p_value, printable, without_nan

if TYPE_CHECKING:
    import xarray as xr

MAX_P = 0.05
PRIMARY = "mean alpha"

_CELL = ("quantity", "part", "stratification")
_CELLS = [name for name, spec in LINK.items() if spec.dims[:3] == _CELL]
_ERRORS = [name for name, spec in LINK.items() if spec.dims == _CELL[:2]]


def as_json(linked: "xr.Dataset") -> str:
    """Return all numbers and the sentences as one JSON object; NaN becomes null."""
    pairs = list(product(linked.quantity.values, linked.part.values))
    cells = [
        {"quantity": q, "part": part, "stratification": s, **_cell(linked, q, part, s)}
        for q, part in pairs
        for s in linked.stratification.values
    ]
    predictions = [{"quantity": q, "left_out": p, **_errors(linked, q, p)} for q, p in pairs]
    columns = {"checkpoint": linked.checkpoint.values, "r2": linked.r2.values}
    columns |= zip(linked.quantity.values, linked.value.values, strict=True)
    checkpoints = [
        dict(zip(columns, row, strict=True))
        for row in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]
    whole = {
        "counts": {k: int(n) for k, n in linked.attrs.items() if k != "schema_version"},
        "definitions": QUANTITIES,
        "correlations": cells,
        "predictions": predictions,
        "checkpoints": checkpoints,
        "verdict": sentences(linked),
    }
    return json.dumps(without_nan(whole), indent=2, allow_nan=False)


def _cell(linked: "xr.Dataset", quantity: str, part: str, stratification: str) -> dict[str, Any]:
    cell = linked[_CELLS].sel(quantity=quantity, part=part, stratification=stratification)
    return {name: cell[name].values.tolist() for name in _CELLS}


def _errors(linked: "xr.Dataset", quantity: str, part: str) -> dict[str, Any]:
    errors = linked[_ERRORS].sel(quantity=quantity, part=part)
    return {name: errors[name].values.tolist() for name in _ERRORS}


def lines(linked: "xr.Dataset") -> list[str]:
    """Return the tables and the sentences, for a terminal."""
    tasks, counts = _tasks(linked), linked.attrs
    total = (
        f"{counted(counts['n_checkpoints'], 'checkpoint')}, {counts['n_spectra']} different "
        f"spectra; without R2 {counts['n_without_r2']}, without spectrum "
        f"{counts['n_without_spectrum']}, without mean alpha {counts['n_without_alpha']} (fewer "
        f"than {MIN_LAYERS} layers whose alpha means something)"
    )
    shown = [total]
    if n := counts["n_without_verdicts"]:
        shown.append(f"{counted(n, 'checkpoint')} {WITHOUT_VERDICTS}")
    if n := counts["n_without_counterpart"]:
        shown.append(
            f"{counted(n, 'checkpoint')} left out of the seed test 'alike': no second seed with "
            "the same entries"
        )
    shown += [_NOTE, "", *_table(_rows(linked)), *_same(linked), "", "within each task:"]
    shown += _table(_task_rows(linked, tasks)) if tasks else ["no checkpoint has a task"]
    return [printable(line) for line in [*shown, "", *sentences(linked)]]


def _tasks(linked: "xr.Dataset") -> list[str]:
    return [part for part in linked.part.values if part != ALL_TASKS]


_NOTE = (
    "rank correlation with R2 (checkpoints, different spectra or features among them); interval, p "
    "and adjusted p: of 'alike'; error: of R2 in a left-out task, with the quantity and without"
)


def _same(linked: "xr.Dataset") -> list[str]:
    alike = linked.same_order_as.sel(part=ALL_TASKS, stratification="alike")
    return [
        f"{q}: same order as {first}, not tested twice"
        for q, first in zip(linked.quantity.values, alike.values, strict=True)
        if first and linked.n.sel(quantity=q, part=ALL_TASKS, stratification="alike")
    ]


def _rows(linked: "xr.Dataset") -> list[dict[str, str]]:
    """Return a row for each quantity: its correlations over all tasks, and its errors."""
    rows = []
    for q in linked.quantity.values:
        cells = {s: _cell(linked, q, ALL_TASKS, s) for s in linked.stratification.values}
        errors = _errors(linked, q, ALL_TASKS)
        rows.append(
            {
                "quantity": q,
                **{name: _counted(cell) for name, cell in cells.items()},
                "95 %": _interval(cells["alike"]),
                "p": p_value(cells["alike"]["p"]),
                "Holm": p_value(cells["alike"]["p_holm"]),
                "error": number(errors["error"], ".3f"),
                "without": number(errors["baseline_error"], ".3f"),
            }
        )
    return rows


def _task_rows(linked: "xr.Dataset", tasks: Sequence[str]) -> list[dict[str, str]]:
    rows = []
    for q in linked.quantity.values:
        row = {"quantity": q}
        for task in tasks:
            row[task] = _counted(_cell(linked, q, task, "overall"))
            row[f"{task}, alike"] = _counted(_cell(linked, q, task, "alike"))
        rows.append(row)
    return rows


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return aligned([list(rows[0]), *(list(row.values()) for row in rows)], "<>")


def _counted(cell: Mapping[str, Any]) -> str:
    return f"{number(cell['rho'], '+.2f')} ({cell['n']}, {cell['n_units']})"


def _interval(cell: Mapping[str, Any]) -> str:
    low, high = cell["rho_ci"]
    return f"{low:+.2f} to {high:+.2f}" if math.isfinite(low) else "-"


def sentences(linked: "xr.Dataset") -> list[str]:
    """Return the conclusions, one sentence each: a link is significant if its p is at most 5 %."""
    conclusions = [_alike(linked), *_signs(linked), _overall(linked), _prediction(linked)]
    return [sentence for sentence in conclusions if sentence]


def _alike(linked: "xr.Dataset") -> str:
    cells = {q: _cell(linked, q, ALL_TASKS, "alike") for q in linked.quantity.values}
    tested = {q: cell for q, cell in cells.items() if math.isfinite(cell["p_holm"])}
    if not tested:
        most = max(cell["arrangements"] for cell in cells.values())
        n = sum(math.isfinite(cell["p"]) and not cell["same_order_as"] for cell in cells.values())
        of = f" of one of {n} quantities" if n > 1 else ""
        has = (
            f"their seeds can be exchanged in {most:.0f} ways" if most > 1 else "only one seed each"
        )
        return (
            f"Too few seeds to say whether spectra predict R2: {has}, and a p-value{of} below 5 % "
            f"needs more than {MIN_ARRANGEMENTS * max(n, 1)} ways to exchange seeds. Train more "
            "seeds."
        )
    significant = {q: cell for q, cell in tested.items() if cell["p_holm"] <= MAX_P}
    if significant:
        shown = "; ".join(f"{q} ({_shown(cell)})" for q, cell in significant.items())
        return f"Among trainings that differ only in their seed, R2 is correlated with {shown}."
    q = min(tested, key=lambda name: tested[name]["p_holm"])
    return (
        f"Among trainings that differ only in their seed, none of {len(tested)} quantities is "
        f"significantly correlated with R2: the nearest is {q} ({_shown(tested[q])}). A "
        "correlation may still exist."
    )


_SIGNS = {
    "alike": "among trainings that differ only in their seed",
    "overall": "all arms together, so that differences between arms may be the reason",
}


def _signs(linked: "xr.Dataset") -> list[str]:
    """Return a sentence for each stratification in which significant signs differ between tasks."""
    tasks, signs = _tasks(linked), []
    for stratification, about in _SIGNS.items():
        differing = {}
        for q in linked.quantity.values:
            cells = {task: _cell(linked, q, task, stratification) for task in tasks}
            sure = {task: cell for task, cell in cells.items() if cell["p_holm"] <= MAX_P}
            if len({cell["rho"] > 0 for cell in sure.values()}) == 2:
                differing[q] = "; ".join(f"{task} ({_shown(c)})" for task, c in sure.items())
        if differing:
            first, *others = differing
            also = f" So does that of {', '.join(others)}." if others else ""
            signs.append(
                f"The sign of {first} differs between tasks, {about}: {differing[first]}.{also}"
            )
    return signs


def _overall(linked: "xr.Dataset") -> str:
    overall, alike = (_cell(linked, PRIMARY, ALL_TASKS, c) for c in ("overall", "alike"))
    if not overall["p_holm"] <= MAX_P or alike["p_holm"] <= MAX_P:
        return ""
    return (
        f"Over all checkpoints together {PRIMARY} is correlated with R2 ({_shown(overall)}), but "
        "task, arm and data size influence both: no evidence that it predicts R2."
    )


def _prediction(linked: "xr.Dataset") -> str:
    errors = linked[_ERRORS].sel(quantity=PRIMARY)
    tasks = errors.drop_sel(part=ALL_TASKS)
    tasks = tasks.isel(part=(tasks.n_error > 0).values)
    if not tasks.sizes["part"]:
        return "R2 of a left-out task cannot be predicted: the other tasks have too few spectra."
    whole = errors.sel(part=ALL_TASKS)
    n_better = int((tasks.error < tasks.baseline_error).sum())
    return (
        "R2 of a left-out task, predicted from arm and data size: mean error "
        f"{whole.baseline_error.item():.3f}; with {PRIMARY} {whole.error.item():.3f}, less in "
        f"{n_better} of {tasks.sizes['part']} tasks (n = {whole.n_error.item()})."
    )


def _shown(cell: Mapping[str, Any]) -> str:
    """Return a correlation with its interval, its numbers of checkpoints and its p-value."""
    return (
        f"rho {cell['rho']:+.2f}, 95 % {_interval(cell)}, n = {cell['n']}, {cell['n_units']} "
        f"different, p {p_value(cell['p_holm'])} after Holm"
    )
