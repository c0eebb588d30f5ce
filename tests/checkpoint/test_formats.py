"""NumPy files are read without pickles; other formats, parts and folders are named in one line."""

import io
import struct
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import specdiag
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import open_weights

arrays = hnp.arrays(
    st.sampled_from(["<f4", ">f8", "<f2", "<i8", ">i2", "|u1", "|b1", "<c8"]),
    hnp.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=5),
)


def read(path):
    return {t.name: t.read() for t in open_checkpoint(path).tensors}


def same(values, expected):
    return (
        values.dtype.name == expected.dtype.name
        and values.shape == expected.shape
        and values.tobytes() == expected.astype(expected.dtype.newbyteorder("=")).tobytes()
    )


@given(
    st.dictionaries(st.from_regex(r"\A[a-z][a-z0-9_.]{0,9}\Z"), arrays, min_size=1), st.booleans()
)
@settings(max_examples=40)
def test_any_arrays_are_read_from_npz_as_numpy_wrote_them(tmp_path_factory, saved, fortran):
    path = tmp_path_factory.mktemp("npz") / "m.npz"
    saved = {f"x.{n}": np.asfortranarray(a) if fortran else a for n, a in saved.items()}
    np.savez(path, **saved)
    values = read(path)
    assert list(values) == list(saved)
    assert all(same(values[name], a) for name, a in saved.items())


def test_a_compressed_npz_is_read(tmp_path, rng):
    saved = {"a.w": rng.standard_normal((30, 20)), "a.b": rng.standard_normal(30).astype("<f4")}
    np.savez_compressed(tmp_path / "m.npz", **saved)
    values = read(tmp_path / "m.npz")
    assert all(same(values[name], array) for name, array in saved.items())


