"""Benchmark inputs: bases of a real shape with noise for weights, and rank-16 adapters.

    python benchmarks/inputs.py SIZE FOLDER [--adapter qv] [--files 8 | --saved-nf4]

prints the folders of base and adapter. Each is made once, and its name says what it is: `base`,
`base-8-files`, `base-nf4`, `adapter-all`, `adapter-qv`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from peft import LoraConfig
from safetensors.torch import save_file
from shapes import ALPHA, RANK, SHAPES, TARGETS, Shape, tensors
from transformers import AutoModelForCausalLM, BitsAndBytesConfig


def make_base(shape: Shape, folder: Path, files: int | None) -> None:
    """The same noise again and again, a shard at a time; by default in files of the usual size."""
    folder.mkdir(parents=True)
    total = sum(2 * math.prod(size) for _, size in tensors(shape))
    limit = shape.shard_bytes if files is None else -(-total // files)
    noise = torch.randn(1 << 24, generator=torch.Generator().manual_seed(1)).mul(0.02).bfloat16()
    groups: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    room = limit
    for name, size in tensors(shape):
        if room < 2 * math.prod(size) and groups[-1]:
            groups.append([])
            room = limit
        room -= 2 * math.prod(size)
        groups[-1].append((name, size))
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        file = file if len(groups) > 1 else "model.safetensors"
        weights = {name: _filled(size, noise) for name, size in group}
        save_file(weights, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(weights, file)
    if len(groups) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = getattr(transformers, shape.config)(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        dtype="bfloat16",
    )
    config.architectures = [shape.config.replace("Config", "ForCausalLM")]
    config.save_pretrained(folder)


def _filled(size: tuple[int, ...], noise: torch.Tensor) -> torch.Tensor:
    count = math.prod(size)
    return noise.repeat(-(-count // len(noise)))[:count].reshape(size)


def make_4bit(base: Path, folder: Path) -> None:
    """The base as bitsandbytes and transformers save it in NF4 with double quantization."""
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", quantization_config=four)
    model.save_pretrained(folder)


def make_adapter(shape: Shape, folder: Path, targets: str) -> None:
    """A LoRA with a delta everywhere."""
    noise = torch.Generator().manual_seed(2)
    factors = {}
    for name, size in tensors(shape):
        module = name.removesuffix(".weight")
        if not name.endswith(".weight") or module.rpartition(".")[2] not in TARGETS[targets]:
            continue
        rows, columns = size
        key = f"base_model.model.{module}"
        factors[f"{key}.lora_A.weight"] = torch.randn(RANK, columns, generator=noise) / columns**0.5
        factors[f"{key}.lora_B.weight"] = torch.randn(rows, RANK, generator=noise) * 0.02
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=TARGETS[targets],
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    config.save_pretrained(folder)
    save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def base_of(size: str, folder: Path, *, files: int | None = None, saved_nf4: bool = False) -> Path:
    """The base of a size, in so many files, or saved in 4 bits."""
    if saved_nf4:
        plain = base_of(size, folder)
        return _once(folder / size / "base-nf4", lambda at: make_4bit(plain, at))
    name = "base" if files is None else f"base-{files}-files"
    return _once(folder / size / name, lambda at: make_base(SHAPES[size], at, files))


def adapter_of(size: str, folder: Path, targets: str = "all") -> Path:
    """The adapter on those layers of a base of a size."""
    path = folder / size / f"adapter-{targets}"
    return _once(path, lambda at: make_adapter(SHAPES[size], at, targets))


def _once(path: Path, make: Callable[[Path], None]) -> Path:
    if not path.exists():
        part = path.with_name(f"{path.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        make(part)
        os.rename(part, path)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="make a base and an adapter")
    parser.add_argument("size", choices=list(SHAPES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--adapter", default="all", choices=list(TARGETS))
    parser.add_argument("--files", type=int)
    parser.add_argument("--saved-nf4", action="store_true")
    asked = parser.parse_args()
    print(base_of(asked.size, asked.folder, files=asked.files, saved_nf4=asked.saved_nf4))
    print(adapter_of(asked.size, asked.folder, asked.adapter))
