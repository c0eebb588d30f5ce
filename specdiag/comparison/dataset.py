"""Two or more checkpoints -> one Dataset of their spectra and their differences from the first."""

from collections.abc import Callable, KeysView, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.weights.find import open_weights
from specdiag.checkpoint.weights.split import texts_of
from specdiag.checkpoint.weights.weight import Weight
from specdiag.comparison.conclusion import summarise_pairs
from specdiag.comparison.groups import check_distinct, group_layers, pair_up_groups, seed_alphas
from specdiag.comparison.matrices import N_LEADING
from specdiag.comparison.pairing import renamed, replace_names
from specdiag.comparison.pairs import MEASURED, Pair, pair_up, same_bits
from specdiag.compute.device import Device
from specdiag.compute.leading import load_solver
from specdiag.compute.machine import using
from specdiag.dataset.build import build, unique_names
from specdiag.dataset.schema.comparison import COMPARISON
from specdiag.dataset.schema.variable import labelled
from specdiag.dataset.spectra import (
    Progress,
    check_texts,
    check_whole_numbers,
    measured_layers,
    network_of,
    recorded,
)
from specdiag.htsr.layers import Layer
from specdiag.htsr.measure import Through
from specdiag.htsr.selection import MIN_EIGENVALUES, matrices
from specdiag.wording import counted, shown, some

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
    """Comparison of the first network or group of seeds with another one."""

    pairs: list[Pair]
    summary: dict[str, Any]  # of `summarise_pairs`


class Compared(NamedTuple):
    """Networks, in groups of seeds or one each, with the comparisons of the first and the others.

    `checkpoints` and `measured` have an item for each network; `group` is the index of its group.
    """

    checkpoints: list[Checkpoint]
    measured: list[list[Layer]]
    group: list[int]
    names: list[str]  # of the groups
    comparisons: list[Comparison]
    settings: dict[str, Any]


def compare(
    first: Any,
    *others: Any,
    layers: str | None = None,
    min_eigenvalues: int = MIN_EIGENVALUES,
    include_embeddings: bool = False,
    rename: Mapping[str, str] = MappingProxyType({}),
    which: str | None = None,
    base: Any = None,
    split: Mapping[str, str] = MappingProxyType({}),
    jobs: int | None = None,
    memory: int | None = None,
    device: str | Device = "auto",
) -> "xr.Dataset":
    """Return the Dataset of two or more networks, with the differences of each from the first.

    Parameters
    ----------
    first, *others : path, torch.nn.Module, or mapping of names to arrays or tensors; or lists
        Anything that `open_checkpoint` reads. A list is a group: networks of one recipe that differ
        in their seed. Groups are compared by their means, and the intervals are over seeds. Each
        network is in one group, once.
    layers, min_eigenvalues, include_embeddings
        Which matrices are measured, as in `specdiag.alpha`. Every tensor gets a relation.
    rename : mapping of str to str
        Texts to replace in the names of all networks except the first, for names that
        `specdiag.comparison.pairing` cannot pair.
    which, base, split
        How each network is read, as in `specdiag.alpha`.
    jobs, memory, device
        What may be used of this machine, as in `specdiag.alpha`.

    Returns
    -------
    xarray.Dataset
        The variables of `specdiag.alpha` (without goodness of fit) and those of `COMPARISON`. A
        comparison has the name of its second checkpoint or group. Differences are second minus
        first. What is defined for two matrices alone, such as the overlap, is NaN for groups.

    Raises
    ------
    ValueError
        If a source is not a checkpoint, or has no matrix in common with the first one; or if the
        networks of a group do not have the same matrices, or two networks of groups are the same.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> dataset = specdiag.compare("pretrained.ckpt", "scratch.ckpt")
    >>> print(dataset.conclusion.item())
    >>> seeds = specdiag.compare(["a1.pt", "a2.pt", "a3.pt"], ["b1.pt", "b2.pt", "b3.pt"])
    """
    if not others:
        raise ValueError("compare() needs at least two checkpoints")
    check_whole_numbers(min_eigenvalues=(min_eigenvalues, 2))
    check_texts(layers=layers, which=which)
    groups = [list(x) if isinstance(x, list | tuple) else [x] for x in (first, *others)]
    if not all(groups):
        raise ValueError("compare() needs at least one checkpoint in each group")
    settings: dict[str, Any] = {
        "min_eigenvalues": min_eigenvalues,
        "include_embeddings": include_embeddings,
    }
    reading = {"which": which, "base": base, "splits": texts_of(split)}
    with using(jobs=jobs, memory=memory, device=device):
        compared = measure_and_compare(groups, layers, rename=rename, reading=reading, **settings)
        return build_comparison(compared)


