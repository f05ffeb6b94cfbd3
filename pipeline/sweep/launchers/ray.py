"""Ray: jobs are tasks of a cluster, or of this machine, packed by what they need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.cluster import LOCAL, connected, has_room
from pipeline.errors import RunError
from pipeline.report.units import size
from pipeline.sweep.launchers import Handle, Options, Start
from pipeline.sweep.ledger import JobLine
from pipeline.sweep.resources import Resources, local_gpus
from pipeline.sweep.task import Task, run_in_worker

_RETRIES = 1
"""For a job whose worker, or whose worker's machine, is lost."""


class RayOptions(Options):
    """Which cluster."""

    address: str = LOCAL
    """`local` starts one on this machine for the sweep; `auto`, or `HOST:PORT`, uses one that is there."""


OPTIONS = RayOptions


class _Handle:
    """Ray's task, as `Handle` wants it."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def done(self) -> bool:
        import ray

        return bool(ray.wait([self._reference], timeout=0)[0])

    def result(self) -> JobLine | None:
        import ray

        line: JobLine | None = ray.get(self._reference)
        return line

    def cancel(self) -> None:
        import ray

        ray.cancel(self._reference)


@contextmanager
def opened(options: RayOptions, folder: Path, workers: int) -> Iterator[Start]:
    """Connect to a cluster, or start one that only this machine can reach and that ends with the sweep."""
    where = f"launcher.address={options.address}"
    fix = "start one with `ray start --head`, or leave launcher.address out"
    with connected(options.address, where=where, fix=fix):
        import ray

        remote = ray.remote(run_in_worker)

        def start(task: Task) -> Handle:
            needs = task.resources
            _check(needs)
            return _Handle(
                remote.options(
                    name=task.folder,
                    num_cpus=needs.cpus,
                    num_gpus=needs.gpus,
                    memory=needs.memory,
                    max_retries=_RETRIES,
                ).remote(task)
            )

        yield start


def gpus_there(options: RayOptions) -> bool:
    """Of a cluster that is elsewhere nothing is asked before the sweep begins."""
    return options.address == LOCAL and bool(local_gpus())


def _check(needs: Resources) -> None:
    if not has_room({"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory}):
        what = f"no machine of the cluster has {needs.cpus} CPUs, {needs.gpus} GPUs and {size(needs.memory)}"
        raise RunError(what, fix="say what a job needs: resources.cpus=N resources.memory=16GB")
