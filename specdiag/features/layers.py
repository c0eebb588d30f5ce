"""Names of layers, and their input -> the layers, and features along the last axis of the input.

Samples are put along the first axis. Which axis is which is known by the class of a layer.
"""

import difflib
import fnmatch
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Input(NamedTuple):
    """How a class of layers takes its input."""

    axes: tuple[int, ...]  # of the features
    width: int  # number of features; 0 if the layer does not say
    batch: int = 0  # axis of the samples
    is_unbatched: int = 0  # number of axes of an input without that axis


def layer_input(layer: Any) -> Input | None:
    """Return how a layer takes its input, by its class; None if that is unknown.

    Sources are PyTorch's own classes (torch.nn, "Shape" in the documentation of each). A subclass
    of LayerNorm with another `forward` is unknown: some have channels first. A layer of another
    class with `in_features` (quantised and sharded ones) takes features last, as does
    transformers' Conv1D.
    """
    from torch import nn

    layer = getattr(layer, "base_layer", layer)  # of an adapter
    if isinstance(layer, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        layer = layer.self_attn
    if isinstance(layer, nn.MultiheadAttention | nn.RNNBase):
        width: Any = layer.embed_dim if _is_attention(layer) else layer.input_size
        return Input((-1,), width, 0 if layer.batch_first else 1)
    return _norm_input(layer) or _weights_input(layer)


def _norm_input(layer: Any) -> Input | None:
    from torch import nn

    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        if type(layer).forward not in {nn.LayerNorm.forward, nn.RMSNorm.forward}:
            return None
        shape = layer.normalized_shape
        return Input(tuple(range(-len(shape), 0)), math.prod(shape))
    if isinstance(layer, nn.GroupNorm):
        return Input((1,), layer.num_channels)
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return Input((1,), layer.num_features)
    return None


def _weights_input(layer: Any) -> Input | None:
    from torch import nn

    if dimensions := _dimensions(layer):  # convolutions, pooling and more: the batch may be missing
        width = getattr(layer, "in_channels", 0) or getattr(layer, "num_features", 0)
        return Input((-1 - dimensions,), width, is_unbatched=1 + dimensions)
    if isinstance(layer, nn.RNNCellBase):
        return Input((-1,), layer.input_size)
    if isinstance(layer, nn.Bilinear):
        return Input((-1,), layer.in1_features)
    if type(layer).__name__ == "Conv1D" and hasattr(layer, "nf"):
        return Input((-1,), layer.weight.shape[0])
    return Input((-1,), layer.in_features) if hasattr(layer, "in_features") else None


def _dimensions(layer: Any) -> int:
    """Return the number of axes of positions, by the name of a class of torch.nn: Conv2d has 2."""
    kinds = [
        kind for kind in type(layer).__mro__ if kind.__module__.startswith("torch.nn.modules.")
    ]
    found = re.search(r"([123])d\b", " ".join(kind.__name__ for kind in kinds))
    return int(found[1]) if found else 0


def _is_embedding(layer: Any) -> bool:
    """Return whether a layer takes indices of its rows."""
    from torch import nn

    return isinstance(layer, nn.Embedding | nn.EmbeddingBag)


def _is_attention(layer: Any) -> bool:
    """Return whether a layer is torch's attention, which calls none of its submodules."""
    from torch import nn

    return isinstance(layer, nn.MultiheadAttention)


def _is_inside_attention(name: str, known: Mapping[str, Any]) -> bool:
    return bool(name) and _is_attention(known.get(name.rpartition(".")[0]))


def _has_matrix(layer: Any) -> bool:
    """Return whether a layer has weights of two or more axes itself, and a known class."""
    own = [p for p in layer.parameters(recurse=False) if p.ndim > 1]
    weight = getattr(layer, "weight", None) if hasattr(layer, "parametrizations") else None
    is_matrix = own or getattr(weight, "ndim", 0) > 1 or hasattr(layer, "in_features")
    is_other = _is_embedding(layer) or _norm_input(layer) or hasattr(layer, "base_layer")
    return bool(is_matrix) and not is_other and layer_input(layer) is not None


def arranged(layer: Any, x: Any, feature_axis: int | None) -> Any:
    """Return an input with samples first, then positions, and features last.

    Parameters
    ----------
    layer : torch.nn.Module
        Its class says which axis holds features, and which samples.
    x : torch.Tensor
        Its input.
    feature_axis : int, optional
        Axis of the features, in place of that of the class.

    Raises
    ------
    ValueError
        If the axis is not known, or the input does not have it.
    """
    shape, kind = tuple(x.shape), type(layer).__name__
    known = layer_input(layer)
    if feature_axis is not None:
        if not -x.ndim <= feature_axis < x.ndim:
            raise ValueError(f"an input of shape {shape} has no axis feature_axis={feature_axis}")
        known = Input((feature_axis,), 0, known.batch if known else 0)
    if known is None:
        if x.ndim > 2:
            raise ValueError(
                f"which axis of its input {shape} holds features is not known for a {kind}: give "
                "feature_axis, such as feature_axis=-1 for the last one"
            )
        return x
    if known.is_unbatched == x.ndim > 0:
        x = x[None]
    elif x.ndim < 3 and known.batch:
        known = known._replace(batch=0)
    axes = [axis % x.ndim for axis in known.axes if -x.ndim <= axis < x.ndim]
    width = 1
    for axis in axes:
        width *= x.shape[axis]
    if len(axes) < len(known.axes) or width != (known.width or width):
        raise ValueError(
            f"a {kind} takes {known.width} features, and its input has shape {shape}: give "
            "feature_axis"
        )
    others = [axis for axis in range(x.ndim) if axis not in axes]
    others.sort(key=lambda axis: axis != known.batch)
    x = x.permute(*others, *axes)
    return x.flatten(-len(axes)) if len(axes) > 1 else x


def first_tensor(values: Iterable[Any]) -> Any:
    """Return the first floating-point tensor or packed sequence; None without one."""
    from torch.nn.utils.rnn import PackedSequence

    for value in values:
        if isinstance(value, PackedSequence):
            return value
        if hasattr(value, "detach") and value.is_floating_point():
            return value
    return None


def padded(x: Any) -> tuple[Any, Any]:
    """Return sequences of unequal length as (batch, tokens, ...), and a mask of their tokens.

    These are nested tensors, which torch.nn.TransformerEncoder makes of a padding mask, and the
    packed sequences of recurrent layers. Any other tensor is returned as it is, with None.
    """
    import torch

    if isinstance(x, torch.nn.utils.rnn.PackedSequence):
        x, lengths = torch.nn.utils.rnn.pad_packed_sequence(x, batch_first=True)
    elif x.is_nested:
        lengths = torch.tensor([len(part) for part in x.unbind()])
        x = torch.nested.to_padded_tensor(x, 0.0)
    else:
        return x, None
    return x, torch.arange(x.shape[1]) < lengths[:, None].cpu()


def is_glob(name: str) -> bool:
    """Return whether a name chooses several layers."""
    return any(character in name for character in "*?[")


def chosen_layers(module: Any, layers: Iterable[str]) -> dict[str, Any]:
    """Return the submodules that names and globs choose, by name; see `attach`.

    Raises
    ------
    ValueError
        If there is no such layer, or it is an embedding, or one that is never called.
    """
    known = dict(module.named_modules())
    chosen: dict[str, Any] = {}
    for text in layers:
        found = [text]
        if is_glob(text):
            found = [
                name
                for name in fnmatch.filter(known, text)
                if _has_matrix(known[name]) and not _is_inside_attention(name, known)
            ]
        if not found:
            raise ValueError(f"no layer with weights matches {text!r}; {_near(text, known)}")
        chosen |= {name: _submodule(module, name, known) for name in found}
    if not chosen:
        raise ValueError("no layers are named")
    return chosen


def _submodule(module: Any, name: str, known: Mapping[str, Any]) -> Any:
    try:
        layer = module.get_submodule(name)
    except AttributeError:
        raise ValueError(f"no submodule {name!r}; {_near(name, known)}") from None
    if _is_embedding(layer):
        where = name or "the module"
        raise ValueError(
            f"{where} is an embedding, which takes indices: attach the layer that follows it"
        )
    if _is_inside_attention(name, known):
        parent = name.rpartition(".")[0] or "the module itself"
        raise ValueError(f"{name} is never called: attach its attention, {parent}")
    return layer


def _near(name: str, known: Mapping[str, Any]) -> str:
    names = [one for one in known if one]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    return f"near names: {', '.join(near) or 'none'}"
