"""Two processes of torch.distributed that measure features, for tests.

    python -m support.ranks RANK WORLD STORE OUT

Rank 0 writes what `attach` says of all processes: its numbers, and those of one process alone.
"""

import pickle
import sys
import warnings
from pathlib import Path

import torch

from specdiag.features.attach import attach
from specdiag.features.covariance import FeatureCovariance
from support.features import numbers
from support.nets import bert


def measured(model, batches):
    with torch.no_grad(), attach(model, "*0.*.dense") as features:
        for tokens, mask in batches:
            features.expect(mask=mask)
            model(tokens, attention_mask=mask)
    return features


def main(rank, world, store, out):
    """Measure every second batch, and nothing in the last process; compare with one process."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world
    )
    model = bert().eval()
    draw = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(20):
        mask = (torch.arange(9) < torch.randint(2, 10, (6, 1), generator=draw)).long()
        batches.append((torch.randint(0, 100, (6, 9), generator=draw), mask))
    own = measured(model, batches[rank :: world - 1] if rank < world - 1 else [])
    whole = own.over_ranks()
    again = own.over_ranks()
    none = FeatureCovariance().over_ranks()
    odd = FeatureCovariance()
    odd.update(torch.ones(3, 2 + rank))
    try:
        odd.over_ranks()
        refused = ""
    except ValueError as error:
        refused = str(error)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [
            {name: (one.n_samples, one.n_groups, numbers(one)) for name, one in spectra.items()}
            for spectra in (whole.result(), again.result(), measured(model, batches).result())
        ]
    Path(out).write_bytes(pickle.dumps((found, none.n_samples, refused)))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