def measure_and_compare(
    groups: Sequence[Sequence[Any]],
    layers: str | None,
    progress: Progress | None = None,
    errors_of: Callable[[Any], AbstractContextManager[None]] = nullcontext,
    rename: Mapping[str, str] = MappingProxyType({}),
    reading: Mapping[str, Any] = MappingProxyType({}),
    **settings: Any,
) -> Compared:
    """Return the comparison of the first group with each of the others; no xarray is needed.

    Each source is opened and measured within `errors_of(source)`. `layers`, `progress` and the
    settings are those of `measured_layers`; `reading` has the options of `open_weights`. Groups
    of one network each are plain networks.
    """
    settings["gof"] = False
    sources = [source for group in groups for source in group]
    opened = []
    for source in sources:
        with errors_of(source):
            opened.append(open_weights(source, **reading))
    checkpoints = aligned(opened, rename)
    n_vectors = N_LEADING if len(sources) == len(groups) else 0
    if n_vectors:
        sizes = (min(t.shape[:2]) for c in checkpoints for t in c.tensors if len(t.shape) > 1)
        load_solver(max(sizes, default=0))
    networks = []
    for source, checkpoint in zip(sources, checkpoints, strict=True):
        with errors_of(source):
            networks.append(network_of(checkpoint, layers))
    once: dict[str, Any] = {"progress": progress, "n_vectors": n_vectors, **settings}
    if n_vectors:
        first, *others = networks
        measured = measured_layers([first], **once)
        through = _unless_equal(checkpoints[0], measured[0])
        measured += measured_layers([replace(x, through=through) for x in others], **once)
    else:
        measured = measured_layers(networks, **once)
    index = [i for i, group in enumerate(groups) for _ in group]
    if len(sources) == len(groups):
        names, comparisons = _compare_networks(checkpoints, measured, settings["min_eigenvalues"])
    else:
        names, comparisons = _compare_groups(checkpoints, measured, index)
    settings |= {"layers": layers, "rename": dict(rename)} if rename else {"layers": layers}
    settings |= {**reading, "base": recorded(reading.get("base"))}
    return Compared(checkpoints, measured, index, names, comparisons, settings)


def _unless_equal(checkpoint: Checkpoint, layers: Sequence[Layer]) -> Through:
    """Return what measures a weight, unless this network has it measured: same name, same bits."""
    weights = {weight.name: weight for weight in matrices(checkpoint)}
    known = {layer.name: layer for layer in layers if layer.status in MEASURED}

    def through(function: Callable[[Weight], Layer], weight: Weight) -> Layer:
        layer = known.get(weight.name)
        if layer and _is_equal(weights[weight.name], weight):
            return layer
        return function(weight)

    return through


def _is_equal(a: Weight, b: Weight) -> bool:
    if (a.shape, a.dtype, a.rank) != (b.shape, b.dtype, b.rank):
        return False
    try:
        if a.read_rows and b.read_rows and not same_bits(a.read_rows(0, 1), b.read_rows(0, 1)):
            return False
        return same_bits(a.read(), b.read())
    except (ValueError, OSError, MemoryError):  # reported when it is measured
        return False


