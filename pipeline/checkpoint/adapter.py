"""An adapter before it is attached: its config, its tensors' shapes, what can be done with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.blueprint import Adapter
from pipeline.checkpoint import peft_types
from pipeline.checkpoint.adapter_config import check_adapter_config
from pipeline.checkpoint.filenames import CARD, TOKENIZER, matching
from pipeline.checkpoint.headers import TensorInfo
from pipeline.checkpoint.source import Source, locate
from pipeline.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "adapter_config.json"
_SAFE, _PICKLED = "adapter_model.safetensors", "adapter_model.bin"


@dataclass(frozen=True)
class AdapterCheckpoint:
    """What the files of an adapter say of it."""

    source: Source
    """Config, weights and what serves with them; no checkpoints of the training below it."""
    config: Mapping[str, Any]
    """The options that the installed PEFT knows."""
    peft_type: str
    weights: str
    """Name of the file of weights."""
    warnings: tuple[str, ...] = ()

    @property
    def base_model_name(self) -> str | None:
        """The base that it was trained on, as the training named it."""
        return self.config.get("base_model_name_or_path") or None

    @property
    def base_revision(self) -> str | None:
        return self.config.get("revision") or None

    @property
    def rank(self) -> int | None:
        rank = self.config.get("r")
        return rank if isinstance(rank, int) and rank > 0 else None

    @property
    def pickle(self) -> bool:
        return not self.weights.endswith(".safetensors")

    @property
    def bytes(self) -> int:
        """Size of the weights on disk."""
        return self.source.files[self.weights]

    @property
    def targets(self) -> str:
        """The adapted modules in a few words, for a person."""
        named = self.config.get("target_modules")
        if not isinstance(named, list):
            return named or "the usual modules of its architecture"
        kinds = sorted({name.rpartition(".")[2] for name in named})
        return ", ".join(kinds) if len(kinds) <= 8 else f"{len(kinds)} kinds of module"

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name, from the header; empty for a pickle. Raises InputError."""
        return {} if self.pickle else self.source.read_header(self.weights).tensors

    def check_weight(self, weight: float) -> None:
        """Raise InputError if the adapter's effect cannot be multiplied by `weight`."""
        if weight == 1:
            return
        extra = [
            key
            for key in ("modules_to_save", "trainable_token_indices", "use_dora", "lora_bias")
            if self.config.get(key)
        ]
        if self.config.get("bias", "none") != "none":
            extra.append("bias")
        if self.peft_type not in peft_types.SCALABLE:
            raise InputError(
                f"a weight of {weight} means nothing for {self.peft_type}, whose effect is not a plain delta",
                where=self.source.reference,
                fix=f"leave `weight` out; it works for {', '.join(sorted(peft_types.SCALABLE))}",
            )
        if extra:
            raise InputError(
                f"a weight of {weight} cannot reach all of this adapter: {', '.join(extra)} would stay whole",
                where=self.source.reference,
                fix="leave `weight` out",
            )

    def check_beside(self, others: Sequence[AdapterCheckpoint]) -> None:
        """Raise InputError if it cannot be active together with adapters that are attached already."""
        for other in others:
            if other.peft_type != self.peft_type:
                raise InputError(
                    f"is {self.peft_type}, and {other.source.reference} is {other.peft_type}: "
                    "adapters of different types cannot be active together",
                    where=self.source.reference,
                    fix="merge the first one before this one is attached",
                )
            if self.peft_type in peft_types.UNMERGEABLE:
                raise InputError(
                    f"only one adapter of type {self.peft_type} can be active at a time",
                    where=self.source.reference,
                    fix="attach one of them",
                )

    def why_not_mergeable(self) -> tuple[str, str] | None:
        """Why its effect cannot be folded into the base, and what to do instead; None if it can."""
        if self.peft_type in peft_types.UNMERGEABLE:
            return peft_types.UNMERGEABLE[self.peft_type]
        for key, what in (
            ("alora_invocation_tokens", "it acts only after its invocation tokens (aLoRA)"),
            ("arrow_config", "it routes every token to other adapters (Arrow)"),
        ):
            if self.config.get(key):
                return f"{what}, so no fixed weight equals it", "serve it attached"
        if self.config.get("layer_replication"):
            return "it repeats layers of the base (`layer_replication`)", "serve it attached"
        return None

    def read(self, only: Collection[str] | None = None) -> dict[str, Tensor]:
        """The tensors, or some of them, on the CPU, as they are saved.

        A pickle is read whole, with `weights_only=True`.
        """
        file = self.source.fetch() / self.weights
        if self.pickle:
            found = _read_pickle(str(file))
            return {name: t for name, t in found.items() if only is None or name in only}
        from safetensors import safe_open

        names = [name for name in self.tensors if only is None or name in only]
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in names}


