"""Tensors whose names differ are paired, and the notes say by which rule."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import specdiag
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.comparison.pairing import pair_names, renamed, spelling
from support.commands import run_forked


@pytest.fixture
def network(rng):
    """Return two matrices of one shape, a head and their biases."""
    shapes = {"0.weight": (64, 64), "0.bias": (64,), "2.weight": (64, 64), "head.weight": (9, 64)}
    return {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}


def pairing(first, second):
    return pair_names(open_checkpoint(first), open_checkpoint(second))


def notes(first, second):
    return renamed(open_checkpoint(first), open_checkpoint(second)).notes


@pytest.mark.parametrize(
    "wrap",
    [
        lambda n: f"module.{n}",
        lambda n: f"_orig_mod.{n}",
        lambda n: f"module._orig_mod.{n}",
        lambda n: f"_forward_module.{n}",
        lambda n: f"_fsdp_wrapped_module.{n}",
        lambda n: f"base_model.model.{n}",
        lambda n: f"_module.{n}",
        lambda n: f"model.module._orig_mod._fsdp_wrapped_module._fpw_module.{n}",
        lambda n: f"base_model.model.{n}".replace("head.", "head.modules_to_save.default."),
        lambda n: n.replace("0.", "0._checkpoint_wrapped_module."),
        lambda n: n.replace("2.", "2._fsdp_wrapped_module._checkpoint_wrapped_module."),
        lambda n: n.replace("0.weight", "0.base_layer.weight"),
        lambda n: n.replace("head.", "head.module."),
    ],
)
def test_identical_weights_are_identical_through_any_wrapper(wrap, network):
    wrapped = {wrap(name): W for name, W in network.items()}
    for pair in ((network, wrapped), (wrapped, network)):
        dataset = specdiag.compare(*pair)
        assert set(dataset.relation.values.ravel()) == {"identical"}
        assert dataset.conclusion.item().startswith("identical")


@pytest.mark.parametrize(
    "extra", [{"criterion.pos_weight": np.ones(9)}, {"n_averaged": np.array(3)}], ids=str
)
def test_an_entry_beside_the_network_hides_no_partner(extra, network):
    wrapped = {f"module.{name}": W for name, W in network.items()} | extra
    for pair in ((network, wrapped), (wrapped, network)):
        paired = pairing(*pair)
        assert len(paired.partner) == len(network)
        assert specdiag.compare(*pair).conclusion.item().startswith("identical: all 4 weights in")


def test_names_that_differ_in_their_spelling_are_paired_and_the_notes_say_so(network):
    other = {name.replace(".", " ").title(): W + 1 for name, W in network.items()}
    paired = pairing(network, other)
    assert {paired.partner[n]: rule for n, rule in paired.rules.items()} == dict.fromkeys(
        network, "by spelling"
    )
    (note,) = notes(network, other)
    assert note == (
        "4 tensors paired by spelling: '0 Weight' is '0.weight', '0 Bias' is '0.bias' and 2 more"
    )


def test_numbers_are_not_joined_by_the_spelling():
    assert spelling("layer1.1.Weight") == "layer.1.1.weight"
    assert spelling("layer11.weight") != spelling("layer1.1.weight")


def test_a_prefix_of_one_side_is_removed_where_it_pairs_most(network):
    other = {f"encoder.{name}": W + 1 for name, W in network.items()} | {"top.x": np.eye(3)}
    for pair in ((network, other), (other, network)):
        assert set(pairing(*pair).rules.values()) == {"without a prefix"}


def test_two_prefixes_that_fit_alike_pair_nothing_by_name(network):
    other = {f"{p}.{n}": W + i + 1 for i, p in enumerate("ab") for n, W in network.items()}
    assert pairing(network, other).partner == {}


def test_equal_values_pair_names_that_have_nothing_in_common(network):
    names = dict(zip(network, ("alpha", "beta", "gamma", "delta"), strict=True))
    other = {names[n]: network[n] for n in reversed(network)}
    paired = pairing(network, other)
    assert paired.partner == {new: old for old, new in names.items()}
    assert set(paired.rules.values()) == {"by equal values"}


def test_equal_values_that_occur_twice_pair_nothing():
    first = {"a": np.ones((8, 8)), "b": np.ones((8, 8)), "c": np.eye(8)}
    second = {"x": np.ones((8, 8)), "y": np.eye(8)}
    assert pairing(first, second).partner == {"y": "c"}


def test_the_same_shapes_in_the_same_order_pair_the_rest(network):
    names = dict(zip(network, ("alpha", "beta", "gamma", "delta"), strict=True))
    other = {names[n]: W + 1 for n, W in network.items()}
    paired = pairing(network, other)
    assert paired.partner == {new: old for old, new in names.items()}
    assert set(paired.rules.values()) == {"by shape and order"}
    assert pairing(network, dict(list(other.items())[::-1])).partner == {}


def test_a_new_head_is_not_paired_by_its_shape(network):
    other = {n: W for n, W in network.items() if n != "head.weight"}
    other["classifier.weight"] = network["head.weight"] + 1
    assert "classifier.weight" not in pairing(network, other).partner


def test_names_are_replaced_on_request(network, tmp_path):
    other = {n.replace("head", "top"): W + (n == "head.weight") for n, W in network.items()}
    relations = specdiag.compare(network, other).relation.values.ravel()
    assert "only in first" in relations
    relations = specdiag.compare(network, other, rename={"top.": "head."}).relation.values.ravel()
    assert sorted(relations) == ["different", *["identical"] * 3]
    save_file(network, tmp_path / "a.safetensors")
    save_file(other, tmp_path / "b.safetensors")
    files = [str(tmp_path / f"{n}.safetensors") for n in "ab"]
    status, out, _ = run_forked(".", "compare", *files, "--rename", "top.", "head.")
    assert status == 0
    assert "only in" not in out


def test_an_impossible_renaming_is_an_error(network):
    with pytest.raises(ValueError, match="no name of a tensor to rename contains 'x'"):
        specdiag.compare(network, network, rename={"x": "y"})
    with pytest.raises(ValueError, match="after renaming, 2 tensors are"):
        specdiag.compare(network, network, rename={"2.": "0."})
