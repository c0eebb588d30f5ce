"""Features of a network -> their covariance, computed while the network runs.

Features are the input of the model's readout, one row for each token or sample. `FeatureCovariance`
keeps the count, mean and scatter matrix of blocks of dependent rows in float64, and never the
features. `attach` feeds it from a PyTorch module during ordinary inference.
"""

import difflib
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdiag.features.blocks import Array, Moments, merged
from specdiag.features.conditioning import EPS, FeatureSpectrum, feature_spectrum

# Number of blocks kept for the intervals: 64 d^2 numbers (8 MB for d = 128). The t quantile of 63
# degrees of freedom is 2 % above that of infinitely many; docs/features.md has the coverage.
MAX_BLOCKS = 64


class FeatureCovariance:
    """Accumulate the covariance of features in float64, in a numerically stable way.

    Parameters
    ----------
    precision : str, optional
        Precision of the forward pass: 'float64', 'float32', 'tf32', 'bfloat16' or 'float16'. By
        default the coarsest dtype among the features seen. That is wrong for float32 features whose
        matrix products were rounded to TF32 or bfloat16: give the precision then.

    Raises
    ------
    ValueError
        If `precision` is invalid.

    Notes
    -----
    Memory is 8 d^2 bytes for each of at most 64 blocks, and about 80 bytes for each group. With
    more than 64 groups, a block is all groups whose blake2 hash is equal modulo 64. That depends
    only on the labels, so the order of batches and of merged accumulators does not matter.
    """

    def __init__(self, *, precision: str | None = None) -> None:
        if precision is not None and precision not in EPS:
            raise ValueError(f"precision is {precision!r}: expected one of {', '.join(EPS)}")
        self._fixed = precision is not None
        self._precision = precision or "float64"
        self._groups: set[int] = set()
        self._blocks: dict[int, Moments] = {}
        self._origin: Array | None = None  # one sample; means relative to it keep all digits

    @property
    def n_samples(self) -> int:
        """Number of rows seen so far."""
        return sum(block.count for block in self._blocks.values())

    def update(self, features: Any, *, groups: Any = None, mask: Any = None) -> None:
        """Add the rows of an array.

        Parameters
        ----------
        features : array or torch.Tensor of shape (..., d)
            Any floating-point dtype, on any device. A vector is one row.
        groups : sequence or array, optional
            The trial, window or session of each row, because rows of one group are not independent:
            one label for each entry of the first axis, or an array of labels of shape (...). Later
            calls may continue a group. By default each entry of the first axis is a group (a
            window) if there are three or more axes, and with fewer axes each call is one group;
            such groups are identified by their contents.
        mask : array or torch.Tensor of shape (...), optional
            True for rows that count; False for padded tokens.

        Raises
        ------
        ValueError
            If features have no axes, another width than before, no floating-point dtype, or values
            that are NaN, infinite or beyond 1e150; or if mask or groups have another shape.
        """
        x, precision = _float64(features)
        if self._origin is not None and x.shape[-1] != len(self._origin):
            raise ValueError(
                f"features have width {x.shape[-1]}: {len(self._origin)} in earlier calls"
            )
        lead, d = x.shape[:-1], x.shape[-1]
        keep = _kept(mask, lead)
        rows = x[keep]
        bad = np.count_nonzero(~(np.abs(rows) < 1e150))  # whose squares leave the float64 range
        if bad:
            raise ValueError(
                f"{bad:,} of {rows.size:,} feature values are NaN, infinite or > 1e150"
            )
        keys = _labelled(groups, lead)[keep] if groups is not None else _by_content(x, keep)[keep]
        if not len(rows):
            return
        if self._origin is None:
            self._origin = rows[0].copy()
        self._saw(precision)
        self._groups.update(map(int, np.unique(keys)))
        self._fold()
        keys = self._block_of(keys)
        for key in np.unique(keys):
            self._add(int(key), _moments(rows[keys == key].reshape(-1, d) - self._origin))

    def merge(self, other: "FeatureCovariance") -> None:
        """Add all rows that another accumulator has seen; the order matters only for rounding.

        Raises
        ------
        ValueError
            If the widths of the features differ.
        """
        if other._origin is None:
            return
        if self._origin is None:
            self._origin = other._origin
        if len(self._origin) != len(other._origin):
            raise ValueError(
                f"features have width {len(other._origin)} there and {len(self._origin)} here"
            )
        self._saw(other._precision)
        self._groups |= other._groups
        self._fold()
        moved = other._origin - self._origin
        for key, block in list(other._blocks.items()):
            self._add(self._block_of(key), replace(block, mean=block.mean + moved))

    def result(self) -> FeatureSpectrum:
        """Return the spectrum of the covariance of all rows seen, with its intervals.

        Raises
        ------
        ValueError
            If there are fewer than two rows.
        """
        if self._origin is None:
            raise ValueError("no samples: a covariance needs at least 2")
        blocks = [self._blocks[key] for key in sorted(self._blocks)]
        squares = sum(
            float(np.trace(b.scatter)) + b.count * float(((b.mean + self._origin) ** 2).sum())
            for b in blocks
        )
        return feature_spectrum(
            blocks,
            precision=self._precision,
            second_moment=squares / (self.n_samples * len(self._origin)),
            n_groups=len(self._groups),
        )

    def _saw(self, precision: str) -> None:
        if not self._fixed:
            self._precision = min(self._precision, precision, key=list(EPS).index)  # the coarser

    def _block_of(self, keys: Any) -> Any:
        return keys % MAX_BLOCKS if len(self._groups) > MAX_BLOCKS else keys

    def _fold(self) -> None:
        """Merge the blocks of single groups if there are too many; merged blocks stay."""
        if len(self._groups) <= MAX_BLOCKS:
            return
        blocks, self._blocks = self._blocks, {}
        for key, block in blocks.items():
            self._add(self._block_of(key), block)

    def _add(self, key: int, moments: Moments) -> None:
        known = self._blocks.get(key)
        self._blocks[key] = merged(known, moments) if known else moments


