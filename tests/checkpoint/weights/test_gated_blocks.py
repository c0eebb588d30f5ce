"""Gate and up of gated layers, against the layers of transformers computed with the blocks."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from specdiag.checkpoint.weights.find import open_weights

SILU = torch.nn.functional.silu


def blocks_of(source, whole):
    """Return the values of the blocks of a weight by label."""
    found = [w for w in open_weights(source).tensors if w.whole == whole]
    return {w.name.removeprefix(whole)[1:-1]: torch.tensor(w.read()) for w in found}


@pytest.mark.filterwarnings("ignore")
def test_gate_and_up_of_phi3_compute_what_it_computes():
    from transformers.models.phi3.modeling_phi3 import Phi3Config, Phi3MLP

    module = Phi3MLP(Phi3Config(hidden_size=32, intermediate_size=48, pad_token_id=0))
    W = blocks_of(module.state_dict(), "gate_up_proj.weight")
    x = torch.randn(5, 32)
    ours = module.down_proj(SILU(x @ W["gate"].T) * (x @ W["up"].T))
    torch.testing.assert_close(ours, module(x))


@pytest.mark.filterwarnings("ignore")
def test_gate_and_up_of_modernbert_compute_what_it_computes():
    from transformers.models.modernbert.modeling_modernbert import ModernBertConfig, ModernBertMLP

    module = ModernBertMLP(ModernBertConfig(hidden_size=32, intermediate_size=48))
    W = blocks_of(module.state_dict(), "Wi.weight")
    x = torch.randn(5, 32)
    ours = module.Wo(torch.nn.functional.gelu(x @ W["gate"].T) * (x @ W["up"].T))
    torch.testing.assert_close(ours, module(x))


def test_gate_and_up_of_the_audio_layers_of_phi4_lie_in_the_other_order():
    from transformers.models.phi4_multimodal.modeling_phi4_multimodal import (
        Phi4MultimodalAudioConfig,
        Phi4MultimodalAudioMLP,
    )

    config = Phi4MultimodalAudioConfig(hidden_size=32, intermediate_size=48)
    module = Phi4MultimodalAudioMLP(config).eval()
    module.gate_up_proj.bias.data.zero_()
    state = {f"feed_forward_in.{name}": value for name, value in module.state_dict().items()}
    W = blocks_of(state, "feed_forward_in.gate_up_proj.weight")
    x = torch.randn(5, 32)
    normed = module.layer_norm(x)
    gate, up = (normed @ W[label].T for label in ("gate", "up"))
    torch.testing.assert_close(module.down_proj(up * module.act_fn(gate)), module(x))


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("mlp.w12", "mlp.w3"), ("gate", "up")),
        (("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"), ("gate", "up")),
        (("blk.0.ffn_up", "blk.0.ffn_down"), ("gate", "up")),
        (("ff.net.0.proj", "ff.net.2"), ("up", "gate")),
        (("blocks.0.mlp.fc1", "blocks.0.mlp.fc2"), ("first half", "second half")),
    ],
)
def test_halves_are_known_by_the_matrix_that_takes_half_of_the_outputs(names, labels):
    rng = np.random.default_rng(0)
    fused, other = (f"{name}.weight" for name in names)
    state = {fused: rng.standard_normal((96, 32)), other: rng.standard_normal((32, 48))}
    found = {w.name: w for w in open_weights(state).tensors}
    assert list(found) == [*(f"{fused}[{label}]" for label in labels), other]
    read = [found[f"{fused}[{label}]"].read() for label in labels]
    np.testing.assert_array_equal(np.concatenate(read), state[fused])
    state[other] = rng.standard_normal((32, 96))
    assert [w.name for w in open_weights(state).tensors] == [fused, other]


@pytest.mark.filterwarnings("ignore")
def test_halves_of_mamba_are_those_that_it_computes_with():
    from transformers.models.mamba.modeling_mamba import MambaConfig, MambaMixer

    config = MambaConfig(hidden_size=16, state_size=4, intermediate_size=32)
    module = MambaMixer(config, layer_idx=0).eval()
    module.conv1d.bias.data.fill_(1)
    state = {f"mixer.{name}": value for name, value in module.state_dict().items()}
    W = blocks_of(state, "mixer.in_proj.weight")
    outputs = {}
    for zeroed in ("x", "z"):  # z multiplies the result; x meets the bias of the convolution first
        halves = [W[half] * (half != zeroed) for half in ("x", "z")]
        module.in_proj.weight.data = torch.cat(halves)
        outputs[zeroed] = module(torch.randn(1, 5, 16))
    assert outputs["x"].abs().min() > 0
    assert outputs["z"].abs().max() == 0


def test_gate_and_up_of_gpt_oss_lie_in_turn(tmp_path):
    # GptOssExperts._apply_gate: gate, up = gate_up[..., ::2], gate_up[..., 1::2]
    rng = np.random.default_rng(0)
    state = {
        "experts.gate_up_proj": rng.standard_normal((32, 96)),
        "experts.gate_up_proj_bias": rng.standard_normal(96),
        "experts.down_proj": rng.standard_normal((48, 32)),
    }
    save_file(state, tmp_path / "model.safetensors")
    names = [w.name for w in open_weights(tmp_path).tensors if len(w.shape) == 2]
    assert names == ["experts.down_proj", "experts.gate_up_proj"]  # the layout is not known
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_oss"}))
    found = {w.name: w.read() for w in open_weights(tmp_path).tensors}
    W = state["experts.gate_up_proj"]
    np.testing.assert_array_equal(found["experts.gate_up_proj[gate]"], W[:, ::2])
    np.testing.assert_array_equal(found["experts.gate_up_proj[up]"], W[:, 1::2])


def test_gate_and_up_of_the_first_gpt_oss_lie_in_turn():
    # gpt_oss.torch.model.swiglu: x_glu, x_linear = x[..., ::2], x[..., 1::2]
    W = np.random.default_rng(0).standard_normal((96, 32))
    state = {"mlp.mlp1_weight": W, "mlp.mlp2_weight": np.ones((32, 48)), "mlp.mlp1_bias": W[:, 0]}
    found = blocks_of(state, "mlp.mlp1_weight")
    np.testing.assert_array_equal(found["gate"], W[::2])
    np.testing.assert_array_equal(found["up"], W[1::2])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["mixtral", "llama4", "gpt_oss"])
def test_blocks_of_experts_compute_what_the_experts_compute(kind, tmp_path):
    from transformers import GptOssConfig, Llama4TextConfig, MixtralConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
    from transformers.models.llama4.modeling_llama4 import Llama4TextExperts
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_local_experts": 2}
    config, experts = {
        "mixtral": (MixtralConfig(**sizes), MixtralExperts),
        "llama4": (Llama4TextConfig(**sizes), Llama4TextExperts),
        "gpt_oss": (GptOssConfig(**sizes), GptOssExperts),
    }[kind]
    torch.manual_seed(0)
    module = experts(config)
    for name, parameter in module.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3)
        if name.endswith("bias"):
            parameter.data.zero_()
    state = {f"mlp.experts.{n}": p.detach().numpy() for n, p in module.named_parameters()}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    stacks = [f"mlp.experts.{name}=stack" for name in ("gate_up_proj", "down_proj")]
    W = {
        w.name.removeprefix("mlp.experts."): torch.tensor(w.read())
        for w in open_weights(tmp_path, splits=stacks).tensors
    }
    x = torch.randn(5, 16)
    gate, up, down = W["gate_up_proj[1][gate]"], W["gate_up_proj[1][up]"], W["down_proj[1]"]
    if kind == "mixtral":
        gate, up, down = gate.T, up.T, down.T
    if kind == "gpt_oss":
        theirs = module._apply_gate(x @ module.gate_up_proj[1])
        ours = (x @ up + 1) * (x @ gate) * torch.sigmoid(x @ gate * module.alpha)
        torch.testing.assert_close(ours, theirs)
        return
    ours = (SILU(x @ gate) * (x @ up)) @ down
    if kind == "llama4":
        theirs = module(torch.stack((x, x)).reshape(-1, 16)).reshape(2, 5, 16)[1]
    else:
        theirs = module(x, torch.ones(5, 1, dtype=int), torch.ones(5, 1))
    torch.testing.assert_close(ours, theirs)
