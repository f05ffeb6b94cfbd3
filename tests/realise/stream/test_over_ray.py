"""One merge over the machines of a Ray cluster: what one machine alone writes, also when one is lost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from pipeline import plan
from pipeline.accounting.direct import direct_work
from pipeline.accounting.layout import Shard, lay_out
from pipeline.ahead import saves_ahead
from pipeline.blueprint import Base, Blueprint
from pipeline.checkpoint.identity import identity
from pipeline.errors import InputError, MergeError, OutputError, RunError
from pipeline.manifest import machine, read_manifest, versions
from pipeline.realise.stream.over_ray import Order, write_one
from pipeline.realise.stream.resuming import identities
from pipeline.receipt.record import FILE_NAME as RECEIPT
from pipeline.recipe import load
from tests.fixtures.models import build_adapter, build_base
from tests.fixtures.ray_cluster import ROOT, lose_machine_of, two_machines
from tests.fixtures.session import Session, save_merged

RECIPE = """
steps:
  - load_base: {model: ./base}
  - attach_adapter: {path: ./adapter}
  - merge
  - save: {path: "${run.dir}/merged", max_shard_size: 40KB}
"""


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which workers wait for a file `go` before they write."""
    folder = tmp_path / "held"
    folder.mkdir()
    monkeypatch.setenv("HOLD", str(folder))
    return folder


@pytest.fixture
def cluster(held: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with two_machines(monkeypatch, Path(__file__).parent / "held") as cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster


def write_recipe(folder: Path, **lora: Any) -> None:
    base = build_base(folder / "base")
    config = LoraConfig(r=2, target_modules="all-linear", **lora)
    build_adapter(folder / "adapter", base, config)
    (folder / "r.yaml").write_text(RECIPE)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", "r.yaml", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    return out + told


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the receipt, which has the time in it."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != RECEIPT}


def waiting(held: Path, count: int) -> list[psutil.Process]:
    """The workers that are about to write, once they are so many."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if len(found := list(held.iterdir())) == count:
            return [psutil.Process(int(mark.name)) for mark in found]
        time.sleep(0.02)
    raise TimeoutError(f"{found} wait to write")


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{}, {"use_dora": True}], ids=["kernels", "made by PEFT"])
def test_the_files_of_a_lost_machine_are_written_by_another(
    cluster: Any, held: Path, tmp_path: Path, lora: dict[str, Any]
) -> None:
    write_recipe(tmp_path, **lora)
    alone = save_merged(tmp_path / "alone", tmp_path / "base", tmp_path / "adapter")
    run = start(tmp_path, "hydra.run.dir=shared", "workers=ray")
    both = waiting(held, 2)
    half_written = list((tmp_path / "shared").glob(".merged.partial-*/.attempts/*/*.safetensors"))

    lose_machine_of(cluster, both[0])
    (held / "go").touch()
    finish(run)

    whole = contents(tmp_path / "alone" / "merged")
    assert len(half_written) == 2
    assert len(whole) > 8
    assert contents(tmp_path / "shared" / "merged") == whole
    manifest = read_manifest(tmp_path / "shared")
    assert manifest.steps[-1].metrics == alone.run.record.metrics
    assert not list((tmp_path / "shared").glob(".*partial*"))


def test_each_of_several_models_goes_to_the_machines_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass over their base would be the work of one machine."""
    monkeypatch.setattr(plan, "find_spec", lambda name: True)
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path)
    text = RECIPE.replace("./adapter", "./adapter, for_each: [{weight: 0.5}, {weight: 1.0}]")
    (tmp_path / "r.yaml").write_text(text.replace("/merged", "/${branch.name}"))
    alone, shared = (plan.make_plan(load("./r.yaml", words)) for words in ([], ["workers=ray"]))

    assert len(alone.passes) == 1
    assert len(list(saves_ahead(alone))) == 2
    assert shared.passes == ()
    assert list(saves_ahead(shared)) == []


Ordered = tuple[Order, Shard]


@pytest.fixture
def ordered(tmp_path: Path) -> Ordered:
    """One file of a merge, as a worker is asked for it."""
    write_recipe(tmp_path)
    session = Session(tmp_path / "run")
    session.do("load_base", model=str(tmp_path / "base"))
    session.do("attach_adapter", path=str(tmp_path / "adapter"))
    session.do("merge")
    work = direct_work(session.run.blueprint, "keep", fetch=True)
    inputs = identities(session.run, work)
    (tmp_path / "attempts").mkdir()
    order = Order(
        "1", tmp_path / "attempts", tmp_path, True, None, inputs, versions(), machine()["processor"]
    )
    return order, lay_out(work.tensors, 10**9)[0]


def refused(order: Order, shard: Shard) -> Exception:
    """What a worker finds wrong, before it writes anything."""
    found = write_one(order, shard)
    assert isinstance(found, Exception)
    assert not order.attempts.is_dir() or not list(order.attempts.iterdir())
    return found


def test_every_attempt_at_a_file_has_a_place_of_its_own(ordered: Ordered) -> None:
    one, two = write_one(*ordered), write_one(*ordered)

    assert isinstance(one, tuple)
    assert isinstance(two, tuple)
    assert one[0] != two[0]
    assert one[1] == two[1]
    assert one[0].read_bytes() == two[0].read_bytes()


def test_a_worker_with_another_version_of_a_library_refuses(ordered: Ordered) -> None:
    order, shard = ordered
    found = refused(replace(order, versions={**versions(), "torch": "1.0"}), shard)
    assert isinstance(found, RunError)
    assert f"torch 1.0 and {versions()['torch']}" in found.what


def test_a_worker_with_another_processor_refuses_what_peft_is_to_make(ordered: Ordered) -> None:
    order, shard = replace(ordered[0], processor="another"), ordered[1]
    assert isinstance(write_one(order, shard), tuple), "kernels have the same bits on all"
    found = write_one(replace(order, by=(Blueprint(Base("base")), "float32")), shard)
    assert isinstance(found, RunError)
    assert "the processor another" in found.what


def test_a_worker_that_sees_other_inputs_refuses(ordered: Ordered) -> None:
    order, shard = ordered
    changed = next(file for file in order.inputs if file.name == "model.safetensors")
    os.utime(changed, ns=(0, 0))
    found = refused(order, shard)
    assert isinstance(found, InputError)
    assert found.where == str(changed)
    assert f"not the same file on {socket.gethostname()}" in found.what
    changed.unlink()
    assert isinstance(refused(order, shard), InputError)


def test_a_worker_that_does_not_see_the_output_refuses(ordered: Ordered) -> None:
    order, shard = ordered
    found = refused(replace(order, attempts=order.cwd / "elsewhere"), shard)
    assert isinstance(found, OutputError)
    assert "all machines" in str(found.fix)


def test_what_is_wrong_with_a_merge_comes_back(ordered: Ordered, tmp_path: Path) -> None:
    order, shard = ordered
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    wrong = {key: torch.full_like(tensor, torch.nan) for key, tensor in load_file(weights).items()}
    save_file(wrong, weights, metadata={"format": "pt"})
    inputs = {file: identity(file) for file in order.inputs}
    found = write_one(replace(order, inputs=inputs), shard)
    assert isinstance(found, MergeError)