def _moments(rows: Array) -> Moments:
    mean = rows.mean(axis=0)
    centered = rows - mean
    return Moments(count=len(rows), mean=mean, scatter=centered.T @ centered)


def _float64(features: Any) -> tuple[Array, str]:
    """Return features in float64, on the CPU, and the name of their dtype."""
    if hasattr(features, "detach"):
        name = str(features.dtype).removeprefix("torch.")
    else:
        features = np.asarray(features)
        name = features.dtype.name
    if name not in EPS:
        raise ValueError(f"features are {name}: expected float64, float32, float16 or bfloat16")
    if features.ndim == 0 or 0 in features.shape[-1:]:
        raise ValueError(f"features have shape {tuple(features.shape)}: expected (..., d)")
    if hasattr(features, "detach"):
        features = features.detach().cpu().double().numpy()
    return np.atleast_2d(np.asarray(features, dtype=np.float64)), name


def _plain(values: Any) -> Any:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def _kept(mask: Any, lead: tuple[int, ...]) -> NDArray[np.bool_]:
    if mask is None:
        return np.ones(lead, dtype=bool)
    keep = np.asarray(_plain(mask))
    if keep.dtype != bool or keep.shape != lead:
        raise ValueError(
            f"mask is {keep.dtype} of shape {keep.shape}: expected bool of shape {lead}, True to "
            "keep"
        )
    return keep


