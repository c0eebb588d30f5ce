"""SpectralMonitor among the callbacks of Lightning's Trainer."""

import csv
import importlib
import logging
import math
import pickle
import subprocess
import sys

import pytest

from specdiag.training.model import is_sharded
from specdiag.training.monitor import SpectralMonitor
from support.nets import resnet18

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of Lightning: few workers, few batches
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(params=PACKAGES)
def lightning(request):
    pytest.importorskip(request.param)
    return importlib.import_module(request.param)


def module_of(lightning, net, *, rate=0.01):
    """Return a LightningModule that trains a network on the mean square of its outputs."""

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def training_step(self, batch, _):
            loss = outputs(self.net(batch)).square().mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=rate)

    return Module()


def outputs(values):
    return getattr(values, "pooler_output", values)


def small_net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(60, 70), torch.nn.Tanh(), torch.nn.Linear(70, 60))


def batches(n, shape=(4, 60)):
    return torch.utils.data.DataLoader(list(torch.randn(n, *shape)), batch_size=None)


def trainer_of(lightning, folder, monitor, **options):
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False} | options
    return lightning.Trainer(callbacks=[monitor], default_root_dir=folder, **(QUIET | options))


def test_a_trainer_calls_the_monitor_and_its_loggers_get_the_numbers(lightning, tmp_path):
    loggers = importlib.import_module(f"{lightning.__name__}.loggers")
    pytest.importorskip("tensorboard")
    logs = [
        loggers.CSVLogger(tmp_path, name="csv"),
        loggers.TensorBoardLogger(tmp_path, name="board"),
    ]
    monitor = SpectralMonitor(every=3, budget=None)
    trainer = trainer_of(lightning, tmp_path, monitor, logger=logs)
    trainer.fit(module_of(lightning, small_net()), batches(7))

    assert isinstance(monitor, lightning.Callback)
    assert [r.step for r in monitor.readings] == [1, 1, 3, 3, 6, 6]
    rows = list(csv.DictReader((tmp_path / "csv/version_0/metrics.csv").open()))
    read = {int(row["step"]): row for row in rows if row["spectral/median_alpha"]}
    assert list(read) == [1, 3, 6]
    for r in monitor.readings:
        for kind in ("alpha", "stable_rank", "norm", "rank"):
            logged = float(read[r.step][f"spectral/{r.name}/{kind}"])
            assert logged == pytest.approx(getattr(r, kind), rel=1e-5)
    assert trainer.callback_metrics["spectral/collapsed"] == 0
    assert scalars(tmp_path / "board/version_0")["spectral/net.0.weight/alpha"] == {
        r.step: pytest.approx(r.alpha, rel=1e-6)
        for r in monitor.readings
        if r.name == "net.0.weight"
    }


def scalars(folder):
    """Return the scalars of TensorBoard's files: by name, the value of each step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: {event.step: event.value for event in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }


def test_a_step_of_accumulated_gradients_is_read_once(lightning, tmp_path):
    monitor = SpectralMonitor(every=1, budget=None)
    trainer = trainer_of(lightning, tmp_path, monitor, accumulate_grad_batches=3)
    trainer.fit(module_of(lightning, small_net()), batches(9))
    assert [r.step for r in monitor.readings if r.name == "net.0.weight"] == [1, 2, 3]


def test_a_resumed_training_keeps_first_norms_collapsed_matrices_and_the_table(lightning, tmp_path):
    table = tmp_path / "run.spectra.csv"
    net = small_net()
    first = SpectralMonitor(every=2, log=table, collapsed=0.5, budget=None)
    trainer = trainer_of(lightning, tmp_path, first, max_steps=4, max_epochs=-1)
    trainer.fit(module_of(lightning, net), batches(9))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    trainer = trainer_of(lightning, tmp_path, first, max_steps=6, max_epochs=-1)
    trainer.fit(module_of(lightning, net), batches(9), ckpt_path=tmp_path / "half.ckpt")

    with torch.no_grad():
        net[0].weight *= 0.1
    again = SpectralMonitor(every=2, log=table, collapsed=0.5, budget=None)
    trainer = trainer_of(lightning, tmp_path, again, max_steps=8, max_epochs=-1)
    checkpoint = torch.load(tmp_path / "half.ckpt", weights_only=True)
    checkpoint["state_dict"]["net.0.weight"] *= 0.1
    torch.save(checkpoint, tmp_path / "shrunk.ckpt")
    trainer.fit(module_of(lightning, net), batches(9), ckpt_path=tmp_path / "shrunk.ckpt")

    of_first = {r.name: r for r in first.readings if r.step == 1}
    assert {r.name: r for r in again.readings if r.step == 1} == of_first
    steps = [r.step for r in again.readings if r.name == "net.0.weight"]
    assert steps == [
        1,
        2,
        4,
        6,
        8,
    ]  # those of the training that went on from half.ckpt are not in it
    assert list(again.dead) == ["net.0.weight"]
    assert f"from {of_first['net.0.weight'].norm:.3g} after step 1" in again.dead["net.0.weight"]


def test_a_training_resumed_with_another_pattern_keeps_the_first_norms(lightning, tmp_path):
    first = SpectralMonitor(every=2, budget=None)
    trainer = trainer_of(lightning, tmp_path, first, max_steps=4, max_epochs=-1)
    trainer.fit(module_of(lightning, small_net()), batches(9))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again = SpectralMonitor(every=2, budget=None, pattern="net.2*")
    trainer = trainer_of(lightning, tmp_path, again, max_steps=6, max_epochs=-1)
    trainer.fit(module_of(lightning, small_net()), batches(9), ckpt_path=tmp_path / "half.ckpt")
    assert {r.name: r.step for r in again.readings} == {"net.2.weight": 6}
    assert list(again._first.values()) == [first._first["net.2.weight"]]
    assert list(again._latest) == ["net.2.weight"]


def test_the_state_alone_keeps_the_first_norms(lightning, tmp_path):
    first = SpectralMonitor(every=2, budget=None)
    trainer = trainer_of(lightning, tmp_path, first, max_steps=4, max_epochs=-1)
    trainer.fit(module_of(lightning, small_net()), batches(9))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    state = torch.load(tmp_path / "half.ckpt", weights_only=True)["callbacks"]
    assert list(state) == [first.state_key] == ["SpectralMonitor{'pattern': None}"]

    again = SpectralMonitor(every=2, budget=None)
    again.load_state_dict(state[again.state_key])
    assert again.state_dict()["first"] == first.state_dict()["first"]
    assert again.clock.spent == first.clock.spent
    assert again(4, small_net()) == {}  # this step was read before
    weights = {f"net.{name}": values * 1e-5 for name, values in small_net().state_dict().items()}
    again(5, weights)
    assert again(6, weights)["spectral/collapsed"] == 2


def test_two_monitors_of_two_patterns_keep_two_states(lightning, tmp_path):
    monitors = [SpectralMonitor(pattern=f"net.{i}.*") for i in (0, 2)]
    trainer = lightning.Trainer(
        callbacks=list(monitors), default_root_dir=tmp_path, max_epochs=1, logger=False, **QUIET
    )
    trainer.fit(module_of(lightning, small_net()), batches(2))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    states = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]
    assert [states[m.state_key]["first"][0]["name"] for m in monitors] == [
        "net.0.weight",
        "net.2.weight",
    ]


def test_a_monitor_alone_instead_of_a_list_is_a_callback(lightning, tmp_path):
    monitor = SpectralMonitor()
    trainer = lightning.Trainer(
        callbacks=monitor, default_root_dir=tmp_path, max_steps=1, logger=False, **QUIET
    )
    trainer.fit(module_of(lightning, small_net()), batches(1))
    assert len(monitor.readings) == 2
    assert pickle.loads(pickle.dumps(SpectralMonitor(every=7))).every == 7


def test_resnet18_is_measured_layer_by_layer(lightning, tmp_path):
    monitor = SpectralMonitor(every=2, budget=None)
    trainer = trainer_of(lightning, tmp_path, monitor)
    trainer.fit(module_of(lightning, resnet18(), rate=1e-3), batches(2, (2, 3, 32, 32)))
    layers = {r.name for r in monitor.readings}
    assert len(layers) == 20
    assert len(monitor.readings) == 40
    assert not any(math.isnan(r.alpha) for r in monitor.readings)


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_a_monitor_made_before_lightning_is_imported_is_a_callback_too(package, tmp_path):
    code = f"""
