"""Links of spectra and R² -> what the command line prints: tables and a verdict, or JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specdiag.show.table import aligned
from specdiag.transfer.link import ALL_TASKS, MIN_ARRANGEMENTS, QUANTITIES
from specdiag.wording import number, printable, without_nan

if TYPE_CHECKING:
    import xarray as xr

MAX_P = 0.05
PRIMARY = "mean alpha"


def as_json(found: "xr.Dataset") -> str:
    """Return all numbers and the verdict as one JSON object; NaN becomes null."""
    cells = [
        {"quantity": q, "part": part, "comparison": comparison, **_cell(found, q, part, comparison)}
        for q in found.quantity.values
        for part in found.part.values
        for comparison in found.comparison.values
    ]
    predictions = [
        {"quantity": q, "left_out": part, **_values(found[_ERRORS].sel(quantity=q, part=part))}
        for q in found.quantity.values
        for part in found.part.values
    ]
    checkpoints = [
        {"checkpoint": name, "r2": r2, **dict(zip(found.quantity.values, row, strict=True))}
        for name, r2, row in zip(
            *(found.checkpoint.values.tolist(), found.r2.values.tolist()),
            found.value.values.T.tolist(),
            strict=True,
        )
    ]
    whole = {
        "counts": {name: int(value) for name, value in found.attrs.items()},
        "definitions": QUANTITIES,
        "correlations": cells,
        "predictions": predictions,
        "checkpoints": checkpoints,
        "verdict": verdict(found),
    }
    return json.dumps(without_nan(whole), indent=2, allow_nan=False)


_CELLS = [
    "rho",
    "rho_ci",
    "p",
    "p_holm",
    "same_order_as",
    "n",
    "n_units",
    "n_without_counterpart",
    "arrangements",
]
_ERRORS = ["error", "baseline_error", "n_error"]


def _cell(found: "xr.Dataset", quantity: str, part: str, comparison: str) -> dict[str, Any]:
    return _values(found[_CELLS].sel(quantity=quantity, part=part, comparison=comparison))


def _values(cell: "xr.Dataset") -> dict[str, Any]:
    return {str(name): variable.values.tolist() for name, variable in cell.data_vars.items()}


def lines(found: "xr.Dataset") -> list[str]:
    """Return the tables for people, and the verdict."""
    tasks = [part for part in found.part.values if part != ALL_TASKS]
    shown = [
        _counts(found.attrs),
        *_still(found.attrs),
        _NOTE,
        "",
        *_table(_rows(found)),
        *_same(found),
        "",
    ]
    shown.append("within each task:")
    shown += _table(_task_rows(found, tasks)) if tasks else ["no checkpoint has a task"]
    return [printable(line) for line in [*shown, "", *verdict(found)]]


_NOTE = (
    "rank correlation with R2 (checkpoints, different spectra or features among them); interval, p and "
    "its adjustment are of 'alike'; error: of R2 in a left-out task, with the quantity and without"
)


def _counts(counts: Mapping[str, Any]) -> str:
    return (
        f"{counts['n_checkpoints']} checkpoints, {counts['n_spectra']} different spectra; without R2 "
        f"{counts['n_without_r2']}, without spectrum {counts['n_without_spectrum']}, no layer fit "
        f"{counts['n_without_fit']}"
    )


def _still(counts: Mapping[str, Any]) -> list[str]:
    n = counts["n_without_counterpart"]
    told = (
        f"{n} checkpoint{'s' * (n != 1)} stand{'s' * (n == 1)} still and {'is' if n == 1 else 'are'} not in "
        "'alike': their seed lacks a child, or there is no other seed"
    )
    return [told] if n else []


def _same(found: "xr.Dataset") -> list[str]:
    alike = found.same_order_as.sel(part=ALL_TASKS, comparison="alike")
    return [
        f"{q}: same order as {first}, not tested twice"
        for q, first in zip(found.quantity.values, alike.values, strict=True)
        if first and found.n.sel(quantity=q, part=ALL_TASKS, comparison="alike")
    ]


def _rows(found: "xr.Dataset") -> list[dict[str, str]]:
    """Return a row a quantity: its correlations over all tasks, and its errors."""
    rows = []
    for q in found.quantity.values:
        cells = {c: _cell(found, q, ALL_TASKS, c) for c in found.comparison.values}
        errors = _values(found[_ERRORS].sel(quantity=q, part=ALL_TASKS))
        rows.append(
            {
                "quantity": q,
                **{name: _counted(cell) for name, cell in cells.items()},
                "95 %": _interval(cells["alike"]),
                "p": number(cells["alike"]["p"], ".3f"),
                "Holm": number(cells["alike"]["p_holm"], ".3f"),
                "error": number(errors["error"], ".3f"),
                "without": number(errors["baseline_error"], ".3f"),
            }
        )
    return rows


def _task_rows(found: "xr.Dataset", tasks: Sequence[str]) -> list[dict[str, str]]:
    rows = []
    for q in found.quantity.values:
        row = {"quantity": q}
        for task in tasks:
            row[task] = _counted(_cell(found, q, task, "overall"))
            row[f"{task}, alike"] = _counted(_cell(found, q, task, "alike"))
        rows.append(row)
    return rows


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return aligned([list(rows[0]), *(list(row.values()) for row in rows)], "<>")


def _counted(cell: Mapping[str, Any]) -> str:
    return f"{number(cell['rho'], '+.2f')} ({cell['n']}, {cell['n_units']})"


def _interval(cell: Mapping[str, Any]) -> str:
    low, high = cell["rho_ci"]
    return f"{low:+.2f} to {high:+.2f}" if math.isfinite(low) else "-"


def verdict(found: "xr.Dataset") -> list[str]:
    """Return what can be said, a sentence a line; a link is what chance gives in less than 5 %."""
    sentences = [_alike(found), *_signs(found), _overall(found), _prediction(found)]
    return [sentence for sentence in sentences if sentence]


def _alike(found: "xr.Dataset") -> str:
    cells = {q: _cell(found, q, ALL_TASKS, "alike") for q in found.quantity.values}
    tested = {q: cell for q, cell in cells.items() if math.isfinite(cell["p_holm"])}
    if not tested:
        most = max(cell["arrangements"] for cell in cells.values())
        n = sum(math.isfinite(cell["p"]) and not cell["same_order_as"] for cell in cells.values())
        of = f" of one of {n} quantities" if n > 1 else ""
        return (
            "Whether spectra predict R2 cannot be told: trainings that differ in their seed alone can "
            f"be exchanged in {most:.0f} way{'s' * (most != 1)}, and a p-value{of} below 5 % needs more "
            f"than {MIN_ARRANGEMENTS * max(n, 1)}. More seeds would tell."
        )
    linked = {q: cell for q, cell in tested.items() if cell["p_holm"] <= MAX_P}
    if linked:
        shown = "; ".join(f"{q} ({_shown(cell)})" for q, cell in linked.items())
        return f"Among trainings that differ in their seed alone, R2 goes with {shown}."
    q = min(tested, key=lambda name: tested[name]["p_holm"])
    return (
        f"Among trainings that differ in their seed alone, none of {len(tested)} quantities is shown to "
        f"go with R2: the nearest is {q} ({_shown(tested[q])}). That is no proof of absence."
    )


_SIGNS = {
    "alike": "among trainings that differ in their seed alone",
    "overall": "all arms together, where what differs between arms may be the reason",
}


def _signs(found: "xr.Dataset") -> list[str]:
    """Return whether signs of correlations differ between tasks, both significant: one sentence each way."""
    tasks = [part for part in found.part.values if part != ALL_TASKS]
    sentences = []
    for comparison, about in _SIGNS.items():
        differing = {}
        for q in found.quantity.values:
            cells = {task: _cell(found, q, task, comparison) for task in tasks}
            sure = {task: cell for task, cell in cells.items() if cell["p_holm"] <= MAX_P}
            if len({cell["rho"] > 0 for cell in sure.values()}) == 2:
                differing[q] = "; ".join(f"{task} ({_shown(c)})" for task, c in sure.items())
        if differing:
            first, *others = differing
            also = f" So does that of {', '.join(others)}." if others else ""
            sentences.append(
                f"The sign of {first} differs between tasks, {about}: {differing[first]}.{also}"
            )
    return sentences


def _overall(found: "xr.Dataset") -> str:
    overall, alike = (_cell(found, PRIMARY, ALL_TASKS, c) for c in ("overall", "alike"))
    if not overall["p_holm"] <= MAX_P or alike["p_holm"] <= MAX_P:
        return ""
    return (
        f"Over all checkpoints together {PRIMARY} goes with R2 ({_shown(overall)}), but task, arm and "
        "data size move both: no evidence that it predicts R2."
    )


def _prediction(found: "xr.Dataset") -> str:
    errors = found[_ERRORS].sel(quantity=PRIMARY)
    tasks = errors.drop_sel(part=ALL_TASKS)
    tasks = tasks.isel(part=(tasks.n_error > 0).values)
    if not tasks.sizes["part"]:
        return "R2 of a left-out task cannot be predicted: the others have too few spectra."
    whole = errors.sel(part=ALL_TASKS)
    n_better = int((tasks.error < tasks.baseline_error).sum())
    return (
        "R2 of a left-out task, predicted from arm and data size: mean error "
        f"{whole.baseline_error.item():.3f}; with {PRIMARY} {whole.error.item():.3f}, less in {n_better} "
        f"of {tasks.sizes['part']} tasks (n = {whole.n_error.item()})."
    )


def _shown(cell: Mapping[str, Any]) -> str:
    """Return a correlation in words, with all that belongs to it."""
    return (
        f"rho {cell['rho']:+.2f}, 95 % {_interval(cell)}, n = {cell['n']}, {cell['n_units']} different, "
        f"p {number(cell['p_holm'], '.3f')} after Holm"
    )
