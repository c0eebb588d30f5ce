"""The ladder of nulls: false alarms on matrices in which nothing was learned, and power.

    python -m benchmarks.null_ladder [--full] [--only PART ...] [--share K/N] [--write-docs]

Writes into benchmarks/results: ladder.csv, one row a kind and shape of matrix; many_layers.csv, how
many of 20 heavy layers among 224 are found; shuffled_labels.csv, networks that were trained on true
and on shuffled labels. Every matrix of ladder.csv gets the p-values of both rungs, although the
tool leaves out the second where the first is above 0.05. A cell of unlearned matrices with more
than 6 % of false alarms is measured again, with five times as many new matrices. Full takes about
half an hour on one core; with `--share`, one of N processes measures every N-th cell, and writes
ladder_K.csv: the last one to end joins them.
"""

import argparse
import logging
import math

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import _ladder_families as families
from benchmarks._pages import DOCS, table, write_tables
from benchmarks._results import FOLDER, read, write
from benchmarks._shuffled_labels import shuffled_labels
from benchmarks._tables import percent, rate
from specdiag.htsr import esd
from specdiag.htsr.null import law
from specdiag.htsr.null.draws import gaussian_spectrum
from specdiag.htsr.null.ladder import false_discovery_rate, scales_test
from specdiag.htsr.tail.posterior import alpha_posterior, posterior_mean

SHAPES = ((128, 128), (384, 96), (300, 310), (256, 1024))
LEVEL = 0.05
AGAIN = 0.06  # share of false alarms above which a cell is measured again
TEXT = ("group", "kind", "shape")

_log = logging.getLogger(__name__)


def p_values(W):
    """Return the p-values of the Gaussian rung and of the scales rung; 1 without an alpha."""
    W = np.asarray(W, dtype=np.float32)
    values = esd.resolved_eigenvalues(esd.eigenvalues(W), W.shape, W.dtype)
    first = law.p_value(alpha_posterior(values).mean, W.shape)
    second = scales_test(lambda: W, W.dtype)[0]
    return np.nan_to_num([first, second], nan=1.0)


def cells():
    """Yield (group, kind, shape, draw): draw takes a generator."""
    groups = {"unlearned": families.UNLEARNED, "learned": families.LEARNED, "both": families.BOTH}
    for group, kinds in groups.items():
        for kind, draw in kinds.items():
            for n, m in SHAPES:
                yield group, kind, (n, m), lambda rng, f=draw, n=n, m=m: f(rng, n, m)
    for kind, draw in families.KERNELS.items():
        for shape in families.KERNEL_SHAPES:
            yield "unlearned", kind, shape, lambda rng, f=draw, shape=shape: f(rng, shape)


def ladder(full, share="0/1"):
    """Write the rates at 5 % of the cells."""
    count = 120 if full else 20
    first, step = map(int, share.split("/"))
    rows = []
    for index, (group, kind, shape, draw) in enumerate(cells()):
        if index % step != first:
            continue
        size = count if shape in SHAPES[:2] else count // 2
        p = _measure(draw, [8, index], size)
        if group == "unlearned" and np.mean(p.max(axis=1) <= LEVEL) > AGAIN:
            p = _measure(draw, [9, index], 5 * size)
        row = {"index": index, "group": group, "kind": kind, "shape": "x".join(map(str, shape))}
        tests = {"gaussian": p[:, 0], "scales": p[:, 1], "both": p.max(axis=1)}
        rates = {name: float(np.mean(x <= LEVEL)) for name, x in tests.items()}
        rows.append(row | {"count": len(p)} | rates)
        _log.info("%s", rows[-1])
    name = "ladder" if step == 1 else f"ladder_{first}"
    write(name, rows)
    parts = [FOLDER / f"ladder_{i}.csv" for i in range(step)]
    if step > 1 and all(part.exists() for part in parts):
        joined = [row for i in range(step) for row in read(f"ladder_{i}", TEXT)]
        write("ladder", sorted(joined, key=lambda row: row["index"]))
        for part in parts:
            part.unlink()


def _measure(draw, seed, count):
    rng = np.random.default_rng(seed)
    return np.array([p_values(draw(rng)) for _ in range(count)])


