"""Tables and figure of docs/transfer.md, from the rows that `benchmarks.transfer` measured."""

import numpy as np

from benchmarks._pages import DOCS, table_of, write_tables

PERCENTS = (10, 25, 50, 100)
ARMS = {
    "pretrained": "frozen base",
    "scratch_tuned": "scratch, tuned",
    "scratch": "scratch, finetune's settings",
    "ridge": "ridge, 3 bins",
    "ridge_wide": "ridge, 11 bins",
    "clock": "clock alone",
}
COLOURS = {
    "pretrained": "#0072B2",
    "scratch_tuned": "#D55E00",
    "scratch": "#E69F00",
    "ridge": "#999999",
    "ridge_wide": "#444444",
}
SHOWN = {  # arms by task; the first two are compared
    "reach": ("pretrained", "scratch_tuned", "scratch"),
    "timing": ("pretrained", "scratch_tuned", "scratch", "clock"),
    "second": ("pretrained", "scratch_tuned", "ridge", "ridge_wide"),
}


def interval(values):
    """Return mean and 95 % interval over seeds, by Student's t."""
    from scipy.stats import t

    mean, n = float(np.mean(values)), len(values)
    half = t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return mean, float(half)


def shown(values):
    """Return mean, 95 % interval and number of values in words."""
    if len(values) < 2:
        return "".join(f"{value:.3f}" for value in values)
    mean, half = interval(values)
    return f"{mean:.3f} ± {half:.3f} ({len(values)})"


def by_seed(rows, task, arm, percent):
    """Return R² by seed."""
    chosen = (r for r in rows if (r["task"], r["arm"], r["percent"]) == (task, arm, percent))
    return {r["seed"]: r["r2"] for r in chosen}


def comparison(rows, task, percents):
    """Return a table of arms by fraction, with the difference of the first two, seed by seed."""
    found, there = [], {r["arm"] for r in rows if r["task"] == task}
    arms = [arm for arm in SHOWN[task] if arm in there]
    for percent in percents:
        cells = {arm: by_seed(rows, task, arm, percent) for arm in arms}
        here = [r for r in rows if (r["task"], r["percent"]) == (task, percent)]
        windows = max((int(r["windows"] or 0) for r in here), default="")
        line = {"% of training data": percent, "training windows": windows}
        line |= {ARMS[arm]: shown(list(values.values())) for arm, values in cells.items()}
        frozen, scratch = (cells[arm] for arm in arms[:2])
        both = sorted(frozen.keys() & scratch.keys())
        found.append(line | {"frozen less tuned": shown([frozen[s] - scratch[s] for s in both])})
    return table_of(found)


def write(desk, recorded):
    """Write the tables and the figure of docs/transfer.md."""
    first = {"base": "POYO", "ridge": ARMS["ridge"], "ridge_wide": ARMS["ridge_wide"]}
    tables = {
        "simulated": comparison(desk, "reach", PERCENTS),
        "timing": comparison(desk, "timing", (100,)),
        "first": table_of(
            [
                {
                    "decoder": label,
                    "test R²": shown(list(by_seed(recorded, "first", a, 100).values())),
                }
                for a, label in first.items()
            ]
        ),
        "second": comparison(recorded, "second", PERCENTS),
    }
    write_tables(DOCS / "transfer.md", tables)
    figure(desk, recorded)


def figure(desk, recorded):
    """Draw R² against the fraction of training data, simulated and real."""
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 2.9), sharey=True, layout="constrained")
    panels = (
        (axes[0], desk, "reach", "simulated"),
        (axes[1], recorded, "second", "recorded, m_20140303"),
    )
    for axis, rows, task, title in panels:
        for arm in SHOWN[task]:
            found = {p: list(by_seed(rows, task, arm, p).values()) for p in PERCENTS}
            points = [(p, interval(v)[0]) for p, v in found.items() if v]
            seeds = [(p, value) for p, values in found.items() for value in values]
            if points:
                axis.plot(*zip(*points, strict=True), color=COLOURS[arm], label=ARMS[arm])
                axis.plot(*zip(*seeds, strict=True), ".", color=COLOURS[arm], alpha=0.6)
        axis.set(xscale="log", xlabel="training data, %", title=title)
        axis.set_xticks(PERCENTS, [str(p) for p in PERCENTS], minor=False)
        axis.minorticks_off()
        axis.legend(frameon=False)
    axes[0].set_ylabel("test R²")
    fig.savefig(DOCS / "transfer.png", dpi=130)
    plt.close(fig)