def _labelled(groups: Any, lead: tuple[int, ...]) -> NDArray[np.uint64]:
    """Return a hash of the label of each row, in the shape of the leading axes."""
    groups = _plain(groups)
    if isinstance(groups, np.ndarray) and groups.ndim > 1:
        shape, labels = groups.shape, groups.ravel().tolist()
    elif isinstance(groups, str) or not isinstance(groups, Iterable):
        raise ValueError(f"groups is {groups!r}: expected one label for every entry of {lead[:1]}")
    else:
        labels = list(groups)
        shape = (len(labels),)
    if shape not in {lead, lead[:1]}:
        raise ValueError(f"groups have shape {shape}: expected {lead[:1]} or {lead}")
    # 3, numpy.int64(3) and torch.tensor(3) are the same label.
    texts = [repr(label.item() if hasattr(label, "item") else label) for label in labels]
    hashes = {text: _hash(text.encode()) for text in set(texts)}
    keys = np.array([hashes[text] for text in texts], dtype=np.uint64)
    return np.broadcast_to(keys.reshape(shape + (1,) * (len(lead) - len(shape))), lead)


def _by_content(x: Array, keep: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Return a hash of the window of each row, in the shape of the leading axes."""
    if keep.ndim < 2:
        return np.full(keep.shape, _hash(x[keep].tobytes()), dtype=np.uint64)
    keys = [_hash(window[kept].tobytes()) for window, kept in zip(x, keep, strict=True)]
    shape = (len(keys),) + (1,) * (keep.ndim - 1)
    return np.broadcast_to(np.array(keys, dtype=np.uint64).reshape(shape), keep.shape)


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class AttachedCovariance(FeatureCovariance):
    """A covariance that reads the input of a module at each forward call; see `attach`."""

    _groups_next: Any = None
    _mask_next: Any = None

    def expect(self, *, groups: Any = None, mask: Any = None) -> None:
        """Set the groups and mask (see `update`) of the next forward call of the whole module."""
        self._groups_next, self._mask_next = groups, mask

    def _read(self, features: Any) -> None:
        self.update(features, groups=self._groups_next, mask=self._mask_next)
        self._saw(_products(features))


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
    module: Any, name: str = "", *, precision: str | None = None
) -> Iterator[AttachedCovariance]:
    """Accumulate the covariance of the input of a submodule while the module runs.

    The input is the first floating-point tensor among the arguments of the submodule, positional
    ones first. Every call of the submodule counts. Call `module.eval()` first, or dropout changes
    the features.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    name : str
        Name of the submodule, as in `named_modules`: 'readout'. Empty for the module itself.
    precision : str, optional
        See `FeatureCovariance`. By default the coarsest of the dtype of the features, the dtype of
        autocast if it is on, and 'tf32' for float32 on CUDA if matrix products use it (as after
        `torch.set_float32_matmul_precision("medium")`).

    Yields
    ------
    AttachedCovariance
        A `FeatureCovariance`; its method `expect` takes groups and mask of the next forward call.

    Raises
    ------
    ValueError
        If there is no such submodule, or it is called without a floating-point tensor.

    Examples
    --------
    >>> with torch.no_grad(), specdiag.attach(model, "readout") as features:
    ...     for batch in batches:
    ...         features.expect(groups=batch["session"], mask=batch["output_mask"])
    ...         model(**batch["inputs"])
    >>> print(features.result())
    """
    covariance = AttachedCovariance(precision=precision)

    def read(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if hasattr(value, "detach") and value.is_floating_point():
                covariance._read(value)
                return
        raise ValueError(f"{name or 'the module'} was called without a floating-point tensor")

    hooks = [
        _submodule(module, name).register_forward_pre_hook(read, with_kwargs=True),
        module.register_forward_hook(lambda *_: covariance.expect(), always_call=True),
    ]
    try:
        yield covariance
    finally:
        for hook in hooks:
            hook.remove()


def _submodule(module: Any, name: str) -> Any:
    try:
        return module.get_submodule(name)
    except AttributeError:
        names = [known for known, _ in module.named_modules() if known]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    raise ValueError(f"no submodule {name!r}; near names: {', '.join(near) or 'none'}")
