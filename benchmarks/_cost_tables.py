"""Costs of shapes -> what a model costs: the tables of "What it costs" in docs/benchmarks.md."""

import heapq

import numpy as np

from benchmarks._architectures import ARCHITECTURES
from benchmarks._pages import table

DOLLARS = 0.05  # assumed price of one core for an hour
CORES = (16, 64)
# Peak rates by the vendor's data sheet: operations of float64 (tensor cores) and bytes, a second.
DEVICES = {"A100 (SXM, 80 GB)": (19.5e12, 2.04e12), "H100 (SXM)": (67e12, 3.35e12)}


def canonical(shape):
    """Return the larger side first: both orientations cost the same."""
    return max(shape), min(shape)


def operations(n, m):
    """Return the least floating-point operations of the eigenvalues of an n x m matrix, n >= m.

    n m^2 for one triangle of the Gram matrix and 4/3 m^3 for the reduction to tridiagonal form
    (Golub & Van Loan, section 8.3.1); what follows is of order m^2.
    """
    return n * m**2 + 4 / 3 * m**3


def least_bytes(n, m):
    """Return the least traffic with memory: the matrix as stored, the Gram matrix twice."""
    return 2 * n * m + 16 * m**2


def one_stage_bytes(m):
    """Return the traffic of a reduction in one stage, which reads what is left in every step.

    A triangle of k^2 / 2 values of 8 bytes for k = 1 .. m, unless it fits into the cache.
    """
    return 4 / 3 * m**3


class Costs:
    """Seconds and bytes of each shape, measured; of very long matrices by a line in n."""

    def __init__(self, rows):
        self.machine = {row["name"]: row["value"] for row in rows if row["kind"] == "machine"}
        self.models = {row["name"]: row for row in rows if row["kind"] == "model"}
        self.shapes = {
            tuple(map(int, row["name"].split("x"))): (row["value"], row["peak"])
            for row in rows
            if row["kind"] == "shape"
        }

    def of(self, shape):
        """Return seconds and peak bytes of a matrix, or NaN if its shape was not measured."""
        n, m = canonical(shape)
        if (n, m) in self.shapes:
            return self.shapes[n, m]
        same = sorted(shape for shape in self.shapes if shape[1] == m)
        if len(same) < 2:
            return np.nan, np.nan
        (low, _), (high, _) = same[0], same[-1]
        ends = np.array([self.shapes[low, m], self.shapes[high, m]])
        return tuple(ends[0] + (ends[1] - ends[0]) * (n - low) / (high - low))


def finished(seconds, cores):
    """Return when so many cores have done all, the longest first."""
    free = [0.0] * cores
    for each in sorted(seconds, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def of_shapes(costs):
    """Return the table of what one matrix of each shape costs, beside the physical limit."""
    header = [
        "matrix (bfloat16)",
        "one core",
        "limit by operations",
        "over that",
        "limit by memory bus",
        "one-stage reduction over the bus",
        "memory",
    ]
    rows = []
    for (n, m), (seconds, peak) in sorted(costs.shapes.items(), key=lambda item: item[0][::-1]):
        limit = operations(n, m) / costs.machine["flops"]
        bus = costs.machine["bus"]
        rows.append(
            [
                f"{n:,} x {m:,}",
                duration(seconds),
                duration(limit),
                f"{seconds / limit:.1f}",
                duration(least_bytes(n, m) / bus),
                duration(one_stage_bytes(m) / bus),
                size(peak),
            ]
        )
    return table(header, rows)


def of_models(costs):
    """Return the table of what a model costs: measured where its whole file was."""
    header = ["model", "matrices", "one core, measured", "computed", "limit by operations"]
    header += [f"{n} cores" for n in CORES]
    header += ["memory, one at a time", f"memory, {CORES[0]} at once", "dollars"]
    rows = []
    for model in ARCHITECTURES:
        each = [costs.of(shape) for shape, count in model.shapes.items() for _ in range(count)]
        seconds, peaks = (np.array(side) for side in zip(*each, strict=True))
        whole = costs.machine["start"] + seconds.sum()
        least = sum(operations(*canonical(s)) * count for s, count in model.shapes.items())
        measured = costs.models.get(model.name)
        interpreter = costs.machine["interpreter"]
        rows.append(
            [
                f"{model.name}, {parameters(model.parameters)}",
                len(each),
                duration(measured["value"]) if measured else "–",
                duration(whole),
                duration(least / costs.machine["flops"]),
                *(duration(costs.machine["start"] + finished(seconds, n)) for n in CORES),
                size(interpreter + peaks.max()),
                size(interpreter + np.sort(peaks)[-CORES[0] :].sum()),
                f"{whole / 3600 * DOLLARS:.2g}",
            ]
        )
    return table(header, rows)


def of_devices():
    """Return the table of limits of devices: the operations of a model over their peak rates."""
    header = ["model", *(f"{name}: operations" for name in DEVICES), "memory bus of each"]
    rows = []
    for model in ARCHITECTURES:
        totals = np.zeros(2)
        for shape, count in model.shapes.items():
            n, m = canonical(shape)
            totals += np.multiply(count, (operations(n, m), least_bytes(n, m)))
        limits = np.array([totals / rates for rates in DEVICES.values()])
        bus = ", ".join(duration(limit) for limit in limits[:, 1])
        rows.append([model.name, *(duration(limit) for limit in limits[:, 0]), bus])
    return table(header, rows)


def tables(rows):
    """Return the tables of the page."""
    costs = Costs(rows)
    return {
        "costs-models": of_models(costs),
        "costs-shapes": of_shapes(costs),
        "costs-devices": of_devices(),
    }


def duration(seconds):
    """Return seconds with two digits, in a unit that suits them."""
    for unit, length in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 2 * length or (unit == "s" and seconds >= 1):
            value = seconds / length
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    if np.isnan(seconds):
        return "not measured"
    return f"{1000 * seconds:.2g} ms" if seconds < 0.0995 else f"{1000 * seconds:.0f} ms"


def size(count):
    """Return bytes in MB or GB, with two digits."""
    if np.isnan(count):
        return "not measured"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def parameters(count):
    return f"{count / 1e9:.3g}B" if count >= 5e8 else f"{count / 1e6:.0f}M"
