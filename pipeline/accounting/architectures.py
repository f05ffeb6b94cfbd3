"""Tensors of the architectures whose files name each tensor as the model does.

Told by config.json alone, because building the model on the meta device takes seconds. A test holds every
entry against transformers' own model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_TWO_NORMS = ("input_layernorm", "post_attention_layernorm")
_FOUR_NORMS = (*_TWO_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")


@dataclass(frozen=True)
class Architecture:
    """A decoder whose layers are all alike."""

    linear: tuple[str, ...] = (*_ATTENTION, *_GATED)
    """Linear layers of one decoder layer."""
    norms: tuple[str, ...] = _TWO_NORMS
    biased: tuple[str, ...] = ()
    """Linear layers that always have a bias."""
    tied: bool = False
    """What `tie_word_embeddings` is when the config does not say."""
    bias_options: Mapping[str, tuple[str, ...]] | None = None
    """Options of the config that give these layers a bias."""
    wide_head_norms: bool = False
    """Whether the norms of queries and keys span all heads, not one."""


_LLAMA_BIASES = {"attention_bias": _ATTENTION, "mlp_bias": _GATED}
_ATTENTION_BIAS = {"attention_bias": _ATTENTION}

ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": Architecture(bias_options=_LLAMA_BIASES),
    "MistralForCausalLM": Architecture(),
    "Qwen2ForCausalLM": Architecture(biased=_ATTENTION[:3]),
    "Qwen3ForCausalLM": Architecture(
        norms=(*_TWO_NORMS, *_HEAD_NORMS), bias_options=_ATTENTION_BIAS
    ),
    "GemmaForCausalLM": Architecture(tied=True, bias_options=_ATTENTION_BIAS),
    "Gemma2ForCausalLM": Architecture(norms=_FOUR_NORMS, tied=True, bias_options=_ATTENTION_BIAS),
    "Gemma3ForCausalLM": Architecture(
        norms=(*_FOUR_NORMS, *_HEAD_NORMS), tied=True, bias_options=_ATTENTION_BIAS
    ),
    "GraniteForCausalLM": Architecture(bias_options=_LLAMA_BIASES),
    "Olmo2ForCausalLM": Architecture(
        norms=("post_attention_layernorm", "post_feedforward_layernorm", *_HEAD_NORMS),
        bias_options=_ATTENTION_BIAS,
        wide_head_norms=True,
    ),
    "SmolLM3ForCausalLM": Architecture(tied=True, bias_options=_LLAMA_BIASES),
    "Phi3ForCausalLM": Architecture(
        linear=("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    ),
}


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """Keys of the files of such a model, each with its shape, or None for an architecture that is not listed.

    Sizes that the config leaves to the architecture are taken as zero.
    """
    known = _known(config)
    if known is None:
        return None
    biased = set(known.biased)
    for option, layers in (known.bias_options or {}).items():
        if config.get(option):
            biased.update(layers)
    linear = _linear_shapes(config)
    hidden = _size(config, "hidden_size")
    of_layer: dict[str, tuple[int, ...]] = {f"{n}.weight": linear[n] for n in known.linear}
    of_layer |= {f"{name}.bias": linear[name][:1] for name in biased}
    of_layer |= {f"{name}.weight": (hidden,) for name in known.norms}
    for norm, layer in zip(_HEAD_NORMS, _ATTENTION, strict=False):
        if norm in known.norms:
            size = linear[layer][0] if known.wide_head_norms else _head_size(config)
            of_layer[f"{norm}.weight"] = (size,)
    embedding = (_size(config, "vocab_size"), hidden)
    found = {
        f"model.layers.{n}.{name}": shape
        for n in range(_size(config, "num_hidden_layers"))
        for name, shape in of_layer.items()
    }
    found |= {"model.embed_tokens.weight": embedding, "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings", known.tied):
        found["lm_head.weight"] = embedding
    return found


def _linear_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    hidden, inner = _size(config, "hidden_size"), _size(config, "intermediate_size")
    queries = _size(config, "num_attention_heads") * _head_size(config)
    keys = (
        _size(config, "num_key_value_heads") or _size(config, "num_attention_heads")
    ) * _head_size(config)
    return {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.qkv_proj": (queries + 2 * keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.gate_up_proj": (2 * inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def _head_size(config: Mapping[str, Any]) -> int:
    heads = _size(config, "num_attention_heads")
    return _size(config, "head_dim") or (_size(config, "hidden_size") // heads if heads else 0)


def linear_layers(config: Mapping[str, Any]) -> frozenset[str]:
    """Dotted names of the linear layers that have a weight of their own."""
    known = _known(config)
    if known is None:
        return frozenset()
    names = {
        f"model.layers.{n}.{name}"
        for n in range(_size(config, "num_hidden_layers"))
        for name in known.linear
    }
    if not config.get("tie_word_embeddings", known.tied):
        names.add("lm_head")
    return frozenset(names)


def quantized_weights(config: Mapping[str, Any]) -> frozenset[str]:
    """Keys of the weights that bitsandbytes quantizes: those of all linear layers but the head."""
    return frozenset(f"{layer}.weight" for layer in linear_layers(config) - {"lm_head"})


def _known(config: Mapping[str, Any]) -> Architecture | None:
    names = config.get("architectures") or [None]
    return ARCHITECTURES.get(names[0]) if len(names) == 1 else None


def _size(config: Mapping[str, Any], name: str) -> int:
    size = config.get(name)
    return size if isinstance(size, int) else 0
