import json

import numpy as np
import pytest
import xarray as xr

import specdiag
from specdiag.dataset import netcdf
from specdiag.dataset.schema.layers import SCHEMA
from support.collections_ import as_version_1, read_from_version_1


@pytest.fixture
def weights(rng):
    return {
        "a.weight": rng.standard_normal((90, 60)),
        "b.weight": rng.standard_normal((50, 70)),
        "flat.weight": np.zeros((60, 60)),
        "bias": rng.standard_normal(60),
    }


@pytest.fixture
def dataset(weights):
    return specdiag.alpha(weights)


def test_the_dataset_has_every_variable_of_the_schema(dataset):
    assert netcdf.validate(dataset) is dataset
    assert set(SCHEMA) == set(dataset.variables)
    for name, spec in SCHEMA.items():
        assert dataset[name].dims == spec.dims
        assert dataset[name].attrs["long_name"] == spec.long_name
        assert dataset[name].attrs.get("units", "") == ("" if spec.dtype == "O" else "1")


def test_alpha_of_a_dict_a_file_and_a_module_is_the_same(weights, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.numpy import save_file

    arrays = {"fc.weight": weights["a.weight"].astype(np.float32)}
    path = tmp_path / "model.safetensors"
    save_file(arrays, path)
    module = torch.nn.ModuleDict({"fc": torch.nn.Linear(60, 90, bias=False)})
    module["fc"].weight.data = torch.from_numpy(arrays["fc.weight"])
    eigenvalues = specdiag.eigenvalues(arrays["fc.weight"])
    posterior, fit = specdiag.alpha_posterior(eigenvalues), specdiag.fit_alpha(eigenvalues)
    for source in (arrays, path, str(path), module, module.state_dict()):
        cell = specdiag.alpha(source).squeeze()
        assert (cell.alpha, *cell.alpha_ci) == (posterior.mean, *posterior.interval)
        assert (cell.n_tail, cell.xmin) == (posterior.n_tail, posterior.xmin)
        assert (cell.alpha_ks, cell.n_tail_ks, cell.xmin_ks) == (fit.alpha, fit.n_tail, fit.xmin)


def test_the_spectrum_of_each_layer_can_be_sliced_out(dataset, weights):
    for name in ("a.weight", "b.weight", "flat.weight"):
        expected = specdiag.eigenvalues(weights[name])
        np.testing.assert_array_equal(specdiag.spectrum(dataset, name), expected)


def test_several_checkpoints_are_joined_by_the_names_of_their_layers(weights, rng):
    other = {"b.weight": rng.standard_normal((50, 70)), "c.weight": rng.standard_normal((64, 64))}
    both = specdiag.alpha(weights, other)
    assert list(both.checkpoint.values) == ["model#1", "model#2"]
    assert list(both.layer.values) == ["a.weight", "b.weight", "flat.weight", "c.weight"]
    assert both.status.values.tolist() == [
        ["fit", "fit", "degenerate", "absent"],
        ["absent", "fit", "absent", "fit"],
    ]
    np.testing.assert_array_equal(
        specdiag.spectrum(both, "c.weight", "model#2"), specdiag.eigenvalues(other["c.weight"])
    )
    assert specdiag.spectrum(both, "c.weight", "model#1").size == 0
    assert np.isnan(both.alpha.values[0, 3])


def test_checkpoints_of_the_same_name_get_the_names_of_their_folders(weights, tmp_path):
    from safetensors.numpy import save_file

    paths = [tmp_path / name / "model.safetensors" for name in ("old", "new", "new/er")]
    for path in paths:
        path.parent.mkdir()
        save_file(weights, path)
    named = [str(x) for x in specdiag.alpha(*paths, paths[0]).checkpoint.values]
    assert named == ["old/model#1", "new/model", "er/model", "old/model#2"]


def test_a_saved_dataset_is_opened_unchanged(dataset, tmp_path):
    path = tmp_path / "spectra.nc"
    specdiag.save_spectra(dataset, path)
    xr.testing.assert_identical(specdiag.open_spectra(path), dataset)
    assert [p.name for p in tmp_path.iterdir()] == ["spectra.nc"]


def test_a_file_of_the_first_version_is_read_under_the_present_names(dataset, tmp_path):
    path = tmp_path / "old.nc"
    as_version_1(dataset).to_netcdf(path, engine="h5netcdf")
    with specdiag.open_spectra(path) as opened:
        opened.load()
    expected = read_from_version_1(dataset)
    xr.testing.assert_allclose(opened, expected)
    for name, variable in opened.variables.items():
        assert variable.attrs == expected[name].attrs
    specdiag.save_spectra(opened, path)
    xr.testing.assert_identical(specdiag.open_spectra(path).load(), opened)


def test_an_alpha_of_weightwatcher_is_read_from_a_file_of_the_first_version(weights, tmp_path):
    dataset = specdiag.alpha(weights, method="weightwatcher")
    path = tmp_path / "old.nc"
    old = as_version_1(dataset)
    for name in ("alpha_mean", "alpha_sd", "n_tail_mean", "xmin_median"):
        old[name] = old[name].copy(data=np.full(old[name].shape, np.nan))
    old.to_netcdf(path, engine="h5netcdf")
    with specdiag.open_spectra(path) as opened:
        xr.testing.assert_allclose(opened.load(), read_from_version_1(dataset))


def test_the_null_of_permuted_entries_is_not_taken_for_the_gaussian_one(dataset, tmp_path):
    path = tmp_path / "old.nc"
    provenance = json.loads(dataset.attrs["provenance"])
    provenance["settings"]["null"] = "permutation"
    old = as_version_1(dataset.assign_attrs(provenance=json.dumps(provenance)))
    old.to_netcdf(path, engine="h5netcdf")
    with specdiag.open_spectra(path) as opened:
        assert not np.isfinite([opened.gaussian_p, opened.null_p, opened.null_q]).any()


def test_plain_xarray_reads_the_file(dataset, tmp_path):
    path = tmp_path / "spectra.nc"
    specdiag.save_spectra(dataset, path)
    with xr.open_dataset(path) as opened:
        np.testing.assert_array_equal(opened.alpha, dataset.alpha)
        assert json.loads(opened.attrs["provenance"])["settings"]["min_eigenvalues"] == 50


def test_the_same_weights_give_the_same_bytes(weights, tmp_path):
    files = [tmp_path / name for name in ("one.nc", "two.nc")]
    for file in files:
        specdiag.save_spectra(specdiag.alpha(weights), file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_hostile_names_of_layers_are_saved_as_plain_text(rng, tmp_path):
    names = ["a/b", "units", "_FillValue", "..", "<script>", "é\u202e", "x" * 900]
    dataset = specdiag.alpha({name: rng.standard_normal((50, 50)) for name in names})
    path = tmp_path / "spectra.nc"
    specdiag.save_spectra(dataset, path)
    opened = specdiag.open_spectra(path)
    assert list(opened.layer.values) == names
    spectra = [specdiag.spectrum(one, "a/b") for one in (opened, dataset)]
    np.testing.assert_array_equal(*spectra)


def test_a_save_that_fails_leaves_the_old_file(dataset, tmp_path):
    path = tmp_path / "spectra.nc"
    path.write_text("precious")
    with pytest.raises(ValueError, match="variable alpha is missing"):
        specdiag.save_spectra(dataset.drop_vars("alpha"), path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.drop_vars("alpha"), "variable alpha is missing"),
        (
            lambda d: d.assign_attrs(schema_version=99),
            "schema_version is 99: this specdiag reads 3",
        ),
        (
            lambda d: d.isel(sample=slice(10)),
            "row_start and row_size point outside of the eigenvalues",
        ),
        (
            lambda d: d.assign(alpha=d.alpha.astype(str)),
            r"variable alpha has dims \('checkpoint', 'layer'\) and dtype",
        ),
    ],
)
def test_a_dataset_that_differs_from_the_schema_is_an_error(dataset, change, message):
    with pytest.raises(ValueError, match=message):
        netcdf.validate(change(dataset))


