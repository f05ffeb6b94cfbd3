"""Realise a blueprint as an ordinary transformers and PEFT model in memory.

Always from the files anew. A model that has run is never made into another one: on CPUs with
AVX512-BF16, bitsandbytes repacks 4-bit weights at the first forward pass, and PEFT, attached after
that, computes with the wrong layout and says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from pipeline.accounting.claims import PREFIX
from pipeline.blueprint import Blueprint
from pipeline.errors import InputError
from pipeline.realise.attach import adapter_tensors, attach, tensor_names
from pipeline.realise.fold import Folded, fold
from pipeline.realise.load import check_can_run, dequantize_model, load_base_model, torch_device
from pipeline.realise.outcome import check_changed, facts, unchanged_text
from pipeline.realise.wide import summed_layers

if TYPE_CHECKING:
    from pipeline.run import Console


@dataclass
class LiveModel:
    """A blueprint in memory, in evaluation mode."""

    model: Any
    """A PreTrainedModel; a PeftModel while adapters are attached."""
    blueprint: Blueprint
    facts: Mapping[str, int] = field(default_factory=dict)
    """Figures of the merge: modules that adapters claim, and those whose bits changed."""
    warnings: tuple[str, ...] = ()
    """What the user should look into."""
    invented: frozenset[str] = frozenset()
    """Parameters that neither the base nor an adapter holds: random, as for a training to begin with."""

    @cached_property
    def tokenizer(self) -> Any:
        """The adapter's tokenizer if it brings one, else the base's.

        Raises InputError when there is none that can be loaded.
        """
        from transformers import AutoTokenizer

        from pipeline.checkpoint.companions import chat_template, tokenizer_folder

        folder = tokenizer_folder(self.blueprint)
        if folder is None:
            raise InputError(
                "neither the base nor an adapter brings a tokenizer",
                where=self.blueprint.base.model,
                fix="put the tokenizer's files into the base's folder",
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=self.blueprint.base.trust_remote_code,
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise InputError(
                f"its tokenizer cannot be loaded: {error}",
                where=folder,
                fix="check tokenizer.json and tokenizer_config.json there",
            ) from error
        tokenizer.chat_template = chat_template(self.blueprint) or tokenizer.chat_template
        return tokenizer


def realise(
    blueprint: Blueprint,
    *,
    device: str = "auto",
    seed: int = 0,
    console: Console | None = None,
    trainable: bool = False,
) -> LiveModel:
    """Build the model that the blueprint describes, from its files.

    The base is dequantized before any adapter is attached, whatever the recipe's order was, because
    PEFT's layers keep the kind of the layer that they wrapped. `seed` decides parameters that neither
    the base nor an adapter holds; `trainable` leaves attached adapters trainable.

    Raises InputError for a base or adapter that cannot be read, MergeError for one that does not fit.
    """
    torch.manual_seed(seed)
    placement = blueprint.base.placement
    stages = 1 + blueprint.dequantize + len(blueprint.folds) + bool(blueprint.adapters)
    with console.bar("building the model", stages) if console else nullcontext() as bar:
        advance = bar.advance if bar else _nothing
        loaded = load_base_model(
            blueprint.loaded, torch_device(device), labels=labels_of(blueprint)
        )
        check_invented(blueprint, loaded.invented)
        model = loaded.model
        wide = summed_layers(model, blueprint)
        advance()
        if blueprint.dequantize:
            model = dequantize_model(model, blueprint.dequantize_dtype, wide)
            advance()
        else:
            check_can_run(model)
        folded: list[Folded] = []
        for wanted in blueprint.folds:
            first = not folded
            folded.append(fold(model, wanted, placement=placement, wide=wide if first else ()))
            check_changed(folded[-1].claimed, folded[-1].unchanged, wanted.adapters)
            model = folded[-1].model
            advance()
        if blueprint.adapters:
            model = attach(model, blueprint.adapters, placement=placement, trainable=trainable)
            advance()
    warnings = [
        *_about_unused(blueprint, loaded.unused),
        *(_about_invented(blueprint, loaded.invented) if not trainable else []),
        *(unchanged_text(done.unchanged, len(done.claimed)) for done in folded if done.unchanged),
    ]
    invented = frozenset() if blueprint.all_adapters else loaded.invented
    return LiveModel(model, blueprint, _facts(folded), tuple(warnings), invented)


def _nothing() -> None:
    pass


def _facts(folded: list[Folded]) -> dict[str, int]:
    if not folded:
        return {}
    claimed = sum(len(done.claimed) for done in folded)
    return facts(claimed, sum(len(done.unchanged) for done in folded))


def labels_of(blueprint: Blueprint) -> int | None:
    """Rows of the classification head that an adapter brings; None where the base's config decides."""
    if blueprint.base.task not in ("sequence_classification", "token_classification"):
        return None
    heads = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
    rows = {
        tensor.shape[0]
        for adapter in blueprint.all_adapters
        for name, tensor in adapter_tensors(adapter).items()
        if name.endswith(heads)
    }
    return rows.pop() if len(rows) == 1 else None


def check_invented(blueprint: Blueprint, invented: frozenset[str]) -> None:
    """Refuse random parameters, such as a classification head, that no adapter replaces."""
    if not invented or not blueprint.all_adapters:
        return
    held = {key.removeprefix(PREFIX) for a in blueprint.all_adapters for key in tensor_names(a)}
    lost = sorted(invented - held)
    if lost:
        raise InputError(
            f"holds no {', '.join(lost[:4])}, and no adapter brings it, so it would be random",
            where=blueprint.base.model,
            fix=f"check `task: {blueprint.base.task}` of `load_base`, or use an adapter that saved it",
        )


def _about_unused(blueprint: Blueprint, unused: frozenset[str]) -> list[str]:
    if not unused:
        return []
    return [
        f"{len(unused)} tensors of {blueprint.base.model} have no place in the model as "
        f"{blueprint.base.task} and are left out, the first is {min(unused)}: check `task`, and the "
        "`model_type` in config.json"
    ]


def _about_invented(blueprint: Blueprint, invented: frozenset[str]) -> list[str]:
    if not invented or blueprint.all_adapters:
        return []
    return [
        f"{blueprint.base.model} holds no {min(invented)} ({len(invented)} in all), so it is random "
        f"here: check `task: {blueprint.base.task}`"
    ]
