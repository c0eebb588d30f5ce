"""An export holds the whole checkpoint, bit for bit, and is written completely or not at all."""

import collections
import hashlib
import json
import os
import re
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import specdiag
from specdiag.checkpoint.export import export
from specdiag.checkpoint.reader import open_checkpoint, tensor_digest
from specdiag.cli.main import cli
from support import corpus, kills
from support.paths import ROOT

SAFE_DTYPES = [
    *("float64", "float32", "float16", "bfloat16", "complex64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
]


def contents(source):
    """Return the whole content of a checkpoint, without its path."""
    checkpoint = open_checkpoint(source)
    first = {}
    return {
        "tensors": [(t.name, t.dtype, t.shape, t.read().tobytes()) for t in checkpoint.tensors],
        "ties": [
            first.setdefault(t.identity, t.name) if t.identity else t.name
            for t in checkpoint.tensors
        ],
        "metadata": checkpoint.metadata,
        "order": json.dumps(checkpoint.metadata),
        "notes": checkpoint.notes,
    }


def assert_round_trip(source, folder):
    """Assert that an export is the same checkpoint, and that its own export has the same bytes."""
    digest = export(source, folder / "out.safetensors")
    assert contents(folder / "out.safetensors") == contents(source)
    assert digest == tensor_digest(folder / "out.safetensors") == tensor_digest(source)
    assert export(folder / "out.safetensors", folder / "again.safetensors") == digest
    for kind in ("safetensors", "json"):
        assert (folder / f"out.{kind}").read_bytes() == (folder / f"again.{kind}").read_bytes()


def poyo_like(seed=0):
    """Return a Lightning checkpoint like those of POYO, with vocabularies in the state dict."""
    generator = torch.Generator().manual_seed(seed)
    words = collections.OrderedDict((f"monkey/{i} \u03b1", i) for i in (3, 0, 2, 1))
    return {
        "epoch": 7 + seed,
        "state_dict": collections.OrderedDict(
            {
                "model.unit_emb.weight": torch.randn(4, 3, generator=generator),
                "model.unit_emb.vocab": words,
                "model.session_emb.weight": torch.randn(2, 3, generator=generator),
                "model.session_emb.vocab": collections.OrderedDict({np.str_("s"): 1, "NA": 0}),
                "model.readout.weight": torch.randn(2, 3, generator=generator).bfloat16(),
                "model.steps": torch.tensor(9),
            }
        ),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}],
        "hyper_parameters": {"model": {"dim": 3, "sizes": (1, 2)}, "odd": Odd(), "inf": np.inf},
    }


class Odd:
    """A class that the reader does not know."""


@pytest.fixture
def ckpt(tmp_path):
    """Return the path of `poyo_like` as a .ckpt."""
    torch.save(poyo_like(), tmp_path / "base.ckpt")
    return tmp_path / "base.ckpt"


def test_a_checkpoint_like_poyos_is_the_same_after_export(ckpt, tmp_path):
    assert_round_trip(ckpt, tmp_path)
    exported = open_checkpoint(tmp_path / "out.safetensors")
    assert [t.name for t in exported.tensors] == [
        *("unit_emb.weight", "session_emb.weight", "readout.weight", "steps"),
    ]
    assert list(exported.metadata["unit_emb.vocab"].items()) == [
        *(("monkey/3 \u03b1", 3), ("monkey/0 \u03b1", 0)),
        *(("monkey/2 \u03b1", 2), ("monkey/1 \u03b1", 1)),
    ]
    assert exported.metadata["hyper_parameters"] == {
        "model": {"dim": 3, "sizes": [1, 2]},
        "odd": f"<{__name__}.Odd>",
        "inf": "inf",
    }
    assert exported.notes == (
        "1 tensor under 'optimizer_states' is not part of the model",
        f"hyper_parameters holds objects that were not rebuilt: {__name__}.Odd (1)",
    )


def test_the_json_has_the_same_content_as_the_safetensors_file(ckpt, tmp_path):
    digest = export(ckpt, tmp_path / "out.safetensors")
    with safetensors.safe_open(tmp_path / "out.safetensors", "np") as file:
        assert list(file.metadata()) == ["specdiag_export"]
        record = json.loads(file.metadata()["specdiag_export"])
    text = (tmp_path / "out.json").read_text()
    assert json.loads(text) == record
    assert text == json.dumps(record, ensure_ascii=False, indent=1) + "\n"
    assert list(record) == ["version", "tensor_digest", "sha256", "tied", "metadata", "notes"]
    assert record["tensor_digest"] == digest


