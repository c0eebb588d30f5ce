"""R² of a model on a split, and the covariance of its features there, out of one pass.

Windows of the split follow each other by half a window; where they overlap, predictions are averaged
for every timestamp (stitched). R² is that of each output dimension over the timestamps in the
evaluation intervals of a session, 1 - sum (y - p)² / sum (y - mean y)², then averaged uniformly over
dimensions; the R² of a model is the mean over sessions. Features are the input of the readout, at every
output timestamp of every window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdiag.features.conditioning import FeatureSpectrum
from specdiag.features.covariance import attach

from ..data.arrays import Arrays, Floats
from ..data.batches import Batch, Batches

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """R² of a model, by session, and the spectrum of its features."""

    r2: float
    by_session: dict[str, float]
    features: FeatureSpectrum


def evaluate(
    model: Any, batches: Batches, split: str, *, step: float, device: Any = "cpu"
) -> Evaluation:
    """Return R² and the features of a model on a split; leaves the model in `eval`.

    Parameters
    ----------
    model : torch_brain.models.POYO
    batches : Batches
    split : {'valid', 'test'}
    step : float
        Seconds from window to window.
    device : torch.device or str
        That of the model.

    Raises
    ------
    ValueError
        When a session has no window, or fewer than two evaluated timestamps.
    """
    arrays = batches.arrays
    with attach(model, "readout") as features:

        def expect(batch: Batch) -> None:  # windows of one interval overlap: they are one group
            pairs = zip(batch.session, batch.interval, strict=True)
            groups = [f"{arrays.sessions[s]}/{i}" for s, i in pairs]
            features.expect(groups=groups, mask=batch.mask)

        stitched = predict(model, batches, split, step=step, device=device, before=expect)
    found = r2_by_session(*stitched, arrays, split)
    return Evaluation(
        r2=float(np.mean(list(found.values()))), by_session=found, features=features.result()
    )


def predict(
    model: Any,
    batches: Batches,
    split: str,
    *,
    step: float,
    device: Any = "cpu",
    before: Callable[[Batch], object] | None = None,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the stitched prediction for every output of the arrays, and whether a window held it.

    Parameters
    ----------
    before : callable, optional
        Called with each batch before the model is.

    Returns
    -------
    predictions : ndarray of shape (n_outputs, dim_out)
        NaN where no window lies.
    seen : ndarray of bool of shape (n_outputs,)
    """
    import torch

    model.eval()
    total = np.zeros(batches.arrays.values.shape)
    count = np.zeros(len(total))
    with torch.no_grad():
        for batch in batches.evaluation(split, BATCH, step):
            if before:
                before(batch)
            inputs = {name: values.to(device) for name, values in batch.inputs.items()}
            mask = batch.mask.numpy()
            output = batch.output.numpy()[mask]
            np.add.at(total, output, model(**inputs).double().cpu().numpy()[mask])
            np.add.at(count, output, 1)
    with np.errstate(invalid="ignore"):
        return total / count[:, None], count > 0


def r2_by_session(
    predictions: Floats, seen: NDArray[np.bool_], arrays: Arrays, split: str
) -> dict[str, float]:
    """Return R² of stitched predictions for every session."""
    found = {}
    for i, name in enumerate(arrays.sessions):
        mine = slice(*arrays.output_offset[i : i + 2])
        counts = arrays.evaluated[mine] & seen[mine]
        if counts.sum() < 2:
            raise ValueError(
                f"session {name}: {counts.sum()} timestamps of the {split} windows lie in the evaluation "
                "intervals, two are needed; record longer, or declare other intervals"
            )
        found[name] = r2_score(arrays.values[mine][counts].astype(float), predictions[mine][counts])
    return found


def r2_score(target: Floats, prediction: Floats) -> float:
    """Return the coefficient of determination, averaged uniformly over outputs; both are (n, dim_out)."""
    residual = ((target - prediction) ** 2).sum(axis=0)
    total = ((target - target.mean(axis=0)) ** 2).sum(axis=0)
    return float(np.mean(1 - residual / total))
