"""Figures of docs/calibration.md, from the CSV files of `benchmarks.calibration` alone."""

import math

import numpy as np
from matplotlib import pyplot as plt

from benchmarks import _simulate as simulate
from benchmarks._calibration_page import (
    BAR,
    FIGURES,
    METHODS,
    NAMES,
    SIZES,
    column,
    load,
    main_cells,
)

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7")
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def write():
    FIGURES.mkdir(exist_ok=True)
    coverage_figure()
    null_figure()
    power_figure()


def figure(width, height, **options):
    return plt.subplots(figsize=(width, height), layout="constrained", **options)


def save(drawing, name):
    # Without the version of matplotlib the same numbers give the same file.
    drawing.savefig(FIGURES / name, dpi=150, metadata={"Software": None})
    plt.close(drawing)


def coverage_figure():
    drawing, axes = figure(8, 3.6)
    cells = main_cells(long=True)
    axes.axhspan(100 * BAR[0], 100 * BAR[1], color="0.9", zorder=0)
    axes.axhline(95, color="0.5", lw=0.8, zorder=1)
    for i, (method, marker) in enumerate(zip(METHODS, "o^s", strict=True)):
        for j, body in enumerate(simulate.BODIES):
            y = 100 * column([x for x in cells if x["body"] == body], method)
            x = j + 0.27 * (i - 1) + np.linspace(-0.1, 0.1, len(y))
            label = method if j == 0 else None
            style = {"color": OKABE_ITO[i], "ls": "", "ms": 3, "mew": 0, "alpha": 0.8}
            axes.plot(x, y, marker, label=label, **style)
    labels = [NAMES[body].replace(", ", ",\n").replace(" (", "\n(") for body in simulate.BODIES]
    labels = [
        x.replace("separated Marchenko-Pastur", "separated\nMarchenko-Pastur") for x in labels
    ]
    axes.set_xticks(range(len(labels)), labels, fontsize=7.5)
    axes.set_ylabel("coverage of the 95 % interval (%)")
    axes.set_ylim(-3, 103)
    axes.legend(frameon=False, loc="lower left", ncols=3, bbox_to_anchor=(0, 1), markerscale=2)
    save(drawing, "coverage.png")


def null_figure():
    drawing, axes = figure(7, 3.4, ncols=2, sharey=True)
    p_values = load("null_p")
    grid = np.linspace(0, 1, 201)
    for ax, kind in zip(axes, simulate.NO_TAIL[:2], strict=True):
        these = [x for x in p_values if x["kind"] == kind]
        reach = 1.358 / math.sqrt(len(these) / 4)
        ax.fill_between(grid, -reach, reach, color="0.92", label="95 % KS band of one line")
        ax.axhline(0, color="0.5", lw=0.8)
        for color, aspect in zip(OKABE_ITO, (1, 2, 4, 16), strict=False):
            p = np.sort([x["null_p"] for x in these if x["N"] == aspect * x["M"]])
            share = np.searchsorted(p, grid, side="right") / len(p)
            ax.plot(grid, share - grid, color=color, lw=1.2, label=f"N/M = {aspect}")
        ax.set_title(f"{kind} entries", fontsize=9)
        ax.set_xlabel("p")
    axes[0].set_ylabel("share of null_p ≤ p, minus p")
    handles = axes[0].get_legend_handles_labels()
    drawing.legend(*handles, frameon=False, fontsize=7.5, ncols=5, loc="outside upper center")
    save(drawing, "null_p.png")


def power_figure():
    drawing, axes = figure(8, 3.4, ncols=2, sharey=True)
    found = load("verdicts")
    families = (
        ("independent Student's t entries", simulate.HEAVY[: len(simulate.STUDENT)]),
        ("population covariance with a power law", simulate.HEAVY[len(simulate.STUDENT) :]),
    )
    for ax, (title, kinds) in zip(axes, families, strict=True):
        for color, marker, kind in zip(OKABE_ITO, "o^sDv", kinds, strict=False):
            shares = {
                key: [
                    100
                    * column([x for x in found if x["kind"] == kind and x["M"] == M], key).mean()
                    for M in SIZES
                ]
                for key in ("heavy", "power law")
            }
            label = f"alpha {simulate.true_alpha(kind):g}"
            ax.plot(SIZES, shares["heavy"], f"{marker}--", color=color, lw=1, ms=3.5)
            ax.plot(SIZES, shares["power law"], f"{marker}-", color=color, ms=3.5, label=label)
        ax.set_xscale("log", base=2)
        ax.set_xticks(SIZES, [str(M) for M in SIZES])
        ax.set_xlabel("eigenvalues M")
        ax.set_title(title, fontsize=9, pad=32)
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0}
        ax.legend(frameon=False, fontsize=7.5, ncols=3, **place)
    axes[0].set_ylabel("share of matrices (%)")
    save(drawing, "power.png")
