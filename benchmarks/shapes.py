"""The shapes of the models that are timed. Without torch, so that whoever measures stays small."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The sizes that decide how many bytes lie where."""

    config: str
    """Class of transformers."""
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool
    shard_bytes: int


SHAPES = {
    "tiny": Shape("Qwen2Config", 128, 320, 2, 4, 2, 1024, True, 300_000),
    "0.5B": Shape("Qwen2Config", 896, 4864, 24, 14, 2, 151_936, True, 5_000_000_000),
    "3.2B": Shape("LlamaConfig", 3072, 8192, 28, 24, 8, 128_256, True, 2_500_000_000),
    "8B": Shape("LlamaConfig", 4096, 14_336, 32, 32, 8, 128_256, False, 5_000_000_000),
}
"""Those of Qwen2.5 0.5B, Llama 3.2 3B and Llama 3.1 8B."""

TARGETS = {
    "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "qv": ["q_proj", "v_proj"],
}
RANK, ALPHA = 16, 32


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the base's tensors, in the order of the model."""
    hidden, width = shape.hidden, shape.hidden // shape.heads * shape.key_value_heads
    sizes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (width, hidden),
        "self_attn.v_proj": (width, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (shape.intermediate, hidden),
        "mlp.up_proj": (shape.intermediate, hidden),
        "mlp.down_proj": (hidden, shape.intermediate),
    }
    yield "model.embed_tokens.weight", (shape.vocabulary, hidden)
    for layer in range(shape.layers):
        for name, size in sizes.items():
            yield f"model.layers.{layer}.{name}.weight", size
            if shape.config == "Qwen2Config" and name.endswith(("q_proj", "k_proj", "v_proj")):
                yield f"model.layers.{layer}.{name}.bias", size[:1]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{norm}.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocabulary, hidden)


def merged_elements(shape: Shape, targets: str) -> int:
    """Numbers of the weights that an adapter changes."""
    return sum(
        math.prod(size)
        for name, size in tensors(shape)
        if name.endswith(".weight") and name.split(".")[-2] in TARGETS[targets]
    )
