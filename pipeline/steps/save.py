"""`save`: write the model, complete or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pipeline.blueprint import Folder, SavedDtype, State
from pipeline.checkpoint.publish import refuse_target
from pipeline.errors import Refused
from pipeline.receipt.kept import prove_it_is, says_it_is
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
    generation config, processor files, a model card and a receipt.

    A folder that is there already is kept when its receipt and the hashes of all files, those of base and
    adapters too, prove that it is this very model. So the same command goes on after a kill.
    """
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
    kept = not settings.overwrite and says_it_is(
        path, state, dtype=settings.dtype, max_shard_size=settings.max_shard_size
    )
    refuse_target(path, state, after, overwrite=settings.overwrite or kept)
    if kept:
        return after.with_warning(f"{path} exists already, and is kept if hashes prove it the same")
    return after


@save.act
def _(settings: SaveSettings, run: RunContext) -> None:
    from pipeline.realise import write_model
    from pipeline.receipt.make import write_receipt
    from pipeline.receipt.record import Saved

    path = Path(settings.path)
    saved = Saved(
        dtype=settings.dtype,
        max_shard_size=settings.max_shard_size,
        engine=run.recipe.engine,
        device=run.recipe.device,
        seed=run.recipe.seed,
    )
    if path.expanduser().exists() and not settings.overwrite:
        kept = prove_it_is(run, path.expanduser(), saved)
        run.note(f"{path} is kept: it was made of the same, and has the hashes of its receipt")
        run.made(path, {file.name: file.blake3 for file in kept})
        run.metrics({"bytes": sum(f.bytes for f in kept if f.name.endswith(".safetensors"))})
        return
    with run.holding.publishing(path, overwrite=settings.overwrite) as folder:
        written = write_model(
            run, folder, dtype=settings.dtype, max_shard_size=settings.max_shard_size
        )
        hashes = write_receipt(run, folder, saved, written.hashes)
    run.made(path, hashes)
    run.metrics({"bytes": written.bytes, "tensors": written.tensors})
