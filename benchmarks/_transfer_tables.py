"""Tables of docs/transfer.md, from the rows that `benchmarks.transfer` measured."""

import numpy as np

from benchmarks._pages import table_of
from benchmarks._results import read
from specdiag.htsr.statistics import mean_interval

UNSEEN = ("t_20130819", "t_20130821", "t_20130823")
PERCENTS = (10, 25, 50, 100)
LEVELS = ("off", "standard", "aggressive")
ARMS = {
    "pretrained": "frozen base",
    "scratch": "scratch",
    "scratch_tuned": "scratch, tuned",
    "ridge": "ridge, 3 bins",
    "ridge_wide": "ridge, 11 bins",
}


def shown(values):
    """Return mean, 95 % interval over seeds by Student's t, and number of values, as text."""
    if len(values) < 2:
        return "".join(f"{value:.3f}" for value in values)
    low, high = mean_interval(np.array(values))
    return f"{np.mean(values):.3f} ± {(high - low) / 2:.3f} ({len(values)})"


def shown_ratio(values):
    """Return the geometric mean of ratios with its 95 % interval, and their number, as text."""
    if len(values) < 2:
        return "".join(f"{value:.2f}" for value in values)
    logs = np.log(values)
    low, high = np.exp(mean_interval(logs))
    middle = np.exp(logs.mean())
    return f"{middle:.2f} ({low:.2f} to {high:.2f}; {len(values)})"


def by_seed(rows, task, arm, percent=100, level=None, of="r2"):
    """Return R², or another column, of one task, arm and fraction, by seed."""
    return {
        r["seed"]: r[of]
        for r in rows
        if (r["task"], r["arm"], r["percent"]) == (task, arm, percent)
        and level in (None, r["unit_dropout"])
    }


def less(first, second):
    """Return the mean difference over the seeds that both have, as text."""
    return shown([first[s] - second[s] for s in sorted(first.keys() & second.keys())])


def decoders(rows, task, base):
    """Return a table of R² of one network and of the ridge decoders."""
    names = {base: "POYO", "ridge": ARMS["ridge"], "ridge_wide": ARMS["ridge_wide"]}
    return table_of(
        [
            {"decoder": label, "test R²": shown(list(by_seed(rows, task, arm).values()))}
            for arm, label in names.items()
        ]
    )


def arms(rows, task, percents):
    """Return a table of arms by fraction, with the difference of the first two, seed by seed."""
    lines = []
    for percent in percents:
        cells = {arm: by_seed(rows, task, arm, percent) for arm in ARMS}
        windows = max(r["windows"] for r in rows if (r["task"], r["percent"]) == (task, percent))
        line = {"% of training data": percent, "training windows": int(windows)}
        line |= {ARMS[arm]: shown(list(values.values())) for arm, values in cells.items()}
        tuned = less(cells["pretrained"], cells["scratch_tuned"])
        lines.append(line | {"frozen less tuned": tuned})
    return table_of(lines)


def levels(rows):
    """Return a table of UnitDropout by fraction of the second monkey's data; all weights train."""
    lines = []
    for percent in (10, 25, 100):
        cells = {v: by_seed(rows, "second", "plastic", percent, v) for v in LEVELS}
        number = {
            v: by_seed(rows, "second", "plastic", percent, v, "condition_number") for v in LEVELS
        }
        off, most = number["off"], number["aggressive"]
        ratio = [off[s] / most[s] for s in sorted(off.keys() & most.keys())]
        line = {"% of training data": percent}
        line |= {f"R², {v}": shown(list(values.values())) for v, values in cells.items()}
        line["R², aggressive less off"] = less(cells["aggressive"], cells["off"])
        lines.append(line | {"condition number, off over aggressive": shown_ratio(ratio)})
    return table_of(lines)


def of_lock():
    """Return R² by seed of the lock's entries at desk scale, as `benchmarks.claims` wrote them."""
    r2 = {}
    for row in read("claims"):
        if row["quantity"] == "r2":
            r2.setdefault(row["entry"], {})[row["seed"]] = row["value"]
    return r2


def unseen(rows):
    """Return a table of the simulated animal that no base has seen: means over its sessions."""
    whole, lines = of_lock(), []
    for percent in PERCENTS:
        cells = {}
        for arm in ("pretrained", "scratch_tuned"):
            sessions = [by_seed(rows, session, arm, percent) for session in UNSEEN]
            if percent == 100:
                sessions = [whole[f"cross_subject/{session}_{arm}"] for session in UNSEEN]
            seeds = set.intersection(*map(set, sessions))
            cells[arm] = {seed: np.mean([r[seed] for r in sessions]) for seed in seeds}
        line = {"% of training data": percent}
        line |= {ARMS[arm]: shown(list(values.values())) for arm, values in cells.items()}
        lines.append(line | {"frozen less tuned": less(*cells.values())})
    return table_of(lines)


def others():
    """Return a table of the simulated area 2, by fraction, and of timing."""
    whole, lines = of_lock(), []
    names = {f"area2, {p} %": f"data_efficiency/{{}}_{p}" for p in PERCENTS}
    names |= {"timing, constant": "transfer/dmfc_const_{}", "timing, ramp": "timing_ramp/{}"}
    for label, name in names.items():
        cells = {arm: whole[name.format(arm)] for arm in list(ARMS)[:3]}
        line = {"recording": label}
        line |= {ARMS[arm]: shown(list(values.values())) for arm, values in cells.items()}
        tuned = less(cells["pretrained"], cells["scratch_tuned"])
        lines.append(line | {"frozen less tuned": tuned})
    return table_of(lines)


def tables(rows):
    """Return the tables of docs/transfer.md."""
    (clock,) = by_seed(rows, "timing", "clock").values()
    return {
        "unseen": unseen(rows),
        "others": others(),
        "clock": table_of([{"decoder": "clock alone", "test R²": f"{clock:.3f}"}]),
        "first": decoders(rows, "first", "base"),
        "second": arms(rows, "second", PERCENTS),
        "levels": levels(rows),
        "rat": arms(rows, "rat", (100,)),
    }
