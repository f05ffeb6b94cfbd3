"""The files of one output as tasks of a Ray cluster; docs/decisions/017 has the reasons.

Each attempt at a file has a folder of its own, and only the run itself moves what is complete to its name: a
machine that was lost, and writes on unseen, cannot hurt.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Mapping
from contextlib import chdir
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import estimate
from pipeline.accounting.layout import Shard
from pipeline.blueprint import Blueprint, Dtype
from pipeline.checkpoint.identity import Identity, identity
from pipeline.checkpoint.journal import Finished
from pipeline.cluster import AUTO, connected, has_room
from pipeline.errors import InputError, MergelineError, OutputError, RunError
from pipeline.manifest import machine, versions
from pipeline.realise.stream.engine import write_shards
from pipeline.realise.stream.output import Make, Output

if TYPE_CHECKING:
    from pipeline.realise.stream.modules import Modules

_ATTEMPTS = ".attempts"
_RETRIES = 3
"""For a file whose worker, or whose worker's machine, is lost."""


@dataclass(frozen=True)
class Order:
    """What all files of an output have in common, as it travels to another machine."""

    id: str
    """Equal orders have equal ones."""
    attempts: Path = field(compare=False)
    """Absolute."""
    cwd: Path = field(compare=False)
    """Where relative paths start from."""
    safe: bool = field(compare=False)
    by: tuple[Blueprint, Dtype] | None = field(compare=False)
    """Of the model whose tensors are made, where some are."""
    inputs: Mapping[Path, Identity] = field(compare=False)
    versions: Mapping[str, str] = field(compare=False)
    processor: str = field(compare=False)


def write_over_ray(
    output: Output,
    by: Modules | None,
    inputs: Mapping[Path, Identity],
    advance: Callable[[float], None],
) -> None:
    """Write the files of an output on the machines of a cluster, which share the folder and the inputs.

    What comes out, and what is raised, is that of `write_outputs`. RunError when the cluster cannot do it.
    """
    attempts = output.folder.absolute() / _ATTEMPTS
    attempts.mkdir()
    order = Order(
        uuid.uuid4().hex,
        attempts,
        Path.cwd(),
        output.safe,
        (by.blueprint, by.of.dtype) if by else None,
        inputs,
        versions(),
        machine()["processor"],
    )
    with connected(AUTO, where="workers=ray", fix="start one with `ray start`, or set RAY_ADDRESS"):
        _write_all(output, order, _memory(output, by), advance)
    shutil.rmtree(attempts)


def _memory(output: Output, by: Modules | None) -> int:
    """That one task needs: a core makes one file at a time."""
    if by is not None:
        return estimate.modular_bytes(by.blueprint)
    tensors = (tensor for shard in output.shards for tensor, _ in shard.tensors)
    return estimate.stream_bytes(tensors, threads=1)


def _write_all(output: Output, order: Order, memory: int, advance: Callable[[float], None]) -> None:
    import ray
    from ray.exceptions import RayError, RayTaskError

    if not has_room({"CPU": 1, "memory": memory}):
        raise RunError(
            f"no machine of the cluster has a CPU and {memory / 1e9:.1f} GB for a task",
            where="workers=ray",
            fix="add a machine with `ray start`, or leave `workers` out",
        )
    task = ray.remote(write_one).options(num_cpus=1, memory=memory, max_retries=_RETRIES)
    common = ray.put(order)
    waiting: dict[Any, Shard] = {task.remote(common, shard): shard for shard in output.shards}
    while waiting:
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        shard = waiting.pop(ready)
        try:
            found = ray.get(ready)
        except RayTaskError:
            raise
        except RayError as error:
            raise RunError(
                f"its worker was lost {_RETRIES + 1} times: {str(error).splitlines()[0]}",
                where=shard.name,
                fix="look whether the machines have the memory; the same command goes on",
            ) from error
        if isinstance(found, Exception):
            raise found
        path, finished = found
        path.replace(output.folder / shard.name)
        output.finished(finished)
        advance(sum(tensor.bytes for tensor, _ in shard.tensors))


def write_one(order: Order, shard: Shard) -> tuple[Path, Finished] | MergelineError | OSError:
    """In a worker: where the complete file lies, or what is wrong. On one thread, for one CPU."""
    try:
        _check_machine(order)
        with chdir(order.cwd):
            _check_inputs(order.inputs)
            folder = Path(tempfile.mkdtemp(prefix=f"{shard.name}-", dir=order.attempts))
            finished: list[Finished] = []
            write_shards(
                [shard],
                folder,
                safe=order.safe,
                advance=lambda count: None,
                finished=finished.append,
                make=_make(order),
                threads=1,
            )
    except (MergelineError, OSError) as error:
        # Returned, because Ray puts what is raised into an exception of its own.
        return error
    return folder / shard.name, finished[0]


def _check_machine(order: Order) -> None:
    """Raise unless this machine sees the folders, and would make the same bytes as the run's own."""
    here = socket.gethostname()
    for folder in (order.attempts, order.cwd):
        if not folder.is_dir():
            fix = "run in, and write to, a file system that all machines have under the same path"
            raise OutputError(f"is not there on {here}", where=folder, fix=fix)
    other = [
        f"{name} {order.versions.get(name, 'none')} and {versions().get(name, 'none')}"
        for name in sorted(order.versions.keys() | versions().keys())
        if order.versions.get(name) != versions().get(name)
    ]
    if other:
        what = f"the run and {here} have other versions: {', '.join(other)}"
        raise RunError(what, where="workers=ray", fix="install the same on all machines")
    if order.by and machine()["processor"] != order.processor:
        what = f"the run has the processor {order.processor}, {here} has {machine()['processor']}"
        fix = "what torch and PEFT make depends on it: use machines of one kind"
        raise RunError(what, where="workers=ray", fix=fix)


def _check_inputs(inputs: Mapping[Path, Identity]) -> None:
    """Raise InputError for a file that another machine sees under the same path, but is another."""
    for file, there in inputs.items():
        here = identity(file) if file.is_file() else None
        if here is None or (here.bytes, here.modified_ns) != (there.bytes, there.modified_ns):
            raise InputError(
                f"is not the same file on {socket.gethostname()}",
                where=file,
                fix="keep inputs in a file system that all machines have under the same path",
            )


@lru_cache(maxsize=1)
def _make(order: Order) -> Make | None:
    """What makes tensors in this worker, for all files that it writes of one output."""
    if order.by is None:
        return None
    from pipeline.checkpoint.base import inspect_base
    from pipeline.realise.live import labels_of
    from pipeline.realise.stream.modules import plan_modules
    from pipeline.realise.stream.reading import Reader

    blueprint, dtype = order.by
    reader = Reader(inspect_base(blueprint.base))
    return plan_modules(blueprint, dtype, reader, labels_of(blueprint)).make
