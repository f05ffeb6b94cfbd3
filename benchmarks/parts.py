"""Where the time of a streamed merge goes: its parts one by one, and the kernels on one core.

python benchmarks/parts.py [--size 0.5B] [--folder DIR]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import bitsandbytes.functional as bnb
import numpy as np
import torch
from inputs import adapter_of, base_of
from rich.console import Console
from rich.table import Table

from pipeline.accounting.direct import direct_work
from pipeline.accounting.layout import Shard, lay_out
from pipeline.blueprint import Adapter, Base, Blueprint, Fold
from pipeline.checkpoint.hashes import hash_files
from pipeline.realise.stream import writing
from pipeline.realise.stream.engine import write_shards
from pipeline.realise.stream.kernels import fold_rows, padded
from pipeline.realise.stream.nf4 import through_4bit

ROWS, COLUMNS = 168, 3072
"""One block of a real layer: one megabyte of bfloat16."""


def seconds(work: Callable[[], object], least: float = 0.5) -> float:
    """Of one call, the mean over at least that long, after one call that is not counted."""
    work()
    count, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < least:
        work()
        count += 1
    return passed / count


def kernels() -> Table:
    """Rates of one core, on a block that stays in its cache."""
    torch.set_num_threads(1)
    table = Table("on one core, bf16", "GB/s")
    noise = np.random.default_rng(0)
    weight = torch.randn(ROWS, COLUMNS).bfloat16()
    block = memoryview(bytearray(weight.view(torch.int16).numpy().tobytes()))
    for rank in (8, 16, 64, 128):
        a, b = (noise.standard_normal(s, np.float32) for s in ((rank, COLUMNS), (ROWS, rank)))
        delta = padded(a, b, 1e-9)
        took = seconds(lambda delta=delta: fold_rows(block, "BF16", COLUMNS, delta, 0))
        table.add_row(f"fold, rank {rank}", f"{len(block) / took / 1e9:.2f}")
    took = seconds(lambda: through_4bit(block, "BF16", "nf4", None))
    table.add_row("through nf4 and back", f"{len(block) / took / 1e9:.2f}")

    def there_and_back() -> None:
        bnb.dequantize_4bit(*bnb.quantize_4bit(weight, quant_type="nf4"))

    took = seconds(there_and_back)
    table.add_row("the same, bitsandbytes", f"{len(block) / took / 1e9:.2f}")
    took = seconds(lambda: bytes(block))
    table.add_row("copy", f"{len(block) / took / 1e9:.2f}")
    return table


def merge(shards: Sequence[Shard], output: Path) -> None:
    """As a run does it."""
    write_shards(shards, output, safe=True, advance=lambda _: None, finished=lambda _: None)


def parts(size: str, folder: Path) -> Table:
    """A streamed merge, step by step; the second of two rounds counts."""
    base, adapter = base_of(size, folder), adapter_of(size, folder)
    blueprint = Blueprint(Base(str(base)), folds=(Fold((Adapter(str(adapter)),)),))
    output = folder / "parts"
    times: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        started = time.perf_counter()
        work()
        times[name] = time.perf_counter() - started

    command = [str(Path(sys.executable).with_name("mergeline")), "plan", "recast"]
    for _ in range(2):
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        work = direct_work(blueprint, "keep")
        shards = lay_out(work.tensors, 5_000_000_000)
        start = [*command, f"params.base={base}"]
        timed(
            "start and plan",
            lambda start=start: subprocess.run(start, capture_output=True, check=True),
        )
        (output / "nowhere").mkdir()
        with patch.object(writing, "write_all", lambda *_: None):
            timed("read, fold, hash; nothing written", partial(merge, shards, output / "nowhere"))
        shutil.rmtree(output / "nowhere")
        timed("read, fold, hash and write, until on disk", partial(merge, shards, output))
        timed("hash of the base", lambda: hash_files(list(base.iterdir())))
    shutil.rmtree(output)
    table = Table(f"{size}, rank-16 LoRA everywhere", "seconds")
    for name, took in times.items():
        table.add_row(name, f"{took:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="time the parts of a streamed merge")
    parser.add_argument("--size", default="0.5B")
    default = Path(__file__).parents[1] / "outputs" / "bench"
    parser.add_argument("--folder", type=Path, default=default)
    asked = parser.parse_args()
    Console().print(parts(asked.size, asked.folder.absolute()))
    Console().print(kernels())


if __name__ == "__main__":
    main()
