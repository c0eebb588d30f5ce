"""Tables of docs/collapse.md, from the rows that `benchmarks.collapse` measured."""

import itertools
import math

from benchmarks._pages import table_of

ALONE = 0.9e4  # of a trust ratio, whose largest value is 1 / decay = 1e4
ORDER = ["nine sessions", "the same for longer", "one session"]


def summary(run, readings):
    """Return the row of one training: how many matrices collapse, when, and its test R²."""
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
    """Return the smallest norm at the end, as a share of the largest norm of that matrix."""
    return min(r["norm"] / max(o["norm"] for o in mine if o["matrix"] == r["matrix"]) for r in end)


def learning_rate(step, total, top):
    """Return that of the published schedule: constant for half of the steps, then a cosine down."""
    part = max(0.0, (step - total / 2) / (total / 2))
    return top / 1e4 + (top - top / 1e4) * (1 + math.cos(math.pi * part)) / 2


def shrinking(run, readings, top):
    """Return rows for the matrix with the smallest gradient: how it shrinks, and by decay alone."""
    mine = [r for r in readings if r["run"] == run]
    total = max(int(r["step"]) for r in mine)
    name = min((r for r in mine if r["step"] == total), key=lambda r: r["gradient"])["matrix"]
    line = [r for r in mine if r["matrix"] == name and r["step"] % 50 == 0]
    rows = []
    for before, r in itertools.pairwise(line):
        steps = range(int(before["step"]) + 1, int(r["step"]) + 1)
        alone = math.prod(1 - learning_rate(s, total, top) for s in steps)
        rows.append(
            {
                f"step ({name})": int(r["step"]),
                "gradient": f"{r['gradient']:.1g}",
                "trust ratio": f"{r['trust_ratio']:.3g}",
                "norm": f"{r['norm']:.3g}",
                "of that 50 steps before": f"{r['norm'] / before['norm']:.3f}",
                "product of (1 - η)": f"{alone:.3f}",
                "rank": int(r["rank"]),
            }
        )
    return rows


def tables(runs, readings):
    """Return the tables of docs/collapse.md."""
    runs = in_order(runs)
    return {
        "trainings": table_of([summary(r, readings) for r in runs]),
        "shrinking": table_of(shrinking(runs[0]["run"], readings, 0.032)),
    }


def in_order(runs):
    return sorted(runs, key=lambda r: ORDER.index(r["run"].partition(",")[0]))
