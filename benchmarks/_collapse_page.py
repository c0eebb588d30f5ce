"""Tables and figure of docs/collapse.md, from the rows that `benchmarks.collapse` measured."""

import itertools
import math

from benchmarks._pages import DOCS, table_of, write_tables

ALONE = 0.9e4  # of a trust ratio, whose largest value is 1 / decay = 1e4
COLOURS = {"decay 1e-4": "#D55E00", "decay 0": "#0072B2", "AdamW": "#999999"}


ORDER = ["nine sessions", "the same for longer", "one session"]


def summary(run, readings):
    """Return the line of one training: what collapsed and when, and what it reaches."""
    mine = [r for r in readings if r["run"] == run["run"]]
    collapsed = [r for r in mine if r["collapsed"]]
    last = max(r["step"] for r in mine)
    end = [r for r in mine if r["step"] == last]
    ratios = [r["trust_ratio"] for r in mine if not math.isnan(r["trust_ratio"])]
    gradients = sorted(r["gradient"] for r in end)
    alone = sum(r["trust_ratio"] > ALONE for r in end)
    return {
        "training": run["run"],
        "steps": int(last),
        "moved by decay alone at the end": f"{alone} of {len(end)}" if "1e-4" in run["run"] else "",
        "collapsed": f"{len({r['matrix'] for r in collapsed})} of {len(end)}",
        "first at step": int(min((r["step"] for r in collapsed), default=0)) or "",
        "least norm at the end, of its largest": f"{least_share(mine, end):.1g}",
        "largest trust ratio": f"{max(ratios):.2g}" if ratios else "",
        "gradient at the end, median": f"{gradients[len(gradients) // 2]:.1g}",
        "test R²": f"{run['r2_last']:.3f}",
        "collapsed set to 0": f"{run['r2_cut']:.3f}",
        "best of ten validations": f"{run['r2_model']:.3f} (step {run['best_step']:.0f})",
    }


def least_share(mine, end):
    """Return the smallest norm at the end, as a share of the largest that the matrix has had."""
    return min(r["norm"] / max(o["norm"] for o in mine if o["matrix"] == r["matrix"]) for r in end)


def learning_rate(step, total, top):
    """Return the published schedule's: constant for half of the steps, then down by a cosine."""
    part = max(0.0, (step - total / 2) / (total / 2))
    return top / 1e4 + (top - top / 1e4) * (1 + math.cos(math.pi * part)) / 2


def shrinking(run, readings, top):
    """Return how the matrix with the smallest gradient shrinks, and how decay alone would shrink it."""
    mine = [r for r in readings if r["run"] == run]
    total = max(int(r["step"]) for r in mine)
    name = min((r for r in mine if r["step"] == total), key=lambda r: r["gradient"])["matrix"]
    line = [r for r in mine if r["matrix"] == name and r["step"] % 50 == 0]
    found = []
    for before, r in itertools.pairwise(line):
        steps = range(int(before["step"]) + 1, int(r["step"]) + 1)
        found.append(
            {
                f"step ({name})": int(r["step"]),
                "gradient": f"{r['gradient']:.1g}",
                "trust ratio": f"{r['trust_ratio']:.3g}",
                "norm": f"{r['norm']:.3g}",
                "of that 50 steps before": f"{r['norm'] / before['norm']:.3f}",
                "product of (1 - η)": f"{math.prod(1 - learning_rate(s, total, top) for s in steps):.3f}",
                "rank": int(r["rank"]),
            }
        )
    return found


def tables(runs, readings):
    """Return the tables of docs/collapse.md."""
    runs = in_order(runs)
    return {
        "trainings": table_of([summary(r, readings) for r in runs]),
        "shrinking": table_of(shrinking(runs[0]["run"], readings, 0.032)),
    }


def in_order(runs):
    return sorted(runs, key=lambda r: ORDER.index(r["run"].partition(",")[0]))


def write(runs, readings):
    """Write the tables and the figure of docs/collapse.md."""
    write_tables(DOCS / "collapse.md", tables(runs, readings))
    names = [run["run"] for run in in_order(runs)]
    longer = [name for name in names if name.startswith("the same")]
    figure(longer or [name for name in names if name.startswith("nine")], readings)


def figure(names, readings):
    """Draw norms, gradients and trust ratios of all matrices while training."""
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    fig, axes = plt.subplots(1, 3, figsize=(9.0, 2.9), layout="constrained")
    panels = ("norm", "gradient", "trust_ratio")
    titles = ("norm, of its first", "norm of the gradient", "trust ratio")
    for name in names:
        colour = next(c for key, c in reversed(COLOURS.items()) if key in name)
        for matrix in {r["matrix"] for r in readings if r["run"] == name}:
            line = [r for r in readings if (r["run"], r["matrix"]) == (name, matrix)]
            for axis, what in zip(axes, panels, strict=True):
                scale = line[0][what] if what == "norm" else 1.0
                values = [r[what] / scale for r in line]
                axis.plot([r["step"] for r in line], values, color=colour, lw=0.8, alpha=0.7)
        axes[0].plot([], [], color=colour, label=name.partition(", ")[2])
    for axis, title in zip(axes, titles, strict=True):
        axis.set(yscale="log", xlabel="step", title=title)
    axes[0].axhline(1e-3, color="black", lw=0.8, ls=":")
    axes[2].axhline(1e4, color="black", lw=0.8, ls=":")
    axes[0].legend(frameon=False)
    fig.savefig(DOCS / "collapse.png", dpi=130)
    plt.close(fig)