def check_finite(name: str, tensor: Tensor) -> str | None:
    """What is wrong with the numbers of a tensor, or None: `has 3 NaN and 0 infinite values`."""
    import torch

    if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
        return None
    nan, infinite = int(torch.isnan(tensor).sum()), int(torch.isinf(tensor).sum())
    return f"{name} has {nan} NaN and {infinite} infinite values"


def inspect_adapter(adapter: Adapter) -> AdapterCheckpoint:
    """Read what an adapter is from its config and file names, without its weights. Raises InputError."""
    source = locate(adapter.path, adapter.revision)
    raw = source.read_json(CONFIG)
    if raw is None:
        raise InputError(f"has no {CONFIG}", where=adapter.path, fix=_what_it_is(source))
    config = check_adapter_config(raw, where=source.where(CONFIG))
    weights = next((name for name in (_SAFE, _PICKLED) if name in source.files), None)
    if weights is None:
        raise InputError(
            f"has no {_SAFE} or {_PICKLED}", where=adapter.path, fix=_missing_weights(source)
        )
    used = [CONFIG, weights, *matching(source.files, (*TOKENIZER, *CARD))]
    return AdapterCheckpoint(
        source.only(used), config.options, config.peft_type, weights, config.warnings
    )


def _what_it_is(source: Source) -> str:
    names = source.files
    below = sorted(n.split("/")[0] for n in names if n.endswith(f"/{CONFIG}"))
    if below:
        return f"the adapter is in a folder below it: {', '.join(below[:5])}"
    if "adapters.safetensors" in names or "adapters.npz" in names:
        return "these are adapters of mlx-lm; fuse them with `mlx_lm.fuse`, or convert them to PEFT's format"
    if "pytorch_lora_weights.safetensors" in names:
        return "this is an adapter of diffusers for an image model; use its own `fuse_lora`"
    if "config.json" in names:
        return "this is a whole model, not an adapter: give it to `load_base`"
    if _SAFE in names or _PICKLED in names:
        return f"the weights are there; copy {CONFIG} beside them"
    return "give the folder that PEFT's `save_pretrained` wrote"


def _missing_weights(source: Source) -> str:
    others = [n for n in source.files if n.endswith((".safetensors", ".bin", ".pt", ".npz"))]
    if others:
        return f"there is {others[0]}; PEFT looks for {_SAFE}"
    return "copy or download the adapter's weights as well"


def _read_pickle(file: str) -> dict[str, Tensor]:
    import pickle

    import torch

    again = "save it as safetensors with PEFT's `save_pretrained`"
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            "holds more than tensors (or is damaged), so reading it could run code",
            where=file,
            fix=again,
        ) from None
    except (RuntimeError, EOFError, ValueError) as error:
        raise InputError(
            f"cannot be read: {error}", where=file, fix="copy or download it again"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(t, torch.Tensor) for t in found.values()):
        raise InputError("holds something else than named tensors", where=file, fix=again)
    return found
