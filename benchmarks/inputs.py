"""Benchmark inputs: a base of a real shape with random bf16 weights in shards, and a rank-16 adapter.

python benchmarks/inputs.py 0.5B FOLDER        makes FOLDER/base and FOLDER/adapter, unless they are there
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config


@dataclass(frozen=True)
class Shape:
    """The sizes that decide how many bytes lie where."""

    config: type[PretrainedConfig]
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool
    shard_bytes: int


SHAPES = {
    "tiny": Shape(Qwen2Config, 128, 320, 2, 4, 2, 1024, True, 300_000),
    "0.5B": Shape(Qwen2Config, 896, 4864, 24, 14, 2, 151_936, True, 5_000_000_000),
    "3.2B": Shape(LlamaConfig, 3072, 8192, 28, 24, 8, 128_256, True, 2_500_000_000),
    "8B": Shape(LlamaConfig, 4096, 14_336, 32, 32, 8, 128_256, False, 5_000_000_000),
}
"""Those of Qwen2.5 0.5B, Llama 3.2 3B and Llama 3.1 8B."""

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
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
            if shape.config is Qwen2Config and name.endswith(("q_proj", "k_proj", "v_proj")):
                yield f"model.layers.{layer}.{name}.bias", size[:1]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{norm}.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocabulary, hidden)


def make_base(shape: Shape, folder: Path) -> None:
    """Random weights, a shard at a time."""
    folder.mkdir(parents=True)
    noise = torch.Generator().manual_seed(1)
    groups: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    room = shape.shard_bytes
    for name, size in tensors(shape):
        room -= 2 * torch.Size(size).numel()
        if room < 0 and groups[-1]:
            groups.append([])
            room = shape.shard_bytes - 2 * torch.Size(size).numel()
        groups[-1].append((name, size))
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        file = file if len(groups) > 1 else "model.safetensors"
        weights = {n: (torch.randn(s, generator=noise) * 0.02).bfloat16() for n, s in group}
        save_file(weights, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(weights, file)
    if len(groups) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = shape.config(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        dtype="bfloat16",
    )
    kind = shape.config.__name__.replace("Config", "ForCausalLM")
    config.architectures = [kind]
    config.save_pretrained(folder)


def make_adapter(shape: Shape, folder: Path, base: Path) -> None:
    """A LoRA on every linear layer, with a delta everywhere."""
    noise = torch.Generator().manual_seed(2)
    factors = {}
    for name, size in tensors(shape):
        module = name.removesuffix(".weight")
        if not name.endswith(".weight") or module.rpartition(".")[2] not in TARGETS:
            continue
        rows, columns = size
        key = f"base_model.model.{module}"
        factors[f"{key}.lora_A.weight"] = torch.randn(RANK, columns, generator=noise) / columns**0.5
        factors[f"{key}.lora_B.weight"] = torch.randn(rows, RANK, generator=noise) * 0.02
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=TARGETS,
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
        inference_mode=True,
    )
    config.save_pretrained(folder)
    save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def make(size: str, folder: Path) -> tuple[Path, Path]:
    """Base and adapter of a size; made once."""
    shape, base, adapter = SHAPES[size], folder / "base", folder / "adapter"
    if not (adapter / "adapter_model.safetensors").exists():
        make_base(shape, base)
        make_adapter(shape, adapter, base)
    return base, adapter


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
