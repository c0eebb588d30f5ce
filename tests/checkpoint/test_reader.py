"""Files of torch and safetensors are read bit for bit, without torch."""

import argparse
import collections
import enum
import functools
import io
import json
import pathlib
import pickle
import random
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from specdiag.checkpoint.reader import open_checkpoint
from support import corpus

CONTAINERS = {
    "zip": {},
    "legacy": {"_use_new_zipfile_serialization": False},
}


@pytest.fixture
def save(tmp_path):
    """Return a function that writes an object with torch.save and returns the path."""

    def write(value, name="file.pt", **options):
        torch.save(value, tmp_path / name, **options)
        return tmp_path / name

    return write


def read(source):
    return {t.name: t.read() for t in open_checkpoint(source).tensors}


def names(source):
    return [t.name for t in open_checkpoint(source).tensors]


def bits(tensor):
    """Return the bytes of a torch tensor."""
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1))
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def assert_same(arrays, expected):
    """Assert that arrays have the names, order, shapes and bits of the tensors of torch."""
    assert list(arrays) == list(expected)
    for name, tensor in expected.items():
        assert arrays[name].shape == tuple(tensor.shape)
        assert arrays[name].flags.c_contiguous
        assert arrays[name].tobytes() == bits(tensor)


def small_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


DTYPES = [
    *("float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_reads_as_torch_wrote_it(dtype, container, save):
    values = torch.tensor([[0, 1, 2], [4, 1, 8]]).to(torch.float32).to(getattr(torch, dtype))
    (tensor,) = open_checkpoint(save({"w": values}, **CONTAINERS[container])).tensors
    assert (tensor.dtype, tensor.shape) == (dtype, (2, 3))
    assert tensor.read().dtype.name == dtype
    assert tensor.read().tobytes() == bits(values)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "complex128"])
def test_every_dtype_reads_as_safetensors_wrote_it(dtype, tmp_path):
    values = torch.tensor([[0, 1, 2], [4, 1, 8]]).to(torch.float32).to(getattr(torch, dtype))
    safetensors.torch.save_file({"w": values}, tmp_path / "m.safetensors")
    (tensor,) = open_checkpoint(tmp_path / "m.safetensors").tensors
    assert tensor.read().dtype.name == tensor.dtype == dtype
    assert tensor.read().tobytes() == bits(values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_reads_from_memory(dtype):
    values = torch.tensor([[0, 1, 2], [4, 1, 8]]).to(torch.float32).to(getattr(torch, dtype))
    (tensor,) = open_checkpoint({"w": values}).tensors
    assert tensor.read().dtype.name == tensor.dtype == dtype
    assert tensor.read().tobytes() == bits(values)


def test_bfloat16_is_given_in_the_dtype_of_ml_dtypes(save):
    values = read(save({"w": torch.tensor([1.5], dtype=torch.bfloat16)}))["w"]
    assert values.dtype == ml_dtypes.bfloat16
    assert float(values[0]) == 1.5


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_pickle_protocol_is_read(protocol, container, save):
    state = small_model().state_dict()
    path = save({"state_dict": state}, pickle_protocol=protocol, **CONTAINERS[container])
    assert_same(read(path), state)


arrays = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=5),
    ),
    min_size=1,
    max_size=6,
).filter(lambda d: not any(k.startswith(("model.", "module.")) or "_orig_mod" in k for k in d))


@pytest.mark.parametrize("container", CONTAINERS)
@given(arrays)
@settings(max_examples=60)
def test_any_dict_of_arrays_is_the_same_in_a_torch_file(container, tmp_path_factory, state):
    path = tmp_path_factory.mktemp("torch") / "file.pt"
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    torch.save(tensors, path, **CONTAINERS[container])
    assert_same(read(path), tensors)


