"""Folders that were put together wrongly, or changed after a right merge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from pipeline.proof.tensors import find_tensors
from pipeline.receipt.record import FILE_NAME, read_receipt
from tests.faults.merges import DOWN, EMBEDDING, HEAD
from tests.faults.scenes import Scene, edit, lora, rewrite
from tests.fixtures.models import build_tokenizer
from tests.parity.plain import tensors_of

NORM = "model.norm.weight"


def embedding_not_resized(folder: Path, scene: Scene) -> None:
    """Merged into the base as it was, though the adapter brings new tokens and their rows."""
    base = tensors_of(scene.base)
    rewrite(folder, tensors_of(folder) | {key: base[key] for key in (EMBEDDING, HEAD)})
    edit(folder / "config.json", vocab_size=base[EMBEDDING].shape[0])


def config_not_resized(folder: Path, scene: Scene) -> None:
    """The rows are there, and the config does not say so."""
    edit(folder / "config.json", vocab_size=tensors_of(scene.base)[EMBEDDING].shape[0])


def tie_broken(folder: Path, scene: Scene) -> None:
    """A head of its own, in a model that says it has none."""
    merged = tensors_of(folder)
    rewrite(folder, {**merged, HEAD: merged[EMBEDDING] * 1.1})


def tied_again(folder: Path, scene: Scene) -> None:
    """The merged head is taken for a copy of the embedding and left out."""
    rewrite(folder, {key: t for key, t in tensors_of(folder).items() if key != HEAD})
    edit(folder / "config.json", tie_word_embeddings=True)


def overflow(folder: Path, scene: Scene) -> None:
    """Saved as float16, which ends at 65504, and the base has larger numbers."""
    cast = {key: tensor.to(torch.float16) for key, tensor in tensors_of(folder).items()}
    rewrite(folder, cast)
    edit(folder / "config.json", dtype="float16")
    saved = read_receipt(folder).saved.model_copy(update={"dtype": "float16"})
    edit(folder / FILE_NAME, saved=saved.model_dump())


def left_over_quantization_config(folder: Path, scene: Scene) -> None:
    said = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    edit(folder / "config.json", quantization_config=said)


def dtype_of_another_save(folder: Path, scene: Scene) -> None:
    edit(folder / "config.json", dtype="float16")


def rope_of_another_model(folder: Path, scene: Scene) -> None:
    """A tool wrote the config anew, with the default base of its position embeddings."""
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    edit(folder / "config.json", rope_parameters={**rope, "rope_theta": 500000.0})


def generation_config_lost(folder: Path, scene: Scene) -> None:
    (folder / "generation_config.json").unlink()


def tokenizer_with_more_tokens(folder: Path, scene: Scene) -> None:
    build_tokenizer(folder, extra=tuple(f"<new {n}>" for n in range(100)))


def tokenizer_of_the_base(folder: Path, scene: Scene) -> None:
    """The adapter brought its own."""
    shutil.copy(scene.base / "tokenizer.json", folder)


def chat_template_lost(folder: Path, scene: Scene) -> None:
    (folder / "chat_template.jinja").unlink()


def shard_of_another_merge(folder: Path, scene: Scene) -> None:
    """Two uploads to one repository, and one file of the first was left."""
    other = scene.adapter("for the shard", lora(), seed=9)
    scene.merge("for the shard merged", adapters=[other])
    name = find_tensors(str(folder))[DOWN].file.name
    shutil.copy(scene.folder / "for the shard merged" / "merged" / name, folder)


def shards_swapped(folder: Path, scene: Scene) -> None:
    first, second, *_ = sorted(folder.glob("*.safetensors"))
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)


def bit_of_a_merged_tensor(folder: Path, scene: Scene) -> None:
    _flip(folder, DOWN)


def bit_of_a_copied_tensor(folder: Path, scene: Scene) -> None:
    _flip(folder, EMBEDDING)


def _flip(folder: Path, key: str) -> None:
    """The lowest bit of a number in the middle."""
    stored = find_tensors(str(folder))[key]
    data = bytearray(stored.file.read_bytes())
    data[(stored.info.start + stored.info.end) // 4 * 2] ^= 1
    stored.file.write_bytes(data)


def norm_not_copied(folder: Path, scene: Scene) -> None:
    """As a model that was made new has it."""
    merged = tensors_of(folder)
    rewrite(folder, {**merged, NORM: merged[NORM] * 1.01})


def tensor_missing(folder: Path, scene: Scene) -> None:
    rewrite(folder, {key: t for key, t in tensors_of(folder).items() if key != DOWN})


def saved_while_attached(folder: Path, scene: Scene) -> None:
    """PEFT's own names, of a layer that still had its adapter around it."""
    wrapped = DOWN.replace("weight", "base_layer.weight")
    rewrite(folder, {wrapped if key == DOWN else key: t for key, t in tensors_of(folder).items()})


def heads_in_another_order(folder: Path, scene: Scene) -> None:
    """The rows of q_proj, as another library orders its heads."""
    merged = tensors_of(folder)
    key = "model.layers.0.self_attn.q_proj.weight"
    heads = merged[key].reshape(4, -1, merged[key].shape[1])
    rewrite(folder, {**merged, key: heads.flip(0).reshape(merged[key].shape)})
