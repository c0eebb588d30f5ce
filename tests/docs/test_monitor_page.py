"""The programs of docs/monitor.md run, on a ResNet-18, a small BERT and a network of two layers."""

import re

import pytest

from support.nets import resnet18
from support.paths import ROOT

torch = pytest.importorskip("torch")
PAGE = (ROOT / "docs" / "monitor.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_the_program_for_lightning_logs_every_matrix_of_a_resnet18(tmp_path, monkeypatch):
    lightning = pytest.importorskip("lightning.pytorch")
    from training.test_lightning import QUIET, batches, module_of

    monkeypatch.chdir(tmp_path)
    for name, value in QUIET.items():  # a Trainer's own output is no part of the page
        monkeypatch.setenv(f"PL_TRAINER_{name.upper()}", str(value))
    module = module_of(lightning, resnet18(), rate=1e-3)
    names = {"module": module, "batches": batches(1, (2, 3, 32, 32))}
    exec(PROGRAMS[0], names)
    logged = names["trainer"].callback_metrics
    assert sum(name.endswith("/norm") for name in logged) == 20


def test_the_program_for_transformers_logs_every_matrix_of_a_bert(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from training.test_huggingface import sentences, small_bert

    args = transformers.TrainingArguments(
        output_dir=str(tmp_path), report_to=[], use_cpu=True, disable_tqdm=True, max_steps=2
    )
    names = {"model": small_bert(), "args": args, "dataset": sentences(4)}
    exec(PROGRAMS[1], names)
    (logged,) = [
        entry for entry in names["trainer"].state.log_history if "spectral/median_alpha" in entry
    ]
    assert sum(name.endswith("/norm") for name in logged) == 13


def test_the_loop_prints_the_readings_and_writes_the_table(tmp_path, monkeypatch, capsys):
    from training.test_lightning import small_net

    monkeypatch.chdir(tmp_path)
    names = {"model": small_net(), "batches": range(200), "train_step": lambda *_: 0.0}
    exec(PROGRAMS[2], names)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "100", "200"]
    assert len((tmp_path / "run.spectra.csv").read_text().splitlines()) == 7