@given(arrays)
@settings(max_examples=60)
def test_any_dict_of_arrays_is_the_same_in_a_safetensors_file(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("safe") / "file.safetensors"
    state.pop("__metadata__", None)
    safetensors.numpy.save_file(state, path)
    back = read(path)
    assert back.keys() == state.keys()
    assert all(
        back[n].tobytes() == a.tobytes() and back[n].shape == a.shape for n, a in state.items()
    )


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_any_strided_view_reads_as_torch_sees_it(tmp_path_factory, shape, chance):
    tensor = torch.arange(np.prod(shape), dtype=torch.float32).reshape(shape)
    tensor = tensor.permute(chance.sample(range(len(shape)), len(shape)))
    for axis in range(tensor.ndim):
        tensor = tensor.narrow(axis, 0, chance.randint(1, tensor.shape[axis]))
    path = tmp_path_factory.mktemp("view") / "file.pt"
    torch.save({"w": tensor}, path)
    assert_same(read(path), {"w": tensor})


@pytest.mark.parametrize(
    "key", ["state_dict", "model_state_dict", "model", "module", "net", "params", "weights"]
)
def test_a_state_dict_is_found_under_its_usual_keys(key, save):
    state = small_model().state_dict()
    assert_same(read(save({"epoch": 3, key: state, "args": {"lr": 0.1}})), state)


def test_wrappers_inside_wrappers_are_opened(save):
    state = small_model().state_dict()
    assert_same(read(save({"model": {"state_dict": state}, "step": 1})), state)


def test_several_networks_keep_their_keys_and_the_optimizer_is_left_out(save):
    one, two = small_model(), small_model()
    optimizer = torch.optim.Adam(one.parameters())
    one(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    saved = {
        "generator": one.state_dict(),
        "discriminator": two.state_dict(),
        "opt_G": optimizer.state_dict(),
    }
    checkpoint = open_checkpoint(save(saved))
    expected = [f"{k}.{n}" for k in ("generator", "discriminator") for n in one.state_dict()]
    assert [t.name for t in checkpoint.tensors] == expected
    assert checkpoint.notes == ("12 tensors under 'opt_G' are not part of the model",)


def test_a_lightning_checkpoint_gives_the_model_and_its_hyper_parameters(save):
    model = small_model()
    saved = {
        "epoch": 4,
        "global_step": 1000,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}],
        "lr_schedulers": [{"last_epoch": 4}],
        "hyper_parameters": {"lr": 0.1, "sizes": (1, 2)},
    }
    checkpoint = open_checkpoint(save(saved, "last.ckpt"))
    assert checkpoint.name == "last"
    assert [t.name for t in checkpoint.tensors] == list(model.state_dict())
    assert checkpoint.metadata == {
        "epoch": 4,
        "global_step": 1000,
        "pytorch-lightning_version": "2.6.6",
        "hyper_parameters": {"lr": 0.1, "sizes": [1, 2]},
    }
    assert set(checkpoint.notes) == {
        "1 tensor under 'callbacks' is not part of the model",
        "1 tensor under 'optimizer_states' is not part of the model",
    }


@pytest.mark.parametrize(
    ("more", "walked", "notes"),
    [
        ({"ema": {"x": torch.ones(3)}}, [], ["1 tensor under 'ema' is not part of the model"]),
        ({"state": {"h": torch.ones(3)}}, ["state.h"], []),
        ({"params": {"temp": torch.ones(3)}}, ["params.temp"], []),
        ({"model": {"x": torch.ones(3)}}, ["model.x"], []),
        ({"rng_state": torch.ones(9)}, [], ["1 tensor under 'rng_state' is not part of the model"]),
        (
            {"optimizer": {"x": torch.ones(2)}},
            [],
            ["1 tensor under 'optimizer' is not part of the model"],
        ),
    ],
    ids=["ema", "state", "params", "model", "rng_state", "optimizer"],
)  # fmt: skip
def test_tensors_at_the_top_are_the_model_with_any_entries_beside_them(more, walked, notes, save):
    state = {"fc.weight": torch.ones(2, 2), "fc2.weight": torch.ones(2, 2), **more}
    checkpoint = open_checkpoint(save(state))
    assert [t.name for t in checkpoint.tensors] == ["fc.weight", "fc2.weight", *walked]
    assert list(checkpoint.notes) == notes


