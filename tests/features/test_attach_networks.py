"""Whole networks, several layers at once, masks of tokenizers, training mode, and processes."""

import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import specdiag.features.attach
from specdiag.features.attach import attach, block_limits
from specdiag.features.rows import hash_of_rows, odd_numbers
from support.features import measured, numbers
from support.nets import bert, resnet18
from support.paths import ROOT


@pytest.fixture(scope="module")
def images():
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def sentences():
    """Return tokens of 8 sentences, and a mask as a tokenizer gives it."""
    draw = torch.Generator().manual_seed(0)
    mask = (torch.arange(12) < torch.randint(3, 13, (8, 1), generator=draw)).long()
    return torch.randint(0, 100, (8, 12), generator=draw), mask


def inputs_of(model, name, *args, **kwargs):
    """Return the input of a submodule, by a hook of our own."""
    seen = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        model(*args, **kwargs)
    hook.remove()
    return torch.cat(seen)


def test_the_512_channels_of_a_resnet_are_its_features_and_images_its_groups(images):
    model = resnet18().eval()
    name = "encoder.stages.3.layers.1.layer.1.convolution"
    with torch.no_grad(), attach(model, name) as seen:
        model(images.repeat(1, 1, 2, 2))
    result = seen.result()
    assert (len(result.eigenvalues), result.n_samples, result.n_groups) == (512, 6 * 2 * 2, 6)
    x = inputs_of(model, name, images.repeat(1, 1, 2, 2)).double().movedim(1, -1).reshape(-1, 512)
    expected = np.linalg.eigvalsh(np.cov(x.numpy().T))[::-1]
    np.testing.assert_allclose(result.eigenvalues, expected, atol=1e-13 * expected[0])
    assert 1 < result.effective_rank < 24


def test_a_glob_reads_each_convolution_of_a_resnet_in_one_pass_in_the_order_of_the_calls(images):
    model = resnet18().eval()
    with torch.no_grad(), attach(model, "*") as features:
        model(images)
    spectra = features.result()
    assert len(spectra) == 20
    assert [len(one.eigenvalues) for one in spectra.values()] == [
        *[3, 64, 64, 64, 64, 64, 128, 64, 128, 128],
        *[128, 256, 128, 256, 256, 256, 512, 256, 512, 512],
    ]
    for name in (next(iter(spectra)), "encoder.stages.2.layers.0.shortcut.convolution"):
        x = inputs_of(model, name, images).movedim(1, -1)
        np.testing.assert_array_equal(numbers(spectra[name]), numbers(measured(x)))


def test_the_mask_of_a_tokenizer_holds_for_every_layer_of_a_bert(sentences):
    tokens, mask = sentences
    model = bert().eval()
    with torch.no_grad(), attach(model, "*") as features:
        features.expect(mask=mask, groups=range(8))
        model(tokens, attention_mask=mask)
    assert list(features)[-1] == "pooler.dense"
    for name, one in features.items():
        x = inputs_of(model, name, tokens, attention_mask=mask)
        own = None if name == "pooler.dense" else mask.bool()
        expected = measured(x, mask=own, groups=range(8))
        assert (one.n_samples, one.result().n_groups) == (expected.n_samples, 8)
        np.testing.assert_array_equal(numbers(one.result()), numbers(expected))


def test_a_layer_with_one_row_a_sample_has_each_sample_as_a_group(images, sentences):
    pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    model = torch.nn.Sequential(pooled, torch.nn.Linear(12, 2)).eval()
    with torch.no_grad(), attach(model, "1") as seen:
        model(images)
        model(images[:3])
    x = pooled(images)
    assert (seen.n_samples, seen.result().n_groups) == (9, 6)
    expected = measured(torch.cat([x, x[:3]]), groups=[*range(6), *range(3)])
    np.testing.assert_allclose(
        seen.result().eigenvalues, expected.eigenvalues, rtol=1e-9, atol=1e-15
    )
    encoder = bert().eval()
    with torch.no_grad(), attach(encoder, "pooler.dense") as seen:
        encoder(*sentences)
    assert seen.result().n_groups == 8
    head = torch.nn.Sequential(torch.nn.Linear(12, 3), torch.nn.Linear(3, 2)).eval()
    with torch.no_grad(), attach(head, "1") as seen:
        head(x)  # these may be the tokens of one sequence
    assert seen.result().n_groups == 1


def test_layers_have_masks_of_their_own_and_the_next_call_has_none(sentences):
    tokens, mask = sentences
    model = bert().eval()
    names = ["pooler.dense", "encoder.layer.0.output.dense"]
    with torch.no_grad(), attach(model, names) as features:
        features.expect(mask=mask)
        features["pooler.dense"].expect(mask=np.arange(8) < 3)
        model(tokens, attention_mask=mask)
        assert [features[name].n_samples for name in names] == [3, int(mask.sum())]
        model(tokens)
    assert [features[name].n_samples for name in names] == [3 + 8, int(mask.sum()) + tokens.numel()]


