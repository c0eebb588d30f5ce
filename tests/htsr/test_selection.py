import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.dataset.spectra import measure_checkpoint
from specdiag.htsr.measure import measure
from specdiag.htsr.selection import matrices
from specdiag.htsr.verdict import summarise
from specdiag.show.layers import as_table, summary_lines

DRAWS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy": lambda rng, shape: rng.standard_t(1, shape),
    "sparse": lambda rng, shape: rng.standard_normal(shape) * (rng.random(shape) < 0.05),
    "mask": lambda rng, shape: (rng.random(shape) < 0.5).astype(float),
    "constant": lambda _, shape: np.ones(shape),
    "zero": lambda _, shape: np.zeros(shape),
    "nan": lambda _, shape: np.full(shape, np.nan),
    "integers": lambda rng, shape: rng.integers(-8, 8, shape),
}
SHAPES = st.lists(st.sampled_from([0, 1, 1, 2, 3, 5, 9, 17]), max_size=6).filter(
    lambda shape: math.prod(shape) <= 20_000
)


@settings(max_examples=40)
@given(
    arrays=st.lists(st.tuples(SHAPES, st.sampled_from(sorted(DRAWS))), min_size=1, max_size=6),
    dtype=st.sampled_from(["f2", "f4", "f8"]),
    seed=st.integers(0, 100),
)
def test_any_dict_of_arrays_gives_a_table(arrays, dtype, seed):
    rng = np.random.default_rng(seed)
    state = {
        f"l{i}": DRAWS[kind](rng, shape).astype(dtype) for i, (shape, kind) in enumerate(arrays)
    }
    state["fc.weight"] = rng.standard_normal((20, 20))
    checkpoint = open_checkpoint(state)
    layers = measure_checkpoint(checkpoint, min_eigenvalues=2)
    assert len(as_table(layers)) == 2 + sum(values.ndim >= 2 for values in state.values())
    assert summary_lines(checkpoint, layers)
    assert all(layer.reason for layer in layers if layer.status != "fit")
    assert summarise(layers)["n_walked"] == len(layers)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 64, 9),
        nn.Conv2d(64, 1, 9),
        nn.Conv2d(96, 96, 8, groups=96),
        nn.Conv2d(128, 128, 31, groups=128),
        nn.Conv3d(60, 60, 5, groups=60),
    ],
    ids=str,
)
def test_kernels_whose_positions_are_vectors_are_skipped_as_such(layer):
    state = {"odd.weight": layer.weight, "fc.weight": nn.Linear(64, 64).weight}
    odd, other = measure(matrices(open_checkpoint(state)))
    assert odd.reason == "a kernel on one channel: each of its positions is a vector, not a matrix"
    assert (odd.status, other.status) == ("skipped", "fit")


def test_a_linear_layer_is_no_embedding_whatever_its_name():
    module = nn.ModuleDict(
        {
            "value_embedding": nn.Linear(96, 80),
            "class_embed": nn.Linear(80, 64, bias=False),
            "query_embed": nn.Embedding(100, 64),
        }
    )
    found = {layer.name: layer.status for layer in measure(matrices(open_checkpoint(module)))}
    assert found == {
        "value_embedding.weight": "fit",
        "class_embed.weight": "fit",  # without a bias: the class tells it
        "query_embed.weight": "skipped",
    }


@pytest.mark.parametrize("source", ["memory", "file", "state dict"])
def test_classes_tell_tables_and_buffers(tmp_path, source):
    """Of a state dict, names and biases are all there is."""
    module = nn.ModuleDict(
        {"token": nn.Embedding(100, 64), "value_emb": nn.Linear(80, 64), "fc": nn.Linear(64, 64)}
    )
    module["fc"].register_buffer("basis", torch.randn(70, 70))
    path = tmp_path / "net.pt"
    torch.save(module if source == "file" else module.state_dict(), path)
    layers = list(measure(matrices(open_checkpoint(module if source == "memory" else path))))
    known = source != "state dict"
    assert {layer.name: layer.reason for layer in layers} == {
        "token.weight": "embedding table, by its class" if known else "",
        "value_emb.weight": "",
        "fc.weight": "",
        "fc.basis": "a buffer of its module, not a parameter" if known else "",
    }


def test_the_module_that_peft_replaced_is_not_measured(rng):
    state = {
        f"head.{kind}.weight": rng.standard_normal((64, 64))
        for kind in ("original_module", "modules_to_save.default")
    }
    first, second = measure(matrices(open_checkpoint(state)))
    assert (first.reason, second.status) == ("not used: modules_to_save replaces it", "fit")


def test_the_update_of_a_lora_has_an_alpha_and_no_null(rng):
    state = {
        "q.lora_A.weight": rng.standard_normal((64, 200)),
        "q.lora_B.weight": rng.standard_normal((150, 64)),
        "k.lora_A.weight": rng.standard_normal((8, 200)),
        "k.lora_B.weight": rng.standard_normal((150, 8)),
    }
    update, low = measure_checkpoint(open_checkpoint(state))
    assert (update.name, update.status, update.rank) == ("q.lora_update", "fit", 64)
    assert math.isfinite(update.alpha)
    assert math.isnan(update.null_p)
    assert low.reason == "too few eigenvalues: 8 of at least 50"


@pytest.mark.parametrize("form", ["g and v", "unit v"])
def test_two_files_of_one_function_have_one_alpha(rng, form):
    g, v = rng.lognormal(size=(100, 1)), rng.standard_normal((100, 80))
    norm = np.linalg.norm(v, axis=1, keepdims=True)
    direction = v / norm if form == "unit v" else v
    (plain,) = measure_checkpoint(open_checkpoint({"fc.weight": g * v / norm}))
    state = {"fc.weight_g": g, "fc.weight_v": direction}
    checkpoint = open_checkpoint(state)
    (composed,) = measure_checkpoint(checkpoint)
    assert composed.alpha == pytest.approx(plain.alpha, rel=1e-9)
    assert "  composed: weight norm: g v / |v|: fc.weight" in summary_lines(checkpoint, [composed])


def test_a_buffer_is_skipped_with_its_reason_and_counted(rng):
    state = {"tril": np.tril(np.ones((80, 80))), "fc.weight": rng.standard_normal((80, 80))}
    layers = measure_checkpoint(open_checkpoint(state))
    assert [layer.status for layer in layers] == ["skipped", "fit"]
    assert layers[0].reason == "only zeros and one other value: a mask"
