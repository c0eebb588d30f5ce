"""A process that runs one of the field's packages: matrices on stdin, their numbers on stdout.

`packages` starts it. Importing weightwatcher silences warnings, resets logging and prints; a fit of
either can crash or hang; so neither is ever imported in the process that measures. Each request is
a line of JSON with `shape`, `dtype` and `scale`, and the bytes of the weight, or of its
eigenvalues; each answer is a line of JSON.
"""

import io
import json
import math
import os
import sys
import warnings
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


def main() -> None:
    """Answer requests until stdin ends; the argument is the name of the package."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the package prints is no answer
    warnings.simplefilter("ignore")
    run = {"weightwatcher": _weightwatcher, "powerlaw": _powerlaw}[sys.argv[1]]
    __import__(sys.argv[1])
    _answer(answers, {"status": "ready"})
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        dtype = np.dtype(request["dtype"])
        size = math.prod(request["shape"]) * dtype.itemsize
        data = np.frombuffer(bytearray(sys.stdin.buffer.read(size)), dtype)
        try:
            answer = run(data.reshape(request["shape"]), request["scale"])
        except Exception as error:  # noqa: BLE001 - one layer never costs the others
            answer = {"status": f"{type(error).__name__}: {error}"}
        _answer(answers, answer)


def _answer(stream: BinaryIO, values: dict[str, Any]) -> None:
    known = {k: v for k, v in values.items() if isinstance(v, str) or math.isfinite(v)}
    stream.write(json.dumps(known).encode() + b"\n")
    stream.flush()


def _weightwatcher(W: NDArray[np.generic], scale: float) -> dict[str, Any]:
    """Return what `analyze()` with its defaults reports of a network of this one layer."""
    import torch
    import weightwatcher

    if W.ndim == 2:
        layer: Any = torch.nn.Linear(W.shape[1], W.shape[0], bias=False)
    else:
        layer = torch.nn.Conv2d(W.shape[1], W.shape[0], W.shape[2:], bias=False)
    layer.weight.data = torch.from_numpy(W)
    sys.stdout = io.StringIO()
    table = weightwatcher.WeightWatcher(model=torch.nn.Sequential(layer)).analyze()
    if not len(table):
        return {"status": "not analysed"}
    (row,) = table.to_dict("records")
    if row["status"] != "success" or not row["alpha"] > 0:
        return {"status": str(row["status"])}
    return {
        "status": "success",
        "alpha": float(row["alpha"]),
        "xmin": float(row["xmin"]) / scale,
        "D": float(row["D"]),
        "n_tail": float(row["num_pl_spikes"]),
    }


def _powerlaw(eigenvalues: NDArray[np.float64], _scale: float) -> dict[str, Any]:
    """Return what `Fit` with its defaults finds, and two alternatives above its xmin."""
    import powerlaw

    fit = powerlaw.Fit(eigenvalues, verbose=False)
    values = {
        "alpha": float(fit.alpha),
        "xmin": float(fit.xmin),
        "D": float(fit.D),
        "n_tail": float(len(fit.data)),
        "truncated_alpha": float(fit.truncated_power_law.alpha),
        "truncated_lambda": float(fit.truncated_power_law.Lambda),
        "lognormal_mu": float(fit.lognormal.mu),
        "lognormal_sigma": float(fit.lognormal.sigma),
    }
    for name in ("truncated", "lognormal"):
        other = "truncated_power_law" if name == "truncated" else name
        ratio, p = fit.distribution_compare("power_law", other)
        values |= {f"{name}_ratio": float(ratio), f"{name}_p": float(p)}
    return {"status": "success", **values}


if __name__ == "__main__":
    main()
