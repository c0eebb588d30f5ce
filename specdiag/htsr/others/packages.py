"""Measured layers -> the same with what weightwatcher and powerlaw find in the same matrices.

The packages themselves run, each in a process of its own (`in_process`), one matrix at a time. A
process that crashes, or that does not answer in time, is ended, and another one takes the next
matrix: the other layers, and all numbers of specdiag, are what they are without it.
"""

import json
import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.weights.weight import Weight
from specdiag.htsr import esd
from specdiag.htsr.layers import Layer
from specdiag.htsr.selection import matrices

FIELDS = {
    "weightwatcher": ("alpha", "xmin", "D", "n_tail"),
    "powerlaw": (
        *("alpha", "xmin", "D", "n_tail"),
        *("truncated_alpha", "truncated_lambda", "truncated_ratio", "truncated_p"),
        *("lognormal_mu", "lognormal_sigma", "lognormal_ratio", "lognormal_p"),
    ),
}
PACKAGES = tuple(FIELDS)
START = 300.0  # seconds that a package may take to be imported
LEAST, RATE = 300.0, 1e8  # seconds for a matrix, and multiplications of its solver in another one
MOST_CRASHES = 3  # in a row

_MODULE = "specdiag.htsr.others.in_process"


def check_packages(names: Sequence[str], method: str) -> None:
    """Raise ValueError if a name is none of `PACKAGES`, or its package is not installed.

    It is raised for every name beside another method, which has no `alpha_ks` to compare with.
    """
    if names and method != "specdiag":
        raise ValueError("beside compares alpha_ks: it needs the method specdiag")
    if isinstance(names, str):
        raise ValueError(f"beside is {names!r}: expected a list of names")  # noqa: TRY004
    for name in names:
        if name not in PACKAGES:
            raise ValueError(f"beside is {name!r}: expected {' or '.join(PACKAGES)}")
        if not find_spec(name):
            raise ValueError(f"beside needs {name}: pip install 'specdiag[oracles]'")


def beside_packages(
    checkpoints: Sequence[Checkpoint],
    measured: Sequence[Sequence[Layer]],
    pattern: str | None,
    names: Sequence[str],
) -> list[list[Layer]]:
    """Return the measured layers of each checkpoint with what packages find in its matrices."""
    return [
        with_packages(layers, matrices(checkpoint, pattern), names)
        for checkpoint, layers in zip(checkpoints, measured, strict=True)
    ]


def with_packages(
    layers: Sequence[Layer],
    weights: Sequence[Weight],
    names: Sequence[str],
    *,
    seconds: float = LEAST,
) -> list[Layer]:
    """Return the layers with the numbers of packages in `beside`, each as `PACKAGE_FIELD`.

    weightwatcher gets the weight, and powerlaw its eigenvalues above the rank gate, those that the
    fit of `alpha_ks` takes. xmin is an eigenvalue of W'W / N, as here. The field `status` is
    'success', or says why there are no numbers; it is '' for layers that specdiag did not measure.

    Parameters
    ----------
    layers, weights : sequence
        Of one checkpoint, in the same order.
    names : sequence of str
        Of `PACKAGES`.
    seconds : float
        Least time to wait for a matrix; for a large one it is longer.
    """
    measured = list(layers)
    for name in names:
        answers = _answers(name, layers, weights, seconds)
        for i, answer in enumerate(answers):
            fields = {field: answer.get(field, math.nan) for field in FIELDS[name]}
            fields |= {"status": answer["status"]}
            found = {f"{name}_{field}": value for field, value in fields.items()}
            measured[i] = replace(measured[i], beside=measured[i].beside | found)
    return measured


def _answers(
    name: str, layers: Sequence[Layer], weights: Sequence[Weight], seconds: float
) -> Iterator[dict[str, Any]]:
    process, crashes = _Process(name), 0
    try:
        for layer, weight in zip(layers, weights, strict=True):
            reason = _not_run(name, layer)
            if reason is None and crashes >= MOST_CRASHES:
                reason = f"not run: {name} failed {crashes} times in a row"
            if reason is not None:
                yield {"status": reason}
                continue
            try:
                data, scale = _sent(name, layer, weight)
            except (ValueError, OSError, MemoryError) as error:
                yield {"status": f"not run: {error}"}
                continue
            answer = process.ask(data, scale, seconds + _work(weight.shape) / RATE)
            crashes = 0 if process.is_running else crashes + 1
            yield answer
    finally:
        process.end()


def _not_run(name: str, layer: Layer) -> str | None:
    if layer.status not in ("fit", "degenerate"):
        return ""
    if name == "weightwatcher" and len(layer.shape) not in (2, 4):
        return "not run: weightwatcher knows matrices and kernels of two axes"
    if name == "powerlaw" and layer.rank < 2:
        return "not run: fewer than two eigenvalues above rounding"
    return None


def _sent(name: str, layer: Layer, weight: Weight) -> tuple[NDArray[Any], float]:
    """Return what a package gets, and by what its xmin is divided."""
    if name == "powerlaw":
        return layer.eigenvalues[: int(layer.rank)], 1.0
    W = esd.divided(weight.read(), layer.exponent)
    if W.dtype not in (np.float32, np.float64):
        W = W.astype(np.float32)
    scale = float(max(W.shape[:2]))
    return np.ascontiguousarray(W), scale / 2 if W.ndim > 2 else scale


def _work(shape: tuple[int, ...]) -> float:
    return math.prod(shape) * float(min(shape[:2]))


class _Process:
    """A process of a package, which is started when it is first asked, and after it failed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def ask(self, data: NDArray[Any], scale: float, seconds: float) -> dict[str, Any]:
        """Return the answer; if there is none, end the process and return a status that says so."""
        try:
            if self._process is None:
                self._start()
                self._line(START)
            request = {"shape": data.shape, "dtype": str(data.dtype), "scale": scale}
            self._write(json.dumps(request).encode() + b"\n" + data.tobytes())
            answer: dict[str, Any] = json.loads(self._line(seconds))
        except TimeoutError as error:
            self.end()
            return {"status": f"{self._name} gave no answer in {error} s"}
        except (OSError, ValueError):
            code = self.end()
            return {"status": f"{self._name} crashed (exit status {code})"}
        return answer

    def _start(self) -> None:
        self._rest = b""
        # -P: no module of the working folder; Agg: no window of matplotlib, which it imports.
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", _MODULE, self._name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=os.environ | {"MPLBACKEND": "Agg"},
        )

    def _write(self, content: bytes) -> None:
        assert self._process and self._process.stdin  # noqa: S101, PT018 - for type checkers
        view = memoryview(content)
        while view:
            view = view[self._process.stdin.write(view) or 0 :]

    def _line(self, seconds: float) -> bytes:
        assert self._process and self._process.stdout  # noqa: S101, PT018 - for type checkers
        end = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = max(0.0, end - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise TimeoutError(f"{seconds:.0f}")
            part = os.read(self._process.stdout.fileno(), 2**16)
            if not part:
                raise OSError("it has ended")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def end(self) -> int | None:
        """End the process, and return its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        assert process.stdin and process.stdout  # noqa: S101, PT018 - for type checkers
        with suppress(OSError):
            process.stdin.close()
        try:
            code = process.wait(1)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        process.stdout.close()
        return code
