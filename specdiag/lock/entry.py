"""One entry of checkpoints.lock: the dataclasses whose fields, in this order, are its keys."""

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

Scale = Literal["paper", "desk"]
Key = tuple[str, Scale]


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The entry, of the same scale, whose weights this one starts from.

    `sha256` is that of the parent's file when the child was built.
    """

    name: RelativePath
    sha256: Sha256 | None = None


@dataclass(frozen=True, kw_only=True)
class Input:
    """What a recipe reads, under the `id` it uses: a path, a URL, or a brainset with its version.

    A path is relative to the lock's folder. `sha256` and `size` bind.
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
    """Where the weights can be fetched instead of trained: a file in a hub repository, or a URL.

    `revision` is what was asked for, perhaps a branch; `commit` is what it was resolved to at the
    first fetch, and binds from then on, as do `sha256` and `size`.
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
    """The weights as they were last built: a record, since other hardware gives other bytes.

    `tensors` is the sha256 digest of names, dtypes, shapes and values, which the container does
    not move. The hashes and the size come together or, before the first build, not at all. `path`
    is relative to the lock's folder; see `Entry.path` for its default.
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
    """A published figure: how it was computed (`method`) and where it stands (`origin`).

    `value` is a number or a list of numbers. Figures of one quantity by several methods stand
    beside each other.
    """

    quantity: Text
    value: Numbers
    method: Text
    origin: Text


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a build takes: seconds on the named hardware."""

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
        What the entry belongs to, such as ``'published'`` or ``'sweeps'``.
    kind : {'checkpoint', 'evaluation'}
        An evaluation has no weights of its own: those of its parent are measured.
    recipe : str
        Name of the module in ``recipes/``, beside the lock, that builds the entry.
    params : dict
        What the recipe is called with, defaults included: text, numbers, booleans, and lists and
        dicts of these. Tuples are written as lists.
    parent, inputs, source, file, cost
        See their classes.
    metrics : dict of str to Metric
        Binding.
    reported : tuple of Reported
        Shown, never checked against our own figures.
    environment : dict
        Commit, versions, device, threads, seconds: how the file came about; never checked.
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
        """Where the weights are kept, relative to the lock's folder."""
        return self.file.path or f"checkpoints/{self.scale}/{self.name}.ckpt"
