"""What becomes of each tensor of a base when transformers loads it and saves it again.

Nothing is read but headers: the model's own code is run over tensors without values (`origins`).
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections import defaultdict
from collections.abc import Collection, KeysView, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from pipeline.accounting.layout import Form, Stored
from pipeline.blueprint import Base, Blueprint, Dtype, Placement
from pipeline.checkpoint.base import inspect_base
from pipeline.checkpoint.headers import BITS
from pipeline.realise.load import cast_model, check_shapes, from_pretrained, invented
from pipeline.realise.stream.origins import Traced, traced
from pipeline.realise.stream.reading import SPELT, Reader, form_of
from pipeline.realise.ties import say_tied, set_parameter, tied_groups

_DESCRIBES = re.compile(
    r"(?P<module>.+)\.(?:weight\.(?:(?:nested_)?absmax|(?:nested_)?quant_map"
    r"|(?P<state>quant_state\.bitsandbytes__\w+))|SCB|weight_format)"
)
"""Keys of what bitsandbytes stores beside the weight of a module."""


@dataclass(frozen=True)
class Out:
    """A tensor of the output, before adapters have a say."""

    form: Form
    names: frozenset[str]
    """Of the model's parameters and buffers that it holds, whole or in part."""
    copied: Stored | None
    """The base's tensor whose bytes it has, if it is one."""

    @property
    def bytes(self) -> int:
        return math.prod(self.form.shape) * BITS[self.form.dtype] // 8


@dataclass(frozen=True)
class Structure:
    """A model without its values."""

    blank: Any
    """The model as transformers makes it before it loads a tensor; quantized where it would be."""
    load: Any
    """transformers' settings for loading into `blank`."""
    end: Any
    """The plain model that is written, but for what adapters change about it."""
    sources: Mapping[str, frozenset[str]]
    """Keys of the base's files that each of the model's tensors is made of."""
    beside: Mapping[str, tuple[str, ...]]
    """Keys that describe how the weight of another key is quantized."""
    own: torch.dtype
    """In which adapters are merged."""
    dtype: Dtype
    """In which the model is saved."""
    outs: Mapping[str, Out]
    extra: tuple[str, ...]
    """Keys of the base that the model does not know."""
    unexpected: frozenset[str]
    """What transformers reports of them."""
    invented: frozenset[str]
    """The model's tensors that the base does not hold, or holds for another number of labels."""

    def renamed(self, name: str) -> str:
        """The name in the model of what an older version of the architecture called `name`."""
        from transformers.core_model_loading import WeightRenaming, apply_renamings

        renamings = [r for r in self.load.weight_mapping or () if isinstance(r, WeightRenaming)]
        return str(apply_renamings(name, renamings))

    def keys_of(self, module: str) -> frozenset[str]:
        """Keys of the output that hold something of a module, whole or in part."""
        return frozenset(self._keys.get(module, ()))

    @cached_property
    def _keys(self) -> Mapping[str, set[str]]:
        """By module; of tied places both have the key that stands for them."""
        tied = {name: group for group in self.ties for name in group}
        found: defaultdict[str, set[str]] = defaultdict(set)
        for key, out in self.outs.items():
            for name in out.names:
                for place in tied.get(name, (name,)):
                    for module in modules_above(place):
                        found[module].add(key)
        return found

    @cached_property
    def names(self) -> KeysView[str]:
        """Of all parameters and saved buffers of the plain model, in its order."""
        return dict(self.end.state_dict()).keys()

    @cached_property
    def modules(self) -> frozenset[str]:
        """Dotted names of all modules."""
        return frozenset(name for name, _ in self.blank.named_modules() if name)

    @cached_property
    def ends(self) -> frozenset[str]:
        """The modules of the input and output embeddings, and all that share a parameter."""
        ends = (self.blank.get_input_embeddings(), self.blank.get_output_embeddings())
        named = self.blank.named_modules(remove_duplicate=False)
        owners = {name.rpartition(".")[0] for group in self.ties for name in group}
        return frozenset(name for name, module in named if module in ends) | owners

    @cached_property
    def ties(self) -> list[tuple[str, ...]]:
        """Groups of names that share a parameter."""
        return [group.names for group in tied_groups(self.end)]


