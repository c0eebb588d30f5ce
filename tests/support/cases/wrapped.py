"""One network under other names, twice in a file, or beside what is no network."""

import argparse
import copy

import numpy as np

from support.cases.case import Made, arrays, case, fill, heavy, linears, sequence

WIDTHS = (96, 128, 64)


def _averaged(state):
    """Return a state dict whose values have moved a little, as an average of steps has."""
    return {k: v * 0.998 if v.is_floating_point() else v for k, v in state.items()}


def _made(folder, content, right, name="model.pt"):
    import torch

    torch.save(content, folder / name)
    return Made(folder / name, right)


@case("torch")
def students_and_teachers(folder):
    """Self-distillation: two networks of one shape, and a centre beside."""
    import torch

    net = sequence(*WIDTHS)
    student = {"module.backbone." + k: v for k, v in net.state_dict().items()}
    content = {"student": student, "teacher": _averaged(student), "epoch": 7}
    content["dino_loss"] = {"center": torch.zeros(1, 64)}
    return _made(folder, content, linears(net))


@case("torch")
def momentum_encoders(folder):
    """Contrastive learning in one state dict: two encoders and a queue of unit vectors."""
    import torch

    net = sequence(*WIDTHS)
    state = {f"module.encoder_q.{k}": v for k, v in net.state_dict().items()}
    state |= {f"module.encoder_k.{k}": v for k, v in _averaged(net.state_dict()).items()}
    queue = torch.from_numpy(heavy(64, 512))
    state["module.queue"] = queue / queue.norm(dim=0)
    state["module.queue_ptr"] = torch.zeros(1, dtype=torch.int64)
    return _made(
        folder, {"arch": "net", "state_dict": state}, linears(net), "checkpoint_0010.pth.tar"
    )


@case("torch")
def online_and_ema_model(folder):
    """A package that averages: the network, its average and two flags in one state dict."""
    import torch

    net = sequence(*WIDTHS)
    state = {f"online_model.{k}": v for k, v in net.state_dict().items()}
    state |= {f"ema_model.{k}": v for k, v in _averaged(net.state_dict()).items()}
    state |= {"initted": torch.tensor(True), "step": torch.tensor(10)}
    return _made(folder, state, linears(net))


@case("torch")
def raw_and_averaged_in_nested_dicts(folder):
    net = sequence(*WIDTHS)
    state = net.state_dict()
    content = {"models": {"raw": state, "smoothed": _averaged(state)}, "config": {"lr": 1e-3}}
    return _made(folder, content, linears(net))


@case("torch")
def average_as_a_list(folder):
    """An average kept as a list of tensors, without names, as diffusion code does."""
    net = sequence(*WIDTHS)
    shadow = [p.detach() * 0.998 for p in net.parameters()]
    content = {
        "model": net.state_dict(),
        "ema": {"decay": 0.999, "num_updates": 5, "shadow_params": shadow},
    }
    return _made(folder, content, linears(net))


@case("torch")
def averages_without_dots(folder):
    """Latent diffusion: an average in the same state dict, its names without dots."""
    import torch

    net = sequence(*WIDTHS)
    state = {f"model.net.{k}": v for k, v in net.state_dict().items()}
    state |= {"model_ema.net" + k.replace(".", ""): v * 0.998 for k, v in net.state_dict().items()}
    state |= {"model_ema.decay": torch.tensor(0.99), "model_ema.num_updates": torch.tensor(4)}
    return _made(folder, {"state_dict": state}, linears(net), "last.ckpt")


@case("torch")
def critics_and_targets(folder):
    """An agent: two critics that are different networks, each with a slow copy."""
    one, two, actor = sequence(96, 80, 64), sequence(96, 80, 64, seed=7), sequence(72, 64, seed=9)
    state = {f"actor.{k}": v for k, v in actor.state_dict().items()}
    for name, critic in (("qf1", one), ("qf2", two)):
        state |= {f"{name}.{k}": v for k, v in critic.state_dict().items()}
        state |= {f"{name}_target.{k}": v for k, v in _averaged(critic.state_dict()).items()}
    return _made(folder, state, linears(one) + linears(two) + linears(actor))


@case("torch")
def module_and_average_pickled(folder):
    """Whole modules: the network in half precision, its average, and the optimizer's state."""
    import torch

    net = sequence(*WIDTHS)
    ema = copy.deepcopy(net)
    ema.load_state_dict(_averaged(net.state_dict()))
    content = {"model": net, "ema": ema, "optimizer": torch.optim.SGD(net.parameters(), 0.1)}
    content["optimizer"] = content["optimizer"].state_dict()
    return _made(folder, content, linears(net))


@case("torch")
def sgd_with_momentum_alone(folder):
    """An optimizer in the old numbering, its buffers as large as the layers."""
    import torch

    net = sequence(*WIDTHS)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.ones(4, 96)).square().sum().backward()
    optimizer.step()
    return _made(folder, optimizer.state_dict(), [], "optim.pt")


