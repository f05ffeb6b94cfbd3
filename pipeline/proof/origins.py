"""Is every tensor of a folder what its base and adapters make of it, bit for bit?

What no adapter claims is compared with the base's own bytes. The rest is made again by the streaming
realiser, a few hundred megabytes at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.accounting.choice import choose
from pipeline.accounting.claims import check_claims
from pipeline.accounting.direct import Work
from pipeline.accounting.layout import Stored, Tensor, lay_out
from pipeline.blueprint import Blueprint, SavedDtype
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.base import inspect_base
from pipeline.checkpoint.companions import copy_companions
from pipeline.checkpoint.headers import read_header
from pipeline.proof.configs import check_config, check_generation_config
from pipeline.proof.diff import Difference, compare_tensors
from pipeline.proof.findings import Findings
from pipeline.proof.tensors import find_tensors

if TYPE_CHECKING:
    from pipeline.realise.stream.modules import Modules
    from pipeline.realise.stream.output import Make

AT_A_TIME = 256 << 20
"""Bytes of tensors that are made again and lie on the disk at once."""

Advance = Callable[[float], None]


@dataclass(frozen=True)
class Rebuild:
    """How the tensors of a blueprint are made again."""

    work: Work
    make: Make | None
    """Makes those that come from no file."""
    write_config: Callable[[Path], None]

    def differences(
        self, tensors: Sequence[Tensor], there: Mapping[str, Stored], advance: Advance
    ) -> Iterator[Difference]:
        """Make some tensors again; yields those that have other bits in a folder, which has them all."""
        from pipeline.realise.stream.engine import write_shards

        for shard in lay_out(tensors, AT_A_TIME) if tensors else []:
            with tempfile.TemporaryDirectory(prefix="mergeline-") as scratch:
                write_shards(
                    [shard],
                    Path(scratch),
                    safe=False,
                    advance=lambda count: None,
                    finished=lambda file: None,
                    make=self.make,
                    scratch=True,
                )
                file = Path(scratch) / shard.name
                made = {key: Stored(file, info) for key, info in read_header(file).tensors.items()}
                yield from _differences(made, there, advance)


def rebuild(blueprint: Blueprint, dtype: SavedDtype) -> Rebuild | str:
    """How to make a blueprint's tensors again, saved in `dtype`; or why that goes live only, for a person.

    Raises InputError and MergeError for what cannot be made at all.
    """
    choice = choose(blueprint, dtype, "auto", fetch=True)
    if choice.engine == "live":
        return choice.reason
    if choice.work is None:
        modules = _modules(blueprint, dtype)
        return Rebuild(modules.work, modules.make, modules.write_config)
    from pipeline.realise.stream import write_config

    return Rebuild(choice.work, None, partial(write_config, choice.work))


def check_origins(
    folder: Path, blueprint: Blueprint, dtype: SavedDtype, advance: Advance, found: Findings
) -> None:
    """Hold the folder against the blueprint, whose base and adapters are at hand."""
    with found.refusals():
        _check_companions(folder, blueprint, found)
        _check_claims(blueprint, found)
        again = rebuild(blueprint, dtype)
        if isinstance(again, str):
            found.skipped.append(
                f"the tensors against base and adapters, which only a whole rebuild can tell "
                f"({again}): `mergeline replay` does that"
            )
            return
        check_config(folder, again.write_config, found)
        _check_tensors(again, find_tensors(str(folder)), advance, found)


def _check_claims(blueprint: Blueprint, found: Findings) -> None:
    """Every tensor of an adapter belongs to a module of the base. Raises InputError."""
    base = inspect_base(blueprint.base)
    for adapter in blueprint.all_adapters:
        claims = check_claims(inspect_adapter(adapter), base)
        what = f"{claims.tensors} tensors of {adapter.path}, each with its module of the base"
        found.checked.append(what + (f", {len(claims.later)} at load" if claims.later else ""))


def _check_tensors(
    again: Rebuild, there: Mapping[str, Stored], advance: Advance, found: Findings
) -> None:
    tensors = {tensor.key: tensor for tensor in again.work.tensors}
    for key in sorted(tensors.keys() - there.keys()):
        found.fault(key, f"is missing: {_source(tensors[key])} has it")
    for key in sorted(there.keys() - tensors.keys()):
        found.fault(f"{there[key].file.name}: {key}", "comes from neither the base nor an adapter")
    both = [tensor for key, tensor in tensors.items() if key in there]
    copied = [tensor for tensor in both if tensor.copied]
    made = [tensor for tensor in both if not tensor.copied]
    for difference in _against_base(copied, there, advance):
        found.fault(*_told(difference, there, "the base's, and no adapter claims it"))
    for difference in again.differences(made, there, advance):
        found.fault(*_told(difference, there, "what base and adapters make"))
    found.checked.append(
        f"{len(copied)} tensors against the base's own bytes, "
        f"{len(made)} against what base and adapters make"
    )


def _modules(blueprint: Blueprint, dtype: SavedDtype) -> Modules:
    """What transformers and PEFT make a few modules at a time."""
    from pipeline.realise.live import labels_of
    from pipeline.realise.stream.modules import plan_modules
    from pipeline.realise.stream.reading import Reader

    base = inspect_base(blueprint.base)
    wanted = base.dtype if dtype == "keep" else dtype
    return plan_modules(blueprint, wanted, Reader(base), labels_of(blueprint))


def _against_base(
    tensors: Iterable[Tensor], there: Mapping[str, Stored], advance: Advance
) -> Iterator[Difference]:
    base = {tensor.key: tensor.base for tensor in tensors if tensor.base is not None}
    return _differences(base, there, advance)


def _differences(
    right: Mapping[str, Stored], there: Mapping[str, Stored], advance: Advance
) -> Iterator[Difference]:
    same = {key: there[key] for key in right}
    return (one for one in compare_tensors(right, same, advance) if one.status != "equal")


def _told(one: Difference, there: Mapping[str, Stored], what: str) -> tuple[str, str]:
    where = f"{there[one.key].file.name}: {one.key}"
    if one.status in ("dtype", "shape") and one.a and one.b:
        return where, f"is {one.b.dtype} {list(one.b.shape)}, not {one.a.dtype} {list(one.a.shape)}"
    if one.change is None:
        return where, f"is not {what}"
    share, relative = one.change.share, one.change.relative
    return where, f"is not {what}: {share:.2%} of its numbers differ, by {relative:.2g} of its norm"


def _source(tensor: Tensor) -> str:
    return "the base" if tensor.copied else "the merge of base and adapters"


def _check_companions(folder: Path, blueprint: Blueprint, found: Findings) -> None:
    """Tokenizer, templates, processors: byte for byte those of the adapters or the base."""
    with tempfile.TemporaryDirectory(prefix="mergeline-") as scratch:
        names = copy_companions(blueprint, Path(scratch))
        for name in names:
            if not (folder / name).is_file():
                found.fault(name, "is missing: the base or an adapter has it")
            elif (folder / name).read_bytes() != (Path(scratch) / name).read_bytes():
                found.fault(name, "is not the one of the base or the adapter")
    check_generation_config(folder, inspect_base(blueprint.base).source, found)
    found.checked.append(f"{len(names)} files of tokenizer and others against base and adapters")
