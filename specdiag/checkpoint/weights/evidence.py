"""Checkpoint -> what tells how its tensors are meant: neighbours, roles and configurations."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.safetensors import parse_json
from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.weights.weight import Tensors, Weight
from specdiag.files import find_file, open_file, read_bytes

MAX_CONFIG = 1_000_000
MAX_DEPTH = 8  # of the dicts and lists of a configuration that are searched


@dataclass(frozen=True)
class Evidence:
    """What is known beside the values of a checkpoint's tensors.

    Attributes
    ----------
    tensors : dict
        All tensors of the file by name. The `role` of each is what the class of its module says.
    config : dict
        The config.json beside the file; empty if there is none, or if it is invalid.
    metadata : dict
        The metadata of the checkpoint, with hyper-parameters if it has some.
    weights : dict
        The whole weights by name, before any is cut: their shapes are those of composed weights.
    """

    tensors: Tensors
    config: Mapping[str, Any]
    metadata: Mapping[str, Any]
    weights: Mapping[str, Weight]

    def numbers(self, *keys: str) -> frozenset[int]:
        """Return the positive whole numbers under the keys, anywhere in config and metadata."""
        return frozenset(n for key in keys for n in self._numbers.get(key, ()))

    @cached_property
    def configs(self) -> tuple[Mapping[str, Any], ...]:
        """Configurations of transformers: dicts with a model_type, one below another or not."""
        nested = [v for s in (self.config, self.metadata) for v in (s, *s.values())]
        return tuple(c for c in nested if isinstance(c, Mapping) and "model_type" in c)

    @cached_property
    def _numbers(self) -> dict[str, set[int]]:
        numbers: dict[str, set[int]] = {}
        for source in (self.config, self.metadata):
            for key, value in _items(source, MAX_DEPTH):
                if type(value) is int and value > 0:
                    numbers.setdefault(key, set()).add(value)
        return numbers

    @cached_property
    def by_owner(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of each module by the name of the module, then by their last name."""
        modules: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self.tensors.items():
            owner, _, leaf = name.rpartition(".")
            modules.setdefault(owner, {})[leaf] = tensor
        return modules


def gather(checkpoint: Checkpoint, whole: Iterable[Weight]) -> Evidence:
    """Return the evidence of a checkpoint and its whole weights.

    A config.json that is invalid is none.
    """
    try:
        config = json_beside(checkpoint, "config.json")
    except (ValueError, OSError):
        config = {}
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    return Evidence(tensors, config, checkpoint.metadata, {weight.name: weight for weight in whole})


def json_beside(checkpoint: Checkpoint, name: str) -> Mapping[str, Any]:
    """Return the content of a JSON file beside a checkpoint, or an empty dict.

    Raises
    ------
    ValueError
        If it is invalid.
    """
    if not checkpoint.path:
        return {}
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    path = folder / name
    if not path.is_file():
        return {}
    file = find_file(path)
    if file.size > MAX_CONFIG:
        raise ValueError(f"{file.name}: {file.size:,} bytes; at most {MAX_CONFIG:,} are read")
    with open_file(file) as stream:
        config = parse_json(read_bytes(stream, 0, file.size, file.name), file.name)
    return config if isinstance(config, dict) else {}


def _items(value: object, depth: int) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and depth:
        for key, part in value.items():
            yield str(key), part
            yield from _items(part, depth - 1)
    elif isinstance(value, list | tuple) and depth:
        for part in value:
            yield from _items(part, depth - 1)
