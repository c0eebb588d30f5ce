"""Run work on a Ray cluster: the entries of a plan, children after their parents, or many files.

The results of a task are files with receipts, on a file system that all nodes share, so Ray may
kill a task, retry it on another node and repeat it. A retried task resumes from the last saved
state, as an interrupted run does.
"""

import functools
import json
import logging
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from specdiag.lock.entry import Entry, Key
from specdiag.obtain.build import Outcome, Settings, make, skipped_for_parent, waits_for_parent
from specdiag.obtain.job import TERMINATED
from specdiag.obtain.plan import Step

_POLL = 0.5  # seconds after which a thread that waits looks whether the command ends

LOST = "its worker or node died four times; run it without --engine ray to see the reason"

Job = TypeVar("Job")
Result = TypeVar("Result")


def run(
    path: Path, steps: Sequence[Step], settings: Settings, *, address: str | None
) -> Iterator[Outcome]:
    """Do the steps of a plan on a cluster; yield the outcome of each as soon as it is done.

    The lock has the same path on every node.

    Parameters
    ----------
    address : str or None
        Address of a cluster, or 'auto' for the cluster that this machine belongs to; by default
        Ray is started here.

    Raises
    ------
    RuntimeError
        If Ray is not installed or cannot be started.
    ConnectionError
        If no process listens at the address.
    """
    stack = ExitStack()
    ray = stack.enter_context(_connected(address))  # now, not when the first outcome is read
    return _outcomes(stack, ray, path, steps, settings)


def map(  # noqa: A001 - as the built-in, for functions that run on a cluster
    function: Callable[[Job], Result], jobs: Sequence[Job], *, address: str | None
) -> Iterator[Callable[[], Result]]:
    """Yield, for each job in order, a function that waits for its result or raises its error.

    Every node must be able to import the modules of `function`, of the jobs and of the results.
    `address` and the errors are those of `run`.
    """
    with _connected(address) as ray:
        task = ray.remote(num_cpus=1)(_applied)
        for ref in [task.remote(function, job) for job in jobs]:
            yield functools.partial(_result, ray, ref)


class LostError(RuntimeError):
    """A worker died, and so did those that tried it again, or its node has another file."""


class Workers:
    """The workers of a cluster, which call functions for threads that wait.

    Attributes
    ----------
    n : int
        How many calls they do at once: one for each core.
    """

    def __init__(self, ray: Any) -> None:
        self._ray, self._task = ray, ray.remote(num_cpus=1)(_called)
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [node for node in alive if node.get("CPU", 0) >= 1]
        self.n = max(1, int(sum(node["CPU"] for node in nodes)))
        # Ray would wait for more memory than the largest node has for ever.
        self._memory = max((node.get("memory", 0) for node in nodes), default=0)
        self._ends = threading.Event()

    def call(self, function: Callable[..., Result], *arguments: Any, n_bytes: float) -> Result:
        """Return the result of a function on a node that has so much memory, or raise its error.

        Every node must be able to import the modules of the function and of its arguments.
        """
        task = self._task.options(memory=int(min(n_bytes, self._memory)))
        ref = task.remote(function, arguments)
        while not self._ray.wait([ref], timeout=_POLL)[0]:
            if self._ends.is_set():
                raise ConnectionError("the cluster was left")
        result: Result = _result(self._ray, ref)
        return result

    def leave(self) -> None:
        """Let all threads that wait for a result raise ConnectionError."""
        self._ends.set()


@contextmanager
def workers(address: str | None) -> Iterator[Workers]:
    """Yield the workers of a cluster; `address` and the errors are those of `run`."""
    with _connected(address) as ray:
        made = Workers(ray)
        try:
            yield made
        finally:
            made.leave()


