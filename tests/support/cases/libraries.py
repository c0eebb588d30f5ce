"""Small networks of transformers, as it saves them, and as their state dicts hold them."""

from support.cases.case import Made, arrays, case, fill, linears

NEEDS = ("torch", "transformers")


def _saved(folder, model, right=None):
    """Save a model of transformers; its linear layers and convolutions count, or `right`."""
    model.save_pretrained(folder)
    return Made(folder, linears(model) if right is None else right)


def _experts(model, leaves):
    """Return linear layers, and the stacks of experts whose names end so."""
    found = linears(model)
    return found + arrays(p for n, p in model.named_parameters() if n.rpartition(".")[2] in leaves)


@case(*NEEDS)
def bert(folder):
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "vocab_size": 200, "max_position_embeddings": 80}
    return _saved(folder, fill(BertForMaskedLM(BertConfig(**sizes, **heads))))


@case(*NEEDS)
def t5(folder):
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 96, "d_ff": 128, "d_kv": 48, "num_layers": 1, "num_heads": 2}
    model = fill(T5ForConditionalGeneration(T5Config(vocab_size=200, **sizes)))
    return _saved(folder, model)


@case(*NEEDS)
def gpt_neox(folder):
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "vocab_size": 200, "max_position_embeddings": 64}
    return _saved(folder, fill(GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, **heads))))


@case(*NEEDS)
def bloom(folder):
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(hidden_size=128, n_layer=1, n_head=2, vocab_size=150))
    return _saved(folder, fill(model))


@case(*NEEDS)
def gpt2_tied(folder):
    from transformers import GPT2Config, GPT2LMHeadModel

    return _saved(
        folder, fill(GPT2LMHeadModel(GPT2Config(n_embd=96, n_layer=1, n_head=2, vocab_size=150)))
    )


@case(*NEEDS)
def gpt2_tied_as_bin(folder):
    """The same network as its state dict, in which the head has a name of its own."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    model = fill(GPT2LMHeadModel(GPT2Config(n_embd=96, n_layer=1, n_head=2, vocab_size=150)))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return Made(folder / "pytorch_model.bin", linears(model))


@case(*NEEDS)
def phi3(folder):
    """Fused queries, keys and values, and fused gates."""
    from transformers import Phi3Config, Phi3ForCausalLM

    sizes = {
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 1,
        "pad_token_id": 0,
    }
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 150}
    return _saved(folder, fill(Phi3ForCausalLM(Phi3Config(**sizes, **heads))))


@case(*NEEDS)
def llama_tied(folder):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 150}
    config = LlamaConfig(**sizes, **heads, tie_word_embeddings=True)
    return _saved(folder, fill(LlamaForCausalLM(config)))


def _moe_sizes():
    sizes = {"hidden_size": 80, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 120}
    return sizes | {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 40}


@case(*NEEDS)
def mixtral(folder):
    from transformers import MixtralConfig, MixtralForCausalLM

    model = fill(MixtralForCausalLM(MixtralConfig(**_moe_sizes(), num_local_experts=4)))
    return _saved(folder, model, _each_expert(model))


@case(*NEEDS)
def mixtral_in_memory(folder):
    """The state dict, in which all experts are one tensor, and two projections one matrix."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    model = fill(MixtralForCausalLM(MixtralConfig(**_moe_sizes(), num_local_experts=4)))
    torch.save(model.state_dict(), folder / "mixtral.pt")
    right = _experts(model, ("gate_up_proj", "down_proj")) + _routers(model)
    return Made(folder / "mixtral.pt", right)


def _routers(model):
    """Return the weights of routers, which are no module of class Linear."""
    names = ("mlp.gate.weight", "mlp.router.weight")
    return arrays(p for n, p in model.named_parameters() if n.endswith(names))


def _each_expert(model):
    """Return linear layers, routers, and the experts of stacks, gates apart from what they gate."""
    right = linears(model) + _routers(model)
    for name, value in model.named_parameters():
        if name.endswith("experts.down_proj"):
            right += arrays(value)
        elif name.endswith("experts.gate_up_proj"):
            right += arrays(half for expert in value for half in expert.chunk(2))
    return right


@case(*NEEDS)
def qwen_moe(folder):
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(**_moe_sizes(), num_experts=4, moe_intermediate_size=72)
    model = fill(Qwen3MoeForCausalLM(config))
    return _saved(folder, model, _each_expert(model))


