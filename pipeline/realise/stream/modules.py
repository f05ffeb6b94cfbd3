"""Make tensors with transformers, bitsandbytes and PEFT themselves, a few modules at a time.

A part is a model of the base's own class that has only some of its modules. It goes through the same
functions as a live model, so what it makes has the same bits.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.accounting.direct import Work
from pipeline.accounting.layout import Tensor
from pipeline.blueprint import Blueprint, Dtype
from pipeline.realise.fold import fold
from pipeline.realise.load import dequantize_model
from pipeline.realise.recast import recast
from pipeline.realise.stream.plain import plain_tensors
from pipeline.realise.stream.reading import Reader, form_of
from pipeline.realise.stream.structure import Structure, modules_above, saved_state, structure
from pipeline.realise.stream.windows import Claims, Window, claims_of, units_of, windows
from pipeline.realise.ties import set_parameter
from pipeline.realise.wide import summed_layers


@dataclass
class Modules:
    """A blueprint that is realised window by window."""

    blueprint: Blueprint
    reader: Reader
    of: Structure
    windows: list[Window]
    tensors: tuple[Tensor, ...]
    """Of the output: copies of the base's, and those that `make` makes."""
    claims: Sequence[Claims]

    @property
    def work(self) -> Work:
        """For the engine."""
        safe = all(fold.safe for fold in self.blueprint.folds)
        return Work(self.reader.base, self.tensors, safe, self.of.dtype)

    @property
    def claimed(self) -> Mapping[str, frozenset[str]]:
        """Keys of the output that each module holds which an adapter claims."""
        modules = {module for claim in self.claims for module in claim.modules.values()}
        return {module: self.of.keys_of(module) for module in sorted(modules)}

    def make(self, wanted: Sequence[Tensor]) -> Iterator[tuple[str, memoryview, bool]]:
        """The tensors, each once: key, bytes, and whether a merge changed it."""
        keys = {tensor.key for tensor in wanted}
        for window in self.windows:
            here = keys & window.outs
            if here:
                changed: set[str] = set()
                made = self.realise(window, changed)
                other = {key for module in changed for key in self.of.keys_of(module)}
                yield from ((key, _bytes_of(made[key]), key in other) for key in sorted(here))

    def write_config(self, folder: Path) -> None:
        """config.json as `save_pretrained` writes it."""
        model = self.of.end
        model.config.dtype = self.of.dtype
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)

    def realise(self, window: Window, changed: set[str]) -> dict[str, torch.Tensor]:
        """What the modules of a window become, by key; more than its `outs` where it has witnesses.

        Adds to `changed` the claimed modules that have other bits than before.
        Raises MergeError and InputError as a live model does.
        """
        part = self.merged(window, changed)
        recast(part, self.of.own, self.of.end.dtype)
        _carry(part.config, self.of)
        part._weight_conversions = self.of.end._weight_conversions
        return saved_state(part)

    def merged(self, window: Window, changed: set[str]) -> Any:
        """A part of the model with the modules of a window, dequantized and with all merges done.

        Adds to `changed` the claimed modules that have other bits than before.
        """
        part = part_of(self.of, window.modules)
        fill(part, self.of, self.reader)
        wide = summed_layers(part, self.blueprint)
        if self.blueprint.dequantize:
            part = dequantize_model(part, self.blueprint.dequantize_dtype, wide)
        for wanted in self.blueprint.folds:
            here = tuple(adapter for adapter in wanted.adapters if adapter in window.parts)
            if here:
                placement = self.blueprint.base.placement
                taken = replace(wanted, adapters=here)
                first = wanted is self.blueprint.folds[0]
                here_wide = wide if first else ()
                done = fold(part, taken, placement=placement, parts=window.parts, wide=here_wide)
                part = done.model
                changed |= set(done.claimed).difference(done.unchanged)
        return part


