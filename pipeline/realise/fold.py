"""Fold adapters into a plain model with PEFT's own merge, and count what it changed."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.accounting.claims import PREFIX
from pipeline.blueprint import Fold, Placement
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.errors import MergeError
from pipeline.realise.attach import Parts, attach, tensor_names
from pipeline.realise.ties import TiedGroup, settle_ties, tied_groups, untie
from pipeline.realise.wide import narrow, widen

Digest = tuple[int, int] | None
"""What tells two states of a tensor apart; None for one that lies on disk."""

_DECOMPOSING = ("OSF", "PSOFT")
"""Types that PEFT begins with a decomposition of each weight, also when it only loads them."""
_STARTS = ("pissa", "olora")
"""Starts of LoRA that do the same."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Folded:
    """What one fold did."""

    model: Any
    claimed: tuple[str, ...]
    """Modules of the base that an adapter targets or replaces."""
    unchanged: tuple[str, ...]
    """Those of them that have the same bits as before."""


def fold(
    model: Any,
    wanted: Fold,
    *,
    placement: Placement,
    parts: Parts | None = None,
    wide: Collection[str] = (),
) -> Folded:
    """Attach the adapters of a fold to a plain model and merge them, with PEFT's arithmetic.

    With `parts`, the model is a part of one, and takes only those tensors of each adapter. The modules in
    `wide` have weights in float32 for this sum alone.

    The sums are those of a plain `merge_and_unload()`, safe or not: PEFT's own `safe_merge=True` rounds
    each delta to the base's dtype before it is added, which loses accuracy and gives other bits.

    Raises MergeError when an adapter does not fit, or when a merged weight is NaN or infinite (and
    `wanted.safe`).
    """
    with _steady(wanted):
        return _fold(model, wanted, placement, parts, wide)


@contextmanager
def _steady(wanted: Fold) -> Iterator[None]:
    """One thread for kinds that decompose the base's weights: LAPACK's bits depend on the number."""
    found = [inspect_adapter(adapter) for adapter in wanted.adapters]
    decomposes = any(
        adapter.peft_type in _DECOMPOSING or adapter.config.get("init_lora_weights") in _STARTS
        for adapter in found
    )
    threads = torch.get_num_threads()
    try:
        if decomposes:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def _fold(
    model: Any, wanted: Fold, placement: Placement, parts: Parts | None, wide: Collection[str]
) -> Folded:
    ties = tied_groups(model)
    dtypes = {n: p.dtype for n, p in model.named_parameters(remove_duplicate=False)}
    dtypes |= {f"{name}.weight": model.config.dtype for name in wide}
    before = digests(model, dtypes)
    plain = [name for name, _ in model.named_modules()]
    peft_model = attach(model, wanted.adapters, placement=placement, parts=parts)
    claimed = _claimed(peft_model, plain, wanted)
    touched = [group for group in ties if _touches(claimed, group)]
    for group in touched:
        untie(group)
    if wanted.accumulate == "float32":
        widen(peft_model)
    model = _merge(peft_model, wanted)
    if wanted.accumulate == "float32":
        narrow(model, dtypes)
    if wanted.safe:
        _check_finite(model, claimed, wanted)
    settle_ties(model, touched)
    after = digests(model)
    unchanged = tuple(module for module in claimed if not _changed(module, before, after))
    return Folded(model, claimed, unchanged)


def digests(model: Any, dtypes: Mapping[str, torch.dtype] | None = None) -> dict[str, Digest]:
    """A pair of sums over the bits of each parameter, tied ones under each of their names.

    Those with a name in `dtypes` are taken as they are in that dtype.
    Not a cryptographic hash: it runs at the speed of memory and sees any change that a merge makes.
    """
    known: dict[int, Digest] = {}
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in known:
            known[id(parameter)] = _digest(
                parameter.data.to((dtypes or {}).get(name, parameter.dtype))
            )
        found[name] = known[id(parameter)]
    return found


def _digest(tensor: torch.Tensor) -> Digest:
    if tensor.device.type == "meta":
        return None
    flat = tensor.contiguous().flatten()
    size = flat.element_size()
    # Eight bytes at a time where the tensor's place and length allow it: four times as fast.
    wide = flat.nbytes % 8 == 0 and flat.storage_offset() * size % 8 == 0
    bits = flat.view(_BITS[8 if wide else size])
    return int(bits.sum(dtype=torch.int64).item()), int(torch.hash_tensor(bits).item())


def _claimed(peft_model: Any, plain: list[str], wanted: Fold) -> tuple[str, ...]:
    """Those of the `plain` base's modules that an adapter wraps, or whose tensors its file holds whole."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    wrapped = {
        name
        for name, module in peft_model.get_base_model().named_modules()
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))
    }
    whole = {
        key.removeprefix(PREFIX).rpartition(".")[0]
        for adapter in wanted.adapters
        for key in tensor_names(adapter)
    }
    return tuple(name for name in plain if name in wrapped or name in whole)


def _merge(peft_model: Any, wanted: Fold) -> Any:
    if not hasattr(peft_model.base_model, "merge_and_unload"):
        raise MergeError(
            f"adapters of type {inspect_adapter(wanted.adapters[0]).peft_type} cannot be merged",
            where=wanted.adapters[0].path,
            fix="serve the base with the adapter attached, by PEFT",
        )
    names = [adapter.name for adapter in wanted.adapters]
    try:
        with warnings.catch_warnings():
            # Both are about ties, which are taken care of around this call.
            warnings.filterwarnings("ignore", message="Model with `tie_word_embeddings=True`")
            warnings.filterwarnings(
                "ignore", message="Input and output embeddings are no longer tied"
            )
            return peft_model.merge_and_unload(adapter_names=names)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError, AttributeError) as error:
        raise MergeError(
            f"PEFT cannot merge it: {error}",
            where=_first_wrapped(peft_model),
            fix="serve the base with the adapter attached, by PEFT",
        ) from error


def _check_finite(model: Any, claimed: tuple[str, ...], wanted: Fold) -> None:
    """Raise MergeError, naming the first module, when a merged parameter is NaN or infinite."""
    from accelerate.utils import align_module_device

    for name in claimed:
        module = model.get_submodule(name)
        with align_module_device(module):  # brings what is offloaded into memory
            own = dict(module.named_parameters(recurse=False))
            broken = [
                leaf
                for leaf, parameter in own.items()
                if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all())
            ]
        if broken:
            raise MergeError(
                f"the merged {broken[0]} holds NaN or infinite values",
                where=name,
                fix=f"the training of {' or '.join(a.path for a in wanted.adapters)} diverged, or its "
                "delta overflows the base's dtype: use an earlier checkpoint of it, or a wider dtype",
            )


def _first_wrapped(peft_model: Any) -> str:
    """The module at fault: PEFT unwraps them in order and had got this far."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = peft_model.get_base_model()
    wrapped = (name for name, module in base.named_modules() if isinstance(module, BaseTunerLayer))
    return next(wrapped, "the model")


def _touches(claimed: tuple[str, ...], group: TiedGroup) -> bool:
    return any(name.rpartition(".")[0] in claimed for name in group.names)


def _changed(module: str, before: dict[str, Digest], after: dict[str, Digest]) -> bool:
    return any(
        digest is None or before.get(name) != digest
        for name, digest in after.items()
        if name.startswith(f"{module}.")
    )
