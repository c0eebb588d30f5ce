"""POYO of an entry: vocabularies, transfer and the published optimizer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.data.arrays import to_arrays
from recipes.poyo import checkpoints
from recipes.poyo.model import build, embedding_rows, load, parameter_groups
from support.sessions import MODEL, params, session, sessions

torch = pytest.importorskip("torch")
pytest.importorskip("torch_brain")

FROZEN = {"start": "parent", "core": "frozen", "readout": "kept"}


@pytest.fixture(scope="module")
def arrays():
    return to_arrays(sessions(), params())


@pytest.fixture(scope="module")
def parent(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("parent") / "base.ckpt"
    state = {f"model.{k}": v for k, v in build(params(), arrays, None).state_dict().items()}
    checkpoints.write(path, {"state_dict": state})
    return path


def new_session():
    """Return the arrays of a session that the parent knows and of a new session."""
    return to_arrays(
        [sessions()[0], session("t_20130819_center_out_reaching", n_units=7)], params()
    )


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_new_model_is_the_same_for_a_seed_and_leaves_the_generator_alone(arrays):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = build(params(), arrays, None)
    assert torch.rand(1) == expected
    assert same_weights(first, build(params(), arrays, None))
    other = params(training={"seed": 43})
    assert not same_weights(first, build(other, arrays, None))


def test_the_vocabulary_is_sorted_as_in_torch_brain(arrays):
    model = build(params(), arrays, None)
    assert list(model.unit_emb.vocab) == ["NA", *sorted(arrays.units)]
    chosen = embedding_rows(model, arrays)
    assert [list(model.session_emb.vocab)[i] for i in chosen["session_rows"]] == list(
        arrays.sessions
    )
    assert [list(model.unit_emb.vocab)[i] for i in chosen["unit_rows"]] == list(arrays.units)


def test_transfer_keeps_rows_of_known_units_and_draws_new_ones(arrays, parent):
    theirs, others = load(parent, MODEL), new_session()
    model = build(params(transfer=FROZEN), others, parent)
    assert set(model.unit_emb.vocab) == {"NA", *others.units}
    assert set(model.session_emb.vocab) == {"NA", *others.sessions}
    known = sorted(set(arrays.units) & set(others.units))
    assert len(known) == 9
    torch.testing.assert_close(
        model.unit_emb.weight[model.unit_emb.tokenizer(known)],
        theirs.unit_emb.weight[theirs.unit_emb.tokenizer(known)],
        rtol=0,
        atol=0,
    )
    new = model.unit_emb.weight[model.unit_emb.tokenizer(sorted(set(others.units) - set(known)))]
    assert len(new) == 7
    assert 0.01 < float(new.detach().std()) < 0.03
    for name, weight in model.named_parameters():
        if "_emb" not in name or "latent" in name or "token" in name:
            assert torch.equal(weight, theirs.get_parameter(name)), name


def test_new_embeddings_can_start_with_the_spread_of_the_parents_embeddings(arrays, parent):
    theirs, others = load(parent, MODEL), new_session()
    with torch.no_grad():
        theirs.unit_emb.weight.mul_(10)
    wide = parent.with_name("wide.ckpt")
    checkpoints.write(wide, {"state_dict": theirs.state_dict()})
    model = build(params(transfer=FROZEN | {"new_embeddings": "parent"}), others, wide)
    known = theirs.unit_emb.weight.detach()[1:].std()
    new = model.unit_emb.tokenizer(sorted(set(others.units) - set(arrays.units)))
    assert 0.8 < float(model.unit_emb.weight.detach()[new].std() / known) < 1.2


@pytest.mark.parametrize(
    ("core", "trained"),
    [
        ("frozen", {"unit_emb.weight", "session_emb.weight", "readout.weight", "readout.bias"}),
        ("trained", None),
    ],
)
def test_with_a_frozen_core_only_embeddings_and_readout_are_trained(core, trained, parent):
    model = build(params(transfer=FROZEN | {"core": core}), new_session(), parent)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names == (trained or {n for n, _ in model.named_parameters()})
    in_groups = [p for group in parameter_groups(model) for p in group["params"]]
    assert len(in_groups) == len(names)
    assert [group.get("sparse", False) for group in parameter_groups(model)] == [True, False]


def test_a_new_readout_has_the_outputs_of_the_task(parent):
    changed = params(model=MODEL | {"dim_out": 1}, transfer=FROZEN | {"readout": "new"})
    assert build(changed, new_session(), parent).readout.weight.shape == (1, 16)


def test_a_kept_readout_must_fit(parent):
    changed = params(model=MODEL | {"dim_out": 1}, transfer=FROZEN)
    with pytest.raises(ValueError) as error:
        build(changed, new_session(), parent)
    assert str(error.value) == (
        "the readout of the parent has 2 outputs, the task 1: declare a new readout"
    )


def test_another_architecture_than_the_parents_is_refused(parent, arrays):
    changed = params(model=MODEL | {"dim": 32}, transfer=FROZEN)
    with pytest.raises(ValueError) as error:
        build(changed, arrays, parent)
    assert str(error.value) == (
        "base.ckpt: dec_atn.norm.bias is (16,), in the declared model (32,); declare the model "
        "of the parent"
    )


def test_a_file_without_vocabulary_is_refused(tmp_path):
    path = tmp_path / "other.ckpt"
    checkpoints.write(path, {"state_dict": {"weight": torch.zeros(2, 2)}})
    with pytest.raises(ValueError) as error:
        load(path, MODEL)
    assert str(error.value) == (
        "other.ckpt: vocabulary unit_emb.vocab is missing; name a checkpoint of POYO"
    )


def lamb_by_hand(weight, gradients, lrs, *, decay, sparse, beta1=0.9, beta2=0.999):
    """Return weights after steps of the published LAMB, computed row by row in float64."""
    w = np.array(weight, dtype=np.float64)
    m, v = np.zeros_like(w), np.zeros_like(w)
    for gradient, lr in zip(gradients, lrs, strict=True):
        g = np.asarray(gradient, dtype=np.float64)
        update = np.zeros_like(w)
        moving = []
        for i in range(len(w)):
            if not sparse or np.abs(g[i]).sum() > 0:
                moving.append(i)
                m[i] = beta1 * m[i] + (1 - beta1) * g[i]
                v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i]
            else:
                m[i] = v[i] = 0
            update[i] = m[i] / (np.sqrt(v[i]) + 1e-6) + decay * w[i]
        weight_norm = min(np.sqrt((w**2).sum()), 10.0)
        update_norm = np.sqrt((update**2).sum())
        ratio = weight_norm / update_norm if weight_norm > 0 and update_norm > 0 else 1.0
        for i in moving:
            w[i] -= lr * ratio * update[i]
    return w


def lamb(weight, gradients, lrs, *, decay, sparse):
    from recipes.poyo.lamb import SparseLamb

    parameter = torch.nn.Parameter(torch.tensor(weight))
    steps = SparseLamb([{"params": [parameter], "sparse": sparse}], lr=1.0, weight_decay=decay)
    for gradient, lr in zip(gradients, lrs, strict=True):
        steps.param_groups[0]["lr"] = lr
        parameter.grad = torch.tensor(gradient)
        steps.step()
    return parameter.detach().numpy()


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.0, 1e-4, 0.1]), st.integers(-2, 2))
def test_sparse_lamb_is_the_published_rule(seed, sparse, decay, scale):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(5, 3)) * 10.0**scale  # norms on both sides of the clamp at 10
    gradients = rng.normal(size=(6, 5, 3)) * (rng.random((6, 5, 1)) < 0.6)
    lrs = rng.uniform(1e-3, 1e-2, 6)
    moved = lamb(weight, gradients, lrs, decay=decay, sparse=sparse)
    expected = lamb_by_hand(weight, gradients, lrs, decay=decay, sparse=sparse)
    np.testing.assert_allclose(moved, expected, rtol=1e-10, atol=1e-12)


def test_only_in_a_sparse_group_rows_without_a_gradient_do_not_move():
    weight = np.ones((3, 2))
    gradients = np.array([[[1.0, 1.0], [0.0, 0.0], [0.0, 2.0]]] * 4)
    moved = lamb(weight, gradients, [0.01] * 4, decay=1e-4, sparse=True)
    assert (moved[1] == 1).all()
    assert (moved[[0, 2]] != 1).any(axis=1).all()
    assert (lamb(weight, gradients, [0.01] * 4, decay=1e-4, sparse=False)[1] < 1).all()


def test_weights_of_zero_take_a_step_with_a_trust_ratio_of_one():
    moved = lamb(np.zeros((1, 2)), np.array([[[1.0, -1.0]]]), [0.01], decay=0.0, sparse=False)
    np.testing.assert_allclose(
        moved, lamb_by_hand([[0, 0]], [[[1, -1]]], [0.01], decay=0, sparse=False)
    )


def schedule_of(settings, total):
    from recipes.poyo.lamb import optimizer

    parameter = torch.nn.Parameter(torch.ones(2, 2))
    steps, schedule = optimizer(
        [{"params": [parameter], "sparse": True}], settings, total_steps=total
    )
    settings_of_steps = []
    for _ in range(total):
        group = steps.param_groups[0]
        settings_of_steps.append((group["lr"], group["betas"][0]))
        parameter.grad = torch.ones(2, 2)
        steps.step()
        schedule.step()
    return steps, np.array(settings_of_steps)


def test_one_cycle_is_constant_for_half_of_the_steps_then_falls_as_a_cosine():
    from recipes._published import lamb as declared

    steps, rates_and_momenta = schedule_of(declared(0.032, 1024), 100)
    assert type(steps).__name__ == "SparseLamb"
    rates, momenta = rates_and_momenta.T
    np.testing.assert_allclose(rates[:50], 0.032)
    part = np.arange(51) / 50
    cosine = 0.032 * ((1 + np.cos(np.pi * part)) / 2 * (1 - 1e-4) + 1e-4)
    np.testing.assert_allclose(rates[49:], cosine, rtol=1e-6)
    np.testing.assert_allclose(momenta[[0, 49, 99]], [0.95, 0.85, 0.95])


def test_the_desk_scale_has_adamw_with_a_warm_up_and_a_fixed_momentum():
    from recipes._published import adamw

    steps, rates_and_momenta = schedule_of(adamw(3e-3), 10)
    rates, momenta = rates_and_momenta.T
    assert type(steps).__name__ == "AdamW"
    assert rates[0] == pytest.approx(3e-3 / 25)
    assert rates.max() == pytest.approx(3e-3)
    assert rates.argmax() == 2
    assert set(momenta) == {0.9}


def test_an_unknown_rule_is_refused():
    from recipes._published import adamw

    with pytest.raises(ValueError, match=r"^optimizer rule 'SGD': expected SparseLamb or AdamW$"):
        schedule_of(adamw(3e-3) | {"rule": "SGD"}, 10)
