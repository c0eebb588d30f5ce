"""Adapters as peft, kohya's scripts, diffusers and loralib save them, alone and with their base."""

import numpy as np

from support.cases.case import Made, arrays, case, fill, heavy


def _llama(**changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 150}
    return fill(LlamaForCausalLM(LlamaConfig(**sizes | heads | changes)))


def _adapter(folder, config, base=None):
    """Save a peft adapter with filled factors; return the base before and after the merge."""
    import torch
    from peft import get_peft_model

    base = base or _llama()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    model = get_peft_model(base, config)
    with torch.no_grad():
        for i, (_, p) in enumerate(sorted(model.named_parameters())):
            if p.requires_grad and p.ndim >= 2 and p.is_floating_point():
                p.copy_(torch.from_numpy(heavy(*p.shape, seed=i)) * 0.5)
            elif p.requires_grad:
                p.add_(torch.linspace(0, 0.2, p.numel()).reshape(p.shape))
    model.save_pretrained(folder)
    return model, before


def _updates(model, before):
    """Return what the merge of peft adds to each weight, in float64."""
    after = model.merge_and_unload().state_dict()
    changes = ((after[name].double() - value.double()) for name, value in before.items())
    return arrays(change for change in changes if change.abs().max() > 0)


def _peft_case(folder, config, base=None, *, computed=True):
    model, before = _adapter(folder, config, base)
    return Made(folder, _updates(model, before) if computed else [])


@case("torch", "transformers", "peft")
def lora_rank_stabilised(folder):
    from peft import LoraConfig

    patterns = {"rank_pattern": {"v_proj": 16}, "alpha_pattern": {"v_proj": 48}}
    options = {"r": 64, "lora_alpha": 96, "use_rslora": True, **patterns}
    return _peft_case(folder, LoraConfig(target_modules=["q_proj", "v_proj"], **options))


@case("torch", "transformers", "peft")
def lora_of_gpt2(folder):
    """Conv1D of GPT-2 has its input first, and the adapter says so."""
    from peft import LoraConfig
    from transformers import GPT2Config, GPT2LMHeadModel

    base = fill(GPT2LMHeadModel(GPT2Config(n_embd=96, n_layer=1, n_head=2, vocab_size=150)))
    options = {"r": 64, "lora_alpha": 32, "target_modules": ["c_attn"], "fan_in_fan_out": True}
    return _peft_case(folder, LoraConfig(**options), base)


@case("torch", "peft")
def lora_of_convolutions(folder):
    from peft import LoraConfig
    from torch import nn

    base = fill(nn.Sequential(nn.Conv2d(64, 80, 3), nn.Conv2d(80, 64, 1)))
    return _peft_case(folder, LoraConfig(r=64, target_modules=["0", "1"]), base)


@case("torch", "transformers", "peft")
def lora_with_base_in_state(folder):
    """The state dict of a model with its adapter, not merged; alpha is in no file."""
    import torch
    from peft import LoraConfig

    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "down_proj"])
    model, _ = _adapter(folder / "adapter", config)
    torch.save(model.state_dict(), folder / "whole.pt")
    kept = ("k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "lm_head")
    state = model.state_dict()
    right = [value for name, value in state.items() if any(part in name for part in kept)]
    right += [
        state[name.replace("lora_A", "lora_B")] @ value
        for name, value in state.items()
        if "lora_A" in name
    ]
    return Made(folder / "whole.pt", arrays(right))


@case("torch", "transformers", "peft")
def dora(folder):
    from peft import LoraConfig

    config = LoraConfig(r=64, lora_alpha=32, target_modules=["q_proj"], use_dora=True)
    model, _ = _adapter(folder, config)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * 0.5
    return Made(folder, arrays([update]))


@case("torch", "transformers", "peft")
def adalora(folder):
    """The singular values are a tensor of their own, `lora_E`: the update is B E A."""
    from peft import AdaLoraConfig

    config = AdaLoraConfig(init_r=12, target_r=8, total_step=10, target_modules=["q_proj"])
    return _peft_case(folder, config)


@case("torch", "transformers", "peft")
def loha(folder):
    from peft import LoHaConfig

    return _peft_case(folder, LoHaConfig(r=8, target_modules=["q_proj"]))


@case("torch", "transformers", "peft")
def lokr(folder):
    from peft import LoKrConfig

    return _peft_case(folder, LoKrConfig(r=8, target_modules=["q_proj"]))


@case("torch", "transformers", "peft")
def oft(folder):
    from peft import OFTConfig

    config = OFTConfig(oft_block_size=32, target_modules=["q_proj", "down_proj"])
    return _peft_case(folder, config, computed=False)


@case("torch", "transformers", "peft")
def boft(folder):
    from peft import BOFTConfig

    config = BOFTConfig(boft_block_size=64, target_modules=["q_proj"])
    return _peft_case(folder, config, computed=False)


@case("torch", "transformers", "peft")
def hra(folder):
    from peft import HRAConfig

    return _peft_case(folder, HRAConfig(r=64, target_modules=["q_proj"]), computed=False)


@case("torch", "transformers", "peft")
def ia3(folder):
    """Vectors that scale activations: nothing to measure."""
    from peft import IA3Config

    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    return _peft_case(folder, config, computed=False)


@case("torch", "transformers", "peft")
def vera(folder):
    """Random projections that all layers share, and learned vectors: no weight."""
    from peft import VeraConfig

    config = VeraConfig(r=64, target_modules=["q_proj"], save_projection=True)
    return _peft_case(folder, config, computed=False)


@case("torch", "transformers", "peft")
def fourier_ft(folder):
    from peft import FourierFTConfig

    return _peft_case(
        folder, FourierFTConfig(n_frequency=100, target_modules=["q_proj"]), computed=False
    )


@case("torch", "transformers", "peft")
def prefix_tuning(folder):
    """Vectors in place of tokens: a table, not a weight."""
    from peft import PrefixTuningConfig, TaskType

    config = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=64)
    return _peft_case(folder, config, computed=False)


