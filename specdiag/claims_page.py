"""Findings -> what the command line prints, and the page of the documentation."""

import inspect
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import get_args

from specdiag._files import without_nan
from specdiag.claims import LEVEL, MIN_SEEDS, Finding, Verdict

_HEADER = ("claim", "published", "ours", "seeds", "verdict", "why, and what to know")
_PAGE = """\
# What can be reproduced of what was claimed

<!-- Written by `specdiag verify -o`; the claims are in recipes/_claims.py. -->

{about}

This page is of **{scale} scale**, seeds {seeds}. {state}

## What a verdict means

A claim is a function of figures. It is computed of the published figures (`reported` in the lock) and of ours,
seed by seed, so differences are paired: a seed has its own base, finetunes and controls. *Ours* is the mean over seeds with its
{level:.0%} interval by Student's t (of ratios on the log scale). It is of the training's seed and of nothing else: recordings,
splits and animals are the same for all seeds. Fewer than {min_seeds} seeds decide nothing.

| verdict | the interval lies |
|---|---|
| reproduced | within what is claimed: within the stated tolerance of a published number; within the margin of no change; or on the claimed side of zero, with the published size in it |
| direction only | on the claimed side of zero, but the size is another, or nothing to compare with |
| not reproduced | outside: on the other side of zero, beyond the margin or the tolerance. It was looked for, and what is there is something else |
| undecided | across the border: the seeds scatter by more than would have to be seen |
| cannot be tested here | nowhere: the reason is given |

{scale_means}

Where a claim has several numbers, all must hold; the intervals that call one of k wrong are at 1 - {one_minus:.2f} / k. With no effect at all
a claim of a direction is called *direction only* or *reproduced* in 2.5 %, and *not reproduced* in 2.5 %, *undecided* otherwise; where
seeds scatter with a strong skew, as when one in several gets stuck, the second can reach one in five (both tested by simulation). **{n_claims} claims are looked at, {n_tested} of them could be tested here**: were there nothing in any, {expected:.1f}
false verdicts would be expected. No correction is made; a single verdict with an interval near zero is worth little.

## Claims

{table}
"""
_SCALE_MEANS = {
    "desk": "At desk scale, with small networks on simulated recordings, no published number can come out. So claims of a number "
    "cannot be tested; a claim of a direction becomes *direction only* at best; and *reproduced* is said of claims of no change "
    "alone, whose margin is theirs at any scale.",
    "paper": "At paper scale numbers are compared as well. Weights that were fetched are the published ones: what is measured on "
    "them needs no seeds.",
}


def page(findings: Sequence[Finding], scale: str, seeds: Sequence[int], about: str) -> str:
    """Return the page in Markdown; `about` says what the claims are of."""
    n_untested = sum(f.verdict == "cannot be tested here" for f in findings)
    n_lost = sum(f.n_seeds < MIN_SEEDS and not f.claim.not_at_desk for f in findings)
    state = f"It is incomplete: {n_lost} claims lack figures or seeds." if n_lost else ""
    rows = [_HEADER, ("---",) * len(_HEADER), *map(_row, findings)]
    return _PAGE.format(
        about=inspect.cleandoc(about),
        scale=scale,
        seeds=", ".join(map(str, seeds)) or "none",
        state=f"{_count(findings)}. {state}".rstrip(),
        level=LEVEL,
        min_seeds=MIN_SEEDS,
        scale_means=_SCALE_MEANS[scale],
        one_minus=1 - LEVEL,
        n_claims=len(findings),
        n_tested=len(findings) - n_untested,
        expected=(1 - LEVEL) * (len(findings) - n_untested),
        table="\n".join(f"| {' | '.join(row)} |" for row in rows),
    )


def lines(findings: Sequence[Finding]) -> list[str]:
    """Return what a terminal shows: a claim and its verdict, then the numbers."""
    found = []
    for finding in findings:
        _, published, ours, seeds, verdict, why = _row(finding)
        found.append(f"{verdict:21}  {finding.claim.text}")
        numbers = f"published {published}; ours {ours}; {seeds} seeds"
        found.append(" " * 23 + "; ".join(filter(None, (numbers, why))))
    return [*found, _count(findings)]


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


def _count(findings: Sequence[Finding]) -> str:
    counts = Counter(f.verdict for f in findings)
    return "Of {} claims: {}".format(
        len(findings), ", ".join(f"{counts[v]} {v}" for v in get_args(Verdict) if counts[v])
    )


def _row(finding: Finding) -> tuple[str, ...]:
    claim = finding.claim
    tolerance = "" if claim.tolerance is None else f" ± {claim.tolerance:g}"
    ours = [
        _number(x) + (f" ({_number(low)} to {_number(high)})" if math.isfinite(low) else "")
        for x, low, high in zip(finding.ours, *finding.interval, strict=True)
    ]
    return (
        claim.text,
        _labelled(claim.labels, [_number(x) + tolerance for x in finding.published]),
        _labelled(claim.labels, ours),
        str(finding.n_seeds),
        finding.verdict,
        "; ".join(filter(None, (finding.why, claim.note))),
    )


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
