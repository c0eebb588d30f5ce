"""Spectra of features -> a headline, a table for people, JSON for machines."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from specdiag.features.comparison.compare import RATIOS, FeatureComparison
from specdiag.features.comparison.measured import Measured, by_source
from specdiag.features.conditioning import FeatureSpectrum
from specdiag.features.files.array import NAMELESS
from specdiag.features.profile import profile
from specdiag.show.table import render
from specdiag.wording import number, printable, without_nan

# Columns that a narrow terminal drops, in this order, and the characters that names then need.
_DROPPED = (
    ({"top 1", "effective samples"}, 24),
    ({"participation ratio", "rank"}, 16),
    ({"samples"}, 8),
)


def as_json(measured: Sequence[Measured], compared: Sequence[FeatureComparison] = ()) -> str:
    """Return all numbers, eigenvalues included, as one JSON object; NaN and infinity are null."""
    rows = [
        {"source": one.source, "layer": one.layer, "n_features": len(one.spectrum.eigenvalues)}
        | {**asdict(one.spectrum), "eigenvalues": one.spectrum.eigenvalues.tolist()}
        for one in measured
    ]
    content = {
        "features": rows,
        "profiles": _profiles(measured),
        "comparisons": [asdict(one) for one in compared],
    }
    return json.dumps(without_nan(content), indent=2, allow_nan=False)


def _profiles(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    return [
        {"source": source, **asdict(profile(_spectra(layers)))}
        for source, layers in by_source(measured).items()
        if len(layers) > 1
    ]


def _spectra(layers: Sequence[Measured]) -> dict[str, FeatureSpectrum]:
    return {one.layer: one.spectrum for one in layers}


def as_text(measured: Sequence[Measured], width: int | None = None) -> list[tuple[str, list[str]]]:
    """Return a title and lines for each source.

    Of one layer these are a headline and all numbers; of several a table with a row a layer, in the
    order of the forward pass, and what the profile shows.
    """
    return [
        (source, [*_lines(_spectra(layers), width), *filter(None, [layers[-1].grouping])])
        for source, layers in by_source(measured).items()
    ]


def _lines(spectra: Mapping[str, FeatureSpectrum], width: int | None) -> list[str]:
    if len(spectra) == 1:
        ((layer, spectrum),) = spectra.items()
        return [printable(headline(layer, spectrum)), *str(spectrum).splitlines()]
    lines = as_table(spectra, width)
    return lines + [printable(line) for line in profile(spectra).sentences]


def headline(layer: str, spectrum: FeatureSpectrum) -> str:
    """Return in one sentence how many directions the features use, and how evenly."""
    d = len(spectrum.eigenvalues)
    of = "" if layer == NAMELESS else f"{layer}: "
    if not spectrum.trace > 0:
        return f"{of}the {d} features do not vary"
    low, high = spectrum.effective_rank_interval
    interval = "of the sample" if math.isnan(low) else f"95 % interval {low:.3g} to {high:.3g}"
    return (
        f"{of}the features use about {spectrum.effective_rank:.3g} of {d} directions "
        f"(effective rank, {interval}); the condition number is {spectrum.condition_number_text}"
    )


def as_table(spectra: Mapping[str, FeatureSpectrum], width: int | None = None) -> list[str]:
    """Return the lines of the table: a header, and a row for each layer."""
    cells = [_cells(spectrum) for spectrum in spectra.values()]
    header, *rows = render(list(spectra), cells, [{}] * len(cells), _DROPPED, width)
    return [header.replace("matrix", "layer ", 1), *rows]


def _cells(spectrum: FeatureSpectrum) -> dict[str, str]:
    low, high = spectrum.effective_rank_interval
    d = len(spectrum.eigenvalues)
    return {
        "d": str(d),
        "samples": f"{spectrum.n_samples:,}",
        "effective samples": number(spectrum.n_effective, ",.0f"),
        "effective rank": f"{spectrum.effective_rank:.3g}",
        "95 % interval": "-" if math.isnan(low) else f"{low:.3g} - {high:.3g}",
        "of d": f"{spectrum.effective_rank / d:.1%}",
        "participation ratio": f"{spectrum.participation_ratio:.3g}",
        "top 1": f"{spectrum.top1_fraction:.0%}",
        "rank": str(spectrum.numerical_rank),
        "condition number": _condition(spectrum),
    }


def _condition(spectrum: FeatureSpectrum) -> str:
    """Return the condition number as far as it is known, without the words around it."""
    text = re.sub(r"\s*[\[(].*", "", spectrum.condition_number_text)
    for words, sign in (("about ", ""), ("at least ", ">= "), ("between ", ""), (" and ", " - ")):
        text = text.replace(words, sign)
    return text


def comparison_lines(
    compared: Sequence[FeatureComparison], width: int | None = None
) -> list[tuple[str, list[str]]]:
    """Return a title and lines for each pair of sources: of one layer a sentence, of several a row.

    Notes say why numbers are missing.
    """
    by_pair: dict[tuple[str, str], list[FeatureComparison]] = {}
    for one in compared:
        by_pair.setdefault((one.first, one.second), []).append(one)
    return [
        (f"1: {first}   2: {second}", _compared(pairs, width))
        for (first, second), pairs in by_pair.items()
    ]


def _compared(pairs: Sequence[FeatureComparison], width: int | None) -> list[str]:
    cells = [_compared_cells(one) for one in pairs]
    names = [" / ".join(dict.fromkeys((one.first_layer, one.second_layer))) for one in pairs]
    header, *rows = render(names, cells, [{}] * len(cells), _COMPARED_DROPPED, width)
    lines = [header.replace("matrix", "layer ", 1), *rows]
    notes = list(dict.fromkeys(note for one in pairs for note in one.notes))
    if len(pairs) == 1:
        notes = [pairs[0].conclusion, *notes]
    return [*lines, _LEGEND, *map(printable, notes)]


_COMPARED_DROPPED = (
    ({"participation ratio"}, 20),
    ({"CKA", "95 %"}, 12),
)
_LEGEND = (
    "numbers of 2 over those of 1, with 95 % intervals; overlap: mean squared cosine between the "
    "spaces of the n leading directions"
)


def _compared_cells(one: FeatureComparison) -> dict[str, str]:
    cells = {
        name.replace("_", " "): _with_interval(
            getattr(one, f"{name}_ratio"), getattr(one, f"{name}_ratio_interval")
        )
        for name in RATIOS
    }
    known = one.n_leading > 0
    overlap = _with_interval(one.subspace_overlap, one.subspace_overlap_interval)
    return cells | {
        "n": str(one.n_leading) if known else "-",
        "overlap": overlap,
        "by chance": f"{one.subspace_overlap_chance:.2f}" if known else "-",
        "CKA": _with_interval(one.cka, one.cka_interval),
    }


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    """Return a number with its interval as far as both are known."""
    low, high = interval
    text = "-" if math.isnan(value) else f"{value:.3g}"
    if math.isnan(low) or (low <= 0 and math.isinf(high)):
        return text
    if math.isinf(high):
        return f">= {low:.2g}"
    return f"{text} [{low:.3g}, {high:.3g}]"
