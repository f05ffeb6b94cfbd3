"""Load a base with transformers, as `load_base` described it, and undo its quantization."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.accounting import processor
from pipeline.blueprint import Base, Dtype, Placement, Quantization, Task
from pipeline.checkpoint.base import inspect_base
from pipeline.errors import InputError
from pipeline.memory import is_out_of_memory

AUTO_CLASSES: dict[Task, str] = {
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq_lm": "AutoModelForSeq2SeqLM",
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
    "feature_extraction": "AutoModel",
    "image_text_to_text": "AutoModelForImageTextToText",
    "speech_seq2seq": "AutoModelForSpeechSeq2Seq",
}


@dataclass(frozen=True)
class LoadedBase:
    """A base in memory."""

    model: Any
    invented: frozenset[str]
    """Names of parameters that the checkpoint lacks, or has for another number of labels, which
    transformers filled with random numbers."""
    unused: frozenset[str]
    """Names of tensors of the checkpoint that have no place in the model."""


def torch_device(wanted: str) -> str:
    """The device that a recipe's `device` means on this machine."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_base_model(base: Base, device: str, *, labels: int | None = None) -> LoadedBase:
    """Load the base in evaluation mode, on `device` unless its placement says otherwise.

    `labels` makes a classification head of that many rows, where the checkpoint brings none.
    Raises InputError when the checkpoint is missing, damaged or not a model of that task.
    """
    model, report = from_pretrained(base, device, labels=labels)
    check_shapes(base, report, labels)
    _forget_trivial_device_map(model)
    _forget_deserialization(model)
    return LoadedBase(model.eval(), invented(report), frozenset(report["unexpected_keys"]))


def from_pretrained(
    base: Base, device: str, *, labels: int | None = None, **more: Any
) -> tuple[Any, dict[str, Any]]:
    """What transformers makes of a base, and its report; `more` goes to its `from_pretrained`.

    Raises InputError for whatever transformers raises.
    """
    import transformers

    found = inspect_base(base)
    try:
        model, report = getattr(transformers, AUTO_CLASSES[base.task]).from_pretrained(
            str(found.source.fetch()),
            output_loading_info=True,
            local_files_only=True,
            dtype=_torch_dtype(base.dtype) or "auto",
            trust_remote_code=base.trust_remote_code,
            # None lets transformers fall back to pickles, which it reads with weights_only=True.
            use_safetensors=None if base.allow_pickle else True,
            ignore_mismatched_sizes=True,  # told by the caller, with names and shapes
            **_quantization(base.quantization, base.dtype or found.dtype),
            **_placement(base, device),
            **({} if labels is None else {"num_labels": labels}),
            **more,
        )
    except Exception as error:  # a config that transformers does not check makes it raise anything
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"transformers cannot load it as {base.task}: {_first_sentence(error)}",
            where=base.model,
            fix="check that the folder is complete, and the `task` and `trust_remote_code` of `load_base`",
        ) from error
    return model, report


def check_shapes(base: Base, report: Mapping[str, Any], labels: int | None) -> None:
    """Raise InputError when transformers reports tensors of other shapes than the model's.

    With `labels` those are the head's, which an adapter brings.
    """
    mismatched = sorted(report["mismatched_keys"])
    if mismatched and labels is None:
        name, in_file, in_model = mismatched[0]
        raise InputError(
            f"{len(mismatched)} of its tensors do not fit its config.json as {base.task}: {name} is "
            f"{list(in_file)} in the file and {list(in_model)} in the model",
            where=base.model,
            fix="check that config.json and weights belong together, and the `task` of `load_base`",
        )


def invented(report: Mapping[str, Any]) -> frozenset[str]:
    """Names of parameters that transformers reports as filled with random numbers."""
    return frozenset([*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])])


def dequantize_model(model: Any, dtype: Dtype | None, wide: Collection[str] = ()) -> Any:
    """Replace the bitsandbytes layers by plain ones, in place; a model without them is only cast.

    With `dtype`, all parameters that had the model's own dtype get that one; without, the dequantized
    ones get the model's own. The weights of the layers in `wide` stay in float32, not rounded. Afterwards
    nothing about the model says that it was quantized.
    """
    from transformers.pytorch_utils import Conv1D

    own = model.config.dtype
    wanted = _torch_dtype(dtype) or own
    if getattr(model, "hf_quantizer", None) is None:
        cast_model(model, own, wanted)
        return model
    transposed = [
        name
        for name, module in model.named_modules()
        if getattr(module, "source_cls", None) is Conv1D
    ]
    shapes = _lay_out_in_blocks(model)
    kept = {name: _in_float32(model.get_submodule(name)) for name in wide}
    model = model.dequantize(dtype=wanted)
    for name, shape in shapes.items():
        weight = model.get_submodule(name).weight
        weight.data = weight.data.reshape(shape)
    for name in transposed:
        # bitsandbytes holds the transpose of GPT-2's layers, and dequantize() leaves it so: a folder
        # saved from that does not load again.
        model.set_submodule(name, _as_conv1d(model.get_submodule(name)))
    for mark in ("is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized"):
        if hasattr(model, mark):
            delattr(model, mark)
    cast_model(model, own, wanted)
    for name, values in kept.items():
        weight = model.get_submodule(name).weight
        values = values.reshape(shapes.get(name, values.shape))
        weight.data = values.t().contiguous() if name in transposed else values
    return model