@case(*NEEDS)
def deepseek(folder):
    """Compressed keys and values, and experts beside shared ones."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    sizes = {"hidden_size": 96, "intermediate_size": 128, "moe_intermediate_size": 64}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    sizes |= {"vocab_size": 120, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1}
    sizes |= {"topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 64, "q_lora_rank": 64}
    sizes |= {"qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 32}
    model = fill(DeepseekV3ForCausalLM(DeepseekV3Config(**sizes)))
    return _saved(folder, model, _each_expert(model))


@case(*NEEDS)
def gpt_oss(folder):
    """Experts as (experts, in, out) with biases (experts, out), and attention sinks."""
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        **_moe_sizes() | {"head_dim": 64}, num_local_experts=4, layer_types=["full_attention"]
    )
    model = fill(GptOssForCausalLM(config))
    return _saved(folder, model, _experts(model, ("gate_up_proj", "down_proj")) + _routers(model))


@case(*NEEDS)
def mamba(folder):
    """A state-space model: a depthwise kernel of four taps, and A_log, which is no matrix."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        hidden_size=96, state_size=64, num_hidden_layers=1, vocab_size=120, time_step_rank=64
    )
    model = fill(MambaForCausalLM(config))
    return _saved(folder, model, [a for a in linears(model) if a.ndim == 2])


@case(*NEEDS)
def clip(folder):
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    sizes = {
        "hidden_size": 96,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = CLIPTextConfig(**sizes, vocab_size=120, max_position_embeddings=20)
    vision = CLIPVisionConfig(**sizes, image_size=32, patch_size=8)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64
    )
    return _saved(folder, fill(CLIPModel(config)))


@case(*NEEDS)
def vit(folder):
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 1}
    config = ViTConfig(**sizes, num_attention_heads=2, image_size=64, patch_size=8, num_labels=70)
    return _saved(folder, fill(ViTForImageClassification(config)))


@case(*NEEDS)
def swin(folder):
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        image_size=32, patch_size=4, embed_dim=64, depths=[2], num_heads=[2], window_size=4
    )
    return _saved(folder, fill(SwinModel(config)))


@case(*NEEDS)
def whisper(folder):
    """Fixed sinusoids as a table of positions, learned positions, and kernels of three taps."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sizes = {"d_model": 96, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 128}
    sizes |= {"decoder_ffn_dim": 128, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"vocab_size": 160, "num_mel_bins": 80, "max_source_positions": 150}
    sizes |= {"max_target_positions": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = WhisperConfig(**sizes, decoder_start_token_id=1)
    model = WhisperForConditionalGeneration(config)
    fixed = model.model.encoder.embed_positions.weight.clone()
    fill(model).model.encoder.embed_positions.weight.data = fixed
    return _saved(folder, model)


@case(*NEEDS)
def wav2vec2(folder):
    """A positional kernel of 128 taps with weight norm per tap, and a codebook of the quantiser."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

    sizes = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "conv_dim": (64, 64), "conv_kernel": (10, 3)}
    sizes |= {"conv_stride": (5, 2), "num_feat_extract_layers": 2, "codevector_dim": 64}
    sizes |= {"num_conv_pos_embedding_groups": 1, "proj_codevector_dim": 64}
    model = fill(Wav2Vec2ForPreTraining(Wav2Vec2Config(**sizes, num_codevectors_per_group=64)))
    right = [a for a in linears(model) if a.ndim == 2 or a.shape[1] > 1]
    return _saved(folder, model, right)


@case(*NEEDS)
def encodec(folder):
    """Weight norm, LSTM gates, and codebooks with running averages."""
    from transformers import EncodecConfig, EncodecModel

    config = EncodecConfig(
        num_filters=16,
        hidden_size=64,
        codebook_size=128,
        num_lstm_layers=1,
        upsampling_ratios=[4, 2],
        codebook_dim=64,
    )
    model = fill(EncodecModel(config))
    model.save_pretrained(folder)
    return Made(folder, None)


@case(*NEEDS)
def blocks_of_eight_bits(folder):
    """FP8 with a scale for each block of 32x32, as DeepSeek's files hold it."""
    import torch
    from safetensors.torch import save_file

    from support.cases.case import heavy

    weight = torch.from_numpy(heavy(128, 96)) * torch.logspace(-1, 1, 128)[:, None]
    blocks = weight.reshape(4, 32, 3, 32)
    scales = blocks.abs().amax((1, 3)) / 448
    small = (blocks / scales[:, None, :, None]).reshape(128, 96).to(torch.float8_e4m3fn)
    tensors = {
        "proj.weight": small,
        "proj.weight_scale_inv": scales,
        "out.weight": weight.T.contiguous(),
    }
    save_file(tensors, folder / "model.safetensors")
    back = small.float().reshape(4, 32, 3, 32) * scales[:, None, :, None]
    return Made(folder / "model.safetensors", arrays([back.reshape(128, 96), weight]))
