"""An adapter with its base gives the weights that the library of the adapter merges."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import open_weights, weights
from support.adapters import ADAPTERS, OTHERS, with_adapters


def saved(folder, model):
    """Save the adapter and the base of a model, and return their paths."""
    model.save_pretrained(folder / "adapter")
    base = {name: value.contiguous() for name, value in base_of(model).items()}
    (folder / "base").mkdir()
    save_torch(base, folder / "base/model.safetensors")
    return folder / "adapter", folder / "base"


def base_of(model):
    return {
        name: value.clone() for name, value in copy.deepcopy(model).unload().state_dict().items()
    }


def merged(model):
    state = copy.deepcopy(model).merge_and_unload().state_dict()
    return {name: value.numpy() for name, value in state.items()}


def by_name(checkpoint):
    return {weight.name: weight for weight in checkpoint.tensors}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_weights_are_those_that_peft_merges(kind, tmp_path):
    model = with_adapters(ADAPTERS[kind])
    adapter, base = saved(tmp_path, model)
    opened = open_weights(adapter, base=base)
    found, expected = by_name(opened), merged(model)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].read(), values, rtol=1e-5, atol=1e-6, err_msg=name)
    targets = ADAPTERS[kind].target_modules
    assert {name for name, w in found.items() if ": W + " in w.rule or "DoRA" in w.rule} == {
        f"{name}.weight" for name in targets
    }
    used = [name for weight in opened.tensors for name in weight.tensors]
    files = (adapter / "adapter_model.safetensors", base / "model.safetensors")
    assert sorted(used) == sorted(name for path in files for name in load_file(path))
    assert opened.notes[-1].startswith(f"merged with the base 'base': {len(targets)} weight")


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_alone_gives_its_updates_with_their_factor(kind, tmp_path):
    model = with_adapters(ADAPTERS[kind])
    adapter, _base = saved(tmp_path, model)
    expected, before = merged(model), base_of(model)
    found = {weight.name: weight for weight in weights(open_checkpoint(adapter))}
    for target in ADAPTERS[kind].target_modules:
        word = ADAPTERS[kind].peft_type.lower().removeprefix("ada")
        update = found[f"base_model.model.{target}.{word}_update"]
        difference = expected[f"{target}.weight"] - before[f"{target}.weight"].numpy()
        if "dora" not in kind:
            values = update.read().reshape(difference.shape)
            np.testing.assert_allclose(values, difference, rtol=1e-4, atol=1e-6)
        assert "unknown" not in update.rule
        assert update.rank


@pytest.mark.parametrize("kind", OTHERS)
def test_an_adapter_that_is_not_computed_has_one_reason_and_is_not_merged(kind, tmp_path):
    adapter, base = saved(tmp_path, with_adapters(OTHERS[kind]))
    reasons = {weight.reason for weight in weights(open_checkpoint(adapter))}
    assert reasons == {f"an adapter of the kind {kind}: not computed"}
    message = f"^adapter: no base can be merged: an adapter of the kind {kind}: not computed$"
    with pytest.raises(ValueError, match=message):
        open_weights(adapter, base=base)


def lora(folder, names, r=4, n=60, m=50, seed=0, **config):
    """Save LoRA factors in a folder, and return them by name."""
    rng = np.random.default_rng(seed)
    state = {}
    for down, up in names:
        state[down] = rng.standard_normal((r, m)).astype("f4")
        state[up] = rng.standard_normal((n, r)).astype("f4")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "adapter_model.safetensors")
    if config:
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | config))
    return state


def matrix(seed=9, n=60, m=50):
    return np.random.default_rng(seed).standard_normal((n, m)).astype("f4")


NAMES = [
    ("base_model.model.model.layers.0.q.lora_A.weight", "model.layers.0.q.weight"),
    ("base_model.model.layers.0.q.lora_A.weight", "model.layers.0.q.weight"),
    ("layers.0.q.lora_A.weight", "transformer.layers.0.q.weight"),
    ("unet.down.0.to_q.lora_A.weight", "down.0.to_q.weight"),
    ("unet.mid.attn1.processor.to_q_lora.down.weight", "mid.attn1.to_q.weight"),
    ("unet.mid.attn1.processor.to_out_lora.down.weight", "mid.attn1.to_out.0.weight"),
    ("lora_unet_down_blocks_0_to_q.lora_down.weight", "down_blocks.0.to_q.weight"),
    ("lora_te_text_model_encoder_q_proj.lora_down.weight", "text_model.encoder.q_proj.weight"),
    ("lora_unet_input_0_q.lora_down.weight", "model.diffusion_model.input.0.q.weight"),
    ("transformer.blocks.0.to_k.lora_A.weight", "blocks.0.to_k.weight"),
]


@pytest.mark.parametrize(("down", "target"), NAMES)
def test_the_names_of_libraries_are_found_in_the_base(down, target, tmp_path):
    up = down.replace("lora_A", "lora_B").replace("down.weight", "up.weight")
    config = {"lora_alpha": 4} if down.startswith(("base_model", "layers")) else {}
    state = lora(tmp_path / "a", [(down, up)], **config)
    W = matrix()
    others = {"other.norm.weight": np.ones(3, "f4"), "x.to_qk.weight": matrix(3)}
    save_file({target: W, **others}, tmp_path / "base.safetensors")
    found = by_name(open_weights(tmp_path / "a", base=tmp_path / "base.safetensors"))
    assert found.keys() == {target, *others}
    np.testing.assert_allclose(found[target].read(), W + state[up] @ state[down], atol=1e-4)
    assert found["x.to_qk.weight"].rule == ""


def test_a_component_that_the_base_does_not_have_stays_an_update(tmp_path):
    names = [(f"{c}.q.lora_A.weight", f"{c}.q.lora_B.weight") for c in ("unet", "text_encoder")]
    lora(tmp_path / "a", names)
    save_file({"q.weight": matrix(), "k.weight": matrix()}, tmp_path / "unet.safetensors")
    save_file({"up.q.weight": matrix(5)}, tmp_path / "b.safetensors")
    lora(
        tmp_path / "b",
        [
            ("unet.up.q.lora_A.weight", "unet.up.q.lora_B.weight"),
            ("text_encoder.h.lora_A.weight", "text_encoder.h.lora_B.weight"),
        ],
    )
    found = by_name(open_weights(tmp_path / "b", base=tmp_path / "b.safetensors"))
    assert found.keys() == {"up.q.weight", "text_encoder.h.lora_update"}
    assert found["up.q.weight"].rule == "LoRA: W + B A"


def test_the_alpha_of_diffusers_is_in_the_metadata(tmp_path):
    names = ("unet.q.lora_A.weight", "unet.q.lora_B.weight")
    state = lora(tmp_path, [names])
    path = tmp_path / "adapter_model.safetensors"
    settings = {"unet.lora_alpha": 12, "unet.r": 4, "text_encoder.lora_alpha": 1}
    save_file(state, path, {"lora_adapter_metadata": json.dumps(settings)})
    (weight,) = weights(open_checkpoint(path))
    assert weight.rule == "LoRA update: 3 B A"


PEFT = [("base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight")]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (
            {"k.weight": matrix()},
            "1 of 1 weights that a updates are not in it with their shape, such as ",
        ),
        ({"q.weight": matrix(n=61)}, "such as 'base_model.model.q', .60, 50."),
        ({"q.weight": np.ones(60, "f4")}, "weights that a updates are not in it"),
    ],
)
def test_a_base_that_does_not_fit_is_one_error(base, message, tmp_path):
    lora(tmp_path / "a", PEFT, lora_alpha=4)
    save_file(base, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=f"^other: .*{message}"):
        open_weights(tmp_path / "a", base=tmp_path / "other.safetensors")


def test_a_base_of_which_one_weight_does_not_fit_is_an_error(tmp_path):
    names = [(f"x.{i}.q.lora_A.weight", f"x.{i}.q.lora_B.weight") for i in range(3)]
    lora(tmp_path / "a", names, lora_alpha=4)
    save_file({f"x.{i}.q.weight": matrix() for i in range(2)}, tmp_path / "b.safetensors")
    with pytest.raises(
        ValueError, match=r"1 of 3 weights that a updates .* such as 'x\.2\.q', \(60, 50\)$"
    ):
        open_weights(tmp_path / "a", base=tmp_path / "b.safetensors")


def test_a_file_without_an_adapter_is_read_as_it_is(tmp_path):
    save_file({"q.weight": matrix()}, tmp_path / "model.safetensors")
    opened = open_weights(tmp_path / "model.safetensors", base=tmp_path / "none.safetensors")
    assert [weight.rule for weight in opened.tensors] == [""]
    assert opened.notes == ("it has no adapter: the base is not used",)


def test_an_adapter_of_unknown_factor_is_not_merged(tmp_path):
    lora(tmp_path / "a", PEFT)
    save_file({"q.weight": matrix()}, tmp_path / "b.safetensors")
    with pytest.raises(
        ValueError, match=r"'base_model.model.q' is not merged: its LoRA has a factor"
    ):
        open_weights(tmp_path / "a", base=tmp_path / "b.safetensors")


def test_a_quantised_base_is_dequantised_before_the_update(tmp_path):
    import ml_dtypes

    state = lora(tmp_path / "a", PEFT, lora_alpha=4)
    W = matrix().astype(ml_dtypes.float8_e4m3fn)
    torch.save(
        {
            "q.weight": torch.from_numpy(W.view("u1")).view(torch.float8_e4m3fn),
            "q.weight_scale": torch.tensor(2.0),
        },
        tmp_path / "b.pt",
    )
    found = by_name(open_weights(tmp_path / "a", base=tmp_path / "b.pt"))
    expected = 2 * W.astype("f4") + state[PEFT[0][1]] @ state[PEFT[0][0]]
    np.testing.assert_allclose(found["q.weight"].read(), expected, rtol=1e-4, atol=1e-4)
    assert found["q.weight"].tensors[:2] == ("q.weight", "q.weight_scale")


def test_the_base_of_a_table_that_the_adapter_holds_is_merged(tmp_path, rng):
    values = rng.standard_normal((3, 60, 50)).astype("f4")
    stem = "base_model.model.table"
    state = {
        f"{stem}.lora_embedding_A": values[0, :4, :60].copy()[:, :50],
        f"{stem}.lora_embedding_B": rng.standard_normal((7, 4)).astype("f4"),
        f"{stem}.base_layer.weight": rng.standard_normal((50, 7)).astype("f4"),
    }
    state = {name: np.ascontiguousarray(W) for name, W in state.items()}
    A, B, W = state.values()
    (tmp_path / "a").mkdir()
    save_file(state, tmp_path / "a/adapter_model.safetensors")
    (tmp_path / "a/adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 8}')
    save_file({"table.weight": np.ones((50, 7), "f4")}, tmp_path / "b.safetensors")
    (weight,) = open_weights(tmp_path / "a", base=tmp_path / "b.safetensors").tensors
    np.testing.assert_allclose(weight.read(), W + 2 * (B @ A).T, rtol=1e-4, atol=1e-5)
    assert sorted(weight.tensors) == sorted(["table.weight", *state])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_bdlora": {"nblocks": 2}}, "LoRA of the kind BD-LoRA: not computed"),
        ({"use_qalora": True}, "LoRA of the kind QALoRA: not computed"),
        ({"kasa_config": {}, "arrow_config": {"top_k": 1}}, "LoRA of the kind Arrow"),
        ({"alora_invocation_tokens": [5]}, "aLoRA updates it only for the tokens after"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "it repeats layers of the base"),
    ],
)
def test_a_variant_that_peft_does_not_merge_so_is_one_error(config, message, tmp_path):
    lora(tmp_path / "a", PEFT, lora_alpha=4, **config)
    save_file({"q.weight": matrix()}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=message):
        open_weights(tmp_path / "a", base=tmp_path / "b.safetensors")


@pytest.mark.parametrize("is_known", [True, False])
def test_rows_of_a_table_that_are_trained_are_no_weight(is_known, tmp_path):
    state = lora(tmp_path / "a", PEFT)
    rows = "base_model.model.table.token_adapter.trainable_tokens_delta"
    save_file(state | {rows: matrix()}, tmp_path / "a/adapter_model.safetensors")
    (tmp_path / "a/adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 8}')
    base = {"q.weight": matrix()} | ({"table.weight": matrix(3)} if is_known else {})
    save_file(base, tmp_path / "b.safetensors")
    found = by_name(open_weights(tmp_path / "a", base=tmp_path / "b.safetensors"))
    name = "table.weight" if is_known else rows
    assert found[name].reason == "a table of which trainable tokens replace rows: not computed"
    assert sorted(n for w in found.values() for n in w.tensors) == sorted([*state, rows, *base])


@pytest.mark.parametrize("kind", ["pissa", "pissa_niter_4", "olora", "corda", "loftq"])
def test_an_initialisation_that_changes_the_base_is_not_merged(kind, tmp_path):
    lora(tmp_path / "a", PEFT, lora_alpha=4, init_lora_weights=kind)
    save_file({"q.weight": matrix()}, tmp_path / "b.safetensors")
    for base in (None, tmp_path / "b.safetensors"):
        (weight,) = open_weights(tmp_path / "a", base=base).tensors
        assert weight.reason.startswith(f"LoRA with the initialisation {kind}, which changes the ")


def test_of_a_stack_of_experts_the_base_is_not_measured_without_its_update(tmp_path, rng):
    names = [("base_model.model.experts.lora_A.weight", "base_model.model.experts.lora_B.weight")]
    state = lora(tmp_path / "a", names, r=8)
    state |= lora(tmp_path / "a", PEFT)
    save_file(state | lora(tmp_path / "b", names, r=8), tmp_path / "a/adapter_model.safetensors")
    config = {"peft_type": "LORA", "lora_alpha": 4, "r": 4, "target_parameters": ["experts.down"]}
    (tmp_path / "a/adapter_config.json").write_text(json.dumps(config))
    experts = rng.standard_normal((2, 60, 50)).astype("f4")
    base = {"q.weight": matrix(), "experts.down": experts, "k.weight": matrix(3)}
    save_file(base, tmp_path / "b.safetensors")
    found = by_name(open_weights(tmp_path / "a", base=tmp_path / "b.safetensors"))
    reasons = {name: weight.reason for name, weight in found.items()}
    assert reasons == {
        "q.weight": "",
        "k.weight": "",
        "experts.down": "its LoRA updates a stack of matrices: not computed",
        "base_model.model.experts.lora_update": "LoRA of a stack of 2 matrices: not computed",
    }
    assert found["q.weight"].rule == "LoRA: W + B A"


@pytest.mark.parametrize("is_known", [True, False])
def test_a_quantised_base_in_the_file_of_its_adapter_is_merged(is_known, tmp_path, rng):
    W, scale = rng.integers(-9, 9, (60, 50)).astype("i1"), np.full((60, 1), 0.5, "f4")
    state = {"q.base_layer.weight": W, "q.base_layer.weight_scale": scale}
    state["q.lora_A.default.weight"] = rng.standard_normal((4, 50)).astype("f4")
    state["q.lora_B.default.weight"] = rng.standard_normal((60, 4)).astype("f4")
    save_file(state, tmp_path / "full.safetensors")
    if is_known:
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 8}')
    found = {w.name: w for w in weights(open_checkpoint(tmp_path / "full.safetensors"))}
    assert sorted(n for w in found.values() for n in w.tensors) == sorted(state)
    if is_known:
        update = state["q.lora_B.default.weight"] @ state["q.lora_A.default.weight"]
        np.testing.assert_allclose(found["q.weight"].read(), W * scale + 2 * update, rtol=1e-4)
    else:
        assert "factor that is unknown" in found["q.weight"].reason


@pytest.mark.parametrize("named", ["../base", "absolute"])
def test_a_base_beside_the_adapter_is_used(named, tmp_path):
    named = str(tmp_path / "base") if named == "absolute" else named
    lora(tmp_path / "a", PEFT, lora_alpha=4, base_model_name_or_path=named)
    (tmp_path / "base").mkdir()
    save_file({"q.weight": matrix()}, tmp_path / "base/model.safetensors")
    for path in (tmp_path / "a", tmp_path / "a/adapter_model.safetensors"):
        opened = open_weights(path)
        assert [weight.rule for weight in opened.tensors] == ["LoRA: W + B A"]
        assert opened.notes[-1].startswith("merged with the base 'base'")


def test_a_base_in_the_folder_of_the_adapter_is_used(tmp_path):
    lora(tmp_path, PEFT, lora_alpha=4)
    save_file({"q.weight": matrix()}, tmp_path / "model.safetensors")
    (weight,) = open_weights(tmp_path / "adapter_model.safetensors").tensors
    assert weight.rule == "LoRA: W + B A"


@pytest.mark.parametrize(
    "named", ["elsewhere", "link", "owner/name", "/", "..", ".", "", 3, "a\0b"]
)
def test_a_folder_elsewhere_is_not_opened_though_a_config_names_it(named, tmp_path):
    (tmp_path / "far/away").mkdir(parents=True)
    save_file({"q.weight": matrix()}, tmp_path / "far/away/model.safetensors")
    folder = tmp_path / "near/a"
    folder.mkdir(parents=True)
    if named == "link":
        (tmp_path / "near/link").symlink_to(tmp_path / "far/away")
        named = "../link"
    if named == "elsewhere":
        named = "../../far/away"
    lora(folder, PEFT, lora_alpha=4, base_model_name_or_path=named)
    opened = open_weights(folder)
    assert [weight.name for weight in opened.tensors] == ["base_model.model.q.lora_update"]
    if named in ("../../far/away", "owner/name"):
        assert opened.notes[-1].startswith("the updates alone; --base ")


def test_a_base_beside_the_adapter_that_does_not_fit_leaves_the_updates(tmp_path):
    lora(tmp_path / "a", PEFT, lora_alpha=4, base_model_name_or_path="../base")
    (tmp_path / "base").mkdir()
    for damaged in (False, True):
        save_file({"k.weight": matrix()}, tmp_path / "base/model.safetensors")
        if damaged:
            (tmp_path / "base/model.safetensors").write_bytes(b"")
        opened = open_weights(tmp_path / "a")
        assert [weight.name for weight in opened.tensors] == ["base_model.model.q.lora_update"]
        assert "the base beside it is not used: " in opened.notes[-1]


def test_names_of_an_alpha_pattern_that_are_expressions_leave_the_factor_unknown(tmp_path):
    lora(tmp_path, PEFT, lora_alpha=4, alpha_pattern={"(a+)+$": 3})
    (weight,) = weights(open_checkpoint(tmp_path))
    assert weight.rule == "LoRA update: B A, of unknown factor"


def test_a_hostile_config_beside_an_adapter_is_one_error_or_ignored(tmp_path):
    texts = ["[]", "{", '{"peft_type": []}', '{"alpha_pattern": 3, "lora_alpha": "x", "r": -1}']
    texts += ['{"target_parameters": [1], "r": 0}', "[" * 100_000, '{"lora_alpha": 1e999}', ""]
    texts += ['{"lora_alpha": true, "base_model_name_or_path": {"a": 1}, "peft_type": 7}', "\0"]
    for i, text in enumerate(texts):
        folder = tmp_path / str(i)
        lora(folder, PEFT)
        (folder / "adapter_config.json").write_text(text)
        try:
            names = [weight.name for weight in open_weights(folder).tensors]
        except ValueError as error:
            names = [str(error)]
        assert names == ["base_model.model.q.lora_update"] or (
            "adapter_config.json" in names[0] and "\n" not in names[0]
        )
