"""Findings -> the lines of the command line, JSON, and Markdown tables."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import get_args

from specdiag.files import read_text
from specdiag.htsr.statistics import LEVEL
from specdiag.transfer.claims import MIN_SEEDS, Claim, Finding, Key, Measured, Outcome
from specdiag.wording import counted, markdown_cell, number, printable, without_nan

_LAYERS = {"n_meaningful": "in means of alpha", "n_fit": "fit", "n_degenerate": "degenerate"}
_LARGEST = 20_000_000  # bytes of a file of claims
HEADER = ("claim", "published", "ours", "seeds", "outcome", "reason and notes")


def tables(findings: Sequence[Finding], measured: Measured) -> dict[str, str]:
    """Return the parts that `-o` writes, in Markdown: summary, claims, layers behind the means."""
    return {
        "summary": _summary(findings, measured),
        "claims": _table(HEADER, [row(finding) for finding in findings]),
        "layers": _table(("checkpoint", *_LAYERS.values()), _layer_counts(measured)),
    }


def _summary(findings: Sequence[Finding], measured: Measured) -> str:
    seeds = sorted({*measured.trained, *measured.fetched})
    n_untested = sum(f.outcome == "cannot be tested here" for f in findings)
    n_missing = sum(f.n_seeds < MIN_SEEDS and not f.claim.not_at_desk for f in findings)
    n_tested = len(findings) - n_untested
    missing = f" {counted(n_missing, 'claim')} without enough values or seeds." * bool(n_missing)
    return (
        f"{measured.scale.capitalize()} scale, seeds {', '.join(map(str, seeds)) or 'none'}. "
        f"{count(findings)}.{missing} "
        f"{counted(n_tested, 'claim')} could be tested: if none of them had any effect, "
        f"{(1 - LEVEL) * n_tested:.1f} wrong outcomes would be expected."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *(map(markdown_cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _layer_counts(measured: Measured) -> list[list[str]]:
    """Return the mean numbers of layers of each kind over the seeds of each checkpoint."""
    counts: dict[Key, list[float]] = defaultdict(list)
    for values in (*measured.trained.values(), *measured.fetched.values()):
        for key, value in values.items():
            counts[key].append(value)
    return [
        [entry, *(_number(fmean(counts[entry, name] or [math.nan])) for name in _LAYERS)]
        for entry, quantity in sorted(counts)
        if quantity == "n_fit" and (entry, "n_degenerate") in counts
    ]


def lines(findings: Sequence[Finding]) -> list[str]:
    """Return the lines for a terminal: a claim and its outcome, then the numbers."""
    shown = []
    for finding in findings:
        text, published, ours, seeds, outcome, why = row(finding)
        shown.append(f"{outcome:21}  {text}")
        reason = f"; {why}" if why else ""
        shown.append(f"{'':23}published {published}; ours {ours}; {seeds} seeds{reason}")
    return [printable(line) for line in [*shown, count(findings)]]


def as_json(findings: Sequence[Finding], scale: str) -> str:
    """Return the findings as JSON, NaN as null."""
    rows = [
        {
            "claim": f.claim.text,
            "labels": list(f.claim.labels),
            "published": f.published.tolist(),
            "ours": f.ours.tolist(),
            "lower": f.interval[0].tolist(),
            "upper": f.interval[1].tolist(),
            "n_seeds": f.n_seeds,
            "verdict": f.outcome,
            "why": f.why,
            "note": f.claim.note,
            "shown": list(row(f)),
        }
        for f in findings
    ]
    content = {"scale": scale, "count": count(findings), "claims": without_nan(rows)}
    return json.dumps(content, indent=2, allow_nan=False)


def read_rows(path: Path) -> tuple[str, list[tuple[str, ...]]]:
    """Return how many claims have each outcome, and the rows under HEADER, of a file of `as_json`.

    Raises
    ------
    ValueError
        If the file is not what `as_json` returned.
    OSError
        If it cannot be read.
    """
    text = read_text(path, _LARGEST)
    try:
        content = json.loads(text)
        rows = [tuple(claim["shown"]) for claim in content["claims"]]
        cells = [content["count"], *(cell for row in rows for cell in row)]
        if {*map(len, rows)} <= {len(HEADER)} and all(isinstance(cell, str) for cell in cells):
            return cells[0], rows
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{path}: not what `specdiag verify --json` prints; run it again")


def count(findings: Sequence[Finding]) -> str:
    """Return how many claims have each outcome."""
    counts = Counter(f.outcome for f in findings)
    shown = ", ".join(f"{counts[word]} {word}" for word in get_args(Outcome) if counts[word])
    return f"Of {len(findings)} claims: {shown}"


def row(finding: Finding) -> tuple[str, ...]:
    """Return the cells of a row of a table, under HEADER."""
    claim = finding.claim
    tolerance = "" if claim.tolerance is None else f" ± {claim.tolerance:g}"
    ours = [
        _number(x) + (f" ({_number(low)} to {_number(high)})" if math.isfinite(low) else "")
        for x, low, high in zip(finding.ours, *finding.interval, strict=True)
    ]
    return (
        claim.text + _margin(claim),
        _labelled(claim.labels, [_number(x) + tolerance for x in finding.published]),
        _labelled(claim.labels, ours),
        str(finding.n_seeds),
        finding.outcome,
        "; ".join(filter(None, (finding.why, claim.note))),
    )


def _margin(claim: Claim) -> str:
    """Return the range in which a claim without a direction holds; '' for other claims."""
    if not claim.is_null:
        return ""
    low, high = map(_number, claim.holds)
    if low == "-":
        return f" (holds below {high})"
    return f" (holds above {low})" if high == "-" else f" (holds from {low} to {high})"


def _labelled(labels: Sequence[str], values: Sequence[str]) -> str:
    if {*values} <= {"-"}:
        return "-"
    if len(values) != len(labels):
        return ", ".join(values)
    return "; ".join(f"{label}: {value}" for label, value in zip(labels, values, strict=True))


def _number(x: float) -> str:
    """Return three digits, at most three decimals; a dash for NaN and infinity."""
    return number(x, ".3g") if abs(x) >= 10 else number(round(x, 3) + 0.0, "g")
