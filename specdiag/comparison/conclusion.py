"""Pairs of two checkpoints -> a summary of the two networks, and a conclusion in one sentence."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from specdiag.comparison import means
from specdiag.comparison.pairs import COMPARABLE, SAME, Pair
from specdiag.htsr.layers import Layer
from specdiag.htsr.statistics import MIN_LAYERS, mean
from specdiag.htsr.tail.power_law import Array
from specdiag.htsr.verdict import is_meaningful, summarise
from specdiag.wording import counted, some

Seeds = tuple[Mapping[str, Array], Mapping[str, Array]]  # `groups.seed_alphas` of both groups


def block(name: str) -> str:
    """Return the block of a tensor: its name up to the first number, or else its first word.

    `encoder.layer.3` for `encoder.layer.3.attention.self.query.weight`, `enc_atn` for
    `enc_atn.to_q.weight`.
    """
    numbered = re.match(r"(.*?\.)?\d+(?=\.|$)", name)
    return numbered.group() if numbered else name.split(".", maxsplit=1)[0]


def summarise_pairs(
    pairs: Sequence[Pair],
    first: Sequence[Layer],
    second: Sequence[Layer],
    names: tuple[str, str],
    seeds: Seeds | None = None,
) -> dict[str, Any]:
    """Return the summary of a comparison of two networks or groups, from all pairs and layers.

    Means over layers take only those whose alpha means something in both (`Pair.is_meaningful`).
    Two networks need at least `MIN_LAYERS` of them; for groups, whose sampling units are seeds, one
    is enough. With fewer, the means are NaN.

    Parameters
    ----------
    pairs : sequence of Pair
    first, second : sequence of Layer
        Of the two networks, or `groups.group_layers` of the two groups.
    names : tuple of str
    seeds : tuple of mapping of str to ndarray, optional
        For groups, `groups.seed_alphas` of both.

    Returns
    -------
    dict
        relations: how many tensors have each relation; matrices: the same for the matrices that
        were measured in both; not_compared: how many other weight matrices there are, by reason.
        n_comparable: number of layers that have a difference of alpha and different spectra;
        n_compared, n_blocks: number of these, and of their blocks, whose alpha means something in
        both. Over these: mean_alpha_difference with two intervals, one over blocks
        (`means.layers_difference`) and one that also holds for other seeds: for two networks with
        an assumed intraclass correlation, for groups over their seeds (`means.seeds_difference`);
        seed_basis: this in words; intraclass_correlation: assumed, or measured with an interval;
        intraclass_correlation_limit: see `means.correlation_limit`; NaN for groups; sign_p and
        wilcoxon_p over the means of blocks; mean_rope_difference.
        n_first_seeds, n_second_seeds: numbers of networks.
        first, second: `verdict.summarise` of each. conclusion: one sentence.
    """
    comparable = [p for p in pairs if p.relation == "different" and not math.isnan(p.alpha.value)]
    chosen = [pair for pair in comparable if pair.is_meaningful]
    compared = chosen if len(chosen) >= (1 if seeds else MIN_LAYERS) else []
    summary = {
        "relations": _count(pair.relation for pair in pairs),
        "matrices": _count(pair.relation for pair in pairs if pair.is_measured),
        "not_compared": _not_compared(pairs, names),
        "n_comparable": len(comparable),
        "n_meaningful": tuple(
            sum(is_meaningful(layer.status, layer.verdict) for layer in side)
            for side in ([p.first for p in comparable], [p.second for p in comparable])
        ),
        "n_meaningful_in_both": len(chosen),
        **_differences(compared, seeds),
        "first": summarise(first),
        "second": summarise(second),
    }
    return summary | {"conclusion": _conclude(summary, pairs, names)}


def _differences(compared: Sequence[Pair], seeds: Seeds | None) -> dict[str, Any]:
    """Return the part of a summary that is about the layers whose alphas are compared."""
    blocks = [block(pair.name) for pair in compared]
    first = np.array([pair.first.posterior.mean for pair in compared])
    second = np.array([pair.second.posterior.mean for pair in compared])
    difference, interval = means.layers_difference(first, second, blocks)
    labels = dict.fromkeys(blocks)
    of_blocks = [(second - first)[[b == label for b in blocks]].mean() for label in labels]
    sign_p, wilcoxon_p = means.sign_tests(np.array(of_blocks))
    if seeds:
        basis = _measured(seeds, [pair.name for pair in compared], blocks)
    else:
        basis = _assumed(first, second, blocks)
    return {
        "n_compared": len(compared),
        "n_blocks": len(labels),
        "mean_alpha_difference": difference,
        "mean_alpha_difference_ci": interval,
        **basis,
        "sign_p": sign_p,
        "wilcoxon_p": wilcoxon_p,
        "mean_rope_difference": mean([pair.rope_difference for pair in compared]),
    }


def _assumed(first: Array, second: Array, blocks: Sequence[str]) -> dict[str, Any]:
    """Return the interval that holds for other seeds if layers correlate as is assumed."""
    r = means.ASSUMED_CORRELATION
    return {
        "mean_alpha_difference_seed_ci": means.layers_difference(first, second, blocks, r)[1],
        "seed_basis": means.ASSUMPTION,
        "intraclass_correlation": r,
        "intraclass_correlation_ci": (math.nan, math.nan),
        "intraclass_correlation_limit": means.correlation_limit(first, second, blocks),
        "n_first_seeds": 1,
        "n_second_seeds": 1,
    }


def _measured(seeds: Seeds, layers: Sequence[str], blocks: Sequence[str]) -> dict[str, Any]:
    """Return the interval over the seeds of two groups, and how far their layers correlate."""
    n = [len(next(iter(side.values()))) for side in seeds]
    interval, r, ends = (math.nan, math.nan), math.nan, (math.nan, math.nan)
    if layers:
        alphas = [np.array([side[name] for name in layers]).T for side in seeds]
        interval = means.seeds_difference(*(side.mean(axis=1) for side in alphas))[1]
        r, ends = means.intraclass_correlation(alphas, blocks)
    measured = f"; {means.SHARED} (measured intraclass correlation): {r:.2f}"
    return {
        "mean_alpha_difference_seed_ci": interval,
        "seed_basis": f"over {n[0]} and {counted(n[1], 'seed')}{measured * math.isfinite(r)}",
        "intraclass_correlation": r,
        "intraclass_correlation_ci": ends,
        "intraclass_correlation_limit": math.nan,
        "n_first_seeds": n[0],
        "n_second_seeds": n[1],
    }


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
        return f"identical: all {len(pairs)} weights of {a} and {b} are bit-identical"
    if summary["relations"].keys() <= set(SAME):
        return f"equal: all {len(pairs)} weights of {a} and {b} hold the same numbers"
    if summary["relations"].keys() <= {*SAME, "rounded"}:
        return (
            f"equal except for rounding: all {len(pairs)} weights of {a} and {b}, in other dtypes"
        )
    n_weights = sum(pair.is_weight for pair in pairs)
    if not n_weights:
        return f"not comparable: no matrix was measured in {a} or {b}"
    n_same = sum(summary["matrices"].get(relation, 0) for relation in SAME)
    n_spectra = sum(summary["matrices"].get(word, 0) for word in ("rounded", "same spectrum"))
    extra = summary["relations"].keys() - {"identical"}
    if n_same == n_weights and extra in ({"only in first"}, {"only in second"}):
        shared = f"all {summary['relations']['identical']} weights in both {a} and {b}"
        where = f"only in {a if 'only in first' in extra else b}: {_differing(pairs)}"
        return f"identical: {shared} are bit-identical; {where}"
    if n_same == n_weights:
        return (
            f"same spectrum by construction: {all_measured(n_weights)} bit-identical, so no alpha "
            f"can differ; what differs: {_differing(pairs)}"
        )
    if n_same + n_spectra == n_weights and not summary["not_compared"]:
        return (
            f"different weights, same spectrum: {all_measured(n_weights)} the same in all "
            "eigenvalues, up to rounding and to the scale of the weights"
        )
    parts = [
        f"{n} of {n_weights} measured matrices {state}"
        for n, state in ((n_same, "are bit-identical"), (n_spectra, "have the same spectrum"))
        if n
    ]
    parts.append(
        _about_alpha(summary, names)
        if summary["n_comparable"]
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


def all_measured(n: int) -> str:
    """Return `all 3 measured matrices are`, or what is said of one."""
    return "the one measured matrix is" if n == 1 else f"all {n} measured matrices are"


def _differing(pairs: Sequence[Pair]) -> str:
    """Return the names of a few modules whose tensors differ, and how many more there are."""
    owners = dict.fromkeys(
        pair.name.rpartition(".")[0] or pair.name for pair in pairs if pair.relation not in SAME
    )
    return some(list(owners))


def _about_alpha(summary: dict[str, Any], names: tuple[str, str]) -> str:
    if not summary["n_compared"]:
        return _refused(summary, names)
    a, b = names
    value, n_blocks = summary["mean_alpha_difference"], summary["n_blocks"]
    layers = f"{summary['n_compared']} of {counted(summary['n_comparable'], 'layer')}"
    claim = (
        f"mean alpha of {b} is {abs(value):.2f} {'lower' if value < 0 else 'higher'} than of {a}"
    )
    low, high = summary["mean_alpha_difference_seed_ci"]
    if math.isnan(low):
        few = f"in {counted(n_blocks, 'block')}, too few for an interval"
        why = "that are the same in all seeds of each" if _is_group(summary) else few
        return f"undecided: {claim} over {layers} {why}"
    interval = f"95 % interval {low:.2f} to {high:.2f}, {summary['seed_basis']}"
    limit = summary["intraclass_correlation_limit"]
    if low > 0 or high < 0:
        flips = f"; the claim would not hold if more than {_share(limit)} were shared"
        return f"{claim} over {layers} ({interval}{flips * math.isfinite(limit)})"
    if limit > 0:
        low, high = summary["mean_alpha_difference_ci"]
        return (
            f"undecided: {claim} over {layers} ({low:.2f} to {high:.2f} for these two networks), "
            f"but two seeds of one recipe can differ as much ({interval}; if less than "
            f"{_share(limit)} were shared, it would be a difference)"
        )
    holds = "; the same whatever part is shared" * math.isfinite(limit)
    return f"no difference of mean alpha is shown: {value:+.2f} over {layers} ({interval}{holds})"


def _refused(summary: dict[str, Any], names: tuple[str, str]) -> str:
    """Return why the means over layers are not compared."""
    a, b = names
    layers = counted(summary["n_comparable"], "layer")
    if not any(summary["n_meaningful"]):
        return (
            f"no alpha of {a} or {b} can be told from noise, so no means over {layers} are compared"
        )
    first, second = summary["n_meaningful"]
    needed = "" if _is_group(summary) else f", and at least {MIN_LAYERS} are needed"
    return (
        "mean alpha is not compared: layers whose alpha means something in both: "
        f"{summary['n_meaningful_in_both']} of {summary['n_comparable']} ({first} in {a}, {second} "
        f"in {b}){needed}"
    )


def _is_group(summary: dict[str, Any]) -> bool:
    return bool(summary["n_first_seeds"] + summary["n_second_seeds"] > 2)


def _share(correlation: float) -> str:
    """Return an intraclass correlation in whole per cent, below 100."""
    return f"{min(correlation, 0.99):.0%}"
