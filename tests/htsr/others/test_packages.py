import json
import math
import sys
import warnings

import numpy as np
import pytest
from safetensors.numpy import save_file

import specdiag
from specdiag.checkpoint.weights.find import open_weights
from specdiag.dataset.schema.beside import BESIDE
from specdiag.dataset.schema.variable import as_markdown
from specdiag.dataset.spectra import measure_checkpoint
from specdiag.htsr.others.disagreements import disagreements
from specdiag.htsr.others.packages import FIELDS, PACKAGES, with_packages
from specdiag.htsr.selection import matrices
from support.commands import run_forked as run
from support.paths import ROOT

pytest.importorskip("weightwatcher", reason="weightwatcher is not installed")
pytest.importorskip("powerlaw", reason="powerlaw is not installed")


def heavy(rng, n, m, alpha, scale=1.0):
    values = scale * (1 - rng.random(min(n, m))) ** (-1 / (alpha - 1))
    U, _, V = np.linalg.svd(rng.standard_normal((n, m)), full_matrices=False)
    return (U * np.sqrt(values) @ V).astype(np.float32)


@pytest.fixture
def network(rng):
    """Return weights for which the packages find the same, and others for which they do not."""
    steep, same = heavy(rng, 160, 100, 6.0), heavy(rng, 200, 120, 2.2)
    return {
        "blocks.0.mlp.weight": same,
        "blocks.1.mlp.weight": same.copy(),
        "steep.weight": steep,
        "small.weight": heavy(rng, 120, 90, 2.2, scale=4e-6),
        "tiny.weight": heavy(rng, 120, 90, 2.2, scale=1e-12),
        "conv.weight": rng.standard_normal((64, 60, 3, 3)).astype(np.float32) / 40,
        "time.weight": rng.standard_normal((64, 60, 3)).astype(np.float32) / 20,
        "rank.weight": (heavy(rng, 120, 30, 2.2) @ heavy(rng, 30, 90, 2.2)).astype(np.float32),
    }


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Return a function that puts a package of this name before the installed one."""

    def put(name, code):
        (tmp_path / "fakes").mkdir(exist_ok=True)
        (tmp_path / "fakes" / f"{name}.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fakes'}:{':'.join(filter(None, sys.path))}")

    return put


def measured(network, names, **settings):
    checkpoint = open_weights(network)
    layers = measure_checkpoint(checkpoint, null="none")
    return with_packages(layers, matrices(checkpoint), names, **settings), layers


@pytest.mark.slow
def test_packages_report_what_they_report_alone_and_each_difference_has_its_cause(network):
    import powerlaw

    layers, alone = measured(network, PACKAGES)
    found = {layer.name: layer for layer in layers}
    expected = {f"{name}_{field}" for name in PACKAGES for field in (*FIELDS[name], "status")}
    for layer, before in zip(layers, alone, strict=True):
        assert layer.beside.keys() == expected
        assert layer.eigenvalues is before.eigenvalues
    for name in ("blocks.0.mlp.weight", "conv.weight"):
        beside, tail = found[name].beside, found[name].tail
        assert beside["weightwatcher_status"] == "success"
        assert beside["weightwatcher_alpha"] == pytest.approx(tail.alpha, rel=1e-5)
        assert beside["weightwatcher_xmin"] == pytest.approx(tail.xmin, rel=1e-4)
        assert beside["weightwatcher_n_tail"] == tail.n_tail
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = powerlaw.Fit(found[name].eigenvalues, verbose=False)
            mu, rate = fit.lognormal.mu, fit.truncated_power_law.Lambda
        assert beside["powerlaw_alpha"] == pytest.approx(fit.alpha, rel=1e-9)
        assert beside["powerlaw_lognormal_mu"] == pytest.approx(mu, rel=1e-6)
        assert beside["powerlaw_truncated_lambda"] == pytest.approx(rate, rel=1e-6)
    assert found["blocks.1.mlp.weight"].beside["weightwatcher_status"] == ""
    lines = "\n".join(disagreements(layers))
    for line in (
        "weightwatcher: eigenvalues of W'W below its absolute threshold 1e-5 are left out: small.w",
        "weightwatcher: no eigenvalue of W'W is above its absolute threshold 1e-5: alpha -1, statu",
        "weightwatcher: of the whole file it measures 1 matrix a second time, tied to, or a copy o",
        "weightwatcher: not run: weightwatcher knows matrices and kernels of two axes: time.weight",
        "powerlaw: its alpha is at most 3, by its default range; that of the nearest tail is large",
        "powerlaw: a fit of what is degenerate here: rank.weight",
    ):
        assert line in lines
    assert "steep.weight" in lines.split("at most 3")[1].split("\n")[0]
    assert "blocks.0.mlp.weight" not in lines
    assert found["blocks.0.mlp.weight"].beside["powerlaw_alpha"] < 3
    assert "without a known cause" not in lines


@pytest.mark.slow
def test_the_command_adds_columns_and_variables_only_where_asked(rng, tmp_path):
    path, out = tmp_path / "net.safetensors", tmp_path / "net.nc"
    save_file({"a.weight": heavy(rng, 120, 80, 2.2), "b.weight": np.ones((60, 9), "f4")}, path)
    status, text, err = run(tmp_path, "alpha", path, "--json", "--beside", "powerlaw", "-o", out)
    assert (status, err) == (0, f"running powerlaw on the same matrices\nwrote {out}\n")
    rows = json.loads(text)["checkpoints"][0]["layers"]
    plain = json.loads(run(tmp_path, "alpha", path, "--json")[1])["checkpoints"][0]["layers"]
    for row, before in zip(rows, plain, strict=True):
        new = {name for name in BESIDE if name.startswith("powerlaw_")}
        assert row.keys() - before.keys() == new
        assert {name: row[name] for name in before} == before
    assert [row["powerlaw_status"] for row in rows] == ["success", ""]
    assert rows[1]["powerlaw_alpha"] is None
    with specdiag.open_spectra(out) as dataset:
        assert dataset.powerlaw_alpha.values[0, 0] == rows[0]["powerlaw_alpha"]
        assert dataset.powerlaw_status.values.tolist() == [["success", ""]]
        assert math.isnan(dataset.powerlaw_alpha.values[0, 1])
        assert not any(str(name).startswith("weightwatcher") for name in dataset.variables)
        table = specdiag.summary(dataset)
    assert table.powerlaw_alpha[0] == rows[0]["powerlaw_alpha"]
    header = (
        run(tmp_path, "alpha", path, "--csv", "--beside", "powerlaw")[1].splitlines()[0].split(",")
    )
    assert header[-len(new) :] == [f"powerlaw_{name}" for name in (*FIELDS["powerlaw"], "status")]
    table = run(tmp_path, "alpha", path, "--beside", "powerlaw", "--columns", "all")[1]
    assert "  alpha_ks  " in table
    assert "  powerlaw  powerlaw xmin  powerlaw D  verdict" in table


def test_what_crashes_hangs_or_prints_costs_only_its_own_numbers(rng, fake):
    code = (
        "import os, time\n"
        "print('a banner')\n"
        "class Law:\n"
        "    alpha = Lambda = mu = sigma = 1.0\n"
        "class Fit:\n"
        "    def __init__(self, data, verbose):\n"
        "        print('a line')\n"
        "        if len(data) == 51: os._exit(7)\n"
        "        if len(data) == 52: time.sleep(1000)\n"
        "        if len(data) == 53: raise KeyError('xmin')\n"
        "        self.alpha, self.xmin, self.D, self.data = 2.0, 1.0, float('inf'), data\n"
        "        self.truncated_power_law = self.lognormal = Law()\n"
        "    def distribution_compare(self, *names): return float('nan'), 0.5\n"
    )
    fake("powerlaw", code)
    network = {f"l{n}.weight": heavy(rng, 100, n, 2.2) for n in (50, 51, 52, 53, 54)}
    layers, _ = measured(network, ["powerlaw"], seconds=3)
    status = [layer.beside["powerlaw_status"] for layer in layers]
    assert status == [
        "success",
        "powerlaw crashed (exit status 7)",
        "powerlaw gave no answer in 3 s",
        "KeyError: 'xmin'",
        "success",
    ]
    assert [layer.beside["powerlaw_alpha"] for layer in layers[::4]] == [2.0, 2.0]
    assert math.isnan(layers[0].beside["powerlaw_D"])
    assert all(layer.status == "fit" for layer in layers)
    assert "powerlaw: powerlaw crashed (exit status 7): l51.weight" in disagreements(layers)


def test_a_package_that_cannot_be_imported_is_given_up(rng, fake):
    fake("powerlaw", "raise SystemExit(3)\n")
    network = {f"l{n}.weight": heavy(rng, 100, n, 2.2) for n in range(50, 55)}
    layers, _ = measured(network, ["powerlaw"])
    status = [layer.beside["powerlaw_status"] for layer in layers]
    crashed, given_up = "powerlaw crashed (exit status 3)", "powerlaw failed 3 times in a row"
    assert status == [crashed] * 3 + [f"not run: {given_up}"] * 2


def test_wrong_words_are_usage_errors(rng, tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"a.weight": heavy(rng, 120, 80, 2.2)}, path)
    for words, text in (
        (["--beside", "scipy"], "--beside is 'scipy': expected weightwatcher or powerlaw"),
        (
            ["--beside", "powerlaw", "--method", "median"],
            "--beside compares alpha_ks: it needs the method specdiag",
        ),
    ):
        status, _, err = run(tmp_path, "alpha", path, *words)
        assert status == 2
        assert text in err
    with pytest.raises(ValueError) as error:
        specdiag.alpha(path, beside="powerlaw")
    assert str(error.value) == "beside is 'powerlaw': expected a list of names"


def test_a_package_that_is_not_installed_is_one_line(monkeypatch, tmp_path, rng):
    path = tmp_path / "net.safetensors"
    save_file({"a.weight": heavy(rng, 120, 80, 2.2)}, path)
    monkeypatch.setitem(sys.modules, "weightwatcher", None)
    with pytest.raises(ValueError) as error:
        specdiag.alpha(path, beside=["weightwatcher"])
    expected = "beside needs weightwatcher: pip install 'specdiag[oracles]'"
    assert str(error.value) == expected


def test_the_documentation_has_every_variable():
    page = (ROOT / "docs" / "definitions.md").read_text(encoding="utf-8")
    assert as_markdown(BESIDE) in page


@pytest.mark.realdata
@pytest.mark.slow
def test_every_difference_on_a_trained_network_has_its_cause(minilm):
    dataset = specdiag.alpha(minilm, layers="*layer.0.*", null="none", beside=PACKAGES).squeeze()
    theirs = dataset.weightwatcher_alpha.values
    np.testing.assert_allclose(theirs, dataset.alpha_ks.values, rtol=1e-5)
    steep = dataset.alpha_ks.values > 3
    np.testing.assert_allclose(dataset.powerlaw_alpha.values[~steep], theirs[~steep], rtol=1e-5)
    assert steep.sum() == 3
    assert np.all(dataset.powerlaw_alpha.values[steep] <= 3)
