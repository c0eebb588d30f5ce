"""Perceptrons trained on handwritten digits with true and with shuffled labels."""

import itertools

import numpy as np

from benchmarks._results import write
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.htsr.measure import measure
from specdiag.htsr.null import law
from specdiag.htsr.selection import matrices

SIZES = (64, 256, 256, 128, 10)
EPOCHS = 150


def shuffled_labels(full):
    """Write alpha, null_p and accuracy of networks that learned true, shuffled, and no labels."""
    rows = []
    for labels in ("none (untrained)", "true", "shuffled"):
        runs = [_train(labels, seed) for seed in range(3 if full else 1)]
        rows.append({"labels": labels, "count": len(runs)} | _summary(runs))
    write("shuffled_labels", rows)


def _summary(runs):
    train, test, states = zip(*runs, strict=True)
    layers = [
        [*measure(matrices(open_checkpoint(state), "[024].weight"), gof=False)] for state in states
    ]
    alphas = np.array([[x.posterior.mean for x in network] for network in layers])
    return {
        "train": float(np.mean(train)),
        "test": float(np.mean(test)),
        **dict(zip(("first", "second", "third"), alphas.mean(axis=0).tolist(), strict=True)),
        "least_z": max(_distance(x) for network in layers for x in network),
        "largest_p": max(x.null_p for network in layers for x in network),
    }


def _distance(layer):
    """Return log(alpha - 1) minus its mean for Gaussian matrices, in standard deviations."""
    mean, sd, _ = law.moments(layer.shape)
    return float((np.log(layer.posterior.mean - 1) - mean) / sd)


def _train(labels, seed):
    """Return accuracy on the training and test digits, and the weights."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    digits = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits.target))
    x = torch.tensor(digits.data[order] / 16, dtype=torch.float32)
    truth = torch.tensor(digits.target[order])
    taught = truth if labels != "shuffled" else truth[torch.tensor(rng.permutation(len(order)))]
    n = 1200
    torch.manual_seed(seed)
    parts = [part for a, b in itertools.pairwise(SIZES) for part in (nn.Linear(a, b), nn.ReLU())]
    network = nn.Sequential(*parts[:-1])
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(0 if labels.startswith("none") else EPOCHS):
        for batch in torch.randperm(n).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x[batch]), taught[batch]).backward()
            optimiser.step()
    with torch.no_grad():
        answer = network(x).argmax(dim=1)
    right = (answer[:n] == taught[:n]).float().mean(), (answer[n:] == truth[n:]).float().mean()
    return *map(float, right), network.state_dict()
