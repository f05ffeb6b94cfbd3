"""Which modules are in memory together when a stream has torch and PEFT make tensors.

A unit is what cannot be made apart: a module that an adapter claims with all below it, tensors that one
tensor of the output is made of, and places that share a parameter. A window is as many units as a budget of
bytes allows, one at least.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from pipeline.accounting.claims import BESIDE_LAYERS, PREFIX
from pipeline.accounting.modular import BUDGET
from pipeline.accounting.targets import check_targets
from pipeline.blueprint import Adapter
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.realise.attach import tensor_names, unclaimed
from pipeline.realise.stream.structure import Structure, modules_above

_SIZED_BY_THE_LARGEST = frozenset({"VERA", "PVERA", "RANDLORA"})
"""Types whose matrices, shared by all layers, have the size of the largest layer that is targeted."""


@dataclass(frozen=True)
class Claims:
    """Which module takes each tensor of an adapter."""

    adapter: Adapter
    modules: Mapping[str, str]
    """By the tensor's name in the file."""
    shared: frozenset[str]
    """Tensors that belong to all of the adapter's layers."""
    targets: frozenset[str]
    """Modules that PEFT puts a layer of the adapter's type on; others are replaced, or get a new bias."""


@dataclass(frozen=True)
class Window:
    """Modules that are in memory together, and what they make."""

    modules: frozenset[str]
    """With all below them."""
    outs: frozenset[str]
    """Keys of the output."""
    parts: Mapping[Adapter, frozenset[str]]
    """Names of the tensors that these modules take of each adapter."""
    bytes: int


def claims_of(adapter: Adapter, of: Structure) -> Claims:
    """Find the module of each of an adapter's tensors by its name.

    Raises MergeError, naming the nearest modules, for tensors that belong to none or to a module that the
    adapter's config does not target, and for modules that it targets and its file has nothing for.
    """
    modules: dict[str, str] = {}
    shared, targets, lost = set(), set(), []
    for name in sorted(tensor_names(adapter)):
        if not name.startswith(PREFIX):
            shared.add(name)
            continue
        short = name.removeprefix(PREFIX)
        module = _longest(short, of.modules) or _longest(of.renamed(short), of.modules)
        if not module:
            lost.append(name)
            continue
        modules[name] = module
        if short not in of.names and not BESIDE_LAYERS.search(short):
            targets.add(module)
    if lost:
        raise unclaimed(adapter, lost, sorted(of.modules))
    weighed = {name.rpartition(".")[0] for name in of.names if name.endswith(".weight")}
    own = {name: module for name, module in modules.items() if module in targets}
    check_targets(inspect_adapter(adapter), own, weighed)
    return Claims(adapter, modules, frozenset(shared), frozenset(targets))


def windows(
    of: Structure, units: Sequence[Window], claims: Sequence[Claims], makes: AbstractSet[str]
) -> list[Window]:
    """Windows that together make those units whose tensors are in `makes`."""
    todo = [unit for unit in units if not makes.isdisjoint(unit.outs)]
    # PEFT attaches no adapter to a model without any of its targets.
    lone = [unit for unit in todo if any(_lacks_target(unit, claim) for claim in claims)]
    firsts = (_targeted(units, claim)[:1] for claim in claims if lone)
    extra = [unit for first in firsts for unit in first if unit not in lone]
    found = [_joined([*lone, *map(_witness, extra)])] if lone else []
    for unit in (unit for unit in todo if unit not in lone):
        last = found[-1] if len(found) > bool(lone) else None
        fits = last and last.bytes + unit.bytes <= BUDGET and bool(last.parts) == bool(unit.parts)
        if last and fits:
            found[-1] = _joined([last, unit])
        else:
            found.append(unit)
    return [_witnessed(window, units, claims, of) for window in found]


def _longest(name: str, modules: frozenset[str]) -> str:
    """The longest beginning of a dotted name that names a module, or nothing."""
    return next((module for module in reversed(modules_above(name)) if module in modules), "")