def _called(function: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    return function(*arguments)


def _applied(function: Callable[[Job], Result], job: Job) -> Result:
    return function(job)  # Ray makes no task of a `functools.partial`


def _result(ray: Any, ref: Any) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise LostError(LOST) from error


def _outcomes(
    stack: ExitStack, ray: Any, path: Path, steps: Sequence[Step], settings: Settings
) -> Iterator[Outcome]:
    task = ray.remote(max_retries=3)(_task)
    done, running, pending = dict[Key, Outcome](), dict[Any, Step](), list(steps)
    with stack:
        while pending or running:
            unfinished = [*pending, *running.values()]
            for step in [s for s in pending if not waits_for_parent(s.entry, unfinished)]:
                pending.remove(step)
                if skipped := skipped_for_parent(step.entry, done):
                    done[step.entry.key] = skipped
                    yield skipped
                    continue
                sized = _resources(ray, step, settings.options)
                ref = task.options(name=step.entry.name, **sized).remote(path, step, settings)
                running[ref] = step
            if running:
                (ref,), _ = ray.wait(list(running))
                step = running.pop(ref)
                done[step.entry.key] = _outcome(ray, ref, step.entry, settings.debug)
                yield done[step.entry.key]


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster.

    SIGTERM raises SystemExit(143); Ray's own handler aborts with a dump.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics
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
        raise KeyboardInterrupt  # the only exception that Ray lets through while it waits

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
    """Raise ConnectionError if no process listens at an address: Ray would try for 15 minutes."""
    if address in (None, "auto"):
        return
    host, _, port = str(address).rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError:
        raise ConnectionError(
            f"no Ray cluster at {address}; start one with `ray start --head`, or leave out "
            "--address to use this machine alone"
        ) from None


def _n_devices(step: Step, options: Mapping[str, Any]) -> int:
    """Return the number of processes that train an entry; 1 if it is fetched or evaluated."""
    if step.entry.kind == "evaluation" or step.action == "fetch":
        return 1
    training = step.entry.params.get("training")
    declared = training.get("devices", 1) if isinstance(training, dict) else 1
    return int(options.get("devices") or declared)


def _resources(ray: Any, step: Step, options: Mapping[str, Any]) -> dict[str, float]:
    """Return the GPUs (paper scale) or cores that an entry reserves: one per device.

    It reserves at most as many as the largest node has: Ray would wait for more for ever. The
    recipe refuses to run on too few GPUs.
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
        text = LOST
        if isinstance(error, ray.exceptions.RayTaskError):
            text = f"{type(error.cause).__name__}: {' '.join(str(error.cause).split())}"
        return Outcome(entry, "failed", text)


def _task(path: Path, step: Step, settings: Settings) -> Outcome:
    """Make an entry on the node on which this runs; return the outcome."""
    logging.basicConfig(format="specdiag: %(message)s")
    logging.getLogger("specdiag").setLevel(logging.INFO)
    if not path.is_file():
        node = platform.node()
        text = f"{node} has no file {path}; all nodes need a shared file system"
        return Outcome(step.entry, "failed", text)
    forced = step.entry.key in settings.force
    if _n_devices(step, settings.options) > 1:
        return _in_own_process(path, step.entry, settings, forced)
    while (outcome := make(path, step.entry, settings, forced=forced)) is None:
        forced = False  # another process makes it, and may take long
        time.sleep(1.0)
    return outcome


def _in_own_process(path: Path, entry: Entry, settings: Settings, forced: bool) -> Outcome:
    """Train an entry in a separate process: Lightning hangs in a worker of Ray."""
    flags = [f"--{k}" if v is True else f"--{k}={v}" for k, v in settings.options.items()]
    command = [sys.executable, "-m", "specdiag", "train", entry.name, f"--scale={entry.scale}"]
    command += [f"--lock={path}", f"--prefer={settings.prefer}", "--json"]
    command += [*flags, *["--force"] * forced]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)  # noqa: S603
    try:
        rows = json.loads(done.stdout)["checkpoints"]
    except ValueError:  # it was killed, or refused the command
        rows = []
    for row in rows:
        if (row["name"], row["scale"]) == entry.key:
            return Outcome(entry, row["outcome"], row["text"])
    return Outcome(entry, "failed", f"its process ended with status {done.returncode}")
