"""Cost of `attach` on one Linear layer of 768 features, over forward passes of BERT base.

    python -m benchmarks.attach [--pairs 2] [--device cuda]

The bar is 5 %. Weights are random, tokens too. A side is as many batches as it takes until the rows
that wait are added to the sums, so that all work is counted; sides take turns batch by batch, in
alternating order. On the CPU times are processor time, elsewhere seconds on the clock between two
synchronisations. Nothing here is a test.
"""

import argparse
import copy
import time

from benchmarks._timing import as_table, processor_time, ratio_of
from specdiag.features.attach import attach

BAR = 1.05
LAYER = "encoder.layer.6.attention.output.dense"
WIDTH = 768
SHAPES = ((8, 128), (16, 32))  # batch, tokens


def bert(device):
    """Return BERT base with random weights."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return BertModel(BertConfig()).eval().to(device)


def clocked(function):
    """Return the seconds on the clock that a function takes, the device included."""
    import torch

    torch.accelerator.synchronize()
    start = time.perf_counter()
    function()
    torch.accelerator.synchronize()
    return time.perf_counter() - start


def row(model, batch, tokens, pairs, device):
    """Return the row of one shape of batches."""
    import torch

    draw = torch.Generator().manual_seed(0)
    rows = 16 * WIDTH  # which are added together
    batches = torch.randint(0, 30000, (-(-rows // (batch * tokens)), batch, tokens), generator=draw)
    batches = batches.to(device)
    seconds = processor_time if device == "cpu" else clocked

    other = copy.deepcopy(model)
    passed = {}

    def both():
        passed.update({id(model): 0.0, id(other): 0.0})
        with torch.no_grad(), attach(model, LAYER):
            for i, one in enumerate(batches):
                for network in (model, other) if i % 2 else (other, model):
                    passed[id(network)] += seconds(lambda network=network, one=one: network(one))
        return passed[id(model)]

    return ratio_of(
        f"{device}, {batch} x {tokens} tokens",
        both,
        lambda: passed[id(other)],
        pairs,
        warm=device != "cpu",
        bar=BAR,
    )


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    model = bert(options.device)
    print(as_table([row(model, *shape, options.pairs, options.device) for shape in SHAPES]))


if __name__ == "__main__":
    main()