@given(arrays)
@settings(max_examples=40)
def test_any_array_is_read_from_npy_as_numpy_wrote_it(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("npy") / "w.npy"
    np.save(path, array)
    assert same(read(path)["tensor"], array)


def test_a_network_in_npz_is_measured(tmp_path, rng):
    W = rng.standard_normal((64, 64))
    np.savez(tmp_path / "m.npz", W=W, b=W[0])
    expected = specdiag.alpha({"W": W, "b": W[0]})
    np.testing.assert_array_equal(specdiag.alpha(tmp_path / "m.npz").alpha, expected.alpha)


def test_arrays_of_objects_are_listed_and_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    np.savez(tmp_path / "m.npz", bad=np.array([Trap()]), good=np.ones(3))
    (tmp_path / "executed").unlink(missing_ok=True)
    bad, good = open_checkpoint(tmp_path / "m.npz").tensors
    assert bad.problem.startswith("Python objects in a pickle, which is not read")
    with pytest.raises(ValueError, match="cannot be read"):
        bad.read()
    assert good.read().tolist() == [1, 1, 1]
    assert not (tmp_path / "executed").exists()


def npy(header, data=b"", version=1):
    text = header.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text + data


def header(descr="'<f4'", fortran="False", shape="(4,)"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


HOSTILE = {
    "only the magic": b"\x93NUMPY",
    "cut in the header": npy(header())[:30],
    "no data": npy(header()),
    "one byte too many": npy(header(), bytes(17)),
    "one byte missing": npy(header(), bytes(15)),
    "unknown version": npy(header(), bytes(16), version=9),
    "version 2 with the lengths of 1": npy(header(), bytes(16), version=2),
    "code in the header": npy("__import__('os').system('false')\n", bytes(16)),
    "code as the shape": npy(header(shape="(__import__('os').getpid(),)"), bytes(16)),
    "huge shape": npy(header(shape="(9223372036854775807, 9)"), bytes(16)),
    "shape beyond 64 bits": npy(header(shape="(99999999999999999999,)"), bytes(16)),
    "negative size": npy(header(shape="(-4,)"), bytes(16)),
    "a thousand axes": npy(header(shape=f"({'1, ' * 1000})"), bytes(4)),
    "deep nesting": npy(header(descr="[" * 4000), bytes(16)),
    "a bool of 2": npy(header(descr="'|b1'"), b"\1\2\0\1"),
    "unknown fields": npy("{'descr': '<f4', 'shape': (4,)}", bytes(16)),
}


@pytest.mark.parametrize("kind", ["npy", "npz"])
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_or_hostile_array_is_refused_in_one_line(data, kind, tmp_path):
    path = tmp_path / f"m.{kind}"
    path.write_bytes(data)
    if kind == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", data)
    with pytest.raises(ValueError, match=r"invalid|damaged|known version|bytes|dimension") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_mask_that_is_packed_tightly_is_read(tmp_path):
    mask = np.zeros((2000, 2000))
    np.savez_compressed(tmp_path / "m.npz", mask=mask)
    assert (tmp_path / "m.npz").stat().st_size < mask.nbytes / 500
    np.testing.assert_array_equal(read(tmp_path / "m.npz")["mask"], mask)


def test_an_array_that_grows_to_gigabytes_when_it_is_unpacked_is_refused(tmp_path):
    header_of_2_gib = npy(header(shape="(536870912,)"))
    with zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", header_of_2_gib + bytes(2**20))
    data = (tmp_path / "m.npz").read_bytes()
    announced = len(header_of_2_gib) + 2**31
    sizes = (struct.pack("<I", n) for n in (len(header_of_2_gib) + 2**20, announced))
    (tmp_path / "m.npz").write_bytes(data.replace(*sizes))
    with pytest.raises(ValueError, match="more than 20 times as many are read up to 67,108,864"):
        read(tmp_path / "m.npz")


def test_bfloat16_is_read_as_numpy_writes_it(tmp_path):
    values = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "m.npz", w=values, f8=values.astype(ml_dtypes.float8_e4m3fn))
    w, f8 = open_checkpoint(tmp_path / "m.npz").tensors
    assert w.dtype == "bfloat16"
    np.testing.assert_array_equal(w.read(), values)
    assert f8.problem == "dtype V1 is not supported"


def test_a_tree_of_flax_in_npz_gives_its_parameters_without_the_moments(tmp_path):
    target, moments = "opt/target/encoder/mlp/kernel", "opt/state/0/encoder/mlp/kernel/mu"
    np.savez(tmp_path / "m.npz", **{target: np.ones((3, 4)), moments: np.zeros((3, 4))})
    checkpoint = open_checkpoint(tmp_path / "m.npz")
    assert [t.name for t in checkpoint.tensors] == ["encoder.mlp.kernel"]
    assert checkpoint.notes == ("1 tensor under 'opt' is not part of the model",)


def test_names_with_slashes_that_are_no_tree_are_kept(tmp_path):
    np.savez(tmp_path / "m.npz", **{"a": np.ones(3), "a/b": np.ones(3)})
    assert [t.name for t in open_checkpoint(tmp_path / "m.npz").tensors] == ["a", "a/b"]


def zipped(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("m.pt2", zipped("m/archive_format", "m/models/model.json"), "a program of torch.export"),
        (
            "m.pt2",
            zipped("m/archive_format", "m/data/aotinductor/m/a.so"),
            "program of AOTInductor",
        ),
        (
            "m.pt",
            zipped("m/.data/extern_modules", "m/model/model.pkl"),
            "a package of torch.package",
        ),
        ("m.ts", zipped("m/data.pkl", "m/constants/0"), "a frozen TorchScript program"),
        ("m.zip", zipped("data", "policy.pth"), r"a zip archive of files \(policy.pth\)"),
        ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(9), "a TensorFlow Lite file"),
        ("graph.pb", b"\x08\x01\x12", "a TensorFlow graph by its name"),
        ("m.pte", b"\x18\0\0\0ET12" + bytes(9), "a program of ExecuTorch"),
        ("m.model", b"#Parameter# /lstm {2,2} 64", "a model of DyNet"),
        ("m.dat", b"\1\1\1\nloss_mmod_", "a network of dlib"),
        ("m.bin", b"\xba\x16\x4f\x2f" + bytes(9), "a model of fastText"),
        ("m.xml", b'<?xml version="1.0"?>\n<net name="m">', "a model of OpenVINO"),
        ("m.xml", b'<?xml version="1.0"?>\n<Error>', "an XML file, not a checkpoint"),
        ("m.pt", b"<!DOCTYPE html><html>", "a web page: download the file itself"),
        ("m.ckpt.data-00000-of-00001", b"0000", "a part of a TensorFlow checkpoint"),
    ],
)
def test_a_format_that_is_not_read_is_named_in_one_line(name, data, expected, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=expected) as error:
        open_checkpoint(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_torch_is_read_under_any_name(tmp_path):
    for name in ("m.onnx", "m.pb", "m.msgpack"):
        torch.save({"w": torch.ones(2)}, tmp_path / name)
        assert list(read(tmp_path / name)) == ["w"]


def test_emptied_weights_are_named_with_how_to_gather_them(tmp_path):
    empty = {"a.weight": np.empty(0), "a.bias": np.ones(3), "b.weight": np.empty(0)}
    (note,) = open_checkpoint(empty_file(tmp_path, empty)).notes
    assert note.startswith(
        "2 weights are empty ('a.weight', 'b.weight'), as in a file of DeepSpeed"
    )
    with pytest.raises(ValueError, match="none with two axes or more; 2 weights are empty"):
        specdiag.alpha(tmp_path / "m.safetensors")


def test_a_few_empty_weights_are_not_taken_for_those_of_deepspeed(tmp_path):
    few = {f"{name}.weight": np.ones((2, 2)) for name in "abc"} | {"d.weight": np.empty(0)}
    assert open_checkpoint(few).notes == ()
    assert open_checkpoint(empty_file(tmp_path, few)).notes == ("1 weight is empty ('d.weight')",)
    saved = {"module": {name: torch.tensor(W) for name, W in few.items()}, "ds_version": "0.15"}
    torch.save(saved, tmp_path / "m.pt")
    assert "zero_to_fp32.py" in open_checkpoint(tmp_path / "m.pt").notes[0]


def empty_file(folder, tensors):
    safetensors.numpy.save_file(tensors, folder / "m.safetensors")
    return folder / "m.safetensors"


@pytest.mark.parametrize("shape", [(), (2,)])
def test_arrays_in_a_pickle_are_named_where_they_may_be_the_weights(shape, tmp_path, rng):
    matrices = np.empty(shape, object)
    matrices.fill({"a": rng.standard_normal((60, 60))})
    np.save(tmp_path / "m.npy", matrices, allow_pickle=True)
    with pytest.raises(ValueError, match=r"none with two axes or more; not read: tensor \(Python"):
        specdiag.alpha(tmp_path / "m.npy")
    np.savez(tmp_path / "m.npz", w=rng.standard_normal((60, 60)), others=matrices)
    (note,) = open_weights(tmp_path / "m.npz").notes
    assert note.startswith("not read: others (Python objects in a pickle")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr':'<f8','fortran_order':False,'shape':(2,3)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2L, 3L), }",
    ],
)
def test_headers_of_other_writers_are_read_as_numpy_reads_them(header, tmp_path):
    text = header.encode().ljust(117) + b"\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + np.arange(6.0).tobytes()
    (tmp_path / "w.npy").write_bytes(data)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's of headers that Python 2 wrote
        expected = np.load(tmp_path / "w.npy")

    assert (open_checkpoint(tmp_path / "w.npy").tensors[0].read() == expected).all()


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_weight_without_a_shape_is_no_vector():
    module = torch.nn.Sequential(torch.nn.Linear(60, 60), torch.nn.LazyLinear(60))

    dataset = specdiag.alpha(module)

    assert dataset.status.sel(layer="1.weight") == "skipped"
    assert dataset.reason.sel(layer="1.weight") == "a parameter that is not initialised yet"


@pytest.mark.parametrize("value", [b"\x01\x00\xa0\x7f", b"\xff\xff\x7f\x7f"])
def test_signalling_nan_and_large_values_give_a_row_and_no_warning(value, rng, tmp_path):
    values = rng.standard_normal((60, 60)).astype("f4")
    values[3, 4:6] = np.frombuffer(2 * value, "f4")
    np.savez(tmp_path / "net.npz", a=values, **{"b.weight": values})

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = specdiag.alpha(tmp_path / "net.npz")

    assert (dataset.status != "skipped").all()
