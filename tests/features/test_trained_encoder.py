import math
import re

import numpy as np
import pytest
import torch

from specdiag.features.attach import attach
from specdiag.features.conditioning import noise_floor
from support.features import depends_on_rounding, measured, numbers, numpy_spectrum
from support.paths import ROOT


class Encoder(torch.nn.Module):
    """A BERT encoder with an identity as readout and the weights of a safetensors file."""

    def __init__(self, weights, dtype):
        super().__init__()
        self.w = {name: tensor.to(dtype) for name, tensor in weights.items()}
        self.readout = torch.nn.Identity()

    def linear(self, name, x):
        return torch.nn.functional.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name, x):
        weight, bias = (self.w[f"{name}.LayerNorm.{part}"] for part in ("weight", "bias"))
        return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, 1e-12)

    def forward(self, tokens, mask):
        table = {k: self.w[f"embeddings.{k}_embeddings.weight"] for k in ("word", "position")}
        x = table["word"][tokens] + table["position"][: tokens.shape[1]]
        x = self.norm("embeddings", x + self.w["embeddings.token_type_embeddings.weight"][0])
        for i in range(6):
            layer = f"encoder.layer.{i}"
            parts = [
                self.linear(f"{layer}.attention.self.{k}", x)
                .unflatten(-1, (12, -1))
                .transpose(1, 2)
                for k in ("query", "key", "value")
            ]
            attended = torch.nn.functional.scaled_dot_product_attention(
                *parts, attn_mask=mask[:, None, None]
            )
            attended = attended.transpose(1, 2).flatten(2)
            update = self.linear(f"{layer}.attention.output.dense", attended)
            x = self.norm(f"{layer}.attention.output", x + update)
            hidden = torch.nn.functional.gelu(self.linear(f"{layer}.intermediate.dense", x))
            x = self.norm(f"{layer}.output", x + self.linear(f"{layer}.output.dense", hidden))
        return self.readout(x)


def word_pieces(word, vocabulary):
    """Return the ids of a word: its longest piece in the vocabulary, then that of the rest."""
    pieces = []
    while word:
        prefix = "##" if pieces else ""
        ends = (n for n in range(len(word), 0, -1) if prefix + word[:n] in vocabulary)
        end = next(ends, None)
        if end is None:
            return [vocabulary["[UNK]"]]
        pieces.append(vocabulary[prefix + word[:end]])
        word = word[end:]
    return pieces


@pytest.fixture(scope="module")
def sentences(minilm):
    """Return the token ids of 40 sentences of the licence, padded, and their mask."""
    lines = minilm.with_name("vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = {piece: i for i, piece in enumerate(lines)}
    text = ROOT.joinpath("LICENSE").read_text(encoding="utf-8").lower()
    by_sentence = []
    for sentence in re.split(r"[.;:]\s", text):
        words = re.findall(r"\w+|[^\w\s]", sentence)
        ids = [piece for word in words for piece in word_pieces(word, vocabulary)]
        by_sentence.append([vocabulary["[CLS]"], *ids, vocabulary["[SEP]"]])
    by_sentence = sorted((ids for ids in by_sentence if len(ids) > 10), key=len)[:40]
    longest = max(map(len, by_sentence))
    tokens = torch.tensor([ids + [0] * (longest - len(ids)) for ids in by_sentence])
    return tokens, torch.arange(longest) < torch.tensor([[len(ids)] for ids in by_sentence])


@pytest.fixture(scope="module")
def encoders(minilm):
    from safetensors.torch import load_file

    return {dtype: Encoder(load_file(minilm), dtype) for dtype in (torch.float32, torch.float64)}


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def encoder(request, encoders):
    return encoders[request.param]


@pytest.fixture(scope="module")
def features(encoders, sentences):
    """Return the features of all sentences by precision, those of padding included."""
    with torch.no_grad():
        return {dtype: encoder(*sentences) for dtype, encoder in encoders.items()}


@pytest.mark.realdata
def test_features_of_a_trained_encoder_have_the_covariance_of_numpy(encoder, sentences):
    tokens, mask = sentences
    features = []
    with torch.no_grad(), attach(encoder, "readout", feature_axis=-1) as seen:
        for part, kept in zip(tokens.split(20), mask.split(20), strict=True):
            seen.expect(mask=kept)
            features.append(encoder(part, kept)[kept])
    result = seen.result()
    expected = numpy_spectrum(torch.cat(features))
    np.testing.assert_allclose(result.eigenvalues, expected, atol=1e-13 * expected[0])
    assert (result.n_groups, result.n_samples) == (40, int(mask.sum()))
    assert result.precision == str(encoder.w["pooler.dense.weight"].dtype).removeprefix("torch.")
    for name in ("effective_rank", "participation_ratio", "trace"):
        low, high = getattr(result, f"{name}_interval")
        assert 0 < low < high < math.inf


@pytest.mark.realdata
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_dead_features_of_a_trained_encoder_make_the_condition_number_a_bound(
    features, sentences, dtype
):
    """Test an encoder whose last LayerNorm removes three directions.

    Two of its scales are 1e-33, and LayerNorm itself removes one direction.
    """
    result = measured(features[dtype], mask=sentences[1])
    assert result.numerical_rank == 384 - 3
    expected = {"float32": "at least 1.7e+13 (float32 floor)"}
    expected["float64"] = "at least 6.8e+13 (float64 arithmetic floor)"
    assert result.condition_number_text == expected[result.precision]
    depends_on_rounding(result)


@pytest.mark.realdata
def test_sentences_padded_and_masked_have_the_spectrum_of_sentences_alone(encoder, sentences):
    tokens, mask = sentences
    padded = torch.nn.functional.pad(tokens, (0, 7))
    kept = torch.nn.functional.pad(mask, (0, 7))
    with torch.no_grad(), attach(encoder, "readout", feature_axis=-1) as together:
        together.expect(groups=range(40), mask=kept)
        encoder(padded, kept)
    with torch.no_grad(), attach(encoder, "readout", feature_axis=-1) as alone:
        for i, (row, real) in enumerate(zip(tokens, mask, strict=True)):
            alone.expect(groups=[i])
            encoder(row[real][None], real[real][None])
    close = 1e-4 if encoder.w["pooler.dense.weight"].dtype == torch.float32 else 1e-9
    together, alone = together.result(), alone.result()
    atol = together.noise_floor
    np.testing.assert_allclose(together.eigenvalues, alone.eigenvalues, rtol=close, atol=atol)
    np.testing.assert_allclose(numbers(together)[384:], numbers(alone)[384:], rtol=10 * close)


@pytest.mark.realdata
def test_rounding_of_a_trained_encoder_in_float32_stays_below_the_floor(features, sentences):
    single, double = (values[sentences[1]] for values in features.values())
    floor, _ = noise_floor(
        np.zeros(384), second_moment=float(single.double().square().mean()), precision="float32"
    )
    added = numpy_spectrum(single.double() - double)
    assert floor / 10 < np.median(added) < floor / 2
