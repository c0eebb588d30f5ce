"""Small networks trained on handwritten digits, many seeds at once: how far two seeds differ.

The weights of all seeds are stacked along a first axis, so one pass trains them all; they share
nothing.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, gelu, layer_norm

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.dataset.spectra import measure_checkpoint

N_TRAINING = 1500
N_CLASSES = 10
N_TOKENS = 8  # of 8 pixels
N_HEADS = 4


class Networks:
    """Random weights and random batches of `n_seeds` networks."""

    def __init__(self, n_seeds, first_seed):
        self._generators = [
            torch.Generator().manual_seed(first_seed + seed) for seed in range(n_seeds)
        ]
        pixels, labels = load_digits(return_X_y=True)
        pixels, labels = torch.tensor(pixels / 8 - 1, dtype=torch.float32), torch.tensor(labels)
        self._pixels, self._held_out_pixels = pixels[:N_TRAINING], pixels[N_TRAINING:]
        self._labels, self._held_out_labels = labels[:N_TRAINING], labels[N_TRAINING:]
        self.weights = {}

    def add(self, name, n_out, n_in):
        scale = n_in**-0.5
        drawn = [torch.randn(n_out, n_in, generator=g) * scale for g in self._generators]
        self.weights[name] = torch.stack(drawn).requires_grad_()

    def apply(self, name, x):
        return x @ self.weights[name].transpose(1, 2)

    def batch(self, size):
        index = torch.stack(
            [torch.randint(0, N_TRAINING, (size,), generator=g) for g in self._generators]
        )
        return self._pixels[index], self._labels[index]

    def train(
        self, forward, *, steps, lr, weight_decay=0.0, optimizer="adamw", size=32, patience=0
    ):
        """Return the trained weights of each network.

        With `patience` a network is stopped early: its weights are those of its lowest held-out
        loss, taken every 20 steps, before so many in a row do not fall below it.
        """
        chosen = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
        options = {"momentum": 0.9} if optimizer == "sgd" else {}
        stepper = chosen(self.weights.values(), lr=lr, weight_decay=weight_decay, **options)
        kept, lowest, last = (
            {},
            np.full(len(self._generators), np.inf),
            np.zeros(len(self._generators)),
        )
        for step in range(1, steps + 1):
            x, labels = self.batch(size)
            logits = forward(x).reshape(-1, N_CLASSES)
            loss = cross_entropy(logits, labels.reshape(-1), reduction="sum") / size
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            if patience and step % 20 == 0:
                losses = self._held_out_losses(forward)
                running = step - last <= 20 * patience
                for i in np.flatnonzero(running & (losses < lowest)):
                    kept[i], lowest[i], last[i] = self._weights_of(i), losses[i], step
                if not running.any():
                    break
        return [kept.get(i) or self._weights_of(i) for i in range(len(self._generators))]

    def _held_out_losses(self, forward):
        n = len(self._generators)
        with torch.no_grad():
            logits = forward(self._held_out_pixels.expand(n, -1, -1)).reshape(-1, N_CLASSES)
            losses = cross_entropy(logits, self._held_out_labels.repeat(n), reduction="none")
        return losses.reshape(n, -1).mean(dim=1).numpy()

    def _weights_of(self, i):
        return {name: W[i].detach().numpy().copy() for name, W in self.weights.items()}


def mlp(n_seeds, *, first_seed=0, depth=6, width=64, hidden=128, **training):
    """Return the weights of residual networks of two layers a block."""
    nets = Networks(n_seeds, first_seed)
    nets.add("input.weight", width, N_TOKENS * 8)
    for i in range(depth):
        nets.add(f"blocks.{i}.fc1.weight", hidden, width)
        nets.add(f"blocks.{i}.fc2.weight", width, hidden)
    nets.add("readout.weight", N_CLASSES, width)

    def forward(x):
        x = nets.apply("input.weight", x)
        for i in range(depth):
            z = gelu(nets.apply(f"blocks.{i}.fc1.weight", layer_norm(x, (width,))))
            x = x + nets.apply(f"blocks.{i}.fc2.weight", z)
        return nets.apply("readout.weight", layer_norm(x, (width,)))

    return nets.train(forward, **training)


def transformer(n_seeds, *, first_seed=0, depth=4, width=64, **training):
    """Return the weights of transformers that read the rows of a digit as tokens."""
    nets = Networks(n_seeds, first_seed)
    nets.add("input.weight", width, 8)
    nets.add("position", N_TOKENS, width)
    for i in range(depth):
        nets.add(f"blocks.{i}.qkv.weight", 3 * width, width)
        nets.add(f"blocks.{i}.out.weight", width, width)
        nets.add(f"blocks.{i}.fc1.weight", 2 * width, width)
        nets.add(f"blocks.{i}.fc2.weight", width, 2 * width)
    nets.add("readout.weight", N_CLASSES, width)

    def attention(i, x, shape):
        qkv = nets.apply(f"blocks.{i}.qkv.weight", layer_norm(x, (width,)))
        q, k, v = qkv.reshape(*shape, 3, N_HEADS, -1).movedim(-3, 0).transpose(2, 3).unbind()
        mixed = torch.softmax(q @ k.mT / (width // N_HEADS) ** 0.5, -1) @ v
        return nets.apply(f"blocks.{i}.out.weight", mixed.transpose(2, 3).reshape(x.shape))

    def forward(pixels):
        shape = (n_seeds, pixels.shape[1], N_TOKENS)
        x = nets.apply("input.weight", pixels.reshape(n_seeds, -1, 8)).reshape(*shape, width)
        x = (x + 3 * nets.weights["position"][:, None] * width**0.5).reshape(n_seeds, -1, width)
        for i in range(depth):
            x = x + attention(i, x, shape)
            z = gelu(nets.apply(f"blocks.{i}.fc1.weight", layer_norm(x, (width,))))
            x = x + nets.apply(f"blocks.{i}.fc2.weight", z)
        pooled = layer_norm(x, (width,)).reshape(*shape, width).mean(2)
        return nets.apply("readout.weight", pooled)

    return nets.train(forward, **training)


KINDS = {"mlp": mlp, "transformer": transformer}


def measured(weights):
    """Return the measured layers of the blocks of a network."""
    chosen = {name: W for name, W in weights.items() if name.startswith("blocks.")}
    return measure_checkpoint(open_checkpoint(chosen), gof=False)
