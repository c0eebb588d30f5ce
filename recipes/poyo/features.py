"""A trained entry -> the features of layers of its model: the `measure` of recipes.

The model runs over the same windows as in its evaluation.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from specdiag.features.attach import attach
from specdiag.lock.recipe import Job

from ..data.batches import Batch
from .evaluate import BATCH, groups_of
from .run import device, loaded, recordings

# A module reads tokens of one of three kinds: those that end so in the encoder read spikes, and all
# others up to the decoder latents; the decoder and the readout read a query for each output.
CONTEXT = ("norm_context", "to_kv")


def measure(job: Job, layers: Sequence[str]) -> Mapping[str, Any]:
    """Return the covariance of the input of each layer by name; of the readout if none is named.

    Windows of one interval of a session overlap and form a group. Padding does not count.

    Parameters
    ----------
    job : Job
        Its `output` is the checkpoint.
    layers : sequence of str
        Names of modules of POYO, or patterns: ``'proc_layers.0'``, ``'dec_*'``, ``'*'``.

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    import torch

    model, batches = loaded(job, recordings(job), job.output)
    model.eval()
    step, where = job.params["data"]["eval_step"], device()
    names = {called(name): name for name in layers or ["readout"]}
    with torch.no_grad(), attach(model, names, feature_axis=-1) as attached:
        for batch in batches.evaluation("test", BATCH, step):
            groups = groups_of(batch, batches.arrays)
            for name, covariance in attached.items():
                covariance.expect(groups=groups, mask=mask_of(name, batch))
            model(**{key: values.to(where) for key, values in batch.inputs.items()})
    return {names.get(name, name): covariance for name, covariance in attached.items()}


def called(layer: str) -> str:
    """Return the part of a layer that is called first: POYO calls the two of a processing layer."""
    return f"{layer}.0" if re.fullmatch(r"proc_layers\.\d+", layer) else layer


def mask_of(name: str, batch: Batch) -> Any:
    """Return which tokens count among those that a module of POYO reads; None: all."""
    context = name.endswith(CONTEXT)
    if name.startswith("enc_") and context:
        return batch.inputs["input_mask"]
    if name == "readout" or (name.startswith("dec_") and not context):
        return batch.mask
    return None
