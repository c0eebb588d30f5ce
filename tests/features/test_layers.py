import numpy as np
import pytest
import torch

from specdiag.features.attach import attach
from support.features import measured, numbers

nn = torch.nn


def rows_of(x, axis):
    """Return (samples, positions, features) of an input, by definition of its axes."""
    return torch.movedim(x, axis, -1).flatten(1, -2) if x.ndim > 2 else torch.movedim(x, axis, -1)


class Convolution(nn.Conv2d):
    """A subclass that does more before."""

    def forward(self, x):
        return super().forward(torch.relu(x))


CHANNELS = [
    (nn.Conv1d(6, 4, 3), (5, 6, 9)),
    (nn.Conv2d(6, 4, 3, groups=2), (5, 6, 7, 8)),
    (Convolution(6, 4, 3), (5, 6, 7, 8)),
    (nn.Conv3d(6, 4, 2), (5, 6, 3, 4, 2)),
    (nn.ConvTranspose1d(6, 4, 3), (5, 6, 9)),
    (nn.ConvTranspose2d(6, 4, 3), (5, 6, 7, 8)),
    (nn.LazyConv2d(4, 3), (5, 6, 7, 8)),
    (nn.BatchNorm1d(6), (5, 6, 9)),
    (nn.BatchNorm1d(6), (40, 6)),
    (nn.BatchNorm2d(6), (5, 6, 7, 8)),
    (nn.GroupNorm(2, 6), (5, 6, 7, 8)),
    (nn.InstanceNorm2d(6, affine=True), (5, 6, 7, 8)),
    (nn.MaxPool2d(2), (5, 6, 7, 8)),
]


@pytest.mark.parametrize(("layer", "shape"), CHANNELS, ids=lambda x: type(x).__name__)
def test_features_of_convolutions_pools_and_their_norms_are_the_channels(layer, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 2
    with torch.no_grad(), attach(layer.eval()) as seen:
        layer(x)
    expected = measured(rows_of(x, 1))
    np.testing.assert_array_equal(numbers(seen.result()), numbers(expected))
    assert (seen.result().n_groups, len(seen.result().eigenvalues)) == (expected.n_groups, 6)


LAST = [
    (nn.Linear(6, 4), (5, 9, 6)),
    (nn.Linear(6, 4), (5, 3, 4, 6)),
    (nn.LayerNorm(6), (5, 9, 6)),
    (nn.RMSNorm(6), (5, 9, 6)),
    (nn.LSTM(6, 4, batch_first=True), (5, 9, 6)),
    (nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), (5, 9, 6)),
]


@pytest.mark.parametrize(("layer", "shape"), LAST, ids=lambda x: type(x).__name__)
def test_features_of_other_layers_are_the_last_axis(layer, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), attach(layer.eval()) as seen:
        layer(x)
    np.testing.assert_array_equal(numbers(seen.result()), numbers(measured(x)))


@pytest.mark.parametrize("layer", [nn.GRU(6, 4), nn.RNN(6, 4), nn.MultiheadAttention(6, 2)])
def test_samples_are_the_second_axis_of_layers_that_take_tokens_first(layer):
    x = torch.randn(9, 5, 6)
    with torch.no_grad(), attach(layer.eval()) as seen:
        layer(*[x] * (3 if isinstance(layer, nn.MultiheadAttention) else 1))
    np.testing.assert_array_equal(numbers(seen.result()), numbers(measured(x.transpose(0, 1))))
    assert seen.result().n_groups == 5


def test_a_norm_over_several_axes_has_all_of_them_as_features():
    x = torch.randn(40, 3, 2)
    norm = nn.LayerNorm((3, 2)).eval()
    with torch.no_grad(), attach(norm) as seen:
        norm(x)
    np.testing.assert_array_equal(numbers(seen.result()), numbers(measured(x.flatten(1)[:, None])))


@pytest.mark.parametrize("layer", [nn.Conv1d(6, 4, 3), nn.Conv2d(6, 4, 3)])
def test_a_convolution_of_one_image_without_an_axis_of_samples_is_one_group(layer):
    x = torch.randn((6, 7, 8)[: layer.weight.ndim - 1])
    with torch.no_grad(), attach(layer.eval()) as seen:
        layer(x)
    assert (seen.result().n_groups, seen.n_samples) == (1, x[0].numel())
    np.testing.assert_array_equal(numbers(seen.result()), numbers(measured(rows_of(x[None], 1))))


def test_sequences_of_unequal_length_are_read_without_their_padding():
    x, lengths = torch.randn(4, 6, 5), [6, 2, 3, 1]
    layer = nn.LSTM(5, 7).eval()
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    with torch.no_grad(), attach(layer) as seen:
        layer(packed)
    expected = numbers(measured(x, mask=mask))
    np.testing.assert_array_equal(numbers(seen.result()), expected)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("is_given", [False, True])
