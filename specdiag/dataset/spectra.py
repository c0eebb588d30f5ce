"""Checkpoints -> measured layers -> one labelled xarray Dataset.

xarray takes longer to import than a small network takes to measure, so it is imported only where a
Dataset is built or opened.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.weights.find import open_weights
from specdiag.checkpoint.weights.split import texts_of
from specdiag.checkpoint.weights.weight import Weight
from specdiag.compute.device import Device
from specdiag.compute.machine import using
from specdiag.dataset.build import build
from specdiag.files import DistantPath
from specdiag.htsr.layers import Layer
from specdiag.htsr.measure import Network, measure_networks
from specdiag.htsr.null.initialisation import (
    Untrained,
    check_recipe,
    untrained_alphas,
    with_initialisation,
)
from specdiag.htsr.null.ladder import NULLS
from specdiag.htsr.others.methods import METHODS, check_method
from specdiag.htsr.others.packages import beside_packages, check_packages
from specdiag.htsr.selection import MIN_EIGENVALUES, matrices
from specdiag.htsr.verdict import with_verdicts
from specdiag.wording import counted

if TYPE_CHECKING:
    import xarray as xr

    from specdiag.dataset.journal import Network as Finished

# Of tensors and the name of their networks: a context whose value is called with each that is done.
Progress = Callable[[Sequence[Tensor], str], AbstractContextManager[Callable[[Tensor], object]]]

_log = logging.getLogger(__name__)


def alpha(
    *sources: Any,
    layers: str | None = None,
    min_eigenvalues: int = MIN_EIGENVALUES,
    include_embeddings: bool = False,
    method: str = "specdiag",
    initialisation: Sequence[Any] = (),
    null: str = "ladder",
    gof: bool = False,
    repeats: bool = False,
    traps: bool = False,
    seed: int = 0,
    beside: Sequence[str] = (),
    names: Sequence[str] | None = None,
    which: str | None = None,
    base: Any = None,
    split: Mapping[str, str] = MappingProxyType({}),
    jobs: int | None = None,
    memory: int | None = None,
    device: str | Device = "auto",
) -> "xr.Dataset":
    """Return the Dataset of the weight matrices of one or several networks.

    Parameters
    ----------
    *sources : path, torch.nn.Module, mapping of names to arrays or tensors, or one array
        Anything that `open_checkpoint` reads. A list of paths is as good as the paths.
    layers : str, optional
        Shell pattern: only matrices whose name matches it are measured.
    min_eigenvalues : int
        A matrix with fewer eigenvalues is skipped; one with fewer above the rank gate is
        degenerate. The default is 50, because with fewer a heavy tail is a handful of points.
    include_embeddings : bool
        Measure lookup tables, too (see `specdiag.htsr.selection.skip_reason`).
    method : {'specdiag', 'weightwatcher', 'wwj', 'median', 'peak', 'farms'}
        Rules for alpha and its interval; see `specdiag.htsr.others.weightwatcher` and `allocation`.
    initialisation : sequence
        Untrained networks of the same recipe, as `sources`: how often their alphas are as low is
        one more null (`initialisation_p`). From 19 networks on it is part of `null_p`. Networks
        that are the same count once.
    null : {'ladder', 'none'}
        Compare each layer with random matrices and tell the kind of its tail, or do neither: 'none'
        measures alpha and its interval alone: it is a fifth faster, and gives no verdicts.
    gof : bool
        Test the fit of the power law above `xmin_ks`, alone and against others, a third slower.
    repeats : bool
        Estimate `alpha_repeat_sd`, the scatter of alpha if the rows of each matrix were drawn
        again. It is off by default, because it takes 16 times as long as the eigenvalues.
    traps : bool
        Permute the elements of each matrix and count the eigenvalues that still stand out
        (`n_traps`), and measure how localised the leading singular vectors are (`n_localised`). It
        takes two to four times as long as the eigenvalues. See `specdiag.htsr.bulk.traps` and
        `localisation`.
    seed : int
        Random seed for bootstrap, sign flips, repeats and permutations.
    beside : sequence of {'weightwatcher', 'powerlaw'}
        Packages that are run on the same matrices, each in a process of its own; what they find are
        the further variables of `specdiag.dataset.schema.beside`.
    names : sequence of str, optional
        Names of the sources in the Dataset, instead of those of their files.
    which : str, optional
        Name of the entry that holds the network, as in `open_checkpoint`.
    base : path, module or mapping, optional
        The base of each source that is an adapter, such as a LoRA, as in
        `specdiag.checkpoint.weights.find.open_weights`.
    split : mapping of str to str
        How to cut the weights whose names match a pattern, such as ``{"*.c_attn.weight": "q,k,v"}``
        (see docs/weights.md).
    jobs : int, optional
        How many matrices are measured at once; by default, one for each core.
    memory : int, optional
        Bytes that they use together; by default, 75 % of the memory that is free. Neither limit
        changes a result.
    device : {'auto', 'cuda', 'mps', 'cpu'}
        What computes the eigenvalues: torch's GPU all of them ('cuda'), or, if there is one, those
        of matrices with at least 4,096 rows and columns ('auto'). Alpha moves by rounding alone.

    Returns
    -------
    xarray.Dataset
        The variables of `SCHEMA`, with dims (checkpoint, layer, sample). A layer that is missing in
        a checkpoint has the status `absent`.

    Raises
    ------
    ValueError
        If a source is not a checkpoint, has no matrix, or none that matches `layers`; if an
        untrained network has no matrix of the name and shape of one of them; or if `method`,
        `null`, `seed` or `min_eigenvalues` is invalid, or a split is or fits no weight.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> dataset = specdiag.alpha("model.safetensors")
    >>> dataset.alpha.mean("layer")
    """
    check_whole_numbers(min_eigenvalues=(min_eigenvalues, 2), seed=(seed, 0))
    check_texts(layers=layers, which=which)
    _check_choices(method=(method, METHODS), null=(null, NULLS))
    check_method(method, gof=gof, repeats=repeats)
    check_packages(beside, method)
    if len(initialisation) and null == "none":
        raise ValueError("initialisation is one more null: it needs null='ladder'")
    splits = texts_of(split)
    checkpoints = _opened(sources, names, which=which, base=base, splits=splits)
    settings: dict[str, Any] = {
        "min_eigenvalues": min_eigenvalues,
        "include_embeddings": include_embeddings,
        "method": method,
        "null": null,
        "gof": gof,
        "repeats": repeats,
        "traps": traps,
        "seed": seed,
    }
    networks = [open_weights(source, splits=splits) for source in initialisation]
    _check_recipes(networks, checkpoints, layers)
    with using(jobs=jobs, memory=memory, device=device):
        alphas = _of_untrained(networks, layers, settings)
        measured = measure_checkpoints(checkpoints, layers, untrained=alphas, **settings)
        measured = beside_packages(checkpoints, measured, layers, beside)
        settings |= {"beside": list(beside)} if beside else {}
        settings |= {"layers": layers, "which": which, "base": recorded(base), "splits": splits}
        settings["initialisation"] = list(map(_path, networks))
        return build(checkpoints, measured, settings)


def _of_untrained(
    networks: Sequence[Checkpoint], layers: str | None, settings: Mapping[str, Any]
) -> Untrained:
    quick = {**settings, "null": "none", "gof": False, "repeats": False, "traps": False}
    alphas, note = untrained_alphas(measure_checkpoints(networks, layers, **quick))
    if note:
        _log.warning("%s", note)
    return alphas


def _check_choices(**arguments: tuple[str, Sequence[str]]) -> None:
    for name, (value, choices) in arguments.items():
        if value not in choices:
            raise ValueError(f"{name} is {value!r}: expected one of {', '.join(choices)}")


def _opened(
    sources: Sequence[Any], names: Sequence[str] | None, **reading: Any
) -> list[Checkpoint]:
    given = [x for source in sources for x in (source if _is_paths(source) else [source])]
    if not given:
        raise ValueError("alpha() needs at least one checkpoint: a path, module or state dict")
    if names is not None and (isinstance(names, str) or len(names) != len(given)):
        raise ValueError(f"names must be a list of {counted(len(given), 'name')}: one a network")
    checkpoints = [open_weights(source, **reading) for source in given]
    if names is not None:
        checkpoints = [replace(c, name=n) for c, n in zip(checkpoints, names, strict=True)]
    for checkpoint in checkpoints:
        for note in checkpoint.notes:
            _log.warning("%s: %s", checkpoint.name, note)
    return checkpoints


def _check_recipes(
    networks: Sequence[Checkpoint], checkpoints: Sequence[Checkpoint], layers: str | None
) -> None:
    wanted = [tensor for checkpoint in checkpoints for tensor in matrices(checkpoint, layers)]
    for network in networks:
        check_recipe(matrices(network, layers), wanted)


def _is_paths(source: Any) -> bool:
    return isinstance(source, list | tuple) and all(isinstance(x, str | PathLike) for x in source)


def _path(checkpoint: Checkpoint) -> str:
    return str(checkpoint.path or checkpoint.name)


def recorded(source: Any) -> str | None:
    """Return the path of a source for the provenance, or 'model' for one in memory."""
    if source is None:
        return None
    return str(source) if isinstance(source, str | PathLike) else "model"


def measure_checkpoint(
    checkpoint: Checkpoint, pattern: str | None = None, **settings: Any
) -> list[Layer]:
    """Return the measured layers of one checkpoint, as `measure_checkpoints` does of several."""
    (layers,) = measure_checkpoints([checkpoint], pattern, **settings)
    return layers


def measure_checkpoints(
    checkpoints: Iterable[Checkpoint], pattern: str | None = None, **settings: Any
) -> list[list[Layer]]:
    """Return the measured layers of each checkpoint, with their verdicts; no xarray is needed.

    Raise ValueError if one has no matrix, or none whose name matches the shell pattern. The
    settings are those of `measured_layers`.
    """
    return measured_layers([network_of(c, pattern) for c in checkpoints], **settings)


def network_of(
    checkpoint: Checkpoint, pattern: str | None = None, journal: "Finished | None" = None
) -> Network:
    """Return what of a checkpoint is to be measured; `journal` has the layers that are finished.

    While a matrix of a distant checkpoint is measured, the next one is transferred. Raise
    ValueError if it has no matrix, or none whose name matches the shell pattern.
    """
    is_distant = isinstance(checkpoint.path, DistantPath)
    return Network(
        weights=matrices(checkpoint, pattern),
        name=checkpoint.name,
        through=journal,
        ahead=partial(_transfer, journal) if is_distant else None,
    )


def measured_layers(
    networks: Sequence[Network],
    progress: Progress | None = None,
    untrained: Untrained = MappingProxyType({}),
    **settings: Any,
) -> list[list[Layer]]:
    """Return the measured layers of each network, with their verdicts.

    The settings are those of `specdiag.htsr.measure.measure_networks`. `untrained` has the alphas
    of untrained networks, from `untrained_alphas`.
    """
    weights = [weight for network in networks for weight in network.weights]
    label = networks[0].name if len(networks) == 1 else counted(len(networks), "network")
    with progress(weights, label) if progress else nullcontext(lambda _: None) as done:
        measured = list(measure_networks(networks, done=done, **settings))
    null = settings.get("null", "ladder")
    return [with_verdicts(with_initialisation(x, untrained), null=null) for x in measured]


def _transfer(journal: "Finished | None", weight: Weight) -> None:
    """Read a weight that is not finished; its bytes are kept for the one that measures it."""
    if journal is None or not journal.count([weight]):
        weight.read()


def check_whole_numbers(**arguments: tuple[Any, int]) -> None:
    """Raise ValueError for the first argument that is not an integer or is below its least value.

    Each argument is given by its name, as a tuple of its value and its least value.
    """
    for name, (value, least) in arguments.items():
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} is {value!r}: expected a whole number, at least {least}")


def check_texts(**arguments: object) -> None:
    """Raise ValueError for the first argument that is neither a text nor None."""
    for name, value in arguments.items():
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}: expected a text")
