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
from specdiag.htsr.verdict import summarise

_NAMES_SHOWN = 4


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
        relations: how many tensors have each; matrices: the same of those measured in both;
        not_compared: how many other weight matrices there are, by the reason.
        n_compared layers in n_blocks blocks are fit in both and have different spectra. Over these:
        mean_alpha_difference, its interval over blocks (`matrices.mean_difference`), and one which allows for what all layers of a network share; sign_p and wilcoxon_p over the means of
        blocks; mean_rope_difference.
        first, second: `verdict.summarise` of each. conclusion: one sentence.
    """
    compared = [pair for pair in pairs if pair.is_fit and pair.relation == "different"]
    differences = np.array([pair.alpha.value for pair in compared])
    blocks = [block(pair.name) for pair in compared]
    mean, interval = matrices.mean_difference(differences, blocks)
    _, seed_interval = matrices.mean_difference(differences, blocks, matrices.SHARED_VARIANCE)
    labels = dict.fromkeys(blocks)
    of_blocks = [differences[[b == label for b in blocks]].mean() for label in labels]
    sign_p, wilcoxon_p = matrices.sign_tests(np.array(of_blocks))
    found = {
        "relations": _count(pair.relation for pair in pairs),
        "matrices": _count(pair.relation for pair in pairs if pair.is_measured),
        "not_compared": _not_compared(pairs, names),
        "n_compared": len(compared),
        "n_blocks": len(labels),
        "mean_alpha_difference": mean,
        "mean_alpha_difference_ci": interval,
        "mean_alpha_difference_seed_ci": seed_interval,
        "sign_p": sign_p,
        "wilcoxon_p": wilcoxon_p,
        "mean_rope_difference": (
            float(np.mean([pair.rope_difference for pair in compared])) if compared else math.nan
        ),
        "first": summarise(first),
        "second": summarise(second),
    }
    return found | {"conclusion": _conclude(found, pairs, names)}


def _count(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items(), key=lambda item: (-item[1], item[0])))


def _not_compared(pairs: Sequence[Pair], names: tuple[str, str]) -> dict[str, int]:
    """Return how many weight matrices have no alpha in both, by the reason."""
    label = {"only in first": f"only in {names[0]}", "only in second": f"only in {names[1]}"}
    reasons = []
    for pair in pairs:
        first, second = pair.first.status, pair.second.status
        if not pair.is_weight or pair.is_fit or (pair.relation in SAME and pair.is_measured):
            continue
        if pair.relation not in COMPARABLE:
            reasons.append(label.get(pair.relation, pair.relation))
        else:
            reasons.append(f"{first} in both" if first == second else f"{first} to {second}")
    return _count(reasons)


def _conclude(found: dict[str, Any], pairs: Sequence[Pair], names: tuple[str, str]) -> str:
    """Return the first sentence that applies, from the strongest claim to the weakest."""
    a, b = names
    if found["relations"].keys() == {"identical"}:
        return f"identical: all {len(pairs)} tensors of {a} and {b} are bit-identical"
    if found["relations"].keys() <= set(SAME):
        return f"equal: all {len(pairs)} tensors of {a} and {b} hold the same numbers"
    if found["relations"].keys() <= {*SAME, "rounded"}:
        return f"equal but for rounding: all {len(pairs)} tensors of {a} and {b}, in other dtypes"
    n_weights = sum(pair.is_weight for pair in pairs)
    if not n_weights:
        return f"not comparable: no matrix was measured in {a} or {b}"
    n_same = sum(found["matrices"].get(relation, 0) for relation in SAME)
    n_spectra = sum(found["matrices"].get(word, 0) for word in ("rounded", "same spectrum"))
    if n_same == n_weights:
        return (
            f"same spectrum by construction: {_all(n_weights)} bit-identical, so no alpha can differ; "
            f"what differs: {_differing(pairs)}"
        )
    if n_same + n_spectra == n_weights and not found["not_compared"]:
        return (
            f"different tensors, same spectrum: {_all(n_weights)} the same in all eigenvalues, up to "
            "rounding and to the scale of the weights"
        )
    parts = [
        f"{n} of {n_weights} measured matrices {what}"
        for n, what in ((n_same, "are bit-identical"), (n_spectra, "have the same spectrum"))
        if n
    ]
    parts.append(
        _about_alpha(found, names) if found["n_compared"] else "no other alpha can be compared"
    )
    if found["not_compared"]:
        listed = ", ".join(f"{n} {reason}" for reason, n in found["not_compared"].items())
        parts.append(f"this says nothing of {sum(found['not_compared'].values())} more ({listed})")
    return "; ".join(parts)


def _all(n: int) -> str:
    return "the one measured matrix is" if n == 1 else f"all {n} measured matrices are"


def _differing(pairs: Sequence[Pair]) -> str:
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
    low, high = found["mean_alpha_difference_seed_ci"]
    interval = f"95 % interval {low:.2f} to {high:.2f}"
    if low > 0 or high < 0:
        return f"{claim} over {layers} ({interval}, allowing for what two seeds may differ)"
    low, high = found["mean_alpha_difference_ci"]
    if low > 0 or high < 0:
        return (
            f"undecided: {claim} over {layers} ({low:.2f} to {high:.2f} for these two networks), but "
            f"two seeds of one recipe may differ as much ({interval} when that is allowed for)"
        )
    return f"no difference of mean alpha can be told: {mean:+.2f} over {layers} ({interval})"