def test_a_padding_mask_of_a_transformer_encoder_drops_the_same_tokens(is_given):
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 2).eval()
    x, kept = torch.randn(4, 6, 6), torch.arange(6) < torch.tensor([[4], [2], [3], [1]])
    with torch.no_grad(), attach(encoder, "*") as features:
        if is_given:
            features.expect(mask=kept)
        encoder(x, src_key_padding_mask=~kept)
    names = [f"layers.{i}.{name}" for i in (0, 1) for name in ("self_attn", "linear1", "linear2")]
    assert list(features.result()) == names
    assert {(one.n_samples, one.result().n_groups) for one in features.values()} == {(10, 4)}
    expected = numbers(measured(x, mask=kept))
    np.testing.assert_array_equal(numbers(features["layers.0.self_attn"].result()), expected)


class Sum(nn.Module):
    """A layer of its own class, with a matrix and features anywhere."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))

    def forward(self, x):
        return x.sum()


def test_the_axis_of_features_is_asked_for_if_the_class_does_not_say_it():
    layer, x = Sum().eval(), torch.randn(6, 3, 4)
    for bad in (layer, nn.Identity().eval()):
        with attach(bad) as seen, pytest.raises(ValueError) as error:
            bad(x)
        assert str(error.value) == (
            f"the module: which axis of its input (6, 3, 4) holds features is not known for a "
            f"{type(bad).__name__}: give feature_axis, such as feature_axis=-1 for the last one"
        )
        assert seen.n_samples == 0
    for axis in (1, -2):
        with attach(layer, feature_axis=axis) as seen:
            layer(x)
        np.testing.assert_array_equal(numbers(seen.result()), numbers(measured(x.mT)))
    with attach(layer) as seen:
        layer(x[:, :, 0])
    assert len(seen.result().eigenvalues) == 3
    with attach(layer, feature_axis=3) as seen, pytest.raises(ValueError) as error:
        layer(x)
    assert str(error.value) == (
        "the module: an input of shape (6, 3, 4) has no axis feature_axis=3"
    )


class ChannelsFirst(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def test_a_norm_that_permutes_its_input_is_not_taken_for_one_over_the_last_axis():
    norm = ChannelsFirst(6).eval()
    with attach(norm), pytest.raises(ValueError, match="not known for a ChannelsFirst"):
        norm(torch.randn(2, 6, 6, 6))


def test_a_given_axis_holds_for_a_layer_whose_class_says_another():
    layer = nn.Linear(6, 2).eval()
    x = torch.randn(5, 4, 6)
    with torch.no_grad(), attach(layer, feature_axis=1) as seen:
        layer(x)
    np.testing.assert_array_equal(numbers(seen.result()), numbers(measured(x.mT)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("emb", "emb is an embedding, which takes indices: attach the layer that follows it"),
        ("att.out_proj", "att.out_proj is never called: attach its attention, att"),
        ("*foo", "no layer with weights matches '*foo'; near names: emb, norm, att"),
        ([], "no layers are named"),
        (["fc", "nope"], "no submodule 'nope'; near names: emb, norm, att"),
    ],
)
def test_layers_without_features_are_refused(name, message):
    layers = {"emb": nn.Embedding(4, 6), "norm": nn.LayerNorm(6), "fc": nn.Linear(6, 6)}
    model = nn.ModuleDict(layers | {"att": nn.MultiheadAttention(6, 2)})
    with pytest.raises(ValueError) as error, attach(model, name):
        pass
    if isinstance(name, str) and "foo" in name:
        assert str(error.value).startswith("no layer with weights matches '*foo'; near names: ")
    elif "nope" in name:
        assert str(error.value).startswith("no submodule 'nope'; near names: ")
    else:
        assert str(error.value) == message


def test_a_glob_takes_layers_with_matrices_and_no_norms_containers_or_embeddings():
    attention = nn.MultiheadAttention(6, 2)
    layers = {"emb": nn.Embedding(4, 6), "norm": nn.LayerNorm((3, 6)), "fc": nn.Linear(6, 6)}
    layers |= {"att": attention, "conv": nn.Conv1d(6, 6, 3), "odd": Sum(), "drop": nn.Dropout()}
    layers["wrapped"] = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
    layers["list"] = nn.ModuleList([nn.GRU(6, 6), nn.Bilinear(6, 6, 6)])
    with attach(nn.ModuleDict(layers), "*") as features:
        assert list(features) == ["fc", "att", "conv", "wrapped", "list.0", "list.1"]
    with attach(nn.ModuleDict(layers), ["c*", "norm"]) as features:
        assert list(features) == ["conv", "norm"]
    with attach(nn.ModuleDict(layers), "[a-c]*") as features:
        assert list(features) == ["att", "conv"]


def test_an_adapter_reads_the_input_of_the_layer_that_it_adapts():
    peft = pytest.importorskip("peft")
    model = nn.Sequential(nn.Linear(6, 6))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0"])).eval()
    x = torch.randn(5, 4, 6)
    with torch.no_grad(), attach(adapted, "base_model.model.0") as seen:
        adapted(x)
    np.testing.assert_array_equal(numbers(seen.result()), numbers(measured(x)))
    with attach(adapted, "*") as features:
        assert [name.split("model.0.")[1] for name in features] == [
            "base_layer",
            "lora_A.default",
            "lora_B.default",
        ]