def _compare_networks(
    checkpoints: Sequence[Checkpoint], measured: Sequence[list[Layer]], min_eigenvalues: int
) -> tuple[list[str], list[Comparison]]:
    names = unique_names(checkpoints)
    comparisons = []
    for name, checkpoint, layers in zip(names[1:], checkpoints[1:], measured[1:], strict=True):
        pairs = pair_up(checkpoints[0], checkpoint, measured[0], layers, min_eigenvalues)
        summary = summarise_pairs(pairs, measured[0], layers, (names[0], name))
        comparisons.append(Comparison(pairs, summary))
    return names, comparisons


def _compare_groups(
    checkpoints: Sequence[Checkpoint], measured: Sequence[list[Layer]], index: Sequence[int]
) -> tuple[list[str], list[Comparison]]:
    of_each = unique_names(checkpoints)
    check_distinct(checkpoints, measured, of_each)
    names, networks, layers, alphas = [], [], [], []
    for i in dict.fromkeys(index):
        members = [j for j, group in enumerate(index) if group == i]
        of_seeds = [measured[j] for j in members]
        listed = some([of_each[j] for j in members])
        names.append(f"{listed} ({counted(len(members), 'network')})")
        networks.append([checkpoints[j] for j in members])
        layers.append(group_layers(of_seeds, [of_each[j] for j in members]))
        alphas.append(seed_alphas(of_seeds))
    comparisons = []
    for i in range(1, len(names)):
        both = (layers[0], layers[i]), (alphas[0], alphas[i])
        pairs = pair_up_groups((networks[0], networks[i]), *both)
        summary = summarise_pairs(pairs, *both[0], (names[0], names[i]), both[1])
        comparisons.append(Comparison(pairs, summary))
    return names, comparisons


def aligned(
    checkpoints: Sequence[Checkpoint], rename: Mapping[str, str] = MappingProxyType({})
) -> list[Checkpoint]:
    """Return the checkpoints, renamed so that their tensors have the names of the first one.

    See `specdiag.comparison.pairing` for the rules. Each text of `rename` is first replaced by its
    value in the names of all checkpoints except the first.

    Raises
    ------
    ValueError
        If a checkpoint has no matrix in common with the first one, or a text of `rename` is in no
        name.
    """
    first, *others = checkpoints
    for old in rename:
        if not any(old in t.name for other in others for t in other.tensors):
            raise ValueError(f"no name of a tensor to rename contains {shown(old)}")
    names = unique_names(checkpoints)
    known = _matrices(first)
    result = [first]
    for name, other in zip(names[1:], others, strict=True):
        match = renamed(first, replace_names(other, rename))
        if known.isdisjoint(_matrices(match)):
            raise ValueError(
                f"{names[0]} and {name} have no matrix in common: the first has "
                f"{some([*known], 3) or 'none'}, the other "
                f"{some([*_matrices(other)], 3) or 'none'}; compare networks of one architecture, "
                "or pair their names (--rename OLD NEW)"
            )
        result.append(match)
    return result


def _matrices(checkpoint: Checkpoint) -> KeysView[str]:
    return {t.name: None for t in checkpoint.tensors if len(t.shape) >= 2}.keys()


def build_comparison(compared: Compared) -> "xr.Dataset":
    """Return the Dataset of the spectra and the comparisons."""
    dataset = build(compared.checkpoints, compared.measured, compared.settings)
    comparisons = compared.comparisons
    pairs = [{pair.name: pair for pair in comparison.pairs} for comparison in comparisons]
    tensors = list(dict.fromkeys(name for table in pairs for name in table))
    labels = {"tensor": tensors, "layer": list(dataset.layer.values)}
    absent = Pair(name="", relation="absent")
    columns: dict[str, Any] = {
        "comparison": compared.names[1:],
        "group": [compared.names[i] for i in compared.group],
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
        ["comparison", "tensor", "side", "group"]
    )


def pair_value(pair: Pair, name: str) -> Any:
    """Return the value that a variable of `COMPARISON` has for a pair."""
    return attrgetter(_HOME.get(name, name))(pair)