@pytest.mark.parametrize("content", [b"", b"not netCDF", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_another_file_than_a_dataset_is_an_error_of_one_line(tmp_path, content):
    path = tmp_path / "other.nc"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a spectra file") as error:
        specdiag.open_spectra(path)
    assert "\n" not in str(error.value)


def test_the_error_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.nc: no such file"):
        specdiag.open_spectra(tmp_path / "none.nc")


def test_a_spectrum_needs_names_that_exist(dataset, weights):
    with pytest.raises(ValueError, match=r"no layer 'x' in the dataset: it has a.weight"):
        specdiag.spectrum(dataset, "x")
    with pytest.raises(ValueError, match=r"several checkpoints: name one of model#1, model#2"):
        specdiag.spectrum(specdiag.alpha(weights, weights), "a.weight")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.sortby("layer", ascending=False),
        lambda d: d.isel(layer=[1, 0]),
        lambda d: d.transpose("layer", "checkpoint", ...),
        lambda d: d.squeeze(),
        lambda d: d.sel(checkpoint="model"),
        lambda d: d.sel(layer="b.weight"),
    ],
    ids=["sorted", "reordered", "transposed", "squeezed", "one checkpoint", "one layer"],
)
def test_a_spectrum_belongs_to_its_layer_after_any_selection(dataset, weights, change):
    spectrum = specdiag.spectrum(change(dataset), "b.weight")
    np.testing.assert_array_equal(spectrum, specdiag.eigenvalues(weights["b.weight"]))


