"""Datasets joined, and as a table with a row a layer."""

import numpy as np
import pytest
import xarray as xr

import specdiag
from specdiag.dataset.netcdf import load_spectra
from support.collections_ import collected, row


@pytest.fixture(scope="module")
def networks():
    rng = np.random.default_rng(0)
    first = {f"l{i}.weight": rng.standard_t(3, (80 + 10 * i, 100)) for i in range(3)}
    second = {
        "l2.weight": rng.standard_t(3, (100, 100)),
        "x.weight": rng.standard_normal((60, 70)),
    }
    return {"a": first, "b": second}


@pytest.fixture(scope="module")
def datasets(networks):
    return {n: specdiag.alpha(net).assign_coords(checkpoint=[n]) for n, net in networks.items()}


@pytest.fixture(scope="module")
def joined(datasets):
    return specdiag.concat(list(datasets.values()))


def test_joined_datasets_equal_one_measurement_of_all_networks(networks, joined):
    at_once = specdiag.alpha(*networks.values()).assign_coords(checkpoint=list(networks))
    xr.testing.assert_equal(joined, at_once)


def test_a_spectrum_of_joined_datasets_is_that_of_its_network(networks, joined, tmp_path):
    path = tmp_path / "joined.nc"
    specdiag.save_spectra(joined, path)
    for dataset in (joined, load_spectra(path)):
        for name, network in networks.items():
            for layer, W in network.items():
                read = specdiag.spectrum(dataset, layer, name)
                np.testing.assert_array_equal(read, specdiag.eigenvalues(W))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.isel(layer=[2, 0]),
        lambda d: d.sel(layer="l1.weight"),
        lambda d: d.squeeze("checkpoint"),
        lambda d: d.transpose("layer", "checkpoint", ...),
    ],
    ids=["reordered", "one layer", "one checkpoint", "transposed"],
)
def test_a_selection_is_joined_like_the_whole(networks, datasets, change):
    both = specdiag.concat([change(datasets["a"]), datasets["b"]])
    for layer in both.layer.values[both.status.values[0] != "absent"]:
        read = specdiag.spectrum(both, layer, "a")
        np.testing.assert_array_equal(read, specdiag.eigenvalues(networks["a"][layer]))


def test_datasets_that_cannot_be_joined_are_named(datasets, networks):
    a, b = datasets.values()
    with pytest.raises(ValueError, match="needs at least one Dataset"):
        specdiag.concat([])
    with pytest.raises(ValueError, match="two Datasets have a checkpoint 'a': give one another"):
        specdiag.concat([a, a])
    with pytest.raises(TypeError, match=r"expected an xarray Dataset, not str; specdiag.open_"):
        specdiag.concat([a, "b.nc"])
    with pytest.raises(ValueError, match="alpha is missing"):
        specdiag.concat([b, a.drop_vars("alpha")])
    compared = specdiag.compare(*networks.values())
    with pytest.raises(ValueError, match="not of compare, delta or collect: give these all"):
        specdiag.concat([a, compared])
    other = specdiag.alpha(networks["b"], method="wwj")
    expected = "different settings: method is 'specdiag' and 'wwj'; measure one again"
    with pytest.raises(ValueError, match=expected):
        specdiag.concat([a, other])


def test_a_table_has_a_row_for_each_layer_of_each_checkpoint(joined, networks):
    table = specdiag.summary(joined)
    rows = [(name, layer) for name, network in networks.items() for layer in network]
    assert sorted(zip(table.checkpoint, table.layer, strict=True)) == sorted(rows)
    for one in table.itertuples():
        cell = joined.sel(checkpoint=one.checkpoint, layer=one.layer)
        assert (one.alpha_ci_lower, one.alpha_ci_upper) == tuple(cell.alpha_ci.values)
        assert (one.alpha, one.shape, one.verdict) == (cell.alpha, cell["shape"], cell.verdict)
    assert table.alpha.dtype == float
    assert not {"eigenvalue", "row_start", "ci_bound"} & {*table.columns}


def test_a_table_of_a_selection_has_the_rows_of_the_selection(joined):
    whole = specdiag.summary(joined)
    one = specdiag.summary(joined.sel(layer="l2.weight"))
    assert one.equals(whole[whole.layer == "l2.weight"].reset_index(drop=True))
    cell = specdiag.summary(joined.sel(layer="l2.weight", checkpoint="b"))
    assert cell.equals(one[one.checkpoint == "b"].reset_index(drop=True))


def test_a_comparison_stands_in_the_rows_of_its_second_checkpoint(networks):
    compared = specdiag.compare(*networks.values())
    table = specdiag.summary(compared).set_index(["checkpoint", "layer"])
    first, second = compared.checkpoint.values
    assert np.isnan(table.loc[(first, "l2.weight")].alpha_difference)
    value = compared.alpha_difference.sel(layer="l2.weight").item()
    assert table.loc[(second, "l2.weight")].alpha_difference == value
    assert table.loc[(second, "x.weight")].conclusion == compared.conclusion.item()


def test_a_table_of_a_study_repeats_the_r2_of_its_checkpoints():
    study = collected([row(f"net/{r2}", arm="base", r2=r2) for r2 in (0.5, 0.7)])
    table = specdiag.summary(study)
    assert table.groupby("checkpoint", sort=False).r2.unique().tolist() == [[0.5], [0.7]]


def test_only_a_dataset_of_layers_has_a_table():
    with pytest.raises(TypeError, match="expected an xarray Dataset, not list"):
        specdiag.summary([])
    with pytest.raises(ValueError, match="the Dataset has no checkpoint: expected one of alpha"):
        specdiag.summary(xr.Dataset())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.isel(sample=slice(5, None)),
        lambda d: d.isel(sample=slice(None, 40)),
        lambda d: d.isel(sample=slice(None, None, -1)),
        lambda d: d.isel(layer=[1]).isel(sample=slice(10, 150)),
    ],
    ids=["without the first", "without the last", "backwards", "another part"],
)
def test_eigenvalues_that_were_cut_by_hand_are_refused(datasets, spoil):
    with pytest.raises(ValueError, match=r"were cut or joined by hand.*specdiag\.concat"):
        specdiag.spectrum(spoil(datasets["a"]), "l1.weight")


def test_datasets_that_xarray_joined_are_refused(datasets):
    a = datasets["a"]
    both = xr.concat([a, a.assign_coords(checkpoint=["b"])], "checkpoint", data_vars="all")
    with pytest.raises(ValueError, match=r"joined with xarray.*with specdiag\.concat"):
        specdiag.spectrum(both, "l1.weight", "b")
    after = xr.concat([a, a], "sample", data_vars="minimal", coords="minimal", compat="override")
    assert len(specdiag.spectrum(after, "l1.weight")) == 90  # the first copy is intact
