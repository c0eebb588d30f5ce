"""Lookup tables are known by evidence; names are the last resort."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import weights


def tables(source):
    return {w.name: w.table for w in weights(open_checkpoint(source)) if w.table}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.query_embed = nn.Embedding(100, 64)
        self.class_embed = nn.Linear(64, 92)
        self.value_embedding = nn.Linear(24, 64, bias=False)
        self.token = nn.Embedding(300, 64)
        self.norm = nn.LayerNorm(64)
        self.fc = nn.Linear(64, 128)


def test_the_class_decides_in_memory_and_in_a_pickled_module(tmp_path):
    torch.save(Network(), tmp_path / "a.pt")
    for source in (Network(), {"net": Network()}, tmp_path / "a.pt"):
        assert {name.removeprefix("net."): why for name, why in tables(source).items()} == {
            "query_embed.weight": "class",
            "token.weight": "class",
        }


def test_a_state_dict_shows_a_linear_by_its_bias_or_by_the_width_of_the_network():
    assert tables(Network().state_dict()) == {"query_embed.weight": "name"}


def test_a_class_that_is_derived_from_a_table_is_one():
    class Lookup(nn.Embedding):
        pass

    assert tables(nn.Sequential(Lookup(300, 64))) == {"0.weight": "class"}


@pytest.mark.parametrize("shares_memory", [True, False])
def test_a_tied_head_shows_a_table(shares_memory):
    W = torch.randn(300, 64)
    head = W if shares_memory else W.clone()
    state = {"token.weight": W, "fc.weight": torch.randn(64, 64), "lm_head.weight": head}
    assert tables(state) == {"token.weight": "tied head"}
    state["lm_head.weight"] = torch.randn(300, 64)
    assert tables(state) == {}


def test_a_configuration_shows_a_table_by_its_rows(tmp_path):
    state = {"lookup.weight": torch.randn(300, 64), "out.weight": torch.randn(64, 300)}
    save_file(state, tmp_path / "model.safetensors")
    assert tables(tmp_path) == {}
    (tmp_path / "config.json").write_text('{"vocab_size": 300, "d_model": 64}')
    assert tables(tmp_path) == {"lookup.weight": "rows, one an item"}


def test_gpt2_has_the_same_tables_from_safetensors_and_from_a_pickle(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=96, n_layer=1, n_head=4, vocab_size=200)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path.with_suffix(".bin"))
    expected = {"transformer.wte.weight", "transformer.wpe.weight"}
    assert tables(tmp_path).keys() == expected
    assert tables(tmp_path.with_suffix(".bin")).keys() == expected
    assert tables(model).keys() == expected


def test_positions_with_a_first_side_of_1_are_a_table_by_their_name():
    W = np.zeros((1, 50, 64))
    assert tables({"pos_embed": W, "blocks.0.w": np.zeros((64, 9))}) == {"pos_embed": "name"}


def test_a_tied_head_of_any_name_shows_a_table_with_a_row_for_each_item():
    W = np.random.default_rng(0).standard_normal((300, 96))
    state = {"tokens.weight": W, "body.weight": np.zeros((96, 96)), "readout_.weight": W.copy()}
    assert tables(state) == {"tokens.weight": "tied head"}
    shared = {"a.fc.weight": W, "b.fc.weight": W.copy(), "body.weight": np.zeros((96, 96))}
    assert tables(shared) == {}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("attn.relative_position_bias_table", (225, 64)),
        ("quantizer._codebook.embed_avg", (512, 64)),
        ("quantizer.codevectors", (1, 128, 32)),
        ("query_tokens", (1, 32, 64)),
        ("pos_embed", (1, 8, 8, 64)),
        ("embed.W_E", (300, 64)),
        ("embeds.0.weight", (300, 64)),
        ("emb_l.3.weight", (300, 64)),
        ("atom_embedding_list.0.weight", (119, 64)),
        ("embed_tokens_per_layer.weight", (300, 64)),
        ("embed_text_tokens.weight", (300, 64)),
        ("position_embeds_layer.weight", (300, 64)),
        ("char_embeddings.HashBucketCodepointEmbedder_0.weight", (300, 64)),
        ("encoder.position_enc", (300, 64)),
    ],
)
def test_tables_of_known_names(name, shape):
    assert tables({name: np.zeros(shape), "fc.weight": np.zeros((64, 64))}) == {name: "name"}


def test_a_linear_in_a_sequence_that_is_called_embedding_is_none():
    net = nn.ModuleDict({"time_embed": nn.Sequential(nn.Linear(96, 64), nn.Linear(64, 64))})
    assert tables(net.state_dict()) == {}


def test_a_head_that_comes_before_its_table_is_none(rng):
    table = rng.standard_normal((300, 64)).astype("f4")
    state = {"lm_head.weight": table, "model.embed_tokens.weight": table.copy()}
    assert tables(state) == {"model.embed_tokens.weight": "name"}


def test_projections_with_a_row_for_each_position_are_no_tables(tmp_path):
    state = {f"{name}_projection.weight": torch.randn(60, 80) for name in ("text", "visual")}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"hidden_size": 80, "max_position_embeddings": 60}')
    assert tables(tmp_path) == {}
