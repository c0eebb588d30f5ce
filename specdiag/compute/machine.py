"""What a computation may use of this machine: cores, memory, and a GPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specdiag.compute.device import Device

SHARE = 0.75  # of the free memory: the rest is for other programs and for what grows meanwhile
UNKNOWN = 2**31  # bytes, on a system that does not say how much memory it has

_KERNEL = Path("/")  # where its files are


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The limits that a user set; None for what the machine has.

    Attributes
    ----------
    jobs : int or None
        How many matrices are measured at once.
    memory : int or None
        Bytes that they use together.
    device : str or Device
        What computes eigenvalues; see `compute.device`.
    """

    jobs: int | None = None
    memory: int | None = None
    device: "str | Device" = "cpu"

    @property
    def n_jobs(self) -> int:
        """How many matrices to measure at once: by default, one for each core."""
        return self.jobs or n_cores()

    @property
    def n_bytes(self) -> float:
        """How much memory they use together: by default, 75 % of what is free."""
        return self.memory or SHARE * free_memory()


_UNLIMITED = Machine()
_current: ContextVar[Machine] = ContextVar("machine", default=_UNLIMITED)


def current() -> Machine:
    """Return the limits of the innermost `using`."""
    return _current.get()


@contextmanager
def using(
    *,
    jobs: int | None = None,
    memory: int | None = None,
    device: "str | Device | None" = None,
) -> Iterator[None]:
    """Set limits and the device; None leaves those of the `using` around.

    Raises
    ------
    ValueError
        If a limit is not positive, or there is no such device.
    """
    for name, limit in (("jobs", jobs), ("memory", memory)):
        if limit is not None and not limit > 0:
            raise ValueError(f"{name} is {limit!r}: expected a positive number")
    old = current()
    device = old.device if device is None else device
    if device != old.device:
        from specdiag.compute.device import check

        check(device)
    new = Machine(jobs=jobs or old.jobs, memory=memory or old.memory, device=device)
    token = _current.set(new)
    try:
        yield
    finally:
        _current.reset(token)


def n_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its cgroup."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for folder in _cgroup("cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        quota = quota or _text(folder / "cpu.cfs_quota_us")
        period = period or _text(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            cores = min(cores, max(1, -(-int(quota) // int(period))))
    return cores


def free_memory() -> int:
    """Return how many bytes this process can still take: of the machine, and of its cgroups."""
    free = _free_of_machine()
    for folder in _cgroup("memory"):
        limit = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")
        used = _text(folder / "memory.current") or _text(folder / "memory.usage_in_bytes")
        if limit.isdecimal() and used.isdecimal():
            stat = dict(line.split()[:2] for line in _text(folder / "memory.stat").splitlines())
            cache = stat.get("total_inactive_file", stat.get("inactive_file", "0"))
            free = min(free, int(limit) - int(used) + int(cache))
    return max(free, 0)


def _free_of_machine() -> int:
    for line in _text(_KERNEL / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    try:  # half of all, where the free part is not known
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return UNKNOWN


def _cgroup(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of those around it, of version 1 and 2.

    Within a container, the path that the kernel names may be missing: then it is the top folder.
    """
    groups = _KERNEL / "sys/fs/cgroup"
    for line in _text(_KERNEL / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top = groups
        elif controller in controllers.split(","):
            top = groups / controller
        else:
            continue
        inner = Path(path.strip("/"))
        yield from (top / part for part in (inner, *inner.parents) if ".." not in part.parts)


def _text(path: Path) -> str:
    """Return the text of a file of the kernel, or an empty text if it has none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
