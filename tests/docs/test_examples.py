"""The examples of the docstrings run, and show what they say where they say something.

Those that need trained checkpoints are marked, and run in the tests of their functions.
"""

import doctest
import pkgutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import specdiag
from support.collections_ import collected, row
from support.paths import ROOT


class _Checker(doctest.OutputChecker):
    """Accept any output of an example that shows none: it is said that it runs."""

    def check_output(self, want, got, options):
        return not want or super().check_output(want, got, options)


def _examples():
    names = [m.name for m in pkgutil.walk_packages([str(ROOT / "specdiag")], "specdiag.")]
    sources = {n: ROOT.joinpath(*n.split(".")).with_suffix(".py") for n in names}
    with_examples = [
        n for n, path in sources.items() if path.is_file() and ">>>" in path.read_text()
    ]
    finder = doctest.DocTestFinder(recurse=True, exclude_empty=True)
    return [
        example
        for name in with_examples
        for example in finder.find(import_module(name), globs={})
        if example.examples
    ]


EXAMPLES = _examples()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the files that examples name."""
    folder = tmp_path_factory.mktemp("examples")
    rng = np.random.default_rng(0)
    names = ["model.safetensors", "pretrained.ckpt", "scratch.ckpt", "a.pt", "b.pt"]
    for name in [*names, *(f"{side}{k}.pt" for side in "ab" for k in (1, 2, 3))]:
        network = {f"layers.{i}.weight": rng.standard_t(3, (64, 96)) for i in range(4)}
        if name.endswith(".safetensors"):
            save_file(network, folder / name)
        else:
            torch = pytest.importorskip("torch")
            torch.save({n: torch.from_numpy(W) for n, W in network.items()}, folder / name)
    for name in ("before", "after"):
        np.save(folder / f"{name}.npy", rng.standard_normal((120, 6)))
    np.save(folder / "trials.npy", np.repeat(np.arange(12), 10))
    arms = {"base": "base", "tuned": "pretrained", "scratch": "scratch"}
    rows = [
        row(name, arm=arm, seed=seed, r2=r2 + 0.001 * seed)
        for (name, arm), r2 in zip(arms.items(), (0.5, 0.6, 0.4), strict=True)
        for seed in (42, 43, 44)
    ]
    specdiag.save_spectra(collected(rows), folder / "spectra.nc")
    return folder


def _network():
    torch = pytest.importorskip("torch")

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.readout = torch.nn.Linear(8, 16), torch.nn.Linear(16, 2)

        def forward(self, x):
            return self.readout(self.body(x).relu())

    model = Decoder().eval()
    batches = [
        {
            "inputs": {"x": torch.randn(4, 5, 8)},
            "session": ["a", "b", "c", "d"],
            "output_mask": torch.ones(4, 5, dtype=bool),
        }
        for _ in range(3)
    ]
    return {"torch": torch, "model": model, "batches": batches}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_the_example_of_a_docstring_runs(example, folder, monkeypatch):
    monkeypatch.chdir(folder)
    example.globs = {"specdiag": specdiag, "np": np, "Path": Path, **_network()}
    report = []
    runner = doctest.DocTestRunner(checker=_Checker(), optionflags=doctest.ELLIPSIS)
    runner.run(example, out=report.append)
    assert not report, "".join(report)
