"""torch_brain's POYO: new, or from a checkpoint with the units and sessions of other recordings.

Weights come out of files through specdiag's reader, which executes nothing; `POYO.load_pretrained`
unpickles whatever a file holds.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.tensor import read_values

from ..data.arrays import Arrays

EMBEDDINGS = ("unit_emb", "session_emb")
CORE_FREE = ("unit_emb.", "session_emb.", "readout.")  # what a frozen core leaves to be trained


def build(params: Mapping[str, Any], arrays: Arrays, parent: Path | None) -> Any:
    """Return the model that an entry starts from, and the trainable state of its parameters.

    A new model has embeddings for the units and sessions of the recordings. From a parent, those that
    it knows keep their embeddings, others get random ones, and all that the recordings lack are left
    out (unit identification, Azabou et al. 2023, section 2.5).

    Parameters
    ----------
    params : mapping
        `model`, `training.seed` and `transfer` of an entry; without `transfer` a parent's core is frozen
        and its readout kept.
    arrays : Arrays
    parent : Path or None
        Checkpoint; None for a new model.

    Returns
    -------
    torch_brain.models.POYO

    Raises
    ------
    ValueError
        When the parent's weights do not fit the declared model.
    """
    import torch

    seed = params.get("training", {}).get("seed", 0)
    transfer = params.get("transfer", {})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if transfer.get("start") == "random" or parent is None:
            return _new(params["model"], arrays)
        model = load(parent, params["model"])
        _know(model, arrays, transfer.get("new_embeddings", "torch_brain"))
        _set_readout(model, params["model"]["dim_out"], transfer.get("readout", "kept"))
    trained = transfer.get("core") == "trained"
    for name, parameter in model.named_parameters():  # anew: a replaced vocabulary forgets it
        parameter.requires_grad_(trained or name.startswith(CORE_FREE))
    return model


def _new(settings: Mapping[str, Any], arrays: Arrays) -> Any:
    from torch_brain.models import POYO

    model = POYO(**settings)
    model.unit_emb.initialize_vocab(sorted(arrays.units))
    model.session_emb.initialize_vocab(sorted(arrays.sessions))
    return model


def _know(model: Any, arrays: Arrays, start: str) -> None:
    """Give the embeddings of a model the vocabulary of the recordings.

    New ones are normal with torch_brain's standard deviation, 0.02, or, to `start` as the `parent`, with
    that of the rows that the core was trained with: a frozen core hardly tells smaller ones apart.
    """
    for table, words in (
        (model.unit_emb, sorted(arrays.units)),
        (model.session_emb, sorted(arrays.sessions)),
    ):
        known = table.weight.detach()[1:]  # without the row of the padding
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
            f"the parent's readout has {known} outputs, the task {dim_out}: declare a new readout"
        )


def load(path: Path, settings: Mapping[str, Any]) -> Any:
    """Return the model of a checkpoint, with its own vocabularies and readout.

    Parameters
    ----------
    path : Path
        Of this toolkit, or of torch_brain's examples from 0.1 on.
    settings : mapping
        `model` of an entry; its dim_out is the checkpoint's.

    Raises
    ------
    ValueError
        When there is no vocabulary, or a tensor is missing, superfluous or of another shape.
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
                f"{path.name}: no vocabulary {name}.vocab; it is no checkpoint of POYO"
            )
        rows = sorted(vocabulary.items(), key=lambda item: item[1])
        state[f"{name}.vocab"] = OrderedDict(rows)
    _check(path, model, state)
    model.load_state_dict(state)
    return model


def _check(path: Path, model: Any, state: Mapping[str, Any]) -> None:
    """Refuse tensors that do not fit a model, in one line; those of the vocabularies have any length."""
    expected = {
        name: tuple(getattr(value, "shape", ()))
        for name, value in model.state_dict(keep_vars=True).items()
        if not name.startswith(EMBEDDINGS)
    }
    found = {n: tuple(v.shape) for n, v in state.items() if not n.startswith(EMBEDDINGS)}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            have, want = found.get(name, "missing"), expected.get(name, "not known to it")
            raise ValueError(
                f"{path.name}: {name} is {have}, in the declared model {want}; declare the model of its "
                "parent"
            )


def parameter_groups(model: Any) -> list[dict[str, Any]]:
    """Return the parameters that are trained, as two groups: embeddings of units and sessions, the rest."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in named if n.startswith(EMBEDDINGS)], "sparse": True},
        {"params": [p for n, p in named if not n.startswith(EMBEDDINGS)]},
    ]
    return [group for group in groups if group["params"]]


def embedding_rows(model: Any, arrays: Arrays) -> dict[str, list[int]]:
    """Return the rows of the embeddings for the units and sessions of recordings."""
    return {
        "unit_rows": model.unit_emb.tokenizer(list(arrays.units)),
        "session_rows": model.session_emb.tokenizer(list(arrays.sessions)),
    }
