"""Rows of features -> their covariance, batch by batch.

Features are the input of a layer of a network, one row for each token or sample.
`FeatureCovariance` keeps the count, mean and scatter matrix of blocks of dependent rows in float64,
and never the features; `specdiag.features.attach` feeds it while a network runs.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdiag.compute.machine import free_memory
from specdiag.features.blocks import Array, Moments, extended, merged
from specdiag.features.conditioning import EPS, FeatureSpectrum, feature_spectrum
from specdiag.features.rows import (
    LARGEST,
    by_content,
    by_label,
    float64,
    joined,
    kept,
    of_samples,
    on_host,
    placed,
)

# Number of blocks kept for the intervals: 64 d^2 numbers (8 MB for d = 128). The t quantile of 63
# degrees of freedom is 2 % above that of infinitely many; docs/features.md has the coverage.
MAX_BLOCKS = 64
AT_LEAST = 2**29  # bytes that are asked for without a look at the memory that is free
LEAST = 1e-290  # mean square of features; below it products lose digits, or are 0


class FeatureCovariance:
    """Accumulate the covariance of features in float64, in a numerically stable way.

    Parameters
    ----------
    precision : str, optional
        Precision of the forward pass: 'float64', 'float32', 'tf32', 'bfloat16' or 'float16'. By
        default the coarsest dtype among the features seen. That is wrong for float32 features whose
        matrix products were rounded to TF32 or bfloat16: give the precision then.
    max_blocks : int
        Number of blocks kept at most, 8, 16, 32 or 64. Fewer take less memory, and give
        wider intervals: 8 are 1.2 times as wide as 64, by the t quantile.

    Raises
    ------
    ValueError
        If `precision` or `max_blocks` is invalid.

    Notes
    -----
    Memory is 8 d^2 bytes for each of at most 64 blocks, a quarter of that for rows that wait to be
    added together, and about 80 bytes for each group; it is on the device that the first features
    were on. With more than 64 groups, a block is all groups whose blake2 hash is equal modulo 64.
    That depends only on the labels, so the order of batches and of merged accumulators does not
    matter.
    """

    def __init__(self, *, precision: str | None = None, max_blocks: int = MAX_BLOCKS) -> None:
        if precision is not None and precision not in EPS:
            raise ValueError(f"precision is {precision!r}: expected one of {', '.join(EPS)}")
        if max_blocks not in {8, 16, 32, MAX_BLOCKS}:
            raise ValueError(f"max_blocks is {max_blocks!r}: expected 8, 16, 32 or {MAX_BLOCKS}")
        self._fixed = precision is not None
        self._precision = precision or "float64"
        self._max_blocks = max_blocks
        self._groups: set[int] = set()
        self._blocks: dict[int, Moments] = {}
        self._origin: Any = None  # one sample; means relative to it keep all digits
        self._waiting: list[tuple[Any, NDArray[np.uint64]]] = []  # rows, and the group of each

    @property
    def n_samples(self) -> int:
        """Number of rows seen so far."""
        waiting = sum(len(keys) for _, keys in self._waiting)
        return sum(block.count for block in self._blocks.values()) + waiting

    @property
    def width(self) -> int:
        """Number of features of a row; 0 before the first one."""
        return 0 if self._origin is None else len(self._origin)

    def update(self, features: Any, *, groups: Any = None, mask: Any = None) -> None:
        """Add the rows of an array.

        Parameters
        ----------
        features : array or torch.Tensor of shape (..., d)
            Any floating-point dtype, on any device: rows stay there. A vector is one row.
        groups : sequence or array, optional
            The trial, window or session of each row, because rows of one group are not independent:
            one label for each entry of the first axis, or an array of labels of shape (...). Later
            calls may continue a group. By default each entry of the first axis is a group (a
            window) if there are three or more axes, and with fewer axes each call is one group;
            such groups are identified by their contents.
        mask : array or torch.Tensor, optional
            True or 1 for rows that count; False or 0 for padded tokens. Of shape (...), of its
            first axes, or (batch, tokens): for features of shape (batch, heads, tokens, d), and for
            (batch * tokens, d), which are taken as (batch, tokens, d).

        Raises
        ------
        ValueError
            If features have no axes, another width than before, no floating-point dtype, or values
            that are NaN, infinite or beyond 1e150; or if mask or groups have another shape.
        """
        x, precision = float64(features)
        d = x.shape[-1]
        if d != (self.width or d):
            raise ValueError(f"features have width {d}: {self.width} in earlier calls")
        x = of_samples(x, mask)
        lead = tuple(x.shape[:-1])
        keep = kept(mask, lead)
        rows = x.reshape(-1, d) if mask is None else x[placed(keep, x)]
        if not len(rows):
            return
        # A maximum is NaN if a value is.
        if not (float(rows.max()) < LARGEST and float(rows.min()) > -LARGEST):
            bad = int((~(abs(rows) < LARGEST)).sum())
            raise ValueError(
                f"{bad:,} of {len(rows) * d:,} feature values are NaN, infinite or > 1e150"
            )
        keys = by_content(rows, keep) if groups is None else by_label(groups, lead)[keep]
        if self._origin is None:
            self._origin = rows[0] + 0.0
        self._saw(precision)
        self._groups.update(np.unique(keys).tolist())
        self._waiting.append((placed(rows, self._origin) - self._origin, keys))
        if sum(len(keys) for _, keys in self._waiting) * 4 >= self._max_blocks * d:
            self._add_waiting()

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
        if self.width != other.width:
            raise ValueError(f"features have width {other.width} there and {self.width} here")
        other._add_waiting()
        self._add_waiting()
        self._saw(other._precision)
        self._groups |= other._groups
        self.limit_blocks(other._max_blocks)
        moved = placed(other._origin, self._origin) - self._origin
        for key, block in list(other._blocks.items()):
            mean, scatter = (placed(x, self._origin) for x in (block.mean, block.scatter))
            self._add(self._block_of(key), replace(block, mean=mean + moved, scatter=scatter))

    def over_ranks(self, group: Any = None) -> "FeatureCovariance":
        """Return the accumulator of the rows of all processes of `torch.distributed`.

        All of them call it, those without rows, too, and get the same; their own accumulators stay
        as they are. Without distributed processes it returns a copy.

        Parameters
        ----------
        group : torch.distributed.ProcessGroup, optional
            By default all processes.

        Raises
        ------
        ValueError
            In all processes, if the widths of the features differ.
        """
        self._add_waiting()
        origin, keys = on_host(self._origin), list(self._blocks)
        ranks = gathered((origin, self._groups, self._precision, self._max_blocks, keys), group)
        whole = FeatureCovariance(precision=self._precision if self._fixed else None)
        origins = [origin for origin, *_ in ranks if origin is not None]
        if len(widths := {len(origin) for origin in origins}) > 1:
            raise ValueError(f"features have widths {sorted(widths)} in different processes")
        if not origins:
            return whole
        whole._origin = origins[0]
        for _, groups, precision, count, _ in ranks:
            whole._saw(precision)
            whole._groups |= groups
            whole.limit_blocks(count)
        whole.merge(self)
        folded = sorted({whole._block_of(key) for *_, keys in ranks for key in keys})
        own = [whole._blocks.get(key) for key in folded]
        whole._blocks = dict(zip(folded, _total(own, whole.width, group), strict=True))
        return whole

    def result(self) -> FeatureSpectrum:
        """Return the spectrum of the covariance of all rows seen, with its intervals.

        Raises
        ------
        ValueError
            If there are fewer than two rows.
        """
        if self._origin is None:
            raise ValueError("no samples: a covariance needs at least 2")
        blocks = [*self.blocks().values()]
        origin = on_host(self._origin)
        means = [block.mean + origin for block in blocks]
        squares = sum(
            float(np.trace(b.scatter)) + b.count * float((mean**2).sum())
            for b, mean in zip(blocks, means, strict=True)
        )
        moment = squares / (self.n_samples * self.width)
        if moment < LEAST and (largest := max(float(np.abs(mean).max()) for mean in means)):
            raise ValueError(
                f"feature values of about {largest:.1g}, whose squares leave the range of float64: "
                "multiply them by 1e150"
            )
        return feature_spectrum(
            blocks,
            precision=self._precision,
            second_moment=moment,
            n_groups=len(self._groups),
        )

    def blocks(self) -> dict[int, Moments]:
        """Return the moments of the blocks of groups, as arrays of NumPy, by a number.

        Means are relative to one row. Accumulators that have seen the same groups have the same
        numbers: blocks of the same groups.
        """
        self._add_waiting()
        return {
            key: replace(block, mean=on_host(block.mean), scatter=on_host(block.scatter))
            for key, block in sorted(self._blocks.items())
        }

    def _saw(self, precision: str) -> None:
        if not self._fixed:
            self._precision = min(self._precision, precision, key=list(EPS).index)  # the coarser

    def limit_blocks(self, count: int) -> None:
        """Keep at most so many blocks, a power of two: merged blocks stay the same groups."""
        self._max_blocks = min(self._max_blocks, count)
        self._fold()

    def _block_of(self, keys: Any) -> Any:
        return keys % self._max_blocks if len(self._groups) > self._max_blocks else keys

    def _fold(self) -> None:
        """Merge the blocks of single groups if there are too many."""
        if len(self._groups) <= self._max_blocks:
            return
        blocks, self._blocks = self._blocks, {}
        for key, block in blocks.items():
            self._add(self._block_of(key), block)

    def _add_waiting(self) -> None:
        """Add the rows that wait: many at once, so that each block takes one product."""
        if not self._waiting:
            return
        self._fold()
        rows = joined([rows for rows, _ in self._waiting])
        keys = self._block_of(np.concatenate([keys for _, keys in self._waiting]))
        self._waiting = []
        order = np.argsort(keys, kind="stable")
        blocks, starts = np.unique(keys[order], return_index=True)
        _check_memory(
            len(set(blocks.tolist()) | set(self._blocks)), len(self._blocks), self._origin
        )
        for key, own in zip(blocks.tolist(), np.split(order, starts[1:]), strict=True):
            with_one_more = placed(np.append(own, own[0]), rows)
            self._blocks[key] = extended(self._blocks.get(key), rows[with_one_more])

    def _add(self, key: int, moments: Moments) -> None:
        known = self._blocks.get(key)
        self._blocks[key] = merged(known, moments) if known else moments


def _check_memory(n_blocks: int, n_held: int, like: Any) -> None:
    """Refuse blocks on the CPU that, with as much again for the result, exceed the free memory."""
    one = 8 * len(like) ** 2
    need = (2 * n_blocks - n_held) * one
    if need > AT_LEAST and isinstance(like, np.ndarray) and need > (free := free_memory()):
        raise ValueError(
            f"a covariance of {len(like):,} features takes {one / 1e9:.1f} GB a block: {n_blocks} "
            f"of them and the result need {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        )


def gathered(own: Any, group: Any) -> list[Any]:
    """Return an object of every process, in order of rank: only the own one without others."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return [own]
    everyone: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(everyone, own, group=group)
    return everyone


