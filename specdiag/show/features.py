"""Spectra of features -> a headline, a table for people, JSON for machines."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from specdiag.features.comparison.compare import Measured
from specdiag.features.conditioning import FeatureSpectrum
from specdiag.features.profile import profile
from specdiag.show.table import render
from specdiag.wording import number, printable, without_nan

# Columns that a narrow terminal drops, in this order, and the characters that names then need.
_DROPPED = (
    ({"top 1", "effective samples"}, 24),
    ({"participation ratio", "rank"}, 16),
    ({"samples"}, 8),
)


def as_json(measured: Sequence[Measured]) -> str:
    """Return all numbers, eigenvalues included, as one JSON object; NaN and infinity are null."""
    rows = [
        {"source": one.source, "layer": one.layer, "n_features": len(one.spectrum.eigenvalues)}
        | {**asdict(one.spectrum), "eigenvalues": one.spectrum.eigenvalues.tolist()}
        for one in measured
    ]
    content = {"features": rows, "profiles": _profiles(measured)}
    return json.dumps(without_nan(content), indent=2, allow_nan=False)


def _profiles(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    by_source = _by_source(measured)
    return [
        {"source": source, **asdict(profile(spectra))}
        for source, spectra in by_source.items()
        if len(spectra) > 1
    ]


def _by_source(measured: Sequence[Measured]) -> dict[str, dict[str, FeatureSpectrum]]:
    found: dict[str, dict[str, FeatureSpectrum]] = {}
    for one in measured:
        found.setdefault(one.source, {})[one.layer] = one.spectrum
    return found


def as_text(measured: Sequence[Measured], width: int | None = None) -> list[tuple[str, list[str]]]:
    """Return a title and lines for each source.

    Of one layer these are a headline and all numbers; of several a table with a row a layer, in the
    order of the forward pass, and what the profile shows.
    """
    groupings = {one.source: one.grouping for one in measured}
    return [
        (source, [*_lines(spectra, width), *filter(None, [groupings[source]])])
        for source, spectra in _by_source(measured).items()
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
    if not spectrum.trace > 0:
        return f"{layer}: the {d} features do not vary"
    low, high = spectrum.effective_rank_interval
    interval = "of the sample" if math.isnan(low) else f"95 % interval {low:.3g} to {high:.3g}"
    return (
        f"{layer}: the features use about {spectrum.effective_rank:.3g} of {d} directions "
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
