"""Time whole merges against PEFT, against copying the files, and against the floor. `make bench` runs this.

    python benchmarks/merge.py [--sizes 0.5B 3.2B 8B] [--adapters all qv] [--bases bf16 nf4 saved-nf4]
                               [--files 1 8 64] [--rounds 3] [--no-peft] [--folder DIR] [--json FILE]

Every command is a process of its own, start and imports included. The commands take turns, because one
machine is not equally fast all day: only the ratios within a run mean anything. Each begins when what the one
before wrote is on disk, and outputs are removed after each. The inputs are read once before the first round,
so that they come from memory where they fit in it.

The floor is what nobody can go below whose output is to outlive a power cut: the time of copying all bytes in
parallel until they are on disk, or that of the products' multiplications on all cores, whichever is more.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from shapes import RANK, SHAPES, merged_elements, tensors

HERE = Path(__file__).parent
RECIPE = """\
steps:
  - load_base: {{model: "{base}", quantization: {quantization}}}
  - attach_adapter: {{path: "{adapter}"}}
{dequantize}  - merge
  - save: {{path: "{output}"}}
"""
COPY, SYNCED = "parallel cp", "parallel cp, and sync"


@dataclass(frozen=True)
class Case:
    """One merge that is timed."""

    size: str
    adapter: str
    """`all` linear layers, or `qv`."""
    base: str
    """`bf16`; `nf4`, which takes it through 4 bits; `saved-nf4`."""
    files: int | None
    """Of the base's weights; None for as many as are usual."""

    def __str__(self) -> str:
        where = {"all": "all linear layers", "qv": "q and v"}[self.adapter]
        how = {"bf16": "bf16", "nf4": "bf16 through NF4", "saved-nf4": "saved in NF4"}[self.base]
        files = f", in {self.files} files" if self.files else ""
        return f"{self.size}, {how}{files}, rank-{RANK} LoRA on {where}"


@dataclass
class Timed:
    """What the runs of one command took."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def commands(
    case: Case, base: Path, adapter: Path, output: Path, scratch: Path
) -> Mapping[str, Sequence[str]]:
    """Each does one thing from the same inputs and leaves it in `output`."""
    recipe = scratch / "bench.yaml"
    recipe.write_text(
        RECIPE.format(
            base=base,
            adapter=adapter,
            output=output,
            quantization="nf4" if case.base == "nf4" else "none",
            dequantize="" if case.base == "bf16" else "  - dequantize\n",
        )
    )
    mergeline = Path(sys.executable).with_name("mergeline")
    copy_all = f"mkdir {output} && ls {base}/* | xargs -P{os.cpu_count()} -I{{}} cp {{}} {output}/"
    sync = f"sync {output}/*"
    run = [str(mergeline), "run", str(recipe), "--quiet", f"hydra.run.dir={scratch}/run"]
    peer = map(str, (HERE / "peft_merge.py", base, adapter, output, case.base))
    found = {
        "cp -r": ["cp", "-r", str(base), str(output)],
        "cp -r, and sync": ["sh", "-c", f"cp -r {base} {output} && {sync}"],
        COPY: ["sh", "-c", copy_all],
        SYNCED: ["sh", "-c", f"{copy_all} && {sync}"],
        "mergeline, stream": [*run, "engine=stream"],
        "PEFT": [sys.executable, *peer],
    }
    if case.base == "nf4":
        found["mergeline, live"] = [*run, "engine=live"]
    return found


def measure(command: Sequence[str], log: Path) -> tuple[float, int]:
    """Wall seconds from start to exit, and the peak resident bytes of its largest process."""
    with open(log, "ab") as sink:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed; see {log}:\n{log.read_text()[-2000:]}")
    return seconds, usage.ru_maxrss * 1024


def read_once(files: Iterable[Path]) -> None:
    """So that they come from memory, where they fit in it."""
    for file in files:
        with open(file, "rb", buffering=0) as opened:
            while opened.read(1 << 24):
                pass


def inputs(case: Case, folder: Path) -> tuple[Path, Path]:
    """Base and adapter. Made by another process: a child's peak counts what its parent held."""
    command = [sys.executable, str(HERE / "inputs.py"), case.size, str(folder)]
    command += ["--adapter", case.adapter]
    command += ["--files", str(case.files)] if case.files else []
    command += ["--saved-nf4"] if case.base == "saved-nf4" else []
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return Path(made[0]), Path(made[1])


