"""Parameters that share memory, such as `lm_head` and the embedding.

An adapter on one side of a tie makes the two sides differ. PEFT would merge into the shared tensor and
so change the other side too; here the sides get memory of their own before a fold, and are tied again
after it when they are still equal in bits.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class TiedGroup:
    """Places in a model that held one and the same parameter when the group was found."""

    names: tuple[str, ...]
    """Dotted parameter names, in the order of the model's modules."""
    owners: tuple[Any, ...]
    """The module that holds each of them; it stays the same object when PEFT wraps it."""


def tied_groups(model: Any) -> list[TiedGroup]:
    """All groups of two or more places that share a parameter."""
    places: defaultdict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places[id(parameter)].append(name)
    return [
        TiedGroup(tuple(names), tuple(_owner(model, name) for name in names))
        for names in places.values()
        if len(names) > 1
    ]


def untie(group: TiedGroup) -> None:
    """Give every place but the first memory of its own, with the same values."""
    for name, owner in zip(group.names[1:], group.owners[1:], strict=True):
        leaf = name.rpartition(".")[2]
        shared = getattr(owner, leaf)
        own = torch.nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
        setattr(owner, leaf, own)


def set_parameter(model: Any, name: str, parameter: torch.nn.Parameter) -> None:
    """Put a parameter in the place of a dotted name."""
    setattr(_owner(model, name), name.rpartition(".")[2], parameter)


def settle_ties(model: Any, groups: list[TiedGroup]) -> None:
    """After a fold: tie again what is equal in bits, and let the config say what is not."""
    tied = [_settle(model, group) for group in groups]
    if groups:
        say_tied(model.config, all(tied))


def say_tied(config: Any, tied: bool) -> None:
    """Set `tie_word_embeddings`, in a nested text config too."""
    if _always_tied(config):
        return
    for part in (config, config.get_text_config()):
        if getattr(part, "tie_word_embeddings", None) is not None:
            part.tie_word_embeddings = tied


def _settle(model: Any, group: TiedGroup) -> bool:
    first, *others = (model.get_parameter(name) for name in group.names)
    equal = [
        name for name, own in zip(group.names[1:], others, strict=True) if _same_bits(first, own)
    ]
    all_equal = len(equal) == len(others)
    # A loader that is told "not tied" looks for each tensor in the file, so a part of a group may only
    # stay shared where the config goes on to say that it is.
    if all_equal or _always_tied(model.config):
        for name in equal:
            set_parameter(model, name, first)
    return all_equal


def _always_tied(config: Any) -> bool:
    """T5's config reads `tie_word_embeddings: false` as "do not scale the decoder's output", another model.

    Its loader ties only what is equal in the file, so the config can stay as it is.
    """
    return hasattr(config, "scale_decoder_outputs")


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b)))


def _owner(model: Any, name: str) -> Any:
    return model.get_submodule(name.rpartition(".")[0])
