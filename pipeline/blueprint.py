"""What a model is to become, said without loading any of it.

Steps turn one `State` into the next; the `Blueprint` inside is what a realiser builds. Both are
immutable, so a step can never change what an earlier one meant.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

Dtype = Literal["float32", "float16", "bfloat16"]
"""Floating-point types that a model can be loaded, dequantized or saved in, as torch spells them."""

SavedDtype = Literal["keep"] | Dtype
"""Dtype to save a model in; `keep` is the base checkpoint's own."""

Engine = Literal["auto", "stream", "live"]
"""How a model is written: tensor by tensor from file to file, or from memory."""

Accumulate = Literal["peft", "float32"]
"""How deltas are added to a weight: in PEFT's own order of rounding, or in float32 and rounded once."""

Weights = Literal["quantized", "original"]
"""What to dequantize: the quantized weights, or to take those that they were made from."""

Task = Literal[
    "causal_lm",
    "seq2seq_lm",
    "sequence_classification",
    "token_classification",
    "question_answering",
    "feature_extraction",
    "image_text_to_text",
    "speech_seq2seq",
]
"""Which head of the architecture to load; each names one of transformers' auto classes."""

DTYPES: tuple[Dtype, ...] = get_args(Dtype)


@dataclass(frozen=True)
class Quantization:
    """How bitsandbytes holds the linear layers of a base."""

    kind: Literal["nf4", "fp4", "int8"]
    double_quant: bool = False
    """Whether the scales of the 4-bit blocks are themselves held in 8 bits."""
    storage: str = "uint8"
    """Dtype of the packed 4-bit tensors."""
    compute_dtype: Dtype | None = None
    """Dtype of the products; None lets bitsandbytes choose."""
    saved: bool = False
    """True when the checkpoint itself holds quantized tensors, rather than being quantized at load."""


@dataclass(frozen=True)
class Placement:
    """Where a live model lies in memory. Changes no bit of what is saved."""

    device_map: str | None = None
    max_memory: Mapping[str, str] = field(default_factory=dict)
    offload_folder: str | None = None
    attn_implementation: str | None = None


@dataclass(frozen=True)
class Base:
    """A base model as `load_base` wants it."""

    model: str
    """Folder, or id on the Hub."""
    revision: str | None = None
    """For a model of the Hub: the commit, once `load_base` has looked it up."""
    task: Task = "causal_lm"
    dtype: Dtype | None = None
    """None means the checkpoint's own."""
    quantization: Quantization | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    placement: Placement = Placement()


@dataclass(frozen=True)
class Adapter:
    """An adapter as `attach_adapter` wants it."""

    path: str
    """Folder, or id on the Hub."""
    name: str = "default"
    """PEFT's name for it within the model."""
    revision: str | None = None
    weight: float = 1.0
    """The adapter's delta is multiplied by this."""


@dataclass(frozen=True)
class Fold:
    """Adapters that were merged into the base together, in this order."""

    adapters: tuple[Adapter, ...]
    safe: bool = True
    """Stop when a merged weight is NaN or infinite."""
    accumulate: Accumulate = "peft"


@dataclass(frozen=True)
class Blueprint:
    """Which base, in which precision, with which adapters, folded or not."""

    base: Base
    dequantize: bool = False
    dequantize_dtype: Dtype | None = None
    """None means the dtype in which the base computes."""
    dequantize_from: Weights = "quantized"
    folds: tuple[Fold, ...] = ()
    """Done, in order, before `adapters` are attached."""
    adapters: tuple[Adapter, ...] = ()
    """Attached and active, not folded."""

    @property
    def quantized(self) -> bool:
        """Whether the linear layers are held in 4 or 8 bits."""
        return self.base.quantization is not None and not self.dequantize

    @property
    def loaded(self) -> Base:
        """The base as it has to be loaded: not quantized, where its original weights are wanted."""
        original = self.dequantize and self.dequantize_from == "original"
        return replace(self.base, quantization=None) if original else self.base

    @property
    def all_adapters(self) -> tuple[Adapter, ...]:
        """Folded and attached ones, in the order in which they came."""
        return tuple(a for fold in self.folds for a in fold.adapters) + self.adapters

    def trained(self) -> Blueprint:
        """The function that was trained, for a merge to be judged by.

        The last fold is undone, and with it the dequantization: the base as it was when the adapters
        saw it, with them attached.
        """
        if not self.folds:
            return self
        *before, last = self.folds
        return replace(
            self,
            folds=tuple(before),
            adapters=last.adapters,
            dequantize=self.dequantize and bool(before),
            dequantize_dtype=self.dequantize_dtype if before else None,
            dequantize_from=self.dequantize_from if before else "quantized",
        )

    def read_from(self, base: str, adapters: Sequence[str]) -> Blueprint:
        """The same model from other folders or ids: of the base, and of each of `all_adapters` in order."""
        paths = iter(adapters)

        def moved(known: tuple[Adapter, ...]) -> tuple[Adapter, ...]:
            return tuple(_moved_adapter(adapter, next(paths)) for adapter in known)

        same = base == self.base.model
        return replace(
            self,
            base=self.base if same else replace(self.base, model=base, revision=None),
            folds=tuple(replace(fold, adapters=moved(fold.adapters)) for fold in self.folds),
            adapters=moved(self.adapters),
        )

    def fingerprint(self, inputs: Mapping[str, str], versions: Mapping[str, str]) -> str:
        """SHA-256 (hex) over all that can change a byte of the result.

        `inputs` maps the files that go in to their hashes or commits; `versions` the libraries to
        theirs. Where the model lies in memory is left out.
        """
        what = asdict(self)
        del what["base"]["placement"]
        said = json.dumps([what, dict(inputs), dict(versions)], sort_keys=True, default=str)
        return hashlib.sha256(said.encode()).hexdigest()


def _moved_adapter(adapter: Adapter, path: str) -> Adapter:
    return adapter if path == adapter.path else replace(adapter, path=path, revision=None)


@dataclass(frozen=True)
class Folder:
    """A model or adapter that a step of this recipe writes."""

    path: Path
    blueprint: Blueprint
    """What was realised into it."""
    kind: Literal["model", "adapter"] = "model"


@dataclass(frozen=True)
class State:
    """What a recipe has described so far; each step takes one and returns the next."""

    blueprint: Blueprint | None = None
    folders: tuple[Folder, ...] = ()
    run_dir: Path = Path()
    step_id: str = ""
    """The id of the step that is being described."""
    warnings: tuple[str, ...] = ()
    """What the user should know before the run, in the order in which the steps found it."""
    judged: frozenset[Path] = frozenset()
    """Folders that a step judges before they may have their names."""

    def with_blueprint(self, blueprint: Blueprint) -> State:
        return replace(self, blueprint=blueprint)

    def with_folder(self, folder: Folder) -> State:
        return replace(self, folders=(*self.folders, folder))

    def with_judged(self, path: Path) -> State:
        return replace(self, judged=self.judged | {path})

    def with_warning(self, text: str) -> State:
        return replace(self, warnings=(*self.warnings, text))

    def last_folder(self, kind: Literal["model", "adapter"] = "model") -> Folder | None:
        """The folder of that kind that was described last."""
        return next((f for f in reversed(self.folders) if f.kind == kind), None)