def _total(blocks: list[Moments | None], d: int, group: Any) -> list[Moments]:
    """Return the moments of the samples of every process, for blocks that all of them list alike.

    The scatter matrices are summed about the mean of all, which subtracts no large sums. Memory is
    that of one matrix besides, however many processes there are.
    """
    means = np.zeros((len(blocks), 1 + d))
    for row, block in zip(means, blocks, strict=True):
        if block:
            row[:] = block.count, *(block.count * block.mean)
    means = _summed(means, group)
    found = []
    for block, (count, *weighted) in zip(blocks, means, strict=True):
        mean = np.array(weighted) / count
        scatter = np.zeros((d, d))
        if block:
            delta = block.mean - mean
            scatter = block.scatter + np.outer(delta, block.count * delta)
        found.append(Moments(count=round(count), mean=mean, scatter=_summed(scatter, group)))
    return found


def _summed(values: Array, group: Any) -> Array:
    import torch
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    on_cpu = any(name in distributed.get_backend(group) for name in ("gloo", "mpi", "undefined"))
    device = "cpu" if on_cpu else torch.accelerator.current_accelerator()
    sums = torch.from_numpy(values).to(device)
    distributed.all_reduce(sums, group=group)
    return np.asarray(sums.cpu().numpy(), np.float64)
