"""The trained model's predictions: what a saved one is held against."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline.blueprint import Dtype, Folder, Quantization
from pipeline.errors import InputError
from pipeline.proof.compare import compare
from pipeline.proof.kept_logits import KeptLogits, keep
from pipeline.proof.logits import Request, answers, continuations, tokenized
from pipeline.proof.prompts import BUILT_IN

if TYPE_CHECKING:
    from pipeline.run import RunContext


NEW_TOKENS = 16
"""By which each prompt is continued."""


@dataclass(frozen=True)
class Reference:
    """What the base with its adapters answers, before anything was merged."""

    texts: tuple[str, ...]
    """The prompts, or descriptions of random tokens where there is no tokenizer."""
    token_ids: list[list[int]]
    logits: KeptLogits
    """For each prompt, in the dtype that the model computes in."""
    effect: float
    """What the adapters change in the logits, as a relative error; infinite when there are none."""
    written: list[list[int]]
    """How the model continues each prompt with its likeliest tokens; none where it does not write."""
    dtype: Dtype
    """What the trained model computes in."""
    quantization: Quantization | None
    """How its base is held, unless it was dequantized."""
    layers: int


def listen(
    run: RunContext, folder: Folder, prompts: Sequence[str], scratch: Path
) -> tuple[Reference, Request]:
    """Ask the trained model of a folder's blueprint, and say what to ask the folder itself.

    The answers of both lie in `scratch`. The model is out of memory again when this returns, because the
    other one is to be loaded next.
    """
    import torch

    trained = folder.blueprint.trained()
    live = run.live(trained)
    texts = tuple(prompts) or BUILT_IN
    request = Request(
        base=replace(
            trained.base, model=str(folder.path), revision=None, dtype=None, quantization=None
        ),
        device=run.recipe.device,
        output=str(scratch / "saved"),
        new_tokens=NEW_TOKENS,
        threads=torch.get_num_threads(),
    )
    try:
        ids = tokenized(live.tokenizer, texts)
        request = replace(request, prompts=texts)
    except InputError:
        if prompts:
            raise
        run.note("there is no tokenizer, so random tokens are compared")
        ids = random_tokens(live.model)
        texts = tuple(f"random tokens {i}" for i in range(len(ids)))
        request = replace(request, token_ids=tuple(map(tuple, ids)))
    if not all(ids):
        raise InputError(
            f"the tokenizer makes no token of {texts[ids.index([])]!r}",
            where=f"{run.step_id}.prompts",
            fix="remove that prompt",
        )
    task = trained.base.task
    logits = keep(answers(live.model, task, ids), scratch / "trained")
    written = continuations(live.model, task, ids, NEW_TOKENS)
    effect = math.inf
    if trained.adapters:
        with warnings.catch_warnings():
            # Biases that were trained stay when adapters are disabled: `kept` is of the rest.
            warnings.filterwarnings("ignore", message="Careful, disabling adapter layers")
            with live.model.disable_adapter():
                effect = compare(logits, answers(live.model, task, ids)).error
    config = live.model.config
    dtype = cast(Dtype, str(config.dtype).removeprefix("torch."))
    layers = getattr(config.get_text_config(), "num_hidden_layers", None) or 1
    del live
    run.release()
    held = trained.base.quantization if trained.quantized else None
    return Reference(texts, ids, logits, effect, written, dtype, held, layers), request


def random_tokens(model: Any) -> list[list[int]]:
    """Token ids of a fixed seed, for a model without a tokenizer."""
    import torch

    generator = torch.Generator().manual_seed(0)
    known = model.config.get_text_config().vocab_size
    tokens: list[list[int]] = torch.randint(known, (4, 32), generator=generator).tolist()
    return tokens
