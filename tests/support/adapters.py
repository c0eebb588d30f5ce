"""Small networks with adapters of peft."""

import warnings

import peft
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


class Net(nn.Module):
    """One layer of each kind that peft adapts."""

    def __init__(self):
        super().__init__()
        self.fc, self.conv, self.conv1 = nn.Linear(12, 9), nn.Conv2d(4, 8, 3), nn.Conv1d(4, 6, 3)
        self.table, self.c1, self.head = nn.Embedding(20, 6), Conv1D(7, 5), nn.Linear(9, 3)


LAYERS = ["fc", "conv", "table"]
ADAPTERS = {
    "lora": peft.LoraConfig(r=3, lora_alpha=7, target_modules=[*LAYERS, "conv1"]),
    "of a transposed layer": peft.LoraConfig(r=3, target_modules=["c1"], fan_in_fan_out=True),
    "rslora": peft.LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=LAYERS),
    "patterns": peft.LoraConfig(
        r=3,
        target_modules=LAYERS,
        alpha_pattern={"^fc": 3},
        rank_pattern={"conv": 2},
        modules_to_save=["head"],
    ),
    "biases": peft.LoraConfig(r=3, lora_alpha=7, target_modules=["fc"], bias="lora_only"),
    "dora": peft.LoraConfig(r=3, use_dora=True, target_modules=LAYERS),
    "dora of a transposed layer": peft.LoraConfig(
        r=3, use_dora=True, target_modules=["c1"], fan_in_fan_out=True
    ),
    "adalora": peft.AdaLoraConfig(init_r=4, target_r=2, total_step=9, target_modules=["fc"]),
    "loha": peft.LoHaConfig(r=3, alpha=7, target_modules=["fc", "conv"]),
    "loha of kernels": peft.LoHaConfig(
        r=3, alpha=7, target_modules=["conv"], use_effective_conv2d=True
    ),
    "lokr": peft.LoKrConfig(r=2, alpha=7, target_modules=["fc", "conv"], decompose_both=True),
    "lokr of kernels": peft.LoKrConfig(
        r=1, alpha=7, target_modules=["conv"], use_effective_conv2d=True
    ),
    "lokr of whole factors": peft.LoKrConfig(r=9, alpha=7, target_modules=["fc", "conv"]),
}
OTHERS = {
    "OFT": peft.OFTConfig(r=0, oft_block_size=3, target_modules=["fc"]),
    "IA3": peft.IA3Config(target_modules=["fc"], feedforward_modules=[]),
    "VERA": peft.VeraConfig(r=3, target_modules=["fc"]),
    "HRA": peft.HRAConfig(r=2, target_modules=["fc"]),
    "BOFT": peft.BOFTConfig(boft_block_size=3, target_modules=["fc"]),
}


def with_adapters(config, seed=0):
    """Return a network with adapters whose values are not those of the start."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(Net(), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".base_layer." not in name and parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model
