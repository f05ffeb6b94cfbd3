"""Each merged module by itself: does it answer as the base's module and the adapters' own layer together do?

A few modules at a time are read from the base and from the saved folder, so that memory does not grow with
the model. PEFT runs the adapters, unmerged, and everything is computed in float32: what is measured are the
roundings of the merge, and not those of a forward pass.
"""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.accounting.modular import why_not_modular
from pipeline.blueprint import Base, Blueprint, Dtype, Placement
from pipeline.checkpoint.base import inspect_base
from pipeline.errors import VerificationError

if TYPE_CHECKING:
    import torch

    from pipeline.realise.stream.modules import Modules
    from pipeline.realise.stream.windows import Window

VECTORS = 16
"""Random inputs of each module."""
_ROWS = 16_384
"""Of an embedding that is larger, so many rows are looked up."""


@dataclass(frozen=True)
class ModuleFigures:
    """How one saved module stands to the trained one."""

    name: str
    error: float
    """Norm of the answers' difference, saved - trained, over the norm of the trained module's."""
    base_norm: float
    """Frobenius norm of the base's weight, estimated from its answers."""
    delta_norm: float
    """The same of what the adapters add to it."""
    delta_kept: float | None
    """The share of that which the saved module adds too: the projection of saved - base on trained - base,
    over the norm of trained - base. 1 is all, 0 none, 2 that it was added twice. Roundings that have nothing
    to do with the delta cancel out in it. None where the adapters add nothing."""
    noise: float
    """How far `delta_kept` may be off by such roundings: one standard deviation."""

    @property
    def delta(self) -> float:
        """Norm of the delta over that of the base; infinite on a base of zeros."""
        return _ratio(self.delta_norm, self.base_norm)

    @property
    def recorded(self) -> dict[str, float | None]:
        """For the manifest."""
        names = ("error", "base_norm", "delta_norm", "delta_kept")
        return {name: getattr(self, name) for name in names}


def why_no_modules(blueprint: Blueprint) -> str | None:
    """Why the modules of a model cannot be looked at one by one, for a person; None if they can.

    Raises InputError for adapters that nobody can read.
    """
    if not blueprint.folds:
        return "no adapter was merged"
    return why_not_modular(replace(blueprint, dequantize=True))


class ModuleProof:
    """The modules that the last merge of a blueprint claims, in its base and in a saved folder."""

    def __init__(self, blueprint: Blueprint, folder: Path) -> None:
        """Raises InputError when the base, an adapter or the folder cannot be read, and VerificationError
        when the folder lacks some of the base's modules."""
        self._folder = folder
        self._trained, self._saved = _trained(blueprint), _modules(_base_of(blueprint, folder))
        lacking = self._trained.of.modules - self._saved.of.modules or self._saved.of.invented
        if lacking:
            raise self._wrong(f"it lacks {', '.join(sorted(lacking)[:4])}")
        self._windows = list(self._claimed())
        self.bytes = sum(window.bytes for window, _ in self._windows)
        """Of all that `figures` goes through."""

    @property
    def dtypes(self) -> tuple[Dtype, Dtype]:
        """In which the base was merged into, and saved."""
        return self._trained.of.dtype, self._saved.of.dtype

    def figures(self, advance: Callable[[float], None]) -> Iterator[ModuleFigures]:
        """Those of each module, in the order of the model; `advance` is told of the bytes that are done.

        Raises VerificationError for a module of another shape than the trained one.
        """
        for window, names in self._windows:
            for name, answers in self._ask(window, names):
                if answers.saved.shape != answers.trained.shape:
                    shapes = [list(tensor.shape) for tensor in (answers.saved, answers.trained)]
                    raise self._wrong(f"{name} answers in the shape {shapes[0]}, not {shapes[1]}")
                yield _compare(name, answers)
            gc.collect()  # PEFT's models hold themselves: the weights of windows would pile up
            advance(window.bytes)

    def _claimed(self) -> Iterator[tuple[Window, list[str]]]:
        """Windows with the modules that adapters of the last merge take, each module once."""
        claims = self._trained.claims
        last = [claim for claim in claims if claim.adapter in self._trained.blueprint.adapters]
        left = {module for claim in last for module in claim.modules.values()}
        for window in self._trained.windows:
            names = sorted(left & window.modules)
            left.difference_update(names)
            if names:
                yield window, names

    def _ask(self, window: Window, names: Sequence[str]) -> Iterator[tuple[str, _Answers]]:
        from pipeline.realise.attach import attach
        from pipeline.realise.stream.modules import fill, part_of

        part = part_of(self._saved.of, window.modules)
        fill(part, self._saved.of, self._saved.reader)
        asked = {name: _question(part.get_submodule(name)) for name in names}
        saved = _answers(part.float(), asked)
        part = self._trained.merged(window, set()).float()
        values = {name: _values(part, name) for name in asked if asked[name] is None}
        adapters = [a for a in self._trained.blueprint.adapters if a in window.parts]
        live = attach(part, adapters, placement=Placement(), parts=window.parts).float()
        trained = _answers(live.get_base_model(), asked)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Careful, disabling adapter layers")
            with live.disable_adapter():
                base = _answers(live.get_base_model(), asked)
        if values:
            merged = live.merge_and_unload()
            trained |= {name: _values(merged, name) for name in values}
        for name, question in asked.items():
            scale = question.scale if question else 1.0
            yield name, _Answers((base | values)[name], trained[name], saved[name], scale)

    def _wrong(self, what: str) -> VerificationError:
        return VerificationError(
            what, where=self._folder, fix="check which base and adapter the folder was made from"
        )