@pytest.mark.parametrize("dtype", SAFE_DTYPES)
def test_every_dtype_keeps_its_bits(dtype, tmp_path, rng):
    size = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    low_bits = 1 if dtype == "bool" else 255
    pattern = torch.from_numpy(rng.integers(0, low_bits, (5, 3 * size), np.uint8, endpoint=True))
    values = pattern.view(getattr(torch, dtype))  # NaNs with payloads among them
    torch.save({"w": values, "nothing": values[:0], "scalar": values[0, 0]}, tmp_path / "a.pt")
    assert_round_trip(tmp_path / "a.pt", tmp_path)
    loaded = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert loaded["w"].dtype == values.dtype
    assert loaded["w"].view(torch.uint8).equal(pattern)
    assert loaded["nothing"].shape == (0, 3)
    assert loaded["scalar"].shape == ()


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int16, np.uint8, np.bool_, np.complex64]
ARRAYS = hnp.arrays(
    st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3)
)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=6), st.dictionaries(NAMES, PLAIN))
@settings(max_examples=60)
def test_any_names_arrays_and_plain_values_are_the_same_after_export(
    tmp_path_factory, arrays, plain
):
    folder = tmp_path_factory.mktemp("any")
    arrays.pop("__metadata__", None)
    source = arrays | {k: v for k, v in plain.items() if k not in arrays} | {"w": np.ones(1)}
    assert_round_trip(source, folder)
    assert_as_the_package_writes(folder / "out.safetensors")


