"""Merges that were made wrongly: other arithmetic, other inputs, parts that were forgotten."""

from __future__ import annotations

from collections.abc import Callable

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from safetensors.torch import load_file, save_file

from tests.faults.scenes import Scene, Tensors, edited, lora
from tests.parity.plain import tensors_of

O_PROJ = "model.layers.1.self_attn.o_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


def _with_other_adapter(scene: Scene, **config: object) -> Tensors:
    """As if the config of the (first) adapter had been another one."""
    other = edited(scene.adapters[0], scene.folder / f"edited {config}", **config)
    return scene.tensors_of_merge(f"with {config}", adapters=[other, *scene.adapters[1:]])


def scaling_ignored(scene: Scene) -> Tensors:
    """B A is added as it is, without alpha / r."""
    return _with_other_adapter(scene, lora_alpha=8)


def alpha_of_another_adapter(scene: Scene) -> Tensors:
    return _with_other_adapter(scene, lora_alpha=20)


def plain_scale_for_rslora(scene: Scene) -> Tensors:
    """alpha / r, where the adapter was trained with alpha / sqrt(r)."""
    return _with_other_adapter(scene, use_rslora=False)


def alpha_pattern_ignored(scene: Scene) -> Tensors:
    return _with_other_adapter(scene, alpha_pattern={})


def magnitude_ignored(scene: Scene) -> Tensors:
    """DoRA merged as plain LoRA."""
    plain = edited(
        scene.adapters[0],
        scene.folder / "plain",
        keep=lambda name: "magnitude" not in name,
        use_dora=False,
    )
    return scene.tensors_of_merge("as plain LoRA", adapters=[plain])


def biases_lost(scene: Scene) -> Tensors:
    """The biases that were trained stay the base's."""
    merged, base = tensors_of(scene.merged), tensors_of(scene.base)
    return merged | {key: base[key] for key in base if key.endswith(".bias")}


def saved_modules_dropped(scene: Scene) -> Tensors:
    """`modules_to_save` is not read: the head that was trained stays the base's."""
    return {**tensors_of(scene.merged), HEAD: tensors_of(scene.base)[HEAD]}


def embedding_lora_ignored(scene: Scene) -> Tensors:
    """Only linear layers are merged."""
    return {**tensors_of(scene.merged), EMBEDDING: tensors_of(scene.base)[EMBEDDING]}


def delta_transposed(scene: Scene) -> Tensors:
    """A B in place of B A; a square weight takes it."""
    return _delta_of(scene, O_PROJ, lambda delta: delta.T)


def conv1d_taken_for_linear(scene: Scene) -> Tensors:
    """GPT-2 stores the transpose, and the delta is added without."""
    return _delta_of(scene, "transformer.h.1.attn.c_proj.weight", lambda delta: delta.T)


def _delta_of(scene: Scene, key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    merged, base = tensors_of(scene.merged), tensors_of(scene.base)[key].float()
    delta = merged[key].float() - base
    return {**merged, key: (base + change(delta)).to(merged[key].dtype)}


def nothing_merged(scene: Scene) -> Tensors:
    """The base under another name."""
    return tensors_of(scene.base)


def one_module_left_out(scene: Scene) -> Tensors:
    return {**tensors_of(scene.merged), DOWN: tensors_of(scene.base)[DOWN]}


def delta_of_another_layer(scene: Scene) -> Tensors:
    """Layers counted from one: layer 1 has got the delta of layer 0."""
    merged, base = tensors_of(scene.merged), tensors_of(scene.base)
    before = DOWN.replace("layers.1", "layers.0")
    delta = merged[before].float() - base[before].float()
    return {**merged, DOWN: (base[DOWN].float() + delta).bfloat16()}


def merged_twice(scene: Scene) -> Tensors:
    (adapter,) = scene.adapters
    return scene.tensors_of_merge("twice", adapters=[adapter, adapter])


def another_adapter(scene: Scene) -> Tensors:
    other = scene.adapter("other", lora(), seed=9)
    return scene.tensors_of_merge("of the other", adapters=[other])


def earlier_checkpoint(scene: Scene) -> Tensors:
    """Of the same training, when it had gone four fifths of the way."""
    early = edited(scene.adapters[0], scene.folder / "early")
    file = early / "adapter_model.safetensors"
    save_file({k: t * 0.8 if "lora_B" in k else t for k, t in load_file(file).items()}, file)
    return scene.tensors_of_merge("of the earlier one", adapters=[early])


def another_revision_of_the_base(scene: Scene) -> Tensors:
    """All weights are a little other ones, as after some more training."""
    return _other_base(scene, lambda weight: weight + 0.02 * weight.std() * _noise(weight))


def _other_base(scene: Scene, change: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    """The right deltas on another base."""
    merged, base = tensors_of(scene.merged), tensors_of(scene.base)
    moved = {key: change(weight.float()) - weight.float() for key, weight in base.items()}
    return {key: (t.float() + moved[key]).to(t.dtype) for key, t in merged.items()}


def _noise(like: torch.Tensor) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(3))


def into_the_original_weights(scene: Scene) -> Tensors:
    """A QLoRA adapter, merged into the weights as they were before they had 4 bits."""
    return scene.tensors_of_merge("into the original", dequantize={"from": "original"})


def into_another_quantization(scene: Scene) -> Tensors:
    """FP4 weights, where the adapter saw NF4 ones."""
    return scene.tensors_of_merge("into fp4", load={"quantization": "fp4"})


def merged_then_quantized(scene: Scene) -> Tensors:
    """The merged weights have gone through 4 bits once more."""
    merged, base = tensors_of(scene.merged), tensors_of(scene.base)
    changed = {key: t for key, t in merged.items() if not torch.equal(t, base[key])}
    return merged | {key: _through_nf4(tensor) for key, tensor in changed.items()}


def head_through_nf4(scene: Scene) -> Tensors:
    """Every linear layer was quantized, and bitsandbytes leaves the head alone."""
    merged = tensors_of(scene.merged)
    return {**merged, HEAD: _through_nf4(merged[HEAD])}


def _through_nf4(weight: torch.Tensor) -> torch.Tensor:
    packed, state = quantize_4bit(weight, quant_type="nf4")
    return dequantize_4bit(packed, state).to(weight.dtype)


def weights_of_two_adapters_swapped(scene: Scene) -> Tensors:
    return scene.tensors_of_merge("swapped", weights=scene.right.weights[::-1])


def one_of_two_adapters(scene: Scene) -> Tensors:
    return scene.tensors_of_merge("the first", adapters=scene.adapters[:1], weights=(0.7,))


def head_merged_into_the_embedding_too(scene: Scene) -> Tensors:
    """Both are one tensor in memory, so the delta of the head is in the embedding as well."""
    merged = tensors_of(scene.merged)
    return {**merged, EMBEDDING: merged[HEAD].clone()}


def not_a_number(scene: Scene) -> Tensors:
    merged = tensors_of(scene.merged)
    merged[DOWN][3, 5] = torch.nan
    return merged