@case("torch")
def factored_moments_beside(folder):
    """A trainer's state: factored moments and preconditioners are matrices, none is a weight."""
    import torch

    net = sequence(*WIDTHS)
    moments = {
        i: {
            "exp_avg_sq_row": torch.ones(128),
            "preconditioner": torch.from_numpy(heavy(96, 96, seed=i)),
        }
        for i in range(4)
    }
    optim = {"state": moments, "param_groups": [{"lr": 1.0, "params": [0, 1, 2, 3]}]}
    content = {"weights": net.state_dict(), "opt_states": [optim, copy.deepcopy(optim)], "it": 3}
    return _made(folder, content, linears(net))


@case("torch")
def optimizer_by_names(folder):
    """An optimizer whose state has the names of the layers, as sharded training saves it."""
    import torch

    net = sequence(*WIDTHS)
    state = {
        name: {"step": torch.tensor(4.0), "exp_avg": p.detach() * 2, "exp_avg_sq": p.detach() ** 2}
        for name, p in net.named_parameters()
    }
    groups = [{"lr": 0.1, "params": list(state)}]
    content = {"model": net.state_dict(), "optim": {"state": state, "param_groups": groups}}
    return _made(folder, content, linears(net))


@case("torch")
def flattened_optimizer(folder):
    """Names of the layers and of the moments joined in one flat dict."""
    net = sequence(*WIDTHS)
    state = {f"model.{k}": v for k, v in net.state_dict().items()}
    for name, p in net.named_parameters():
        state[f"optim.state.{name}.exp_avg"] = p.detach() * 2
        state[f"optim.state.{name}.exp_avg_sq"] = p.detach() ** 2
    return _made(folder, state, linears(net))


@case("torch")
def pair_of_network_and_optimizer(folder):
    import torch

    net = sequence(*WIDTHS)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(4, 96)).square().sum().backward()
    optimizer.step()
    return _made(folder, (3, net.state_dict(), optimizer.state_dict()), linears(net))


@case("torch")
def compiled_in_parallel(folder):
    """Wrappers within names: compiled blocks, recomputed activations, sharding."""
    from torch import nn

    net = fill(nn.ModuleDict({"blocks": sequence(*WIDTHS), "head": nn.Linear(64, 80)}))
    names = ("module._orig_mod.blocks._fsdp_wrapped_module.{}._checkpoint_wrapped_module.{}",)
    state = {}
    for key, value in net.state_dict().items():
        first, rest = key.split(".", 1)
        if first == "blocks":
            state[names[0].format(*rest.split("."))] = value
        else:
            state[f"module._orig_mod.{key}"] = value
    return _made(folder, {"model_state": state, "n_averaged": 3}, linears(net))


@case("torch", "lightning")
def lightning_with_loss(folder):
    """A Lightning file whose module has a loss with class weights, and a metric's table."""
    import lightning
    import torch
    from torch import nn

    net = sequence(*WIDTHS)
    state = {f"net.{k}": v for k, v in net.state_dict().items()}
    state["loss_fn.weight"] = torch.ones(64)
    state["val_confusion.confmat"] = torch.arange(64 * 64).reshape(64, 64).float()
    content = {
        "epoch": 2,
        "global_step": 20,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": state,
        "optimizer_states": [torch.optim.AdamW(nn.Linear(2, 2).parameters()).state_dict()],
        "hyper_parameters": {"lr": 1e-3, "args": argparse.Namespace(width=96)},
        "callbacks": {"EMA": {"decay": 0.99, "ema_state_dict": _averaged(state)}},
    }
    return _made(folder, content, None, "epoch=2-step=20.ckpt")


@case("torch")
def zero_stage_three(folder):
    """A shard of ZeRO-3: every parameter is emptied, the shapes are beside."""
    import torch

    net = sequence(*WIDTHS)
    state = {k: torch.empty(0, dtype=torch.bfloat16) for k in net.state_dict()}
    shapes = [{k: v.shape for k, v in net.state_dict().items()}]
    content = {"module": state, "param_shapes": shapes, "buffer_names": [], "ds_version": "0.15.0"}
    return _made(folder, content, [], "zero_pp_rank_0_mp_rank_00_model_states.pt")


@case("torch")
def tied_saved_twice(folder):
    """One head under two names, bit for bit: it is one piece of evidence."""
    net = sequence(96, 96, 96)
    state = net.state_dict()
    state["copy.weight"] = state["0.weight"].clone()
    return _made(folder, state, linears(net))


@case("torch")
def soup_of_two_networks(folder):
    """A list of two different networks, as an ensemble is saved."""
    one, two = sequence(96, 80), sequence(96, 64, seed=3)
    right = linears(one) + linears(two)
    return _made(folder, [one.state_dict(), two.state_dict()], right)


@case("torch")
def hypergraph_of_scripts(folder):
    """TorchScript, with a buffer that is a window of a Fourier transform."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = sequence(*WIDTHS)
            t = np.arange(128)
            basis = np.cos(2 * np.pi * np.outer(np.arange(96), t) / 128).astype("f4")
            self.register_buffer("basis", torch.from_numpy(basis))

        def forward(self, x):
            return self.body(x @ self.basis.T)

    net = Net().eval()
    torch.jit.trace(net, torch.ones(2, 128)).save(str(folder / "net.ts"))
    return Made(folder / "net.ts", arrays([net.body[0].weight, net.body[2].weight]))
