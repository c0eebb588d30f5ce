"""Checkpoint -> what tells how its tensors are meant: neighbours, roles and configurations."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.safetensors import parse_json
from specdiag.checkpoint.weights.weight import Weight
from specdiag.files import find_file, open_file, read_bytes

MAX_CONFIG = 1_000_000
# Leaf of a weight, and leaves of its bias: torch, flax and Keras; TransformerLens; transformers.
_BIASES = (
    (r"(.*)(?:weights?|kernel)", ("{0}bias", "{0}biases", "{0}b")),
    (r"(_?)[Ww](_?.*)", ("{0}b{1}",)),
    (r"(.+)", ("{0}_bias", "{0}_b", "{0}.bias")),
)
_ROUTER = re.compile(r"(.*_)?(router|gate|switch|gating|wg)(_network)?")
_OF_LAYERS = re.compile(r"(^|[._])(bias|scale|beta|gamma)$|norm|(^|[._])ln(_|\d|[.]|$)")  # vectors
_OF_BLOCKS = ("layers", "blocks", "h", "layer", "block")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
# Names of settings in configurations.
WIDTH = ("hidden_size", "d_model", "n_embd", "embed_dim", "hidden_dim", "dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "head_count")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
EXPERTS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "n_experts",
    "expert_num",
    "expert_count",
)
MAX_DEPTH = 8  # of the dicts and lists of a configuration that are searched


@dataclass(frozen=True)
class Evidence:
    """What is known beside the values of a checkpoint's tensors.

    Attributes
    ----------
    config : dict
        The config.json beside the file; empty if there is none, or if it is invalid.
    metadata : dict
        The metadata of the checkpoint, with hyper-parameters if it has some.
    weights : dict
        The whole weights by name, before any is cut: their shapes are those of composed weights.
        The `role` of each is what the class of its module says.
    """

    config: Mapping[str, Any]
    metadata: Mapping[str, Any]
    weights: Mapping[str, Weight]

    def numbers(self, *keys: str) -> frozenset[int]:
        """Return the positive whole numbers under the keys, anywhere in config and metadata.

        Of a key with dots, such as GGUF has, the last part counts.
        """
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
                    numbers.setdefault(key.rpartition(".")[2], set()).add(value)
        return numbers

    @cached_property
    def biases(self) -> dict[str, str]:
        """The weight of each bias that has two or more axes, by the name of the bias."""
        found: dict[str, str] = {}
        for name, tensor in self.weights.items():
            for other in bias_names(name) if len(tensor.shape) > 1 else ():
                bias = self.weights.get(other)
                if bias and len(bias.shape) > 1 and _is_shorter(bias.shape, tensor.shape):
                    found[other] = name
        return found

    @cached_property
    def vectors(self) -> dict[tuple[str, ...], set[int]]:
        """The lengths of the vectors in each module, by the parts of the module's name."""
        return self._lengths(1)

    @cached_property
    def vectors_beside(self) -> dict[tuple[str, ...], set[int]]:
        """The lengths of the vectors in the modules of a module, by the parts of its name."""
        return self._lengths(2)

    @cached_property
    def shapes(self) -> dict[tuple[str, ...], set[tuple[int, ...]]]:
        """The shapes of three or more axes in the modules of a module, by the parts of its name."""
        found: dict[tuple[str, ...], set[tuple[int, ...]]] = {}
        for name, tensor in self.weights.items():
            if len(tensor.shape) > 2:
                found.setdefault(parts_of(name)[:-2], set()).add(tensor.shape)
        return found

    @cached_property
    def leaves(self) -> dict[tuple[str, ...], set[str]]:
        """The last names in each module, by the parts of the module's name."""
        found: dict[tuple[str, ...], set[str]] = {}
        for name in self.weights:
            *owner, leaf = parts_of(name)
            found.setdefault(tuple(owner), set()).add(leaf)
        return found

    def _lengths(self, level: int) -> dict[tuple[str, ...], set[int]]:
        found: dict[tuple[str, ...], set[int]] = {}
        for name, tensor in self.weights.items():
            if len(tensor.shape) == 1:
                found.setdefault(parts_of(name)[:-level], set()).add(tensor.shape[0])
        return found

    @cached_property
    def sorted_names(self) -> list[str]:
        """The names of the weights, sorted."""
        return sorted(self.weights)

    @cached_property
    def distinct_shapes(self) -> set[tuple[int, ...]]:
        """All shapes of the file."""
        return {tensor.shape for tensor in self.weights.values()}

    @cached_property
    def shapes_with(self) -> Counter[int]:
        """How many distinct shapes have a side."""
        return Counter(side for shape in self.distinct_shapes for side in set(shape))

    @cached_property
    def routers(self) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
        """The parts of the names of matrices that choose experts, and their shapes."""
        names = [(parts_of(name), tensor.shape) for name, tensor in self.weights.items()]
        return [
            (parts, shape)
            for parts, shape in names
            if len(shape) == 2 and any(_ROUTER.fullmatch(part) for part in parts[-3:])
        ]

    def layers_of(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        """Return the module around a tensor whose tensors all are stacks of equal layers, or ().

        So nn.scan of flax and Megatron write them: each tensor has the number of layers as its
        first side, the vectors, such as biases, too.
        """
        ends = range(1, len(parts))
        return next((parts[:end] for end in ends if parts[:end] in self._layers), ())

    def inside(self, module: tuple[str, ...]) -> "Evidence":
        """Return the evidence in one layer of a stack of layers."""
        if module not in self._insides:
            tensors = {
                name: replace(tensor, shape=tensor.shape[1:])
                for name, tensor in self.weights.items()
                if parts_of(name)[: len(module)] == module
            }
            self._insides[module] = Evidence(self.config, self.metadata, tensors)
        return self._insides[module]

    @cached_property
    def _insides(self) -> "dict[tuple[str, ...], Evidence]":
        return {}

    @cached_property
    def _layers(self) -> set[tuple[str, ...]]:
        shapes: dict[tuple[str, ...], list[tuple[str, tuple[int, ...]]]] = {}
        for name, tensor in self.weights.items():
            parts = parts_of(name)
            for end in range(1, min(len(parts), MAX_DEPTH)):
                shapes.setdefault(parts[:end], []).append((".".join(parts[-2:]), tensor.shape))
        known = self.numbers(*_LAYERS)
        return {
            module
            for module, found in shapes.items()
            if _are_layers(found, known if module[-1] in _OF_BLOCKS else ())
        }


def _are_layers(tensors: list[tuple[str, tuple[int, ...]]], known: Collection[int]) -> bool:
    """Return whether all tensors of a module have one first side: that of vectors, or a known one.

    Vectors, such as biases, then have two axes.
    """
    counts = {shape[0] if len(shape) > 1 else 0 for _, shape in tensors}
    if len(counts) > 1 or counts <= {0, 1} or not any(len(shape) > 2 for _, shape in tensors):
        return False
    vectors = {len(shape) for name, shape in tensors if _OF_LAYERS.search(name.lower())}
    return len(tensors) > 2 and (2 in vectors or not counts.isdisjoint(known))


def _is_shorter(bias: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    sides = [size for size in bias if size > 1]
    return len(sides) < len(weight) and all(size in weight for size in sides)


def parts_of(name: str) -> tuple[str, ...]:
    """Return the parts of a tensor's name, without the ':0' that TensorFlow writes behind it."""
    return tuple(re.split(r"[./]", name.removesuffix(":0")))


def bias_names(name: str) -> list[str]:
    """Return the names that the bias of a weight may have."""
    stem = name.removesuffix(":0")
    start = max(stem.rfind("."), stem.rfind("/")) + 1
    head, leaf, tail = stem[:start], stem[start:], name[len(stem) :]
    found = []
    for pattern, forms in _BIASES:
        if match := re.fullmatch(pattern, leaf, re.DOTALL):
            found += [head + form.format(*match.groups()) + tail for form in forms]
    return found


def gather(checkpoint: Checkpoint, whole: Iterable[Weight]) -> Evidence:
    """Return the evidence of a checkpoint and its whole weights.

    A config.json that is invalid is none.
    """
    try:
        config = json_beside(checkpoint, "config.json")
    except (ValueError, OSError):
        config = {}
    weights = {weight.name: weight for weight in whole}
    return Evidence(config, checkpoint.metadata, weights)


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
