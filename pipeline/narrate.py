"""Say in a line what a step will do, from the difference that it makes to the state."""

from __future__ import annotations

from pipeline.blueprint import Adapter, Blueprint, Folder, State
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.base import inspect_base
from pipeline.checkpoint.pending import is_pending
from pipeline.errors import InputError
from pipeline.recipe.model import StepCall
from pipeline.report.units import size


def tell_step(call: StepCall, before: State, after: State) -> str:
    """One line for a person: `Qwen2 (nf4), 3.1 GB on disk`."""
    made = after.folders[len(before.folders) :]
    if any(folder.kind == "adapter" for folder in made) and before.blueprint != after.blueprint:
        return f"a new adapter -> {made[0].path}, attached when it is trained"
    parts = [*_about_model(before, after), *(_about_folder(folder) for folder in made)]
    return "; ".join(parts) or call.step.summary


def _about_model(before: State, after: State) -> list[str]:
    old, new = before.blueprint, after.blueprint
    if new is None or new == old:
        return []
    if old is None or old.base != new.base:
        return [_base(new)]
    parts = []
    if new.dequantize and not old.dequantize:
        kind = new.base.quantization.kind if new.base.quantization else "quantized"
        what = (
            "layers" if new.dequantize_from == "quantized" else "layers with their original weights"
        )
        parts.append(f"{kind} {what} to {new.dequantize_dtype or 'the dtype they had'}")
    added = new.all_adapters[len(old.all_adapters) :]
    parts += [_adapter(adapter, after) for adapter in added]
    for fold in new.folds[len(old.folds) :]:
        parts.append(
            f"{', '.join(adapter.path for adapter in fold.adapters)} into {new.base.model}"
        )
    return parts


def _base(blueprint: Blueprint) -> str:
    base = blueprint.base
    try:
        found = inspect_base(base)
    except InputError:
        return base.model
    quantization = base.quantization
    precision = quantization.kind if quantization else base.dtype or found.dtype
    saved = ", as saved" if quantization and quantization.saved else ""
    return f"{base.model}: {found.architecture} ({precision}{saved}), {size(found.weight_bytes)} on disk"


def _adapter(adapter: Adapter, state: State) -> str:
    if is_pending(adapter, state):
        return f"{adapter.name} attached"
    try:
        found = inspect_adapter(adapter)
    except InputError:
        return adapter.path
    rank = f" r={found.rank}" if found.rank else ""
    weight = f", weight {adapter.weight:g}" if adapter.weight != 1 else ""
    return (
        f"{adapter.path}: {found.peft_type}{rank} on {found.targets}{weight}, {size(found.bytes)}"
    )


def _about_folder(folder: Folder) -> str:
    return f"{folder.kind} -> {folder.path}"