def _in_float32(layer: Any) -> torch.Tensor:
    """What the 4 or 8 bits of a layer stand for, before it is rounded."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    if hasattr(layer.weight, "quant_state"):
        layer.weight.quant_state.dtype = torch.float32
    found: torch.Tensor = dequantize_bnb_weight(layer.weight, getattr(layer, "state", None))
    return found


def check_can_run(model: Any) -> None:
    """Raise InputError for a 4-bit model that bitsandbytes would compute wrong, or crash on, here.

    Where rows end within a block of scales, bitsandbytes 0.50 fails in evaluation mode on CPUs with
    AVX512-BF16. On those with AVX512 alone it takes every row to begin at a block, when the rows' length is a
    multiple of 16, and gives them the scales of other blocks.
    """
    if model.device.type != "cpu":
        return
    for name, state in _rows_within_blocks(model):
        columns = state.shape[-1]
        wrong = processor.has("avx512f") and columns % 16 == 0
        if wrong or processor.has("avx512bf16"):
            raise InputError(
                f"bitsandbytes cannot run it in 4 bits on this processor: rows of {columns} values end "
                f"within a block of {state.blocksize}",
                where=name,
                fix="put `dequantize` before the steps that use the model, or use a GPU",
            )


def _lay_out_in_blocks(model: Any) -> dict[str, torch.Size]:
    """Let 4-bit weights whose rows end within a block pass for rows of one block; returns their shapes.

    See `check_can_run`: they would be dequantized with the scales of other blocks, silently. The packed
    values are one run of blocks, whatever the shape says.
    """
    shapes = {}
    for name, state in _rows_within_blocks(model):
        blocks, rest = divmod(state.shape.numel(), state.blocksize)
        if rest == 0:
            shapes[name] = state.shape
            state.shape = torch.Size((blocks, state.blocksize))
    return shapes


def _rows_within_blocks(model: Any) -> Iterator[tuple[str, Any]]:
    """Names and quantization states of 4-bit layers whose rows are not whole blocks."""
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None and state.shape[-1] % state.blocksize:
            yield name, state


def cast_model(model: Any, old: torch.dtype, new: torch.dtype) -> None:
    """Cast, in place and tensor by tensor, what a checkpoint holds in dtype `old` to `new`.

    Tensors of other dtypes stay: an architecture keeps some of its parameters in float32 on purpose.
    """
    if old == new:
        return
    held = model.state_dict().keys()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in held and tensor.dtype == old:
            tensor.data = tensor.data.to(new)
    for config in (model.config, *_sub_configs(model.config)):
        if getattr(config, "dtype", None) is not None:
            config.dtype = new


def device_options(placement: Placement) -> dict[str, Any]:
    """What accelerate, by way of transformers or PEFT, takes of a placement."""
    memory = {
        int(key) if key.isdigit() else key: size for key, size in placement.max_memory.items()
    }
    options = {
        "device_map": placement.device_map,
        "max_memory": memory or None,
        "offload_folder": placement.offload_folder,
    }
    return {name: value for name, value in options.items() if value is not None}


def _sub_configs(config: Any) -> list[Any]:
    names = getattr(config, "sub_configs", {})
    return [sub for name in names if (sub := getattr(config, name, None)) is not None]


def _torch_dtype(dtype: Dtype | None) -> torch.dtype | None:
    return None if dtype is None else getattr(torch, dtype)


def _quantization(wanted: Quantization | None, compute: Dtype | None) -> dict[str, Any]:
    if wanted is None or wanted.saved:
        return {}
    from transformers import BitsAndBytesConfig

    if wanted.kind == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=wanted.kind,
        bnb_4bit_use_double_quant=wanted.double_quant,
        bnb_4bit_quant_storage=wanted.storage,
        bnb_4bit_compute_dtype=wanted.compute_dtype or compute,
    )
    return {"quantization_config": config}


def _placement(base: Base, device: str) -> dict[str, Any]:
    where = device_options(base.placement)
    if "device_map" not in where and (device != "cpu" or base.quantization is not None):
        where["device_map"] = {"": device}
    if base.placement.attn_implementation is not None:
        where["attn_implementation"] = base.placement.attn_implementation
    return where


def _forget_trivial_device_map(model: Any) -> None:
    """PEFT places a model anew whose device map names the CPU, on a GPU if there is one."""
    devices = set((getattr(model, "hf_device_map", None) or {}).values())
    if len(devices) == 1 and "disk" not in devices:
        del model.hf_device_map


def _forget_deserialization(model: Any) -> None:
    """save_pretrained() undoes what the load did to the tensors, and fails for those of bitsandbytes.

    There is nothing to undo: a quantized model's own state dict is in the format of the file.
    """
    done = getattr(model, "_weight_conversions", None) or []
    model._weight_conversions = [
        conversion
        for conversion in done
        if not any(
            type(operation).__module__ == "transformers.integrations.bitsandbytes"
            for operation in getattr(conversion, "operations", ())
        )
    ]


def _as_conv1d(linear: Any) -> Any:
    from transformers.pytorch_utils import Conv1D

    conv = Conv1D(0, 0)
    conv.nf, conv.nx = linear.out_features, linear.in_features
    conv.weight = torch.nn.Parameter(linear.weight.data.t().contiguous(), requires_grad=False)
    conv.bias = linear.bias
    return conv.eval()


def _first_sentence(error: BaseException) -> str:
    """The first line of what it says, and those that belong to it; of a bare word, the type as well."""
    said = ""
    for line in filter(None, map(str.strip, str(error).splitlines())):
        said = f"{said} {line}".strip()
        if not said.endswith(":"):
            break
    return said if " " in said else f"{type(error).__name__} {said}".strip()
