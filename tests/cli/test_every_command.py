"""Every command runs from end to end, also with the lowest versions that pyproject.toml allows.

`make test-lowest` runs this module in an environment without torch.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from support import toy
from support.commands import run_forked as run

CLAIMS = """
from specdiag.transfer.claims import Claim

CLAIMS = (Claim(text="Children differ", value=lambda get: get("child/net0", "r2")),)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A lock whose entries are trained."""
    folder = tmp_path_factory.mktemp("lock")
    toy.make(folder)
    (folder / "recipes" / "_claims.py").write_text(CLAIMS)
    printed(folder, "lock", "--init")
    assert "3 trained, 1 evaluated" in printed(folder, "train", "--all")
    return folder


@pytest.fixture(scope="module")
def spectra(folder):
    """What `specdiag spectra` writes."""
    printed(folder, "spectra", "-o", "spectra.nc")
    return folder / "spectra.nc"


@pytest.fixture
def weights(tmp_path):
    """Matrices in a safetensors file."""
    rng = np.random.default_rng(0)
    matrices = {f"layers.{i}.weight": rng.normal(size=(80, 60)).astype(np.float32) for i in (1, 2)}
    save_file(matrices, tmp_path / "net.safetensors")
    return matrices


def printed(folder, *arguments):
    """Return what a command prints; it succeeds, and writes no warning."""
    status, out, err = run(folder, *arguments)
    assert status == 0, err
    assert "Warning" not in err
    return out


def test_list(folder):
    assert "4 entries: 4 ok" in printed(folder, "list")


def test_alpha(weights, tmp_path):
    out = printed(tmp_path, "alpha", "net.safetensors", "-o", "one.nc", "--plot", "drawn")
    assert "layers.1.weight" in out
    assert {p.suffix for p in (tmp_path / "drawn").iterdir()} >= {".png"}
    rows = json.loads(printed(tmp_path, "alpha", "net.safetensors", "--json"))
    assert "layers.1.weight" in json.dumps(rows)


def test_features(folder):
    assert "of 60 directions" in printed(folder, "features", "base/net", "--layer", "out")
    layers = ("--layer", "a", "--layer", "b")
    rows = json.loads(printed(folder, "features", "base/net", *layers, "--json"))
    assert [row["layer"] for row in rows["features"]] == ["a", "b"]
    printed(folder, "features", "base/net", *layers, "--plot", "depth.pdf")
    assert (folder / "depth.pdf").stat().st_size > 0


def test_features_of_files(tmp_path):
    x = np.random.default_rng(0).normal(size=(300, 5))
    np.savez(tmp_path / "a.npz", x=x, trial=np.arange(300) // 5)
    np.savez(tmp_path / "b.npz", x=x[:, ::-1] ** 3, trial=np.arange(300) // 5)
    out = printed(
        *(tmp_path, "features", "a.npz", "b.npz", "--groups", "trial"),
        *("-o", "both.nc", "--plot", "both.svg"),
    )
    assert "CKA is" in out
    assert {"both.nc", "both.svg"} <= {p.name for p in tmp_path.iterdir()}
    content = json.loads(printed(tmp_path, "features", "a.npz:x", "b.npz:x", "--json"))
    assert content["comparisons"][0]["paired"]
    assert [row["source"] for row in content["features"]] == ["a.npz:x", "b.npz:x"]
    labels = ("--groups", "both.nc:n_samples", "-o", "both.nc", "--force")
    status, _, err = run(tmp_path, "features", "a.npz:x", *labels)
    assert (status, err.splitlines()[-1]) == (
        2,
        "Error: -o both.nc: it is one of the files to read",
    )


def test_weights(weights, tmp_path):
    assert "layers.2.weight" in printed(tmp_path, "weights", "net.safetensors")


def test_compare(folder):
    out = printed(folder, "compare", "child/net0", "child/net1", "-o", "pair.nc")
    assert "weight" in out
    assert (folder / "pair.nc").stat().st_size > 0
    out = printed(folder, "compare", "child/net0", "child/net1", "--delta", "-o", "added.nc")
    assert "unrelated matrices share up to" in out
    assert (folder / "added.nc").stat().st_size > 0


def test_spectra_and_link(spectra, folder):
    assert "R" in printed(folder, "link", "spectra.nc")


def test_figures(spectra, folder):
    printed(folder, "figures", "spectra.nc", "-o", "drawn")
    assert {p.suffix for p in (folder / "drawn").iterdir()} >= {".svg", ".pdf"}


def test_report(spectra, folder):
    printed(folder, "report", "spectra.nc", "-o", "report.html")
    assert "base/net" in (folder / "report.html").read_text()


def test_watch(weights, tmp_path):
    for step in (1, 2):
        save_file(weights, tmp_path / f"step-{step}.safetensors")
    out = printed(tmp_path, "watch", "step-1.safetensors", "step-2.safetensors", "-o", "run.html")
    assert "2 matrices at 2 steps from 1 to 2: none has collapsed" in out
    assert (tmp_path / "run.html").exists()


def test_verify(spectra, folder):
    assert "Children differ" in printed(folder, "verify", "spectra.nc")


def test_export(weights, tmp_path):
    printed(tmp_path, "export", "net.safetensors", "copy.safetensors")
    assert "layers.1.weight" in printed(tmp_path, "weights", "copy.safetensors")


def test_fetch(weights, tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "net.py").write_text(
        "from specdiag.lock.entry import Entry, Source\n\n\ndef entries():\n"
        f"    source = Source(url='{(tmp_path / 'net.safetensors').as_uri()}')\n"
        "    return [Entry(name='net', scale='desk', group='g', recipe='net', source=source)]\n"
    )
    printed(tmp_path, "lock", "--init")
    assert "1 fetched" in printed(tmp_path, "fetch")


def test_gguf_and_onnx(weights, tmp_path):
    import gguf
    import onnx

    writer = gguf.GGUFWriter(tmp_path / "net.gguf", "llama")
    for name, matrix in weights.items():
        writer.add_tensor(name, matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (name, matrix), *_ = weights.items()
    node = onnx.helper.make_node("MatMul", ["x", name], ["y"])
    values = [
        onnx.helper.make_tensor_value_info(*given)
        for given in (("x", 1, [1, 80]), ("y", 1, [1, 60]))
    ]
    initial = [onnx.numpy_helper.from_array(matrix, name)]
    graph = onnx.helper.make_graph([node], "net", values[:1], values[1:], initial)
    onnx.save(onnx.helper.make_model(graph), tmp_path / "net.onnx")
    for file in ("net.gguf", "net.onnx"):
        assert "layers.1.weight" in printed(tmp_path, "alpha", file)
