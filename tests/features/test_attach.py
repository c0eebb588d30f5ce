import numpy as np
import pytest
import torch

import specdiag
from specdiag.features.attach import attach
from support.features import measured, numbers


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.core = torch.nn.Linear(3, 6)
        self.readout = torch.nn.Linear(6, 2)

    def features(self, x):
        return torch.tanh(self.core(x))

    def forward(self, x, *, by_keyword=False, twice=False, fail=False):
        features = self.features(x)
        if fail:
            raise RuntimeError("on purpose")
        out = self.readout(input=features) if by_keyword else self.readout(features)
        return out + self.readout(2 * features) if twice else out


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return Decoder().eval()


@pytest.fixture
def batches():
    return [torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]


@pytest.mark.parametrize("by_keyword", [False, True])
def test_attach_reads_the_input_of_the_readout(decoder, batches, by_keyword):
    with torch.no_grad(), attach(decoder, "readout") as seen:
        for x in batches:
            decoder(x, by_keyword=by_keyword)
        expected = measured(torch.cat([decoder.features(x) for x in batches]))
    np.testing.assert_allclose(numbers(seen.result()), numbers(expected), rtol=1e-6)
    assert seen.result().n_groups == 12
    assert seen.result().precision == "float32"


def test_attach_without_a_name_reads_the_input_of_the_module_itself(decoder, batches):
    with torch.no_grad(), attach(decoder, feature_axis=-1) as seen:
        decoder(batches[0])
    np.testing.assert_array_equal(numbers(seen.result()), numbers(measured(batches[0])))


def test_groups_and_mask_hold_for_all_calls_within_the_next_forward_only(decoder, batches):
    mask = torch.arange(5).expand(4, 5) < 3
    with torch.no_grad(), attach(decoder, "readout") as seen:
        seen.expect(groups=["a", "a", "b", "b"], mask=mask)
        decoder(batches[0], twice=True)
        assert (seen.n_samples, seen.result().n_groups) == (2 * 4 * 3, 2)
        decoder(batches[1])
    assert (seen.n_samples, seen.result().n_groups) == (2 * 4 * 3 + 4 * 5, 2 + 4)


def test_a_forward_call_that_fails_discards_its_mask_and_removes_the_hooks(decoder, batches):
    with attach(decoder, "readout") as seen:
        seen.expect(mask=torch.zeros(4, 5, dtype=torch.bool))
        with pytest.raises(RuntimeError, match="on purpose"):
            decoder(batches[0], fail=True)
        decoder(batches[0])
    assert seen.n_samples == 20
    with pytest.raises(RuntimeError, match="on purpose"), attach(decoder, "readout"):
        decoder(batches[0], fail=True)
    decoder(batches[0])
    assert seen.n_samples == 20
    assert not decoder._forward_hooks
    assert not decoder.readout._forward_pre_hooks


def test_autocast_sets_the_precision_also_if_features_stay_float32(decoder, batches):
    with (
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16),
        attach(decoder, feature_axis=-1) as seen,
    ):
        decoder(batches[0])
    assert batches[0].dtype == torch.float32
    assert seen.result().precision == "bfloat16"
    how = {"precision": "float32", "feature_axis": -1}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), attach(decoder, **how) as seen:
        decoder(batches[0])
    assert seen.result().precision == "float32"


def test_an_unknown_submodule_is_refused_with_similar_names(decoder):
    with pytest.raises(ValueError) as error, attach(decoder, "read_out"):
        pass
    assert str(error.value) == "no submodule 'read_out'; near names: readout"


def test_a_submodule_called_without_features_is_an_error():
    class Counter(torch.nn.Module):
        def forward(self, n):
            return n

    counter = Counter().eval()
    with attach(counter), pytest.raises(ValueError) as error:
        counter(torch.tensor([3]))
    assert str(error.value) == "the module was called without a floating-point tensor"


def test_a_mask_that_is_no_array_is_named():
    model = torch.nn.Linear(8, 2).eval()
    with specdiag.attach(model) as features, torch.no_grad():
        features.expect(mask=True)
        with pytest.raises(ValueError, match=r"^the module: mask is True: expected an array"):
            model(torch.randn(20, 8))


def test_labels_of_a_generator_reach_every_layer():
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Linear(6, 2)).eval()
    with specdiag.attach(model, "*") as features, torch.no_grad():
        features.expect(groups=(i // 2 for i in range(20)))
        model(torch.randn(20, 8))
    assert [one.n_groups for one in features.result().values()] == [10, 10]
