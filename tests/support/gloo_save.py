"""Saves a distributed checkpoint from several processes; run by a test, one process a rank."""

import os
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor


def main(rank, world, folder):
    """Save a network of FSDP2 with its optimizer, and tensors that are sharded in other ways."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[4]}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(33, 47), nn.ReLU(), nn.Linear(47, 3, bias=False))
    values = torch.randn(13, 17)
    for layer in (*network, network):
        fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(4, 33)).sum().backward()
    optimizer.step()
    model, state = get_state_dict(network, optimizer)
    more = {
        "rows": distribute_tensor(values, mesh, [Shard(0)]),
        "columns": distribute_tensor(values, mesh, [Shard(1)]),
        "whole": distribute_tensor(values, mesh, [Replicate()]),
        "one row": distribute_tensor(values[:1], mesh, [Shard(0)]),
    }
    dcp.save({"model": model, "optimizer": state, "epoch": 7, "more": more}, checkpoint_id=folder)
    writer = HuggingFaceStorageWriter(f"{folder}-safetensors", save_distributed=True)
    dcp.save(more, storage_writer=writer)
    torch.save(more, f"{folder}-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
