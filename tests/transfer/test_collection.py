import json
import os
import shutil

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import specdiag
from specdiag.dataset import build, netcdf
from specdiag.dataset.schema.collection import COLLECTION, FEATURES
from specdiag.dataset.schema.layers import SCHEMA
from specdiag.dataset.schema.variable import as_markdown
from specdiag.features.conditioning import FeatureSpectrum
from specdiag.htsr.layers import Layer
from specdiag.lock.entry import Entry, Parent
from specdiag.lock.lockfile import load
from specdiag.obtain.beside import checksum, sha256_of
from specdiag.outputs import write_whole
from specdiag.transfer import collection
from specdiag.transfer.evaluation import read_evaluation
from specdiag.transfer.factors import factors, labels
from support import toy
from support.collections_ import as_version_1, read_from_version_1
from support.commands import run_forked as run
from support.locks import locks
from support.paths import ROOT

PAGE = ROOT / "docs" / "dataset.md"

# The toy, which also says what an evaluation says. Two sessions, whose mean is R².
EVALUATES = """
_build = build


def build(job):
    from specdiag.features.covariance import FeatureCovariance
    from specdiag.transfer.evaluation import write_evaluation

    metrics = _build(job)
    r2, seed = metrics["r2"][0], job.params["seed"]
    features = FeatureCovariance()
    for group in range(6):
        x = np.random.default_rng([seed, group]).standard_normal((40, 3 + seed))
        features.update(x, groups=[group] * 40)
    r2s = {"monday": r2 + 0.25, f"day{seed}": r2 - 0.25}
    write_evaluation(job.folder / "evaluation.json", r2s, features.result())
    return metrics
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    toy.make(folder)
    with (folder / "recipes" / "toy.py").open("a") as recipe:
        recipe.write(EVALUATES)
    assert run(folder, "lock", "--init")[0] == 0
    assert run(folder, "train", "--missing")[0] == 0
    return folder


@pytest.fixture
def lock(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "study")
    return tmp_path / "study" / "checkpoints.lock"


@pytest.fixture(scope="module")
def dataset(trained):
    return specdiag.collect(trained / "checkpoints.lock")


def beside(lock, name, pattern):
    (path,) = (lock.parent / "checkpoints" / "desk").glob(f"{name}.ckpt{pattern}")
    return path


def edited(lock, name, change):
    """Change the evaluation beside a checkpoint, and its digest in the receipt."""
    path, receipt = beside(lock, name, ".evaluation.json"), beside(lock, name, ".*[0-9a-f].json")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    record = json.loads(receipt.read_text())
    record["tables"][path.name.partition(".ckpt.")[2]] = sha256_of(path)
    receipt.write_text(json.dumps(record))
    return path


def evaluation_of(lock, name):
    return json.loads(beside(lock, name, ".evaluation.json").read_text())


def test_the_spectra_are_those_of_alpha(dataset, trained):
    for name in ("base/net", "child/net0", "child/net1"):
        alone = specdiag.alpha(trained / "checkpoints" / "desk" / f"{name}.ckpt").squeeze()
        row = dataset.sel(checkpoint=name)
        for variable in ("alpha", "alpha_ci", "status", "reason", "null_q", "row_size", "shape"):
            np.testing.assert_array_equal(row[variable], alone[variable])
        for layer in alone.layer.values:
            eigenvalues = specdiag.spectrum(dataset, layer, name)
            np.testing.assert_array_equal(eigenvalues, specdiag.spectrum(alone, layer))


def test_the_numbers_of_layers_are_counted_by_status(dataset):
    assert dataset.n_fit.values.tolist() == [1, 1, 1, 1]
    assert dataset.n_skipped.values.tolist() == [1, 1, 1, 1]
    assert dataset.n_degenerate.values.tolist() == dataset.n_failed.values.tolist() == [0] * 4


def test_r2_and_features_are_those_of_the_evaluation(dataset, trained):
    for name in dataset.checkpoint.values:
        evaluation = evaluation_of(trained / "checkpoints.lock", name)
        row = dataset.sel(checkpoint=name)
        assert row.session_r2.dropna("session").to_series().to_dict() == evaluation["r2"]
        assert row.r2 == pytest.approx(np.mean(list(evaluation["r2"].values())), abs=1e-12)
        values = evaluation["features"]["eigenvalues"]
        assert row.feature_eigenvalue.dropna("feature_rank").values.tolist() == values
        low, high = row.condition_number_ci.values
        assert 1 <= low <= row.condition_number <= high
        assert row.condition_number_published == values[0] / values[-1]
        assert (
            row.condition_number_ci.values.tolist()
            == evaluation["features"]["condition_number_interval"]
        )
        assert row.precision == "float64"
        assert row.condition_number_is_bound == 0
        assert row.n_samples == 240
    assert dataset.session.values.tolist() == ["monday", "day0", "day1"]
    assert dataset.feature_rank.values.tolist() == [1, 2, 3, 4]


def test_every_value_of_a_feature_spectrum_is_in_the_schema():
    ours = set(FEATURES.values())
    assert ours == set(FeatureSpectrum.__dataclass_fields__)


def test_an_evaluation_has_the_weights_of_its_parent(dataset):
    base, judged = (dataset.sel(checkpoint=name) for name in ("base/net", "judged/net"))
    np.testing.assert_array_equal(base.alpha, judged.alpha)
    assert base.sha256 == judged.sha256
    assert (judged.arm, judged.parent) == ("evaluation", "base/net")
    np.testing.assert_array_equal(
        specdiag.spectrum(dataset, "weight", "judged/net"),
        specdiag.spectrum(dataset, "weight", "base/net"),
    )


def test_how_an_entry_was_made_and_how_many_matrices_it_changed_are_coordinates(dataset):
    names = ["base/net", "child/net0", "child/net1", "judged/net"]
    chosen = dataset.sel(checkpoint=names)
    assert chosen.how.values.tolist() == ["trained", "trained", "trained", "evaluated"]
    np.testing.assert_array_equal(chosen.n_changed, [np.nan, 1, 1, 0])


def test_without_the_file_of_its_parent_nothing_is_known_to_have_changed(lock):
    (target,) = (lock.parent / "checkpoints" / "desk").glob("child/net0.ckpt")
    spectra = netcdf.read_spectra(beside(lock, "child/net0", ".*.nc"))
    parent = target.parents[1] / "base" / "net.ckpt"
    assert collection._n_changed(spectra, target, parent) == 1
    assert collection._n_changed(spectra, target, target) == 0
    parent.write_bytes(b"damaged")
    assert np.isnan(collection._n_changed(spectra, target, parent))
    parent.unlink()
    assert np.isnan(collection._n_changed(spectra, target, parent))


def test_a_collection_of_the_first_version_is_read(dataset, tmp_path):
    old = as_version_1(dataset)
    with pytest.raises(ValueError, match="schema_version is 1, not 5"):
        specdiag.save_spectra(old, tmp_path / "old.nc")
    old.to_netcdf(tmp_path / "old.nc", engine="h5netcdf")
    with specdiag.open_spectra(tmp_path / "old.nc") as opened:
        opened.load()
    xr.testing.assert_allclose(opened, read_from_version_1(dataset))


def test_spectra_of_the_first_version_beside_a_checkpoint_are_measured_again(lock, dataset):
    path = beside(lock, "base/net", ".*.nc")
    with specdiag.open_spectra(path) as opened:
        old = opened.load()
    as_version_1(old).to_netcdf(path, engine="h5netcdf")
    xr.testing.assert_identical(specdiag.collect(lock), dataset)


def test_a_file_of_a_user_at_the_path_of_spectra_is_moved_aside(lock, dataset, caplog):
    path = beside(lock, "base/net", ".*.nc")
    path.write_text("notes")
    xr.testing.assert_identical(specdiag.collect(lock), dataset)
    aside = path.with_name(f"{path.name}.old-1")
    assert aside.read_text() == "notes"
    assert caplog.records[-1].getMessage() == (
        f"{path} was not written by specdiag, or was changed since: it is {aside} now"
    )


def test_the_dataset_has_every_variable_of_the_schema(dataset):
    assert set(dataset.variables) == set(SCHEMA | COLLECTION)
    for name, spec in (SCHEMA | COLLECTION).items():
        assert dataset[name].dims == spec.dims
        assert dataset[name].attrs["long_name"] == spec.long_name
        assert dataset[name].attrs.get("units", "") == ("" if spec.dtype == "O" else "1")


def test_twice_gives_the_same_bytes_and_measures_nothing(trained, tmp_path, caplog):
    for name in ("one.nc", "two.nc"):
        specdiag.save_spectra(specdiag.collect(trained / "checkpoints.lock"), tmp_path / name)
    assert (tmp_path / "one.nc").read_bytes() == (tmp_path / "two.nc").read_bytes()
    assert not caplog.records


def test_the_folder_of_the_lock_does_not_matter(lock, dataset):
    xr.testing.assert_identical(specdiag.collect(lock), dataset)


def test_missing_spectra_are_measured_once(lock, dataset, caplog):
    caplog.set_level("INFO", logger="specdiag")
    path = beside(lock, "child/net0", ".*.nc")
    path.unlink()
    xr.testing.assert_identical(specdiag.collect(lock), dataset)
    assert path.exists()
    specdiag.collect(lock)
    assert [r.getMessage() for r in caplog.records] == [
        "measuring net0.ckpt: it has no spectra beside it yet"
    ]


def test_a_missing_checkpoint_is_absent(lock):
    beside(lock, "child/net0", "").unlink()
    row = specdiag.collect(lock).sel(checkpoint="child/net0")
    assert (row.state, row.sha256, row.how) == ("missing", "", "")
    assert np.isnan(row.n_changed)
    assert row.status.values.tolist() == ["absent", "absent"]
    assert row.reason.values[0] == "the checkpoint of child/net0 is missing"
    assert row.row_size.values.tolist() == [0, 0]
    assert np.isnan([row.alpha[0], row.r2, row.trace, row.feature_eigenvalue[0]]).all()
    assert (row.n_fit, row.seed.item() >= 0) == (0, False)


def test_without_its_evaluation_an_entry_still_has_the_spectra_of_its_parent(lock):
    beside(lock, "judged/net", ".*[0-9].json").unlink()
    row = specdiag.collect(lock).sel(checkpoint="judged/net")
    assert row.state == "missing"
    assert row.n_fit == 1
    assert np.isnan([row.r2, row.trace]).all()


def test_a_stale_checkpoint_has_no_values(lock, dataset):
    text = lock.read_text()
    lock.write_text(text.replace("steps = 3", "steps = 2", 1))
    row = specdiag.collect(lock).sel(checkpoint="base/net")
    assert row.state == "stale"
    assert np.isnan(row.alpha).all()
    assert np.isnan(row.r2)


def test_an_evaluation_without_the_effective_number_of_samples_is_read(lock, dataset):
    """Test the file of an earlier specdiag."""

    def without(evaluation):
        assert evaluation["features"].pop("n_effective") == dataset.n_effective[0]
        return evaluation

    edited(lock, "base/net", without)
    row = specdiag.collect(lock).sel(checkpoint="base/net")
    assert np.isnan(row.n_effective)
    assert row.trace == dataset.trace.sel(checkpoint="base/net")


def test_an_evaluation_of_an_earlier_build_is_left_out(lock, caplog):
    edited(lock, "child/net0", lambda e: e | {"r2": {"monday": 0.123}})
    row = specdiag.collect(lock).sel(checkpoint="child/net0")
    assert not np.isnan(row.r2)
    assert np.isnan(row.trace)
    assert np.isnan(row.session_r2).all()
    (record,) = caplog.records
    assert record.getMessage() == (
        "net0.ckpt.evaluation.json is left out: the mean over its sessions is not the R² of the "
        "receipt, so it belongs to another build"
    )


def test_an_evaluation_that_was_changed_since_it_was_made_is_left_out(lock, caplog):
    path = beside(lock, "child/net0", ".evaluation.json")
    path.write_text(path.read_text().replace("monday", "tuesday"))
    row = specdiag.collect(lock).sel(checkpoint="child/net0")
    assert not np.isnan(row.r2)
    assert np.isnan(row.trace)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{path}: changed since it was made; make it again with `specdiag train NAME --force`, or "
        "remove it"
    )


def test_without_an_evaluation_r2_is_that_of_the_receipt(lock, dataset):
    for path in lock.parent.glob("checkpoints/**/*.evaluation.json"):
        path.unlink()
    collected = specdiag.collect(lock)
    np.testing.assert_array_equal(collected.r2, dataset.r2)
    assert (collected.sizes["session"], collected.sizes["feature_rank"]) == (0, 0)
    specdiag.save_spectra(collected, lock.parent / "x.nc")
    xr.testing.assert_identical(specdiag.open_spectra(lock.parent / "x.nc"), collected)


END = (
    "; expected the R² by session and the features that a recipe wrote; make it again with "
    "`specdiag train NAME --force`, or remove it"
)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("", "not JSON (Expecting value: line 1 column 1 (char 0))"),
        ('{"r2": {"a"', "not JSON (Expecting ':' delimiter: line 1 column 12 (char 11))"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "r2 is missing"),
        ('{"r2": 0.5}', "r2 is not a table of sessions"),
        ('{"r2": {}}', "r2 is not a table of sessions"),
        ('{"r2": {"\\ud800": 1}}', "r2 is not a table of sessions"),
        ('{"r2": {"a": "good"}}', "r2.'a' is 'good', not a number or null"),
        ('{"r2": {"a": true}}', "r2.'a' is True, not a number or null"),
        ('{"r2": {"a": 1' + "0" * 400 + "}}", "r2.'a' is out of the range of numbers"),
        ('{"r2": {"a": 1e300}}', "session_r2 is 1e+300; expected -inf to 1"),
        ('{"r2": {"a": 1}, "features": {}}', "features.eigenvalues is missing"),
        ('{"r2": {"a": 1}, "features": 3}', "features.eigenvalues is missing"),
        (
            '{"r2": {"a": 1}, "features": {"eigenvalues": 3}}',
            "features.eigenvalues is not a list of numbers",
        ),
        (
            '{"r2": {"a": 1}, "features": {"eigenvalues": [3, "x"]}}',
            "features.eigenvalues[1] is 'x', not a number or null",
        ),
    ],
)
def test_an_invalid_evaluation_is_one_clear_line(tmp_path, content, wrong):
    path = tmp_path / "net.ckpt.evaluation.json"
    path.write_text(content)
    with pytest.raises(ValueError) as error:
        read_evaluation(path)
    assert str(error.value) == f"{path}: {wrong}{END}"


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("trace_interval", [1], "features.trace_interval is not a list of two numbers"),
        ("precision", 3, "features.precision is 3, not text"),
        (
            "condition_number_is_bound",
            1,
            "features.condition_number_is_bound is 1, not true or false",
        ),
    ],
)
def test_an_invalid_feature_is_a_warning_that_names_it(lock, key, value, wrong, caplog):
    path = edited(lock, "base/net", lambda e: e | {"features": e["features"] | {key: value}})
    row = specdiag.collect(lock).sel(checkpoint="base/net")
    assert [r.getMessage() for r in caplog.records] == [f"{path}: {wrong}{END}"]
    assert not np.isnan(row.r2)
    assert np.isnan(row.trace)
    assert np.isnan(row.session_r2).all()


numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
values = st.recursive(numbers, lambda x: st.lists(x) | st.dictionaries(st.text(max_size=3), x))


@settings(max_examples=60)
@given(r2=values, features=st.dictionaries(st.sampled_from([*FEATURES.values()]), values))
def test_json_is_read_as_written_or_refused(tmp_path_factory, r2, features):
    path = tmp_path_factory.getbasetemp() / "any.evaluation.json"
    path.write_text(json.dumps({"r2": r2, "features": features}))
    try:
        result = list(read_evaluation(path)["session_r2"])
    except ValueError as error:
        result = str(error)
    is_refused = (
        result == f"{path}: {result[len(f'{path}: ') : -len(END)]}{END}" and "\n" not in result
    )
    assert is_refused or result == list(r2)


def to_file(change):
    """Return what writes a changed Dataset without checking it."""
    return lambda dataset, path: change(dataset).to_netcdf(path, engine="h5netcdf")


@pytest.mark.parametrize(
    ("broken", "wrong"),
    [
        (lambda _, path: path.write_bytes(path.read_bytes()[:3000]), "truncated file"),
        (lambda _, path: path.write_text("no file"), "not an HDF5 file"),
        (to_file(lambda _: xr.Dataset({"a": 1})), "schema_version is None: this specdiag reads 3"),
        (
            to_file(lambda d: d.assign_attrs(schema_version=4)),
            "schema_version is 4: this specdiag reads 3",
        ),
        (to_file(lambda d: d.drop_vars("alpha")), "'alpha'"),
        (
            to_file(lambda d: d.isel(sample=slice(3))),
            "row_start and row_size point outside of the eigenvalues",
        ),
        (to_file(lambda d: d.isel(layer=[0, 0])), "weight' occurs twice"),
        (
            to_file(lambda d: d.isel(alternative=[1, 0, 2, 3])),
            "alternative is not lognormal, exponential",
        ),
        (to_file(lambda d: d.assign(alpha=d.status)), "could not convert string to float"),
    ],
)
@pytest.mark.parametrize("has_checksum", [False, True])
def test_broken_spectra_are_measured_again_with_one_clear_line(
    lock, dataset, broken, wrong, has_checksum, caplog
):
    path = beside(lock, "base/net", ".*.nc")
    with specdiag.open_spectra(path) as opened:
        content = opened.load()
    broken(content, path)
    if has_checksum:
        path.write_bytes(path.read_bytes() + checksum(path.read_bytes()))
    xr.testing.assert_identical(specdiag.collect(lock), dataset)
    record, *others = caplog.records
    text = record.getMessage()
    assert text.endswith(": measuring net.ckpt again")
    assert path.name in text
    assert "\n" not in text
    if has_checksum:
        assert wrong in text
    assert len(others) <= 1  # what has no mark of specdiag is moved aside
    caplog.clear()
    specdiag.collect(lock)
    assert not caplog.records


def test_any_changed_byte_of_spectra_is_noticed(lock, dataset, caplog):
    path = beside(lock, "base/net", ".*.nc")
    content = path.read_bytes()
    for at in np.random.default_rng(0).integers(len(content), size=6):
        damaged = bytearray(content)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        xr.testing.assert_identical(specdiag.collect(lock), dataset)
        assert caplog.records[-1].getMessage().endswith(("measuring net.ckpt again", "is now"))


def test_several_seeds_have_distinct_labels(lock):
    other = lock.with_name("checkpoints.seed-9.lock")
    other.write_text(lock.read_text().replace("seed = 0", "training = {seed = 9}\nseed = 0"))
    lock.write_text(lock.read_text().replace("seed = 0", "training = {seed = 8}\nseed = 0"))
    made = [factors(entry, None) for path in (lock, other) for entry in load(path).entries]
    assert labels(made)[::4] == ["base/net (seed 8)", "base/net (seed 9)"]
    assert labels(made[:2]) == ["base/net", "child/net0"]


def test_scales_and_twins_have_distinct_labels():
    def like(entry, scale, seed):
        return {"entry": entry, "scale": scale, "seed": seed}

    assert labels([like("a", "desk", 1), like("a", "paper", 1), like("b", "desk", 1)]) == [
        "a (desk)",
        "a (paper)",
        "b",
    ]
    assert labels([like("a", "desk", 1), like("a", "paper", 2)]) == [
        "a (desk, seed 1)",
        "a (paper, seed 2)",
    ]
    twins = [like("a", "desk", float("nan"))] * 2
    assert labels(twins) == ["a#1", "a#2"]


def test_locks_of_several_studies_are_collected_side_by_side(lock, trained):
    both = specdiag.collect(lock, trained / "checkpoints.lock", lock)
    assert both.sizes["checkpoint"] == 8
    assert len(json.loads(both.attrs["provenance"])["locks"]) == 2
    assert both.checkpoint.values[[0, 4]].tolist() == ["base/net#1", "base/net#2"]
    np.testing.assert_array_equal(both.alpha[:4], both.alpha[4:])


@given(locks(min_size=1))
def test_any_lock_has_factors_and_distinct_labels(lock):
    parents = {entry.key: entry for entry in lock.entries}
    made = [
        factors(e, parents.get((e.parent.name, e.scale)) if e.parent else None)
        for e in lock.entries
    ]
    assert len(set(labels(made))) == len(made)
    for name, value in made[0].items():
        assert isinstance(value, {"O": str, "f": float, "b": bool}[COLLECTION[name].dtype])


def test_the_factors_of_our_own_lock_are_what_its_recipes_declare():
    lock = load(ROOT / "checkpoints.lock")
    entries = {entry.name: entry for entry in lock.entries if entry.scale == "paper"}
    base = entries["base/poyo_mp_converged"]
    by_name = {name: factors(entry, base) for name, entry in entries.items()}
    assert by_name["base/poyo_mp_converged"] == {
        "entry": "base/poyo_mp_converged",
        "parent": "",
        "recipe": "poyo_mp",
        "scale": "paper",
        "group": "published",
        "task": "center_out + random_target",
        "arm": "base",
        "unit_dropout": "standard",
        "train_fraction": 1.0,
        "seed": 42.0,
        "frozen_core": False,
    }
    chronic = by_name["chronic/c_20131003"]
    assert (chronic["arm"], chronic["seed"], chronic["frozen_core"]) == ("evaluation", 42.0, False)
    for name, one in by_name.items():
        for arm in ("pretrained", "scratch", "scratch_tuned"):
            if name.endswith(f"_{arm}"):
                assert one["arm"] == arm
        assert one["frozen_core"] == (one["arm"] == "pretrained")
        assert one["task"] in {
            *("center_out + random_target", "center_out", "area2_bump"),
            *("interval_timing", "open_field"),
        }
    assert by_name["data_efficiency/scratch_tuned_10"]["arm"] == "scratch_tuned"
    assert by_name["data_efficiency/scratch_10"]["arm"] == "scratch"
    assert by_name["low_data/10_off"]["train_fraction"] == 0.1
    assert by_name["low_data/10_off"]["unit_dropout"] == "off"
    assert by_name["low_data/10_off"]["arm"] == "plastic"


def test_an_entry_of_another_lock_may_have_no_factor():
    child = Entry(name="c", scale="desk", group="g", recipe="r", parent=Parent(name="p"))
    unknown = factors(child, None)
    assert (unknown["task"], unknown["arm"], unknown["unit_dropout"]) == ("", "", "")
    assert np.isnan([unknown["seed"], unknown["train_fraction"]]).all()
    assert not unknown["frozen_core"]


layers_of_checkpoints = st.lists(
    st.lists(st.sampled_from("abcdef"), unique=True, max_size=6), min_size=1, max_size=5
).filter(any)


def ragged(names, data):
    """Return a Dataset of spectra of several lengths, and the spectra by checkpoint and layer."""
    sizes = {
        (i, name): data.draw(st.integers(0, 4), label=f"{i}{name}")
        for i, layers in enumerate(names)
        for name in layers
    }
    marks = {key: np.arange(n)[::-1] + 10.0 * i for i, (key, n) in enumerate(sizes.items())}
    rows = [made_up(i, layers, marks) for i, layers in enumerate(names)]
    return collection.build(rows, []), marks


def assert_every_spectrum_stays_with_its_layer(dataset, marks, data):
    assert int(dataset.row_size.sum()) == dataset.sizes["sample"]
    sizes = dataset.row_size.values.ravel()
    assert (np.diff(dataset.row_start.values.ravel()) == sizes[:-1]).all()
    shuffled = dataset.isel(layer=data.draw(st.permutations(range(dataset.sizes["layer"]))))
    for i, checkpoint in enumerate(dataset.checkpoint.values):
        for name in dataset.layer.values:
            expected = marks.get((i, name), np.empty(0))
            got = specdiag.spectrum(shuffled, name, checkpoint)
            np.testing.assert_array_equal(got, expected)


@settings(max_examples=40)
@given(layers_of_checkpoints, st.data())
def test_every_spectrum_stays_with_its_layer(names, data):
    assert_every_spectrum_stays_with_its_layer(*ragged(names, data), data)


@settings(max_examples=5)
@given(layers_of_checkpoints, st.data())
def test_every_spectrum_stays_with_its_layer_in_a_file(tmp_path_factory, names, data):
    built, marks = ragged(names, data)
    path = tmp_path_factory.getbasetemp() / "ragged.nc"
    specdiag.save_spectra(built, path)
    with specdiag.open_spectra(path) as opened:
        xr.testing.assert_identical(opened, built)
        assert_every_spectrum_stays_with_its_layer(opened, marks, data)


def made_up(i, layers, marks):
    """Return a row whose layers have made-up eigenvalues; none at all without layers."""
    measured = [
        Layer(name=n, shape=(9, 9), dtype="float32", status="fit", eigenvalues=marks[i, n])
        for n in layers
    ]
    one = build.build([specdiag.open_checkpoint({"w": np.ones((2, 2))})], [measured], {})
    entry = Entry(name=f"e{i}", scale="desk", group="g", recipe="r")
    made = {**factors(entry, None), "state": "ok", "sha256": "", "how": "", "n_changed": np.nan}
    return collection.Row(factors=made, spectra=one if layers else None, reason="", evaluation={})


def test_the_file_opens_lazily_and_one_spectrum_reads_nothing_else(dataset, tmp_path):
    specdiag.save_spectra(dataset, tmp_path / "x.nc")
    with specdiag.open_spectra(tmp_path / "x.nc") as opened:
        specdiag.spectrum(opened, "weight", "child/net1")
        held = {n for n, v in opened.variables.items() if v._in_memory}
        assert held == {*opened.indexes, "row_start", "row_size"}
        xr.testing.assert_identical(opened.load(), dataset)


def test_a_selection_can_be_saved(dataset, tmp_path):
    specdiag.save_spectra(dataset, tmp_path / "all.nc")
    some = specdiag.open_spectra(tmp_path / "all.nc").isel(checkpoint=[2, 0], layer=[0])
    specdiag.save_spectra(some, tmp_path / "some.nc")
    xr.testing.assert_identical(specdiag.open_spectra(tmp_path / "some.nc"), some)


def test_a_collection_without_a_variable_is_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"^variable r2 is missing$"):
        netcdf.validate(dataset.drop_vars("r2"))
    with pytest.raises(ValueError, match=r"^variable n_fit has dims .* and kind i$"):
        netcdf.validate(dataset.assign(n_fit=dataset.n_fit * 1.0))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"names": ["child/net"]},
            "no entry child/net; did you mean child/net1 or child/net0 or judged/net?",
        ),
        (
            {"names": ["x"], "scale": "desk"},
            "no entry x at desk scale; `specdiag list` shows all names",
        ),
        ({"group": "y"}, "no group 'y'; the lock has toys"),
        (
            {"names": ["z"], "group": "toys", "scale": "desk"},
            "no entry z at desk scale in group toys; `specdiag list` shows all names",
        ),
    ],
)
def test_a_name_or_group_without_entries_is_an_error(trained, how, message):
    with pytest.raises(ValueError) as error:
        specdiag.collect(trained / "checkpoints.lock", **how)
    assert str(error.value) == message


def test_some_entries_are_collected(trained):
    collected = specdiag.collect(trained / "checkpoints.lock", names=["child/net1"], group="toys")
    assert collected.checkpoint.values.tolist() == ["child/net1"]
    with pytest.raises(ValueError, match=r"^collect\(\) needs at least one lock"):
        specdiag.collect()


def test_without_any_training_there_is_nothing_to_collect(lock):
    shutil.rmtree(lock.parent / "checkpoints")
    status, out, err = run(lock.parent, "spectra", "-o", "x.nc")
    assert (status, out) == (1, "")
    assert err == (
        "specdiag: none of the 4 entries has a checkpoint with spectra; the first one: the "
        "checkpoint of base/net is missing; `specdiag list` shows the state of all, `specdiag "
        "train` makes missing checkpoints\n"
    )
    assert not (lock.parent / "x.nc").exists()


def test_a_damaged_receipt_is_named_where_no_entry_has_spectra(lock):
    receipt = beside(lock, "base/net", ".*[0-9a-f].json")
    receipt.write_text(receipt.read_text()[:9])
    status, _, err = run(lock.parent, "spectra", "-o", "x.nc", "base/net")
    assert status == 1
    assert (
        f"the first one: the checkpoint of base/net is corrupt ({receipt.name} cannot be read: "
        in err
    )


def test_the_command_counts_files_that_cannot_be_read(lock):
    files = [beside(lock, name, ".evaluation.json") for name in ("base/net", "child/net0")]
    for path in files:
        path.write_text("no file")
    status, out, err = run(lock.parent, "spectra", "-o", "x.nc")
    assert status == 0
    assert all(path.name in err for path in files)
    assert out.splitlines()[-2] == (
        f"2 files beside checkpoints cannot be read: {files[0].name}, {files[1].name}"
    )


def test_the_command_writes_the_dataset_and_summarises_it(lock, dataset):
    beside(lock, "child/net0", "").unlink()
    status, out, err = run(lock.parent, "spectra", "-o", "x.nc")
    assert (status, err) == (0, "wrote x.nc\n")
    assert out.splitlines() == [
        "4 checkpoints, 2 layers, 3 sessions",
        "  with spectra   3",
        "  with r2        3",
        "  with features  3",
        "  state          3 ok, 1 missing",
        "1 checkpoint without values: child/net0; `specdiag train --missing` makes them",
    ]
    written = specdiag.open_spectra(lock.parent / "x.nc")
    np.testing.assert_array_equal(written.alpha[0], dataset.alpha[0])
    status, out, err = run(lock.parent, "spectra", "-o", "x.nc", "child/net1", "--json")
    assert status == 0
    (row,) = json.loads(out)["checkpoints"]
    assert row["r2"] == dataset.r2.sel(checkpoint="child/net1")
    assert (row["checkpoint"], row["n_fit"], row["has_spectra"]) == ("child/net1", 1, True)


def test_the_command_needs_a_folder_to_write_to(lock):
    status, _, err = run(lock.parent, "spectra", "-o", "none/x.nc")
    assert status == 2
    assert err.splitlines()[-1] == "Error: -o none/x.nc: there is no folder none"
    status, _, err = run(lock.parent, "spectra", "-o", "checkpoints.lock")
    assert status == 2
    assert err.splitlines()[-1] == "Error: -o checkpoints.lock: it is the lock to read"


@pytest.mark.parametrize(
    ("output", "wrong"),
    [
        (
            "checkpoints/desk/base/net.ckpt",
            "files of that name belong to the checkpoint of base/net",
        ),
        (
            "checkpoints/desk/base/net.ckpt.nc",
            "files of that name belong to the checkpoint of base/net",
        ),
        ("link.nc", "files of that name belong to the checkpoint of base/net"),
    ],
)
def test_no_command_overwrites_a_checkpoint_a_file_beside_it_or_a_lock(
    lock, dataset, output, wrong
):
    root, checkpoint = lock.parent, beside(lock, "base/net", "")
    before = checkpoint.read_bytes()
    (root / "link.nc").symlink_to(checkpoint)
    specdiag.save_spectra(dataset, root / "data.nc")
    other = "checkpoints/desk/child/net0.ckpt"
    for command in (["spectra"], ["report", "data.nc"], ["alpha", other]):
        status, _, err = run(root, *command, "-o", output)
        assert status == 2
        assert err.splitlines()[-1] == f"Error: -o {output}: {wrong}; give another name"
    assert checkpoint.read_bytes() == before
    assert (root / "link.nc").is_symlink()


def test_verify_overwrites_no_input_and_no_file_of_a_checkpoint(lock):
    (lock.parent / "data.md").touch()
    for output, wrong in (
        (
            "checkpoints/desk/base/net.ckpt.md",
            "files of that name belong to the checkpoint of base",
        ),
        ("data.md", "it is one of the files to read"),
    ):
        status, _, err = run(lock.parent, "verify", "data.md", "-o", output)
        assert status == 2
        assert err.splitlines()[-1].startswith(f"Error: -o {output}: {wrong}")


def test_a_file_that_is_not_a_dataset_is_named_once(lock):
    (lock.parent / "README.md").write_text("no file")
    status, _, err = run(lock.parent, "link", "README.md")
    assert status == 1
    assert err.startswith("specdiag: README.md is not a spectra file: ")
    assert err.count("README.md") == 1


def test_a_name_group_or_scale_without_entries_is_wrong_usage(lock):
    for names, wrong in (
        (
            ["child/net9"],
            (
                "no entry child/net9 at desk scale; did you mean child/net1 or child/net0 or "
                "judged/net?"
            ),
        ),
        (
            ["--group", "y"],
            "no group 'y'; the lock has toys",
        ),
        (
            ["--scale", "paper"],
            "no entries at paper scale; `specdiag list` shows all names",
        ),
    ):
        status, _, err = run(lock.parent, "spectra", "-o", "x.nc", *names)
        assert status == 2
        assert err.splitlines()[-1] == f"Error: {wrong}"
    assert not (lock.parent / "x.nc").exists()


def test_a_file_beside_a_checkpoint_of_another_name_is_written(lock):
    assert run(lock.parent, "spectra", "-o", "checkpoints/desk/base/study.nc")[0] == 0


def test_a_pipe_is_refused_as_output(lock, tmp_path):
    os.mkfifo(tmp_path / "pipe.nc")
    status, _, err = run(lock.parent, "spectra", "-o", str(tmp_path / "pipe.nc"))
    assert status == 2
    assert err.splitlines()[-1] == (
        f"Error: -o {tmp_path}/pipe.nc: not a regular file; give the name of a file"
    )
    with pytest.raises(ValueError, match=r"pipe\.nc: not a regular file"):
        write_whole(tmp_path / "pipe.nc", b"")
    assert (tmp_path / "pipe.nc").is_fifo()


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    for content in (b"new", b"again"):
        write_whole(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "folder" / "file").read_bytes() == content


def test_the_page_lists_every_variable():
    for schema in (SCHEMA, COLLECTION):
        assert as_markdown(schema) in PAGE.read_text(), "run python -m benchmarks._pages"


def test_the_code_of_the_page_runs_without_specdiag(dataset, tmp_path, monkeypatch, capsys):
    import matplotlib as mpl

    mpl.use("agg")
    specdiag.save_spectra(dataset, tmp_path / "spectra.nc")
    monkeypatch.chdir(tmp_path)
    code = PAGE.read_text().partition("```python\n")[2].partition("```")[0]
    assert "specdiag" not in code
    names = {}
    exec(code, names)  # our own page
    expected = specdiag.spectrum(
        dataset, names["first"].layer.item(), names["first"].checkpoint.item()
    )
    np.testing.assert_array_equal(names["spectrum"], expected)
    assert (tmp_path / "alpha_r2.png").stat().st_size > 1000
    assert "base/net" in capsys.readouterr().out
    names["dataset"].close()
