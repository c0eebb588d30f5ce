"""Share of a training's time that SpectralMonitor takes, with its budget of 2 %.

    python -m benchmarks.monitor [--seconds 75] [--device cpu]

A BERT base trains in a loop of its own, and a ResNet-18 in Lightning's Trainer with a CSV logger,
with a reading due after every step, so that the budget alone limits readings. Timed is every call
of the monitor from outside of it, by the wall clock and in processor time, its logging included.
A training shorter than 50 seconds is not held to the share: the first second is free.
"""

import argparse
import tempfile
import time

from benchmarks._timing import Measured, as_table
from specdiag import SpectralMonitor

BUDGET = 0.02
SENTENCES, TOKENS, IMAGES = 4, 128, 32


class Timed(SpectralMonitor):
    """A monitor that is timed from outside: by each call, and by each call of Lightning."""

    def __init__(self):
        super().__init__(every=1, budget=BUDGET)
        self.wall = self.processor = 0.0

    def timed(self, function, *arguments):
        """Call a function, and add the time that it takes."""
        wall, processor = time.perf_counter(), time.process_time()
        function(*arguments)
        self.wall += time.perf_counter() - wall
        self.processor += time.process_time() - processor

    def on_train_batch_end(self, *arguments):
        """Take the readings that are due."""
        self.timed(super().on_train_batch_end, *arguments)


def bert(monitor, seconds, device):
    """Train a BERT base on random tokens in a loop until the time is over; return the steps."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    model = BertForMaskedLM(BertConfig()).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    start, step = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        tokens = torch.randint(0, 30000, (SENTENCES, TOKENS), device=device)
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        monitor.timed(monitor, step, model)
    return step


def resnet(monitor, seconds, device):
    """Train a ResNet-18 on random images in a Trainer until the time is over; return the steps."""
    import torch
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers import CSVLogger
    from transformers import ResNetConfig, ResNetModel

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            sizes = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512]}
            self.net = ResNetModel(ResNetConfig(depths=[2, 2, 2, 2], layer_type="basic", **sizes))

        def training_step(self, batch, _):
            return self.net(batch).pooler_output.square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    def images():
        while True:
            yield torch.randn(IMAGES, 3, 64, 64)

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu" if device == "cpu" else "gpu",
            callbacks=[monitor],
            logger=CSVLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            max_steps=-1,
            max_time={"seconds": seconds},
        )
        trainer.fit(Module(), images())
    return trainer.global_step


def share(what, train, seconds, device):
    """Return the row of a training: the share of the time that the monitor took."""
    monitor = Timed()
    wall, processor = time.perf_counter(), time.process_time()
    steps = train(monitor, seconds, device)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    spectra = sum(r.rank > 0 for r in monitor.readings)
    matrices = len({r.name for r in monitor.readings})
    note = (
        f"{wall:.0f} s, {steps} steps, {spectra} spectra of {matrices} matrices; "
        f"of the processor time {monitor.processor / processor:.3g}"
    )
    return Measured(what=what, value=monitor.wall / wall, bar=BUDGET, note=note)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=75)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    rows = [
        share(what, train, options.seconds, options.device)
        for what, train in (
            ("monitor, BERT base in a loop, of the time", bert),
            ("monitor, ResNet-18 in Lightning, of the time", resnet),
        )
    ]
    print(as_table(rows))


if __name__ == "__main__":
    main()