def _lacks_target(unit: Window, claim: Claims) -> bool:
    return claim.adapter in unit.parts and claim.targets.isdisjoint(unit.modules)


def _targeted(units: Sequence[Window], claim: Claims) -> list[Window]:
    return [unit for unit in units if not claim.targets.isdisjoint(unit.modules)]


def _joined(windows: Sequence[Window]) -> Window:
    parts: defaultdict[Adapter, frozenset[str]] = defaultdict(frozenset)
    for window in windows:
        for adapter, names in window.parts.items():
            parts[adapter] |= names
    return Window(
        frozenset().union(*(window.modules for window in windows)),
        frozenset().union(*(window.outs for window in windows)),
        dict(parts),
        sum(window.bytes for window in windows),
    )


def units_of(of: Structure, claims: Sequence[Claims]) -> list[Window]:
    """What is not a copy of the base's, in the order of the model: each unit a window of its own."""
    group = _Groups()
    claimed = {module for claim in claims for module in claim.modules.values()}
    for name in of.names:
        for module in modules_above(name):
            if module in claimed:
                group.join(module, name)
    together = [*of.ties, *(out.names for out in of.outs.values())]
    if any(_resizes(claim, of) for claim in claims):
        together.append([name for name in of.names if name.rpartition(".")[0] in of.ends])
    for names in together:
        for name in names:
            group.join(next(iter(names)), name)
    outs: defaultdict[str, set[str]] = defaultdict(set)
    for key, out in of.outs.items():
        outs[group.of(next(iter(out.names)))].add(key)
    takers: defaultdict[str, set[str]] = defaultdict(set)
    for module in claimed:
        takers[group.of(module)].add(module)
    owners: defaultdict[str, set[str]] = defaultdict(set)
    for name in of.names:
        owners[group.of(name)].add(name.rpartition(".")[0])
    made = [
        root
        for root in owners
        if root in takers or any(of.outs[key].copied is None for key in outs[root])
    ]
    return [
        Window(
            frozenset(owners[root] | takers[root]),
            frozenset(outs[root]),
            _parts(takers[root], claims),
            sum(of.outs[key].bytes for key in outs[root]),
        )
        for root in made
    ]


def _resizes(claim: Claims, of: Structure) -> bool:
    """Whether the adapter brings an embedding of another vocabulary than the base's."""
    return any(
        module in of.ends
        and f"{module}.weight" in of.names
        and name.endswith(f"{module}.weight")
        and info.shape != of.end.get_parameter(f"{module}.weight").shape
        for name, info in inspect_adapter(claim.adapter).tensors.items()
        if (module := claim.modules.get(name))
    )


def _parts(modules: set[str], claims: Sequence[Claims]) -> dict[Adapter, frozenset[str]]:
    found = {}
    for claim in claims:
        names = {name for name, module in claim.modules.items() if module in modules}
        if names:
            found[claim.adapter] = frozenset(names) | claim.shared
    return found


def _witnessed(
    window: Window, units: Sequence[Window], claims: Sequence[Claims], of: Structure
) -> Window:
    """The window, with the adapters' largest layers beside it where PEFT takes sizes from those."""
    for claim in claims:
        kind = inspect_adapter(claim.adapter).peft_type
        if claim.adapter not in window.parts or kind not in _SIZED_BY_THE_LARGEST:
            continue
        for side in (0, 1):
            largest = max(
                claim.targets, key=lambda m: of.end.get_parameter(f"{m}.weight").shape[side]
            )
            unit = next(unit for unit in units if largest in unit.modules)
            window = _joined([window, _witness(unit)])
    return window


def _witness(unit: Window) -> Window:
    """To have beside others, not to make."""
    return replace(unit, outs=frozenset(), bytes=0)


class _Groups:
    """Names that must stay together."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The one name that stands for all of a group."""
        while (above := self._above.get(name, name)) != name:
            self._above[name] = self._above.get(above, above)
            name = above
        return name

    def join(self, one: str, other: str) -> None:
        self._above[self.of(other)] = self.of(one)
