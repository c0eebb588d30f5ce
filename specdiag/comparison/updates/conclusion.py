"""Updates of a network -> where they are, and one sentence that says what moved."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from specdiag.comparison.updates.roles import ROLES
from specdiag.comparison.updates.update import NO_WEIGHT, Update
from specdiag.htsr.statistics import median
from specdiag.wording import counted

KEPT_SPECTRUM = 0.01  # change of the singular values at the median weight
KEPT_DIRECTIONS = 0.95  # overlap of the leading subspaces at the median weight
MOST_ROLES = 3  # that the sentence names
SCALED = 0.99  # share of the update along the weight itself


def summarise_updates(updates: Sequence[Update], names: tuple[str, str]) -> dict[str, Any]:
    """Return the summary of the updates of a network.

    Returns
    -------
    dict
        kinds: how many weights have each kind of update; n_updated: how many have one above
        rounding; over these, medians of relative_norm, spectrum_change, spectrum_share,
        scale_share, scale, overlap (of outputs and of inputs) with its limits for unrelated
        directions, and cka; n_intruders: of their outputs, of n_leading that were looked at;
        n_noise: how many have an alpha that random matrices have as well; roles and depths: number
        of weights and of updated ones, share of the sum of all squared norms, and the ranks of
        low-rank updates; conclusion: one sentence.
    """
    moved = [u for u in updates if u.layer.rank > 0]
    shares = _shares(updates)
    summary: dict[str, Any] = {
        "kinds": dict(Counter(u.kind or "not compared" for u in updates)),
        "n_updated": len(moved),
        "relative_norm": _median([u.relative_norm for u in moved]),
        "spectrum_change": _median([u.directions.spectrum_change for u in moved]),
        "spectrum_share": _median([u.directions.spectrum_share for u in moved]),
        "scale_share": _median([u.directions.scale_share for u in moved]),
        "scale": _median([u.directions.scale for u in moved]),
        "overlap": tuple(_median([u.directions.overlap[i] for u in moved]) for i in (0, 1)),
        "overlap_limit": tuple(
            _median([u.directions.overlap_chance[i].limit for u in moved]) for i in (0, 1)
        ),
        "cka": _median([u.directions.cka for u in moved]),
        "cka_expected": _median([u.directions.cka_chance for u in moved]),
        "n_intruders": int(
            sum(u.directions.n_intruders[0] for u in moved if u.directions.n_leading)
        ),
        "n_leading": sum(u.directions.n_leading for u in moved),
        "n_noise": sum(u.layer.verdict == "no evidence" for u in moved),
        "roles": _grouped(updates, lambda u: u.role, shares),
        "depths": _grouped([u for u in updates if u.depth >= 0], lambda u: u.depth, shares),
    }
    return summary | {"conclusion": _conclude(summary, updates, names)}


def _median(values: Sequence[float]) -> float:
    finite = [x for x in values if not math.isnan(x)]
    return median(np.array(finite)) if finite else math.nan


def _shares(updates: Sequence[Update]) -> dict[str, float]:
    """Return the share of each update above rounding in the sum of their squared norms, by name."""
    norms = {u.name: u.layer.frobenius_norm for u in updates if u.layer.rank > 0}
    largest = max(norms.values(), default=math.nan)
    squares = {name: (norm / largest) ** 2 for name, norm in norms.items()}
    total = sum(squares.values())
    return {name: square / total for name, square in squares.items()}


def _grouped(
    updates: Sequence[Update], key: Callable[[Update], Any], shares: dict[str, float]
) -> dict[Any, dict[str, Any]]:
    groups: dict[Any, list[Update]] = {}
    for update in updates:
        groups.setdefault(key(update), []).append(update)
    return {
        label: {
            "n": len(group),
            "n_updated": sum(u.layer.rank > 0 for u in group),
            "share": sum(shares.get(u.name, 0.0) for u in group),
            "ranks": dict(
                Counter(int(u.layer.rank) for u in group if u.kind == "low rank").most_common()
            ),
        }
        for label, group in sorted(groups.items(), key=lambda item: _order(item[0]))
    }


def _order(label: Any) -> int:
    return label if isinstance(label, int) else list(ROLES).index(label)


def _conclude(summary: dict[str, Any], updates: Sequence[Update], names: tuple[str, str]) -> str:
    """Return the sentence: spectra, directions, the updates by rank and role, what is missing."""
    sentence = _of_compared(summary, updates, names)
    n = sum(not u.kind and not u.layer.reason.endswith(NO_WEIGHT) for u in updates)
    return f"{sentence}; {n} of {_matrices(len(updates))} not compared" if n else sentence


def _of_compared(summary: dict[str, Any], updates: Sequence[Update], names: tuple[str, str]) -> str:
    before, after = names
    kinds = summary["kinds"]
    compared = sum(n for kind, n in kinds.items() if kind != "not compared")
    if not compared:
        return f"no matrix of {before} could be compared with one of {after}"
    if not summary["n_updated"]:
        if kinds.get("none", 0) == compared:
            return f"nothing was added: {_matrices(compared)} with the same numbers in both"
        return (
            f"nothing was added above rounding: {kinds.get('rounding', 0)} of "
            f"{_matrices(compared)} differ by no more, and the others are the same"
        )
    parts = [_spectra(summary), _directions(summary), *_what(updates, compared)]
    return ", ".join(parts)


def _spectra(summary: dict[str, Any]) -> str:
    change = summary["spectrum_change"]
    if math.isnan(change):
        return "spectra of weights that were zero before"
    word = "kept" if change <= KEPT_SPECTRUM else "changed"
    if summary["scale_share"] >= SCALED:
        word = f"scaled by {summary['scale']:.3g}"
    return f"spectra {word} (singular values moved by {change:.2g} of their norm)"


def _directions(summary: dict[str, Any]) -> str:
    if math.isnan(summary["overlap"][0]):
        return "directions unknown (a weight is zero before or after)"
    words = [
        _word(*both) for both in zip(summary["overlap"], summary["overlap_limit"], strict=True)
    ]
    numbers = " and ".join(dict.fromkeys(f"{x:.2g}" for x in summary["overlap"]))
    limit = max(summary["overlap_limit"])
    n, k = summary["n_intruders"], summary["n_leading"]
    new = f"; {n} of {k} leading output directions are new" * (n > 0)
    about = f"(overlap {numbers}; unrelated matrices share up to {limit:.2g}{new})"
    if words[0] == words[1]:
        return f"directions {words[0]} {about}"
    return f"directions of outputs {words[0]} and of inputs {words[1]} {about}"


def _word(overlap: float, limit: float) -> str:
    if overlap <= limit < KEPT_DIRECTIONS:
        return "unrelated"
    return "kept" if overlap >= KEPT_DIRECTIONS else "turned"


def _matrices(n: int) -> str:
    return counted(n, "matrix", "matrices")


def _where(found: Sequence[Update], updates: Sequence[Update]) -> str:
    """Return how many weights of each role are among those that were found; of many roles, all."""
    compared = [u for u in updates if u.kind]
    roles = Counter(u.role for u in found)
    if len(roles) > MOST_ROLES:
        return f"{len(found)} of {_matrices(len(compared))}"
    return " and ".join(
        f"{roles[role]} of {sum(u.role == role for u in compared)} {words}"
        for role, words in ROLES.items()
        if role in roles
    )


def _what(updates: Sequence[Update], compared: int) -> list[str]:
    """Return what was added: ranks by role, or how many matrices have an update of full rank."""
    parts = []
    low = [u for u in updates if u.kind == "low rank"]
    for rank, _ in Counter(int(u.layer.rank) for u in low).most_common(3):
        of_rank = [u for u in low if u.layer.rank == rank]
        parts.append(f"an update of rank {rank} in {_where(of_rank, updates)}")
    others = len({int(u.layer.rank) for u in low}) - 3
    if others > 0:
        parts.append(f"updates of {counted(others, 'other low rank')}")
    for kind, text in (
        ("full rank", "an update of full rank"),
        ("unresolved", "an update whose rank rounding hides"),
    ):
        found = [u for u in updates if u.kind == kind]
        noise = sum(u.layer.verdict == "no evidence" for u in found)
        about = f" (as of noise in {noise})" * (noise > 0)
        if found:
            parts.append(f"{text}{about} in {_where(found, updates)}")
    for kind, text in (("rounding", "nothing above rounding"), ("none", "nothing")):
        if n := sum(u.kind == kind for u in updates):
            parts.append(f"{text} in {n} of {_matrices(compared)}")
    return parts