import sys, warnings
warnings.simplefilter("ignore")
from specdiag import SpectralMonitor
monitor = SpectralMonitor(every=1, budget=None)
assert not any("lightning" in name and "specdiag" not in name for name in sys.modules)
assert "torch" not in sys.modules
import {package} as L, torch
class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(60, 60)
    def training_step(self, batch, _):
        return self.net(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)
trainer = L.Trainer(callbacks=[monitor], logger=False, enable_checkpointing=False, max_epochs=1,
                    enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(3, 4, 60), batch_size=None))
assert [r.step for r in monitor.readings] == [1, 2, 3]
assert isinstance(monitor, L.Callback)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_callback_is_deprecated_and_returns_the_monitor():
    monitor = SpectralMonitor()
    with pytest.warns(DeprecationWarning, match="callbacks=\\[SpectralMonitor\\(\\)\\]"):
        assert monitor.callback() is monitor


def test_other_attributes_are_missing_as_of_any_object():
    with pytest.raises(AttributeError) as error:
        SpectralMonitor().colour  # noqa: B018
    assert str(error.value) == "'SpectralMonitor' object has no attribute 'colour'"


def test_the_first_process_alone_measures(lightning):
    from types import SimpleNamespace

    monitor = SpectralMonitor(every=1, budget=None)
    trainer = SimpleNamespace(is_global_zero=False, global_step=1)
    monitor.on_train_batch_end(trainer, small_net(), None, None, 0)
    assert monitor.readings == []


@pytest.mark.parametrize("mark", ["_fsdp_flattened", "_is_flat_param", "ds_tensor"])
def test_parameters_that_fsdp_1_or_deepspeed_have_cut_are_sharded(mark):
    net = small_net()
    assert not is_sharded(net)
    setattr(net[2].weight, mark, True)
    assert is_sharded(net)


def test_a_module_of_fsdp_1_is_never_asked_for_its_state_dict():
    class FullyShardedDataParallel(torch.nn.Linear):
        def state_dict(self):
            raise AssertionError("it waits for other processes")

    monitor = SpectralMonitor(every=1, budget=None)
    assert monitor(1, torch.nn.Sequential(FullyShardedDataParallel(60, 60))) == {}


def test_sharded_parameters_are_refused_in_one_line(caplog, tmp_path):
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    init_process_group("gloo", init_method=f"file://{tmp_path}/rank", rank=0, world_size=1)
    try:
        net = fully_shard(small_net(), mesh=init_device_mesh("cpu", (1,)))
        monitor = SpectralMonitor(every=1, budget=None)
        with caplog.at_level(logging.WARNING):
            assert [monitor(step, net) for step in (1, 2)] == [{}, {}]
    finally:
        destroy_process_group()
    assert [r.getMessage() for r in caplog.records] == [
        (
            "SpectralMonitor: the parameters are sharded over processes (FSDP, or stage 3 of "
            "DeepSpeed), so they are not measured while training; measure its checkpoints: "
            "specdiag alpha FILE"
        )
    ]
    assert monitor.readings == []
