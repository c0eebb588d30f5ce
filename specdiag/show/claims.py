"""Findings -> what the command line prints, and the page of the documentation."""

import inspect
import json
import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import get_args

from specdiag.htsr.statistics import LEVEL
from specdiag.transfer.claims import MIN_SEEDS, Claim, Figure, Finding, Verdict
from specdiag.wording import without_nan

HEADER = ("claim", "published", "ours", "seeds", "verdict", "why, and what to know")
_PAGE = """\
# What can be reproduced of what was claimed

<!-- Written by `specdiag verify -o`; the claims are in recipes/_claims.py. -->

{about}

This page is of **{scale} scale**, seeds {seeds}. {state}

## What a verdict means

A claim is a function of figures. It is computed of the published figures (`reported` in the lock) and of ours,
seed by seed, so differences are paired: a seed has its own base, finetunes and controls. *Ours* is the mean over seeds with its
{level:g} % interval by Student's t (of ratios on the log scale). It is of the training's seed and of nothing else: recordings,
splits and animals are the same for all seeds. Fewer than {min_seeds} seeds decide nothing.

| verdict | the interval lies |
|---|---|
| reproduced | within what is claimed: within the stated tolerance of a published number; within the margin of no change; or on the claimed side of zero, with the published size in it |
| direction only | on the claimed side of zero, but the size is another, or nothing to compare with |
| not reproduced | outside: on the other side of zero, beyond the margin or the tolerance. It was looked for, and what is there is something else |
| undecided | across the border: the seeds scatter by more than would have to be seen |
| cannot be tested here | nowhere: the reason is given |

{scale_means}

A condition number below the noise floor's reach is known by a lower bound alone. Seeds with one are left out and counted, and then
nothing is called *reproduced* or *direction only*, since those left out are the worst conditioned.

Where a claim has several numbers, all must hold; the intervals that call one of k wrong are at 1 - {one_minus:.2f} / k. With no effect at all
a claim of a direction is called *direction only* or *reproduced* in 2.5 %, and *not reproduced* in 2.5 %, *undecided* otherwise; where
seeds scatter with a strong skew, as when one in several gets stuck, the second can reach one in five (both tested by simulation). **{n_claims} claims are looked at, {n_tested} of them could be tested here**: were there nothing in any, {expected:.1f}
false verdicts would be expected. No correction is made; a single verdict with an interval near zero is worth little.

## Claims

{table}

## Layers behind the means

Means of alpha are over the layers that could be fit, here the mean number over seeds; degenerate ones have no alpha.

{counts}
"""
_SCALE_MEANS = {
    "desk": "At desk scale, with small networks on simulated recordings, no published number can come out. So claims of a number "
    "cannot be tested; a claim of a direction becomes *direction only* at best; and *reproduced* is said of claims of no change "
    "alone, whose margin is theirs at any scale.",
    "paper": "At paper scale numbers are compared as well. Weights that were fetched are the published ones: what is measured on "
    "them needs no seeds.",
}


def page(findings: Sequence[Finding], figures: Sequence[Figure], scale: str, about: str) -> str:
    """Return the page in Markdown; `about` says what the claims are of."""
    seeds = sorted({figure.seed for figure in figures})
    n_untested = sum(f.verdict == "cannot be tested here" for f in findings)
    n_lost = sum(f.n_seeds < MIN_SEEDS and not f.claim.not_at_desk for f in findings)
    state = f"It is incomplete: {n_lost} claims lack figures or seeds." if n_lost else ""
    return _PAGE.format(
        about=inspect.cleandoc(about),
        scale=scale,
        seeds=", ".join(map(str, seeds)) or "none",
        state=f"{count(findings)}. {state}".rstrip(),
        level=100 * LEVEL,
        min_seeds=MIN_SEEDS,
        scale_means=_SCALE_MEANS[scale],
        one_minus=1 - LEVEL,
        n_claims=len(findings),
        n_tested=len(findings) - n_untested,
        expected=(1 - LEVEL) * (len(findings) - n_untested),
        table=_table(HEADER, [row(finding) for finding in findings]),
        counts=_table(("checkpoint", "fit", "degenerate"), _counts(figures)),
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _counts(figures: Sequence[Figure]) -> list[list[str]]:
    found: dict[str, dict[str, list[float]]] = {}
    for figure in figures:
        if figure.quantity in ("n_fit", "n_degenerate"):
            found.setdefault(figure.entry, {}).setdefault(figure.quantity, []).append(figure.value)
    return [
        [entry, *(_number(fmean(counts[name])) for name in ("n_fit", "n_degenerate"))]
        for entry, counts in sorted(found.items())
        if len(counts) == 2
    ]


def lines(findings: Sequence[Finding]) -> list[str]:
    """Return what a terminal shows: a claim and its verdict, then the numbers."""
    found = []
    for finding in findings:
        text, published, ours, seeds, verdict, why = row(finding)
        found.append(f"{verdict:21}  {text}")
        numbers = f"published {published}; ours {ours}; {seeds} seeds"
        found.append(" " * 23 + "; ".join(filter(None, (numbers, why))))
    return [*found, count(findings)]


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
            "verdict": f.verdict,
            "why": f.why,
            "note": f.claim.note,
        }
        for f in findings
    ]
    return json.dumps({"scale": scale, "claims": without_nan(rows)}, indent=2, allow_nan=False)


def count(findings: Sequence[Finding]) -> str:
    """Return how many claims have which verdict."""
    counts = Counter(f.verdict for f in findings)
    return "Of {} claims: {}".format(
        len(findings), ", ".join(f"{counts[v]} {v}" for v in get_args(Verdict) if counts[v])
    )


def row(finding: Finding) -> tuple[str, ...]:
    """Return what stands in a line of a table, under HEADER."""
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
        finding.verdict,
        "; ".join(filter(None, (finding.why, claim.note))),
    )


def _margin(claim: Claim) -> str:
    """Return between what a claim of no change holds, for all others nothing."""
    low, high = map(_number, claim.holds)
    if not claim.is_null:
        return ""
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
    """Return three digits, at most three decimals; a dash for none."""
    if not math.isfinite(x):
        return "-"
    return f"{x:.3g}" if abs(x) >= 10 else f"{round(x, 3) + 0.0:g}"
