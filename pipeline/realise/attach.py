"""Attach adapters with PEFT, and account for every tensor in their files.

PEFT only warns, or says nothing, when a tensor of the file lands nowhere or a tensor of the model stays
as it was initialised. Both make a model that was never trained, so both are errors here.
"""

from __future__ import annotations

import difflib
import json
import re
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.accounting.claims import PREFIX
from pipeline.accounting.targets import lacks, left_out, some, targeted
from pipeline.blueprint import Adapter, Placement
from pipeline.checkpoint.adapter import CONFIG, AdapterCheckpoint, check_finite, inspect_adapter
from pipeline.errors import MergeError
from pipeline.memory import is_out_of_memory
from pipeline.realise.load import device_options
from pipeline.realise.quantized_dora import keep_as_dora_reads
from pipeline.realise.ties import say_tied, tied_groups, untie

_SIZE_MISMATCH = re.compile(
    r"size mismatch for (?P<name>\S+): .*?torch\.Size\((?P<file>\[[^]]*\])\).*?"
    r"torch\.Size\((?P<model>\[[^]]*\])\)"
)
_SHARED = ("vblora_vector_bank", ".tinylora_v.", ".unilora_theta_d.")
"""Parameters that stand once in the file and are seen again in every layer."""


Parts = Mapping[Adapter, Collection[str]]
"""Names of those tensors in the file of each adapter that are to be attached."""


def attach(
    model: Any,
    adapters: Iterable[Adapter],
    *,
    placement: Placement,
    trainable: bool = False,
    parts: Parts | None = None,
) -> Any:
    """Attach adapters to a plain model; all of them active, with their weights, in evaluation mode.

    `placement` is that of the base: PEFT places a model that is spread over devices or the disk anew.
    With `parts`, the model is a part of one, and takes only those tensors. Changes `model` in place: its
    vocabulary too, when an adapter brings embeddings of another size.
    Raises MergeError when an adapter does not fit in every one of its tensors.
    """
    names = []
    for adapter in adapters:
        only = None if parts is None else parts[adapter]
        model = _attach_one(model, adapter, placement, trainable, only)
        names.append(adapter.name)
    if hasattr(model.base_model, "merge_and_unload"):  # else it is a prompt, and active
        model.base_model.set_adapter(names, inference_mode=not trainable)
        keep_as_dora_reads(model)
    return model if trainable else model.eval()


def adapter_tensors(
    adapter: Adapter, only: Collection[str] | None = None
) -> dict[str, torch.Tensor]:
    """The tensors of an adapter's file, or some of them, under their names in it.

    Raises MergeError when one of them holds NaN or an infinity.
    """
    found = inspect_adapter(adapter)
    tensors = found.read(only)
    for name, tensor in tensors.items():
        if wrong := check_finite(name, tensor):
            raise MergeError(
                wrong,
                where=found.source.where(found.weights),
                fix="the training diverged or the file is damaged: use an earlier checkpoint of it",
            )
    return tensors


def unclaimed(adapter: Adapter, names: list[str], modules: list[str]) -> MergeError:
    """The error for tensors of an adapter that none of the base's `modules` takes."""
    found, module = inspect_adapter(adapter), _module_of(names[0])
    if module in modules and targeted(found.config, [module]) == set():
        return left_out(found, names)
    near = difflib.get_close_matches(module, modules, n=2, cutoff=0.0)
    return MergeError(
        f"nothing in the base takes {some(names)}; nearest in the base: {', '.join(near)}",
        where=adapter.path,
        fix="attach it to the base and the `task` that it was trained on",
    )


def tensor_names(adapter: Adapter) -> set[str]:
    """The names in an adapter's file; only a pickle has to be read for them."""
    found = inspect_adapter(adapter)
    return set(found.tensors or found.read())


def _attach_one(
    model: Any,
    adapter: Adapter,
    placement: Placement,
    trainable: bool,
    only: Collection[str] | None,
) -> Any:
    from peft import PeftModel
    from peft.utils import set_peft_model_state_dict

    found = inspect_adapter(adapter)
    first = not isinstance(model, PeftModel)
    if "disk" in (getattr(model, "hf_device_map", None) or {}).values() and not first:
        raise MergeError(
            "PEFT leaves a second adapter empty where the base is offloaded to disk",
            where=adapter.path,
            fix="raise `max_memory` of `load_base`, or merge the first adapter before this one",
        )
    tensors = adapter_tensors(adapter, only)
    base = model if first else model.get_base_model()
    if first:
        _fit_vocabulary(base, tensors)
    _untie_where_the_file_differs(base, tensors)
    plain = [name for name, _ in base.named_modules()]
    try:
        with (
            warnings.catch_warnings(),
            _as_checked(found, None if only is None else tensors) as folder,
        ):
            # Missing keys become an error below; a fold takes care of ties; PEFT hands the tensors of
            # layers that are offloaded to disk to accelerate instead.
            for message in (
                "Found missing",
                "Model has `tie_word_",
                "for .*: copying from a non-meta",
            ):
                warnings.filterwarnings("ignore", message=message)
            if only is not None:  # what the config names may be in other parts of the model
                for message in (".*were ignored", ".*was matched", ".*no modules were excluded"):
                    warnings.filterwarnings("ignore", message=message)
            if first:
                model = PeftModel.from_pretrained(
                    model,
                    folder,
                    adapter_name=adapter.name,
                    is_trainable=trainable,
                    **(device_options(placement) if hasattr(model, "hf_device_map") else {}),
                )
            else:
                model.load_adapter(folder, adapter.name, is_trainable=trainable)
            # Loading a second time changes nothing and tells what from_pretrained() keeps to itself.
            result = set_peft_model_state_dict(model, tensors, adapter_name=adapter.name)
    except KeyError as error:
        raise lacks(found, [str(error.args[0])]) from error
    except Exception as error:  # a config that PEFT does not check makes it raise anything
        if is_out_of_memory(error):
            raise
        raise _as_merge_error(error, adapter) from error
    if model.peft_config[adapter.name].is_prompt_learning:
        return model  # its few tensors belong to no module of the base, and PEFT checks them itself
    lost = [name for name in result.unexpected_keys if _plain_name(name) not in tensors]
    if lost:
        raise unclaimed(adapter, lost, plain)
    missing = _missing(model, adapter.name, result.missing_keys)
    if missing:
        raise lacks(found, missing)
    _set_weight(model, adapter)
    return model