def plan_modules(blueprint: Blueprint, dtype: Dtype, reader: Reader, labels: int | None) -> Modules:
    """Decide what is copied, and what is made together with what.

    Raises InputError for a base that transformers cannot make a model of, MergeError for an adapter with
    tensors that no module takes.
    """
    of = structure(blueprint, dtype, reader, labels)
    claims = [claims_of(adapter, of) for adapter in blueprint.all_adapters]
    units = units_of(of, claims)
    tensors = {key: Tensor(key, out.copied) for key, out in of.outs.items() if out.copied}
    makes: set[str] = set()
    for unit in units:
        plain = plain_tensors(unit, blueprint, of)
        if plain is None:
            makes |= unit.outs
        else:
            tensors |= plain
    found = Modules(blueprint, reader, of, windows(of, units, claims, makes), (), claims)
    for number, window in enumerate(found.windows):
        forms = {key: of.outs[key].form for key in window.outs}
        if window.parts and not window.modules.isdisjoint(of.ends):
            # Only the values tell whether two ends stay tied, and their sizes may be the adapter's.
            others = of.outs.keys() - window.outs
            made = found.realise(window, set())
            forms = {key: form_of(tensor) for key, tensor in made.items() if key not in others}
            found.windows[number] = replace(window, outs=frozenset(forms))
        tensors |= {key: Tensor(key, None, becomes=form) for key, form in forms.items()}
    extra = [Tensor(key, reader.stored[key]) for key in of.extra if reader.stored]
    found.tensors = (*_in_order(tensors.values(), of, reader), *extra)
    return found


def part_of(of: Structure, modules: Collection[str]) -> Any:
    """A model that has only some modules of the whole one, under their own names, still without values."""
    needed = {above for name in modules for above in (*modules_above(name), name)}

    def part(module: Any, path: str) -> Any:
        own = copy.copy(module)
        whole = path in modules
        own._parameters = dict(module._parameters) if whole else {}
        own._buffers = dict(module._buffers) if whole else {}
        own._modules = {}
        for name, child in module._modules.items():
            inner = f"{path}.{name}" if path else name
            if inner in needed:
                own._modules[name] = part(child, inner)
            elif whole and not (child and child.state_dict()):
                own._modules[name] = child
        return own

    model = part(of.blank, "")
    model.config = copy.deepcopy(of.blank.config)
    for end, get in (
        (of.blank.get_input_embeddings(), "get_input_embeddings"),
        (of.blank.get_output_embeddings(), "get_output_embeddings"),
    ):
        name = next((n for n, module in of.blank.named_modules() if module is end), None)
        if name is not None and name not in modules:
            setattr(model, get, lambda end=end: end)
    return model


def fill(part: Any, of: Structure, reader: Reader) -> None:
    """Load a part's tensors, as `from_pretrained` does."""
    names = part.state_dict().keys()
    keys = {key for name in names for key in of.sources.get(name, ())}
    keys |= {beside for key in keys for beside in of.beside.get(key, ())}
    part._load_pretrained_model(part, {key: reader.read(key) for key in keys}, None, of.load)
    for group in of.ties:
        here = [name for name in group if name in names]
        held = [name for name in here if name in of.sources]
        for name in here if held else ():
            set_parameter(part, name, part.get_parameter(held[0]))
    for name in names & of.invented:  # an adapter brings their values
        empty = part.get_parameter(name)
        set_parameter(part, name, torch.nn.Parameter(torch.zeros_like(empty, device="cpu")))
    if of.load.hf_quantizer is not None:
        part.hf_quantizer = of.load.hf_quantizer
        part.hf_quantizer.postprocess_model(part)
    part.eval()


def _carry(config: Any, of: Structure) -> None:
    """Let the whole model's config say what an adapter changed about that of a part."""
    pairs = [
        (c, getattr(c, "get_text_config", lambda c=c: c)())
        for c in (config, of.blank.config, of.end.config)
    ]
    for new, before, end in zip(*pairs, strict=True):
        for option in ("vocab_size", "tie_word_embeddings"):
            if getattr(new, option, None) != getattr(before, option, None):
                setattr(end, option, getattr(new, option))


def _in_order(tensors: Iterable[Tensor], of: Structure, reader: Reader) -> list[Tensor]:
    """Tensors in the order of the base's files, so that runs of bytes are copied at once."""
    place = {key: number for number, key in enumerate(reader.forms)}

    def first(key: str) -> int:
        names = of.outs[key].names if key in of.outs else ()
        keys = (source for name in names for source in of.sources.get(name, ()))
        return min((place[key] for key in keys), default=len(place))

    return sorted(tensors, key=lambda tensor: (first(tensor.key), tensor.key))


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
