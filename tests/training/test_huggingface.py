"""hf_callback among the callbacks of transformers' Trainer."""

import json
import math

import pytest

import specdiag
from support.nets import bert

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of transformers and torch
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def small_bert():
    """Return a BERT of 2 layers of 64 features that predicts masked tokens."""
    torch.manual_seed(0)
    return transformers.BertForMaskedLM(bert().config)


def sentences(n):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 100, (n, 8), generator=generator)
    return [{"input_ids": t, "labels": t, "attention_mask": torch.ones_like(t)} for t in tokens]


def trainer_of(folder, callbacks, **options):
    args = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "learning_rate": 1e-3,
        "logging_steps": 1000,
    }
    return transformers.Trainer(
        model=small_bert(),
        args=transformers.TrainingArguments(**(args | options)),
        train_dataset=sentences(40),
        callbacks=callbacks,
    )


def test_a_trainer_calls_the_monitor_and_its_reports_get_the_numbers(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from training.test_lightning import scalars

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    callback = specdiag.hf_callback(every=3, budget=None)
    trainer = trainer_of(tmp_path, [callback], max_steps=7, report_to=["tensorboard"])
    trainer.train()

    readings = callback.monitor.readings
    assert sorted({r.step for r in readings}) == [1, 3, 6]
    assert len(readings) == 3 * 13  # not the decoder, which is tied to the embedding
    name = "bert.encoder.layer.0.attention.self.query.weight"
    logged = scalars(tmp_path / "board")
    of_layer = [r for r in readings if r.name == name]
    for kind in ("alpha", "stable_rank", "norm", "rank"):
        values = {r.step: pytest.approx(getattr(r, kind), rel=1e-6) for r in of_layer}
        assert logged[f"train/spectral/{name}/{kind}"] == values
        assert not math.isnan(getattr(of_layer[0], kind))
    assert list(logged["train/spectral/median_alpha"]) == [1, 3, 6]
    history = [entry for entry in trainer.state.log_history if "spectral/median_alpha" in entry]
    assert [entry["step"] for entry in history] == [1, 3, 6]


def test_a_step_of_accumulated_gradients_is_read_once(tmp_path):
    callback = specdiag.hf_callback(every=1, pattern="*.query.weight", budget=None)
    trainer_of(tmp_path, [callback], max_steps=3, gradient_accumulation_steps=4).train()
    assert [r.step for r in callback.monitor.readings] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("restore", [False, True])
def test_a_resumed_training_goes_on_with_the_first_norms_and_the_table(tmp_path, restore):
    log = tmp_path / "run.spectra.csv"
    settings = {"every": 2, "log": log, "pattern": "*.query.weight", "budget": None}
    first = specdiag.hf_callback(**settings)
    saving = {"save_strategy": "steps", "save_steps": 4}
    trainer_of(tmp_path, [first], max_steps=6, **saving).train()
    log.unlink()

    again = specdiag.hf_callback(**settings)
    trainer = trainer_of(
        tmp_path, [again], max_steps=8, restore_callback_states_from_checkpoint=restore, **saving
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    monitors = [c.monitor for c in trainer.callback_handler.callbacks if hasattr(c, "monitor")]
    assert [m is again.monitor for m in monitors] == [not restore]
    (monitor,) = monitors
    state = first.monitor.state_dict()
    assert monitor.state_dict()["first"] == state["first"]
    assert {r.step for r in monitor.readings} == {6, 8}
    text = (tmp_path / "checkpoint-4" / "trainer_state.json").read_text()
    saved = json.loads(text, parse_constant=pytest.fail)["stateful_callbacks"]
    attributes = saved["SpectralMonitorCallback"]["attributes"]
    assert (attributes["saved"]["step"], attributes["saved"]["first"]) == (4, state["first"])


def test_an_invalid_setting_is_refused_before_the_training():
    with pytest.raises(ValueError) as error:
        specdiag.hf_callback(every=0)
    assert str(error.value) == "every is 0: expected a whole number, at least 1"
