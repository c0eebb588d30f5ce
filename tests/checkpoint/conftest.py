"""Fixtures of the tests of checkpoints."""

import pytest
import torch

from specdiag.checkpoint.reader import open_checkpoint


@pytest.fixture(params=["memory", "file"])
def opened(request, tmp_path):
    """Return a function that opens an object, from memory or from a file of torch."""

    def open_it(value, **options):
        if request.param == "file":
            torch.save(value, tmp_path / "file.pt")
            value = tmp_path / "file.pt"
        return open_checkpoint(value, **options)

    return open_it
