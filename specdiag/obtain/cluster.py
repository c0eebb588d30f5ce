"""Spreads work over a Ray cluster: the entries of a plan, children after their parents, or many files.

What a task leaves are files with receipts, on a file system that all nodes share: Ray may kill it, retry it
elsewhere and repeat it. A task that is retried goes on where the last one was, as an interrupted run does.
"""

import functools
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from specdiag.lock.entry import Entry, Key
from specdiag.obtain.build import TERMINATED, Outcome, attempt, skipped, waits
from specdiag.obtain.plan import Step

Job = TypeVar("Job")
Found = TypeVar("Found")


def work(
    path: Path,
    steps: Sequence[Step],
    *,
    address: str | None,
    force: set[Key],
    prefer: str,
    options: Mapping[str, Any],
    debug: bool = False,
) -> Iterator[Outcome]:
    """Do the steps of a plan on a cluster; yield what became of each, when it is done.

    Parameters
    ----------
    path : Path
        Of the lock, where every node finds it.
    address : str or None
        Of a cluster, or 'auto' for the one that this machine belongs to; by default Ray is started here.
    force, prefer, options, debug
        As in `specdiag.obtain.build.work`.

    Raises
    ------
    RuntimeError
        When Ray is not installed or cannot be started.
    ConnectionError
        When nobody listens at the address.
    """
    stack = ExitStack()
    ray = stack.enter_context(_connected(address))  # now, not when the first outcome is asked for
    return _disconnected(stack, _worked(ray, path, steps, force, prefer, options, debug))


def each(
    function: Callable[[Job], Found], jobs: Sequence[Job], *, address: str | None
) -> Iterator[Callable[[], Found]]:
    """Yield, for each job in order, what waits for its result; an error of the function is raised there.

    Parameters
    ----------
    function : callable
        Of a module that every node has, as are what it is given and what it returns.
    address : str or None
        As in `work`.

    Raises
    ------
    RuntimeError, ConnectionError
        As in `work`.
    """
    with _connected(address) as ray:
        task = ray.remote(num_cpus=1)(_applied)
        for ref in [task.remote(function, job) for job in jobs]:
            yield functools.partial(_result, ray, ref)


def _applied(function: Callable[[Job], Found], job: Job) -> Found:
    return function(job)