def assert_as_the_package_writes(path):
    """Assert that the safetensors package reads the file, and writes the same bytes."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert safetensors.torch.save(safetensors.torch.load_file(path), metadata) == path.read_bytes()


def test_the_bytes_are_those_of_the_safetensors_package(tmp_path):
    state = {
        f"{n} {dtype}": torch.ones(n).to(getattr(torch, dtype))
        for n in (0, 1, 3)
        for dtype in reversed(SAFE_DTYPES)
    }
    export(state, tmp_path / "out.safetensors")
    assert_as_the_package_writes(tmp_path / "out.safetensors")


LARGE = {"laughing metadata", "tuples nested 200,000 deep", "objects nested 100,000 deep"}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind in LARGE)) for kind in corpus.ODD],
)
def test_odd_files_are_the_same_after_export(kind, tmp_path):
    path = corpus.write(tmp_path, corpus.ODD[kind])
    assert_round_trip(path, tmp_path)


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"b": weight, "a": weight, "t": weight.T, "c": weight.clone()}, tmp_path / "t.pt")
    assert_round_trip(tmp_path / "t.pt", tmp_path)
    assert json.loads((tmp_path / "out.json").read_text())["tied"] == {"a": "b"}
    assert list(safetensors.torch.load_file(tmp_path / "out.safetensors")) == ["b", "c", "t"]
    b, a, _, c = open_checkpoint(tmp_path / "out.safetensors").tensors
    assert b.identity == a.identity != c.identity
    assert a.read().tobytes() == b.read().tobytes() == weight.numpy().tobytes()


def test_a_prefix_is_not_stripped_twice(tmp_path):
    source = {"_orig_mod.model.a": np.ones(1), "model.b": np.ones(2)}
    assert [t.name for t in open_checkpoint(source).tensors] == ["model.a", "model.b"]
    assert_round_trip(source, tmp_path)


def test_a_sharded_checkpoint_and_a_folder_become_one_file(tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    for name, shard in {"model.a": "one.bin", "model.b": "two.bin"}.items():
        torch.save({name: torch.ones(2)}, folder / shard)
    index = {"metadata": {"k": 1}, "weight_map": {"model.a": "one.bin", "model.b": "two.bin"}}
    (folder / "model.bin.index.json").write_text(json.dumps(index))
    assert_round_trip(folder, tmp_path)


def test_an_export_is_measured_like_its_original(tmp_path, rng):
    state = {f"model.{n}.weight": rng.standard_normal((90, 60)) for n in ("10", "9")}
    torch.save(
        {"state_dict": {k: torch.from_numpy(v) for k, v in state.items()}}, tmp_path / "n.ckpt"
    )
    export(tmp_path / "n.ckpt", tmp_path / "n.safetensors")
    one, two = (
        specdiag.alpha(tmp_path / f"n.{kind}", gof=False) for kind in ("ckpt", "safetensors")
    )
    assert one.identical(two.assign_attrs(one.attrs))


@pytest.mark.realdata
def test_a_trained_network_is_the_same_after_export(minilm, tmp_path):
    assert_round_trip(minilm, tmp_path)


def test_a_file_is_exported_one_tensor_at_a_time(tmp_path):
    """The peak of the memory is far below the size of the file."""
    torch.save({f"w{i}": torch.ones(2**18) for i in range(32)}, tmp_path / "many.pt")
    code = (
        "import sys, tracemalloc; from specdiag.checkpoint.export import export\n"
        "tracemalloc.start()\n"
        "export('many.pt', 'out.safetensors'); print(tracemalloc.get_traced_memory()[1])\n"
        "assert not {'torch', 'safetensors', 'scipy', 'ml_dtypes'} & set(sys.modules)"
    )
    done = run_python(code, tmp_path)
    assert int(done.stdout) < 4 * 2**20
    assert (tmp_path / "out.safetensors").stat().st_size > 32 * 2**20


def run_python(code, folder, check=True):
    """Run code with this specdiag in another process, in the given folder."""
    environment = os.environ | {"PYTHONPATH": str(Path(specdiag.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder, env=environment, capture_output=True, text=True, check=check,
    )  # fmt: skip


def test_the_digest_is_that_of_its_definition():
    state = {"b": np.arange(2, dtype="<i2"), "\u00e9": np.ones((), ml_dtypes.bfloat16)}
    rows = json.dumps(
        [
            ["b", "int16", [2], hashlib.sha256(b"\0\0\1\0").hexdigest()],
            ["\u00e9", "bfloat16", [], hashlib.sha256(b"\x80\x3f").hexdigest()],
        ],
        separators=(",", ":"),
    )
    assert tensor_digest(state) == hashlib.sha256(rows.encode("ascii")).hexdigest()


def test_the_digest_is_the_same_in_every_container(tmp_path):
    state = poyo_like()["state_dict"]
    tensors = {k.removeprefix("model."): v for k, v in state.items() if torch.is_tensor(v)}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    torch.save(
        dict(reversed(state.items())), tmp_path / "b.pt", _use_new_zipfile_serialization=False
    )
    safetensors.torch.save_file(tensors, tmp_path / "c.safetensors")
    export(tmp_path / "a.ckpt", tmp_path / "d.safetensors")
    sources = [*(tmp_path / n for n in ("a.ckpt", "b.pt", "c.safetensors", "d.safetensors")), state]
    assert len({specdiag.tensor_digest(source) for source in sources}) == 1


CHANGES = {
    "a bit": {"w": np.array([[1, 2], [3, 5]], "f4"), "b": np.zeros(2, "f4")},
    "the sign of a zero": {"w": np.array([[1, 2], [3, 4]], "f4"), "b": np.array([0, -0.0], "f4")},
    "a name": {"w": np.array([[1, 2], [3, 4]], "f4"), "c": np.zeros(2, "f4")},
    "a dtype": {"w": np.array([[1, 2], [3, 4]], "f4"), "b": np.zeros(2, "i4")},
    "a shape": {"w": np.array([1, 2, 3, 4], "f4"), "b": np.zeros(2, "f4")},
    "a tensor more": {
        "w": np.array([[1, 2], [3, 4]], "f4"), "b": np.zeros(2, "f4"), "e": np.zeros(0)
    },
    "a tensor less": {"w": np.array([[1, 2], [3, 4]], "f4")},
    "names exchanged": {"b": np.array([[1, 2], [3, 4]], "f4"), "w": np.zeros(2, "f4")},
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_the_digest_changes_with_every_property_of_the_tensors(change):
    base = {"w": np.array([[1, 2], [3, 4]], "f4"), "b": np.zeros(2, "f4")}
    assert tensor_digest(CHANGES[change]) != tensor_digest(base)


def assert_refused(source, folder, message, error=ValueError):
    """Assert that exporting raises exactly this error and writes nothing."""
    before = sorted(folder.iterdir())
    with pytest.raises(error) as caught:
        export(source, folder / "out.safetensors")
    assert str(caught.value) == message
    assert sorted(folder.iterdir()) == before


def cannot(number, of, listed):
    return (
        f"model: {number} of {of} tensors cannot be exported: {listed}; "
        "an export must hold all of them"
    )


NO_JSON = "model: its metadata cannot be written as JSON: "
WIDE = np.ones(1, "complex128")
REFUSED = {
    "a sparse tensor": (
        lambda: {"good": torch.ones(2), "odd": torch.eye(2).to_sparse()},
        cannot(1, 2, "'odd' (sparse tensor)"),
    ),
    "an expanded and a complex tensor": (
        lambda: {"e": torch.ones(1).expand(3), "c": WIDE},
        cannot(2, 2, "'e' (expanded (stride 0)), 'c' (the format has no complex128)"),
    ),
    "seven complex tensors": (
        lambda: {f"c{i}": WIDE for i in range(7)},
        cannot(
            7,
            7,
            ", ".join(f"'c{i}' (the format has no complex128)" for i in range(5)) + " and 2 more",
        ),
    ),
    "the format's own name": (
        lambda: {"__metadata__": np.ones(1)},
        cannot(1, 1, "'__metadata__' (the format reserves this name)"),
    ),
    "half of a surrogate pair as a name": (
        lambda: {"\ud800": np.ones(1)},
        cannot(1, 1, "'\\ud800' (its name is not valid Unicode)"),
    ),
    "half of a surrogate pair in the metadata": (
        lambda: {"w": np.ones(1), "x": ["\ud800"]},
        NO_JSON + "a text is not valid Unicode",
    ),
    "more values than a reader takes": (
        lambda: {"w": np.ones(1), "x": "," * 3_000_000},
        NO_JSON + "model: more than 2,000,000 values",
    ),
    "no tensors": (lambda: {"x": 1}, "model: there are no tensors to export"),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_checkpoint_that_cannot_be_exported_is_refused_as_a_whole(kind, tmp_path):
    make, message = REFUSED[kind]
    assert_refused(make(), tmp_path, message)


@pytest.mark.parametrize("kind", corpus.UNREADABLE)
def test_a_tensor_that_cannot_be_read_is_not_exported(kind, tmp_path):
    data, problem = corpus.UNREADABLE[kind]
    path = corpus.write(tmp_path, data)
    message = f"(?s)file.pt: 1 of 1 tensors cannot be exported: 'w' .*{re.escape(problem)}"
    with pytest.raises(ValueError, match=message):
        export(path, tmp_path / "out.safetensors")
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("kind", corpus.BAD_VALUES)
def test_damaged_values_are_not_exported(kind, tmp_path):
    data, reason = corpus.BAD_VALUES[kind]
    path = corpus.write(tmp_path, data)
    with pytest.raises(ValueError, match=f"^'w': file.pt: .*{re.escape(reason)}") as caught:
        export(path, tmp_path / "out.safetensors")
    assert len(str(caught.value).splitlines()) == 1
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("kind", corpus.REFUSED)
def test_a_broken_file_is_not_exported(kind, tmp_path):
    path = corpus.write(tmp_path, corpus.REFUSED[kind][0])
    with pytest.raises((ValueError, FileNotFoundError)) as opened:
        open_checkpoint(path)
    with pytest.raises(type(opened.value)) as exported:
        export(path, tmp_path / "out.safetensors")
    assert str(exported.value) == str(opened.value)
    assert [*tmp_path.iterdir()] == [path]


def test_a_file_that_changes_before_its_export_is_not_exported(ckpt, tmp_path):
    checkpoint = open_checkpoint(ckpt)
    ckpt.write_bytes(ckpt.read_bytes() + b"x")
    message = "'steps': base.ckpt: changed since it was opened; open it again"
    assert_refused(checkpoint, tmp_path, message)


@pytest.mark.parametrize("existing", ["out.safetensors", "out.json"])
def test_an_existing_file_is_replaced_only_on_demand(existing, ckpt, tmp_path):
    (tmp_path / existing).write_text("mine")
    assert_refused(
        ckpt,
        tmp_path,
        f"{tmp_path / existing} exists; choose another name, or replace it "
        "(--force, overwrite=True)",
        FileExistsError,
    )
    assert (tmp_path / existing).read_text() == "mine"
    export(ckpt, tmp_path / "out.safetensors", overwrite=True)
    assert contents(tmp_path / "out.safetensors") == contents(ckpt)


def test_another_extension_is_refused(ckpt, tmp_path):
    for name in ("out.pt", "out", ".safetensors"):
        message = f"{tmp_path / name}: the name must end in .safetensors"
        with pytest.raises(ValueError) as caught:
            export(ckpt, tmp_path / name)
        assert str(caught.value) == message


def test_a_missing_folder_is_not_created(ckpt, tmp_path):
    target = tmp_path / "new" / "out.safetensors"
    with pytest.raises(FileNotFoundError) as caught:
        export(ckpt, target)
    assert str(caught.value) == f"{target}: there is no folder {tmp_path / 'new'}; make it first"


@pytest.mark.parametrize("name", ["out.safetensors", "out.json"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda p: p.symlink_to("base.ckpt")])
def test_only_a_regular_file_is_replaced(make, name, ckpt, tmp_path):
    make(tmp_path / name)
    with pytest.raises(ValueError) as caught:
        export(ckpt, tmp_path / "out.safetensors", overwrite=True)
    expected = f"{tmp_path / name} is not a regular file; choose another name"
    assert str(caught.value) == expected


def is_part(path):
    return f"{path} is part of the checkpoint to export; choose another name"


@pytest.mark.parametrize("twin", ["in.safetensors", "twin.safetensors"])
def test_a_checkpoint_is_not_exported_over_itself(twin, tmp_path):
    safetensors.numpy.save_file({"w": np.ones(2)}, tmp_path / "in.safetensors")
    if twin != "in.safetensors":
        (tmp_path / twin).hardlink_to(tmp_path / "in.safetensors")
    with pytest.raises(ValueError) as caught:
        export(tmp_path / "in.safetensors", tmp_path / twin, overwrite=True)
    assert str(caught.value) == is_part(tmp_path / twin)


@pytest.mark.parametrize("opened", ["", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("target", "hit"),
    [
        ("one.safetensors", "one.safetensors"),
        ("model.safetensors.index.safetensors", "model.safetensors.index.json"),
    ],
    ids=["a shard", "the index"],
)
def test_no_part_of_a_sharded_checkpoint_is_replaced(opened, target, hit, tmp_path):
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "one.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "one.safetensors"}}')
    with pytest.raises(ValueError) as caught:
        export(tmp_path / opened, tmp_path / target, overwrite=True)
    assert str(caught.value) == is_part(tmp_path / hit)


def export_and_die(folder, line):
    """Export in another process, which kills itself at this line; return what `kills` returns."""
    arguments = ("export", "new.ckpt", "out.safetensors", "--force")
    return kills.specdiag(folder, *arguments, die_at=line)


@pytest.mark.parametrize("there", ["nothing", "an export"])
def test_a_process_that_is_killed_leaves_the_old_export_or_the_new_one(there, tmp_path):
    torch.save(poyo_like(0), tmp_path / "old.ckpt")
    torch.save(poyo_like(1), tmp_path / "new.ckpt")
    old, new = contents(tmp_path / "old.ckpt"), contents(tmp_path / "new.ckpt")

    def state_after(line):
        folder = tmp_path / str(line)
        folder.mkdir()
        (folder / "new.ckpt").hardlink_to(tmp_path / "new.ckpt")
        if there == "an export":
            export(tmp_path / "old.ckpt", folder / "out.safetensors")
        return *export_and_die(folder, line), whole_state(folder)

    code, n_lines, state = state_after(0)
    assert (code, state) == (0, (new, True))
    states = []
    # The last lines are the important ones: there the files get their names.
    for line in [*range(1, n_lines - 60, n_lines // 4), *range(n_lines - 45, n_lines + 1, 3)]:
        code, _, state = state_after(line)
        assert code == -9, f"line {line} of {n_lines}"
        states.append(state)
    before = (old, True) if there == "an export" else None
    assert states[0] == before
    assert states[-1] == (new, True)
    assert (new, False) in states
    assert all(state in (before, (old, False), (new, False), (new, True)) for state in states)


def whole_state(folder):
    """Return the content of the safetensors file and whether it has its JSON; None without both."""
    safe, side = folder / "out.safetensors", folder / "out.json"
    if not safe.exists():
        assert not side.exists()
        return None
    if side.exists():
        with safetensors.safe_open(safe, "np") as file:
            assert json.loads(side.read_text()) == json.loads(file.metadata()["specdiag_export"])
    return contents(safe), side.exists()


FULL_DISK = """
import resource
from specdiag.checkpoint.export import export
resource.setrlimit(resource.RLIMIT_FSIZE, (AT_MOST, AT_MOST))
try:
    export("base.ckpt", "out.safetensors", overwrite=True)
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 1000, 40_000, 100_000])
def test_a_full_disk_leaves_the_old_files(limit, ckpt, tmp_path):
    # 58,000 bytes of safetensors, and a JSON of 140,000.
    large = poyo_like() | {"digits": [*range(10)] * 2000}
    large["state_dict"]["model.large"] = torch.ones(100, 40)
    torch.save(large, ckpt)
    for there in ("nothing", "an export"):
        if there == "an export":
            export({"w": np.ones(2)}, tmp_path / "out.safetensors")
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        code = FULL_DISK.replace("AT_MOST", str(limit))
        done = run_python(code, tmp_path)
        assert done.stdout == "out.safetensors could not be written: File too large\n"
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("beside", ['{"metadata": {"epoch": 3}}', "no JSON", "", None])
def test_a_json_file_beside_tensors_changes_nothing(beside, ckpt, tmp_path):
    export(ckpt, tmp_path / "out.safetensors")
    safetensors.numpy.save_file({"w": np.ones(2)}, tmp_path / "plain.safetensors")
    for stem in ("out", "plain"):
        (tmp_path / f"{stem}.json").unlink(missing_ok=True)
        if beside is not None:
            (tmp_path / f"{stem}.json").write_text(beside)
    assert contents(tmp_path / "out.safetensors") == contents(ckpt)
    assert open_checkpoint(tmp_path / "plain.safetensors").metadata == {}