def test_a_number_beside_a_state_dict_is_not_a_network(save):
    state = small_model().state_dict()
    checkpoint = open_checkpoint(save({"state_dict": state, "best_acc1": torch.ones(1)}))
    assert [t.name for t in checkpoint.tensors] == list(state)
    assert checkpoint.notes == ("1 tensor under 'best_acc1' is not part of the model",)


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ({"ema": {"w": torch.ones(2)}, "optimizer": {"x": torch.ones(2)}}, ["w"]),
        ({"ema": {"w": torch.ones(2)}, "epoch": 1}, ["w"]),
        ({"ema": {"w": torch.ones(2)}, "generator": {"w": torch.ones(2)}}, ["generator.w"]),
    ],
    ids=["beside an optimizer", "alone", "beside a network"],
)
def test_averages_are_the_model_only_without_another_network(saved, expected, save):
    assert names(save(saved)) == expected


NETWORKS = [
    *("rng_encoder", "schedule_net", "optim_head", "decoder", "emanet", "callback_net"),
    *("amplifier", "scaler_net", "config_encoder", "args_net", "lr_head", "hparam_net"),
]


def test_networks_are_not_left_out_because_of_the_beginning_of_their_names(save):
    saved = {name: {"w": torch.ones(2)} for name in NETWORKS}
    checkpoint = open_checkpoint(save(saved))
    assert [t.name for t in checkpoint.tensors] == [f"{name}.w" for name in NETWORKS]
    assert checkpoint.notes == ()


ASIDE = [
    *("optimizer", "optimizers", "optimizer_states", "optimizer_state_dict", "optim", "opt"),
    *("optimizer_0", "Optimizer", "lr_schedulers", "scheduler", "lr_scheduler_state_dict"),
    *("scaler", "grad_scaler", "amp", "loops", "callbacks", "rng_state", "cuda_rng_state_all"),
    *("torch_rng", "numpy_rng_state", "random_state", "ema", "ema_state_dict", "model_ema"),
    *("hyper_parameters", "hparams", "cfg", "args", "config"),
]


@pytest.mark.parametrize("key", ASIDE)
def test_entries_beside_a_model_are_left_out_with_a_note(key, save):
    saved = {"model": {"w": torch.ones(2)}, key: [{"x": torch.ones(2), "y": torch.ones(3)}]}
    checkpoint = open_checkpoint(save(saved))
    assert [t.name for t in checkpoint.tensors] == ["w"]
    assert f"2 tensors under '{key}' are not part of the model" in checkpoint.notes


def test_a_loaded_checkpoint_gives_the_same_model_as_its_file(save):
    saved = {
        "state_dict": {"model.w": torch.ones(2)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}],
    }
    for source in (save(saved), saved):
        checkpoint = open_checkpoint(source)
        assert [t.name for t in checkpoint.tensors] == ["w"]
        assert "1 tensor under 'optimizer_states' is not part of the model" in checkpoint.notes


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.array([[True, False]]),
        np.array(1.5, dtype=np.float16),
        np.zeros((0, 3), dtype=np.complex64),
    ],
    ids=["C", "Fortran", "big-endian", "bool", "scalar", "empty"],
)
def test_numpy_arrays_in_a_torch_file_are_tensors(array, protocol, container, save):
    path = save({"a": array, "b": array}, pickle_protocol=protocol, **CONTAINERS[container])
    one, again = open_checkpoint(path).tensors
    assert one.identity == again.identity
    assert (one.shape, one.dtype) == (array.shape, array.dtype.name)
    values = one.read()
    assert values.flags.c_contiguous
    assert values.flags.writeable
    assert values.dtype.isnative
    np.testing.assert_array_equal(values, array)


def test_numpy_arrays_of_older_releases_are_read(tmp_path):
    array = np.arange(4.0)
    body = pickle.dumps(array, 2).replace(b"numpy._core", b"numpy.core")[2:-1]
    path = corpus.write(tmp_path, corpus.torch_zip(corpus.table(w=body)))
    np.testing.assert_array_equal(read(path)["w"], array)


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.array([None, 1]), "dtype object is not supported"),
        (np.array(["a"]), "dtype U1 is not supported"),
        (np.ma.array([1.0]), "an unsupported kind of NumPy array"),
    ],
    ids=["objects", "texts", "masked"],
)
def test_an_odd_numpy_array_is_listed_with_its_problem(array, problem, save):
    odd, good = open_checkpoint(save({"odd": array, "good": torch.ones(2)})).tensors
    assert (odd.problem, good.problem) == (problem, None)


