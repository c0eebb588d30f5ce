"""Checkpoint -> its weights: every tensor is part of exactly one."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.safetensors import parse_json
from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.weights.lora import adapted
from specdiag.checkpoint.weights.normalised import parametrised, suffixed, with_masks
from specdiag.checkpoint.weights.quantised import quantised
from specdiag.checkpoint.weights.weight import Tensors, Weight, plain
from specdiag.files import find_file, open_file, read_bytes

MAX_CONFIG = 1_000_000

_RULES: tuple[Callable[[Tensors], Iterator[Weight]], ...] = (
    quantised,
    parametrised,
    suffixed,
    with_masks,
)


def weights(checkpoint: Checkpoint) -> tuple[Weight, ...]:
    """Return the weights of a checkpoint, in the order of their first tensors.

    No values are read. Vectors and scalars are among the weights, so that every tensor of the file
    is part of exactly one. Tensors that are no weight have a `reason`.

    Raises
    ------
    ValueError
        If an adapter_config.json beside the file is invalid.
    """
    if all(isinstance(tensor, Weight) for tensor in checkpoint.tensors):
        return tuple(tensor for tensor in checkpoint.tensors if isinstance(tensor, Weight))
    left = {tensor.name: tensor for tensor in checkpoint.tensors}
    position = {name: i for i, name in enumerate(left)}
    biases = {name for name, tensor in left.items() if len(tensor.shape) == 1}
    found: list[Weight] = []
    for rule in _RULES:
        _take(left, found, rule(dict(left)))
    if any("lora" in name or "_w1" in name or "oft_" in name for name in left):
        _take(left, found, adapted(dict(left), adapter_config(checkpoint)))
    for name, tensor in left.items():
        reason = ""
        if tensor.role == "buffer" and name.rpartition(".")[2] != "weight":
            reason = "a buffer of its module, not a parameter"
        elif ".original_module." in f".{name}" and _replaced(name, left):
            reason = "not used: modules_to_save replaces it"
        found.append(plain(tensor, has_bias=_has_bias(tensor, left, biases), reason=reason))
    return tuple(sorted(found, key=lambda weight: position[weight.tensors[0]]))


def of_weights(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with its weights in place of its tensors."""
    return replace(checkpoint, tensors=weights(checkpoint))


def _take(left: dict[str, Tensor], found: list[Weight], more: Iterator[Weight]) -> None:
    """Move the tensors of weights from those that are left; the first weight of a tensor counts."""
    for weight in more:
        if left.keys() >= {*weight.tensors}:
            found.append(weight)
            for name in weight.tensors:
                del left[name]


def _replaced(name: str, left: Tensors) -> bool:
    """Return whether peft has trained a copy of a module, which the network uses instead."""
    owner, _, leaf = name.rpartition("original_module.")
    start = f"{owner}modules_to_save."
    return any(other.startswith(start) and other.endswith(f".{leaf}") for other in left)


def _has_bias(tensor: Tensor, left: Tensors, biases: set[str]) -> bool:
    owner, dot, leaf = tensor.name.rpartition(".")
    bias = f"{owner}{dot}bias"
    is_matrix = leaf in ("weight", "kernel") and len(tensor.shape) == 2
    return is_matrix and bias in biases and left[bias].shape[0] in tensor.shape


def adapter_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the content of the adapter_config.json beside a checkpoint, or an empty dict."""
    if not checkpoint.path:
        return {}
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    path = folder / "adapter_config.json"
    if not path.is_file():
        return {}
    file = find_file(path)
    if file.size > MAX_CONFIG:
        raise ValueError(f"{file.name}: {file.size:,} bytes; at most {MAX_CONFIG:,} are read")
    with open_file(file) as stream:
        config = parse_json(read_bytes(stream, 0, file.size, file.name), file.name)
    return config if isinstance(config, dict) else {}
