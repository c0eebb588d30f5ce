"""The layers of files, measured by the workers of a Ray cluster."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from specdiag.cli.reading import READING, open_with

if TYPE_CHECKING:
    from specdiag.checkpoint.weights.weight import Weight
    from specdiag.compute.device import Device
    from specdiag.files import File
    from specdiag.htsr.layers import Layer
    from specdiag.obtain.cluster import Workers

Result = TypeVar("Result")
State = frozenset[tuple[str, int, int]]

_FILES = 8  # that are opened at once; each then has as many layers on the cluster as there are
_WORKER = 3e8  # bytes of a process that has loaded the libraries


@contextmanager
def on_cluster(
    function: Callable[..., Result],
    files: Sequence[Path],
    address: str | None,
    pattern: str | None,
    settings: Mapping[str, Any],
) -> Iterator[list[Callable[[], Result]]]:
    """Yield, for each file, a function that waits for the result of `function`.

    It is called with the file and `elsewhere`: given the path at which a node finds the file, and
    what was opened there, this returns what measures a weight of it on the cluster. The layers of
    all files are spread over all nodes, which must have the same files at the same paths.
    """
    from specdiag.compute.machine import current, using
    from specdiag.obtain.cluster import workers

    with workers(address) as cluster, using(jobs=cluster.n, memory=2**62):
        pool = ThreadPoolExecutor(_FILES)
        try:
            there = partial(_layer_of, pattern, settings, current().device)
            elsewhere = partial(partial, _send, cluster, settings, there)
            call = partial(function, elsewhere=elsewhere)
            results = [pool.submit(copy_context().run, call, file) for file in files]
            yield [result.result for result in results]
        finally:
            cluster.leave()  # before the threads are waited for
            pool.shutdown(cancel_futures=True)


def _send(
    cluster: "Workers",
    settings: Mapping[str, Any],
    function: Callable[[Path, State, str], "Layer"],
    file: Path,
    opened: "set[File]",
    weight: "Weight",
) -> "Layer":
    from specdiag.htsr.layers import peak_bytes, record_of
    from specdiag.obtain.cluster import LostError

    n_bytes = peak_bytes(weight, settings["repeats"], settings["traps"]) + _WORKER
    try:
        return cluster.call(function, file, _state(opened), weight.name, n_bytes=n_bytes)
    except LostError as error:
        return record_of(weight, status="failed", reason=str(error))


def _layer_of(
    pattern: str | None,
    settings: Mapping[str, Any],
    device: "str | Device | None",
    file: Path,
    state: State,
    name: str,
) -> "Layer":
    """Measure one weight of a file; this runs on a worker, with the limits of its machine."""
    from specdiag.compute.machine import using
    from specdiag.htsr.measure import measure

    weight = _weights(file, state, pattern, tuple(settings[key] for key in READING))[name]
    others = {key: settings[key] for key in settings.keys() - {*READING, "untrained"}}
    with using(device=device):
        (layer,) = measure([weight], **others)
    return layer


def _state(files: "set[File]") -> State:
    """Return what nodes agree on if they have the same files: names, sizes, times of changes."""
    return frozenset((file.path.name, file.size, file.stamp[0]) for file in files)


@lru_cache(maxsize=2)
def _weights(
    file: Path, state: State, pattern: str | None, reading: tuple[Any, ...]
) -> dict[str, "Weight"]:
    from specdiag.files import found_files
    from specdiag.htsr.selection import matrices
    from specdiag.obtain.cluster import LostError

    with found_files() as files:
        checkpoint = open_with(file, dict(zip(READING, reading, strict=True)))
    if _state(files) != state:
        raise LostError(f"{file.name}: changed since it was opened, or other than on this node")
    return {weight.name: weight for weight in matrices(checkpoint, pattern)}