def modules_above(name: str) -> list[str]:
    """All modules that a dotted name lies in: `a` and `a.b` of `a.b.weight`."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def structure(blueprint: Blueprint, dtype: Dtype, reader: Reader, labels: int | None) -> Structure:
    """The structure of the plain model that a blueprint is saved as, in `dtype`.

    Raises InputError when transformers cannot make the model, or its tensors do not fit.
    """
    base = replace(blueprint.loaded, placement=Placement())
    blank, load = _blank(base, labels)
    quantized = base.quantization is not None
    beside, forms = _unpacked(reader) if quantized else ({}, reader.forms)
    end, report = _end(base, forms, labels)
    check_shapes(base, report, labels)
    sources = {
        name: tensor.origins
        for name, tensor in end.state_dict().items()
        if isinstance(tensor, Traced)
    }
    _tie_equals(end, sources, reader)
    if blueprint.dequantize and blueprint.dequantize_dtype:
        cast_model(end, end.dtype, getattr(torch, blueprint.dequantize_dtype))
    own = end.dtype
    cast_model(end, own, getattr(torch, dtype))
    changed = {
        f"{name}.weight"
        for name, module in blank.named_modules()
        if type(module).__module__.startswith("bitsandbytes")
    }
    outs = _outs(end, reader, changed)
    placed = frozenset().union(*sources.values(), outs, *beside.values(), invented(report))
    return Structure(
        blank,
        load,
        end,
        sources,
        beside,
        own,
        dtype,
        outs,
        extra=tuple(key for key in reader.forms if key not in placed),
        unexpected=frozenset(report["unexpected_keys"]),
        invented=invented(report),
    )


class _Blank(BaseException):
    """Carries the model out of transformers at the moment when it would read the first tensor."""


def _blank(base: Base, labels: int | None, **more: Any) -> tuple[Any, Any]:
    """The model on the meta device as `from_pretrained` makes it, and its settings for loading."""
    from transformers import PreTrainedModel

    def stop(model: Any, state_dict: Any, files: Any, load: Any) -> None:
        raise _Blank(model, load)

    whole = PreTrainedModel._load_pretrained_model
    PreTrainedModel._load_pretrained_model = staticmethod(stop)
    try:
        from_pretrained(base, "cpu", labels=labels, **more)
    except _Blank as blank:
        model, load = blank.args
        return model, load
    finally:
        PreTrainedModel._load_pretrained_model = staticmethod(whole)
    raise AssertionError("transformers reads tensors in another place now")


def _end(base: Base, forms: Mapping[str, Form], labels: int | None) -> tuple[Any, dict[str, Any]]:
    """The plain model, loaded with tensors that have no values but origins, and the load's report."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        str(inspect_base(base).source.fetch()),
        local_files_only=True,
        trust_remote_code=base.trust_remote_code,
        **({} if labels is None else {"num_labels": labels}),
    )
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model, load = _blank(replace(base, quantization=None), None, config=config)
    load = replace(load, device_map={"": "meta"})
    own = model.state_dict()
    tensors = {key: traced(key, _turned(form, own.get(key))) for key, form in forms.items()}
    found, _ = model._load_pretrained_model(model, tensors, None, load)
    return model, model._finalize_model_loading(model, load, found).to_dict()


def _unpacked(reader: Reader) -> tuple[Mapping[str, tuple[str, ...]], Mapping[str, Form]]:
    """Keys that only describe quantized weights, by the key of the weight, and the forms of all others.

    The form of a weight in 4 bits is the one that it has once it is dequantized.
    """
    beside: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    forms = dict(reader.forms)
    for key in reader.forms:
        found = _DESCRIBES.fullmatch(key)
        if found is None:
            continue
        weight = f"{found['module']}.weight"
        beside[weight] += (key,)
        del forms[key]
        if found["state"]:
            state = json.loads(bytes(reader.read(key).tolist()))
            forms[weight] = Form(SPELT[getattr(torch, state["dtype"])], tuple(state["shape"]))
    return beside, forms


def _turned(form: Form, own: torch.Tensor | None) -> Form:
    """bitsandbytes stores the transpose of GPT-2's layers."""
    turned = replace(form, shape=form.shape[::-1])
    return turned if own is not None and form.shape != own.shape == turned.shape else form


def _tie_equals(model: Any, sources: Mapping[str, frozenset[str]], reader: Reader) -> None:
    """Tie what the config ties and the base holds twice, if it holds the same values twice.

    transformers does so when it sees the values.
    """
    for target, source in model.all_tied_weights_keys.items():
        keys = [sources.get(name, frozenset()) for name in (target, source)]
        if all(len(k) == 1 for k in keys) and keys[0] != keys[1]:
            (one,), (other,) = keys
            if reader.same(one, other):
                set_parameter(model, target, model.get_parameter(source))
            else:
                say_tied(model.config, False)


def saved_state(model: Any) -> dict[str, torch.Tensor]:
    """What `save_pretrained` would write, by key."""
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    ignored = model._keys_to_ignore_on_save or ()
    state = {name: t for name, t in model.state_dict().items() if name not in ignored}
    state = remove_tied_weights_from_state_dict(state, model)
    return dict(revert_weight_conversion(model, state))


def _outs(model: Any, reader: Reader, changed: Collection[str]) -> dict[str, Out]:
    """What is written of the model, by key; `changed` are tensors with other values than the base's."""
    state = model.state_dict()
    tagged = copy.copy(model)
    tagged.state_dict = lambda: {
        name: traced(name, form_of(tensor)) for name, tensor in state.items()
    }
    outs = {}
    for key, tensor in saved_state(tagged).items():
        held = [state[name] for name in tensor.origins]
        kept = not changed & tensor.origins and all(
            isinstance(one, Traced) and not one.cast for one in held
        )
        copied = _same_bytes(key, tensor, held, reader) if kept and reader.stored else None
        outs[key] = Out(form_of(tensor), tensor.origins, copied)
    return outs


def _same_bytes(key: str, tensor: Traced, held: Sequence[Traced], reader: Reader) -> Stored | None:
    """The base's tensor that the one to write equals in bytes.

    What is loaded and saved under one and the same key comes back as it was, whatever happened between.
    """
    keys = frozenset().union(*(t.origins for t in held))
    moved = tensor.rearranged or any(t.rearranged for t in held)
    source = key if key in keys else next(iter(keys)) if len(keys) == 1 and not moved else None
    if source is None or reader.forms[source] != form_of(tensor):
        return None
    return reader.stored[source]