def many_layers(full, N=1536, M=1100, layers=224, heavy=20):
    """Write how many layers of a large network are found, if few of them are heavy."""
    rng = np.random.default_rng(10)
    draw = families.population(2.5)
    signal = [p_values(draw(rng, N, M)).max() for _ in range(heavy)]
    rows = []
    for _ in range(5 if full else 2):
        alphas = [posterior_mean(gaussian_spectrum(rng, N, M)) for _ in range(layers - heavy)]
        q = false_discovery_rate([*signal, *(law.p_value(alpha, (N, M)) for alpha in alphas)])
        found = q <= LEVEL
        rows.append({"found": int(found[:heavy].sum()), "false": int(found[heavy:].sum())})
    write("many_layers", rows)


def _cells_of(group):
    return [row for row in read("ladder", TEXT) if row["group"] == group]


def _by_kind(*groups):
    rows = [row for group in groups for row in _cells_of(group)]
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        these = [row for row in rows if row["kind"] == kind]
        shares = [f"{100 * x['gaussian']:.0f} / {percent(x['both'])}" for x in these]
        lines.append([kind, *shares])
    return table(["matrix", *(f"{n} × {m}" for n, m in SHAPES)], lines)


def layers_found():
    rows = read("many_layers")
    found = [row["found"] for row in rows]
    cells = [len(rows), f"{np.mean(found):.1f} (least {min(found):.0f})"]
    cells.append(f"{np.mean([row['false'] for row in rows]):.2f}")
    return table(["networks", "of 20 heavy layers found", "of 204 others called heavy"], [cells])


def networks():
    lines = [
        [
            *(row["labels"], percent(row["train"]), percent(row["test"])),
            *(f"{row[name]:.1f}" for name in ("first", "second", "third")),
            f"{row['least_z']:.1f}",
            f"{row['largest_p']:.2g}",
        ]
        for row in read("shuffled_labels", ("labels",))
    ]
    header = ["labels", "training accuracy, %", "test accuracy, %", "alpha of layer 1", "2", "3"]
    return table([*header, "smallest distance, sd", "largest `null_p`"], lines)


def key_numbers():
    """Return the rows of this benchmark in the table of the page's first section."""
    unlearned, learned = _cells_of("unlearned"), _cells_of("learned")
    label = (
        f"false alarms at 5 % over {len(unlearned)} cells of unlearned matrices: mean, worst cell"
    )
    rows = {}
    for name, words in (("both", "the ladder"), ("gaussian", "the Gaussian null alone")):
        worst = max(unlearned, key=lambda row: row[name])
        mean = percent(np.mean([row[name] for row in unlearned]))
        at = f"{worst['kind']}, {worst['shape']}"
        rows[f"{label}; {words}"] = f"{mean} %, {rate(worst[name], worst['count'])} % ({at})"
    loss = max(learned, key=lambda row: row["gaussian"] - row["both"])
    points = 100 * (loss["gaussian"] - loss["both"])
    error = 100 * math.sqrt(points / 100 / loss["count"])
    rows["power that the second rung takes away: largest of the cells"] = (
        f"{points:.1f} ± {error:.1f} points ({loss['kind']}, {loss['shape']})"
    )
    found = [row["found"] for row in read("many_layers")]
    rows["of 20 heavy layers among 224 found at q ≤ 0.05: mean"] = f"{np.mean(found):.1f}"
    return rows


TABLES = {
    "ladder": lambda: _by_kind("unlearned"),
    "ladder-power": lambda: _by_kind("learned", "both"),
    "many-layers": layers_found,
    "shuffled-labels": networks,
}
PARTS = {"ladder": ladder, "many-layers": many_layers, "shuffled-labels": shuffled_labels}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the counts of the page")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="these parts; none: only docs")
    parser.add_argument("--share", default="0/1", help="K/N: every N-th cell from the K-th on")
    parser.add_argument("--write-docs", action="store_true", help="write the tables of the page")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    chosen = list(PARTS) if arguments.only is None else arguments.only
    with threadpool_limits(1):
        for name in chosen:
            extra = {"share": arguments.share} if name == "ladder" else {}
            PARTS[name](arguments.full, **extra)
    if arguments.write_docs:
        write_tables(DOCS / "calibration.md", {name: make() for name, make in TABLES.items()})


if __name__ == "__main__":
    main()
