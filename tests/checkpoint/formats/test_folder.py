"""A folder is read if it holds one network, else named with what it is and what to do."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy
import torch

from specdiag.checkpoint.reader import open_checkpoint, tensor_digest


def read(path):
    return {t.name: t.read() for t in open_checkpoint(path).tensors}


def save(path, **tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors or {"w": np.ones((2, 2))}, path)


NAMED = [
    # parts of one network
    (["latest", "global_step7/zero_pp_rank_0_mp_rank_00_model_states.pt"], "DeepSpeed's ZeRO"),
    (["bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"], "zero_to_fp32.py"),
    (["consolidated.00.pth", "consolidated.01.pth", "params.json"], "split for model parallelism"),
    (["mp_rank_00/model_optim_rng.pt", "mp_rank_01/model_optim_rng.pt"], "2 shards of one network"),
    (["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"], "2 shards of one network"),
    (
        ["layer_00-model_00-model_states.pt", "layer_01-model_00-model_states.pt"],
        "2 layers of one network",
    ),
    (["zero/a.weight/fp32.pt", "zero/a.weight/exp_avg.pt"], "a universal checkpoint of DeepSpeed"),
    (
        ["m-00001-of-00003.safetensors", "m-00003-of-00003.safetensors"],
        "only 2 shards of 3 .*, without the index m.safetensors.index.json; download the others",
    ),
    (
        ["m-00002-of-00006.safetensors"],
        r"only shard 2 of 6 \(m-00002-of-00006.safetensors\), with",
    ),
    # other programs
    (["saved_model.pb", "variables/variables.index"], "a TensorFlow SavedModel"),
    (["checkpoint", "m.index", "m.data-00000-of-00001"], "a TensorFlow checkpoint"),
    (["_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "d/1"], "a checkpoint of Orbax"),
    (["100/_CHECKPOINT_METADATA", "100/default/manifest.ocdbt"], "'100' is a checkpoint of Orbax"),
    (["checkpoint", "target.w/.zarray", "target.w/0.0"], "'target.w' is a folder of Zarr arrays"),
    (["Manifest.json", "Data/com.apple.CoreML/model.mlmodel"], "'Data' is a Core ML package"),
    (["openvino_model.xml", "openvino_model.bin"], "a model of OpenVINO"),
    (["rank0.engine", "config.json"], "a TensorRT engine by its name"),
    # parents of checkpoints
    (["snapshots/0a1b/unet/a.safetensors"], "in its subfolders snapshots/0a1b/unet; name"),
    (["checkpoints/last.ckpt"], "in its subfolders checkpoints; name"),
    (["unet/a.safetensors", "vae/a.safetensors"], "in its subfolders unet, vae; name"),
    (["run/version_0/a.ckpt", "run/x/b.txt"], "in its subfolders run/version_0; name"),
    (
        ["pytorch_model_fsdp_0/.metadata", "optimizer_0/.metadata", "optimizer.bin"],
        "in its subfolders pytorch_model_fsdp_0; name",
    ),
    (["weights/.metadata", "context/model.yaml"], "in its subfolders weights; name"),
    (["model.safetensors", "adapter_model.safetensors"], "name one of them, or the adapter with"),
    (["a.pt", "b.pt"], r"2 checkpoints in the folder \(a.pt, b.pt\); name one"),
    # nothing
    ([], "no checkpoint in the folder, no files"),
    (
        ["config.json", "tokenizer.json"],
        "only config.json, tokenizer.json; expected .safetensors.*.gguf, .onnx",
    ),
    (["optimizer.pt", "scheduler.pt"], "only optimizer.pt, scheduler.pt; expected"),
]


@pytest.mark.parametrize(("files", "expected"), NAMED)
def test_a_folder_that_cannot_be_read_is_named_with_what_to_do(files, expected, tmp_path):
    (tmp_path / "f").mkdir()
    for name in files:
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(b"x")
    with pytest.raises((ValueError, FileNotFoundError), match=expected) as caught:
        open_checkpoint(tmp_path / "f")
    assert str(caught.value).startswith(("f: ", "rank0.engine: "))
    assert len(str(caught.value).splitlines()) == 1


def test_all_shards_are_read_without_their_index_and_a_note_says_so(tmp_path):
    save(tmp_path / "m-00001-of-00002.safetensors", a=np.eye(2))
    save(tmp_path / "m-00002-of-00002.safetensors", b=np.eye(3))
    checkpoint = open_checkpoint(tmp_path)
    assert [t.name for t in checkpoint.tensors] == ["a", "b"]
    assert checkpoint.notes == (
        "the index m.safetensors.index.json is missing: all 2 shards are read",
    )
    save(tmp_path / "m-00002-of-00002.safetensors", a=np.eye(3))
    with pytest.raises(ValueError, match="'a' is in two shards"):
        open_checkpoint(tmp_path)


def test_all_shards_of_a_gguf_file_are_read(tmp_path):
    gguf = pytest.importorskip("gguf")
    values = {f"blk.{i}.attn_k.weight": np.full((4, 32), i, np.float32) for i in range(3)}
    for folder, options in (("one", {}), ("split", {"split_max_tensors": 2})):
        (tmp_path / folder).mkdir()
        writer = gguf.GGUFWriter(tmp_path / folder / "m.gguf", "llama", **options)
        for name, value in values.items():
            writer.add_tensor(name, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    shards = sorted((tmp_path / "split").iterdir())
    assert len(shards) == 2
    assert tensor_digest(tmp_path / "split") == tensor_digest(tmp_path / "one")


def test_the_weights_of_deepspeed_without_zero_3_are_whole(tmp_path):
    module = {"0.weight": torch.ones(9, 9)}
    torch.save({"module": module, "ds_version": "0.15"}, tmp_path / "mp_rank_00_model_states.pt")
    (tmp_path / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"x")
    checkpoint = open_checkpoint(tmp_path)
    assert [t.name for t in checkpoint.tensors] == ["0.weight"]
    assert "zero_to_fp32.py gathers it" in checkpoint.notes[-1]


@pytest.mark.parametrize(
    "parts",
    [
        ["latest", "global_step7/zero_pp_rank_0_mp_rank_00_model_states.pt"],
        ["consolidated.00.pth", "consolidated.01.pth"],
        ["mp_rank_00/x.pt", "mp_rank_01/x.pt"],
    ],
)
def test_a_whole_network_is_read_beside_the_parts_of_one(parts, tmp_path):
    for name in parts:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"global_step7")
    save(tmp_path / "model.safetensors")
    assert list(read(tmp_path)) == ["w"]


@pytest.mark.parametrize(
    "names",
    [
        ["consolidated.00.pth", "consolidated.01.pth"],
        ["mp_rank_00/model_optim_rng.pt", "mp_rank_01/model_optim_rng.pt"],
    ],
)
def test_a_shard_of_model_parallelism_is_a_part_of_every_matrix(names, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save({"w": torch.ones(2, 2)}, tmp_path / name)
    (note,) = open_checkpoint(tmp_path / names[1]).notes
    assert note.startswith("only a part of each matrix: one of 2 shards of model parallelism")
    (tmp_path / names[1]).unlink()
    if "/" in names[1]:
        (tmp_path / names[1]).parent.rmdir()
    assert open_checkpoint(tmp_path / names[0]).notes == ()


def test_of_several_files_the_only_one_with_a_matrix_is_the_network(tmp_path):
    network = torch.nn.Linear(9, 9)
    torch.save(network.state_dict(), tmp_path / "agent.pth")
    torch.save({}, tmp_path / "variables.pth")
    torch.save({"log_alpha": torch.zeros(1)}, tmp_path / "alpha.pth")
    torch.save(torch.optim.SGD(network.parameters()).state_dict(), tmp_path / "solver.pth")
    checkpoint = open_checkpoint(tmp_path)
    assert [t.name for t in checkpoint.tensors] == ["weight", "bias"]
    assert checkpoint.notes == tuple(
        f"not read, as it holds no matrix: '{name}.pth'"
        for name in ("alpha", "solver", "variables")
    )
    (tmp_path / "alpha.pth").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"2 checkpoints in the folder \(agent.pth, alpha.pth\)"):
        open_checkpoint(tmp_path)


def test_checkpoints_in_subfolders_of_a_checkpoint_are_named(tmp_path):
    save(tmp_path / "model.safetensors")
    save(tmp_path / "2_Dense" / "model.safetensors")
    assert open_checkpoint(tmp_path).notes == (
        "not read: the checkpoints in the subfolders 2_Dense",
    )


def test_files_that_trainers_write_beside_the_weights_are_passed_over(tmp_path):
    torch.save({"w": torch.ones(2, 2)}, tmp_path / "pytorch_model.bin")
    for name in (
        *("optimizer.bin", "optimizer_0.bin", "sampler_train.bin", "rng_state_0.pth"),
        *("scheduler.pt", "training_args.bin", "dl_state_dict.bin", "policy.optimizer.pth"),
        *("pytorch_optim-00001.bin", "pytorch_optim.bin.index.json", "distrib_optim.pt"),
    ):
        torch.save({"w": torch.ones(9, 9)}, tmp_path / name)
    assert list(read(tmp_path)) == ["w"]


def test_a_shard_alone_is_a_part_of_a_network(tmp_path):
    shard = tmp_path / "model-00002-of-00006.safetensors"
    save(shard)
    (note,) = open_checkpoint(shard).notes
    assert note == (
        "only a part of the network: shard 2 of 6 by its name; the index is "
        "'model.safetensors.index.json': it is missing"
    )
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": shard.name}}))
    assert "name it to read all shards" in open_checkpoint(shard).notes[0]
    assert open_checkpoint(index).notes == ()


@pytest.mark.parametrize("name", ["model_best.pth.tar", "a1b2.th", "m.ptl", "checkpoint.pt.tar"])
def test_files_of_torch_are_found_by_their_usual_extensions(name, tmp_path):
    torch.save({"w": torch.ones(2, 2)}, tmp_path / name)
    assert list(read(tmp_path)) == ["w"]


def test_other_files_of_networks_in_the_folder_are_named(tmp_path):
    save(tmp_path / "model.safetensors")
    for name in ("pytorch_model.bin", "policy.pt", "flax_model.msgpack", "optimizer.pt", "a.json"):
        (tmp_path / name).write_bytes(b"x")
    assert open_checkpoint(tmp_path).notes == (
        "not read: flax_model.msgpack, policy.pt, pytorch_model.bin in the same folder",
    )
    index = {"weight_map": {"w": "model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert open_checkpoint(tmp_path).notes == (
        "not read: flax_model.msgpack, policy.pt, pytorch_model.bin in the same folder",
    )


def test_a_file_of_zero_is_named_as_one_of_several(tmp_path):
    file = tmp_path / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": {"fp32_flat_groups": [torch.ones(99)]}}, file)
    with pytest.raises(ValueError, match=r"which zero_to_fp32\.py puts together"):
        open_checkpoint(file)


def test_an_array_alone_in_a_folder_is_read(tmp_path, rng):
    np.save(tmp_path / "w.npy", rng.standard_normal((60, 60)))

    (tensor,) = open_checkpoint(tmp_path).tensors

    assert tensor.shape == (60, 60)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_named(tmp_path):
    (tmp_path / "f").mkdir(mode=0o300)

    with pytest.raises(PermissionError):
        open_checkpoint(tmp_path / "f")