@case("torch", "transformers", "peft")
def prompt_tuning(folder):
    from peft import PromptTuningConfig, TaskType

    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=80)
    return _peft_case(folder, config, computed=False)


@case("torch", "transformers", "peft")
def lora_of_experts(folder):
    """LoRA of stacked experts (`target_parameters`): the factors of all lie in one matrix."""
    from peft import LoraConfig
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 100}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4}
    base = fill(MixtralForCausalLM(MixtralConfig(**sizes, **heads)))
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=[], target_parameters=["mlp.experts.down_proj"]
    )
    return _peft_case(folder, config, base, computed=False)


@case("torch", "safetensors")
def kohya(folder):
    """kohya's scripts: names with underscores, and alpha as a tensor; a 3x3 convolution, too."""
    import torch
    from safetensors.torch import save_file

    stem, conv = "lora_unet_down_blocks_0_attentions_0_proj_in", "lora_unet_down_blocks_0_conv"
    down, up = heavy(64, 96), heavy(80, 64, seed=1)
    conv_down = heavy(64, 80 * 9, seed=2).reshape(64, 80, 3, 3)
    conv_up = heavy(96, 64, seed=3).reshape(96, 64, 1, 1)
    tensors = {
        f"{stem}.lora_down.weight": down,
        f"{stem}.lora_up.weight": up,
        f"{stem}.alpha": np.float32(16),
        f"{conv}.lora_down.weight": conv_down,
        f"{conv}.lora_up.weight": conv_up,
        f"{conv}.alpha": np.float32(64),
    }
    tensors = {name: torch.from_numpy(np.array(value)).half() for name, value in tensors.items()}
    metadata = {"ss_network_module": "networks.lora", "ss_network_dim": "64"}
    save_file(tensors, folder / "style.safetensors", metadata)
    halves = [np.float64(np.float16(a)) for a in (down, up, conv_down, conv_up)]
    update = halves[1] @ halves[0] * 16 / 64
    of_conv = (halves[3].reshape(96, 64) @ halves[2].reshape(64, -1)).reshape(96, 80, 3, 3)
    return Made(folder / "style.safetensors", [update, of_conv])


@case("torch", "safetensors")
def diffusers_processors(folder):
    """diffusers' older layout: the adapter is in an attention processor."""
    from safetensors.numpy import save_file

    stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor"
    tensors, right = {}, []
    for i, part in enumerate(("to_q_lora", "to_out_lora")):
        down, up = heavy(64, 96, seed=i), heavy(96, 64, seed=9 + i)
        tensors |= {f"{stem}.{part}.down.weight": down, f"{stem}.{part}.up.weight": up}
        right.append(np.float64(up) @ down)
    path = folder / "pytorch_lora_weights.safetensors"
    save_file(tensors, path)
    return Made(path, right)


@case("torch")
def loralib_linear(folder):
    """loralib: bare `lora_A` and `lora_B` beside the weight of their layer, in one state dict."""
    import torch

    weight, down, up = heavy(96, 80), heavy(8, 80, seed=1), heavy(96, 8, seed=2)
    tensors = {
        "fc.weight": weight,
        "fc.bias": np.ones(96, "f4"),
        "fc.lora_A": down,
        "fc.lora_B": up,
    }
    tensors["head.weight"] = heavy(64, 96, seed=3)
    torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, folder / "model.pt")
    return Made(folder / "model.pt", None)


@case("torch", "safetensors")
def adapter_beside_its_base(folder):
    """A folder of a trainer: the adapter, its config, and the base in a subfolder of its own."""
    from peft import LoraConfig

    base = _llama()
    base.save_pretrained(folder / "base")
    config = LoraConfig(r=64, lora_alpha=64, target_modules=["o_proj"])
    model, before = _adapter(folder / "adapter", config, base)
    return Made(folder / "adapter", _updates(model, before))