def test_the_vocabularies_in_a_poyo_state_dict_are_kept_in_order(save):
    words = collections.OrderedDict((f"unit {i}", i) for i in (3, 1, 2))
    typed_words = collections.OrderedDict((np.str_(f"session {i}"), i) for i in (2, 1))
    state = collections.OrderedDict(
        {
            "model.unit_emb.weight": torch.ones(4, 2),
            "model.unit_emb.vocab": words,
            "model.session_emb.weight": torch.ones(3, 2),
            "model.session_emb.vocab": typed_words,
        }
    )
    checkpoint = open_checkpoint(save({"state_dict": state}))
    assert [t.name for t in checkpoint.tensors] == ["unit_emb.weight", "session_emb.weight"]
    assert list(checkpoint.metadata["unit_emb.vocab"].items()) == list(words.items())
    assert checkpoint.metadata["session_emb.vocab"] == {"session 2": 2, "session 1": 1}
    assert checkpoint.notes == ()


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_whole_pickled_module_gives_the_names_of_its_state_dict(container, save):
    model = torch.nn.TransformerEncoderLayer(8, 2, 16)
    model.register_buffer("scratch", torch.ones(2), persistent=False)
    assert_same(read(save(model, **CONTAINERS[container])), model.state_dict())


def test_a_module_beside_other_entries_is_found(save):
    model = small_model()
    assert_same(read(save({"model": model, "epoch": 1})), model.state_dict())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_read(tmp_path):
    model = small_model()
    torch.jit.script(model).save(tmp_path / "script.pt")
    values = read(tmp_path / "script.pt")
    assert values.keys() == model.state_dict().keys()
    assert all(values[k].tobytes() == bits(v) for k, v in model.state_dict().items())


def test_a_tensor_alone_is_read(save):
    assert_same(read(save(torch.ones(3))), {"tensor": torch.ones(3)})


def test_tensors_in_lists_are_numbered(save):
    assert names(save([torch.ones(1), {"a": torch.ones(1)}])) == ["0", "1.a"]


@pytest.mark.parametrize(
    ("given_names", "expected"),
    [
        (["module.a", "module.b"], ["a", "b"]),
        (["module.model.a", "module.model.b"], ["a", "b"]),
        (["_orig_mod.a", "_orig_mod.b"], ["a", "b"]),
        (["model._orig_mod.a.w", "model.b._orig_mod.w"], ["a.w", "b.w"]),
        (["model.a", "head.b"], ["model.a", "head.b"]),
        (["a._orig_mod.w", "a.w"], ["a._orig_mod.w", "a.w"]),
        (["module.", "module.a"], ["module.", "module.a"]),
        (["modular.a"], ["modular.a"]),
    ],
)
def test_prefixes_of_wrapper_modules_that_all_names_have_are_removed(given_names, expected):
    assert names({name: np.ones(1) for name in given_names}) == expected


def test_parameters_and_tensors_of_subclasses_are_tensors(save):
    class Marked(torch.Tensor):
        pass

    globals()["Marked"] = Marked
    Marked.__qualname__ = "Marked"
    parameter = torch.nn.Parameter(torch.ones(2))
    marked = torch.arange(3.0).as_subclass(Marked)
    path = save({"p": parameter, "m": marked})
    assert_same(read(path), {"p": parameter, "m": torch.arange(3.0)})


def test_parameters_with_attributes_are_tensors(save):
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = "kept by torch"
    assert_same(read(save({"p": parameter})), {"p": parameter})


@pytest.mark.parametrize("container", [*CONTAINERS, "memory"])
def test_tied_tensors_and_only_they_share_their_identity(container, save):
    weight = torch.arange(6.0).reshape(2, 3)
    state = {"a": weight, "b": weight, "t": weight.T, "row": weight[0], "other": weight.clone()}
    source = state if container == "memory" else save(state, **CONTAINERS[container])
    identities = {t.name: t.identity for t in open_checkpoint(source).tensors}
    assert identities["a"] == identities["b"]
    assert len({identities[name] for name in ("a", "t", "row", "other")} - {None}) == 4
    assert_same(read(source), state)