def test_masks_of_tokens_fit_features_of_heads_flat_tokens_and_samples(rng):
    x = rng.standard_normal((5, 3, 7, 4))  # batch, heads, tokens, d
    mask = np.arange(7) < rng.integers(1, 8, 5)[:, None]
    by_head = np.broadcast_to(mask[:, None], (5, 3, 7))
    expected = numbers(measured(x, mask=by_head))
    np.testing.assert_array_equal(numbers(measured(x, mask=mask)), expected)
    tokens_first = np.ascontiguousarray(x.swapaxes(1, 2))
    np.testing.assert_allclose(numbers(measured(tokens_first, mask=mask)), expected, rtol=1e-9)
    flat = x[:, 0].reshape(35, 4)
    expected = numbers(measured(x[:, 0], mask=mask))
    np.testing.assert_array_equal(numbers(measured(flat, mask=mask.astype(int))), expected)
    assert measured(x, mask=np.arange(5) < 2).n_samples == 2 * 3 * 7
    with pytest.raises(ValueError) as error:
        measured(x, mask=mask[:, :6])
    text = (
        "mask is bool of shape (5, 6): expected bool or 0 and 1, of shape (5, 3, 7), true to keep"
    )
    assert str(error.value) == text
    with pytest.raises(ValueError, match="expected bool or 0 and 1, of shape"):
        measured(rng.standard_normal((5, 7, 7, 4)), mask=mask)  # tokens of which axis?


def test_a_mask_that_does_not_fit_names_the_layer_in_one_line(sentences):
    model = bert().eval()
    with torch.no_grad(), attach(model, "encoder.layer.1.output.dense") as seen:
        seen.expect(mask=sentences[1][:, :5])
        with pytest.raises(ValueError) as error:
            model(sentences[0])
    assert str(error.value) == (
        "encoder.layer.1.output.dense: mask is int64 of shape (8, 5): expected bool or 0 and 1, of "
        "shape (8, 12), true to keep"
    )


def test_training_mode_is_warned_of_once_and_only_if_it_changes_features(images):
    model = resnet18().train()
    with attach(model, "*") as features:
        with pytest.warns(UserWarning, match="eval") as warned:
            model(images)
        model(images)
    text = "the module is in training mode, which changes its features (BatchNorm2d): call eval()"
    assert [str(one.message) for one in warned] == [f"{text} first"]
    assert len(features.result()) == 20
    plain = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.0)).train()
    with attach(plain, "0") as seen:
        plain(torch.randn(4, 5, 3))
    assert seen.n_samples == 20


def test_layers_that_are_not_called_are_left_out_with_one_warning():
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)}).eval()
    with attach(model, "*") as features:
        model["b"](torch.randn(4, 5, 3))
    with pytest.warns(UserWarning, match="left out") as warned:
        assert list(features.result()) == ["b"]
    assert [str(one.message) for one in warned] == [
        "1 of 2 layers without two rows (not called, or masked) are left out: a"
    ]
    with pytest.raises(ValueError) as error:
        features["a"].result()
    assert str(error.value) == "no samples of a: it was not called, or all was masked"


def test_a_compiled_module_is_refused_since_it_runs_no_hooks():
    compiled = torch.compile(torch.nn.Linear(3, 3), backend="eager")
    in_place = torch.nn.Linear(3, 3)
    in_place.compile(backend="eager")
    for module in (compiled, in_place):
        with pytest.raises(ValueError, match=r"^the module is compiled") as error, attach(module):
            pass
        assert "\n" not in str(error.value)


def test_merged_layers_are_those_of_one_run(sentences):
    tokens, mask = sentences
    model = bert().eval()
    parts = []
    for rows in ([0, 1, 2], [3, 4, 5, 6, 7], [*range(8)]):
        with torch.no_grad(), attach(model, "*layer.0.*") as features:
            features.expect(mask=mask[rows], groups=rows)
            model(tokens[rows], attention_mask=mask[rows])
        parts.append(features)
    first, second, whole = parts
    first.merge(second)
    for name, one in first.result().items():
        expected = whole[name].result()
        close = {"rtol": 1e-4, "atol": expected.noise_floor}  # a batch of 3 rounds otherwise
        np.testing.assert_allclose(one.eigenvalues, expected.eigenvalues, **close)
        assert one.n_groups == expected.n_groups == 8
    with attach(model, "pooler.*") as other, pytest.raises(ValueError, match=r"^other layers: "):
        first.merge(other)


def test_wide_layers_keep_fewer_blocks_while_memory_is_short(monkeypatch):
    widths = {"a": 100, "b": 100, "c": 400}
    assert set(block_limits(widths).values()) == {64}
    monkeypatch.setattr(specdiag.features.attach, "MEMORY", 8 * (2 * 64 * 100**2 + 16 * 400**2))
    assert block_limits(widths) == {"a": 64, "b": 64, "c": 16}
    monkeypatch.setattr(specdiag.features.attach, "MEMORY", 1000)
    assert set(block_limits(widths).values()) == {8}
    with pytest.raises(ValueError) as error:
        block_limits({"a": 10**6, "b": 10})
    assert str(error.value) == (
        "the covariances of 2 layers need 64000.0 GB: attach fewer layers at once, or narrower ones"
    )


