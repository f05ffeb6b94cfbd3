"""`save`: write the model, complete or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pipeline.blueprint import Folder, SavedDtype, State
from pipeline.checkpoint.publish import refuse_target
from pipeline.errors import Refused
from pipeline.steps import step, step_settings

if TYPE_CHECKING:
    from pipeline.run import RunContext


@step_settings
class SaveSettings:
    path: str = "${run.dir}/model"
    """Folder to write. Appears under this name only when it is complete, and, where a later `verify` looks at
    it, has passed."""
    dtype: SavedDtype = "keep"
    """Dtype of the saved weights; `keep` is the base checkpoint's own."""
    max_shard_size: Annotated[
        str,
        Field(
            examples=["5GB"],
            pattern=r"^(0*[1-9]\d*(\.\d+)?\s*([KMGT]i?)?|0+\.0*[1-9]\d*\s*[KMGT]i?)B$",
        ),
    ] = "5GB"
    """Weights beyond this are split over several files."""
    overwrite: bool = False
    """Replace a model folder of that name, once the new one is complete."""


@step(needs=["base"], makes=["model folder"])
def save(settings: SaveSettings, state: State) -> State:
    """Write the model as it stands, with all that it needs to serve: config, tokenizer, chat template,
    generation config, processor files, a model card and a receipt."""
    blueprint = state.blueprint
    assert blueprint is not None
    path = Path(settings.path)
    after = state.with_folder(Folder(path, blueprint))
    if blueprint.adapters:
        raise Refused(
            "the adapter is attached but not merged, so the folder would need PEFT to serve",
            fix="add `- merge` before this step, or use `save_adapter` to write the adapter alone",
            otherwise=after,
        )
    refuse_target(path, state, after, overwrite=settings.overwrite)
    return after


@save.act
def _(settings: SaveSettings, run: RunContext) -> None:
    from pipeline.realise import write_model
    from pipeline.receipt.make import write_receipt
    from pipeline.receipt.record import Saved

    with run.holding.publishing(Path(settings.path), overwrite=settings.overwrite) as folder:
        written = write_model(
            run, folder, dtype=settings.dtype, max_shard_size=settings.max_shard_size
        )
        saved = Saved(
            dtype=settings.dtype,
            max_shard_size=settings.max_shard_size,
            engine=run.recipe.engine,
            device=run.recipe.device,
            seed=run.recipe.seed,
        )
        hashes = write_receipt(run, folder, saved, written.hashes)
    run.made(Path(settings.path), hashes)
    run.metrics({"bytes": written.bytes, "tensors": written.tensors})
