"""The gates of recurrent layers, against the layers of torch computed with the blocks by hand."""

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations, prune

from specdiag.checkpoint.weights.find import open_weights

UNITS, INPUTS = 6, 5


def blocks_of(state):
    """Return the weights of a state dict by name, as tensors."""
    found = {w.name: w for w in open_weights(state).tensors}
    return {name: torch.tensor(w.read()) for name, w in found.items()}


def lstm_step(W, ending, x, h, c, projection=None):
    """Return the next h and c, as the documentation of torch.nn.LSTM has them, without biases."""
    i, f, g, o = (
        W[f"weight_ih{ending}[{gate}]"] @ x + W[f"weight_hh{ending}[{gate}]"] @ h
        for gate in ("input", "forget", "cell", "output")
    )
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (h if projection is None else projection @ h), c


def gru_step(W, ending, x, h):
    """Return the next h, as the documentation of torch.nn.GRU has it, without biases."""
    r, z, n = (
        (W[f"weight_ih{ending}[{gate}]"] @ x, W[f"weight_hh{ending}[{gate}]"] @ h)
        for gate in ("reset", "update", "new")
    )
    r, z = torch.sigmoid(sum(r)), torch.sigmoid(sum(z))
    return (1 - z) * torch.tanh(n[0] + r * n[1]) + z * h


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("ending", ["_l0", "_l0_reverse"])
@pytest.mark.parametrize("proj_size", [0, 4])
def test_gates_of_an_lstm_compute_what_torch_computes(ending, proj_size):
    torch.manual_seed(0)
    module = torch.nn.LSTM(INPUTS, UNITS, bias=False, bidirectional=True, proj_size=proj_size)
    W = blocks_of(module.state_dict())
    x = torch.randn(1, INPUTS)
    size = proj_size or UNITS
    h, c = torch.randn(2, size), torch.randn(2, UNITS)
    direction = int(ending.endswith("reverse"))
    _, (h_torch, c_torch) = module(x, (h, c))
    projection = W[f"weight_hr{ending}"] if proj_size else None
    h_ours, c_ours = lstm_step(W, ending, x[0], h[direction], c[direction], projection)
    torch.testing.assert_close(h_ours, h_torch[direction])
    torch.testing.assert_close(c_ours, c_torch[direction])


@pytest.mark.parametrize("layer", [0, 1])
def test_gates_of_a_gru_compute_what_torch_computes(layer):
    torch.manual_seed(0)
    module = torch.nn.GRU(INPUTS, UNITS, 2, bias=False)
    W = blocks_of(module.state_dict())
    x, h = torch.randn(1, INPUTS), torch.randn(2, UNITS)
    _, h_torch = module(x, h)
    below = x[0] if layer == 0 else h_torch[0]
    torch.testing.assert_close(gru_step(W, f"_l{layer}", below, h[layer]), h_torch[layer])


def test_gates_of_cells_compute_what_torch_computes():
    torch.manual_seed(0)
    x, h, c = torch.randn(INPUTS), torch.randn(UNITS), torch.randn(UNITS)
    lstm, gru = (make(INPUTS, UNITS, bias=False) for make in (torch.nn.LSTMCell, torch.nn.GRUCell))
    W = blocks_of(lstm.state_dict())
    torch.testing.assert_close(lstm_step(W, "", x, h, c)[0], lstm(x, (h, c))[0])
    torch.testing.assert_close(gru_step(blocks_of(gru.state_dict()), "", x, h), gru(x, h))


