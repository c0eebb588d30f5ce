"""A model and a split -> its R² and the covariance of its features, from one pass over the split.

Windows of the split follow each other at half a window. Where they overlap, the predictions for a
timestamp are averaged (stitched). The R² of a session is 1 - sum (y - p)² / sum (y - mean y)² over
the timestamps in its evaluation intervals, for each output dimension, averaged uniformly over the
dimensions. The R² of a model is the mean over sessions. Features are the input of the readout, at
every output timestamp of every window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdiag.features.attach import attach
from specdiag.features.conditioning import FeatureSpectrum

from ..data.arrays import Arrays, Floats
from ..data.batches import Batch, Batches

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """R² of a model, as a mean and by session, and the spectrum of its features."""

    r2: float
    by_session: dict[str, float]
    features: FeatureSpectrum


def evaluate(
    model: Any, batches: Batches, split: str, *, step: float, device: Any = "cpu"
) -> Evaluation:
    """Return R² and the features of a model on a split; the model is left in mode `eval`.

    Parameters
    ----------
    model : torch_brain.models.POYO
    batches : Batches
    split : {'valid', 'test'}
    step : float
        Seconds from one window to the next.
    device : torch.device or str
        Device of the model.

    Raises
    ------
    ValueError
        If a session has no window, or fewer than two evaluated timestamps.
    """
    arrays = batches.arrays
    with attach(model, "readout") as features:

        def expect(batch: Batch) -> None:
            features.expect(groups=groups_of(batch, batches.arrays), mask=batch.mask)

        stitched = predict(model, batches, split, step=step, device=device, before=expect)
    by_session = r2_by_session(*stitched, arrays, split)
    return Evaluation(
        r2=float(np.mean(list(by_session.values()))),
        by_session=by_session,
        features=features.result(),
    )


def groups_of(batch: Batch, arrays: Arrays) -> list[str]:
    """Return the group of each window: windows of one interval of a session overlap."""
    pairs = zip(batch.session, batch.interval, strict=True)
    return [f"{arrays.sessions[session]}/{interval}" for session, interval in pairs]


def predict(
    model: Any,
    batches: Batches,
    split: str,
    *,
    step: float,
    device: Any = "cpu",
    before: Callable[[Batch], object] | None = None,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the stitched prediction for every output of the arrays, and whether there is one.

    Parameters
    ----------
    before : callable, optional
        Called with each batch, before the model is.

    Returns
    -------
    predictions : ndarray of shape (n_outputs, dim_out)
        NaN outside of all windows.
    seen : ndarray of bool of shape (n_outputs,)
        Whether an output lies in a window.
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
    """Return R² of stitched predictions for every session.

    Raises
    ------
    ValueError
        If a session has fewer than two predicted timestamps in its evaluation intervals.
    """
    by_session = {}
    for i, name in enumerate(arrays.sessions):
        outputs = slice(*arrays.output_offset[i : i + 2])
        used = arrays.evaluated[outputs] & seen[outputs]
        if used.sum() < 2:
            raise ValueError(
                f"session {name}: {used.sum()} timestamps of the {split} windows lie in the "
                "evaluation intervals, two are needed; record longer, or declare other intervals"
            )
        targets = arrays.values[outputs][used].astype(float)
        by_session[name] = r2_score(targets, predictions[outputs][used])
    return by_session


def r2_score(target: Floats, prediction: Floats) -> float:
    """Return R², averaged uniformly over outputs; both arrays have shape (n, dim_out)."""
    residual = ((target - prediction) ** 2).sum(axis=0)
    total = ((target - target.mean(axis=0)) ** 2).sum(axis=0)
    return float(np.mean(1 - residual / total))
