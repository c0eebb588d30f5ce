"""Datasets of a file of Keras -> tensors under the names of layers and variables.

Keras 3 numbers the variables of a layer, as in ``layers/dense/vars/0``, in the order in which the
layer creates them (``keras/src/saving/saving_lib.py``); Keras 2 names them, as in
``dense/dense/kernel:0``. Kernels have their inputs first: (inputs, outputs), (taps, inputs,
outputs).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from specdiag.checkpoint.formats.hdf5.read import Content
from specdiag.checkpoint.tensor import Tensor

MAX_LEVELS = 50  # of a configuration
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies", "model_weights")
_LINEAR = ("kernel", "bias")
_CELL = ("kernel", "recurrent_kernel", "bias")
_NORMALISED = ("gamma", "beta")
# Variables of Keras's layers, by the class in snake case and without its dimensions.
_VARIABLES = {
    **dict.fromkeys(("dense", "einsum_dense", "conv", "conv_transpose"), _LINEAR),
    **dict.fromkeys(("lstm_cell", "gru_cell", "simple_rnn_cell"), _CELL),
    **dict.fromkeys(("layer_normalization", "group_normalization"), _NORMALISED),
    "batch_normalization": (*_NORMALISED, "moving_mean", "moving_variance"),
    "separable_conv": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "depthwise_conv": ("depthwise_kernel", "bias"),
    "embedding": ("embeddings",),
}
_ROLES = {"kernel": "linear", "recurrent_kernel": "linear", "embeddings": "embedding"}


def named(tensors: Sequence[Tensor], content: Content, config: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors under the names of their layers and variables, in the model's order.

    The name of a layer is the one that its user gave it, or else the one of its group: Keras counts
    layers without names through the whole program, so those differ between two runs.
    """
    layers = _Layers(content, config)
    owners: dict[tuple[str, ...], list[Tensor]] = {}
    for tensor in tensors:
        path = tuple(tensor.name.split("/"))
        is_numbered = path[-2:-1] == ("vars",) and re.fullmatch(r"\d{1,4}", path[-1])
        owners.setdefault(path[:-1] if is_numbered else path, []).append(tensor)
    names: dict[str, str] = {}
    for owner, members in owners.items():
        if owner[-1] == "vars" and members[0].name != "vars":
            members.sort(key=lambda tensor: _natural(tensor.name))
            labels, leaves = layers.labels(owner[:-1]), _leaves(members, layers.kinds(owner[:-1]))
            paths = ((*labels, *leaf) for leaf in leaves)
            names |= {t.name: ".".join(p) for t, p in zip(members, paths, strict=True)}
        else:
            names[members[0].name] = ".".join(_of_keras_2(owner))
    for separator in (".", "/"):
        if len({*names.values()}) == len(names):
            break
        names = {name: name.replace("/", separator) for name in names}  # two layers of one name
    ordered = sorted(tensors, key=lambda t: (layers.rank(t.name), _natural(t.name)))
    return [_with_role(replace(t, name=names[t.name]), layers.configured(t.name)) for t in ordered]


class _Layer(NamedTuple):
    """A layer of a configuration: its class, in snake case and without its dimensions."""

    kind: str = ""
    groups: int = 1


