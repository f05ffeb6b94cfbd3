"""Right merges, each of a kind that some mistake needs; the library of faults breaks copies of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file, save_file

from tests.fixtures.models import build_adapter, build_base, build_tokenizer
from tests.fixtures.session import Session
from tests.parity.plain import tensors_of

Make = Callable[[], PeftConfig]
Tensors = dict[str, torch.Tensor]

LIVELY = {"initializer_range": 0.1}
"""Layers that matter: the small numbers of a new model leave nearly all to the embeddings."""


def lora(*targets: str, **options: Any) -> Make:
    where: Any = list(targets) or "all-linear"
    chosen = {"r": 8, "lora_alpha": 16, "target_modules": where, "task_type": "CAUSAL_LM"}
    return lambda: LoraConfig(**{**chosen, **options})


@dataclass(frozen=True)
class Right:
    """What is merged into what."""

    adapters: tuple[Make, ...] = (lora(),)
    base: str = "llama"
    config: Mapping[str, Any] = field(default_factory=dict)
    """What is unusual about the base's config."""
    vocabulary: int | None = None
    """Of the adapter's training, if it resized the base's and brought a tokenizer with more tokens."""
    weights: tuple[float, ...] = (1.0,)
    load: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `load_base`; what is quantized is dequantized before the merge."""
    dequantize: Mapping[str, Any] = field(default_factory=dict)
    largest: float | None = None
    """A number in a norm of the base, as large ones are in large models."""


RIGHT: dict[str, Right] = {
    "LoRA": Right(),
    "rsLoRA": Right((lora(use_rslora=True),)),
    "DoRA": Right((lora(use_dora=True),)),
    "alpha patterns": Right((lora("q_proj", "v_proj", alpha_pattern={"v_proj": 64}),)),
    "biases": Right((lora(bias="all"),), config={"attention_bias": True, "mlp_bias": True}),
    "a saved head": Right((lora("q_proj", modules_to_save=["lm_head"]),)),
    "new tokens": Right(
        (lora("q_proj", modules_to_save=["lm_head", "embed_tokens"]),), vocabulary=330
    ),
    "the embedding": Right((lora("embed_tokens", "q_proj"),)),
    "tied": Right(base="qwen2"),
    "tied, the head merged": Right((lora("lm_head", "q_proj"),), "qwen2"),
    "two adapters": Right((lora(), lora("q_proj", "up_proj")), weights=(0.7, 0.3)),
    "GPT-2": Right((lora("c_attn", "c_proj", fan_in_fan_out=True),), "gpt2"),
    "NF4": Right(load={"quantization": "nf4"}),
    "a large number": Right(largest=1e5),
}


class Scene:
    """A right merge on the disk, with all that it was made of."""

    def __init__(self, folder: Path, right: Right) -> None:
        self.folder, self.right = folder, right
        self.base = build_base(folder / "base", right.base, **{**LIVELY, **right.config})
        if right.largest is not None:
            held = load_file(self.base / "model.safetensors")
            held["model.norm.weight"][0] = right.largest
            save_file(held, self.base / "model.safetensors", metadata={"format": "pt"})
        self.adapters = [
            self.adapter(f"adapter_{n}", make, seed=n) for n, make in enumerate(right.adapters)
        ]
        self.session = self.merge("right")
        self.merged = folder / "right" / "merged"

    def adapter(self, name: str, make: Make, seed: int) -> Path:
        path, words = self.folder / name, self.right.vocabulary
        build_adapter(path, self.base, make(), seed=seed, vocabulary=words, dtype=torch.bfloat16)
        if words:
            extra = tuple(f"<new {n}>" for n in range(words - 260))
            build_tokenizer(path, chat=True, extra=extra)
        return path

    def merge(
        self,
        name: str,
        *,
        base: Path | None = None,
        adapters: Sequence[Path] | None = None,
        **changes: Any,
    ) -> Session:
        """A merge as the recipe makes it, or with another base, other adapters, or changes to `right`."""
        right = replace(self.right, **changes)
        session = Session(self.folder / name)
        session.do("load_base", model=str(base or self.base), **right.load)
        given = self.adapters if adapters is None else adapters
        weights = right.weights if len(right.weights) == len(given) else (1.0,) * len(given)
        for number, (path, weight) in enumerate(zip(given, weights, strict=True)):
            session.do("attach_adapter", path=str(path), name=f"a{number}", weight=weight)
        if right.load:
            session.do("dequantize", **right.dequantize)
        session.do("merge")
        path = str(self.folder / name / "merged")
        session.do("save", path=path, max_shard_size="60KB")
        return session

    def tensors_of_merge(self, name: str, **changes: Any) -> Tensors:
        """The weights that another merge gives."""
        self.merge(name, **changes)
        return tensors_of(self.folder / name / "merged")


def rewrite(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write the weights of a folder anew: each tensor where it lay, new ones in the first file."""
    index = folder / "model.safetensors.index.json"
    said = json.loads(index.read_text())
    first = min(said["weight_map"].values())
    places = {key: said["weight_map"].get(key, first) for key in tensors}
    for file in {*said["weight_map"].values()}:
        (folder / file).unlink()
        held = {key: tensors[key].contiguous() for key, where in places.items() if where == file}
        if held:
            save_file(held, folder / file, metadata={"format": "pt"})
    index.write_text(json.dumps({**said, "weight_map": places}))


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    data = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def edited(
    adapter: Path, into: Path, keep: Callable[[str], bool] = lambda name: True, **config: Any
) -> Path:
    """A copy of an adapter with some of its tensors, and changes to its config."""
    into.mkdir()
    held = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: t for name, t in held.items() if keep(name)}, into / "adapter_model.safetensors"
    )
    (into / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    edit(into / "adapter_config.json", **config)
    return into