@pytest.mark.parametrize("normalise", [prune.l1_unstructured, parametrizations.weight_norm])
def test_gates_of_a_weight_that_is_composed_are_cut_from_what_it_is_composed_to(normalise):
    torch.manual_seed(0)
    module = torch.nn.LSTM(INPUTS, UNITS, bias=False)
    normalise(module, "weight_hh_l0", *([0.4] if normalise is prune.l1_unstructured else []))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(torch.rand_like(parameter) + 0.5)
    state = module.state_dict()
    module(torch.zeros(1, INPUTS))  # computes the pruned weight
    whole = module.weight_hh_l0.detach()
    found = [w for w in open_weights(state).tensors if w.whole == "weight_hh_l0"]
    np.testing.assert_allclose(np.concatenate([w.read() for w in found]), whole, rtol=1e-6)
    in_memory = [w for w in open_weights(module).tensors if w.whole == "weight_hh_l0"]
    np.testing.assert_allclose(np.concatenate([w.read() for w in in_memory]), whole, rtol=1e-6)
    assert [w.name for w in in_memory] == [w.name for w in found]
    assert [w.shape for w in found] == [(UNITS, UNITS)] * 4
    assert all(len(w.tensors) == 2 for w in found)


@pytest.mark.parametrize(
    "shapes",
    [
        {"weight_ih_l0": (24, 5)},  # the other matrix is missing
        {"weight_ih_l0": (6, 5), "weight_hh_l0": (6, 6)},  # torch.nn.RNN has no gates
        {"weight_ih_l0": (24, 5), "weight_hh_l0": (24, 5)},  # proj_size without its matrix
        {"weight_ih_l0": (24, 5), "weight_hh_l0": (24, 4), "weight_hr_l0": (3, 6)},
        {"weight_ih_l0": (18, 5), "weight_hh_l0": (24, 6)},
    ],
)
def test_recurrent_weights_of_other_sizes_stay_whole(shapes):
    state = {name: np.ones(shape, "f4") for name, shape in shapes.items()}
    found = {w.name for w in open_weights(state).tensors}
    assert "weight_ih_l0" in found


def test_gates_are_known_where_arrays_have_the_name_of_their_layer():
    state = {
        "enc_w_ih": np.ones((18, 5)),
        "enc_w_hh": np.ones((18, 6)),
        "dec_w_hh": np.ones((18, 5)),
    }
    names = [w.name for w in open_weights(state).tensors]
    gates = ("reset", "update", "new")
    assert names == [
        *(f"enc_w_{kind}[{gate}]" for kind in ("ih", "hh") for gate in gates),
        "dec_w_hh",
    ]


def test_gates_of_keras_lie_in_columns():
    # Keras: LSTMCell splits z into (i, f, c, o) along its last axis, GRUCell into (z, r, h).
    rng = np.random.default_rng(0)
    state = {
        "lstm/lstm_cell/kernel": rng.standard_normal((5, 24)),
        "lstm/lstm_cell/recurrent_kernel": rng.standard_normal((6, 24)),
        "gru/gru_cell/kernel": rng.standard_normal((5, 18)),
        "gru/gru_cell/recurrent_kernel": rng.standard_normal((6, 18)),
        "dense/kernel": rng.standard_normal((6, 24)),
    }
    numbered = {"lstm.cell.vars.0": "kernel", "lstm.cell.vars.1": "recurrent_kernel"}
    in_cell = {n: state[f"lstm/lstm_cell/{leaf}"] for n, leaf in numbered.items()}
    names = [w.name for w in open_weights(in_cell).tensors]
    assert names == [
        f"{n}[{gate}]" for n in numbered for gate in ("input", "forget", "cell", "output")
    ]
    found = {w.name: w.read() for w in open_weights(state).tensors}
    expected = {"dense/kernel": state["dense/kernel"]}
    for layer, gates in (
        ("lstm/lstm_cell", ("input", "forget", "cell", "output")),
        ("gru/gru_cell", ("update", "reset", "new")),
    ):
        for leaf in ("kernel", "recurrent_kernel"):
            name = f"{layer}/{leaf}"
            parts = np.split(state[name], len(gates), axis=1)
            expected |= {f"{name}[{g}]": part for g, part in zip(gates, parts, strict=True)}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
