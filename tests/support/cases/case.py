"""Small networks as people keep them: each written by a function, with the matrices that count.

`right` of a case are the matrices that its network multiplies with, of any size, without lookup
tables: fused and stacked ones whole, as they are stored. None if it is not known here.
"""

import importlib.util
import itertools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CASES: dict[str, "Case"] = {}


@dataclass(frozen=True)
class Made:
    """What a case wrote: the file, folder or module to open, and the matrices that count."""

    path: Any  # a path, or the module or arrays themselves
    right: list[np.ndarray] | None = None
    blocks: list[np.ndarray] | None = None  # the true parts of fused ones, if they are known here


@dataclass(frozen=True)
class Case:
    """A case: its function, and the libraries that it needs."""

    name: str
    function: Callable[[Path], Made]
    needs: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """Names of the libraries that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def make(self, folder: Path) -> Made:
        """Write the files of the case into a new folder named after it."""
        own = folder / self.name
        own.mkdir(parents=True, exist_ok=True)
        if "torch" in self.needs:
            import torch

            torch.manual_seed(0)
        with warnings.catch_warnings():  # of the libraries, about their older functions
            warnings.simplefilter("ignore")
            return self.function(own)


def case(*needs: str) -> Callable[[Callable[[Path], Made]], Callable[[Path], Made]]:
    """Register a function that writes a case; `needs` names the libraries that it imports."""

    def register(function: Callable[[Path], Made]) -> Callable[[Path], Made]:
        assert function.__name__ not in CASES
        CASES[function.__name__] = Case(function.__name__, function, needs)
        return function

    return register


def heavy(*shape: int, seed: int = 0) -> np.ndarray:
    """Return float32 matrices with a heavy-tailed spectrum: Gaussian ones around Pareto scales.

    No decomposition is used, so the values are the same with any library of linear algebra.
    """
    rng = np.random.default_rng([seed, *shape])
    *stack, n, m = shape
    k = min(n, m)
    scales = np.sqrt(1 + rng.pareto(1.5, (*stack, 1, k)))
    left = rng.standard_normal((*stack, n, k)) * scales
    return (0.02 * left @ rng.standard_normal((*stack, k, m)) / np.sqrt(k)).astype(np.float32)


def kernel(*shape: int, seed: int = 0) -> np.ndarray:
    """Return a convolution kernel (out, in, ...): one heavy matrix per position."""
    out, inner, *sides = shape
    positions = heavy(*sides, out, inner, seed=seed)
    return np.moveaxis(positions, (-2, -1), (0, 1)).copy()


def state(*shapes: tuple[int, ...], names: Iterable[str] = (), seed: int = 0) -> dict:
    """Return a state dict of torch tensors: a heavy matrix for every shape, with its name."""
    import torch

    names = names or (f"layers.{i}.weight" for i in itertools.count())
    return {
        name: torch.from_numpy(heavy(*shape, seed=seed + i))
        for i, (name, shape) in enumerate(zip(names, shapes, strict=False))
    }


def fill(module, seed: int = 0):
    """Give every parameter of a torch module heavy-tailed values, and return the module."""
    import torch

    with torch.no_grad():
        for i, (_, parameter) in enumerate(sorted(module.named_parameters())):
            if parameter.ndim >= 2 and min(parameter.shape[:2]) and parameter.is_floating_point():
                values = heavy(*parameter.shape, seed=seed + i)
                if parameter.ndim > 2:
                    values = kernel(*parameter.shape, seed=seed + i)
                parameter.copy_(torch.from_numpy(values))
            elif parameter.is_floating_point():
                rng = np.random.default_rng([seed, i])
                values = 1 + 0.1 * rng.standard_normal(tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(np.asarray(values)))
    return module


def arrays(tensors) -> list[np.ndarray]:
    """Return torch tensors as float64 arrays."""
    return [t.detach().double().numpy().copy() for t in tensors]


def linears(module) -> list[np.ndarray]:
    """Return the weights of all linear layers and convolutions of a torch module, tied ones once.

    A head that shares its memory with an embedding table is a table.
    """
    import torch

    layers = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    tables = {m.weight.data_ptr() for m in module.modules() if isinstance(m, torch.nn.Embedding)}
    found = {}
    for m in module.modules():
        known = isinstance(m, layers) or type(m).__name__ == "Conv1D"  # of transformers
        if known and m.weight.data_ptr() not in tables:
            found[m.weight.data_ptr()] = m.weight
    return arrays(found.values())


def sequence(*widths: int, seed: int = 0):
    """Return linear layers with a ReLU between them."""
    from torch import nn

    layers: list = []
    for n, m in itertools.pairwise(widths):
        layers += [nn.Linear(n, m), nn.ReLU()]
    return fill(nn.Sequential(*layers[:-1]), seed)
