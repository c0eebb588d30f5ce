"""Datasets of strangers, read by both readers."""

import random

import numpy as np
import pytest
import xarray as xr

import specdiag
from specdiag.checkpoint.formats.hdf5 import flat
from specdiag.dataset.netcdf import load_spectra, read_spectra
from support.hostile import mutate
from support.hostile_datasets import CASES, write_all


def refusal(read, path):
    """Return the message of a reader that refuses a file, or ''."""
    try:
        read(path)
    except ValueError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def honest(request, tmp_path_factory):
    """A file of two checkpoints, or of as many as a test asks for."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("honest") / "honest.nc"
    networks = [
        {f"layers.{i}.weight": rng.standard_normal((60, 50)) for i in range(2)}
        for _ in range(getattr(request, "param", 2))
    ]
    specdiag.save_spectra(specdiag.alpha(*networks), path)
    return path


@pytest.fixture(scope="module")
def cases(honest, tmp_path_factory):
    paths = write_all(honest, tmp_path_factory.mktemp("cases"))
    return dict(zip(CASES, paths.items(), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_dataset_is_refused_in_one_line(cases, honest, name):
    path, wrong = cases[name]
    with pytest.raises(ValueError) as error:
        load_spectra(path)
    message = str(error.value)
    assert message.startswith(f"{path} is not a spectra file: ")
    assert wrong in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("honest", [1], indirect=True)
@pytest.mark.parametrize("name", CASES)
def test_spectra_beside_a_checkpoint_are_refused_or_those_of_the_honest_file(cases, honest, name):
    path, _ = cases[name]
    if message := refusal(read_spectra, path):
        assert message.startswith(f"{path} is not a spectra file: ")
        assert message.endswith("; remove it to have it measured again")
        assert len(message.splitlines()) == 1
    else:
        both = read_spectra(path), load_spectra(honest)
        xr.testing.assert_equal(*(one.drop_vars("checkpoint").reset_coords() for one in both))


def test_a_mutant_is_read_or_refused_in_one_line(honest, tmp_path):
    data, rng, path = honest.read_bytes(), random.Random(0), tmp_path / "mutant.nc"
    messages = []
    for _ in range(25):
        path.write_bytes(mutate(data, rng))
        messages.append(refusal(load_spectra, path))
    assert all(m == "" or m.startswith(str(path)) for m in messages)
    assert max(len(m.splitlines()) for m in messages) == 1


def test_the_memory_that_values_take_is_bounded_by_the_size_of_the_file(honest, monkeypatch):
    monkeypatch.setattr(flat, "MAX_BYTES", 1000)
    load_spectra(honest)
    monkeypatch.setattr(flat, "MAX_TIMES", 0.1)
    with pytest.raises(ValueError, match="would grow to"):
        load_spectra(honest)
