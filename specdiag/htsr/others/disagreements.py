"""Layers with the numbers of packages -> a line for each that differs from ours, with its cause."""

import math
from collections.abc import Sequence

import numpy as np

from specdiag.htsr.layers import Layer
from specdiag.htsr.others.packages import PACKAGES
from specdiag.htsr.others.weightwatcher import WEIGHTWATCHER_FLOOR, fit_weightwatcher
from specdiag.wording import counted, some

TOLERANCE = 1e-4  # relative, of alpha: weightwatcher's are of float32 singular values
LIMIT = 3.0  # of alpha in powerlaw 2, by default
_MORE = 15_000, 50_000  # eigenvalues, and the longer side, that weightwatcher does not analyse


def disagreements(layers: Sequence[Layer]) -> list[str]:
    """Return a line for each cause, package and status, with the layers that it holds for.

    Compared are `alpha_ks`, which is by the same rule, and the alpha of the package.
    """
    lines: dict[str, list[str]] = {}
    for name in PACKAGES:
        for layer in layers:
            if cause := _cause(name, layer):
                lines.setdefault(f"{name}: {cause}", []).append(layer.name)
    found = [f"{cause}: {some(names)}" for cause, names in lines.items()]
    twice = [x.name for x in layers if x.reason.startswith(("tied to", "a copy of"))]
    if twice and any("weightwatcher_status" in layer.beside for layer in layers):
        matrices = counted(len(twice), "matrix", "matrices")
        found.append(
            f"weightwatcher: of the whole file it measures {matrices} a second time, tied to, or a "
            f"copy of, another one: {some(twice)}"
        )
    return found


def _cause(name: str, layer: Layer) -> str:
    """Return why a package's alpha is not `alpha_ks`, or an empty string if it is."""
    status = layer.beside.get(f"{name}_status", "")
    if not status:
        return ""
    theirs, ours = layer.beside[f"{name}_alpha"], layer.tail.alpha
    if status == "success" and math.isclose(theirs, ours, rel_tol=TOLERANCE):
        return ""
    if layer.exponent:
        return "the weight was divided first, as its squares leave float64"
    return (_of_weightwatcher if name == "weightwatcher" else _of_powerlaw)(layer, status)


def _of_weightwatcher(layer: Layer, status: str) -> str:
    N, values = max(layer.shape[:2]), layer.eigenvalues
    scaled = values * (N / 2 if len(layer.shape) > 2 else N)
    if status == "not analysed":
        large = len(values) > _MORE[0] or _MORE[1] < N
        return "it does not analyse matrices this large" if large else "it does not analyse it"
    if status not in ("success", "failed"):
        return status
    if scaled[0] <= WEIGHTWATCHER_FLOOR:
        return "no eigenvalue of W'W is above its absolute threshold 1e-5: alpha -1, status failed"
    if status == "failed":
        return "it found no fit: alpha -1, status failed"
    theirs = layer.beside["weightwatcher_alpha"]
    again = fit_weightwatcher(layer.shape, values)
    if again["status"] == "fit" and math.isclose(again["tail"].alpha, theirs, rel_tol=TOLERANCE):
        gate = int(layer.rank)
        kept = int(np.count_nonzero(scaled > WEIGHTWATCHER_FLOOR))
        if kept < gate:
            return "eigenvalues of W'W below its absolute threshold 1e-5 are left out"
        if kept > gate:
            return f"eigenvalues that are only rounding of {layer.dtype} are taken"
        if math.isnan(layer.tail.alpha):
            return f"a fit of what is {layer.status} here"
    return f"alpha {theirs:.4g}, and {layer.tail.alpha:.4g} here, without a known cause"


def _of_powerlaw(layer: Layer, status: str) -> str:
    if status != "success":
        return status
    theirs, ours = layer.beside["powerlaw_alpha"], layer.tail.alpha
    if math.isnan(ours):
        return f"a fit of what is {layer.status} here"
    if ours > LIMIT and theirs <= LIMIT + TOLERANCE:
        return "its alpha is at most 3, by its default range; that of the nearest tail is larger"
    return f"alpha {theirs:.4g}, and {ours:.4g} here, without a known cause"