def test_conjugated_and_negated_views_give_their_values(save):
    wave = torch.tensor([1 + 2j, 3 - 4j])
    scalar = torch.tensor(1 + 2j)
    state = {"c": wave.conj(), "n": (2 * wave).conj().imag, "s": scalar.conj()}
    assert_same(read(save(state)), state)
    assert_same(read(state), state)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", ["zip", "memory"])
@pytest.mark.parametrize(
    ("make", "problem", "shape"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse tensor", (3, 3)),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse tensor", (3, 3)),
        (lambda: torch.ones(3, device="meta"), "meta tensor", (3,)),
        (lambda: torch.ones(3).expand(5, 3), "expanded (stride 0)", (5, 3)),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested", ()),
        (lambda: torch.ones(3, dtype=torch.complex32), "dtype complex32", (3,)),
        (
            lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            "quantised tensor",
            (3,),
        ),
    ],
    ids=["sparse", "csr", "meta", "expanded", "nested", "complex32", "quantised"],
)
def test_a_tensor_of_an_unsupported_kind_is_listed_with_its_problem(
    make, problem, shape, where, save
):
    state = {"odd": make(), "good": torch.ones(2)}
    odd, good = open_checkpoint(state if where == "memory" else save(state)).tensors
    assert problem in odd.problem
    assert odd.shape == shape
    assert good.problem is None
    with pytest.raises(ValueError, match="cannot be read"):
        odd.read()


def test_nan_and_empty_tensors_are_read_like_any_other(save):
    state = {"nan": torch.full((2,), torch.nan), "empty": torch.ones(0, 3)}
    assert_same(read(save(state)), state)


def test_an_archive_without_checksums_is_read(tmp_path, save):
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save({"w": torch.ones(2)})
    finally:
        torch.serialization.set_crc32_options(computed)
    assert_same(read(path), {"w": torch.ones(2)})


class Colour(enum.Enum):
    RED = 1


class DictConfig:
    """A class that the reader does not know, such as those of OmegaConf."""

    def __init__(self, content):
        self.content = content


def test_foreign_objects_in_hyper_parameters_are_named_and_the_tensors_read(save):
    hyper = {
        "float": np.float64(0.5),
        "half": np.float16(0.5),
        "int": np.int32(-7),
        "bool": np.bool_(True),
        "text": np.str_("a\u00e9"),
        "namespace": argparse.Namespace(lr=0.1),
        "set": {1},
        "infinite": float("inf"),
        "path": pathlib.PurePosixPath("/data/runs"),
        "size": torch.Size([2, 3]),
        "config": DictConfig({"a": 1}),
        "colour": Colour.RED,
        "partial": functools.partial(max, 1),
        "class": torch.nn.Linear,
        "rng": random.Random(0).getstate()[0],
        "numpy rng": np.random.RandomState(0).get_state(),
        "tensor": torch.ones(2),
        "bytes": b"abc",
        1: "number as key",
        None: "none as key",
    }
    path = save({"state_dict": {"w": torch.ones(2)}, "hyper_parameters": hyper})
    checkpoint = open_checkpoint(path)
    metadata = checkpoint.metadata["hyper_parameters"]
    assert json.loads(json.dumps(metadata, allow_nan=False)) == metadata
    plain = {key: metadata[key] for key in list(metadata)[:8]}
    assert plain == {
        "float": 0.5,
        "half": 0.5,
        "int": -7,
        "bool": True,
        "text": "a\u00e9",
        "namespace": {"lr": 0.1},
        "set": [1],
        "infinite": "inf",
    }
    assert metadata["config"] == f"<{__name__}.DictConfig>"
    assert metadata["class"] == "<torch.nn.modules.linear.Linear>"
    assert metadata["1"] == "number as key"
    (note,) = [n for n in checkpoint.notes if "not rebuilt" in n]
    assert note.startswith("hyper_parameters holds objects that were not rebuilt: ")
    assert f"{__name__}.DictConfig (1)" in note


