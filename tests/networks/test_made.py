"""Small networks as people keep them, written by the libraries that they use, and read again."""

from math import prod

import pytest

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import weights
from support.golden import CASES


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
def case(request, made):
    return made(request.param)


def test_every_tensor_of_a_file_is_in_exactly_one_weight(case):
    try:
        checkpoint = open_checkpoint(case.path)
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
