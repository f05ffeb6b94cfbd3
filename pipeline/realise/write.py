"""Write a realised model as a folder that serves without PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.accounting.choice import choose
from pipeline.accounting.layout import parse_size
from pipeline.blueprint import DTYPES, Blueprint, Dtype, SavedDtype
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.realise.stream.modules import Modules
    from pipeline.run import RunContext


@dataclass(frozen=True)
class Written:
    """What a written model folder holds."""

    bytes: int
    """Size of the weight files."""
    tensors: int
    dtype: str
    """As config.json says it."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Of the weight files by name, where they were taken while the files were written."""


def write_model(
    run: RunContext, folder: Path, *, dtype: SavedDtype, max_shard_size: str
) -> Written:
    """Write the model of the running step, with all its companions, into an existing folder.

    Raises MergeError when a value that was finite is not so in the dtype to write, and InputError
    when a parameter comes from nowhere.
    """
    from pipeline.checkpoint.base import inspect_base
    from pipeline.checkpoint.card import write_card
    from pipeline.checkpoint.companions import copy_companions
    from pipeline.checkpoint.journal import clear_leftovers

    blueprint = run.blueprint
    choice = choose(blueprint, dtype, run.recipe.engine, fetch=True)
    wanted = inspect_base(blueprint.base).dtype if dtype == "keep" else dtype
    if choice.engine == "stream":
        from pipeline.realise.stream import stream_weights

        run.release()
        by = None
        work = choice.work
        if work is None:
            by = _modules(run, wanted)
            work = by.work
        size = parse_size(max_shard_size)
        files = stream_weights(run, work, folder, max_shard_bytes=size, by=by)
        written = Written(
            sum(file.bytes for file in files),
            len(work.tensors),
            work.dtype,
            {file.name: file.blake3 for file in files},
        )
    else:
        clear_leftovers(folder)  # only a stream goes on with them
        live = run.live()
        _refuse_random(blueprint, live.invented)
        run.metrics(live.facts)
        if _recast(live.model, wanted, blueprint):
            # The model that the run keeps is no longer the one that the blueprint describes.
            run.release()
        save_model(live.model, folder, max_shard_size=parse_size(max_shard_size))
        written = _written(live.model, folder)
    _keep_generation_config(blueprint, folder)
    copy_companions(blueprint, folder)
    write_card(folder, blueprint)
    return written


def _modules(run: RunContext, dtype: Dtype) -> Modules:
    """What transformers and PEFT will make for a stream, and what the user should know of it."""
    from pipeline.checkpoint.base import inspect_base
    from pipeline.realise.live import check_invented, labels_of
    from pipeline.realise.stream.modules import plan_modules
    from pipeline.realise.stream.reading import Reader

    blueprint = run.blueprint
    reader = Reader(inspect_base(blueprint.base))
    modules = plan_modules(blueprint, dtype, reader, labels_of(blueprint))
    if blueprint.all_adapters:
        check_invented(blueprint, modules.of.invented)
    else:
        _refuse_random(blueprint, modules.of.invented)
    if extra := modules.of.extra:
        tell = run.warn if modules.of.unexpected else run.note
        tell(
            f"{len(extra)} tensors of {blueprint.base.model} have no place in the model as "
            f"{blueprint.base.task} and are copied as they are, the first is {min(extra)}"
        )
    return modules


def _refuse_random(blueprint: Blueprint, invented: Collection[str]) -> None:
    if invented:
        raise InputError(
            f"holds no {', '.join(sorted(invented)[:4])}, which would be saved with random values",
            where=blueprint.base.model,
            fix=f"check `task: {blueprint.base.task}` of `load_base`, and config.json",
        )


def save_model(model: Any, folder: Path, *, max_shard_size: int | str) -> None:
    """Like `save_pretrained`, but a generation config that transformers finds invalid does not stop it.

    One that was changed since it was loaded and has a temperature without sampling, say: it is left out.
    """
    from transformers import GenerationConfig

    own = getattr(model, "generation_config", None)
    invalid = own is not None and not _can_be_saved(own, folder)
    try:
        if invalid:
            model.generation_config = GenerationConfig()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Attempting to save a model with offloaded")
            model.save_pretrained(str(folder), max_shard_size=max_shard_size)
    finally:
        if own is not None:
            model.generation_config = own
    if invalid:
        (folder / "generation_config.json").unlink(missing_ok=True)


def _can_be_saved(generation_config: Any, folder: Path) -> bool:
    try:
        generation_config.save_pretrained(str(folder))
    except ValueError:
        return False
    return True


def _keep_generation_config(blueprint: Blueprint, folder: Path) -> None:
    """The base's own, byte for byte: transformers would drop or add entries."""
    from pipeline.checkpoint.base import inspect_base

    own = inspect_base(blueprint.base).source.read_bytes("generation_config.json")
    if own is not None:
        (folder / "generation_config.json").write_bytes(own)


def _recast(model: Any, wanted: str | None, blueprint: Blueprint) -> bool:
    """Cast the model's tensors to the dtype to write; False when there was nothing to do."""
    import torch

    from pipeline.realise.recast import recast

    own = model.dtype
    if wanted not in DTYPES or blueprint.quantized or (new := getattr(torch, wanted)) == own:
        return False
    recast(model, own, new)
    return True


def _written(model: Any, folder: Path) -> Written:
    from safetensors import safe_open

    files = sorted(folder.glob("model*.safetensors"))
    tensors = 0
    for file in files:
        with safe_open(str(file), framework="pt") as opened:
            tensors += len(opened.keys())
    size = sum(file.stat().st_size for file in files)
    return Written(bytes=size, tensors=tensors, dtype=str(model.dtype).removeprefix("torch."))
