"""Of a network that a file holds twice, one copy is read, wherever the others lie."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import specdiag
from specdiag.checkpoint.reader import open_checkpoint


def state(seed=0, width=64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 32)).state_dict()


NAMES = list(state())


def values(checkpoint):
    return checkpoint.tensors[0].read()


# Each has the first network at the path `read`, and the second one at `twin`.
TREES = {
    "ensemble": (lambda a, b: {"seed0": a, "seed1": b}, "seed0", "seed1"),
    "generators": (lambda a, b: {"G": a, "D": b, "iteration": 3}, "G", "D"),
    "list": (lambda a, b: [a, b], "0", "1"),
    "list in a dict": (lambda a, b: {"models": [a, b], "lr": 0.1}, "models.0", "models.1"),
    "one level down": (
        lambda a, b: {"lagging": {"params": b}, "learner": {"params": a}},
        "learner.params",
        "lagging.params",
    ),
    "beside the network": (
        lambda a, b: {"model": a, "extra_state": {"ema": b, "n": 1}},
        "model",
        "extra_state.ema",
    ),
    "in a callback": (
        lambda a, b: {"state_dict": a, "callbacks": {"EMA": {"weights": b}}},
        "state_dict",
        "callbacks.EMA.weights",
    ),
    "with a wrapper": (
        lambda a, b: {"net": a, "avg": {f"module.{n}": W for n, W in b.items()}},
        "net",
        "avg",
    ),
    "camel case": (lambda a, b: {"modelEma": b, "model": a}, "model", "modelEma"),
}


@pytest.mark.parametrize("tree", TREES)
def test_one_of_two_networks_is_read_and_the_other_by_its_name(tree, opened):
    build, read, twin = TREES[tree]
    first, second = state(0), state(1)
    saved = build(first, second)
    checkpoint = opened(saved)
    assert len(checkpoint.tensors) == len(NAMES)
    assert (values(checkpoint) == first["0.weight"].numpy()).all()
    (note,) = [note for note in checkpoint.notes if "same names" in note]
    assert note.startswith(f"{twin!r} has the same names and shapes as {read!r}; only {read!r} is ")
    assert f"(--which {twin} reads the other)" in note
    for name in (twin, twin.rpartition(".")[2]):
        if name != "params":  # both are called so
            other = opened(saved, which=name)
            assert (values(other) == second["0.weight"].numpy()).all()
            assert len(other.tensors) == len(NAMES)


def test_networks_of_other_shapes_are_parts_of_one(opened):
    checkpoint = opened({"G": state(), "D": state(1, 48)})
    assert [t.name for t in checkpoint.tensors] == [f"{k}.{name}" for k in "GD" for name in NAMES]
    assert checkpoint.notes == ()


def test_of_three_networks_one_is_read(opened):
    checkpoint = opened({"a": state(0), "b": state(1), "c": state(2)})
    assert [t.name for t in checkpoint.tensors] == NAMES
    assert len(checkpoint.notes) == 2


# Names of the average of `0.weight` and of the network itself, in one state dict.
FLAT = {
    "ema": ("ema.{}", "{}", "ema"),
    "model_ema": ("model_ema.{}", "model.{}", "model_ema"),
    "shadow of a module": ("net.ema.module.{}", "net.core.{}", "net.ema"),
    "keys beside a queue": ("module.encoder_k.{}", "module.encoder_q.{}", "module.encoder_k"),
    "words of keys": ("key_encoder.{}", "query_encoder.{}", "key_encoder"),
    "momentum encoder": ("momentum_encoder.{}", "base_encoder.{}", "momentum_encoder"),
    "momentum by a letter": ("text_encoder_m.{}", "text_encoder.{}", "text_encoder_m"),
    "teacher": ("teacher.backbone.{}", "student.backbone.{}", "teacher"),
    "target": ("target_critic.{}", "critic.{}", "target_critic"),
    "numbered target": ("critic_target_1.{}", "critic_1.{}", "critic_target_1"),
    "target and policy": ("target_net.{}", "policy_net.{}", "target_net"),
    "target alone": ("target.{}", "model.{}", "target"),
    "local": ("qnetwork_target.{}", "qnetwork_local.{}", "qnetwork_target"),
    "camel case": ("agent.criticTarget.{}", "agent.critic.{}", "agent.criticTarget"),
    "average": ("avg_model.{}", "net.{}", "avg_model"),
    "average of any name": ("ema_model.{}", "unet.{}", "ema_model"),
    "underscores": ("ema_{_}", "{}", "ema"),
    "no dots": ("model_ema.diffusion_model{-}", "model.diffusion_model.{}", "model_ema"),
}


def named(pattern, name):
    short = {"{}": name, "{_}": name.replace(".", "_"), "{-}": name.replace(".", "")}
    for mark, text in short.items():
        pattern = pattern.replace(mark, text)
    return pattern


@pytest.fixture(params=["safetensors", "index", "npz", "torch", "memory"])
def kept(request, tmp_path):
    """Return a function that keeps tensors in a file of one kind and opens it."""

    def keep(tensors, **options):
        if request.param == "memory":
            return open_checkpoint(tensors, **options)
        path = tmp_path / f"net.{request.param}"
        if request.param == "torch":
            torch.save(tensors, path)
        elif request.param == "npz":
            np.savez(path, **{name: value.numpy() for name, value in tensors.items()})
        else:
            save_file(tensors, tmp_path / "net.safetensors")
            path = tmp_path / "net.safetensors"
        if request.param == "index":
            names = sorted(tensors)
            shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
            for shard, part in shards.items():
                save_file({name: tensors[name] for name in part}, tmp_path / shard)
            path = tmp_path / "model.safetensors.index.json"
            shard_of = {name: shard for shard, part in shards.items() for name in part}
            path.write_text(json.dumps({"weight_map": shard_of}))
        return open_checkpoint(path, **options)

    return keep


@pytest.mark.parametrize("kind", FLAT)
def test_an_average_beside_its_network_is_left_out_of_every_format(kind, kept):
    average, network, which = FLAT[kind]
    first, second = state(0), state(1)
    tensors = {named(network, name): W for name, W in first.items()}
    tensors |= {named(average, name): W for name, W in second.items()}
    tensors["queue"] = torch.ones(3, 4)
    checkpoint = kept(tensors)
    assert len(checkpoint.tensors) == len(NAMES) + 1
    digests = {t.read().tobytes() for t in checkpoint.tensors}
    assert first["0.weight"].numpy().tobytes() in digests
    assert second["0.weight"].numpy().tobytes() not in digests
    (note,) = checkpoint.notes
    assert note.startswith(f"{which!r} has the same names and shapes as ")
    assert f"--which {which} " in note


@pytest.mark.parametrize("which", ["model_ema", "model"])
def test_a_part_of_any_format_can_be_chosen(which, kept):
    tensors = {f"model.{n}": W for n, W in state().items()}
    tensors |= {f"model_ema.{n}": W for n, W in state(1).items()}
    checkpoint = kept(tensors, which=which)
    assert len(checkpoint.tensors) == len(NAMES)
    digests = {t.read().tobytes() for t in checkpoint.tensors}
    assert state(which == "model_ema")["0.weight"].numpy().tobytes() in digests


@pytest.mark.parametrize(
    "names",
    [
        ("critic1.{}", "critic2.{}"),
        ("encoder.{}", "decoder.{}"),
        ("layers.0.{}", "layers.1.{}"),
        ("target_embedding.{}", "source.{}x"),
        ("target_encoder.{}", "source_encoder.{}"),
        ("target_encoder.{}", "context_encoder.{}"),
        ("pool_avg.{}", "pool_max.{}"),
        ("avg.{}", "max.{}"),
        ("old_head.{}", "new_head.{}"),
        ("key_encoder.{}", "query_encoder.{}"),
        ("encoder_k.{}", "encoder_q.{}"),
        ("teacher_forcing.{}", "free_running.{}"),
        ("b.target_critic.{}", "a.critic.{}"),
    ],
)
def test_two_trained_parts_of_one_network_are_both_read(names, kept):
    tensors = {named(names[0], n): W for n, W in state(0).items()}
    tensors |= {named(names[1], n): W for n, W in state(1).items()}
    checkpoint = kept(tensors)
    assert len(checkpoint.tensors) == 2 * len(NAMES)
    assert checkpoint.notes == ()


def test_an_average_of_which_a_weight_has_another_shape_is_no_twin(kept):
    tensors = {f"ema.{n}": W for n, W in state(0).items()}
    tensors |= {f"net.{n}": W for n, W in state(1, 48).items()}
    assert len(kept(tensors).tensors) == 2 * len(NAMES)


def test_moments_of_an_optimizer_in_a_flat_file_are_left_aside(kept):
    tensors = {f"model.{n}": W for n, W in state().items()}
    for moment in ("exp_avg", "exp_avg_sq", "step"):
        tensors |= {f"optim.state.{n}.{moment}": W for n, W in state(1).items()}
    checkpoint = kept(tensors)
    assert sorted(t.name for t in checkpoint.tensors) == sorted(NAMES)
    assert checkpoint.notes == ("12 tensors under 'optim' are not part of the model",)


MESSAGE = "the state of an optimizer.*, not a network; name the file of the model"


@pytest.mark.parametrize(
    "names",
    ["optim.state.{}.exp_avg", "state.{}.momentum_buffer", "optimizer.0.{}", "{}.exp_avg_sq"],
)
def test_moments_alone_are_no_network(names, kept):
    with pytest.raises(ValueError, match=MESSAGE):
        kept({named(names, n): W for n, W in state().items()})


def optimizer_state():
    parameters = [nn.Parameter(torch.ones(64, 64)), nn.Parameter(torch.ones(64))]
    optimizer = torch.optim.Adam(parameters)
    sum(p.sum() for p in parameters).backward()
    optimizer.step()
    return optimizer.state_dict()


ALONE = {
    "in an entry": lambda o: {"optimizer": o},
    "beside settings": lambda o: {"optim": o, "epoch": 3, "scheduler": {"last_epoch": 3}},
    "of any name": lambda o: {"mine": o},
    "two": lambda o: [o, o],
    "a list": lambda o: {"optimizer_states": [o], "state_dict": {}},
    "nested": lambda o: {"state": {"optimizer": o}},
    "without its groups": lambda o: o["state"],
    "the values of one moment": lambda o: {"exp_avg": [o["state"][0]["exp_avg"]]},
}


@pytest.mark.parametrize("kind", ALONE)
def test_a_file_of_an_optimizer_alone_says_so_and_is_not_exported(kind, opened, tmp_path):
    saved = ALONE[kind](optimizer_state())
    with pytest.raises(ValueError, match=MESSAGE):
        opened(saved)
    for function in (
        specdiag.alpha,
        lambda source: specdiag.export(source, tmp_path / "a.safetensors"),
    ):
        with pytest.raises(ValueError, match=MESSAGE):
            function(saved)
    assert not (tmp_path / "a.safetensors").exists()


def test_many_networks_and_deep_trees_are_read_in_bounds():
    many = {f"net{i}": state() for i in range(100)}
    assert len(open_checkpoint(many).tensors) == 100 * len(NAMES)
    deep = state()
    for _ in range(50):
        deep = {"a": deep}
    assert len(open_checkpoint({"x": deep, "y": deep}).tensors) in (len(NAMES), 2 * len(NAMES))
    loop = {"model": state(), "ema": {}}
    loop["ema"]["again"] = loop
    assert len(open_checkpoint(loop).tensors) == len(NAMES)