class _Layers:
    """What the attributes and the configuration of a file say of its layers."""

    def __init__(self, content: Content, config: Mapping[str, Any]) -> None:
        self._texts = content.texts
        self._layers = dict(_layers(config))
        self._classes = {name: layer.kind for name, layer in self._layers.items()}
        listed = [text for (_, name), text in content.texts.items() if name == "layer_names"]
        order = next((names for names in listed if isinstance(names, list)), [*self._classes])
        self._order = {name: i for i, name in enumerate(order)}

    def labels(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of a layer and of those above it."""
        parts = [path[: i + 1] for i in range(len(path)) if path[i] not in _CONTAINERS]
        return tuple(self._label(part) for part in parts)

    def _label(self, path: tuple[str, ...]) -> str:
        given, group = self._given(path), path[-1]
        if group == "cell" and given:
            return re.sub(r"_\d+$", "", given)
        base = _base(given)
        by_keras = {_base(group), self._classes.get(given), "sequential", "functional"}
        return group if not given or base in by_keras or base in _VARIABLES else given

    def kinds(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """Return the possible classes of a layer, the surest first."""
        given = self._given(path)
        return (self._classes.get(given, ""), _base(given), _base(path[-1]) if path else "")

    def configured(self, name: str) -> _Layer:
        """Return what the configuration says of the layer of a dataset."""
        path = tuple(name.split("/"))
        ends = range(len(path) - 1, 0, -1)
        names = (part for end in ends for part in (self._given(path[:end]), path[end - 1]))
        return next((self._layers[part] for part in names if part in self._layers), _Layer())

    def rank(self, name: str) -> int:
        """Return the position of a dataset's layer in the model; a large number if unknown."""
        path = tuple(name.split("/"))
        parts = [path[: i + 1] for i in range(len(path) - 1) if path[i] not in _CONTAINERS]
        names = [name for part in parts for name in (self._given(part), part[-1])]
        known = (self._order[name] for name in names if name in self._order)
        return next(known, len(self._order))

    def _given(self, path: tuple[str, ...]) -> str:
        text = self._texts.get(((*path, "vars"), "name"), "")
        return text if isinstance(text, str) else ""


def _leaves(members: Sequence[Tensor], kinds: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the names of the variables of a layer; ``vars.0`` and so on where they are unknown.

    A tensor and a second one of the shape of its last axes are a kernel and its bias; two matrices
    for the same gates, of which the second has a row for each unit, are those of a cell.
    """
    names = next((_VARIABLES[kind] for kind in kinds if kind in _VARIABLES), ())
    first, second = members[0].shape, members[1].shape if len(members) > 1 else ()
    if not names and len(members) == 2 and len(first) > 1:
        is_bias = 0 < len(second) < len(first) and second == first[-len(second) :]
        names = _LINEAR if is_bias else ()
    if not names and len(members) in (2, 3) and len(first) == len(second) == 2:
        has_gates = first[1] == second[1] > 0 and second[1] in (3 * second[0], 4 * second[0])
        names = _CELL if has_gates else ()
    if members[0].dtype.startswith("int") and names == _LINEAR and len(members) in (2, 3):
        names = (*_LINEAR[: len(members) - 1], "kernel_scale")
    n_vectors = sum(len(member.shape) < 2 for member in members)
    fits = len(names) >= len(members) and (n_vectors < len(members) or len(names) == len(members))
    return [(names[i],) if fits else ("vars", str(i)) for i in range(len(members))]


def _with_role(tensor: Tensor, layer: _Layer) -> Tensor:
    leaf = tensor.name.rpartition(".")[2]
    if len(tensor.shape) == 2:
        return replace(tensor, role=_ROLES.get(leaf, ""))
    if leaf == "kernel" and layer.kind in ("conv", "conv_transpose"):
        axes = "t" * (len(tensor.shape) - 2) + "cr"  # positions, inputs, outputs
        return replace(tensor, role=f"axes:{axes}", facts={"groups": layer.groups})
    return tensor


def _of_keras_2(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the name of a dataset of Keras 2, whose layer is written twice."""
    parts = [*path[1:]] if path[0] == "model_weights" and len(path) > 1 else [*path]
    parts[-1] = re.sub(r":\d+$", "", parts[-1])
    return tuple(parts[1:] if parts[:1] == parts[1:2] else parts)


def _layers(config: object, levels: int = MAX_LEVELS) -> Iterator[tuple[str, _Layer]]:
    """Yield the name of each layer in a configuration, and what it says of it, in order."""
    if isinstance(config, Mapping) and levels:
        about, kind = config.get("config"), config.get("class_name")
        name = about.get("name", config.get("name")) if isinstance(about, Mapping) else None
        if isinstance(about, Mapping) and isinstance(name, str) and isinstance(kind, str):
            groups = about.get("groups")
            yield name, _Layer(_snake(kind), groups if type(groups) is int and groups > 0 else 1)
        for value in config.values():
            yield from _layers(value, levels - 1)
    elif isinstance(config, list) and levels:
        for value in config:
            yield from _layers(value, levels - 1)


def _snake(kind: str) -> str:
    """Return the name of a class in snake case and without its dimensions: conv_transpose."""
    words = re.sub(r"[123]D", "", kind)
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", words).lower()


def _base(name: str) -> str:
    """Return a name that Keras made of a class, without its number and dimensions."""
    return re.sub(r"[123]d(?=_|$)|_\d+$", "", name)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return the sort key under which 2 is before 10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,9})", name)
    ]