def test_an_export_can_be_a_shard(ckpt, tmp_path):
    torch.save({"b": torch.ones(2), "a": torch.zeros(2)}, tmp_path / "s.pt")
    export(tmp_path / "s.pt", tmp_path / "s.safetensors")
    index = {"weight_map": {"a": "s.safetensors", "b": "s.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = open_checkpoint(tmp_path / "model.safetensors.index.json")
    assert [t.name for t in checkpoint.tensors] == ["b", "a"]


GOOD_RECORD = {"version": 1, "sha256": {"w": "0"}, "tied": {}, "metadata": {}, "notes": []}
OTHER_TENSORS = "it lists other tensors than the file holds; export it again"
NOT_IN_FILE = "a tied tensor is missing in the file; export it again"
OTHER_DIGEST = "the tensor digest does not match the file; it is damaged"
MALFORMED = "its metadata or notes are invalid; export it again"
VERSION = "its version is not 1; export it again, or update specdiag"
NO_NAME = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
BAD_RECORDS = {
    "half a table": ("{", f"not valid JSON ({NO_NAME})"),
    "a key twice": (
        '{"version": 1, "version": 1}', "not valid JSON (the key 'version' occurs twice)"
    ),
    "half of a surrogate pair": ('{"version": ["\\ud800"]}', "a text is not valid Unicode"),
    "nested deeply": ("[" * 100_000, "nested too deeply"),
    "a list": ([], VERSION),
    "another version": (GOOD_RECORD | {"version": 2}, VERSION),
    "no hashes": ({"version": 1, "tied": {}, "metadata": {}, "notes": []}, OTHER_TENSORS),
    "a tensor too many": (GOOD_RECORD | {"sha256": {"w": "0", "v": "0"}}, OTHER_TENSORS),
    "a tensor too few": (GOOD_RECORD | {"sha256": {}}, OTHER_TENSORS),
    "a number as a hash": (GOOD_RECORD | {"sha256": {"w": 1}}, OTHER_TENSORS),
    "hashes as a list": (GOOD_RECORD | {"sha256": ["w"]}, OTHER_TENSORS),
    "a tensor tied to itself": (GOOD_RECORD | {"tied": {"w": "w"}}, OTHER_TENSORS),
    "a tensor tied to a missing one": (
        GOOD_RECORD | {"sha256": {"w": "0", "v": "0"}, "tied": {"v": "u"}}, NOT_IN_FILE
    ),
    "a tensor tied to a list": (
        GOOD_RECORD | {"sha256": {"w": "0", "v": "0"}, "tied": {"v": []}}, NOT_IN_FILE
    ),
    "ties as a list": (GOOD_RECORD | {"tied": []}, NOT_IN_FILE),
    "metadata as a list": (GOOD_RECORD | {"metadata": []}, MALFORMED),
    "no digest": (GOOD_RECORD, OTHER_DIGEST),
    "another digest": (GOOD_RECORD | {"tensor_digest": "0" * 64}, OTHER_DIGEST),
    "notes as a text": (GOOD_RECORD | {"notes": "abc"}, MALFORMED),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_a_record_that_does_not_fit_is_refused(kind, tmp_path):
    record, message = BAD_RECORDS[kind]
    text = record if isinstance(record, str) else json.dumps(record)
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file({"w": np.ones(2)}, path, {"specdiag_export": text})
    with pytest.raises(ValueError) as caught:
        open_checkpoint(path)
    assert str(caught.value) == f"m.safetensors: specdiag_export: {message}"


@pytest.mark.parametrize("name", ["unit_emb.weight", "steps"])
def test_a_flipped_bit_in_an_export_is_noticed_when_its_tensor_is_read(name, ckpt, tmp_path):
    path = tmp_path / "out.safetensors"
    export(ckpt, path)
    good = {t.name: t.read().tobytes() for t in open_checkpoint(path).tensors}
    data = bytearray(path.read_bytes())
    data[data.rindex(good[name])] ^= 1
    path.write_bytes(data)
    for tensor in open_checkpoint(path).tensors:
        if tensor.name != name:
            assert tensor.read().tobytes() == good[tensor.name]
            continue
        with pytest.raises(ValueError) as caught:
            tensor.read()
        assert str(caught.value) == (
            f"out.safetensors: '{name}' does not match its SHA-256; the file is damaged"
        )


def altered(path, old, new):
    """Change the header of a safetensors file without changing its length."""
    data = path.read_bytes()
    assert len(old) == len(new)
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"), [(b'"F32"', b'"I32"'), (b"[2,3]", b"[3,2]")], ids=["dtype", "shape"]
)
def test_a_changed_header_is_noticed_when_the_file_is_opened(old, new, tmp_path):
    export({"w": np.ones((2, 3), np.float32)}, tmp_path / "m.safetensors")
    altered(tmp_path / "m.safetensors", old, new)
    with pytest.raises(ValueError) as caught:
        open_checkpoint(tmp_path / "m.safetensors")
    assert str(caught.value) == f"m.safetensors: specdiag_export: {OTHER_DIGEST}"


def test_notes_and_metadata_of_a_record_are_printable_and_bounded(tmp_path):
    state, path = {"w": np.ones(2)}, tmp_path / "m.safetensors"
    export(state, path)
    record = json.loads((tmp_path / "m.json").read_text())
    record |= {"notes": ["\x1b[2J" + "n" * 2000] * 60, "metadata": {"a": deep(200)}}
    safetensors.numpy.save_file(state, path, {"specdiag_export": json.dumps(record)})
    checkpoint = open_checkpoint(path)
    assert checkpoint.notes[0] == "\\x1b[2J" + "n" * 993 + "..."
    assert len(checkpoint.notes) == 51
    assert "<too large or too deep>" in json.dumps(checkpoint.metadata)


def deep(levels):
    return [deep(levels - 1)] if levels else []


def invoke(*arguments):
    result = CliRunner().invoke(cli, ["export", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_the_files_that_it_wrote_and_the_notes(ckpt, tmp_path):
    out = tmp_path / "out.safetensors"
    status, stdout, stderr = invoke(ckpt, out)
    assert stdout == (
        f"exported 4 tensors to {out} ({out.stat().st_size:,} bytes) and out.json, "
        f"tensor digest {tensor_digest(ckpt)}\n"
    )
    assert stderr == (
        "note: 1 tensor under 'optimizer_states' is not part of the model\n"
        f"note: hyper_parameters holds objects that were not rebuilt: {__name__}.Odd (1)\n"
    )
    assert status == 0
    assert invoke(ckpt, out, "--force") == (status, stdout, stderr)


def test_the_command_fails_in_one_line(ckpt, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "specdiag", "export", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    environment = os.environ | {"PYTHONPATH": str(Path(specdiag.__file__).parents[1])}
    assert run("base.ckpt", "out.safetensors")[0] == 0
    line = "out.safetensors exists; choose another name, or replace it (--force, overwrite=True)"
    assert run("base.ckpt", "out.safetensors") == (1, "", f"specdiag: {line}\n")
    status, _, stderr = run("base.ckpt", "out.pt")
    assert status == 2
    assert stderr.splitlines()[-1] == ("Error: out.pt: expected a name that ends in .safetensors")
    status, _, stderr = run("base.ckpt", "out.safetensors", "--debug")
    assert status == 1
    assert "Traceback" in stderr


def test_vocabularies_can_be_loaded_into_an_embedding_that_has_them_in_its_state_dict(
    ckpt, tmp_path
):
    """The class stands for torch_brain's InfiniteVocabEmbedding; docs/export.md fills it so."""

    class Embedding(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.vocab = torch.nn.UninitializedParameter(), None
            self._register_load_state_dict_pre_hook(self._take_words)

        def _take_words(self, state, prefix, *_):
            self.weight.materialize(state[f"{prefix}weight"].shape)
            self.vocab = state.pop(f"{prefix}vocab")

        def _save_to_state_dict(self, destination, prefix, keep_vars):
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[f"{prefix}vocab"] = self.vocab.copy()

    export(ckpt, tmp_path / "base.safetensors")
    state = safetensors.torch.load_file(tmp_path / "base.safetensors")
    about = json.loads((tmp_path / "base.json").read_text())["metadata"]
    state |= {
        name: collections.OrderedDict(words)
        for name, words in about.items()
        if name.endswith(".vocab")
    }
    model = torch.nn.ModuleDict({"unit_emb": Embedding(), "session_emb": Embedding()})
    model["readout"] = torch.nn.Linear(3, 2, bias=False, dtype=torch.bfloat16)
    model.register_buffer("steps", torch.tensor(0))
    model.load_state_dict(state)
    saved = {f"model.{name}": value for name, value in model.state_dict().items()}
    original = poyo_like()["state_dict"]
    assert saved.keys() == original.keys()
    for name, value in original.items():
        if torch.is_tensor(value):
            assert torch.equal(saved[name], value)
        else:
            assert list(saved[name].items()) == list(value.items())


@pytest.mark.skipif(not find_spec("torch_brain"), reason="torch_brain is not installed")
def test_the_documented_lines_load_an_export_into_poyo(tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_brain.models import POYO
    torch.manual_seed(0)
    sizes = {"sequence_length": 1.0, "latent_step": 0.25, "num_latents_per_step": 2}
    sizes |= {"dim": 16, "depth": 1, "dim_head": 8, "self_heads": 2}
    original = POYO(**sizes, dim_out=2).eval()
    original.unit_emb.initialize_vocab([f"unit {i}" for i in range(9)])
    original.session_emb.initialize_vocab([np.str_("b"), np.str_("a")])
    saved = {f"model.{name}": value for name, value in original.state_dict().items()}
    about = {"model": {"_target_": "torch_brain.models.POYO", **sizes}}
    torch.save({"state_dict": saved, "hyper_parameters": about}, tmp_path / "base.ckpt")
    export(tmp_path / "base.ckpt", tmp_path / "base.safetensors")
    text = (ROOT / "docs" / "export.md").read_text()
    (lines,) = re.findall(r"(?s)```python\n(.*?)```", text)
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(lines, scope)
    loaded = scope["model"].eval()
    assert list(loaded.unit_emb.vocab.items()) == list(original.unit_emb.vocab.items())
    assert list(loaded.session_emb.vocab.items()) == [("NA", 0), ("b", 1), ("a", 2)]
    inputs = {
        "input_unit_index": torch.randint(10, (2, 30)),
        "input_timestamps": torch.rand(2, 30),
        "input_token_type": torch.randint(3, (2, 30)),
        "input_mask": torch.ones(2, 30, dtype=torch.bool),
        "latent_index": torch.arange(2).repeat(2, 4),
        "latent_timestamps": torch.linspace(0, 1, 8).repeat(2, 1),
        "session_index": torch.tensor([1, 2]),
        "output_timestamps": torch.rand(2, 5),
    }
    with torch.no_grad():
        assert torch.equal(loaded(**inputs), original(**inputs))
