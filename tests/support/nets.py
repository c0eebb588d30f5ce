"""Networks of transformers with random weights, for tests of what reads a running network."""

from typing import Any

import torch


def resnet18(**config: Any) -> Any:
    """Return a ResNet-18 (11.2 million parameters): images of (batch, 3, height, width)."""
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    sizes = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
    return ResNetModel(ResNetConfig(layer_type="basic", **{**sizes, **config}))


def bert(**config: Any) -> Any:
    """Return a BERT encoder of 2 layers and 64 features; any other shape by `config`."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    small = {
        "vocab_size": 100,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 64,
    }
    return BertModel(BertConfig(**{**small, **config}))
