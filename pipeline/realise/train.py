"""Training a LoRA adapter with transformers' Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.blueprint import Task
from pipeline.encode import Example, pad
from pipeline.errors import RunError

NOT_REENTRANT = {"use_reentrant": False}
"""The way of checkpointing that needs no gradient on the inputs of a frozen base."""
CHECKPOINTING = {"activation_checkpointing": True, "activation_checkpointing_kwargs": NOT_REENTRANT}


@dataclass(frozen=True)
class Lora:
    """The shape of the adapter; the names are PEFT's."""

    r: int
    lora_alpha: float
    lora_dropout: float
    target_modules: str | list[str]
    modules_to_save: list[str] | None
    use_dora: bool
    use_rslora: bool


@dataclass(frozen=True)
class Schedule:
    """How it is trained."""

    steps: int
    batch_size: int
    gradient_accumulation: int
    learning_rate: float
    warmup_steps: int
    seed: int
    gradient_checkpointing: bool


@dataclass(frozen=True)
class Trained:
    """What came of it."""

    first_loss: float
    """Mean over the first twentieth of the steps."""
    last_loss: float
    """Mean over the last twentieth."""


def wrap(
    model: Any, task: Task, lora: Lora, base_name: str, *, seed: int, checkpointing: bool = False
) -> Any:
    """Put a new LoRA adapter on a live base; a quantized one is prepared for training first.

    `base_name` is what the adapter's config will say that it belongs to. Raises RunError when no layer
    of the model has one of the names of the target modules.
    """
    import torch
    from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training

    types = {
        "causal_lm": TaskType.CAUSAL_LM,
        "seq2seq_lm": TaskType.SEQ_2_SEQ_LM,
        "sequence_classification": TaskType.SEQ_CLS,
    }
    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs=NOT_REENTRANT,
        )
    config = LoraConfig(
        task_type=types[task],
        base_model_name_or_path=base_name,
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        modules_to_save=lora.modules_to_save,
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
    )
    torch.manual_seed(seed)
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise RunError(
            f"PEFT cannot adapt this model: {error}",
            fix="set `target_modules: all-linear`, or name layers that the model has",
        ) from error
    made = wrapped.peft_config["default"]
    made.base_model_name_or_path = base_name
    if isinstance(made.target_modules, set):
        made.target_modules = sorted(made.target_modules)  # sets are saved in no stable order
    return wrapped


def train(
    model: Any,
    examples: Sequence[Example],
    schedule: Schedule,
    *,
    pad_id: int,
    scratch: Path,
    stepped: Callable[[], object],
) -> Trained:
    """Train the adapter on a live model in place; `stepped` is told of each update.

    The same seed, data, settings and machine give the same weights. Raises RunError when the loss stops
    being a number.
    """
    import torch
    from transformers import (
        PrinterCallback,
        ProgressCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    window = max(1, schedule.steps // 20)
    on_cpu = next(model.parameters()).device.type == "cpu"

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            stepped()

    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=schedule.steps,
        per_device_train_batch_size=schedule.batch_size,
        gradient_accumulation_steps=schedule.gradient_accumulation,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=schedule.warmup_steps,
        seed=schedule.seed,
        logging_steps=window,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=on_cpu,
        bf16=not on_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        dataloader_pin_memory=False,
        **(CHECKPOINTING if schedule.gradient_checkpointing else {}),
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=list(examples),
        data_collator=lambda rows: pad(rows, pad_id),
        callbacks=[Watch()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if not all(map(math.isfinite, losses)):
        raise RunError(
            "the loss is not a number any more: training has diverged",
            fix="lower `learning_rate`, or raise `warmup`",
        )
    return Trained(first_loss=losses[0], last_loss=losses[-1])


def save(model: Any, folder: Path) -> None:
    """Write the trained adapter, weights and config, into a folder."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's is a form with nothing filled in


def count_parameters(model: Any) -> int:
    """Numbers in the model that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
