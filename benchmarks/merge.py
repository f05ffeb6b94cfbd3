"""Time whole merges against PEFT and against copying the files. `make bench` runs this.

    python benchmarks/merge.py [--sizes 0.5B 3.2B 8B] [--rounds 3] [--nf4] [--no-peft]
                               [--folder DIR] [--json FILE]

Every command is a process of its own, start and imports included. The commands take turns, because one
machine is not equally fast all day: only the ratios within a run mean anything. Outputs are removed after
each, and the page cache is warm: the inputs are read once before the first round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
RECIPE = """\
steps:
  - load_base: {{model: "{base}", quantization: {quantization}}}
  - attach_adapter: {{path: "{adapter}"}}
{dequantize}  - merge
  - save: {{path: "{output}"}}
"""


@dataclass
class Timed:
    """What the runs of one command took."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def commands(
    base: Path, adapter: Path, output: Path, scratch: Path, nf4: bool
) -> Mapping[str, Sequence[str]]:
    """Each does one thing from the same inputs and leaves it in `output`."""
    recipe = scratch / "bench.yaml"
    recipe.write_text(
        RECIPE.format(
            base=base,
            adapter=adapter,
            output=output,
            quantization="nf4" if nf4 else "none",
            dequantize="  - dequantize\n" if nf4 else "",
        )
    )
    peer = ["nf4"] if nf4 else []
    mergeline = Path(sys.executable).with_name("mergeline")
    copy_all = f"mkdir {output} && ls {base}/* | xargs -P{os.cpu_count()} -I{{}} cp {{}} {output}/"
    run = [str(mergeline), "run", str(recipe), "--quiet", f"hydra.run.dir={scratch}/run"]
    return {
        "cp -r": ["cp", "-r", str(base), str(output)],
        "parallel cp": ["sh", "-c", copy_all],
        "mergeline, stream": [*run, "engine=stream"],
        "PEFT": [sys.executable, *map(str, (HERE / "peft_merge.py", base, adapter, output)), *peer],
    }


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


def bench(size: str, folder: Path, rounds: int, peft: bool, nf4: bool) -> dict[str, Timed]:
    """Time all commands at one size, in turns."""
    subprocess.run([sys.executable, HERE / "inputs.py", size, folder / size], check=True)
    base, adapter = folder / size / "base", folder / size / "adapter"
    for file in [*base.iterdir(), *adapter.iterdir()]:
        with open(file, "rb", buffering=0) as opened:
            while opened.read(1 << 24):
                pass
    found: dict[str, Timed] = {}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        output = scratch / "output"
        todo = commands(base, adapter, output, scratch, nf4)
        for _ in range(rounds):
            for label, command in todo.items():
                if label == "PEFT" and not peft:
                    continue
                seconds, peak = measure(command, scratch / "log")
                shutil.rmtree(output)
                timed = found.setdefault(label, Timed())
                timed.seconds.append(seconds)
                timed.peak_bytes.append(peak)
    return found


def show(size: str, found: Mapping[str, Timed]) -> None:
    table = Table(
        "command", "median s", "x cp -r", "peak MB", title=f"{size}, rank-16 LoRA everywhere"
    )
    floor = found["cp -r"].median
    for label, timed in found.items():
        peak = max(timed.peak_bytes) / 1e6
        table.add_row(label, f"{timed.median:.2f}", f"{timed.median / floor:.2f}", f"{peak:.0f}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="time merges against PEFT and against cp")
    parser.add_argument("--sizes", nargs="+", default=["0.5B"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nf4", action="store_true", help="take the base through 4 bits")
    parser.add_argument(
        "--no-peft", action="store_true", help="leave the peer out: it takes minutes"
    )
    parser.add_argument("--folder", type=Path, default=HERE.parent / "outputs" / "bench")
    parser.add_argument("--json", type=Path, help="write all figures here")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    for size in asked.sizes:
        found = bench(size, asked.folder.absolute(), asked.rounds, not asked.no_peft, asked.nf4)
        show(size, found)
        figures[size] = {label: vars(timed) for label, timed in found.items()}
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
