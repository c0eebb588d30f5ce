"""A running network -> the covariance of the input of its layers.

`attach` feeds a `FeatureCovariance` from each of the layers named, during ordinary inference.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from specdiag.compute.machine import free_memory
from specdiag.features.conditioning import FeatureSpectrum
from specdiag.features.covariance import MAX_BLOCKS, FeatureCovariance, gathered
from specdiag.features.layers import (
    arranged,
    chosen_layers,
    first_tensor,
    is_glob,
    layer_input,
    padded,
)
from specdiag.features.profile import spectra_of
from specdiag.features.rows import of_layer

# Bytes of the blocks of all layers together, above which wide layers keep fewer blocks.
MEMORY = 2 * 2**30
FEWEST_BLOCKS = 8  # the folds of the estimates: t quantile 2.36 in place of 2.00


class AttachedCovariance(FeatureCovariance):
    """A covariance that reads the input of a layer at each forward call; see `attach`."""

    def __init__(self, name: str, *, precision: str | None = None) -> None:
        super().__init__(precision=precision)
        self._name = name or "the module"
        self._groups_next: Any = None
        self._mask_next: Any = None

    def expect(self, *, groups: Any = None, mask: Any = None) -> None:
        """Set the groups and mask (see `update`) of the next forward call of the whole module.

        A layer with one row a sample, as after pooling, keeps the samples that have a token to keep
        in a mask of shape (batch, tokens).
        """
        self._groups_next, self._mask_next = groups, mask

    def result(self) -> FeatureSpectrum:
        """Return the spectrum of all rows seen; see `FeatureCovariance.result`."""
        if not self.n_samples:
            raise ValueError(f"no samples of {self._name}: it was not called, or all was masked")
        return super().result()

    def _read(self, layer: Any, value: Any, feature_axis: int | None, n_samples: int) -> None:
        if value is None:
            raise ValueError(f"{self._name} was called without a floating-point tensor")
        try:
            value, tokens = padded(value)
            known = layer_input(layer) if tokens is not None else None
            is_arranged = known and known.batch  # padding puts samples first in any layer
            features = value if is_arranged else arranged(layer, value, feature_axis)
            mask = of_layer(self._mask_next, tokens, features)
            if features.ndim == 2 and len(features) == n_samples:
                features = features[:, None]  # a row a sample, each of them a group
            self.update(features, groups=self._groups_next, mask=mask)
        except ValueError as error:
            raise ValueError(f"{self._name}: {error}") from None
        self._saw(_products(value))


class Layers(Mapping[str, FeatureCovariance]):
    """The covariances of several layers by name, in the order in which they were called first."""

    def __init__(self, covariances: Mapping[str, FeatureCovariance]) -> None:
        self._of = dict(covariances)

    def __getitem__(self, name: str) -> FeatureCovariance:
        return self._of[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)

    def merge(self, other: Mapping[str, FeatureCovariance]) -> None:
        """Add all rows that the same layers of another process or run have seen.

        Raises
        ------
        ValueError
            If the names or the widths differ.
        """
        if set(self) != set(other):
            raise ValueError(f"other layers: {', '.join(sorted(set(self) ^ set(other)))}")
        for name, covariance in self._of.items():
            covariance.merge(other[name])

    def over_ranks(self, group: Any = None) -> "Layers":
        """Return the layers with the rows of all processes; see `FeatureCovariance.over_ranks`."""
        called = [[name for name, one in self._of.items() if one.n_samples], sorted(self._of)]
        order = dict.fromkeys(name for rank in gathered(called, group) for name in rank[0])
        order |= dict.fromkeys(called[1])
        return Layers({name: self._of[name].over_ranks(group) for name in order})

    def result(self) -> dict[str, FeatureSpectrum]:
        """Return the spectra of the layers with at least two rows; a warning names the others."""
        few = [name for name, one in self._of.items() if one.n_samples < 2]
        if few:
            warnings.warn(
                f"{len(few)} of {len(self)} layers without two rows (not called, or masked) are "
                f"left out: {', '.join(few[:3])}{', ...' if few[3:] else ''}",
                stacklevel=2,
            )
        return spectra_of({name: one for name, one in self._of.items() if one.n_samples > 1})


class AttachedLayers(Layers):
    """The covariances of several layers of a network that runs; see `attach`."""

    _of: dict[str, AttachedCovariance]  # type: ignore[assignment]

    def __getitem__(self, name: str) -> AttachedCovariance:
        return self._of[name]

    def expect(self, *, groups: Any = None, mask: Any = None) -> None:
        """Set the groups and mask of the next forward call, for all layers.

        `features["fc"].expect(...)` afterwards sets others for one layer.
        """
        if isinstance(groups, Iterator):  # every layer reads the labels
            groups = list(groups)
        for one in self._of.values():
            one.expect(groups=groups, mask=mask)

    def _called_first(self, name: str) -> None:
        """Put a layer after those called before, and limit the memory of all."""
        before = [known for known, one in self._of.items() if one.width and known != name]
        after = [known for known in self._of if known not in before and known != name]
        self._of = {known: self._of[known] for known in (*before, name, *after)}
        limits = block_limits({known: self._of[known].width for known in (*before, name)})
        for known, count in limits.items():
            self._of[known].limit_blocks(count)


def block_limits(widths: Mapping[str, int]) -> dict[str, int]:
    """Return how many blocks each layer keeps: 64, and fewer for the widest while memory is short.

    Raises
    ------
    ValueError
        If the fewest blocks of all layers exceed the memory that is free.
    """
    limits = dict.fromkeys(widths, MAX_BLOCKS)
    size = {name: 8 * d**2 * MAX_BLOCKS for name, d in widths.items()}
    while sum(size.values()) > MEMORY and max(limits.values()) > FEWEST_BLOCKS:
        largest = max(size[name] for name, count in limits.items() if count > FEWEST_BLOCKS)
        for name in [name for name, count in limits.items() if count > FEWEST_BLOCKS]:
            if size[name] == largest:
                limits[name] //= 2
                size[name] //= 2
    if sum(size.values()) > max(MEMORY, free_memory()):
        need = f"{sum(size.values()) / 1e9:.1f} GB"
        if len(widths) == 1:
            raise ValueError(f"the covariance of {max(widths.values()):,} features needs {need}")
        raise ValueError(
            f"the covariances of {len(widths)} layers need {need}: attach fewer layers at once, or "
            "narrower ones"
        )
    return limits


def _products(features: Any) -> str:
    """Return the precision in which PyTorch, as set now, computes matrix products of such tensors.

    Features in float32 may be the result of 16-bit products (autocast) or of TF32, with their
    rounding.
    """
    import torch

    name, device = str(features.dtype).removeprefix("torch."), features.device.type
    if name != "float32":
        return name
    if torch.is_autocast_enabled(device):
        return str(torch.get_autocast_dtype(device)).removeprefix("torch.")
    if device == "cuda" and torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return name


@contextmanager
def attach(
    module: Any,
    layers: str | Iterable[str] = "",
    *,
    feature_axis: int | None = None,
    precision: str | None = None,
) -> Iterator[Any]:
    """Accumulate the covariance of the input of layers while a network runs.

    The input is the first floating-point tensor among the arguments of a layer, positional ones
    first. Every call of the layer counts. Call `module.eval()` first: dropout, and batch
    normalisation in training mode, change the features; a warning says so once.

    Which axis holds features is known by class: the last one for Linear, attention, recurrent
    layers and LayerNorm, that of the channels for convolutions, pooling and other norms. The rows
    of a convolution are the positions of its samples. Samples are the first axis, and the second
    one for attention and recurrent layers without `batch_first`; without groups, each is a group,
    also in layers that have one row for each sample of the network, as after pooling.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    layers : str or sequence of str
        Name of a submodule, as in `named_modules`: 'readout'; empty for the module itself. A list
        of names, or a glob ('*', 'encoder.layer.*.dense'), gives several at once. A glob matches
        the layers with a weight matrix or kernel that take features (Linear, convolutions,
        attention, recurrent ones); a name may be that of any submodule.
    feature_axis : int, optional
        Axis of the features in the input of these layers. Required for a layer of another class
        whose input has more than two axes.
    precision : str, optional
        See `FeatureCovariance`. By default the coarsest of the dtype of the features, the dtype of
        autocast if it is on, and 'tf32' for float32 on CUDA if matrix products use it (as after
        `torch.set_float32_matmul_precision("medium")`).

    Yields
    ------
    AttachedCovariance or AttachedLayers
        For one name a `FeatureCovariance`; for a list or a glob a mapping of names to these. The
        method `expect` of both takes groups and mask of the next forward call; `result` returns
        a `FeatureSpectrum`, or a dict of them by layer, in the order of the first calls.

    Raises
    ------
    ValueError
        If there is no such layer, it is an embedding, the module is compiled, or a layer is called
        without a floating-point tensor, or with one whose axis of features is not known.

    Notes
    -----
    Sums stay on the device of the features. Layers keep at most 64 blocks each, and the widest ones
    fewer, down to 8, while all take more than 2 GiB: that is so for a layer of over 2,048 features.

    Examples
    --------
    >>> with torch.no_grad(), specdiag.attach(model, "readout") as features:
    ...     for batch in batches:
    ...         features.expect(groups=batch["session"], mask=batch["output_mask"])
    ...         model(**batch["inputs"])
    >>> print(features.result())
    >>> with torch.no_grad(), specdiag.attach(model, "*") as features:
    ...     for batch in batches:
    ...         model(**batch["inputs"])
    >>> for name, spectrum in features.result().items():
    ...     print(name, spectrum.effective_rank)
    """
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None):
        raise ValueError(
            "the module is compiled, and runs no hooks that are added later: attach to the module "
            "before torch.compile (model._orig_mod), and run that one"
        )
    several = not isinstance(layers, str) or is_glob(layers)
    chosen = chosen_layers(module, [layers] if isinstance(layers, str) else layers)
    attached = {name: AttachedCovariance(name, precision=precision) for name in chosen}
    features = AttachedLayers(attached) if several else next(iter(attached.values()))
    training, samples = _Training(module), _Samples()

    def hook(name: str) -> Any:
        def read(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            one = attached[name]
            is_known = one.width
            value = first_tensor((*args, *kwargs.values()))
            one._read(layer, value, feature_axis, samples.count)
            training.warn_once(layer)
            if is_known or not one.width:
                return
            if isinstance(features, AttachedLayers):
                features._called_first(name)
            else:
                one.limit_blocks(block_limits({name: one.width})[name])

        return read

    hooks = [
        layer.register_forward_pre_hook(hook(name), with_kwargs=True)
        for name, layer in chosen.items()
    ]
    hooks.append(module.register_forward_pre_hook(samples.read, with_kwargs=True, prepend=True))
    hooks.append(module.register_forward_hook(lambda *_: features.expect(), always_call=True))
    try:
        yield features
    finally:
        for one in hooks:
            one.remove()


class _Samples:
    """Number of samples that a module was called with last: images, windows, sequences of tokens.

    A matrix of floating-point numbers may be a single sequence, so it counts as none.
    """

    count = 0

    def read(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.count = 0
        for value in (*args, *kwargs.values()):
            if hasattr(value, "detach") and not value.is_nested:
                is_several = value.ndim > (2 if value.is_floating_point() else 1)
                if is_several:
                    self.count = len(value)
                    return


class _Training:
    """Warns once that a module in training mode has layers that behave differently there."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._is_known = False

    def warn_once(self, layer: Any) -> None:
        if self._is_known or not (self._module.training or layer.training):
            return
        self._is_known = True
        kinds = {type(one).__name__ for one in self._module.modules() if _is_noisy(one)}
        if kinds:
            warnings.warn(
                "the module is in training mode, which changes its features "
                f"({', '.join(sorted(kinds)[:3])}): call eval() first",
                stacklevel=2,
            )


def _is_noisy(layer: Any) -> bool:
    """Return whether a layer is in training mode, and dropout or batch normalisation."""
    if not layer.training:
        return False
    if re.search("BatchNorm|DropPath|StochasticDepth", type(layer).__name__):
        return True
    share = getattr(layer, "p" if "Dropout" in type(layer).__name__ else "dropout", 0)
    return isinstance(share, float) and share > 0
