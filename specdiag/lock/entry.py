"""The lock and its entries: dataclasses whose fields, in this order, are the keys of the file."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from specdiag.lock.fields import (
    Commit,
    Module,
    NotNegative,
    Numbers,
    RelativePath,
    Repo,
    Scalar,
    Sha256,
    Size,
    Text,
    Url,
)

LOCK_NAME = "checkpoints.lock"
LOCK_VERSION = 1

Scale = Literal["paper", "desk"]
Key = tuple[str, Scale]


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The entry of the same scale whose weights this one starts from.

    `sha256` is that of the parent's file when the child was built.
    """

    name: RelativePath
    sha256: Sha256 | None = None


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file that a recipe reads under an `id`: a path, a URL, or a brainset with its version.

    A path is relative to the lock's folder. The file must match `sha256` and `size`.
    """

    FORMS: ClassVar = (("path",), ("url",), ("brainset", "version"))

    id: Text
    path: RelativePath | None = None
    url: Url | None = None
    brainset: Text | None = None
    version: Text | None = None
    sha256: Sha256 | None = None
    size: Size | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """The place from which weights can be downloaded: a file in a hub repository, or a URL.

    `revision` is the declared branch, tag or commit. `commit` is the commit that it pointed to at
    the first download. Later downloads must match `commit`, `sha256` and `size`.
    """

    FORMS: ClassVar = (("repo", "revision", "file"), ("url",))

    repo: Repo | None = None
    revision: Text | None = None
    file: RelativePath | None = None
    commit: Commit | None = None
    url: Url | None = None
    sha256: Sha256 | None = None
    size: Size | None = None


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """The weights of the last build. Other hardware gives other bytes, which are no error.

    `tensors` is the SHA-256 digest of names, dtypes, shapes and values; it does not depend on the
    file format. The hashes and the size are given together or, before the first build, not at
    all. `path` is relative to the lock's folder; `Entry.path` gives its default.
    """

    FORMS: ClassVar = ((), ("sha256", "size", "tensors"))

    path: RelativePath | None = None
    sha256: Sha256 | None = None
    size: Size | None = None
    tensors: Sha256 | None = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measured value that a rebuild must meet within `atol`."""

    value: float
    atol: NotNegative


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A published number or list of numbers, the method that gave it, and where it was published.

    Values of one quantity by several methods are separate records.
    """

    quantity: Text
    value: Numbers
    method: Text
    origin: Text


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Duration of a build: seconds on the named hardware."""

    seconds: NotNegative
    hardware: Text


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One checkpoint, or the evaluation of one, at one scale.

    Attributes
    ----------
    name : str
        The published path without its extension, such as ``'base/poyo_mp_converged'``.
    scale : {'paper', 'desk'}
        The same name exists at both scales; name and scale together are the key.
    group : str
        The set that the entry belongs to, such as ``'published'`` or ``'sweeps'``.
    kind : {'checkpoint', 'evaluation'}
        An evaluation has no weights: those of its parent are measured.
    recipe : str
        Name of the module in ``recipes/``, beside the lock, that builds the entry.
    params : dict
        Arguments of the recipe, defaults included: text, numbers, booleans, and lists and dicts
        of these. Tuples are written as lists.
    parent, inputs, source, file, cost
        See their classes.
    metrics : dict of str to Metric
        A rebuild must meet these.
    reported : tuple of Reported
        Shown, never checked against our own values.
    environment : dict
        Commit, versions, device, threads and seconds of the build; never checked.
    """

    name: RelativePath
    scale: Scale
    group: Text
    kind: Literal["checkpoint", "evaluation"] = "checkpoint"
    recipe: Module
    params: dict[str, Any] = field(default_factory=dict)
    parent: Parent | None = None
    inputs: tuple[Input, ...] = ()
    source: Source | None = None
    file: FileRecord = FileRecord()
    metrics: dict[str, Metric] = field(default_factory=dict)
    reported: tuple[Reported, ...] = ()
    cost: Cost | None = None
    environment: dict[str, Scalar] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Name and scale."""
        return self.name, self.scale

    @property
    def path(self) -> str:
        """Path of the weights, relative to the lock's folder."""
        return self.file.path or f"checkpoints/{self.scale}/{self.name}.ckpt"


@dataclass(frozen=True, kw_only=True)
class Lock:
    """All entries of a lock; a lock that was read has parents before children."""

    entries: tuple[Entry, ...] = ()
