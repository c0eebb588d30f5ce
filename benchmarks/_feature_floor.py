"""Networks in emulated precisions -> where their condition numbers are lost in rounding.

Rows are stored in benchmarks/results/features_STAGE.csv: `line` has one network at growing
condition numbers, `networks` has many, `arithmetic` has errors of specdiag itself, and `scatter`
has logarithms of condition numbers that differ only by the sample, or by the network.
"""

import itertools
import math
from collections import Counter

import ml_dtypes
import numpy as np

from benchmarks import _rounded_network as rounded
from benchmarks._pages import table
from benchmarks._results import read, write
from specdiag.features.conditioning import noise_floor
from specdiag.features.covariance import FeatureCovariance

PRECISIONS = ("float32", "tf32", "bfloat16")
TEXT = ("precision", "kind", "what", *(f"says {precision}" for precision in PRECISIONS))
ROWS = 2000
# The decades of the condition number at which a precision starts to be wrong.
DECADES = {"float32": range(9, 18), "tf32": range(5, 15), "bfloat16": range(3, 12)}

# d = 128, one a level of UnitDropout (off, standard, aggressive): cond, trace, top1_frac, published
# beside the checkpoints in aug_full_results.jsonl (all weights trained) and aug_results.jsonl (core
# frozen).
PUBLISHED = {
    ("trained", "off"): (1122105856165.022, 40158.322925992274, 0.6276165114040583),
    ("trained", "standard"): (876831297350.2703, 42794.532072727176, 0.5486896730900361),
    ("trained", "aggressive"): (434348143246.994, 33717.255652476466, 0.5564021421290194),
    ("frozen", "off"): (1909769363129.1387, 36954.87295655337, 0.6089941987932215),
    ("frozen", "standard"): (2165571068519.1272, 36786.458088236875, 0.6327327013373537),
    ("frozen", "aggressive"): (1641762994729.6724, 37911.66260794585, 0.6226952463573657),
}


def passes(design, precision, seed=0, rows=ROWS):
    """Return the true features of a network and those of a precision."""
    rng = np.random.default_rng(seed)
    exact = ml_dtypes.bfloat16 if precision == "bfloat16" else np.float32
    net = rounded.network(rng, dtype=exact, **design)
    x = rng.standard_normal((rows, len(net.stem))).astype(exact).astype(np.float64)
    return [rounded.features(net, x, how) for how in ("float64", precision)]


def measured(x, precision):
    seen = FeatureCovariance(precision=precision)
    for part in np.array_split(x, 50):
        seen.update(part)
    return seen.result()


def condition(values):
    return float(values[0] / values[-1])


def line(full):
    """Return rows of one network at growing condition numbers, read in every precision."""
    rows = []
    for decade in range(4, 17, 1 if full else 4):
        row = {}
        for precision in PRECISIONS:
            true, seen = passes({"kind": "residual", "condition": 10.0**decade}, precision)
            result = measured(seen, precision)
            row.setdefault("true", condition(rounded.spectrum(true)))
            row[f"read {precision}"] = result.condition_number_published
            row[f"says {precision}"] = result.condition_number_text
        rows.append(row)
    return rows


