"""Two or more checkpoints -> one Dataset of their spectra and their differences from the first."""

from collections.abc import KeysView, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from specdiag.checkpoint.reader import Checkpoint, open_checkpoint
from specdiag.comparison.conclusion import summarise_pairs
from specdiag.comparison.pairs import Pair, pair_up
from specdiag.dataset.schema import COMPARISON, labelled
from specdiag.dataset.spectra import build, check_whole_numbers, measure_checkpoint, unique_names
from specdiag.htsr.layers import MIN_EIGENVALUES, Layer
from specdiag.wording import some

if TYPE_CHECKING:
    import xarray as xr

# Variable of `COMPARISON` -> attribute of a Pair, where the two have different names.
_HOME = {
    "relation_reason": "reason",
    "relative_distance": "distance",
    "alpha_difference": "alpha.value",
    "alpha_difference_ci": "alpha.interval",
    "alpha_difference_below_0": "alpha.below_0",
    "subspace_overlap": "overlap",
    "added_alpha": "added.mean",
    "added_alpha_ci": "added.interval",
}


class Comparison(NamedTuple):
    """Comparison of the first checkpoint with another one."""

    pairs: list[Pair]
    summary: dict[str, Any]  # of `summarise_pairs`


def compare(
    first: Any,
    *others: Any,
    layers: str | None = None,
    min_eigenvalues: int = MIN_EIGENVALUES,
    include_embeddings: bool = False,
) -> "xr.Dataset":
    """Return the Dataset of two or more networks, with the differences of each from the first.

    Parameters
    ----------
    first, *others : path, torch.nn.Module, or mapping of names to arrays or tensors
        Anything that `open_checkpoint` reads.
    layers, min_eigenvalues, include_embeddings
        Which matrices are measured, as in `specdiag.alpha`. Every tensor gets a relation.

    Returns
    -------
    xarray.Dataset
        The variables of `specdiag.alpha` (without goodness of fit) and those of `COMPARISON`. A
        comparison has the name of its second checkpoint. Differences are second minus first.

    Raises
    ------
    ValueError
        If a source is not a checkpoint, or has no matrix in common with the first one.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> dataset = specdiag.compare("pretrained.ckpt", "scratch.ckpt")
    >>> print(dataset.conclusion.item())
    """
    if not others:
        raise ValueError("compare() needs at least two checkpoints")
    check_whole_numbers(min_eigenvalues=(min_eigenvalues, 2))
    settings: dict[str, Any] = {
        "min_eigenvalues": min_eigenvalues,
        "include_embeddings": include_embeddings,
        "gof": False,
    }
    checkpoints = aligned([open_checkpoint(source) for source in (first, *others)])
    measured = [measure_checkpoint(c, layers, **settings) for c in checkpoints]
    comparisons = compare_measured(checkpoints, measured, min_eigenvalues)
    return build_comparison(checkpoints, measured, comparisons, {"layers": layers, **settings})


def aligned(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return the checkpoints, renamed so that their tensors have the names of the first one.

    If a checkpoint has no matrix in common with the first one, the first word of its names is
    removed, if all names have it: `bert.encoder.layer.0.…` becomes `encoder.layer.0.…`.

    Raises
    ------
    ValueError
        If a checkpoint still has no matrix in common with the first one.
    """
    first, *others = checkpoints
    names = unique_names(checkpoints)
    known = _matrices(first)
    renamed = [first]
    for name, other in zip(names[1:], others, strict=True):
        candidates = (other, _without_first_word(other))
        match = next((c for c in candidates if not known.isdisjoint(_matrices(c))), None)
        if match is None:
            raise ValueError(
                f"{names[0]} and {name} have no matrix in common: the first has "
                f"{some([*known], 3) or 'none'}, the other "
                f"{some([*_matrices(other)], 3) or 'none'}; compare networks of one architecture"
            )
        renamed.append(match)
    return renamed


def _matrices(checkpoint: Checkpoint) -> KeysView[str]:
    return {t.name: None for t in checkpoint.tensors if len(t.shape) >= 2}.keys()


def _without_first_word(checkpoint: Checkpoint) -> Checkpoint:
    word = checkpoint.tensors[0].name.partition(".")[0] + "." if checkpoint.tensors else ""
    if not all(t.name.startswith(word) for t in checkpoint.tensors):
        return checkpoint
    tensors = [replace(t, name=t.name.removeprefix(word)) for t in checkpoint.tensors]
    return replace(checkpoint, tensors=tuple(tensors))


def compare_measured(
    checkpoints: Sequence[Checkpoint], measured: Sequence[Sequence[Layer]], min_eigenvalues: int
) -> list[Comparison]:
    """Return the comparison of each further checkpoint with the first."""
    names = unique_names(checkpoints)
    comparisons = []
    for name, checkpoint, layers in zip(names[1:], checkpoints[1:], measured[1:], strict=True):
        pairs = pair_up(checkpoints[0], checkpoint, measured[0], layers, min_eigenvalues)
        summary = summarise_pairs(pairs, measured[0], layers, (names[0], name))
        comparisons.append(Comparison(pairs, summary))
    return comparisons


def build_comparison(
    checkpoints: Sequence[Checkpoint],
    measured: Sequence[Sequence[Layer]],
    comparisons: Sequence[Comparison],
    settings: dict[str, Any],
) -> "xr.Dataset":
    """Return the Dataset of the spectra and the comparisons."""
    dataset = build(checkpoints, measured, settings)
    pairs = [{pair.name: pair for pair in comparison.pairs} for comparison in comparisons]
    tensors = list(dict.fromkeys(name for table in pairs for name in table))
    labels = {"tensor": tensors, "layer": list(dataset.layer.values)}
    absent = Pair(name="", relation="absent")
    columns: dict[str, Any] = {
        "comparison": unique_names(checkpoints)[1:],
        "tensor": tensors,
        "side": ["output", "input"],
    }
    for name in COMPARISON.keys() - columns.keys():
        dims = COMPARISON[name].dims
        if dims[1:2] in ((), ("ci_bound",)):
            columns[name] = [comparison.summary[name] for comparison in comparisons]
        else:
            names = labels[dims[1]]
            columns[name] = [[pair_value(t.get(n, absent), name) for n in names] for t in pairs]
    return dataset.assign(labelled(COMPARISON, columns)).set_coords(
        ["comparison", "tensor", "side"]
    )


def pair_value(pair: Pair, name: str) -> Any:
    """Return the value that a variable of `COMPARISON` has for a pair."""
    return attrgetter(_HOME.get(name, name))(pair)