def _result(ray: Any, ref: Any) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def _disconnected(stack: ExitStack, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Yield the outcomes, then disconnect. What Ray prints meanwhile does not mix with results."""
    with stack, redirect_stdout(sys.stderr):
        yield from outcomes


def _worked(
    ray: Any,
    path: Path,
    steps: Sequence[Step],
    force: set[Key],
    prefer: str,
    options: Mapping[str, Any],
    debug: bool,
) -> Iterator[Outcome]:
    task = ray.remote(max_retries=3)(_task)
    done, running, pending = dict[Key, Outcome](), dict[Any, Step](), list(steps)
    while pending or running:
        unfinished = [*pending, *running.values()]
        for step in [s for s in pending if not waits(s.entry, unfinished)]:
            pending.remove(step)
            if found := skipped(step.entry, done):
                done[step.entry.key] = found
                yield found
                continue
            sized = task.options(name=step.entry.name, **_resources(ray, step, options))
            how = (step.entry.key in force, prefer, options, debug)
            running[sized.remote(path, step, *how)] = step
        if running:
            (ref,), _ = ray.wait(list(running))
            step = running.pop(ref)
            done[step.entry.key] = _outcome(ray, ref, step.entry, debug)
            yield done[step.entry.key]


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Yield the module `ray`, connected; SIGTERM becomes SystemExit(143), where Ray's own aborts with a dump."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    _probe(address)
    before, stopped = signal.getsignal(signal.SIGTERM), list[bool]()
    in_main = threading.current_thread() is threading.main_thread()
    try:
        with warnings.catch_warnings(action="ignore"):  # its advice about future versions
            import ray

            here: Any = {} if address else {"include_dashboard": False}
            ray.init(address=address or "local", logging_level=logging.WARNING, **here)
    except ImportError:
        raise RuntimeError("--engine ray needs Ray: pip install 'specdiag[ray]'") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise RuntimeError(str(error).strip().partition("\n")[0]) from error

    def stop(*_: object) -> NoReturn:
        stopped.append(True)
        raise KeyboardInterrupt  # the only one that Ray lets through while it waits

    if in_main:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield ray
    except KeyboardInterrupt:
        if stopped:
            raise SystemExit(TERMINATED) from None
        raise
    finally:
        ray.shutdown()
        if in_main:
            signal.signal(signal.SIGTERM, before)


def _probe(address: str | None) -> None:
    """Raise ConnectionError when nobody listens at an address: Ray would try for a quarter of an hour."""
    if address in (None, "auto"):
        return
    host, _, port = str(address).rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError:
        raise ConnectionError(
            f"no Ray cluster at {address}; start one with `ray start --head`, or leave out --address to "
            "use this machine alone"
        ) from None


def _n_devices(step: Step, options: Mapping[str, Any]) -> int:
    """Return how many processes train an entry; one makes it in another way."""
    if step.entry.kind == "evaluation" or step.action == "fetch":
        return 1
    training = step.entry.params.get("training")
    declared = training.get("devices", 1) if isinstance(training, dict) else 1
    return int(options.get("devices") or declared)


def _resources(ray: Any, step: Step, options: Mapping[str, Any]) -> dict[str, float]:
    """Return what an entry takes: a GPU a device at paper scale, else a core, as far as a node has them.

    What no node has would be waited for for ever; the recipe says what it lacks.
    """
    n = _n_devices(step, options)
    kind = "GPU" if step.entry.scale == "paper" and step.action != "fetch" else "CPU"
    most = max(node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"])
    return {"num_gpus": min(n, most)} if kind == "GPU" else {"num_cpus": min(n, most)}


def _outcome(ray: Any, ref: Any, entry: Entry, debug: bool) -> Outcome:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        if debug:
            raise
        text = "its worker or node died four times; run it without --engine ray to see why"
        if isinstance(error, ray.exceptions.RayTaskError):
            text = f"{type(error.cause).__name__}: {' '.join(str(error.cause).split())}"
        return Outcome(entry, "failed", text)


def _task(
    path: Path, step: Step, forced: bool, prefer: str, options: Mapping[str, Any], debug: bool
) -> Outcome:
    """Return what became of an entry, on whatever node this runs."""
    logging.basicConfig(format="specdiag: %(message)s")
    logging.getLogger("specdiag").setLevel(logging.INFO)
    if not path.is_file():
        text = (
            f"{os.uname().nodename} does not see {path}; nodes need a file system that they share"
        )
        return Outcome(step.entry, "failed", text)
    if _n_devices(step, options) > 1:
        return _in_process_of_its_own(path, step.entry, forced, prefer, options)
    while (found := attempt(path, step.entry, forced, prefer, options, debug=debug)) is None:
        forced = False  # another process makes it, and may take long
        time.sleep(1.0)
    return found


def _in_process_of_its_own(
    path: Path, entry: Entry, forced: bool, prefer: str, options: Mapping[str, Any]
) -> Outcome:
    """Return what the command line says became of an entry: within Ray's workers Lightning hangs."""
    flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in options.items()]
    command = [sys.executable, "-m", "specdiag", "train", entry.name, f"--scale={entry.scale}"]
    command += [f"--lock={path}", f"--prefer={prefer}", *flags, *["--force"] * forced]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    for line in ran.stdout.splitlines():
        word, *rest = re.split(" {2,}", line, maxsplit=3)
        if rest[:2] == [entry.name, entry.scale]:
            return Outcome(entry, word, "".join(rest[2:]))
    return Outcome(entry, "failed", f"its process ended with status {ran.returncode}")
