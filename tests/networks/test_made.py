"""Small networks as people keep them, written by the libraries that they use, and read again."""

from math import prod

import numpy as np
import pytest

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.tensor import read_values
from specdiag.checkpoint.weights.find import open_weights, weights
from specdiag.dataset.spectra import measure_checkpoint
from support.golden import CASES, assert_equal_rows, read_table, row


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Return the function that writes a case, once."""
    folder, known = tmp_path_factory.mktemp("made"), {}

    def make(name):
        if missing := CASES[name].missing:
            pytest.skip(f"needs {', '.join(missing)}")
        if name not in known:
            known[name] = CASES[name].make(folder)
        return known[name]

    return make


@pytest.fixture(params=sorted(CASES))
def name(request):
    return request.param


def test_every_tensor_of_a_file_is_in_exactly_one_weight(name, made):
    try:
        checkpoint = open_checkpoint(made(name).path)
    except ValueError as error:
        pytest.skip(f"not read: {error}")
    found = weights(checkpoint)
    groups = {weight.tensors: [w for w in found if w.tensors == weight.tensors] for weight in found}
    assert sorted(n for names in groups for n in names) == sorted(
        t.name for t in checkpoint.tensors
    )
    sizes = {tensor.name: prod(tensor.shape) for tensor in checkpoint.tensors}
    for names, parts in groups.items():
        if len(names) == 1:
            assert sum(prod(part.shape) for part in parts) == sizes[names[0]]


def test_the_measured_matrices_are_those_that_the_network_multiplies_with(name, made):
    """Compare the sums of squares: of whole matrices, and of the pieces of each."""
    case = made(name)
    if case.right is None:
        pytest.skip("what counts is not known")
    try:
        checkpoint = open_weights(case.path)
        layers = measure_checkpoint(checkpoint, min_eigenvalues=2)
    except ValueError:
        assert case.right == []
        return
    known = {weight.name: weight for weight in checkpoint.tensors}
    measured = {}
    for layer in layers:
        if layer.status != "skipped" and counts(layer):
            weight = known[layer.name]
            group = (weight.tensors, "" if weight.whole else weight.name)
            values = read_values(weight).astype(np.float64)
            measured.setdefault(group, []).append(np.square(values).sum())
    right = [np.square(a).sum() for a in case.right if counts(a)]
    assert sorted(map(sum, measured.values())) == pytest.approx(sorted(right), rel=2e-3)
    if case.blocks is not None:
        true = np.array([np.square(block).sum() for block in case.blocks])
        pieces = np.array([p for group in measured.values() if len(group) > 1 for p in group])
        assert all(np.isclose(true, piece, rtol=2e-3).any() for piece in pieces)


def counts(matrix):
    """Return whether a matrix is of a size that counts here; kernels are of any size."""
    return len(matrix.shape) > 2 or min(matrix.shape) >= 8


def test_a_made_network_has_the_stored_row(name, made):
    assert_equal_rows(row(name, made(name).path), read_table("made")[name])
