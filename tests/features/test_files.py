"""Files of features -> accumulated covariances."""

import json
import pickle
import zipfile
from contextlib import suppress

import h5py
import ml_dtypes
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import specdiag
from specdiag.features.covariance import FeatureCovariance
from specdiag.features.files import array as pieces
from specdiag.features.files.measure import accumulated, open_features
from specdiag.features.files.open import open_arrays

N, D = 400, 6
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(N, D)) * np.arange(1, D + 1)).astype(np.float32)
TRIAL = np.arange(N) // 10
SESSION = np.array([f"s{i // 100}" for i in range(N)])


def write_npy(path):
    np.save(path, X)


def write_fortran(path):
    np.save(path, np.asfortranarray(X))


def write_npz(path):
    np.savez(path, x=X, trial=TRIAL, session=SESSION)


def write_deflated(path):
    np.savez_compressed(path, x=X, trial=TRIAL, session=SESSION)


def write_safetensors(path):
    save_file({"x": X, "trial": TRIAL}, path)


def write_netcdf(path):
    columns = {"x": (("sample", "unit"), X), "trial": ("sample", TRIAL)}
    xr.Dataset(columns | {"session": ("sample", SESSION)}).to_netcdf(path, engine="h5netcdf")


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("net/x", data=X, chunks=(32, D), compression="gzip")
        file["net/trial"] = TRIAL


def write_zarr(path, version=3):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    for name, values in {"x": X, "trial": TRIAL}.items():
        group.create_array(name, data=values)


def write_torch(path):
    torch = pytest.importorskip("torch")
    torch.save({"x": torch.from_numpy(X), "trial": torch.from_numpy(TRIAL)}, path)


WRITERS = {
    "a.pt": write_torch,
    "a.npy": write_npy,
    "fortran.npy": write_fortran,
    "a.npz": write_npz,
    "deflated.npz": write_deflated,
    "a.safetensors": write_safetensors,
    "a.nc": write_netcdf,
    "a.h5": write_hdf5,
    "a.zarr": write_zarr,
    "two.zarr": lambda path: write_zarr(path, 2),
}
WITH_TRIALS = {"a.h5": "net/trial"} | dict.fromkeys(
    ("a.npz", "deflated.npz", "a.safetensors", "a.nc", "a.pt", "a.zarr", "two.zarr"), "trial"
)


@pytest.fixture(params=WRITERS)
def file(request, tmp_path):
    path = tmp_path / request.param
    WRITERS[request.param](path)
    return path


def measured(path, names=(), groups="", precision=None):
    (one,) = open_features(path, names, groups)
    return accumulated(one, precision)


def direct(x, groups):
    covariance = FeatureCovariance()
    covariance.update(x, groups=groups)
    return covariance.result()


def same(a, b):
    np.testing.assert_allclose(a.eigenvalues, b.eigenvalues, rtol=1e-12)
    np.testing.assert_allclose(a.effective_rank_interval, b.effective_rank_interval, rtol=1e-9)
    assert (a.n_samples, a.n_groups, a.precision) == (b.n_samples, b.n_groups, b.precision)


