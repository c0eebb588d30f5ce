"""Names of models -> the shapes of the matrices that are measured, from their published configs.

Embedding tables are not measured, nor is an output layer that is tied to one.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """A model: its number of parameters, and how many matrices of each shape it has."""

    name: str
    parameters: float
    shapes: dict[tuple[int, int], int]


def encoder(name, parameters, blocks, width, *, pooler):
    """Return a BERT: four square projections and two of four times the width in each block."""
    shapes = {(width, width): 4 * blocks + pooler, (4 * width, width): blocks}
    return Architecture(name, parameters, shapes | {(width, 4 * width): blocks})


def decoder(name, parameters, blocks, width, keys, hidden, vocabulary=0):
    """Return a Llama: grouped keys and values, gated projections, and its own output layer or 0."""
    shapes = {
        (width, width): 2 * blocks,
        (keys, width): 2 * blocks,
        (hidden, width): 2 * blocks,
        (width, hidden): blocks,
    }
    if vocabulary:
        shapes[vocabulary, width] = 1
    return Architecture(name, parameters, shapes)


ARCHITECTURES = (
    encoder("all-MiniLM-L6-v2", 22e6, 6, 384, pooler=True),
    encoder("BERT base", 110e6, 12, 768, pooler=True),
    decoder("Qwen2.5-0.5B", 0.5e9, 24, 896, 128, 4864),
    decoder("Llama-3.2-1B", 1.2e9, 16, 2048, 512, 8192),
    decoder("Llama-3-8B", 8e9, 32, 4096, 1024, 14336, 128256),
    decoder("Llama-3-70B", 70e9, 80, 8192, 1024, 28672, 128256),
)
MEASURED = 1.5e9  # parameters up to which whole files are measured, too
