"""Which module of the base takes each tensor of an adapter, told by names and shapes alone.

An adapter's tensor is called `base_model.model.<module>.<what its kind calls it>`, and the base's files name
its modules, so the two must meet. They need not where the load renames tensors of the base or fuses them, or
ties a module or adds a head: there, the load is the judge, which takes every tensor or fails. What is
refused here would fail there, after minutes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

from pipeline.accounting.modular import MODULAR
from pipeline.accounting.targets import check_targets
from pipeline.checkpoint import peft_types, transformers_types
from pipeline.checkpoint.adapter import AdapterCheckpoint
from pipeline.checkpoint.base import BaseCheckpoint
from pipeline.checkpoint.headers import TORCH_NAMES, TensorInfo
from pipeline.errors import InputError

PREFIX = "base_model.model."
"""What PEFT puts before the base's own names."""

_INSERTED = ("base_layer", "modules_to_save", "original_module", "default")
"""What PEFT's wrappers put between the parts of a name."""
_MARKS = ("lora_", "hada_", "token_adapter", "trainable_tokens_")
"""How names of an adapter's own tensors begin, where that is not the name of its type."""
_RESIZED = ("embed", "wte", "lm_head", "score", "classifier")
"""Modules that a training may have resized with the vocabulary or the labels; loading resizes them too."""
BESIDE_LAYERS = re.compile(r"\.(?:modules_to_save|original_module|token_adapter)\.")
"""In names of tensors that replace one of the base's, or some of its rows."""
_LAYER = re.compile(r"(?P<stack>.*?)\.(?P<number>\d+)(?=\.|$)")
"""The outermost numbered module that a dotted name lies in."""
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer")
"""How configs call the number of layers."""
_PLAIN = (*TORCH_NAMES, "I8")
"""Dtypes in which a weight has the shape of the module; 4-bit ones are packed."""


@dataclass(frozen=True)
class ClaimCounts:
    """How the tensors of one adapter and the modules of a base meet."""

    tensors: int
    """In the adapter's file; 0 when it is a pickle, which is not opened for a plan."""
    modules: int
    """Of the base, that take tensors."""
    later: tuple[str, ...] = ()
    """Tensors that only the load can place."""


@dataclass(frozen=True)
class _Own:
    """One tensor of the adapter."""

    name: str
    module: str
    """Of the base, as the adapter calls it; empty for tensors that all modules share."""
    rest: str
    """What its kind calls it: `lora_A.weight`; `weight` for one that replaces the base's."""
    shape: tuple[int, ...]


def check_claims(adapter: AdapterCheckpoint, base: BaseCheckpoint) -> ClaimCounts:
    """Place every tensor of an adapter. Reads headers only.

    Raises InputError, naming the tensors, when some belong to no module of this base or do not fit, and
    MergeError when the adapter's config targets other modules than those that its tensors are for.
    """
    own = list(_own_tensors(adapter))
    modules = _Modules(base.tensors)
    placed = {tensor: modules.find(tensor.module) for tensor in own if tensor.module}
    lost = [tensor for tensor, module in placed.items() if module is None]
    strangers = [t.name for t in own if not t.module and not t.name.startswith("base_model.")]
    if _names_tell(base) and not adapter.config.get("layer_replication"):
        strangers += [tensor.name for tensor in lost if modules.lacks(tensor.module)]
    if strangers:
        raise _unclaimed(adapter, strangers, modules)
    wrong = list(_misfits(placed, base.tensors))
    if wrong:
        more = f" (and {len(wrong) - 1} more do not fit)" if len(wrong) > 1 else ""
        name, what = wrong[0]
        raise InputError(
            f"does not fit the base: {what}{more}",
            where=f"{adapter.source.where(adapter.weights)}: {name}",
            fix=f"load the base that it was trained on ({adapter.base_model_name or 'not named'})",
        )
    if adapter.peft_type in MODULAR and _names_tell(base):
        _check_targets(adapter, placed, base)
    takers = {module for module in placed.values() if module is not None}
    return ClaimCounts(len(own), len(takers), tuple(tensor.name for tensor in lost))


def _own_tensors(adapter: AdapterCheckpoint) -> Iterator[_Own]:
    if adapter.peft_type in peft_types.UNMERGEABLE:
        return  # its tensors belong to the input, not to modules
    marks = (*_MARKS, f"{adapter.peft_type.lower()}_")
    for name, info in adapter.tensors.items():
        if not name.startswith(PREFIX):
            yield _Own(name, "", name, info.shape)
            continue
        parts = [part for part in name.removeprefix(PREFIX).split(".") if part not in _INSERTED]
        cut = next((n for n, part in enumerate(parts) if part.startswith(marks)), len(parts) - 1)
        yield _Own(name, ".".join(parts[:cut]), ".".join(parts[cut:]), info.shape)


