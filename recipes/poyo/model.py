"""torch_brain's POYO: a new model, or one from a checkpoint, for the units of given recordings.

Checkpoints are read by specdiag, which executes nothing. `POYO.load_pretrained` is not used: it
unpickles a file without restrictions, so a file can run code.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.tensor import read_values

from ..data.arrays import Arrays

EMBEDDINGS = ("unit_emb", "session_emb")
CORE_FREE = ("unit_emb.", "session_emb.", "readout.")  # trained although the core is frozen


def build(params: Mapping[str, Any], arrays: Arrays, parent: Path | None) -> Any:
    """Return the model from which the training of an entry starts.

    A new model has embeddings for the units and sessions of the recordings. A model from a parent
    keeps the embeddings of the units and sessions that the parent knows, gets random ones for new
    units and sessions, and drops those that are not in the recordings (unit identification, Azabou
    et al. 2023, section 2.5).

    Parameters
    ----------
    params : mapping
        `model`, `training.seed` and `transfer` of an entry. Without `transfer` the core of a parent
        is frozen and its readout is kept.
    arrays : Arrays
        The recordings.
    parent : Path or None
        Checkpoint; None for a new model.

    Returns
    -------
    torch_brain.models.POYO
        `requires_grad` is set for the parameters that the entry trains.

    Raises
    ------
    ValueError
        If the weights of the parent do not fit the declared model.
    """
    import torch

    seed = params.get("training", {}).get("seed", 0)
    transfer = params.get("transfer", {})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if transfer.get("start") == "random" or parent is None:
            return _new(params["model"], arrays)
        model = load(parent, params["model"])
        _set_vocabularies(model, arrays, transfer.get("new_embeddings", "torch_brain"))
        _set_readout(model, params["model"]["dim_out"], transfer.get("readout", "kept"))
    trained = transfer.get("core") == "trained"
    for name, parameter in model.named_parameters():  # again: a new vocabulary resets it
        parameter.requires_grad_(trained or name.startswith(CORE_FREE))
    return model


def _new(settings: Mapping[str, Any], arrays: Arrays) -> Any:
    from torch_brain.models import POYO

    model = POYO(**settings)
    model.unit_emb.initialize_vocab(sorted(arrays.units))
    model.session_emb.initialize_vocab(sorted(arrays.sessions))
    return model


def _set_vocabularies(model: Any, arrays: Arrays, start: str) -> None:
    """Give the embeddings of a model the vocabularies of the recordings.

    New rows are drawn from a normal distribution with the standard deviation of torch_brain, 0.02.
    If `start` is `parent`, they have the standard deviation of the rows that the core was trained
    with: a frozen core hardly distinguishes smaller embeddings.
    """
    for table, words in (
        (model.unit_emb, sorted(arrays.units)),
        (model.session_emb, sorted(arrays.sessions)),
    ):
        known = table.weight.detach()[1:]  # without the row for padding
        table.extend_vocab(words, exist_ok=True)
        if start == "parent":
            table.weight.data[len(known) + 1 :] *= known.std() / table.init_scale
        table.subset_vocab(words)


def _set_readout(model: Any, dim_out: int, which: str) -> None:
    import torch

    known = model.readout.out_features
    if which == "new":
        model.readout = torch.nn.Linear(model.dim, dim_out)
    elif known != dim_out:
        raise ValueError(
            f"the readout of the parent has {known} outputs, the task {dim_out}: "
            "declare a new readout"
        )


def load(path: Path, settings: Mapping[str, Any]) -> Any:
    """Return the model of a checkpoint, with the vocabularies and the readout of the checkpoint.

    Parameters
    ----------
    path : Path
        A checkpoint of these recipes, or of torch_brain's examples, version 0.1 or later.
    settings : mapping
        `model` of an entry. `dim_out` is ignored: it is read from the checkpoint.

    Raises
    ------
    ValueError
        If a vocabulary is missing, or a tensor is missing, unknown to the model or of another
        shape.
    """
    import torch
    from torch_brain.models import POYO

    checkpoint = open_checkpoint(path)
    state: dict[str, Any] = {t.name: torch.tensor(read_values(t)) for t in checkpoint.tensors}
    readout = state.get("readout.weight")
    model = POYO(**{**settings, "dim_out": len(readout) if readout is not None else 1})
    for name in EMBEDDINGS:
        vocabulary = checkpoint.metadata.get(f"{name}.vocab")
        if not vocabulary:
            raise ValueError(
                f"{path.name}: vocabulary {name}.vocab is missing; name a checkpoint of POYO"
            )
        rows = sorted(vocabulary.items(), key=lambda item: item[1])
        state[f"{name}.vocab"] = OrderedDict(rows)
    _check(path, model, state)
    model.load_state_dict(state)
    return model


def _check(path: Path, model: Any, state: Mapping[str, Any]) -> None:
    """Raise ValueError for a tensor that does not fit the model; embeddings have any length."""
    expected = {
        name: tuple(getattr(value, "shape", ()))
        for name, value in model.state_dict(keep_vars=True).items()
        if not name.startswith(EMBEDDINGS)
    }
    shapes = {n: tuple(v.shape) for n, v in state.items() if not n.startswith(EMBEDDINGS)}
    for name in sorted(expected.keys() | shapes.keys()):
        if shapes.get(name) != expected.get(name):
            have, want = shapes.get(name, "missing"), expected.get(name, "missing")
            raise ValueError(
                f"{path.name}: {name} is {have}, in the declared model {want}; declare the model "
                "of the parent"
            )


def parameter_groups(model: Any) -> list[dict[str, Any]]:
    """Return the trained parameters in two groups: embeddings of units and sessions, all others."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in named if n.startswith(EMBEDDINGS)], "sparse": True},
        {"params": [p for n, p in named if not n.startswith(EMBEDDINGS)]},
    ]
    return [group for group in groups if group["params"]]


def embedding_rows(model: Any, arrays: Arrays) -> dict[str, list[int]]:
    """Return the rows of the embeddings that belong to the units and sessions of recordings."""
    return {
        "unit_rows": model.unit_emb.tokenizer(list(arrays.units)),
        "session_rows": model.session_emb.tokenizer(list(arrays.sessions)),
    }
