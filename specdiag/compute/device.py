"""Matrices -> eigenvalues of their correlation matrices, on a GPU, through torch.

Only eigenvalues are computed, never vectors, in float64. Several matrices are solved at once, each
by a thread and a stream of its own: while the small steps of one wait for each other, those of
another run, and the next matrix is read and moved. What does not fit is left to the processor.
"""

import functools
import logging
import math
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from specdiag.compute.gram import SURE
from specdiag.compute.machine import current, using

Array = NDArray[np.float64]
Result = TypeVar("Result")

NAMES = ("auto", "cuda", "mps", "cpu")
WORTH = 4096  # rows and columns: from there on a core takes longer than loading torch does
AT_ONCE = 4  # matrices on the device
FULL = 0.9  # of the memory of the device: the rest is torch's own
ROUNDING = 1e-12  # of the largest eigenvalue, at most

_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA, AMD, and either within Windows
_MOVED = ("float16", "float32", "float64", "bfloat16")  # as they are; torch lacks some others
_FULL = ("ALLOC_FAILED", "allocate memory", "out of memory")  # in errors of other types

_first = threading.Lock()
_log = logging.getLogger(__name__)


class Device:
    """Eigenvalues by torch, on one of its devices.

    Parameters
    ----------
    name : str
        As torch calls it.
    at_once : int
        How many matrices are solved at once.
    """

    def __init__(self, name: str, at_once: int = AT_ONCE) -> None:
        import torch

        self.name, self.at_once, self.works = name, at_once, True
        is_gpu = name == "cuda"
        self.memory: float = torch.cuda.mem_get_info(name)[1] if is_gpu else math.inf
        # The one given back last is taken first, because its memory is there already.
        self._streams: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(at_once):
            self._streams.put(torch.cuda.Stream() if is_gpu else None)  # type: ignore[no-untyped-call]
        self._all_of_them = threading.Lock()
        self._said: set[str] = set()

    def __repr__(self) -> str:
        return self.name

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Return whether a matrix, its Gram matrix, a copy of that and a workspace fit."""
        n, m, *kernel = shape
        values = math.prod(kernel) * (2 * n * m + 3 * min(n, m) ** 2)
        return self.works and 8 * values <= FULL * self.memory

    def eigenvalues(self, matrices: NDArray[Any]) -> Array | None:
        """Return the eigenvalues of W'W / N or WW' / N, the smaller, of each matrix W.

        A matrix that does not fit beside the others is tried again when they are done.

        Parameters
        ----------
        matrices : ndarray of shape (k, n, m)
            Of any dtype of real numbers, in any order of memory; N = max(n, m). They are moved as
            they are stored, and converted there.

        Returns
        -------
        ndarray of shape (k, min(n, m)) or None
            Ascending. None where the processor has to do it: if the memory of the device is not
            enough, if torch fails, or if values are not finite or near the limits of float64.
        """
        import torch

        reason = ""
        for places in (1, self.at_once):
            try:
                with self._taken(places) as stream:
                    return self._solved(matrices, stream)
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
                reason = str(error)
                break
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                is_full = isinstance(error, torch.OutOfMemoryError)
                if not (is_full or any(text in reason for text in _FULL)):
                    self.works = False  # as others would fail, too
                    break
                reason = "not enough memory"
        size = "x".join(map(str, matrices.shape[1:]))
        line = f"{self.name}: {reason}; the processor measures a matrix of {size}"
        if line not in self._said:
            self._said.add(line)
            _log.warning("%s", line)
        return None

    @contextmanager
    def _taken(self, places: int) -> Iterator[Any]:
        """Yield the stream of one of the places on the device, when as many are free."""
        with ExitStack() as stack:
            if places > 1:  # two threads that wait for all places would wait for each other
                stack.enter_context(self._all_of_them)
            for _ in range(places):
                stream = self._streams.get()
                stack.callback(self._streams.put, stream)
            yield stream

    def _solved(self, matrices: NDArray[Any], stream: Any) -> Array | None:
        import torch

        n, m = matrices.shape[1:]
        of_stream = nullcontext() if stream is None else torch.cuda.stream(stream)
        with of_stream, torch.inference_mode():
            W = _tensor(matrices).to(self.name).double()
            gram = W.mT @ W if n >= m else W @ W.mT
            del W
            if not SURE[0] < float(gram.diagonal(dim1=-2, dim2=-1).max()) < SURE[1]:
                return None
            gram /= max(n, m)
            values: Array = torch.linalg.eigvalsh(gram).cpu().numpy()
        return values


def _tensor(matrices: NDArray[Any]) -> Any:
    """Return a copy as a tensor; without one, torch refuses some orders and warns of others."""
    import torch

    if matrices.dtype.name not in _MOVED:
        dtype = np.float32 if matrices.itemsize <= 2 else np.float64  # either is exact
        with np.errstate(invalid="ignore"):  # of signalling NaNs
            matrices = matrices.astype(dtype)
    tensor = torch.empty(matrices.shape, dtype=getattr(torch, matrices.dtype.name))
    if tensor.dtype == torch.bfloat16:  # NumPy has no such type: the bits are copied
        tensor.view(torch.int16).numpy()[...] = matrices.view(np.int16)
    else:
        tensor.numpy()[...] = matrices
    return tensor


def eigenvalues(matrices: NDArray[Any]) -> Array | None:
    """Return the eigenvalues of matrices (k, n, m) by the device in use; see `Device.eigenvalues`.

    None where the processor computes them.
    """
    _, n, m = matrices.shape
    device = of_shape((n, m, len(matrices)))
    return device.eigenvalues(matrices) if device else None


def of_shape(shape: tuple[int, ...]) -> Device | None:
    """Return the device that solves a matrix of this shape, or None for the processor.

    With 'auto' a GPU solves the matrices with at least `WORTH` rows and columns. So it depends on
    nothing but the shape and the machine, and torch is imported only for one of them, and where
    there is the driver of a GPU.
    """
    device = current().device
    if device == "auto":
        device = "cuda" if min(shape[:2]) >= WORTH and _has_gpu() else "cpu"
    if device == "cuda":
        device = of_torch(device) or "cpu"
    return device if isinstance(device, Device) and device.holds(shape) else None


def in_use() -> str | Device | None:
    """Return the device that may solve matrices, or None if there is only the processor.

    Torch is not imported for that.
    """
    name = current().device
    if name == "auto" and not _has_driver():
        return None
    return None if name in ("cpu", "mps") else name


def by_device(function: Callable[..., Result]) -> Callable[..., Result]:
    """Let a function of something that has a shape, such as a weight, take the keyword `device`.

    The shape says which device computes all eigenvalues within it, those of parts, too.
    """

    @functools.wraps(function)
    def measured(weight: Any, *, device: str | Device | None = None, **options: Any) -> Result:
        with using(device=device), using(device=of_shape(weight.shape) or "cpu"):
            return function(weight, **options)

    return measured


def check(name: str | Device) -> None:
    """Raise ValueError if there is no such device.

    A device of Apple ('mps') has no float64: a line says that the processor is used instead.
    """
    if isinstance(name, Device):
        return
    if name not in NAMES:
        raise ValueError(f"device is {name!r}: expected one of {', '.join(NAMES)}")
    if name == "mps":
        _warn_once("mps has no float64, which the eigenvalues need: the processor measures")
    if name == "cuda" and not find_spec("torch"):
        raise ValueError("device 'cuda' needs torch: pip install torch")
    if name == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ValueError(f"device 'cuda': torch {torch.__version__} finds no GPU")


def _has_driver() -> bool:
    if "torch" not in sys.modules and not find_spec("torch"):
        return False
    if sys.platform == "win32":
        import shutil

        return shutil.which("nvidia-smi") is not None
    return any(Path(path).exists() for path in _DRIVERS)


def _has_gpu() -> bool:
    if not _has_driver():
        return False
    import torch

    return torch.cuda.is_available()


def of_torch(name: str) -> Device | None:
    """Return the one device of torch of this name, if it works and solves as NumPy does.

    One thread is first: torch loads its solvers when they are called first, which fails in several
    threads at once (pytorch/pytorch issue 90613).
    """
    with _first:
        return _right_one(name)


@functools.cache
def _right_one(name: str) -> Device | None:
    try:
        device = Device(name)
    except RuntimeError as error:  # such as that another process has all of it
        reason = str(error).partition("\n")[0]
        _warn_once(f"{name}: {reason}: the processor measures")
        return None
    W = np.cos(np.arange(96 * 80, dtype=np.float64) ** 2).reshape(1, 96, 80)
    values, expected = device.eigenvalues(W), np.linalg.eigvalsh(W[0].T @ W[0] / 96)
    if values is not None and np.abs(values - expected).max() <= ROUNDING * expected[-1]:
        return device
    _warn_once(f"{name}: the eigenvalues of a small matrix are wrong: the processor measures")
    return None


@functools.cache
def _warn_once(line: str) -> None:
    _log.warning("%s", line)
