"""`train_adapter`: fit a LoRA or QLoRA adapter to a text."""

from __future__ import annotations

import time
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.blueprint import Adapter, Folder, State
from pipeline.checkpoint.companions import copy_tokenizer
from pipeline.checkpoint.publish import publishing, refuse_target
from pipeline.data import check_data_file, read_records
from pipeline.errors import InputError, Refused
from pipeline.steps import step, step_settings

if TYPE_CHECKING:
    from pipeline.realise.train import Lora, Schedule
    from pipeline.run import RunContext


@step_settings
class TrainAdapterSettings:
    data: str
    """A .txt or .jsonl file. Fields of a line: `text`; `prompt` and `completion`; `messages`; `input` and
    `target` (encoder-decoder models); `text` and `label` (classification)."""
    path: str = "${run.dir}/adapter"
    """Folder to write. Appears under this name only when it is complete."""
    name: Annotated[str, Field(pattern=r"^\w+$")] = "default"
    """What to call the adapter within the model."""
    overwrite: bool = False
    """Replace an adapter folder of that name, once the new one is complete."""
    r: Annotated[int, Field(ge=1)] = 16
    """Rank of the adapter: columns of A and B. More can learn more, and takes more space."""
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 32
    """The delta is scaled by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs that training leaves out at random."""
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Names of the layers to adapt, for example `[q_proj, v_proj]`; `all-linear` is all but the head."""
    modules_to_save: list[str] = field(default_factory=list)
    """Layers to train in full and save with the adapter, for example `[embed_tokens, lm_head]`."""
    use_dora: bool = False
    """DoRA: learn the magnitude of each column apart from its direction."""
    use_rslora: bool = False
    """rsLoRA: scale by alpha / sqrt(r), which keeps high ranks learning."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2e-4
    """Highest learning rate, after the warm-up; from there it falls to zero along a cosine."""
    steps: Annotated[int, Field(ge=1)] = 200
    """Updates of the weights."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Examples in one forward pass."""
    gradient_accumulation: Annotated[int, Field(ge=1)] = 1
    """Forward passes for one update."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps during which the learning rate rises."""
    max_length: Annotated[int, Field(ge=2)] = 512
    """Tokens in an example. A longer `text` becomes several examples; a longer pair is cut off."""
    completion_only: bool = True
    """Learn only the completion, the target or the last answer, not the prompt before it."""
    gradient_checkpointing: bool = False
    """Compute activations twice rather than keep them: slower, and much less memory."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Decides the first weights of the adapter and the order of the examples; by default the recipe's."""


@step(needs=["base"], makes=["adapter", "adapter folder"], live=True)
def train_adapter(settings: TrainAdapterSettings, state: State) -> State:
    """Train a LoRA adapter on the base as it stands: QLoRA when the base is quantized.

    Writes the adapter with its tokenizer, and leaves it attached for the steps that follow.
    """
    blueprint = state.blueprint
    assert blueprint is not None
    path = Path(settings.path)
    adapter = Adapter(str(path), name=settings.name)
    trained = replace(blueprint, adapters=(*blueprint.adapters, adapter))
    after = state.with_blueprint(trained).with_folder(Folder(path, trained, kind="adapter"))
    if blueprint.adapters:
        raise Refused(
            "an adapter is attached already, and training beside it would mix the two",
            fix="merge it first (`- merge`), or train before you attach it",
            otherwise=after,
        )
    if settings.name in [other.name for other in blueprint.all_adapters]:
        raise Refused(
            f"an adapter named {settings.name!r} is in the model already",
            fix="give this one another `name`",
            key="name",
            otherwise=after,
        )
    if blueprint.base.task not in ("causal_lm", "seq2seq_lm", "sequence_classification"):
        raise Refused(
            f"training for {blueprint.base.task} is not supported",
            fix="train with `task: causal_lm`, `seq2seq_lm` or `sequence_classification`, or attach an "
            "adapter that was trained elsewhere",
            otherwise=after,
        )
    data = Path(settings.data)
    try:
        if state.run_dir not in data.parents:
            check_data_file(data)
    except InputError as error:
        raise Refused(str(error), key="data", otherwise=after) from error
    refuse_target(Path(settings.path), state, after, overwrite=settings.overwrite)
    return after


@train_adapter.act
def _(settings: TrainAdapterSettings, run: RunContext) -> None:
    from pipeline.encode import encode, pad_token
    from pipeline.realise import train
    from pipeline.realise.live import realise

    path, data = Path(settings.path), Path(settings.data)
    seed = run.recipe.seed if settings.seed is None else settings.seed
    records = read_records(data)
    run.used(data)
    run.release()
    base = replace(run.blueprint, adapters=())
    started = time.perf_counter()
    with publishing(path, overwrite=settings.overwrite) as folder:
        live = realise(
            base, device=run.recipe.device, seed=seed, console=run.console, trainable=True
        )
        encoded = encode(
            records,
            live.tokenizer,
            base.base.task,
            settings.max_length,
            count_prompt=not settings.completion_only,
            end_text=True,
            classes=dict(live.model.config.label2id or {}),
        )
        if not encoded.examples:
            raise InputError(
                "there is nothing to learn: every prompt fills `max_length` by itself",
                where=data,
                fix="raise `max_length`, or set `completion_only: false`",
            )
        if encoded.cut:
            run.warn(f"{encoded.cut} of {len(records)} examples were cut off at `max_length`")
        model = train.wrap(
            live.model,
            base.base.task,
            _lora(settings),
            base.base.model,
            seed=seed,
            checkpointing=settings.gradient_checkpointing,
        )
        parameters = train.count_parameters(model)
        with run.bar("training", settings.steps) as bar:
            result = train.train(
                model,
                encoded.examples,
                _schedule(settings, seed),
                pad_id=pad_token(live.tokenizer),
                scratch=folder,
                stepped=bar.advance,
            )
        train.save(model, folder)
        copy_tokenizer(base, folder)
    run.made(path)
    run.note(
        f"{settings.steps} steps on {len(encoded.examples)} examples, {parameters:,} parameters: "
        f"loss {result.first_loss:.3f} -> {result.last_loss:.3f}"
    )
    run.metrics(
        {
            "first_loss": result.first_loss,
            "train_loss": result.last_loss,
            "steps": settings.steps,
            "examples": len(encoded.examples),
            "trainable_parameters": parameters,
            "seconds": round(time.perf_counter() - started, 3),
        }
    )


def _lora(settings: TrainAdapterSettings) -> Lora:
    from pipeline.realise.train import Lora

    return Lora(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        modules_to_save=settings.modules_to_save or None,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
    )


def _schedule(settings: TrainAdapterSettings, seed: int) -> Schedule:
    from pipeline.realise.train import Schedule

    return Schedule(
        steps=settings.steps,
        batch_size=settings.batch_size,
        gradient_accumulation=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        warmup_steps=round(settings.warmup * settings.steps),
        seed=seed,
        gradient_checkpointing=settings.gradient_checkpointing,
    )
