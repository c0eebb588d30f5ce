"""Files that Keras wrote, files of HDF5 in its layouts, damaged ones, and hostile ones."""

import io
import json
import os
import random
import zipfile
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

import specdiag
from specdiag.checkpoint.formats.hdf5.attributes import texts_of
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import weights
from support.hostile import MAX_MEMORY, mutated, peak_memory, refused

WRITTEN = Path(__file__).with_name("written")
ARCHIVE = WRITTEN / "keras-3.15.1.keras"
# The variables of the model in the files, in the order of `model.weights`.
WEIGHTS = (
    *("embedding.embeddings", "conv1d.kernel", "conv1d.bias", "lstm.lstm_cell.kernel"),
    *("lstm.lstm_cell.recurrent_kernel", "lstm.lstm_cell.bias"),
    *(
        f"multi_head_attention.{part}.{leaf}"
        for part in ("query", "key", "value", "attention_output")
        for leaf in ("kernel", "bias")
    ),
    *("hidden.kernel", "hidden.bias", "dense_1.kernel"),
)


def extracted(tmp_path):
    path = tmp_path / "m.weights.h5"
    path.write_bytes(zipfile.ZipFile(ARCHIVE).read("model.weights.h5"))
    return path


def deflated(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in zipfile.ZipFile(ARCHIVE).namelist():
            archive.writestr(name, zipfile.ZipFile(ARCHIVE).read(name))
    return path


@pytest.mark.parametrize(
    "source",
    [
        lambda _: ARCHIVE,
        lambda _: WRITTEN / "keras-3.15.1-legacy.h5",
        extracted,
        deflated,
    ],
    ids=["archive", "former format", "weights", "compressed archive"],
)
def test_files_of_keras_give_its_variables_under_their_names(source, tmp_path):
    checkpoint = open_checkpoint(source(tmp_path))
    values = {tensor.name: tensor.read() for tensor in checkpoint.tensors}
    values = {name.replace("dense.kernel", "dense_1.kernel"): v for name, v in values.items()}
    assert sorted(values) == sorted(WEIGHTS)
    for k, name in enumerate(WEIGHTS):
        expected = np.random.default_rng(k).standard_normal(values[name].shape)
        np.testing.assert_array_equal(values[name], expected.astype(np.float32))
    (note,) = checkpoint.notes
    assert note.endswith("are not part of the model")


def test_layers_are_in_the_order_of_the_model_where_the_file_tells_it():
    tensors = open_checkpoint(ARCHIVE).tensors
    layers = list(dict.fromkeys(tensor.name.split(".")[0] for tensor in tensors))
    expected = ["embedding", "conv1d", "lstm", "multi_head_attention", "hidden", "dense_1"]
    assert layers == expected


def test_the_classes_of_layers_are_the_roles_of_their_matrices():
    roles = {tensor.name: tensor.role for tensor in open_checkpoint(ARCHIVE).tensors}
    assert roles["embedding.embeddings"] == "embedding"
    assert roles["hidden.kernel"] == "linear"
    assert (roles["hidden.bias"], roles["conv1d.kernel"]) == ("", "axes:tcr")


def saved(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


def numbered(path, layers):
    """Write variables as Keras 3 does: {group: (name of the layer, arrays)}."""
    with h5py.File(path, "w") as file:
        for group, (name, arrays) in layers.items():
            variables = file.create_group(f"{group}/vars")
            variables.attrs["name"] = name
            for i, array in enumerate(arrays):
                variables[str(i)] = array
    return path


def test_layers_that_keras_named_itself_keep_the_names_of_their_groups(tmp_path):
    """Keras numbers layers through the whole program: dense_7 is dense in the next run."""
    K, b = np.ones((4, 3)), np.ones(3)
    layers = {"layers/dense": ("dense_7", [K, b]), "layers/dense_1": ("readout", [K])}
    layers |= {"encoder": ("dense_9", [K, b]), "layers/my_layer": ("my_layer_3", [K, b])}
    layers |= {"layers/other": ("other", [K, K, b])}
    names = [t.name for t in open_checkpoint(numbered(tmp_path / "m.h5", layers)).tensors]
    assert names == [
        *("encoder.kernel", "encoder.bias", "dense.kernel", "dense.bias", "readout.kernel"),
        *("my_layer.kernel", "my_layer.bias", "other.vars.0", "other.vars.1", "other.vars.2"),
    ]


def test_the_gates_of_a_cell_are_known_by_their_shapes(tmp_path):
    """The first versions of Keras 3 wrote no names of layers."""
    gates = {"layers/bidirectional/forward_layer/cell": ("", [np.ones((5, 9)), np.ones((3, 9))])}
    gates |= {"layers/custom": ("", [np.ones((3, 3)), np.ones((3, 3))])}
    names = [t.name for t in open_checkpoint(numbered(tmp_path / "m.h5", gates)).tensors]
    cell = "bidirectional.forward_layer.cell"
    expected = [f"{cell}.kernel", f"{cell}.recurrent_kernel", "custom.vars.0", "custom.vars.1"]
    assert names == expected


def test_layers_of_one_name_keep_their_paths(tmp_path):
    K = np.ones((4, 3))
    layers = {"layers/dense": ("same", [K]), "layers/dense_1": ("same", [K])}
    names = [t.name for t in open_checkpoint(numbered(tmp_path / "m.h5", layers)).tensors]
    assert names == ["layers.dense.vars.0", "layers.dense_1.vars.0"]


@pytest.mark.parametrize("kind", ["Conv2D", "Conv1D"])
def test_groups_of_a_convolution_are_those_of_the_configuration(kind, tmp_path, rng):
    """The oracle is the dense kernel (taps, inputs, outputs), with zeros between the groups."""
    taps = (2, 2) if kind == "Conv2D" else (3,)
    kernel = rng.standard_normal((*taps, 5, 8)).astype(np.float32)
    path = numbered(tmp_path / "m.h5", {"layers/conv": ("c", [kernel])})
    layer = {"class_name": kind, "config": {"name": "c", "groups": 2}}
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = json.dumps({"config": {"layers": [layer]}})
    (weight,) = weights(open_checkpoint(path))
    dense = np.zeros((*taps, 10, 8))
    dense[..., :5, :4], dense[..., 5:, 4:] = kernel[..., :4], kernel[..., 4:]
    blocks = weight.read().reshape(4, 5, -1).transpose(2, 0, 1)
    found = np.sort(np.linalg.svd(blocks, compute_uv=False).reshape(-1))
    expected = np.sort(np.linalg.svd(dense, compute_uv=False).reshape(-1))
    np.testing.assert_allclose(found, expected[-found.size :], rtol=1e-5)
    assert not expected[: -found.size].any()


def test_quantised_variables_have_a_scale(tmp_path):
    layers = {"layers/dense": ("dense", [np.ones((4, 3), np.int8), np.ones(3), np.ones(3)])}
    tensors = open_checkpoint(numbered(tmp_path / "m.h5", layers)).tensors
    assert [t.name for t in tensors] == ["dense.kernel", "dense.bias", "dense.kernel_scale"]


def test_bfloat16_is_read_as_keras_writes_it(tmp_path):
    values = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("w", data=values).attrs["dtype"] = "bfloat16"
    (tensor,) = open_checkpoint(tmp_path / "m.h5").tensors
    assert tensor.dtype == "bfloat16"
    np.testing.assert_array_equal(tensor.read(), values)


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<f2", "i8", "bool", "u1", "c8"])
def test_arrays_of_any_dtype_are_read_as_h5py_wrote_them(dtype, tmp_path, rng):
    arrays = {"a:0": rng.integers(0, 2, (3, 4)).astype(dtype), "b": np.zeros((), dtype)}
    arrays["c"] = np.zeros((0, 3), dtype)
    tensors = open_checkpoint(saved(tmp_path / "m.h5", **arrays)).tensors
    assert [t.name for t in tensors] == ["a", "b", "c"]
    for tensor, array in zip(tensors, arrays.values(), strict=True):
        values = tensor.read()
        assert (values.dtype.name, values.shape) == (array.dtype.name, array.shape)
        np.testing.assert_array_equal(values, array)


def test_a_dataset_under_two_names_is_one_tied_tensor(tmp_path):
    saved(tmp_path / "m.h5", a=np.ones((2, 2)))
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file["b"] = file["a"]
    a, b = open_checkpoint(tmp_path / "m.h5").tensors
    assert a.identity == b.identity != None  # noqa: E711


def test_a_network_of_keras_is_measured_like_its_arrays(tmp_path, rng):
    W = rng.standard_normal((96, 64))
    path = numbered(tmp_path / "m.weights.h5", {"layers/dense": ("dense", [W, W[0]])})
    np.testing.assert_array_equal(specdiag.alpha(path).alpha, specdiag.alpha(W).alpha)


def test_a_dataset_of_spectra_is_named_as_no_checkpoint(tmp_path, rng):
    specdiag.save_spectra(specdiag.alpha(rng.standard_normal((64, 64))), tmp_path / "s.nc")
    refused(tmp_path / "s.nc", "a netCDF file, such as a Dataset of spectra, not a checkpoint")


# Files that point outside, or are damaged.


def private(tmp_path):
    (tmp_path / "private.bin").write_bytes(b"PRIVATE-" * 100)
    os.mkfifo(tmp_path / "pipe")
    return saved(tmp_path / "other.h5", x=np.full((4, 4), 1234.5))


def external_link(file, tmp_path):
    file["w"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")


def link_to_a_pipe(file, tmp_path):
    file["w"] = h5py.ExternalLink(str(tmp_path / "pipe"), "/x")


def soft_link(file, tmp_path):
    file["w"] = h5py.SoftLink("/nowhere")


def soft_loop(file, tmp_path):
    file["w"] = h5py.SoftLink("/w")


@pytest.mark.parametrize("make", [external_link, link_to_a_pipe, soft_link, soft_loop])
def test_a_link_is_not_followed_and_named(make, tmp_path):
    private(tmp_path)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["kernel"] = np.ones((2, 2))
        make(file, tmp_path)
    checkpoint = open_checkpoint(tmp_path / "m.h5")
    assert [t.name for t in checkpoint.tensors] == ["kernel"]
    assert checkpoint.notes == ("links that are not followed: 'w'",)


def virtual(file, tmp_path, source="other.h5"):
    layout = h5py.VirtualLayout((4, 4), "f8")
    layout[...] = h5py.VirtualSource(str(tmp_path / source), "x", (4, 4))
    file.create_virtual_dataset("w", layout)


def virtual_of_a_pipe(file, tmp_path):
    virtual(file, tmp_path, "pipe")


def external_raw(file, tmp_path):
    file.create_dataset("w", (4, 4), "f8", external=[(str(tmp_path / "private.bin"), 0, 128)])


def objects(file, tmp_path):
    file["w"] = np.array(["a", "b"], dtype=object)


def references(file, tmp_path):
    file.create_dataset("w", (3,), h5py.ref_dtype)


def compound(file, tmp_path):
    file["w"] = np.zeros(3, [("a", "f4"), ("b", "i4")])


def chunks_that_grow(file, tmp_path):
    n = 2 * 10**9
    file.create_dataset("w", (n,), "f8", chunks=(2**20,), fillvalue=1.0)


def one_chunk_that_grows(file, tmp_path):
    chunks = (2**28,)
    file.create_dataset("w", (4,), "f8", maxshape=(None,), chunks=chunks, compression="gzip")


def expected_shape(path):
    with h5py.File(path) as file:
        return file["w"].shape


PROBLEMS = {
    virtual: "its values are in other files",
    virtual_of_a_pipe: "its values are in other files",
    external_raw: "its values are in another file",
    objects: "dtype object is not supported",
    references: "dtype object is not supported",
    compound: "is not supported",
    chunks_that_grow: "would grow to",
    one_chunk_that_grows: "would grow to",
}


@pytest.mark.parametrize("make", PROBLEMS, ids=lambda make: make.__name__)
def test_a_dataset_that_points_outside_or_grows_is_listed_with_that_problem(make, tmp_path):
    private(tmp_path)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        make(file, tmp_path)
    (tensor,) = open_checkpoint(tmp_path / "m.h5").tensors
    assert PROBLEMS[make] in tensor.problem
    assert tensor.shape == expected_shape(tmp_path / "m.h5")
    with pytest.raises(ValueError, match="cannot be read"):
        tensor.read()


def test_a_filter_that_is_a_plugin_is_not_loaded(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_chunk((4,))
        layout.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())  # blosc
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(file.id, b"w", h5py.h5t.IEEE_F32LE, space, layout)
    (tensor,) = open_checkpoint(tmp_path / "m.h5").tensors
    assert tensor.problem == "compressed by the HDF5 filter 32001"


def test_groups_that_hold_themselves_are_visited_once(tmp_path):
    saved(tmp_path / "m.h5", **{"a/b/w": np.ones((2, 2))})
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file["a/b/a"], file["a/b/top"] = file["a"], file["/"]
    assert [t.name for t in open_checkpoint(tmp_path / "m.h5").tensors] == ["a.b.w"]


def too_deep(file):
    file["/".join("x" * 200)] = np.ones(2)


def a_name_that_is_not_text(file):
    h5py.Group(file.id).id.links  # noqa: B018
    file.id.links.create_soft(b"\xff\xfe", b"/nowhere")
    file["kernel"] = np.ones(2)


def test_groups_nested_deeply_are_refused(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        too_deep(file)
    refused(tmp_path / "m.h5", "50 levels of groups")


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        a_name_that_is_not_text(file)
    (note,) = open_checkpoint(tmp_path / "m.h5").notes
    assert note.isprintable()


def archive(tmp_path, **records):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in records.items():
            file.writestr(name, data)
    return path


def h5(array):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["w"] = array
    return buffer.getvalue()


ARCHIVES = {
    "weights that are no HDF5": ({"model.weights.h5": b"hello"}, "not read by h5py"),
    "empty weights": ({"model.weights.h5": b""}, "not read by h5py"),
    "weights cut short": ({"model.weights.h5": h5(np.ones((9, 9)))[:-200]}, "not read by h5py"),
    "a configuration that is no JSON": (
        {"model.weights.h5": h5(np.ones(3)), "config.json": b"{'a'}"}, "not valid JSON"
    ),
    "a configuration nested deeply": (
        {"model.weights.h5": h5(np.ones(3)), "config.json": b"[" * 10**6}, "nested too deeply"
    ),
    "a configuration that is too large": (
        {"model.weights.h5": h5(np.ones(3)), "config.json": bytes(2**25)}, "bytes; at most"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_hostile_archive_is_refused_in_one_line(kind, tmp_path):
    records, expected = ARCHIVES[kind]
    refused(archive(tmp_path, **records), expected)


def test_a_configuration_of_other_types_gives_no_names(tmp_path):
    config = {"class_name": 3, "config": {"name": ["x"], "layers": {"class_name": "Dense"}}}
    records = {"model.weights.h5": h5(np.ones(3)), "config.json": json.dumps(config)}
    assert [t.name for t in open_checkpoint(archive(tmp_path, **records)).tensors] == ["w"]


@pytest.mark.parametrize("make", [chunks_that_grow, one_chunk_that_grows])
def test_a_file_that_grows_takes_little_memory(make, tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        make(file, tmp_path)
    assert peak_memory(tmp_path / "m.h5") < MAX_MEMORY


def test_every_truncation_is_refused(tmp_path):
    data = saved(tmp_path / "m.h5", w=np.ones((9, 9))).read_bytes()
    for length in range(0, len(data), 101):
        (tmp_path / "m.h5").write_bytes(data[:length])
        with pytest.raises(ValueError):
            [t.read() for t in open_checkpoint(tmp_path / "m.h5").tensors]


def test_mutated_files_raise_only_value_and_os_errors(tmp_path):
    data = extracted(tmp_path).read_bytes()
    assert 0 < mutated(tmp_path / "m.h5", data, random.Random(1), 200) < 200


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_texts_of_attributes_are_those_that_h5py_reads(version, tmp_path):
    texts = {
        "text": "gr\u00f6\u00dfe",
        "empty": "",
        "long": "x" * 300_000,
        "texts": ["a", "bb", ""],
        "fixed": np.bytes_(b"abc"),
        "fixed texts": np.array([b"abc", b"d"]),
    }
    others = {"number": 3, "numbers": np.arange(3), "flag": True, "nothing": h5py.Empty("f")}
    with h5py.File(tmp_path / "m.h5", "w", libver=version) as file:
        group = file.create_group("g", track_order=version == "latest")
        for name, value in (texts | others).items():
            if len(group.attrs) < 8 or version == "earliest":  # more are stored elsewhere
                group.attrs[name] = value
        stored = {name: group.attrs[name] for name in group.attrs if name in texts}
        address = h5py.h5o.get_info(group.id).addr
    with (tmp_path / "m.h5").open("rb") as stream:
        found = texts_of(stream, address)
    for name, value in stored.items():
        expected = value.tolist() if isinstance(value, np.ndarray) else value
        assert found.pop(name) == (
            [v.decode() if isinstance(v, bytes) else v for v in expected]
            if isinstance(expected, list)
            else expected.decode()
            if isinstance(expected, bytes)
            else expected
        )
    assert found == {}


def test_a_text_that_is_announced_with_gigabytes_takes_little_memory(tmp_path):
    """HDF5 itself takes four gigabytes for it."""
    path = numbered(tmp_path / "m.h5", {"layers/dense": ("dense_7", [np.ones((4, 3))])})
    data = path.read_bytes()
    length = b"\x07\0\0\0"  # of the name, before the place of its collection
    at = next(
        i
        for i in range(len(data))
        if data[i : i + 4] == length
        and data[int.from_bytes(data[i + 4 : i + 12], "little") :][:4] == b"GCOL"
    )
    path.write_bytes(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :])
    assert [t.name for t in open_checkpoint(path).tensors] == ["dense.kernel"]
    assert peak_memory(path) < MAX_MEMORY


def test_a_collection_of_texts_without_an_end_is_left(tmp_path):
    """HDF5 itself never leaves it."""
    path = numbered(tmp_path / "m.h5", {"layers/dense": ("dense_7", [np.ones((4, 3))])})
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    data[heap + 16 : heap + 32] = bytes(16)  # the first object is free space of no bytes
    path.write_bytes(data)
    assert [t.shape for t in open_checkpoint(path).tensors] == [(4, 3)]


def test_names_that_differ_in_a_slash_only_stay_apart(tmp_path):
    saved(tmp_path / "m.h5", **{"a.b": np.ones(2), "a/b": np.ones(3), "layers/w": np.ones(4)})
    checkpoint = open_checkpoint(tmp_path / "m.h5")
    assert sorted(t.name for t in checkpoint.tensors) == ["a.b", "a/b", "layers/w"]


def test_a_file_that_is_not_of_keras_is_read_with_a_note(tmp_path):
    (note,) = open_checkpoint(saved(tmp_path / "m.h5", spikes=np.ones((3, 4)))).notes
    assert note == "not written by Keras, by its names: every array in it is read as a weight"


def test_thousands_of_datasets_are_listed(tmp_path):
    """Comparing each with all others would take minutes."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for i in range(2000):
            file[f"layer_{i}/kernel"] = np.float32(i)
            file[f"optimizer/{i}"] = np.float32(i)
    tensors = open_checkpoint(tmp_path / "m.h5").tensors
    assert [t.name for t in tensors] == [f"layer_{i}.kernel" for i in range(2000)]
