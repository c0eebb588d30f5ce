"""Files of other programs: ONNX, GGUF, MessagePack of Flax, HDF5 of Keras, torch's shards."""

import json

import numpy as np

from support.cases.case import Made, arrays, case, fill, heavy, kernel, linears, sequence


@case("torch", "onnx")
def onnx_of_image_network(folder):
    """Convolutions and layers with a transposed second factor keep torch's names and layout."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Conv2d(3, 64, 5), nn.ReLU(), nn.Conv2d(64, 80, 3), nn.Flatten())
    net.append(nn.Linear(80 * 4, 96))
    fill(net).eval()
    example = torch.zeros(1, 3, 8, 8)
    torch.onnx.export(net, (example,), str(folder / "net.onnx"), dynamo=False)
    return Made(folder / "net.onnx", linears(net))


@case("torch", "onnx")
def onnx_of_recurrent_network(folder):
    """A factor (in, out) of a product without a bias; gates of an LSTM with an axis of one."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(64, 72, batch_first=True)
            self.mix = nn.Linear(72, 96, bias=False)

        def forward(self, x):
            return self.mix(self.rnn(x)[0])

    net = fill(Net()).eval()
    torch.onnx.export(net, (torch.zeros(1, 5, 64),), str(folder / "net.onnx"), dynamo=False)
    rnn = net.rnn
    return Made(folder / "net.onnx", arrays([rnn.weight_ih_l0, rnn.weight_hh_l0, net.mix.weight]))


@case("gguf")
def gguf_of_experts(folder):
    """A GGUF file: tables by name, stacked experts, one matrix in eight bits, one in four."""
    import gguf

    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_block_count(1)
    writer.add_head_count(2)
    weights = {
        "token_embd.weight": heavy(128, 96),
        "output.weight": heavy(128, 96, seed=1),
        "blk.0.attn_q.weight": heavy(96, 96, seed=2),
        "blk.0.ffn_up_exps.weight": heavy(4, 128, 96, seed=3),
        "blk.0.ffn_gate_inp.weight": heavy(64, 96, seed=4),
    }
    right = [np.float64(v) for k, v in weights.items() if "token" not in k]
    for name, value in weights.items():
        writer.add_tensor(name, value)
    writer.add_tensor("output_norm.weight", np.ones(96, "f4"))
    for name, bits in (("attn_k", "Q8_0"), ("attn_v", "Q4_0")):
        kind = gguf.GGMLQuantizationType[bits]
        packed = gguf.quantize(heavy(96, 96, seed=9), kind)
        writer.add_tensor(f"blk.0.{name}.weight", packed, raw_dtype=kind)
        right.append(np.float64(gguf.dequantize(packed, kind)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Made(folder / "model.gguf", right)


@case("msgpack")
def flax_msgpack(folder):
    """flax.serialization: arrays are extensions of type 1, (shape, dtype, bytes) each."""
    import msgpack

    tree = {
        "params": {
            "Conv_0": {
                "kernel": np.moveaxis(kernel(96, 64, 3), (0, 1), (-1, -2)),
                "bias": np.zeros(96, "f4"),
            },
            "Dense_0": {"kernel": heavy(96, 80), "bias": np.zeros(80, "f4")},
            "Embed_0": {"embedding": heavy(200, 96, seed=3)},
        },
        "batch_stats": {"BatchNorm_0": {"mean": np.zeros(96, "f4"), "var": np.ones(96, "f4")}},
        "step": 3,
    }

    def extension(array):
        content = (array.shape, array.dtype.name, array.tobytes())
        return msgpack.ExtType(1, msgpack.packb(content, use_bin_type=True))

    text = msgpack.packb(tree, default=extension, strict_types=True)
    (folder / "model.msgpack").write_bytes(text)
    params = tree["params"]
    right = [params["Conv_0"]["kernel"], params["Dense_0"]["kernel"]]
    return Made(folder / "model.msgpack", [np.float64(a) for a in right])


def _keras_layers():
    image = np.moveaxis(kernel(96, 64, 3, 3), (0, 1), (-1, -2))
    return {
        "conv2d": {"kernel": image, "bias": np.zeros(96, "f4")},
        "dense": {"kernel": heavy(96, 80), "bias": np.zeros(80, "f4")},
        "embedding": {"embeddings": heavy(200, 96, seed=3)},
        "lstm": {
            "kernel": heavy(64, 288, seed=4),
            "recurrent_kernel": heavy(72, 288, seed=5),
            "bias": np.zeros(288, "f4"),
        },
    }


def _right_of_keras():
    found = (v for layer in _keras_layers().values() for k, v in layer.items() if "kernel" in k)
    return [np.float64(v) for v in found]


@case("h5py")
def keras_before_version_three(folder):
    """An .h5 file: a group a layer, its weights listed in attributes; the optimizer beside."""
    import h5py

    with h5py.File(folder / "model.h5", "w") as file:
        file.attrs["keras_version"] = "2.11.0"
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {}})
        top = file.create_group("model_weights")
        top.attrs["layer_names"] = [name.encode() for name in _keras_layers()]
        for layer, weights in _keras_layers().items():
            group = top.create_group(layer)
            names = [f"{layer}/{'lstm_cell/' * (layer == 'lstm')}{k}:0" for k in weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, weights.values(), strict=True):
                group[name] = value
        file["optimizer_weights/Adam/dense/kernel/m:0"] = heavy(96, 80, seed=8)
    return Made(folder / "model.h5", _right_of_keras())


