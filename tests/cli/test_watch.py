"""`specdiag watch` follows a training by its checkpoints or by the table of its monitor."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import specdiag
from specdiag.training.readings import read_readings
from support.collections_ import readings
from support.commands import run_forked as run
from support.paths import ROOT

FROZEN, MOVED = "blocks.0.weight", "blocks.1.weight"

LOGGED = "step,spectral/a/alpha,spectral/a/norm,spectral/a/rank\n" + "".join(
    f"{step},3,1,64\n" for step in (1, 2, 4, 8)
)


@pytest.fixture
def trained(tmp_path):
    """A run of three checkpoints: one matrix is frozen, and one collapses in the last step."""
    rng = np.random.default_rng(0)
    weights = {FROZEN: rng.standard_t(3, (80, 60)), MOVED: rng.normal(size=(80, 60))}
    for step in (100, 200, 1000):
        weights[MOVED] = weights[MOVED] * (1e-5 if step == 1000 else 1) + 1e-9
        content = {name: values.astype(np.float32) for name, values in weights.items()}
        save_file(content | {"bias": np.ones(4, np.float32)}, tmp_path / f"step-{step}.safetensors")
    return tmp_path


def watched(folder, *words):
    status, out, err = run(folder, "watch", *words)
    assert status == 0, err
    return out, err


def test_the_table_says_what_collapsed_and_when(trained):
    out, _ = watched(trained.parent, trained)
    assert out.splitlines()[1] == (
        "2 matrices at 3 steps from 100 to 1,000: 1 collapsed, the first since step 1,000 "
        f"({MOVED})"
    )
    assert "collapsed since step 1,000" in out
    assert f"step 1,000: {MOVED} has collapsed: its norm fell from" in out


def test_readings_are_those_of_alpha(trained):
    content = json.loads(watched(trained, ".", "--json")[0])
    files = [trained / f"step-{step}.safetensors" for step in (100, 200, 1000)]
    dataset = specdiag.alpha(*files, null="none")
    assert [step["path"] for step in content["steps"]] == [path.name for path in files]
    for matrix in content["matrices"]:
        layer = dataset.sel(layer=matrix["name"])
        for name, variable in (("alpha", "alpha"), ("norm", "frobenius_norm"), ("rank", "rank")):
            given = [row[name] for row in matrix["readings"]]
            np.testing.assert_equal(np.array(given, float), layer[variable].values)
    assert [m["state"] for m in content["matrices"]] == ["ok", "collapsed"]
    assert content["matrices"][0]["events"] == []
    assert [e["step"] for e in content["matrices"][1]["events"]] == [1000]


def test_json_has_the_same_keys_for_checkpoints_and_for_a_table(trained, tmp_path):
    (tmp_path / "run.csv").write_text(readings())
    one = json.loads(watched(trained, ".", "--json")[0])
    two = json.loads(watched(tmp_path, "run.csv", "--json")[0])
    assert one.keys() == two.keys() == {"unit", "steps", "matrices", "notes"}
    for part in ("steps", "matrices"):
        assert one[part][0].keys() == two[part][0].keys()
    assert one["matrices"][0]["readings"][0].keys() == two["matrices"][0]["readings"][0].keys()
    assert two["steps"][0]["path"] is None


def test_a_matrix_that_did_not_change_is_measured_once(trained, monkeypatch):
    from click.testing import CliRunner

    from specdiag.cli.main import cli
    from specdiag.htsr import measure

    measured = []
    original = measure.measure_weight
    monkeypatch.setattr(
        measure, "measure_weight", lambda w, **how: measured.append(w.name) or original(w, **how)
    )
    words = ["watch", str(trained), "-o", str(trained / "run.html")]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert sorted(measured) == [FROZEN, MOVED, MOVED, MOVED]
    measured.clear()
    again = CliRunner().invoke(cli, words)
    assert measured == []
    assert "6 layers of earlier runs taken from .run.html.journal.specdiag" in again.output
    shutil.copy(trained / "step-1000.safetensors", trained / "step-1100.safetensors")
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert measured == []
    weights = load_file(trained / "step-1000.safetensors")
    save_file(weights | {MOVED: weights[MOVED] * 2}, trained / "step-1200.safetensors")
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert measured == [MOVED]


def test_a_page_a_table_a_dataset_and_a_figure_are_written(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    for name in ("run.html", "run.csv", "run.nc"):
        assert f"wrote {name}" in watched(folder, trained, "-o", name)[1]
    page = (folder / "run.html").read_text()
    for text in (f"<h1>Training {trained.name}</h1>", "Alarms", "collapsed since step 1,000"):
        assert text in page
    assert [r.step for r in read_readings(folder / "run.csv")] == [100, 100, 200, 200, 1000, 1000]
    with specdiag.open_spectra(folder / "run.nc") as dataset:
        assert dataset.checkpoint.values.tolist() == ["step-100", "step-200", "step-1000"]
    for name in ("run.svg", "run.png"):
        assert f"drew {name}" in watched(folder, trained, "--plot", name)[1]


def test_the_table_of_a_monitor_gives_a_page_without_spectra(tmp_path):
    (tmp_path / "run.csv").write_text(readings())
    watched(tmp_path, "run.csv", "-o", "run.html", "--layers", "layers.*")
    page = (tmp_path / "run.html").read_text()
    assert "layers.4.weight" in page
    assert 'id="layers"' not in page
    watched(tmp_path, "run.csv", "-o", "RUN.CSV")
    assert len(read_readings(tmp_path / "RUN.CSV")) == readings().count("layers.")
    (tmp_path / "spectra.csv").write_text(readings())
    status, _, err = run(tmp_path, "watch", ".", "--layers", "layers.1.*", "-o", "spectra.csv")
    wrong = "Error: -o spectra.csv: it is one of the files to read"
    assert (status, err.splitlines()[-1]) == (2, wrong)
    status, _, err = run(tmp_path, "watch", "run.csv", "-o", "run.nc")
    assert (status, err.splitlines()[-1]) == (
        2,
        "Error: -o run.nc: a table has no spectra; give .html or .csv",
    )


def test_a_folder_with_a_table_alone_is_read_by_its_table(tmp_path):
    for name in ("spectra.csv", "metrics.csv"):
        folder = tmp_path / name.removesuffix(".csv")
        folder.mkdir()
        content = readings() if name == "spectra.csv" else LOGGED
        (folder / name).write_text(content)
        found = "5 matrices at 4 steps" if name == "spectra.csv" else "1 matrix at 4 steps"
        assert found in watched(tmp_path, folder)[0]
    status, _, err = run(tmp_path, "watch", "spectra", "--which", "ema")
    assert status == 2
    assert err.splitlines()[-1] == (
        "Error: --which is for checkpoints, and spectra/spectra.csv is a table"
    )


def test_a_folder_with_one_table_of_a_monitor_is_that_table(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "my.spectra.csv").write_text(readings())
    assert "5 matrices at 4 steps" in watched(tmp_path, "run")[0]


def test_a_logger_without_readings_is_told(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").write_text("step,loss\n1,2\n")
    status, _, err = run(tmp_path, "watch", "run")
    assert status == 1
    assert err == (
        "specdiag: run/metrics.csv: no readings of SpectralMonitor in it, and no checkpoints "
        "beside it\n"
    )


def test_the_table_of_a_logger_is_read_if_it_has_more_steps_than_there_are_checkpoints(trained):
    (trained / "metrics.csv").write_text(LOGGED)
    out, err = watched(trained, ".")
    assert "1 matrix at 4 steps from 1 to 8" in out
    assert err == (
        "read from metrics.csv, which has more steps than the 3 checkpoints that could be "
        "measured\n"
    )
    assert "2 matrices at 3 steps" in watched(trained, ".", "-o", "run.nc")[0]
    (trained / "metrics.csv").write_text("step,loss\n1,2\n")
    assert "2 matrices at 3 steps" in watched(trained, ".")[0]


def test_a_checkpoint_that_is_being_written_costs_the_others_nothing(trained):
    content = (trained / "step-1000.safetensors").read_bytes()
    (trained / "step-2000.safetensors").write_bytes(content[: len(content) // 2])
    status, out, err = run(trained, "watch", ".")
    assert status == 1
    assert "2 matrices at 3 steps from 100 to 1,000" in out
    assert err.startswith("specdiag: step-2000.safetensors: ")
    assert len(err.splitlines()) == 1


def test_values_that_are_not_finite_are_an_alarm(trained):
    weights = load_file(trained / "step-200.safetensors")
    weights[FROZEN][0, 0] = np.nan
    save_file(weights, trained / "step-2000.safetensors")
    out, _ = watched(trained, ".")
    assert "1 collapsed and 1 not finite" not in out  # the other one is back
    assert f"step 2,000: {FROZEN} is not finite: some of its values are not finite" in out
    assert f"step 2,000: {MOVED} is back: its norm is" in out


def test_errors_are_one_line(trained, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    status, _, err = run(empty, "watch", ".")
    wrong = (
        "specdiag: .: no checkpoint with a number in its name, such as step-500.ckpt, "
        "epoch=3-step=1200.ckpt or checkpoint-500/\n"
    )
    assert (status, err) == (1, wrong)
    for word, wrong in (
        ("run.txt", "-o run.txt: expected a name that ends in .html or .csv or .nc"),
        (str(trained / "step-100.safetensors"), "it is one of the files to read"),
    ):
        status, _, err = run(empty, "watch", trained, "-o", word)
        assert status == 2
        assert wrong in err.splitlines()[-1]
    status, _, err = run(trained, "watch", ".", "--layers", "no.*")
    assert status == 1
    assert len(err.splitlines()) == 3  # one a checkpoint


def test_an_entry_of_a_lock_names_the_table_of_its_training(tmp_path):
    from support import toy

    toy.make(tmp_path, children=1)
    assert run(tmp_path, "lock", "--init")[0] == 0
    beside = tmp_path / "checkpoints" / "desk" / "base"
    build = beside / f"net.ckpt.{'0' * 16}.run"
    build.mkdir(parents=True)
    (build / "spectra.csv").write_text(readings(steps=(1, 2)))
    out, _ = watched(tmp_path, "base/net")
    assert out.splitlines()[0] == f"{build.name}/spectra.csv"
    assert "5 matrices at 2 steps" in out
    shutil.rmtree(build)
    assert run(tmp_path, "train", "base/net")[0] == 0
    (beside / "net.ckpt.spectra.csv").write_text(readings())
    for word in ("base/net", beside / "net.ckpt"):
        assert "5 matrices at 4 steps" in watched(tmp_path, word)[0]
    status, _, err = run(tmp_path, "watch", "child/net0")
    assert status == 2
    assert "missing at desk scale" in err


def test_the_collapse_of_the_page_is_that_of_a_training(tmp_path):
    torch = pytest.importorskip("torch")
    from recipes.poyo.lamb import SparseLamb

    torch.manual_seed(0)
    used, unused = (torch.nn.Linear(64, 64, bias=False) for _ in range(2))
    model = torch.nn.ModuleDict({"used": used, "unused": unused})
    optimizer = SparseLamb(model.parameters(), lr=8e-3, weight_decay=1e-4)
    x = torch.randn(16, 64)
    for step in range(1, 401):
        loss = (used(x) - x).square().mean() + 0 * unused(x).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 1 or step % 100 == 0:
            torch.save(model.state_dict(), tmp_path / f"step-{step}.pt")
    out, _ = watched(tmp_path.parent, tmp_path, "--collapsed", "0.1")
    page = (ROOT / "docs" / "watch.md").read_text(encoding="utf-8")
    lines = out.splitlines()
    assert lines[1] in page
    assert "collapsed since step 300" in lines[6]
    first, last = unused.weight.norm() * (1 - 8e-3) ** -399, unused.weight.norm()
    assert lines[-2] == (
        f"step 300: unused.weight has collapsed: its norm fell from {first:.3g} after step 1 to "
        f"{last * (1 - 8e-3) ** -100:.3g}"
    )
    assert lines[-2] in page


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Lightning: few workers, few batches
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_metrics_of_lightning_are_those_of_its_checkpoints(tmp_path):
    torch = pytest.importorskip("torch")
    lightning = pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(60, 64), torch.nn.Linear(64, 60))

        def training_step(self, batch, _):
            return (self.layers(batch) - batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    torch.manual_seed(0)
    monitor = specdiag.SpectralMonitor(every=4, budget=None)
    saver = ModelCheckpoint(tmp_path / "checkpoints", save_top_k=-1, every_n_train_steps=4)
    trainer = lightning.Trainer(
        max_epochs=2,
        logger=CSVLogger(tmp_path, name="", version="log"),
        callbacks=[monitor, saver],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        accelerator="cpu",
    )
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.randn(48, 60), batch_size=8))
    measured, logged = (
        json.loads(watched(tmp_path, word, "--json")[0]) for word in ("checkpoints", "log")
    )
    assert [step["step"] for step in measured["steps"]] == [4, 8, 12]
    assert [step["step"] for step in logged["steps"]][-3:] == [4, 8, 12]
    for one, two in zip(measured["matrices"], logged["matrices"], strict=True):
        assert one["name"] == two["name"]
        for name in ("alpha", "norm", "rank", "stable_rank"):
            theirs = [row[name] for row in two["readings"][-3:]]
            np.testing.assert_allclose([row[name] for row in one["readings"]], theirs, rtol=1e-5)