def test_every_format_gives_the_same_as_the_array(file):
    same(measured(file).result(), direct(X, np.arange(N) * 64 // N))
    same(measured(file, groups="row").result(), direct(X, np.arange(N)))
    if file.name in WITH_TRIALS:
        same(measured(file, groups=WITH_TRIALS[file.name]).result(), direct(X, TRIAL))


def test_a_file_is_read_in_pieces(file, monkeypatch):
    whole = measured(file).result()
    monkeypatch.setattr(pieces, "PIECE", 7 * 8 * D)
    (one,) = open_features(file)
    sizes = [len(values) for values, _ in one.pieces()]
    assert sum(sizes) == N
    assert max(sizes) <= 7
    same(measured(file).result(), whole)


@pytest.mark.parametrize("name", ["a.npz", "deflated.npz", "a.nc"])
def test_texts_are_labels(name, tmp_path):
    WRITERS[name](tmp_path / name)
    same(measured(tmp_path / name, groups="session").result(), direct(X, SESSION.tolist()))


def test_labels_come_from_another_file(tmp_path):
    write_npy(tmp_path / "x.npy")
    np.save(tmp_path / "trial.npy", TRIAL)
    np.savez(tmp_path / "labels.npz", trial=TRIAL, session=SESSION)
    (tmp_path / "trial.txt").write_text("\n".join(map(str, TRIAL)))
    rows = [f"{i},{trial}" for i, trial in enumerate(TRIAL)]
    (tmp_path / "table.csv").write_text("\n".join(["sample,trial", *rows]))
    for groups in ("trial.npy", "labels.npz:trial", "trial.txt", "table.csv:trial"):
        found = measured(tmp_path / "x.npy", groups=str(tmp_path / groups))
        same(found.result(), direct(X, TRIAL))


def test_entries_of_three_axes_are_groups(tmp_path):
    np.save(tmp_path / "x.npy", X.reshape(N // 10, 10, D))
    same(measured(tmp_path / "x.npy").result(), direct(X, TRIAL))
    np.save(tmp_path / "session.npy", TRIAL[::10] // 5)
    found = measured(tmp_path / "x.npy", groups=str(tmp_path / "session.npy"))
    same(found.result(), direct(X, TRIAL // 5))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_the_dtype_of_the_file_is_the_precision(dtype, tmp_path):
    save_file({"x": X.astype(dtype)}, tmp_path / "x.safetensors")
    found = measured(tmp_path / "x.safetensors").result()
    assert found.precision == np.dtype(dtype).name
    assert measured(tmp_path / "x.safetensors", precision="tf32").result().precision == "tf32"


def test_whole_numbers_are_exact(tmp_path):
    counts = RNG.poisson(3, size=(N, D))
    np.save(tmp_path / "x.npy", counts)
    found = measured(tmp_path / "x.npy", groups="row").result()
    same(found, direct(counts.astype(np.float64), np.arange(N)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": X, "b": X}, r"several arrays \(a 400x6 float32, b 400x6 float32\); --name NAME"),
        ({"a": TRIAL}, "no array with features: numbers with two axes or more; it has a 400 int64"),
        ({"a": X[:0]}, "is empty"),
        ({"a": np.where(X > 9, np.nan, X)}, "feature values are NaN, infinite"),
        ({"a": X > 0}, "no array with features"),
        ({}, "it has nothing|no end|no array"),
    ],
)
def test_a_file_without_clear_features_is_refused_in_one_line(content, message, tmp_path):
    np.savez(tmp_path / "x.npz", **content)
    with pytest.raises(ValueError, match=message) as caught:
        measured(tmp_path / "x.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("nothing", r"is neither an array in it \(it has x, trial, session\), nor a file, nor"),
        ("trial.npy", r"labels of shape \(399,\), and 'x' rows of shape \(400,\)"),
        ("two.csv", "it has columns"),
        ("two.csv:c", "no column 'c'; it has a, b"),
        ("long.csv:a", "not a table: field larger than field limit"),
        ("gap.npy", "a label is missing"),
        ("objects.npy", "cannot be read: Python objects in a pickle"),
    ],
)
def test_wrong_labels_are_refused_in_one_line(groups, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path / "x.npz")
    np.save(tmp_path / "trial.npy", TRIAL[1:])
    np.save(tmp_path / "gap.npy", np.where(TRIAL, TRIAL, np.nan))
    np.save(tmp_path / "objects.npy", np.array([{}] * N), allow_pickle=True)
    (tmp_path / "two.csv").write_text("a,b\n1,2\n")
    (tmp_path / "long.csv").write_text(f"a,b\n{'x' * 200_000},2\n")
    with pytest.raises(ValueError, match=message):
        measured(tmp_path / "x.npz", ["x"], groups)


def test_names_choose_arrays(tmp_path):
    np.savez(tmp_path / "x.npz", **{"layer.1": X, "layer.2": 2 * X, "y": X[:, :2]}, trial=TRIAL)
    found = open_features(tmp_path / "x.npz", ["layer.*"], "trial")
    assert [one.array.name for one in found] == ["layer.1", "layer.2"]
    with pytest.raises(ValueError, match=r"no array 'z\*'; it has layer.1 400x6 float32"):
        open_features(tmp_path / "x.npz", ["z*"])


def test_an_unknown_format_or_missing_file_is_named(tmp_path):
    (tmp_path / "x.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(ValueError, match=r"expected a file of features: .npy, .npz"):
        open_features(tmp_path / "x.mat")
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_features(tmp_path / "none.npy")
    with pytest.raises(ValueError, match="a folder"):
        open_features(tmp_path)
    (tmp_path / "old.nc").write_bytes(b"CDF\x01" + bytes(100))
    with pytest.raises(ValueError, match="netCDF of version 3"):
        open_features(tmp_path / "old.nc")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["a.npy", "a.npz", "deflated.npz", "a.safetensors", "a.h5"]), st.data())
def test_a_damaged_file_gives_a_value_error_or_rows(tmp_path_factory, name, data):
    folder = tmp_path_factory.mktemp("damaged")
    WRITERS[name](folder / name)
    content = bytearray((folder / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    (folder / name).write_bytes(content[:cut] if data.draw(st.booleans()) else content)
    found = []
    with suppress(ValueError):
        found = [accumulated(one) for one in open_features(folder / name, ["*"])]
    assert all(one.n_samples for one in found)


def test_a_wrong_checksum_is_an_error(tmp_path):
    write_npz(tmp_path / "x.npz")
    content = bytearray((tmp_path / "x.npz").read_bytes())
    at = content.index(X.tobytes()[:64])
    content[at] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match="the CRC-32 is"):
        measured(tmp_path / "x.npz", ["x"])


def test_no_pickle_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        header = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }"
        file.writestr("x.npy", header.ljust(127) + b"\n" + pickle.dumps([Evil()]))
    with pytest.raises(ValueError, match="pickle"):
        measured(tmp_path / "x.npz", ["x"])
    assert not (tmp_path / "ran").exists()


class TestZarr:
    """Folders that lead elsewhere, or run something, are refused."""

    @pytest.fixture
    def folder(self, tmp_path):
        write_zarr(tmp_path / "a.zarr", 2)
        return tmp_path / "a.zarr"

    def change(self, folder, **values):
        path = folder / "x" / ".zarray"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    def test_a_pickle_codec(self, folder):
        self.change(folder, filters=[{"id": "pickle"}], dtype="|O")
        with pytest.raises(ValueError, match="the codec 'pickle' is not known"):
            measured(folder, ["x"])

    def test_a_link(self, folder, tmp_path):
        (tmp_path / "secret").write_bytes(bytes(100))
        (folder / "x" / "9.9").symlink_to(tmp_path / "secret")
        with pytest.raises(ValueError, match="neither a file nor a folder"):
            measured(folder)

    def test_many_rows_without_values(self, folder):
        self.change(folder, shape=[10**12, D])
        with pytest.raises(ValueError, match="bytes would grow to"):
            measured(folder, ["x"])

    def test_large_chunks(self, folder):
        self.change(folder, chunks=[10**12, D])
        with pytest.raises(ValueError, match="chunks of"):
            measured(folder, ["x"])

    @pytest.mark.parametrize(
        "values",
        [
            {"filters": 5},
            {"filters": {"id": 5}},
            {"chunks": None, "chunk_grid": {"configuration": 5}},
        ],
    )
    def test_something_else_in_the_place_of_a_table_or_a_list(self, folder, values):
        self.change(folder, **values)
        with pytest.raises(ValueError, match="'x' cannot be read"):
            measured(folder, ["x"])

    def test_nothing_in_it(self, tmp_path):
        pytest.importorskip("zarr")
        (tmp_path / "b.zarr").mkdir()
        with pytest.raises(ValueError, match="no array of zarr"):
            open_arrays(tmp_path / "b.zarr")


def test_values_whose_squares_are_zero_are_refused():
    covariance = FeatureCovariance()
    covariance.update(X.astype(np.float64) * 2e-309, groups=np.arange(N))
    with pytest.raises(ValueError, match="whose squares leave the range of float64"):
        covariance.result()


@pytest.mark.parametrize("kind", ["nc", "zarr"])
def test_packed_values_are_the_numbers_that_they_stand_for(tmp_path, rng, kind):
    x = rng.standard_normal((120, 4))
    dataset = xr.Dataset({"h": (("sample", "feature"), x)})
    packed = {"h": {"dtype": "i2", "scale_factor": 0.001, "add_offset": 2.0, "_FillValue": -32768}}
    path = tmp_path / f"packed.{kind}"
    if kind == "nc":
        dataset.to_netcdf(path, engine="h5netcdf", encoding=packed)
    else:
        pytest.importorskip("zarr")
        dataset.to_zarr(path, encoding=packed, zarr_format=2, consolidated=False)
    measured = specdiag.measure_features(path)
    assert measured.trace.item() == pytest.approx(np.trace(np.cov(x.T)), rel=0.01)


def test_missing_values_of_netcdf_are_refused(tmp_path, rng):
    x = rng.standard_normal((120, 4))
    x[:2] = np.nan
    path = tmp_path / "missing.nc"
    encoding = {"h": {"_FillValue": -9999.0}}
    xr.Dataset({"h": (("sample", "feature"), x)}).to_netcdf(path, encoding=encoding)
    with pytest.raises(ValueError, match=r"missing.nc: 'h': 8 of 480 feature values are NaN"):
        specdiag.measure_features(path)


@pytest.mark.skipif(not hasattr(np, "float128"), reason="no long double of 16 bytes")
def test_a_long_double_is_not_called_f16(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 4), np.float128))
    with pytest.raises(ValueError, match="20x4 float128"):
        specdiag.measure_features(tmp_path / "x.npy")


def test_texts_of_a_file_with_links_are_refused_with_what_to_do(tmp_path):
    path = tmp_path / "l.h5"
    with h5py.File(path, "w") as file:
        file["x"], file["lab"] = X, SESSION.astype("S4")
        file["ext"] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(ValueError, match=r"'lab' are read only of a file of arrays alone: write"):
        specdiag.measure_features(path, name="x", groups="lab")


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("session", "array 1: groups is 'session': expected labels of its rows, or 'row'"),
        (range(39), r"array 1: the groups have labels of shape \(39,\), and"),
    ],
)
def test_wrong_groups_of_an_array_are_refused(groups, message, rng):
    with pytest.raises(ValueError, match=message):
        specdiag.measure_features(rng.normal(size=(40, 5)), groups=groups)


def test_features_whose_covariance_takes_more_than_the_memory_are_named(tmp_path):
    np.save(tmp_path / "wide.npy", np.eye(2, 5_000_000, dtype=np.float16))  # 200 TB
    with pytest.raises(ValueError, match=r"wide.npy: a covariance of 5,000,000 features takes"):
        specdiag.measure_features(tmp_path / "wide.npy")


def test_masked_arrays_are_refused(rng):
    x = rng.standard_normal((40, 3))
    masked = np.ma.masked_array(x, x > 1)
    with pytest.raises(ValueError, match=r"^array 1: a masked array"):
        specdiag.measure_features(masked)
    with pytest.raises(ValueError, match=r"^features are a masked array: give the values, and"):
        specdiag.FeatureCovariance().update(masked)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_tensor_in_memory_keeps_its_precision(dtype):
    torch = pytest.importorskip("torch")
    features = torch.randn(40, 5).to(getattr(torch, dtype))
    assert specdiag.measure_features(features).precision.item() == dtype


def test_each_row_of_three_axes_can_be_a_group(tmp_path, rng):
    x = rng.standard_normal((3, 50, 6))
    np.save(tmp_path / "x.npy", x)
    rows = specdiag.measure_features(x.reshape(-1, 6), groups="row")
    for source in (x, tmp_path / "x.npy"):
        measured = specdiag.measure_features(source, groups="row")
        assert measured.n_groups.item() == 150
        assert measured.effective_rank.item() == pytest.approx(rows.effective_rank.item())
