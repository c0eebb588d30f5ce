"""Tables of the intervals of alpha in docs/calibration.md, from the CSV files of their stages."""

import math

import numpy as np

from benchmarks import _bodies as bodies
from benchmarks._pages import table
from benchmarks._results import read
from benchmarks._tables import column, mean_and_range, percent, rate

BAR = (0.92, 0.99)
HALVES = tuple(bodies.HALVES)
METHODS = ("weightwatcher", "wwj")
BINS = ((30, 63), (64, 127), (128, 255), (256, 1023), (1024, 4096))


def of_group(*groups):
    return [x for x in read("coverage", text=("body", "top")) if x["group"] in groups]


def within(values):
    return int(np.sum((values >= BAR[0]) & (values <= BAR[1])))


def words(body):
    return bodies.BODIES[body].words if body in bodies.BODIES else "none (power law throughout)"


def median_and_worst(values):
    return f"{np.median(values):.2f}, {values.max():.2f}"


def known_mean(values, form):
    """Return the mean of the values that are not NaN, or a dash if none is."""
    known = values[~np.isnan(values)]
    return f"{known.mean():{form}}" if len(known) else "–"


def key_numbers():
    """Return the rows of these stages in the table of the page's first section."""
    rows = {}
    for half in HALVES:
        cells = of_group(half)
        values = column(cells, "coverage")
        name = f"{half} half, {len(cells)} cells of {len(bodies.HALVES[half])} bodies"
        rows[f"95 % interval of alpha, {name}: mean coverage (bar: 94–96 %)"] = (
            f"{percent(values.mean())} %"
        )
        rows[f"… cells within 92–99 %, {half} half (bar: 90 %)"] = (
            f"{100 * within(values) / len(cells):.0f} %"
        )
        rows[f"… least coverage of a cell, {half} half (bar: 80 %)"] = f"{percent(values.min())} %"
        rows[f"… width over the oracle's, median and worst cell, {half} half (bar: 1.3, 1.7)"] = (
            median_and_worst(column(cells, "width"))
        )
        rows[f"… the same of the mean width, {half} half (no bar)"] = median_and_worst(
            column(cells, "mean_width")
        )
    none = of_group("none")
    rows["… coverage without a body: mean and range"] = (
        f"{mean_and_range(column(none, 'coverage'))} %"
    )
    rows["… width without a body, median and worst cell (bar: 1.6)"] = median_and_worst(
        column(none, "width")
    )
    rows["… the same of the mean width (no bar)"] = median_and_worst(column(none, "mean_width"))
    tops = column(of_group("top"), "coverage")
    rows["… coverage with a contaminated top: mean and range (bar: 90 %)"] = (
        f"{mean_and_range(tops)} %, {np.sum(tops >= 0.9)} of {len(tops)} cells at least 90 %"
    )
    values = column(sampled(), "coverage")
    rows[f"… sampled covariance matrices, {len(values)} cells: mean and range"] = (
        f"{mean_and_range(values)} %, {within(values)} within 92–99 %"
    )
    rows["… their width over the oracle's, median and worst cell"] = median_and_worst(
        column(sampled(), "width")
    )
    for kind, share, _ in rank_rows():
        rows[f"rank of the true alpha, simulated from {kind}"] = share
    for method in METHODS:
        values = column(of_group("none", *HALVES), method)
        values = values[~np.isnan(values)]
        label = f"coverage of {method}'s 95 % interval, {len(values)} cells: mean and range"
        rows[label] = f"{mean_and_range(values)} %, {within(values)} within 92–99 %"
    return rows


def counts():
    cells = of_group("none", *HALVES)
    first = [x["count"] for x in cells if x["coverage"] == x["first"]]
    others = {int(x["n"]): x["others_count"] for x in cells if not math.isnan(x["others_count"])}
    return {
        "spectra a cell": int(min(first)),
        "fresh spectra of a cell that is measured again": int(max(column(cells, "count"))),
        **{
            f"spectra for weightwatcher, wwj and alpha_ks, n = {n}": int(x)
            for n, x in sorted(others.items())
        },
        "draws of a rank statistic": int(read("rank_statistics")[0]["count"]),
        "sampled matrices a cell": f"{min(column(sampled(), 'count')):.0f} to "
        f"{max(column(sampled(), 'count')):.0f}",
    }


def by_body():
    rows = []
    for group in ("none", *HALVES):
        cells = of_group(group)
        for body in dict.fromkeys(x["body"] for x in cells):
            these = [x for x in cells if x["body"] == body]
            junction = bodies.BODIES[body].junction if body != "none" else "–"
            misses = " / ".join(percent(column(these, k).mean()) for k in ("below", "above"))
            theirs = [known_mean(100 * column(these, m), ".1f") for m in METHODS]
            cells_of = [words(body), junction, group if body != "none" else "–", len(these)]
            widths = median_and_worst(column(these, "width"))
            rows.append(
                [*cells_of, mean_and_range(column(these, "coverage")), misses, widths, *theirs]
            )
    header = ["body", "junction", "half", "cells", "coverage %", "missed below / above, %"]
    return table([*header, "width: median, worst", "weightwatcher %", "wwj %"], rows)


