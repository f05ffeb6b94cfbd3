"""`load_base`: which base model, in which precision, and where it lies in memory."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Literal

from pipeline.blueprint import Base, Blueprint, Dtype, Folder, Placement, Quantization, State, Task
from pipeline.checkpoint.base import inspect_base
from pipeline.checkpoint.pending import pending_folder
from pipeline.errors import InputError, Refused
from pipeline.steps import step, step_settings


@step_settings
class LoadBaseSettings:
    model: str
    """Folder of the base model, or its id on the Hugging Face Hub."""
    revision: str | None = None
    """Branch, tag or commit of a model on the Hub."""
    dtype: Literal["auto"] | Dtype = "auto"
    """Dtype of the weights in memory; `auto` is the checkpoint's own."""
    quantization: Literal["none", "nf4", "fp4", "int8"] = "none"
    """Quantize the linear layers with bitsandbytes at load. `none` leaves the checkpoint as it is saved,
    which may already be quantized."""
    double_quant: bool = True
    """For nf4 and fp4: hold the scales of the blocks in 8 bits as well."""
    quant_storage: Literal["uint8", "float16", "bfloat16", "float32"] = "uint8"
    """For nf4 and fp4: dtype of the packed tensors (a float type lets FSDP shard them)."""
    compute_dtype: Literal["auto"] | Dtype = "auto"
    """For nf4 and fp4: dtype of the products; `auto` is `dtype`, or the checkpoint's own."""
    device_map: str | None = None
    """Placement through accelerate: `auto`, `balanced`, `sequential`, `cpu`, `cuda:0`, ... Nothing means
    the recipe's `device`."""
    max_memory: dict[str, str] = field(default_factory=dict)
    """For `device_map: auto`: the most that each device may hold, for example `{"0": 20GiB, cpu: 60GiB}`."""
    offload_folder: str | None = None
    """For `device_map: auto`: where to put what fits on no device."""
    attn_implementation: str | None = None
    """Attention kernel: `eager`, `sdpa`, `flash_attention_2`, ... Nothing lets transformers choose."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for repositories that you have read."""
    allow_pickle: bool = False
    """Accept a base that has only `pytorch_model.bin` files; they are read with `weights_only=True`."""
    task: Task = "causal_lm"
    """Which head of the architecture to load."""


@step(makes=["base"])
def load_base(settings: LoadBaseSettings, state: State) -> State:
    """Choose the base model and its precision.

    Loads nothing by itself: the weights are read by the first step that needs them.
    """
    dtype = None if settings.dtype == "auto" else settings.dtype
    base = Base(
        model=settings.model,
        revision=settings.revision,
        task=settings.task,
        dtype=dtype,
        quantization=_quantization(settings),
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
        placement=Placement(
            device_map=settings.device_map,
            max_memory=dict(settings.max_memory),
            offload_folder=settings.offload_folder,
            attn_implementation=settings.attn_implementation,
        ),
    )
    planned = replace(state, blueprint=Blueprint(base))
    pending = pending_folder(settings.model, "model", state)
    if pending is not None:
        return _after_save(base, pending, planned)
    try:
        found = inspect_base(base)
    except InputError as error:
        raise Refused(
            f"{error.where}: {error.what}", fix=error.fix, key="model", otherwise=planned
        ) from error
    base = _as_saved(base, found.quantization, planned)
    after = state.with_blueprint(
        Blueprint(replace(base, revision=found.source.commit or base.revision))
    )
    for warning in found.warnings:
        after = after.with_warning(warning)
    return after


def _after_save(base: Base, folder: Folder, planned: State) -> State:
    """The base is a model that an earlier step of this recipe saves."""
    saved = folder.blueprint.base.quantization if folder.blueprint.quantized else None
    if saved is not None:
        saved = replace(saved, saved=True)
    return planned.with_blueprint(Blueprint(_as_saved(base, saved, planned)))


def _as_saved(base: Base, saved: Quantization | None, planned: State) -> Base:
    """The base with the quantization of its checkpoint, if it has one."""
    if saved is None:
        return base
    if base.quantization is not None:
        raise Refused(
            f"{base.model} is already saved in {saved.kind}, so it cannot be quantized again",
            fix="remove `quantization` (or the preset); the base loads as it was saved",
            key="quantization",
            otherwise=planned,
        )
    return replace(base, quantization=saved)


def _quantization(settings: LoadBaseSettings) -> Quantization | None:
    if settings.quantization == "none":
        return None
    if settings.quantization == "int8":
        return Quantization("int8")
    compute = settings.dtype if settings.compute_dtype == "auto" else settings.compute_dtype
    return Quantization(
        kind=settings.quantization,
        double_quant=settings.double_quant,
        storage=settings.quant_storage,
        compute_dtype=None if compute == "auto" else compute,
    )