def bench(
    case: Case, base: Path, adapter: Path, folder: Path, rounds: int, peft: bool
) -> dict[str, Timed]:
    """Time all commands of one case, in turns."""
    read_once([*base.iterdir(), *adapter.iterdir()])
    found: dict[str, Timed] = {}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        output = scratch / "output"
        todo = commands(case, base, adapter, output, scratch)
        for _ in range(rounds):
            for label, command in todo.items():
                if label == "PEFT" and not peft:
                    continue
                os.sync()
                seconds, peak = measure(command, scratch / "log")
                shutil.rmtree(output)
                timed = found.setdefault(label, Timed())
                timed.seconds.append(seconds)
                timed.peak_bytes.append(peak)
    return found


def flops_per_second() -> float:
    """Of float32 products that stay in the caches, on all cores."""
    square = np.ones((1024, 1024), np.float32)
    count, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < 0.5:
        square @ square
        count += 1
    return count * 2 * 1024**3 / passed


def floor(case: Case, found: Mapping[str, Timed], read: int, rate: float) -> float:
    """Seconds that the bytes or the multiplications of a merge take at least.

    A copy reads as much as it writes; the merge of a base that is saved in 4 bits writes more than it reads.
    """
    shape = SHAPES[case.size]
    computed = 2 * RANK * merged_elements(shape, case.adapter) / rate
    written = sum(2 * math.prod(size) for _, size in tensors(shape))
    return max(computed, found[SYNCED].median * (read + written) / (2 * read))


def show(case: Case, found: Mapping[str, Timed], least: float) -> None:
    table = Table("command", "median s", "x floor", "x cp -r", "peak MB", title=str(case))
    copied = found["cp -r"].median
    for label, timed in found.items():
        peak = max(timed.peak_bytes) / 1e6
        ratios = (f"{timed.median / one:.2f}" for one in (least, copied))
        table.add_row(label, f"{timed.median:.2f}", *ratios, f"{peak:.0f}")
    table.caption = f"floor {least:.2f} s"
    Console().print(table)


def cases(asked: argparse.Namespace) -> Iterator[Case]:
    for one in itertools.product(asked.sizes, asked.adapters, asked.bases, asked.files):
        case = Case(*one)
        if not (case.files and case.base == "saved-nf4"):  # those are as transformers saves them
            yield case


def main() -> None:
    parser = argparse.ArgumentParser(description="time merges against PEFT and against cp")
    parser.add_argument("--sizes", nargs="+", default=["0.5B"], choices=list(SHAPES))
    parser.add_argument("--adapters", nargs="+", default=["all"], choices=["all", "qv"])
    parser.add_argument(
        "--bases", nargs="+", default=["bf16"], choices=["bf16", "nf4", "saved-nf4"]
    )
    parser.add_argument(
        "--files", nargs="+", type=int, default=[None], help="spread the base over so many files"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--no-peft", action="store_true", help="leave the peer out: it takes minutes"
    )
    parser.add_argument("--folder", type=Path, default=HERE.parent / "outputs" / "bench")
    parser.add_argument("--json", type=Path, help="write all figures here")
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    rate = flops_per_second()
    figures = []
    for case in cases(asked):
        base, adapter = inputs(case, folder)
        found = bench(case, base, adapter, folder, asked.rounds, not asked.no_peft)
        least = floor(case, found, sum(file.stat().st_size for file in base.iterdir()), rate)
        show(case, found, least)
        commands = {label: asdict(timed) for label, timed in found.items()}
        figures.append({**asdict(case), "floor_seconds": least, "commands": commands})
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
