"""Functions of a Dataset, called with something else."""

import re

import pytest

import specdiag


@pytest.mark.parametrize("given", ["spectra.nc", None, 5, {}])
@pytest.mark.parametrize(
    "function",
    [
        specdiag.link,
        lambda x: specdiag.verify(x, []),
        lambda x: specdiag.save_spectra(x, "out.nc"),
        lambda x: specdiag.spectrum(x, "layer"),
    ],
)
def test_what_is_no_dataset_is_refused_with_what_reads_one(function, given):
    message = (
        f"expected an xarray Dataset, not {type(given).__name__}; "
        "specdiag.open_spectra(path) reads one from a file"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        function(given)
