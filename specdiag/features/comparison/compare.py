"""Features of two networks -> how much better conditioned one is than the other, and how alike."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from specdiag.features.blocks import Moments, merged
from specdiag.features.comparison.measured import Measured, blocks_of, by_source
from specdiag.features.comparison.subspaces import overlap, similarity
from specdiag.features.conditioning import FeatureSpectrum, Interval
from specdiag.features.covariance import MAX_BLOCKS, FeatureCovariance
from specdiag.features.estimators import Estimate, Jackknife, refusal, replicates
from specdiag.notebook import record_html
from specdiag.wording import some

RATIOS = ("condition_number", "effective_rank", "participation_ratio")
MEMORY = 2 * 2**30  # bytes of the moments of both networks' features together


@dataclass(frozen=True, kw_only=True)
class FeatureComparison:
    """Features of a second network against those of a first, with 95 % intervals.

    Attributes
    ----------
    first, first_layer, second, second_layer : str
        Sources, and their layers or arrays.
    paired : bool
        Whether both have the same groups of as many samples: the intervals then allow for the
        errors that both have in common.
    condition_number_ratio, effective_rank_ratio, participation_ratio_ratio : float
        Number of the second over that of the first. NaN if one of them is unknown.
    n_leading : int
        Number of leading directions that are compared; 0 if none are known well enough.
    subspace_overlap : float
        Mean squared cosine between the spaces of the leading directions, from 0 to 1.
    subspace_overlap_chance : float
        Its mean for unrelated directions: n_leading / d.
    cka : float
        Linear centred kernel alignment without bias, from 0 to 1: Kornblith et al. (2019). NaN
        unless both are files with the same samples as rows.
    cka_biased : float
        The same as published, which is too high for few samples.
    notes : tuple of str
        Why numbers are missing.
    conclusion : str
        In one sentence.
    """

    first: str
    first_layer: str
    second: str
    second_layer: str
    paired: bool
    condition_number_ratio: float
    condition_number_ratio_interval: Interval
    effective_rank_ratio: float
    effective_rank_ratio_interval: Interval
    participation_ratio_ratio: float
    participation_ratio_ratio_interval: Interval
    n_leading: int
    subspace_overlap: float
    subspace_overlap_interval: Interval
    subspace_overlap_chance: float
    cka: float
    cka_interval: Interval
    cka_biased: float
    notes: tuple[str, ...]
    conclusion: str

    _repr_html_ = record_html


def compare_features(first: Measured, second: Measured) -> FeatureComparison:
    """Return how the features of two networks differ.

    A ratio has the interval of Zou & Donner (2008), Statistics in Medicine 27 (MOVER), from the
    intervals of both numbers, in logarithms. If both networks have the same groups, it allows for
    the correlation of their jackknife errors (Donner & Zou 2012, Statistical Methods in Medical
    Research 21), less the standard error of that correlation.

    Raises
    ------
    ValueError
        If the rows of a file cannot be read again.
    """
    blocks = [blocks_of(one) for one in (first, second)]
    paired = _are_paired(*blocks)
    correlations = _correlations(*blocks) if paired else dict.fromkeys(RATIOS, 0.0)
    values: dict[str, Any] = {}
    for name in RATIOS:
        ratio = _ratio(first.spectrum, second.spectrum, name, correlations[name])
        values |= {f"{name}_ratio": ratio.value, f"{name}_ratio_interval": ratio[1:]}
    notes = [note for one in (first, second) if (note := _without_intervals(one))]
    values |= _directions(first, second, blocks, notes, paired=paired)
    values |= _alignment(first, second, notes)
    return FeatureComparison(
        first=first.source,
        first_layer=first.layer,
        second=second.source,
        second_layer=second.layer,
        paired=paired,
        notes=tuple(notes),
        conclusion=_conclusion(first.source, second.source, values),
        **values,
    )


def _without_intervals(one: Measured) -> str:
    if math.isnan(one.spectrum.effective_rank_interval[0]) and one.spectrum.trace > 0:
        return f"{one.source}: no intervals: fewer than five groups, or more than half in one"
    return ""


def _are_paired(first: dict[int, Moments], second: dict[int, Moments]) -> bool:
    """Return whether both have the same groups, of the same sizes."""
    counts = [{key: block.count for key, block in one.items()} for one in (first, second)]
    return bool(first) and counts[0] == counts[1]


def _correlations(first: dict[int, Moments], second: dict[int, Moments]) -> dict[str, float]:
    """Return a careful estimate of the correlation of the errors of each number."""
    a, b = (
        replicates(list(one.values()), functools.reduce(merged, one.values()))
        for one in (first, second)
    )
    tool = Jackknife(np.array([block.count for block in first.values()], np.float64))
    reach = 1 / math.sqrt(max(len(first) - 3, 1))  # of Fisher's transformation
    found = {}
    for name in RATIOS:
        r = tool.correlation(a[name], b[name])
        found[name] = r if abs(r) > 1 - 1e-9 else math.tanh(math.atanh(r) - reach)
    return found


def _ratio(first: FeatureSpectrum, second: FeatureSpectrum, name: str, r: float) -> Estimate:
    """Return a number of the second over that of the first."""
    a, b = (float(getattr(one, name)) for one in (first, second))
    ends = [getattr(one, f"{name}_interval") for one in (first, second)]
    value = b / a if a > 0 and math.isfinite(b) else math.nan
    if any(math.isnan(low) or not low > 0 for low, _ in ends):
        return Estimate(value)
    if any(math.isinf(high) for _, high in ends):
        value = math.nan
    middle = [low if math.isnan(x) else x for x, (low, _) in zip((a, b), ends, strict=True)]
    (low_a, up_a), (low_b, up_b) = (
        (math.log(x / low), math.log(high / x)) for x, (low, high) in zip(middle, ends, strict=True)
    )
    center = math.log(middle[1] / middle[0])
    return Estimate(
        value, math.exp(center - _apart(low_b, up_a, r)), math.exp(center + _apart(up_b, low_a, r))
    )


def _apart(x: float, y: float, r: float) -> float:
    if math.isinf(x) or math.isinf(y):
        return math.inf
    return math.sqrt(max(x * x - 2 * r * x * y + y * y, 0.0))


def _directions(
    first: Measured,
    second: Measured,
    blocks: Sequence[dict[int, Moments]],
    notes: list[str],
    *,
    paired: bool,
) -> dict[str, Any]:
    widths = [len(one.spectrum.eigenvalues) for one in (first, second)]
    count, found = 0, Estimate(math.nan)
    if widths[0] != widths[1]:
        notes.append(f"no overlap of directions: {widths[0]} and {widths[1]} features")
    elif not (first.covariance and second.covariance):
        notes.append(
            "no overlap of directions: an evaluation has none; --layer NAME runs the model"
        )
    elif not all(blocks):
        notes.append(
            "no overlap of directions: it needs five groups of samples of both, which vary"
        )
    else:
        count, found = overlap(*(list(one.values()) for one in blocks), paired=paired)
        if not count:
            notes.append("no overlap of directions: the samples do not tell leading ones apart")
    return {
        "n_leading": count,
        "subspace_overlap": found.value,
        "subspace_overlap_interval": found[1:],
        "subspace_overlap_chance": count / widths[0] if count else math.nan,
    }


def _alignment(first: Measured, second: Measured, notes: list[str]) -> dict[str, Any]:
    """Return the CKA of two files whose rows are the same samples."""
    reason = _not_aligned(first, second)
    value, biased = Estimate(math.nan), math.nan
    if not reason:
        blocks = list(_side_by_side(first, second).blocks().values())
        counts = [block.count for block in blocks]
        reason = refusal(len(counts), max(counts) / sum(counts))
    if not reason:
        value, biased = similarity(blocks, len(first.spectrum.eigenvalues))
        if math.isnan(value.value):
            reason = "too few samples"
    if reason:
        notes.append(f"no CKA: {reason}")
    return {"cka": value.value, "cka_interval": value[1:], "cka_biased": biased}


def _not_aligned(first: Measured, second: Measured) -> str:
    a, b = first.features, second.features
    if a is None or b is None:
        return "it needs files with the same samples as rows"
    if not min(first.spectrum.trace, second.spectrum.trace) > 0:
        return "features that do not vary"
    if a.array.shape[:-1] != b.array.shape[:-1]:
        return f"rows of shape {a.array.shape[:-1]} and {b.array.shape[:-1]}, not the same samples"
    if not a.same_groups(b):
        return "the groups of the rows differ, so they are not the same samples"
    width = len(first.spectrum.eigenvalues) + len(second.spectrum.eigenvalues)
    return "" if _n_blocks(width) >= 8 else f"it needs too much memory for {width:,} features"


def _n_blocks(width: int) -> int:
    """Return how many blocks of the moments of so many features fit, a power of two."""
    fit = MEMORY // (8 * width**2)
    return min(MAX_BLOCKS, 1 << max(fit, 1).bit_length() - 1)


def _side_by_side(first: Measured, second: Measured) -> FeatureCovariance:
    """Return the covariance of the features of both files, each with a total variance of 1."""
    covariance = FeatureCovariance(precision="float64")
    spectra, files = (first.spectrum, second.spectrum), (first.features, second.features)
    covariance.limit_blocks(_n_blocks(sum(len(one.eigenvalues) for one in spectra)))
    scales = [1 / math.sqrt(one.trace) for one in spectra]
    count = min(one.array.entries for one in files if one)
    both = zip(*(one.pieces(count) for one in files if one), strict=True)
    for (x, labels), (y, _) in both:
        parts = (np.asarray(z, np.float64) * scale for z, scale in zip((x, y), scales, strict=True))
        covariance.update(np.concatenate(list(parts), axis=-1), groups=labels)
    return covariance


def comparisons(measured: Sequence[Measured]) -> list[FeatureComparison]:
    """Return the comparison of the first source with each of the others, layer by layer.

    Sources with one layer or array each are compared whatever its name is; of several, those whose
    names all sources have.

    Raises
    ------
    ValueError
        If two sources have no layer in common, or rows cannot be read again.
    """
    first, *others = by_source(measured).values()
    return list(chain.from_iterable(_pairs(first, other) for other in others))


def _pairs(first: Sequence[Measured], second: Sequence[Measured]) -> list[FeatureComparison]:
    if len(first) == len(second) == 1:
        return [compare_features(first[0], second[0])]
    layers = {one.layer: one for one in second}
    pairs = [(one, layers[one.layer]) for one in first if one.layer in layers]
    if not pairs:
        names = [some([one.layer for one in own]) for own in (first, second)]
        raise ValueError(
            f"no layer in common: {first[0].source} has {names[0]}; {second[0].source} {names[1]}"
        )
    return [compare_features(*pair) for pair in pairs]


def _conclusion(first: str, second: str, values: Mapping[str, Any]) -> str:
    """Return the comparison in one sentence."""
    rank, condition = (
        _times(values, f"{name}_ratio") for name in ("effective_rank", "condition_number")
    )
    uses = {
        "more": f"{second} uses more directions than {first}",
        "less": f"{second} uses fewer directions than {first}",
        "same": f"{second} and {first} use as many directions, as far as the samples tell",
        "unknown": f"whether {second} uses more directions than {first} is unknown",
    }[_way(values["effective_rank_ratio_interval"])]
    differs = {
        "more": f"the condition number of {second} is larger",
        "less": f"the condition number of {second} is smaller",
        "same": f"the condition number of {second} is not clearly different",
        "unknown": "how the condition numbers differ is unknown",
    }[_way(values["condition_number_ratio_interval"])]
    parts = [
        uses + ("" if rank == "unknown" else f" (effective rank {rank})"),
        differs + ("" if condition == "unknown" else f" ({condition})"),
    ]
    return "; ".join(parts + _likeness(values))


def _times(values: Mapping[str, Any], name: str) -> str:
    """Return a ratio with its interval, as far as it is known."""
    value, (low, high) = values[name], values[f"{name}_interval"]
    text = "unknown" if math.isnan(value) else f"{value:.3g} times"
    if math.isnan(low) or (low <= 0 and math.isinf(high)):
        is_bare = math.isnan(low) and not math.isnan(value)
        return f"{text}, without an interval" if is_bare else "unknown"
    if math.isinf(high):
        return f"at least {low:.2g} times"
    if low <= 0:
        return f"at most {high:.2g} times"
    return (
        f"{text}, {low:.3g} to {high:.3g}"
        if text != "unknown"
        else f"{low:.3g} to {high:.3g} times"
    )


def _way(interval: Interval) -> str:
    """Return in which direction a ratio is known to differ from 1, 'same' or 'unknown'."""
    low, high = interval
    if math.isnan(low) or (low <= 0 and math.isinf(high)):
        return "unknown"
    return "more" if low > 1 else "less" if high < 1 else "same"


def _likeness(values: Mapping[str, Any]) -> list[str]:
    lines = []
    if count := values["n_leading"]:
        noun = "direction overlaps" if count == 1 else "directions overlap"
        low, high = values["subspace_overlap_interval"]
        lines.append(
            f"the {count} leading {noun} by {values['subspace_overlap']:.2f} ({low:.2f} to "
            f"{high:.2f}; unrelated ones: {values['subspace_overlap_chance']:.2f})"
        )
    if not math.isnan(values["cka"]):
        low, high = values["cka_interval"]
        lines.append(f"CKA is {values['cka']:.3f} ({low:.3f} to {high:.3f})")
    return lines
