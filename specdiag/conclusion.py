"""Pairs of two checkpoints -> what can be said of the two as a whole, and one sentence that says it."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from specdiag import paired
from specdiag.layers import Layer
from specdiag.pairs import RELATIONS, SAME, Pair
from specdiag.verdict import summarise

_NAMES_SHOWN = 4


def block(name: str) -> str:
    """Return the block that a tensor belongs to: its name up to the first number, or its first word.

    `encoder.layer.3` for `encoder.layer.3.attention.self.query.weight`, `enc_atn` for
    `enc_atn.to_q.weight`.
    """
    numbered = re.match(r"(.*?\.)?\d+(?=\.|$)", name)
    return numbered.group() if numbered else name.split(".", maxsplit=1)[0]


def whole(
    pairs: Sequence[Pair], first: Sequence[Layer], second: Sequence[Layer], names: tuple[str, str]
) -> dict[str, Any]:
    """Return what can be said of two networks as a whole.

    Parameters
    ----------
    pairs : sequence of Pair
    first, second : sequence of Layer
        All that was measured of each.
    names : tuple of str
        Of the two checkpoints.

    Returns
    -------
    dict
        relations: how many tensors have each; matrices: the same of those measured in both.
        n_compared layers in n_blocks blocks are fit in both and have different spectra. Over these:
        mean_alpha_difference, its interval over blocks (`paired.mean_difference`), and seed_interval,
        which allows for what all layers of a network share; sign_p and wilcoxon_p over the means of
        blocks; mean_rope_difference.
        first, second: `verdict.summarise` of each. conclusion: one sentence.
    """
    compared = [pair for pair in pairs if pair.is_fit and pair.relation == "different"]
    differences = np.array([pair.alpha.value for pair in compared])
    blocks = [block(pair.name) for pair in compared]
    mean, interval = paired.mean_difference(differences, blocks)
    _, seed_interval = paired.mean_difference(differences, blocks, paired.SHARED_VARIANCE)
    labels = dict.fromkeys(blocks)
    of_blocks = [differences[[b == label for b in blocks]].mean() for label in labels]
    sign_p, wilcoxon_p = paired.sign_tests(np.array(of_blocks))
    found = {
        "relations": _count(pairs),
        "matrices": _count(pair for pair in pairs if pair.is_measured),
        "n_compared": len(compared),
        "n_blocks": len(labels),
        "mean_alpha_difference": mean,
        "mean_alpha_difference_interval": interval,
        "seed_interval": seed_interval,
        "sign_p": sign_p,
        "wilcoxon_p": wilcoxon_p,
        "mean_rope_difference": (
            float(np.mean([pair.rope_difference for pair in compared])) if compared else math.nan
        ),
        "first": summarise(first),
        "second": summarise(second),
    }
    return found | {"conclusion": _conclude(found, pairs, names)}


def _count(pairs: Iterable[Pair]) -> dict[str, int]:
    count = Counter(pair.relation for pair in pairs)
    return {relation: count[relation] for relation in RELATIONS if count[relation]}


def _conclude(found: dict[str, Any], pairs: Sequence[Pair], names: tuple[str, str]) -> str:
    """Return the first sentence that applies, from the strongest claim to the weakest."""
    a, b = names
    n_matrices = sum(found["matrices"].values())
    n_same = sum(found["matrices"].get(relation, 0) for relation in SAME)
    n_as_good = n_same + found["matrices"].get("same spectrum", 0)
    if found["relations"].keys() == {"identical"}:
        return f"identical: all {len(pairs)} tensors of {a} and {b} are bit-identical"
    if found["relations"].keys() <= set(SAME):
        return f"equal: all {len(pairs)} tensors of {a} and {b} hold the same numbers"
    if not n_matrices:
        return f"not comparable: no matrix was measured in both {a} and {b}"
    if n_same == n_matrices:
        return (
            f"same spectrum by construction: all {n_matrices} measured matrices are {_how(found)}, "
            f"so no alpha can differ; what differs: {differing(pairs)}"
        )
    if n_as_good == n_matrices:
        return (
            f"different tensors, same spectrum: the eigenvalues of all {n_matrices} measured matrices "
            "agree up to rounding and to the scale of the weights"
        )
    if not found["n_compared"]:
        return f"not comparable: no layer that differs is fit in both ({_coverage(found, names)})"
    kept = f"{n_as_good} of {n_matrices} measured matrices have the same spectrum; " * (
        n_as_good > 0
    )
    return kept + _about_alpha(found, names) + _caveat(found, names)


def _how(found: dict[str, Any]) -> str:
    return "bit-identical" if set(found["matrices"]) == {"identical"} else "equal"


def differing(pairs: Sequence[Pair]) -> str:
    """Return the modules that hold tensors which are not the same in both, a few by name."""
    owners = dict.fromkeys(
        pair.name.rpartition(".")[0] or pair.name for pair in pairs if pair.relation not in SAME
    )
    shown = ", ".join(list(owners)[:_NAMES_SHOWN])
    return shown + (f" and {len(owners) - _NAMES_SHOWN} more" if len(owners) > _NAMES_SHOWN else "")


def _about_alpha(found: dict[str, Any], names: tuple[str, str]) -> str:
    a, b = names
    mean, n_blocks = found["mean_alpha_difference"], found["n_blocks"]
    layers = f"{found['n_compared']} layer{'s' * (found['n_compared'] != 1)}"
    claim = f"mean alpha of {b} is {abs(mean):.2f} {'lower' if mean < 0 else 'higher'} than of {a}"
    if n_blocks < 2:
        return f"undecided: {claim} over {layers} of one block, too few for an interval"
    low, high = found["seed_interval"]
    interval = f"95 % interval {low:.2f} to {high:.2f}"
    if low > 0 or high < 0:
        return f"{claim} over {layers} ({interval}: more than two seeds of one recipe differ)"
    low, high = found["mean_alpha_difference_interval"]
    if low > 0 or high < 0:
        return (
            f"undecided: {claim} over {layers} ({low:.2f} to {high:.2f} for these two networks), but "
            f"two seeds of one recipe may differ as much ({interval} when that is allowed for)"
        )
    return f"no difference of mean alpha can be told: {mean:+.2f} over {layers} ({interval})"


def _caveat(found: dict[str, Any], names: tuple[str, str]) -> str:
    if found["first"]["coverage"] == found["second"]["coverage"] == 1:
        return ""
    return f"; it says nothing of layers that are not fit in both ({_coverage(found, names)})"


def _coverage(found: dict[str, Any], names: tuple[str, str]) -> str:
    return ", ".join(
        f"{name}: {s['n_fit']} of {s['n_fit'] + s['n_degenerate']} fit"
        for name, s in zip(names, (found["first"], found["second"]), strict=True)
    )