def _trained(blueprint: Blueprint) -> Modules:
    """The base as the adapters of the last merge saw it, with its 4 or 8 bits as plain numbers."""
    from pipeline.realise.live import labels_of

    trained = blueprint.trained()
    dequantize = trained.base.quantization is not None
    return _modules(replace(trained, dequantize=dequantize), labels_of(trained))


def _base_of(blueprint: Blueprint, folder: Path) -> Blueprint:
    return Blueprint(Base(str(folder), task=blueprint.base.task))


def _modules(blueprint: Blueprint, labels: int | None = None) -> Modules:
    from pipeline.realise.stream.modules import Modules
    from pipeline.realise.stream.reading import Reader
    from pipeline.realise.stream.structure import structure
    from pipeline.realise.stream.windows import claims_of, units_of, windows

    base = inspect_base(blueprint.base)
    reader = Reader(base)
    of = structure(blueprint, blueprint.base.dtype or base.dtype, reader, labels)
    claims = [claims_of(adapter, of) for adapter in blueprint.all_adapters]
    units = [unit for unit in units_of(of, claims) if unit.parts]
    outs = {key for unit in units for key in unit.outs}
    return Modules(blueprint, reader, of, windows(of, units, claims, outs), (), claims)


@dataclass(frozen=True)
class _Question:
    """Inputs of a module."""

    x: torch.Tensor
    scale: float
    """The norm of the answers times this is about that of the weight."""


@dataclass(frozen=True)
class _Answers:
    """Of three modules to the same question."""

    base: torch.Tensor
    trained: torch.Tensor
    saved: torch.Tensor
    scale: float


def _question(module: Any) -> _Question | None:
    """Random inputs, of a fixed seed, for a plain module; None for one whose inputs are not known here."""
    import torch
    from transformers.pytorch_utils import Conv1D

    generator = torch.Generator().manual_seed(0)
    weight = getattr(module, "weight", None)
    match module:
        case torch.nn.Embedding():
            rows = torch.randperm(len(module.weight), generator=generator)[:_ROWS]
            return _Question(rows, math.sqrt(len(module.weight) / len(rows)))
        case torch.nn.Linear():
            shape = [module.in_features]
        case Conv1D():
            shape = [module.nx]
        case torch.nn.Conv1d() | torch.nn.Conv2d() | torch.nn.Conv3d():
            shape = [module.in_channels, *module.kernel_size]
        case _ if weight is not None and weight.dim() == 1:  # a norm
            shape = [len(weight)]
        case _:
            return None
    return _Question(torch.randn(VECTORS, *shape, generator=generator), 1 / math.sqrt(VECTORS))


def _answers(model: Any, asked: Mapping[str, _Question | None]) -> dict[str, torch.Tensor]:
    """What the modules of a part say; of those whose inputs are not known, the values of its parameters."""
    import torch

    with torch.inference_mode():
        return {
            name: model.get_submodule(name)(question.x) if question else _values(model, name)
            for name, question in asked.items()
        }


def _values(model: Any, name: str) -> torch.Tensor:
    import torch

    return torch.cat([p.detach().flatten() for p in model.get_submodule(name).parameters()])


def _compare(name: str, answers: _Answers) -> ModuleFigures:
    base, trained = answers.base.double(), answers.trained.double()
    delta, got = trained - base, answers.saved.double() - base
    square = delta.square().sum().item()
    kept = (got * delta).sum().item() / square if square else None
    rest = (got - (kept or 0.0) * delta).square().mean().sqrt().item()
    return ModuleFigures(
        name,
        error=_ratio((got - delta).norm().item(), trained.norm().item()),
        base_norm=base.norm().item() * answers.scale,
        delta_norm=math.sqrt(square) * answers.scale,
        delta_kept=kept,
        noise=rest / math.sqrt(square) if square else 0.0,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.inf if part else 0.0