def by_size():
    cells = of_group(*HALVES)
    groups = [(f"no body, n = {n}", [x for x in of_group("none") if x["n"] == n]) for n in SIZES]
    groups += [
        (f"tail of {low}–{high}", [x for x in cells if low <= x["tail"] < high + 1])
        for low, high in BINS
    ]
    for junction in ("jump", "value", "slope", "curvature"):
        these = [x for x in cells if bodies.BODIES[x["body"]].junction == junction]
        groups.append((f"junction: {junction}", these))
    groups += [
        (f"alpha = {alpha:g}", [x for x in cells if x["alpha"] == alpha]) for alpha in bodies.ALPHAS
    ]
    rows = []
    for name, these in groups:
        values = column(these, "coverage")
        widths = median_and_worst(column(these, "width"))
        errors = [known_mean(column(these, k), ".2f") for k in ("rmse", "ks_rmse")]
        biases = [known_mean(column(these, k), "+.2f") for k in ("bias", "ks_bias")]
        rows.append([name, len(these), mean_and_range(values), widths, *errors, *biases])
    header = ["spectrum", "cells", "coverage %", "width: median, worst", "rmse of alpha"]
    return table([*header, "rmse of alpha_ks", "bias of alpha", "bias of alpha_ks"], rows)


SIZES = bodies.SIZES[:5]  # those with alpha_ks


def outside():
    rows = []
    for x in of_group("none", *HALVES):
        if BAR[0] <= x["coverage"] <= BAR[1]:
            continue
        cell = [words(x["body"]), x["group"], int(x["n"]), f"{x['alpha']:g}", f"{x['tail']:.0f}"]
        misses = " / ".join(percent(x[k]) for k in ("below", "above"))
        flagged = percent(x["short_tail"])
        rows.append([*cell, rate(x["coverage"], x["count"]), misses, f"{x['width']:.2f}", flagged])
    header = ["body", "half", "n", "alpha", "tail", "coverage %", "missed below / above, %"]
    return table([*header, "width", "flagged short %"], rows)


def short_tail():
    rows = []
    for x in read("short_tail"):
        shares = [percent(x[k]) for k in ("flagged", "coverage", "coverage_unflagged")]
        high = "" if x["high"] > 1000 else f"–{x['high']:.0f}"
        rows.append([f"{x['low']:.0f}{high or ' or more'}", int(x["count"]), *shares])
    return table(
        ["true tail", "spectra", "flagged %", "coverage %", "coverage of unflagged %"], rows
    )


def tops():
    cells = of_group("top")
    rows = []
    for top in bodies.TOPS:
        these = [x for x in cells if x["top"] == top]
        values = column(these, "coverage")
        misses = " / ".join(percent(column(these, k).mean()) for k in ("below", "above"))
        widths = median_and_worst(column(these, "width"))
        rows.append([top, len(these), mean_and_range(values), misses, widths])
    header = ["top", "cells", "coverage %", "missed below / above, %", "width: median, worst"]
    return table(header, rows)


def limits():
    """Return a table of tails for which nothing is claimed."""
    stored = {(x["body"], x["alpha"], x["n"]): x for x in of_group("limit")}
    rows = []
    for body in bodies.LIMITS:
        for alpha in (1.5, 2.5, 4.0):
            found = [stored.get((body, alpha, n)) for n in (256, 1024, 4096)]
            cells = [
                f"{percent(x['coverage'])} ({percent(x['short_tail'])})" if x else "–"
                for x in found
            ]
            rows.append([body, f"{alpha:g}", *cells])
    these = of_group("short")
    n = [[x for x in these if x["n"] <= 256], [x for x in these if 256 < x["n"] <= 1024]]
    n.append([x for x in these if x["n"] > 1024])
    cells = [
        f"{mean_and_range(column(x, 'coverage'))} ({percent(column(x, 'short_tail').mean())})"
        if x
        else "–"
        for x in n
    ]
    rows.append(["power law, tail of 15–29", "1.5 to 5", *cells])
    return table(["tail", "alpha", "n = 256", "n = 1024", "n = 4096"], rows)


def sampled():
    return read("sampled_matrices", text=("body",))


def matrices():
    rows = []
    for M in dict.fromkeys(x["M"] for x in sampled()):
        for aspect in dict.fromkeys(x["aspect"] for x in sampled()):
            these = [x for x in sampled() if x["M"] == M and x["aspect"] == aspect]
            misses = " / ".join(percent(column(these, k).mean()) for k in ("below", "above"))
            widths = median_and_worst(column(these, "width"))
            bias = f"{column(these, 'bias').mean():+.2f}"
            cells = [f"{aspect * M:.0f} × {M:.0f}", len(these)]
            rows.append([*cells, mean_and_range(column(these, "coverage")), misses, widths, bias])
    header = ["N × M", "cells", "coverage %", "missed below / above, %", "width: median, worst"]
    return table([*header, "bias"], rows)


def rank_rows():
    """Return for each kind of simulation: its name, how far it is from uniform, and where."""
    stored = read("rank_statistics")
    names = {"model": "the model itself", "bodies": "the forty bodies"}
    rows = []
    for kind in dict.fromkeys(x["kind"] for x in stored):
        these = [x for x in stored if x["kind"] == kind]
        difference = column(these, "difference")
        out = (difference < column(these, "low")) | (difference > column(these, "high"))
        widest = 100 * column(these, "high").max()
        verdict = "inside" if not out.any() else f"outside at {out.sum()} of {len(out)} points"
        worst = int(np.argmax(np.abs(difference)))
        text = f"{verdict} of the 95 % band (± {widest:.1f} points)"
        where = f"{100 * difference[worst]:+.1f} points at u = {these[worst]['u']:.2f}"
        rows.append((names[kind], f"{text}; most: {where}", int(these[0]["count"])))
    return rows


def ranks():
    rows = [[kind, count, text] for kind, text, count in rank_rows()]
    return table(["simulated from", "draws", "share of ranks up to u, minus u"], rows)


TABLES = {
    "coverage": by_body,
    "by-size": by_size,
    "outside": outside,
    "short-tail": short_tail,
    "tops": tops,
    "limits": limits,
    "matrices": matrices,
    "ranks": ranks,
}