def networks(full):
    """Return rows of many networks: the true condition number, the one read, whether a bound."""
    rows = []
    for precision in PRECISIONS:
        conditions = [10.0**k for k in DECADES[precision]][:: 1 if full else 3]
        for seed, design in enumerate(rounded.designs(conditions, (6, 24) if full else (6,))):
            true, seen = passes(design, precision, seed, ROWS // 2)
            result = measured(seen, precision)
            row = {"precision": precision, "kind": design["kind"]}
            row["true"] = condition(rounded.spectrum(true))
            row["read"] = result.condition_number_published
            rows.append(row | {"is bound": float(result.condition_number_is_bound)})
    return rows


def arithmetic(full):
    """Return rows of errors of a float64 covariance with eigenvalues 1 and (nearly) 0.

    They are in units of eps64 lambda_1.
    """
    rows = []
    for d in (16, 64, 128, 384) if full else (16, 64):
        for seed, (share, mean) in enumerate(itertools.product((0.01, 0.5), (0, 30))):
            rng = np.random.default_rng(seed)
            values = np.where(np.arange(d) < max(1, share * d), 1, 1e-18)
            rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
            x = (rng.standard_normal((4 * ROWS, d)) * np.sqrt(values)) @ rotation + mean
            exact = rounded.spectrum(x)
            error = np.abs(measured(x, "float64").eigenvalues - exact)[values < 1].max()
            error /= exact[0] * np.finfo(np.float64).eps
            rows.append({"d": d, "share": share, "mean": mean, "error": float(error)})
    return rows


def scatter(full):
    """Return rows of log condition numbers: of several samples, and of several networks."""
    repeats = range(20 if full else 4)
    nets = [
        rounded.network(np.random.default_rng(seed), kind="residual", condition=1e11)
        for seed in repeats
    ]
    cases = [
        (f"samples of {n:,} independent rows, one network", nets[0], seed, n)
        for n in (500, 2000, 8000)
        for seed in repeats
    ]
    cases += [("random initialisations, 2,000 rows", net, 0, 2000) for net in nets]
    rows = []
    for what, net, seed, n in cases:
        x = np.random.default_rng([7, seed]).standard_normal((n, len(net.stem)))
        values = rounded.spectrum(rounded.features(net, x, "float64"))
        rows.append({"what": what, "log": math.log(condition(values))})
    return rows


def line_table(rows):
    lines = []
    for row in rows:
        cells = [f"{row['true']:.1e}"]
        for precision in PRECISIONS:
            cells += [f"{row[f'read {precision}']:.1e}", row[f"says {precision}"]]
        lines.append(cells)
    header = ["true", *itertools.chain(*([f"read in {p}", "specdiag says"] for p in PRECISIONS))]
    return table(header, lines)


def networks_table(rows):
    """Return a table of how often the reading is wrong, and how often flagged."""
    lines = []
    for precision in PRECISIONS:
        counts = Counter()
        for row in rows:
            if row["precision"] == precision:
                ratio = row["read"] / row["true"]
                counts[not 1 / 2 < ratio < 2, bool(row["is bound"])] += 1
                counts["far"] += not 1 / 10 < ratio < 10
        wrong, right = (counts[k, True] + counts[k, False] for k in (True, False))
        flagged = [f"{counts[True, True]} of {wrong}", f"{counts[False, True]} of {right}"]
        lines.append([precision, wrong + right, counts["far"], *flagged])
    header = ["precision", "networks", "wrong tenfold", "flagged where wrong"]
    return table([*header, "flagged where right"], lines)


def arithmetic_table(rows):
    largest = {}
    for row in rows:
        largest[row["d"]] = max(largest.get(row["d"], 0.0), row["error"])
    header = ["d", "largest error / (eps64 lambda_1)", "floor / (eps64 lambda_1)"]
    lines = [[f"{d:.0f}", f"{e:.1f}", f"{2 * math.sqrt(d):.1f}"] for d, e in largest.items()]
    return table(header, lines)


def scatter_table(rows):
    logs = {}
    for row in rows:
        logs.setdefault(row["what"], []).append(row["log"])
    lines = []
    for what, values in logs.items():
        sd = float(np.std(values, ddof=1))
        factor = math.exp(1.96 * math.sqrt(2) * sd)
        lines.append([what, f"{sd:.3f}", f"1/{factor:.2f} to {factor:.2f}"])
    return table(["what varies", "sd of log", "95 % range of the ratio of two"], lines)


def published_table():
    """Return a table of which precision resolves the published condition numbers.

    The features are taken to have no mean.
    """
    lines = []
    for (arm, level), (cond, trace, top1) in PUBLISHED.items():
        largest, cells = top1 * trace, [arm, level, f"{cond:.2e}"]
        # With eigenvalues of zero the floor is that of the forward pass; float64 is that of the
        # covariance.
        for precision in (*PRECISIONS, "float64"):
            values = np.full(128, largest if precision == "float64" else 0.0)
            floor, _ = noise_floor(values, second_moment=trace / 128, precision=precision)
            limit = largest / floor
            cells.append(f"{limit:.1e}: {'resolved' if cond < limit else '**not resolved**'}")
        lines.append(cells)
    header = ["weights", "UnitDropout", "published", "float32", "TF32", "bfloat16"]
    return table([*header, "float64 covariance"], lines)


# What is measured, and the table of docs/features.md that shows it.
STAGES = {
    "line": (line, "floor-line", line_table),
    "networks": (networks, "floor-counts", networks_table),
    "arithmetic": (arithmetic, "arithmetic", arithmetic_table),
    "scatter": (scatter, "scatter", scatter_table),
}


def simulate(stage, full):
    """Measure a stage, store its rows if it is measured in full, and return its table."""
    measure, _, make = STAGES[stage]
    rows = measure(full)
    if full:
        write(f"features_{stage}", rows)
    return make(rows)


def tables():
    """Return the tables of docs/features.md about rounding, from the stored rows."""
    shown = {
        name: make(read(f"features_{stage}", TEXT)) for stage, (_, name, make) in STAGES.items()
    }
    return shown | {"published": published_table()}