class _Modules:
    """The modules of a base, by the names of its tensors."""

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        self.names: set[str] = set()
        for name in tensors:
            module = name.rpartition(".")[0]
            while module and module not in self.names:
                self.names.add(module)
                module = module.rpartition(".")[0]

    @cached_property
    def _inner(self) -> Mapping[str, str]:
        """By their names without the first part, which is that of the inner model."""
        return {inner: name for name in self.names if (inner := name.partition(".")[2])}

    @cached_property
    def _patterns(self) -> frozenset[str]:
        """All layers alike; with and without the name of the inner model."""
        return frozenset(_pattern(name) for name in (*self.names, *self._inner))

    def find(self, module: str) -> str | None:
        """The base's name for a module, whichever of the two names the inner model as well."""
        inner = module.partition(".")[2]
        found = next((name for name in (module, inner) if name in self.names), None)
        return found or self._inner.get(module)

    def lacks(self, module: str) -> bool:
        """Whether a module that is not found cannot be there under another name.

        Heads and embeddings may be tied to others, or made by the load, and so may a part that only some
        layers hold; a part that no layer has may not, nor a layer that is not there.
        """
        layer = _LAYER.match(module)
        if layer is None:
            return False
        unknown = {_pattern(module), _pattern(module.partition(".")[2])}.isdisjoint(self._patterns)
        return unknown or self.find(layer[0]) is None


def _pattern(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


def _names_tell(base: BaseCheckpoint) -> bool:
    """Whether the model calls its modules as the files do, but for the name of the inner model."""
    composite = any(isinstance(v, dict) and "model_type" in v for v in base.config.values())
    renamed = composite or transformers_types.renames_tensors(base.model_type)
    return bool(base.tensors) and not (base.custom_code or renamed)


def _check_targets(
    adapter: AdapterCheckpoint, placed: Mapping[_Own, str | None], base: BaseCheckpoint
) -> None:
    """Hold the adapter's tensors against its config, as far as the base's files tell the model's modules.

    The load judges the rest: modules that the files call otherwise, and layers that hold tensors which only
    the load can place.
    """
    takers = {
        tensor.name: tensor.module
        for tensor, module in placed.items()
        if module == tensor.module
        and tensor.rest not in ("weight", "bias")
        and not BESIDE_LAYERS.search(tensor.name)
    }
    later = any(_LAYER.match(tensor.module) for tensor, module in placed.items() if module is None)
    weighed = {name.removesuffix(".weight") for name in base.tensors if name.endswith(".weight")}
    known = set() if later else _surely_in_the_model(weighed, set(takers.values()), base)
    check_targets(adapter, takers, (weighed & set(takers.values())) | known)


def _surely_in_the_model(
    modules: AbstractSet[str], takers: AbstractSet[str], base: BaseCheckpoint
) -> set[str]:
    """Of modules in the files, those beside others that take tensors, in the same stack of layers.

    Files may hold layers that the model leaves out: after its last one, or apart from the others.
    """
    if transformers_types.ignores_tensors(base.model_type):
        return set()
    depths = [base.config[key] for key in _DEPTHS if isinstance(base.config.get(key), int)]
    stacks = {layer["stack"] for module in takers if (layer := _LAYER.match(module))}
    return {
        module
        for module in modules
        if (layer := _LAYER.match(module))
        and layer["stack"] in stacks
        and int(layer["number"]) < min(depths, default=0)
    }


def _misfits(
    placed: Mapping[_Own, str | None], base: Mapping[str, TensorInfo]
) -> Iterator[tuple[str, str]]:
    """Tensors that cannot be part of their module, with what is wrong."""
    found = {
        (module, tensor.rest.removesuffix(".weight")): tensor
        for tensor, module in placed.items()
        if module
    }
    for (module, kind), tensor in found.items():
        plain = base.get(f"{module}.{tensor.rest}")
        weight = base.get(f"{module}.weight")
        if any(part in module for part in _RESIZED):
            continue
        if plain is not None and plain.dtype in _PLAIN and plain.shape != tensor.shape:
            ours, theirs = _times(tensor.shape), _times(plain.shape)
            yield tensor.name, f"it is {ours}, and {module}.{tensor.rest} of the base is {theirs}"
        if weight is None or weight.dtype not in _PLAIN or len(weight.shape) != 2:
            continue
        delta = _delta(tensor, kind, found.get((module, _OUTER.get(kind, ""))))
        # Conv1D layers (GPT-2) store their weight the other way round.
        if delta and weight.shape not in (delta, delta[::-1]):
            theirs = _times(weight.shape)
            yield (
                tensor.name,
                f"its delta is {_times(delta)}, and {module}.weight of the base is {theirs}",
            )


_OUTER = {"lora_A": "lora_B", "hada_w1_b": "hada_w1_a", "hada_w2_b": "hada_w2_a"}
"""The right factor [rank, columns] of a product, and the left one [rows, rank]."""


def _delta(right: _Own, kind: str, left: _Own | None) -> tuple[int, int] | None:
    if kind in _OUTER and left and len(left.shape) == len(right.shape) == 2:
        return left.shape[0], right.shape[1]
    return None


def _unclaimed(adapter: AdapterCheckpoint, names: Sequence[str], base: _Modules) -> InputError:
    wanted = next((t.module for t in _own_tensors(adapter) if t.name == names[0]), names[0])
    near = difflib.get_close_matches(wanted, sorted(base.names), n=2, cutoff=0.0)
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return InputError(
        f"nothing in the base takes {', '.join(names[:4])}{more}; nearest in the base: {', '.join(near)}",
        where=adapter.source.where(adapter.weights),
        fix=f"load the base that it was trained on ({adapter.base_model_name or 'not named'})",
    )


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