@contextmanager
def _as_checked(
    found: AdapterCheckpoint, tensors: Mapping[str, torch.Tensor] | None
) -> Iterator[str]:
    """A folder with the adapter's config as it was checked, and its weights or those `tensors`, for PEFT.

    PEFT trips over much that the check forgives in the file itself: a byte order mark, nulls, options
    of other versions.
    """
    with tempfile.TemporaryDirectory(prefix="mergeline-") as folder:
        config = dict(found.config)
        if tensors is not None and not any("trainable_tokens" in name for name in tensors):
            config.pop("trainable_token_indices", None)  # PEFT insists on the embedding
        (Path(folder) / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        if tensors is None:
            weights = found.source.fetch() / found.weights
            (Path(folder) / found.weights).symlink_to(weights.resolve())
        else:
            from safetensors.torch import save_file

            save_file(dict(tensors), Path(folder) / "adapter_model.safetensors")
        yield folder


def _fit_vocabulary(base: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Resize the base when the adapter was trained, and saved, with embeddings of another size."""
    rows = {
        tensors[key].shape[0]
        for name in _embedding_names(base)
        for key in (PREFIX + name, PREFIX + name.replace(".weight", ".base_layer.weight"))
        if key in tensors
    }
    if len(rows) == 1 and (size := rows.pop()) != base.get_input_embeddings().weight.shape[0]:
        base.resize_token_embeddings(size, mean_resizing=False)


def _embedding_names(base: Any) -> list[str]:
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    return [
        f"{name}.weight"
        for name, module in base.named_modules()
        if any(module is end for end in ends)
    ]


def _untie_where_the_file_differs(base: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    for group in tied_groups(base):
        saved = [tensors[PREFIX + name] for name in group.names if PREFIX + name in tensors]
        if any(not torch.equal(saved[0], other) for other in saved[1:]):
            untie(group)
            say_tied(base.config, False)


def _set_weight(model: Any, adapter: Adapter) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    if adapter.weight == 1.0:
        return
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            if not hasattr(layer, "set_scale"):
                raise MergeError(
                    f"a weight means nothing to a layer of kind {type(layer).__name__}",
                    where=adapter.path,
                    fix="remove `weight` from this `attach_adapter`",
                )
            layer.set_scale(adapter.name, adapter.weight)


def _missing(model: Any, name: str, keys: Iterable[str]) -> list[str]:
    """Of the model's tensors that the file did not fill, those that belong to this adapter."""
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    kind = PEFT_TYPE_TO_PREFIX_MAPPING.get(model.peft_config[name].peft_type, "")
    return [
        key
        for key in keys
        if kind in key and name in key.split(".") and not any(part in key for part in _SHARED)
    ]


def _plain_name(name: str) -> str | None:
    """The name under which PEFT saved the same module as well, for the copies that it adds.

    With a resized vocabulary it writes a saved embedding three times: plain, and as its wrapper's parts.
    """
    plain = re.sub(r"\.(?:modules_to_save|original_module)(?=\.)", "", name)
    return None if plain == name else plain


def _as_merge_error(error: Exception, adapter: Adapter) -> MergeError:
    wrong = [
        f"{match['name']} is {match['file']} in the adapter and {match['model']} on this base"
        for match in _SIZE_MISMATCH.finditer(str(error))
    ]
    if wrong:
        return MergeError(
            f"shapes do not fit: {some(wrong)}",
            where=adapter.path,
            fix="attach it to the base that it was trained on (size and vocabulary), with the "
            f"{CONFIG} of that training (rank)",
        )
    return MergeError(
        f"PEFT cannot attach it: {error}",
        where=adapter.path,
        fix=f"check that it belongs to this base, and what its {CONFIG} says",
    )


def _module_of(tensor: str) -> str:
    return re.split(r"\.(?:lora|hada|lokr|ia3|oft|vera)_", tensor.removeprefix(PREFIX))[0]