def test_a_layer_that_does_not_fit_into_memory_is_refused_at_once():
    layer = torch.nn.Linear(10**6, 1, bias=False).eval()
    with torch.no_grad(), attach(layer) as seen, pytest.raises(ValueError) as error:
        layer(torch.randn(2, 3, 10**6))
    assert str(error.value) == "the covariance of 1,000,000 features needs 64000.0 GB"
    with pytest.raises(
        ValueError, match=r"^a covariance of 1,000,000 features takes 8000.0 GB a b"
    ):
        seen.result()


def test_sequences_of_unequal_length_refuse_a_mask_of_fewer_tokens():
    layer, x = torch.nn.GRU(5, 2).eval(), torch.randn(3, 5, 5)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, [5, 4, 2], batch_first=True)
    with torch.no_grad(), attach(layer) as seen:
        seen.expect(mask=np.ones((3, 4), dtype=bool))
        with pytest.raises(ValueError) as error:
            layer(packed)
    text = "the module: mask has shape (3, 4): expected (3, 5), true to keep"
    assert str(error.value) == text


def test_samples_are_known_if_a_mask_of_floats_comes_first(sentences):
    tokens, mask = sentences
    model = bert().eval()
    with torch.no_grad(), attach(model, "pooler.dense") as seen:
        model(attention_mask=mask.float(), input_ids=tokens)
    assert seen.result().n_groups == 8


def test_fewer_blocks_are_the_same_groups_together(rng, monkeypatch):
    x = torch.tensor(rng.standard_normal((300, 4, 5)))
    monkeypatch.setattr(specdiag.features.attach, "MEMORY", 1000)
    layer = torch.nn.Linear(5, 2, dtype=torch.float64).eval()
    with torch.no_grad(), attach(layer, [""]) as few:
        for part in x.split(7):
            layer(part)
    one, many = few[""].result(), measured(x)
    assert (one.n_blocks, one.n_groups, many.n_groups) == (8, 300, 300)
    assert 50 < many.n_blocks <= 64
    np.testing.assert_allclose(one.eigenvalues, many.eigenvalues, rtol=1e-12)
    assert one.participation_ratio == pytest.approx(many.participation_ratio, rel=0.02)


def test_rows_on_a_device_are_known_by_a_hash_of_the_bits_of_their_values(rng):
    rows = rng.standard_normal((3000, 5)).astype(np.float32).astype(float)
    keys = hash_of_rows(torch.tensor(rows)).numpy()
    assert len(set(keys.tolist())) == 3000
    odd = [int(x) for x in odd_numbers(5)]
    for row, key in zip(rows[:50], keys, strict=False):
        bits = [int(np.float64(x).view(np.uint64)) for x in row]
        expected = sum(c * (x ^ (x >> 32)) for c, x in zip(odd, bits, strict=True)) % 2**64
        assert int(key) % 2**64 == expected
    other = rows[:6].copy()
    other[0, 0] = np.nextafter(other[0, 0], 9)
    other[1] = -other[1]
    other[2, [0, 1]] = other[2, [1, 0]]
    changed = hash_of_rows(torch.tensor(other)).numpy() != keys[:6]
    np.testing.assert_array_equal(changed, [True] * 3 + [False] * 3)


@pytest.mark.slow
def test_processes_together_give_the_result_of_one(tmp_path):
    outputs = [tmp_path / str(rank) for rank in range(3)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "support.ranks", str(rank), "3", tmp_path / "store", out],
            env=os.environ | {"PYTHONPATH": path},
        )
        for rank, out in enumerate(outputs)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0, 0]
    for out in outputs:
        (whole, again, alone), n_none, refused = pickle.loads(out.read_bytes())
        assert list(whole) == list(alone)
        assert n_none == 0
        assert refused == "features have widths [2, 3, 4] in different processes"
        for name, (n_samples, n_groups, values) in alone.items():
            assert whole[name][:2] == again[name][:2] == (n_samples, n_groups)
            np.testing.assert_allclose(whole[name][2], values, rtol=1e-9, atol=1e-13)
            np.testing.assert_array_equal(again[name][2], whole[name][2])


def test_one_process_alone_has_a_copy_of_its_own_rows(rng):
    x = rng.standard_normal((9, 4, 3))
    layer = torch.nn.Linear(3, 2, dtype=torch.float64).eval()
    with warnings.catch_warnings(), torch.no_grad(), attach(layer) as seen:
        layer(torch.tensor(x))
        copy = seen.over_ranks()
        layer(torch.tensor(x))
    assert (copy.n_samples, seen.n_samples) == (36, 72)
    np.testing.assert_allclose(numbers(copy.result()), numbers(measured(x)), rtol=1e-12)
