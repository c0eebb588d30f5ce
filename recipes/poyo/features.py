"""A trained entry -> the features of layers of its model: the `measure` of recipes.

The model runs over the same windows as in its evaluation.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
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
    """Return the covariance of the input of each layer, by name; without layers of the readout.

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
    with torch.no_grad(), ExitStack() as stack:
        attached = {
            name: stack.enter_context(attach(model, called(model, name), feature_axis=-1))
            for name in chosen(model, layers or ["readout"])
        }
        for batch in batches.evaluation("test", BATCH, step):
            groups = groups_of(batch, batches.arrays)
            for name, covariance in attached.items():
                covariance.expect(groups=groups, mask=mask_of(name, batch))
            model(**{key: values.to(where) for key, values in batch.inputs.items()})
    return attached


def chosen(model: Any, patterns: Sequence[str]) -> list[str]:
    """Return the layers of a model that are named, and its Linear layers that match a pattern.

    Raises
    ------
    ValueError
        If none has such a name.
    """
    import torch

    modules = dict(model.named_modules())
    linear = [name for name, module in modules.items() if isinstance(module, torch.nn.Linear)]
    found: set[str] = set()
    for pattern in patterns:
        names = [pattern] if pattern in modules else [n for n in linear if fnmatchcase(n, pattern)]
        if not names:
            raise ValueError(f"no layer {pattern}; the model has {', '.join(linear)}")
        found.update(names)
    return [name for name in modules if name in found]  # in the order of the forward pass


def called(model: Any, name: str) -> str:
    """Return the first part of a layer that is called: POYO calls the two of a processing layer."""
    layers = [f"proc_layers.{i}" for i in range(len(model.proc_layers))]
    return f"{name}.0" if name in layers else f"{name}.0.0" if name == "proc_layers" else name


def mask_of(name: str, batch: Batch) -> Any:
    """Return which tokens count among those that a module of POYO reads; None: all."""
    context = name.endswith(CONTEXT)
    if name.startswith("enc_") and context:
        return batch.inputs["input_mask"]
    if name == "readout" or (name.startswith("dec_") and not context):
        return batch.mask
    return None
