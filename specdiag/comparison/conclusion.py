"""Pairs of two checkpoints -> a summary of the two networks, and a conclusion in one sentence."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from specdiag.comparison import matrices
from specdiag.comparison.pairs import COMPARABLE, SAME, Pair
from specdiag.htsr.layers import Layer
from specdiag.htsr.statistics import mean
from specdiag.htsr.verdict import summarise
from specdiag.wording import counted, some


def block(name: str) -> str:
    """Return the block of a tensor: its name up to the first number, or else its first word.

    `encoder.layer.3` for `encoder.layer.3.attention.self.query.weight`, `enc_atn` for
    `enc_atn.to_q.weight`.
    """
    numbered = re.match(r"(.*?\.)?\d+(?=\.|$)", name)
    return numbered.group() if numbered else name.split(".", maxsplit=1)[0]


def summarise_pairs(
    pairs: Sequence[Pair], first: Sequence[Layer], second: Sequence[Layer], names: tuple[str, str]
) -> dict[str, Any]:
    """Return the summary of a comparison of two networks, from all their pairs and layers.

    Returns
    -------
    dict
        relations: how many tensors have each relation; matrices: the same for the matrices that
        were measured in both; not_compared: how many other weight matrices there are, by reason.
        n_compared, n_blocks: number of layers, and of their blocks, that have a difference of alpha
        and different spectra. Over these layers: mean_alpha_difference with two intervals, one over
        blocks (`matrices.mean_difference`) and one that also allows for the share of the variance
        that all layers of a network have in common; sign_p and wilcoxon_p over the means of blocks;
        mean_rope_difference.
        first, second: `verdict.summarise` of each checkpoint. conclusion: one sentence.
    """
    compared = [p for p in pairs if p.relation == "different" and not math.isnan(p.alpha.value)]
    differences = np.array([pair.alpha.value for pair in compared])
    blocks = [block(pair.name) for pair in compared]
    difference, interval = matrices.mean_difference(differences, blocks)
    _, seed_interval = matrices.mean_difference(differences, blocks, matrices.SHARED_VARIANCE)
    labels = dict.fromkeys(blocks)
    of_blocks = [differences[[b == label for b in blocks]].mean() for label in labels]
    sign_p, wilcoxon_p = matrices.sign_tests(np.array(of_blocks))
    summary = {
        "relations": _count(pair.relation for pair in pairs),
        "matrices": _count(pair.relation for pair in pairs if pair.is_measured),
        "not_compared": _not_compared(pairs, names),
        "n_compared": len(compared),
        "n_blocks": len(labels),
        "mean_alpha_difference": difference,
        "mean_alpha_difference_ci": interval,
        "mean_alpha_difference_seed_ci": seed_interval,
        "sign_p": sign_p,
        "wilcoxon_p": wilcoxon_p,
        "mean_rope_difference": mean([pair.rope_difference for pair in compared]),
        "first": summarise(first),
        "second": summarise(second),
    }
    return summary | {"conclusion": _conclude(summary, pairs, names)}


def _count(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items(), key=lambda item: (-item[1], item[0])))


def _not_compared(pairs: Sequence[Pair], names: tuple[str, str]) -> dict[str, int]:
    """Return how many weight matrices have no difference of alpha, by reason."""
    label = {"only in first": f"only in {names[0]}", "only in second": f"only in {names[1]}"}
    reasons = []
    for pair in pairs:
        first, second = pair.first.status, pair.second.status
        same = pair.relation in SAME and pair.is_measured
        if not pair.is_weight or same or not math.isnan(pair.alpha.value):
            continue
        if pair.relation not in COMPARABLE:
            reasons.append(label.get(pair.relation, pair.relation))
        elif pair.is_fit:
            reasons.append("failed" if pair.reason else "too small for a posterior")
        else:
            reasons.append(f"{first} in both" if first == second else f"{first} to {second}")
    return _count(reasons)


def _conclude(summary: dict[str, Any], pairs: Sequence[Pair], names: tuple[str, str]) -> str:
    """Return the first sentence that applies, in order from the strongest claim to the weakest."""
    a, b = names
    if summary["relations"].keys() == {"identical"}:
        return f"identical: all {len(pairs)} tensors of {a} and {b} are bit-identical"
    if summary["relations"].keys() <= set(SAME):
        return f"equal: all {len(pairs)} tensors of {a} and {b} hold the same numbers"
    if summary["relations"].keys() <= {*SAME, "rounded"}:
        return (
            f"equal except for rounding: all {len(pairs)} tensors of {a} and {b}, in other dtypes"
        )
    n_weights = sum(pair.is_weight for pair in pairs)
    if not n_weights:
        return f"not comparable: no matrix was measured in {a} or {b}"
    n_same = sum(summary["matrices"].get(relation, 0) for relation in SAME)
    n_spectra = sum(summary["matrices"].get(word, 0) for word in ("rounded", "same spectrum"))
    if n_same == n_weights:
        return (
            f"same spectrum by construction: {_all(n_weights)} bit-identical, so no alpha can "
            f"differ; what differs: {_differing(pairs)}"
        )
    if n_same + n_spectra == n_weights and not summary["not_compared"]:
        return (
            f"different tensors, same spectrum: {_all(n_weights)} the same in all eigenvalues, up "
            "to rounding and to the scale of the weights"
        )
    parts = [
        f"{n} of {n_weights} measured matrices {state}"
        for n, state in ((n_same, "are bit-identical"), (n_spectra, "have the same spectrum"))
        if n
    ]
    parts.append(
        _about_alpha(summary, names)
        if summary["n_compared"]
        else f"no {'other ' * bool(parts)}alpha could be compared"
    )
    if summary["not_compared"]:
        listed = ", ".join(
            f"{n} "
            + re.sub(r"^(\w+) to (\w+)$", lambda m: f"{m[1]} in {a} but {m[2]} in {b}", reason)
            for reason, n in summary["not_compared"].items()
        )
        n_others = counted(sum(summary["not_compared"].values()), "matrix", "matrices")
        parts.append(f"not compared: {n_others} ({listed})")
    return "; ".join(parts)


def _all(n: int) -> str:
    return "the one measured matrix is" if n == 1 else f"all {n} measured matrices are"


def _differing(pairs: Sequence[Pair]) -> str:
    """Return the names of a few modules whose tensors differ, and how many more there are."""
    owners = dict.fromkeys(
        pair.name.rpartition(".")[0] or pair.name for pair in pairs if pair.relation not in SAME
    )
    return some(list(owners))


def _about_alpha(summary: dict[str, Any], names: tuple[str, str]) -> str:
    a, b = names
    mean, n_blocks = summary["mean_alpha_difference"], summary["n_blocks"]
    layers = counted(summary["n_compared"], "layer")
    claim = f"mean alpha of {b} is {abs(mean):.2f} {'lower' if mean < 0 else 'higher'} than of {a}"
    if n_blocks < 2:
        return f"undecided: {claim} over {layers} of one block, too few for an interval"
    low, high = summary["mean_alpha_difference_seed_ci"]
    interval = f"95 % interval {low:.2f} to {high:.2f}"
    if low > 0 or high < 0:
        return f"{claim} over {layers} ({interval}, allowing for the difference between two seeds)"
    low, high = summary["mean_alpha_difference_ci"]
    if low > 0 or high < 0:
        return (
            f"undecided: {claim} over {layers} ({low:.2f} to {high:.2f} for these two networks), "
            f"but two seeds of one recipe can differ as much ({interval}, allowing for that)"
        )
    return f"no difference of mean alpha is shown: {mean:+.2f} over {layers} ({interval})"