def test_a_reordered_dataset_can_be_saved(dataset, weights, tmp_path):
    path = tmp_path / "x.nc"
    specdiag.save_spectra(dataset.sortby("layer", ascending=False), path)
    spectrum = specdiag.spectrum(specdiag.open_spectra(path), "a.weight")
    np.testing.assert_array_equal(spectrum, specdiag.eigenvalues(weights["a.weight"]))


def test_saving_to_a_link_writes_the_file_it_points_to(dataset, tmp_path):
    real, link = tmp_path / "real.nc", tmp_path / "link.nc"
    link.symlink_to(real)
    specdiag.save_spectra(dataset, link)
    assert link.is_symlink()
    assert specdiag.open_spectra(real).identical(dataset)


@pytest.mark.parametrize("value", [1, 0, "3", None])
def test_min_eigenvalues_must_be_a_whole_number_of_at_least_two(weights, value):
    with pytest.raises(ValueError, match="expected a whole number, at least 2"):
        specdiag.alpha(weights, min_eigenvalues=value)


def test_the_dataset_holds_the_likelihood_ratios(weights):
    layer = specdiag.alpha(weights, gof=True).sel(layer="a.weight").squeeze()
    values = specdiag.eigenvalues(weights["a.weight"])
    expected = specdiag.likelihood_ratios(values[: int(layer.n_tail_ks)], layer.xmin_ks.item())
    for name, (ratio, p) in expected.items():
        assert layer.log_likelihood_ratio.sel(alternative=name) == ratio
        assert layer.log_likelihood_ratio_p.sel(alternative=name) == p


def test_a_seed_must_be_a_whole_number(weights):
    with pytest.raises(ValueError, match="seed is -1: expected a whole number, at least 0"):
        specdiag.alpha(weights, seed=-1)


def test_values_that_were_not_measured_are_nan(dataset):
    dead = dataset.sel(layer="flat.weight", checkpoint="model")
    assert dead["rank"] == 0
    assert np.isnan([dead.n_tail, dead.n_tail_ks]).all()
    skipped = specdiag.alpha({"a": np.ones((3, 3))}).squeeze()
    assert all(np.isnan(skipped[name]) for name in ("rank", "n_tail_ks", "alpha", "alpha_ks"))


def test_alpha_of_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"alpha\(\) needs at least one checkpoint"):
        specdiag.alpha()
