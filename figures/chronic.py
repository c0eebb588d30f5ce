"""Test R² of one decoder on sessions over months."""

import re
from datetime import date
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specdiag.drawing.seeds import Mean, limits, mean_over_seeds, without_r2
from specdiag.drawing.style import MARKERS, OKABE_ITO, short_title
from specdiag.wording import counted

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

TITLE = "Stability over sessions"
MIN_SEEDS = 3  # the interval over two seeds is longer than any slope


def reason_not_drawn(dataset: "xr.Dataset") -> str:
    """Return why there is nothing to draw, or ''."""
    if reason := without_r2(dataset):
        return reason
    return "" if _series(dataset) else "no decoder is evaluated on several sessions with a date"


class Point(NamedTuple):
    """R² of a session by the decoder of a seed."""

    seed: float
    r2: float


def _series(dataset: "xr.Dataset") -> dict[str, dict[date, list[Point]]]:
    """Return R² by date of every decoder that is evaluated on several dates, one point per seed."""
    series: dict[str, dict[date, list[Point]]] = {}
    for i in np.flatnonzero(dataset.arm.values == "evaluation"):
        one = dataset.isel(checkpoint=i)
        decoder = f"{one.parent.values} ({one.scale.values})"
        for j in np.flatnonzero(np.isfinite(one.session_r2.values)):
            day = day_of(str(dataset.session.values[j]))
            if day:
                point = Point(float(one.seed), float(one.session_r2[j]))
                series.setdefault(decoder, {}).setdefault(day, []).append(point)
    return {name: days for name, days in series.items() if len(days) > 1}


def day_of(session: str) -> date | None:
    """Return the date in the name of a session, such as c_20131003_center_out_reaching."""
    for digits in re.findall(r"(?<!\d)\d{8}(?!\d)", session):
        try:
            return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
        except ValueError:
            continue
    return None


def _means(days: dict[date, list[Point]]) -> dict[date, Mean]:
    return {day: mean_over_seeds([point.r2 for point in days[day]]) for day in sorted(days)}


def _slope(days: dict[date, list[Point]]) -> Mean:
    """Return the mean over seeds of the least-squares slope by year.

    Seeds that are not evaluated on all days are in no mean.
    """
    slopes = []
    for seed in {point.seed for points in days.values() for point in points}:
        of = {day: [p.r2 for p in points if p.seed == seed] for day, points in days.items()}
        if all(of.values()):
            x = [day.toordinal() / 365.25 for day, values in of.items() for _ in values]
            slopes.append(np.polyfit(x, [r2 for values in of.values() for r2 in values], 1)[0])
    return mean_over_seeds(slopes)


def plot(dataset: "xr.Dataset") -> "Figure":
    """Return test R² by the date of the session, one line per decoder, bars over its seeds."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.add_subplot()
    for k, (name, days) in enumerate(_series(dataset).items()):
        means = _means(days).values()
        x = date2num(sorted(days))  # type: ignore[no-untyped-call]
        color = OKABE_ITO[k % len(OKABE_ITO)]
        line = f"{MARKERS[k % len(MARKERS)]}-"
        ax.plot(x, [mean.value for mean in means], line, color=color, label=short_title(name, 40))
        ax.vlines(x, [mean.low for mean in means], [mean.high for mean in means], color=color)
    locator = AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    points = [p for days in _series(dataset).values() for points in days.values() for p in points]
    ax.set_ylim(limits([point.r2 for point in points]))
    ax.set(xlabel="date of the session", ylabel="test R² of the session")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure


def caption(dataset: "xr.Dataset") -> str:
    """Return what is drawn: sessions and seeds of every decoder, and of three seeds the slope."""
    parts = []
    for name, days in _series(dataset).items():
        means, slope = _means(days), _slope(days)
        values = [mean.value for mean in means.values()]
        n = {mean.n for mean in means.values()}
        seeds = counted(max(n), "seed") if len(n) == 1 else f"{min(n)} to {max(n)} seeds"
        parts.append(
            f"{name}: {counted(len(means), 'session')} from {min(means)} to {max(means)}, {seeds}, "
            f"R² {min(values):.3f} to {max(values):.3f}"
        )
        if slope.n >= MIN_SEEDS:
            parts[-1] += (
                f", mean of the least-squares slopes of {slope.n} seeds {slope.value:+.3f} a year "
                f"(95 % {slope.low:+.3f} to {slope.high:+.3f})"
            )
    return (
        "Test R² of decoders that were not trained again, by the date of the session. "
        f"{'; '.join(parts)}. Bars are 95 % intervals over three or more seeds, cut off at the "
        "frame."
    )