@case("h5py")
def keras_weights_of_version_three(folder):
    """A .weights.h5 file: variables by number, classes by the names of their layers."""
    import h5py

    with h5py.File(folder / "model.weights.h5", "w") as file:
        for layer, weights in _keras_layers().items():
            inner = f"layers/{layer}/{'cell/' * (layer == 'lstm')}vars"
            for i, value in enumerate(weights.values()):
                file[f"{inner}/{i}"] = value
        file["optimizer/vars/0"] = np.int64(7)
        file["optimizer/vars/1"] = heavy(96, 80, seed=8)
    return Made(folder / "model.weights.h5", _right_of_keras())


@case("torch")
def distributed(folder):
    """A folder of torch's distributed checkpoint, with the optimizer's state in it."""
    import torch
    import torch.distributed.checkpoint as dcp

    net = sequence(96, 128, 64)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(4, 96)).square().sum().backward()
    optimizer.step()
    content = {"app": {"model": net.state_dict(), "optim": optimizer.state_dict()}, "step": 7}
    dcp.save(content, checkpoint_id=str(folder / "step-7"), no_dist=True)
    return Made(folder / "step-7", linears(net))


@case("torch")
def numbered_parts_of_an_archive(folder):
    """NumPy's .npz of a torch state dict, and an object array that is not read."""
    net = sequence(96, 80)
    values = {k: v.numpy() for k, v in net.state_dict().items()}
    np.savez(folder / "net.npz", **values)
    return Made(folder / "net.npz", linears(net))


@case("torch", "safetensors")
def sentence_transformer(folder):
    """A folder with a transformer, and a Dense layer in a subfolder of its own."""
    from safetensors.torch import save_file

    net = sequence(96, 128, 64)
    save_file(net.state_dict(), folder / "model.safetensors")
    (folder / "2_Dense").mkdir(exist_ok=True)
    save_file(sequence(96, 80, seed=4).state_dict(), folder / "2_Dense" / "model.safetensors")
    (folder / "modules.json").write_text("[]")
    return Made(folder, linears(net))


@case("torch")
def megatron_shard(folder):
    """Megatron: nested dicts, a version beside, and names of its own for fused attention."""
    import torch

    tensors = {
        "embedding": {"word_embeddings": {"weight": heavy(256, 128)}},
        "encoder": {
            "layers.0.self_attention.query_key_value.weight": heavy(384, 128, seed=1),
            "layers.0.self_attention.dense.weight": heavy(128, 128, seed=2),
            "layers.0.mlp.dense_h_to_4h.weight": heavy(256, 128, seed=3),
            "layers.0.mlp.dense_4h_to_h.weight": heavy(128, 256, seed=4),
        },
    }

    def as_torch(tree):
        if isinstance(tree, dict):
            return {k: as_torch(v) for k, v in tree.items()}
        return torch.from_numpy(tree)

    content = {"model": {"language_model": as_torch(tensors)}, "iteration": 5, "args": {"tp": 1}}
    torch.save(content, folder / "model_optim_rng.pt")
    right = [np.float64(v) for v in tensors["encoder"].values()]
    return Made(folder / "model_optim_rng.pt", right)
