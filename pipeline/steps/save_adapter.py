"""`save_adapter`: write the adapter and the tokenizer, never the base."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.blueprint import Adapter, Folder, State
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.base import inspect_base
from pipeline.checkpoint.companions import copy_tokenizer
from pipeline.checkpoint.publish import publishing, refuse_target
from pipeline.errors import Refused
from pipeline.steps import nearest, step, step_settings

if TYPE_CHECKING:
    from pipeline.checkpoint.adapter import AdapterCheckpoint
    from pipeline.run import RunContext


@step_settings
class SaveAdapterSettings:
    path: str = "${run.dir}/adapter"
    """Folder to write. Appears under this name only when it is complete."""
    adapter: str | None = None
    """Name of the adapter, when there are several; by default the one that came last."""
    overwrite: bool = False
    """Replace an adapter folder of that name, once the new one is complete."""


@step(needs=["adapter"], makes=["adapter folder"])
def save_adapter(settings: SaveAdapterSettings, state: State) -> State:
    """Write an adapter with its tokenizer, to be kept or shared without the base.

    The weights are copied as they are; a pickled `adapter_model.bin` is written as safetensors. The
    report says how small the adapter is beside the base.
    """
    blueprint = state.blueprint
    assert blueprint is not None
    adapter = _chosen(settings.adapter, blueprint.all_adapters)
    path = Path(settings.path)
    after = state.with_folder(Folder(path, blueprint, kind="adapter"))
    refuse_target(path, state, after, overwrite=settings.overwrite, inputs=[Path(adapter.path)])
    return after


def _chosen(name: str | None, adapters: tuple[Adapter, ...]) -> Adapter:
    if not adapters:
        raise Refused("no adapter is attached", fix="add an `attach_adapter` step before this one")
    if name is None:
        return adapters[-1]
    known = {adapter.name: adapter for adapter in adapters}
    if name not in known:
        raise Refused(
            f"there is no adapter named {name!r}",
            fix=nearest(name, known) or f"the names are: {', '.join(known)}",
            key="adapter",
        )
    return known[name]


@save_adapter.act
def _(settings: SaveAdapterSettings, run: RunContext) -> None:
    adapter = _chosen(settings.adapter, run.blueprint.all_adapters)
    found = inspect_adapter(adapter)
    path = Path(settings.path)
    with publishing(path, overwrite=settings.overwrite) as folder:
        origin = found.source.fetch()
        for name in ("adapter_config.json", "README.md"):
            if name in found.source.files:
                shutil.copyfile(origin / name, folder / name)
        if found.pickle:
            _write_safetensors(found, folder / "adapter_model.safetensors")
        else:
            shutil.copyfile(origin / found.weights, folder / found.weights)
        copy_tokenizer(replace(run.blueprint, folds=(), adapters=(adapter,)), folder)
    run.made(path)
    adapter_bytes = (path / "adapter_model.safetensors").stat().st_size
    base_bytes = inspect_base(run.blueprint.base).weight_bytes
    run.note(
        f"adapter {_megabytes(adapter_bytes)}, base {_megabytes(base_bytes)} "
        f"({adapter_bytes / base_bytes:.2%})"
    )
    run.metrics(
        {"bytes": adapter_bytes, "base_bytes": base_bytes, "share": adapter_bytes / base_bytes}
    )


def _write_safetensors(found: AdapterCheckpoint, file: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.clone().contiguous() for name, tensor in found.read().items()}
    save_file(tensors, file, metadata={"format": "pt"})


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"
