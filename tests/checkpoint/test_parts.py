"""Of a checkpoint with an optimizer or several networks, one network is read, and notes say so."""

import collections
import contextlib

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import specdiag
from specdiag.checkpoint.reader import open_checkpoint


def network(seed=0, width=64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 32))


@pytest.fixture
def trained():
    """Return the state dicts of a network and of its optimizer."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 64)).sum().backward()
    optimizer.step()
    return model.state_dict(), optimizer.state_dict()


def names(checkpoint):
    return [t.name for t in checkpoint.tensors]


def test_the_state_of_an_optimizer_is_no_network(trained, opened, tmp_path):
    message = "the state of an optimizer, not a network; name the file of the model"
    with pytest.raises(ValueError, match=message):
        opened(trained[1])
    torch.save(trained[1], tmp_path / "optimizer.bin")
    for function in (
        specdiag.alpha,
        lambda path: specdiag.export(path, tmp_path / "a.safetensors"),
    ):
        with pytest.raises(ValueError, match=r"^optimizer.bin: " + message):
            function(tmp_path / "optimizer.bin")


def test_a_pickled_optimizer_is_no_network(tmp_path):
    torch.save(torch.optim.SGD(network().parameters(), momentum=0.9), tmp_path / "o.pt")
    with pytest.raises(ValueError, match="the state of an optimizer"):
        open_checkpoint(tmp_path / "o.pt")


@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize("more", [(), (3,), ({"lr": 0.1}, None)], ids=str)
def test_an_optimizer_in_a_sequence_beside_the_network_is_left_aside(kind, more, trained, opened):
    state, optimizer = trained
    checkpoint = opened(kind((state, optimizer, *more)))
    assert names(checkpoint) == list(state)
    assert checkpoint.notes == ("12 tensors under '1' are not part of the model",)


@pytest.mark.parametrize("key", ["solver", "sgd", "my_thing", "weights"])
def test_an_optimizer_of_any_name_is_left_aside(key, trained, opened):
    state, optimizer = trained
    checkpoint = opened({"net": state, key: optimizer})
    assert names(checkpoint) == list(state)
    assert checkpoint.notes == (f"12 tensors under '{key}' are not part of the model",)


def test_an_optimizer_inside_another_entry_is_left_aside(trained, opened):
    state, optimizer = trained
    checkpoint = opened({"trainer": {"agent": state, "adam": optimizer}, "epoch": 1})
    assert names(checkpoint) == [f"trainer.agent.{name}" for name in state]
    assert checkpoint.notes == ("12 tensors under 'trainer.adam' are not part of the model",)


@pytest.mark.parametrize(
    ("read", "twin"),
    [("params", "params_ema"), ("net", "net_ema"), ("model", "best_model"), ("a", "b")],
)
def test_of_two_networks_with_the_same_names_and_shapes_one_is_read(read, twin, trained, opened):
    state, _ = trained
    average = {name: 0.9 * W for name, W in state.items()}
    for saved in ({read: state, twin: average}, {twin: average, read: state}):
        if (read, twin) == ("a", "b") and next(iter(saved)) == "b":
            continue  # nothing says which of the two is the average
        checkpoint = opened(saved)
        assert names(checkpoint) == list(state)
        assert checkpoint.notes[0].startswith(
            f"'{twin}' has the same names and shapes as '{read}'; only '{read}' is read "
        )
        assert f"--which {twin}" in checkpoint.notes[0]
        assert (checkpoint.tensors[0].read() == state["0.weight"].numpy()).all()
        other = opened(saved, which=twin)
        assert names(other) == list(state)
        assert (other.tensors[0].read() == average["0.weight"].numpy()).all()


def test_a_pickled_module_and_its_average_are_twins(tmp_path):
    torch.save({"model": network(), "copy": network(1)}, tmp_path / "m.pt")
    checkpoint = open_checkpoint(tmp_path / "m.pt")
    assert len(checkpoint.tensors) == 4
    assert "same names and shapes" in checkpoint.notes[0]


def test_a_twin_beside_another_network_is_left_out(trained, opened):
    state, optimizer = trained
    other = network(1, 48).state_dict()
    checkpoint = opened({"g": state, "d": other, "g_ema": state, "g_optim": optimizer})
    assert names(checkpoint) == [f"{part}.{name}" for part in "gd" for name in state]
    assert len(checkpoint.notes) == 2


def test_an_average_inside_the_state_dict_is_left_out_also_without_dots(trained, opened):
    state, _ = trained
    flat = {f"model.diffusion.{n}": W for n, W in state.items()}
    flat |= {f"model_ema.diffusion{n.replace('.', '')}": W for n, W in state.items()}
    flat["model_ema.decay"] = torch.tensor(0.9)
    checkpoint = opened({"state_dict": flat})
    assert names(checkpoint) == [f"diffusion.{n}" for n in state]
    assert "'model_ema' has the same names and shapes as 'model'" in checkpoint.notes[0]
    average = opened({"state_dict": flat}, which="model_ema")
    assert len(average.tensors) == 5
    assert average.notes == ("4 tensors under 'model' are not part of the model",)


def test_layers_that_are_alike_are_no_twins(opened):
    layers = {f"layer{i}.{n}": W for i in range(3) for n, W in network(i).state_dict().items()}
    nested = {
        f"Block_{i}": {
            "Dense_0": {"kernel": torch.ones(64, 64)},
            "Dense_1": {"kernel": torch.ones(9, 9)},
        }
        for i in range(3)
    }
    for saved, count in ((layers, 12), (nested, 6)):
        checkpoint = opened(saved)
        assert len(checkpoint.tensors) == count
        assert checkpoint.notes == ()


def test_tensors_beside_a_state_dict_are_no_weights_unless_they_have_names_of_modules(
    trained, opened
):
    state, _ = trained
    features = torch.ones(90, 64)
    checkpoint = opened({"state_dict": state, "features": features, "cov": features + 1})
    assert names(checkpoint) == list(state)
    assert sorted(checkpoint.notes) == [
        f"1 tensor under '{name}' is not part of the model" for name in ("cov", "features")
    ]
    for saved in (
        {"state_dict": state, "head.weight": features},
        {"encoder": state, "head": features},
    ):
        assert len(names(opened(saved))) == len(state) + 1


def test_an_unknown_network_is_an_error_that_lists_the_known_ones(trained, opened):
    saved = {"net": trained[0], "net_ema": trained[0]}
    with pytest.raises(ValueError, match=r"no network 'x'; its parts are 'net', 'net_ema', '0'"):
        opened(saved, which="x")


@pytest.mark.parametrize(
    "tree",
    [
        {"state": {}, "param_groups": []},
        [{"state": 1, "param_groups": 2}],
        {"a": {"0.w": torch.ones(2, 2), "1.w": [torch.ones(2, 2)]}, "b": {"0.w": 1}},
        {"model_ema.": torch.ones(2, 2), ".": torch.ones(2, 2), "model.": torch.ones(2, 2)},
        ({}, [], (), {"x": collections.OrderedDict()}),
        {"ema": None, "model": {"ema.a": torch.ones(1), "target": {"b": torch.ones(2, 2)}}},
    ],
    ids=range(6),
)
def test_odd_trees_are_read_or_refused_as_invalid(tree, opened):
    with contextlib.suppress(ValueError):
        assert len(opened(tree).tensors) <= 3


def test_a_part_of_a_safetensors_file_is_chosen_by_the_first_word_of_its_names(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"net.w": torch.ones(2, 2), "ema.w": torch.zeros(2, 2)}, path)
    assert names(open_checkpoint(path, which="ema")) == ["ema.w"]
    with pytest.raises(ValueError, match="no name of a tensor starts with 'x"):
        open_checkpoint(path, which="x")
