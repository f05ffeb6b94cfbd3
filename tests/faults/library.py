"""Broken merges, as bugs that people report make them, and what must catch each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults import folders, merges
from tests.faults.scenes import Scene, Tensors, rewrite

WHOLE, MODULES, ACCOUNTING, STRUCTURE = "whole model", "modules", "accounting", "structure"
ALL_BUT_STRUCTURE = frozenset({WHOLE, MODULES, ACCOUNTING})


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong with a right merge."""

    right: str
    """Of which merge: a key of scenes.RIGHT."""
    breaks: Callable[[Path, Scene], None]
    """Does to a copy of its folder what the bug does."""
    caught: frozenset[str]
    """The proofs that find it; no other does."""
    files: frozenset[str] = frozenset()
    """Files that have to be named, besides the tensors that differ from the right merge's."""
    tensors: frozenset[str] | None = None
    """The tensors at fault, where others differ too."""


def _merge(right: str, made: Callable[[Scene], Tensors], *caught: str) -> Fault:
    """Right in everything but its weights."""
    found = frozenset(caught) or ALL_BUT_STRUCTURE
    return Fault(right, lambda folder, scene: rewrite(folder, made(scene)), found)


def _folder(
    right: str,
    breaks: Callable[[Path, Scene], None],
    *caught: str,
    files: str = "",
    tensor: str | None = None,
) -> Fault:
    tensors = None if tensor is None else frozenset({tensor})
    return Fault(right, breaks, frozenset(caught), frozenset(files.split()), tensors)


FAULTS: dict[str, Fault] = {
    "scaling ignored": _merge("LoRA", merges.scaling_ignored),
    "alpha of another adapter": _merge("LoRA", merges.alpha_of_another_adapter),
    "rsLoRA scaled as LoRA": _merge("rsLoRA", merges.plain_scale_for_rslora),
    "alpha pattern ignored": _merge("alpha patterns", merges.alpha_pattern_ignored),
    "DoRA magnitude ignored": _merge("DoRA", merges.magnitude_ignored),
    "trained biases lost": _merge("biases", merges.biases_lost),
    "modules_to_save dropped": _merge("a saved head", merges.saved_modules_dropped),
    "LoRA of the embedding ignored": _merge("the embedding", merges.embedding_lora_ignored),
    "delta transposed": _merge("LoRA", merges.delta_transposed),
    "Conv1D taken for Linear": _merge("GPT-2", merges.conv1d_taken_for_linear),
    "nothing merged": _merge("LoRA", merges.nothing_merged),
    "one module left out": _merge("LoRA", merges.one_module_left_out),
    "delta of another layer": _merge("LoRA", merges.delta_of_another_layer),
    "adapter applied twice": _merge("LoRA", merges.merged_twice),
    "another adapter": _merge("LoRA", merges.another_adapter),
    "an earlier checkpoint of the adapter": _merge("LoRA", merges.earlier_checkpoint),
    "another revision of the base": _merge("LoRA", merges.another_revision_of_the_base),
    "into the weights before 4 bits": _merge("NF4", merges.into_the_original_weights),
    "into FP4 in place of NF4": _merge("NF4", merges.into_another_quantization),
    "merged weights through NF4": _merge("LoRA", merges.merged_then_quantized),
    "NF4 round trip of `lm_head`": _merge("LoRA", merges.head_through_nf4, WHOLE, ACCOUNTING),
    "weights of two adapters swapped": _merge(
        "two adapters", merges.weights_of_two_adapters_swapped
    ),
    "one of two adapters": _merge("two adapters", merges.one_of_two_adapters),
    "head merged into the tied embedding too": _merge(
        "tied, the head merged", merges.head_merged_into_the_embedding_too, WHOLE, ACCOUNTING
    ),
    "not a number": _merge("LoRA", merges.not_a_number),
    "embedding not resized": _folder(
        "new tokens", folders.embedding_not_resized,
        WHOLE, MODULES, ACCOUNTING, STRUCTURE, files="tokenizer.json config.json",
    ),
    "config not resized": _folder(
        "new tokens", folders.config_not_resized,
        WHOLE, MODULES, ACCOUNTING, STRUCTURE, files="config.json",
    ),
    "tie broken": _folder("tied", folders.tie_broken, WHOLE, ACCOUNTING, STRUCTURE),
    "tied again": _folder(
        "tied, the head merged", folders.tied_again, *ALL_BUT_STRUCTURE, files="config.json"
    ),
    "overflow in float16": _folder(
        "a large number", folders.overflow, WHOLE, ACCOUNTING, tensor=folders.NORM
    ),
    "left-over quantization_config": _folder(
        "LoRA", folders.left_over_quantization_config, WHOLE, MODULES, STRUCTURE, files="config.json"
    ),
    "dtype of another save": _folder(
        "LoRA", folders.dtype_of_another_save, STRUCTURE, files="config.json"
    ),
    "rope of another model": _folder(
        "LoRA", folders.rope_of_another_model, WHOLE, ACCOUNTING, files="config.json"
    ),
    "generation config lost": _folder(
        "LoRA", folders.generation_config_lost, ACCOUNTING, files="generation_config.json"
    ),
    "tokenizer with more tokens": _folder(
        "LoRA", folders.tokenizer_with_more_tokens,
        WHOLE, ACCOUNTING, STRUCTURE, files="tokenizer.json",
    ),
    "tokenizer of the base": _folder(
        "new tokens", folders.tokenizer_of_the_base, WHOLE, ACCOUNTING, files="tokenizer.json"
    ),
    "chat template lost": _folder(
        "new tokens", folders.chat_template_lost, ACCOUNTING, files="chat_template.jinja"
    ),
    "one file of another merge": _folder(
        "LoRA", folders.shard_of_another_merge, *ALL_BUT_STRUCTURE
    ),
    "two files swapped": _folder(
        "LoRA", folders.shards_swapped, STRUCTURE,
        files="model-00001-of-00005.safetensors model-00002-of-00005.safetensors",
    ),
    "a bit of a merged tensor": _folder("LoRA", folders.bit_of_a_merged_tensor, ACCOUNTING),
    "a bit of a copied tensor": _folder("LoRA", folders.bit_of_a_copied_tensor, ACCOUNTING),
    "a norm that is not the base's": _folder("LoRA", folders.norm_not_copied, ACCOUNTING),
    "a tensor is missing": _folder(
        "LoRA", folders.tensor_missing, WHOLE, MODULES, ACCOUNTING, STRUCTURE
    ),
    "saved with the adapter attached": _folder(
        "LoRA", folders.saved_while_attached, WHOLE, MODULES, ACCOUNTING, STRUCTURE
    ),
    "heads in another order": _folder("LoRA", folders.heads_in_another_order, *ALL_BUT_STRUCTURE),
}  # fmt: skip