def test_metadata_beyond_the_budget_are_cut():
    checkpoint = open_checkpoint({"w": np.ones(1), "big": list(range(600_000))})
    assert len(checkpoint.metadata["big"]) < 550_000
    assert "too large" in checkpoint.notes[0]


@pytest.fixture
def sharded(tmp_path):
    """Return a folder with two shards and their index."""
    a, b = np.arange(4.0), np.arange(3)
    safetensors.numpy.save_file({"model.a": a}, tmp_path / "one.safetensors")
    safetensors.numpy.save_file({"model.b": b}, tmp_path / "two.safetensors")
    index = {
        "metadata": {"total_size": 56},
        "weight_map": {"model.a": "one.safetensors", "model.b": "two.safetensors"},
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


@pytest.mark.parametrize("file", ["", "model.safetensors.index.json"])
def test_a_sharded_checkpoint_is_read_through_its_index(file, sharded):
    checkpoint = open_checkpoint(sharded / file)
    assert [t.name for t in checkpoint.tensors] == ["a", "b"]
    assert checkpoint.tensors[1].read().tolist() == [0, 1, 2]
    assert checkpoint.metadata == {"total_size": 56}


def test_a_sharded_torch_checkpoint_is_read_through_its_index(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-1.bin")
    torch.save({"b": torch.zeros(2)}, tmp_path / "pytorch_model-2.bin")
    index = {"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert_same(read(tmp_path), {"a": torch.ones(2), "b": torch.zeros(2)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": "one.safetensors"}, "'extra' is not in 'one.safetensors'"),
        ({"model.a": "two.safetensors"}, "'model.a' is not in 'two.safetensors'"),
        ({"model.b": "gone.safetensors"}, "'gone.safetensors' is missing"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(change, message, sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= change
    path.write_text(json.dumps(index))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_checkpoint(path)


def test_a_key_in_two_shards_is_refused(sharded):
    safetensors.numpy.save_file(
        {"model.a": np.ones(4), "model.b": np.ones(3)}, sharded / "two.safetensors"
    )
    with pytest.raises(ValueError, match=r"'model.a' is also in 'two.safetensors'"):
        open_checkpoint(sharded)


def test_a_tensor_that_the_index_does_not_list_is_left_out_with_a_note(sharded):
    safetensors.numpy.save_file(
        {"model.b": np.ones(1), "model.c": np.ones(1)}, sharded / "two.safetensors"
    )
    checkpoint = open_checkpoint(sharded)
    assert [t.name for t in checkpoint.tensors] == ["a", "b"]
    assert checkpoint.notes == (
        "1 tensor in 'two.safetensors' left out: the index does not list 'model.c'",
    )


def test_in_a_folder_safetensors_come_first_and_training_states_are_ignored(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    safetensors.numpy.save_file({"a": np.ones(2)}, folder / "model.safetensors")
    torch.save({"b": torch.ones(2)}, folder / "pytorch_model.bin")
    torch.save({"c": torch.ones(2)}, folder / "optimizer.pt")
    checkpoint = open_checkpoint(folder)
    assert [t.name for t in checkpoint.tensors] == ["a"]
    assert (checkpoint.name, checkpoint.path) == ("run", folder)


def test_a_folder_with_several_checkpoints_lists_them(tmp_path):
    for name in ("a.ckpt", "b.ckpt"):
        torch.save({"w": torch.ones(2)}, tmp_path / name)
    with pytest.raises(ValueError, match=r"2 checkpoints in the folder \(a\.ckpt, b\.ckpt\)"):
        open_checkpoint(tmp_path)


def test_a_folder_named_like_a_checkpoint_is_ignored(tmp_path):
    (tmp_path / "a.ckpt").mkdir()
    torch.save({"w": torch.ones(2)}, tmp_path / "b.ckpt")
    assert names(tmp_path) == ["w"]


def test_a_folder_without_a_checkpoint_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in the folder"):
        open_checkpoint(tmp_path)


def test_a_module_in_memory_gives_its_state_dict():
    model = small_model()
    checkpoint = open_checkpoint(model)
    assert (checkpoint.name, checkpoint.path) == ("model", None)
    assert_same(read(model), model.state_dict())


def test_modules_in_a_dict_keep_their_keys():
    modules = {"one": torch.nn.Linear(1, 1), "two": torch.nn.Linear(1, 1)}
    assert names(modules) == ["one.weight", "one.bias", "two.weight", "two.bias"]


def test_arrays_in_memory_are_read():
    array = np.arange(6.0).reshape(2, 3)
    swapped = array.astype(">f4")
    checkpoint = open_checkpoint({"a": array, "b": array, "t": array.T, "s": swapped, "n": 3})
    one, again, turned, copy = (t.identity for t in checkpoint.tensors)
    assert one == again
    assert len({one, turned, copy} - {None}) == 3
    assert [t.read().dtype.str for t in checkpoint.tensors] == ["<f8", "<f8", "<f8", "<f4"]
    np.testing.assert_array_equal(checkpoint.tensors[2].read(), array.T)
    np.testing.assert_array_equal(checkpoint.tensors[3].read(), array)
    assert checkpoint.metadata == {"n": 3}


def test_changing_values_that_were_read_does_not_change_the_model():
    model = small_model()
    open_checkpoint(model).tensors[0].read()[:] = 7
    assert not (model[0].weight == 7).any()


def test_an_array_of_objects_is_listed_with_its_problem():
    (tensor,) = open_checkpoint({"a": np.array([None])}).tensors
    assert tensor.problem == "dtype object is not supported"


def test_a_checkpoint_is_returned_unchanged(save):
    checkpoint = open_checkpoint(save({"w": torch.ones(2)}))
    assert open_checkpoint(checkpoint) is checkpoint


def test_a_source_of_another_type_is_a_type_error():
    with pytest.raises(TypeError) as error:
        open_checkpoint(3)
    assert str(error.value) == ("expected a path, state dict, module or array, not int")


def test_an_empty_name_is_not_the_current_folder():
    with pytest.raises(ValueError, match="the name of the checkpoint is empty"):
        open_checkpoint("")


@pytest.mark.parametrize("kind", ["safetensors", "torch zip", "legacy"])
def test_reading_a_file_imports_neither_torch_nor_scipy(kind, tmp_path):
    path = corpus.write(tmp_path, corpus.honest_files()[kind])
    code = (
        "import sys; from specdiag.checkpoint.reader import open_checkpoint\n"
        f"[t.read() for t in open_checkpoint({str(path)!r}).tensors]\n"
        "print(sorted({'torch', 'scipy', 'safetensors', 'ml_dtypes', 'pickle'} & set(sys.modules)))"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.strip("[]\n").split(", ")) <= {"", "'pickle'"}


def test_a_tensor_is_read_alone(tmp_path):
    """The peak of the memory is far below the size of the file."""
    path = tmp_path / "many.pt"
    torch.save({f"w{i}": torch.ones(2**18) for i in range(32)}, path)
    code = (
        "import tracemalloc; from specdiag.checkpoint.reader import open_checkpoint\n"
        f"c = open_checkpoint({str(path)!r}); tracemalloc.start()\n"
        "for t in c.tensors: t.read()\n"
        "print(tracemalloc.get_traced_memory()[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3 * 2**20


def test_a_traced_module_of_fx_has_the_names_of_its_own_parts(tmp_path):
    traced = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()))
    torch.save(traced, tmp_path / "m.pt")
    checkpoint = open_checkpoint(tmp_path / "m.pt")
    assert [t.name for t in checkpoint.tensors] == ["0.weight", "0.bias"]
    assert checkpoint.notes == ()
    assert checkpoint.tensors[0].role == "linear"


def test_entries_with_the_same_objects_have_one_note(tmp_path):
    extra = {f"layer{i}.state": io.BytesIO(b"x") for i in range(9)}
    torch.save({"w": torch.ones(2, 2)} | extra, tmp_path / "m.pt")
    (note,) = open_checkpoint(tmp_path / "m.pt").notes
    assert note == (
        "layer0.state, layer1.state, layer2.state, layer3.state and 5 more each hold objects that "
        "were not rebuilt: _io.BytesIO (1)"
    )
