"""Time one pass for several adapters of a base: `make branches` runs this.

    python benchmarks/branches.py [--size 3.2B] [--branches 8] [--rounds 3] [--peft] [--folder DIR]

Against copying the base as often, one merge after the other, and PEFT. As in benchmarks/merge.py: whole
processes, in turns, the inputs read before. When `mergeline` says that it is done, all is on disk; a copy is
timed with and without that. PEFT is timed for one adapter, and its figure is that times the adapters.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from merge import HERE, Case, Timed, inputs, measure, read_once
from rich.console import Console
from rich.table import Table

MERGE = """\
steps:
  - load_base: {{model: "{base}"}}
  - attach_adapter: {attach}
  - merge
  - save: {{path: "{output}/{name}"}}
"""
ONE_PASS, COPIES, SYNCED = "one pass", "copies by cp", "copies by cp, and sync"
ALONE, PEFT, SINGLE = "one merge after the other", "PEFT, one after the other", "one merge"


def commands(
    base: Path, adapters: Sequence[Path], output: Path, scratch: Path
) -> Mapping[str, Sequence[str]]:
    """Each makes a folder for each adapter in `output`, except for the last ones, which make one."""
    mergeline = Path(sys.executable).with_name("mergeline")

    def recipe(name: str, attach: str, target: str) -> str:
        file = scratch / f"{name}.yaml"
        file.write_text(MERGE.format(base=base, attach=attach, output=output, name=target))
        return f"{mergeline} run {file} --quiet hydra.run.dir={scratch}/run-{name}"

    together = recipe("all", f"{{for_each: '{adapters[0].parent}/*'}}", "${branch.name}")
    alone = [recipe(a.name, f"{{path: '{a}'}}", a.name) for a in adapters]
    copies = " && ".join(f"cp -r {base} {output}/{adapter.name}" for adapter in adapters)
    peft = f"{sys.executable} {HERE / 'peft_merge.py'} {base} {adapters[0]} {output}/one bf16"
    found = {
        COPIES: copies,
        SYNCED: f"{copies} && find {output} -type f -exec sync {{}} +",
        ONE_PASS: together,
        ALONE: " && ".join(alone),
        SINGLE: alone[0],
        PEFT: peft,
    }
    return {label: ["sh", "-ec", f"mkdir {output}; {text}"] for label, text in found.items()}


def bench(
    base: Path, adapters: Sequence[Path], folder: Path, rounds: int, peft: bool
) -> dict[str, Timed]:
    """Time all commands in turns; each begins when what the one before wrote is on disk."""
    read_once(file for folder in [base, *adapters] for file in folder.iterdir())
    found: dict[str, Timed] = {}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        output = scratch / "output"
        for label, command in [*commands(base, adapters, output, scratch).items()] * rounds:
            if label == PEFT and not peft:
                continue
            os.sync()
            seconds, peak = measure(command, scratch / "log")
            shutil.rmtree(output)
            timed = found.setdefault(label, Timed())
            timed.seconds.append(seconds * (len(adapters) if label == PEFT else 1))
            timed.peak_bytes.append(peak)
    return found


def copies_of(adapter: Path, count: int) -> Iterator[Path]:
    """Adapters of the same content, each in files of its own."""
    folder = adapter.with_name(f"{adapter.name}-{count}-times")
    for number in range(count):
        target = folder / f"{number:02}"
        if not target.exists():
            shutil.copytree(adapter, target)
        yield target


def show(found: Mapping[str, Timed], title: str) -> None:
    table = Table("command", "seconds, median (all)", "x one pass", "peak MB", title=title)
    least = found[ONE_PASS].median
    for label, timed in found.items():
        each = ", ".join(f"{seconds:.1f}" for seconds in timed.seconds)
        peak = f"{max(timed.peak_bytes) / 1e6:.0f}"
        table.add_row(label, f"{timed.median:.2f} ({each})", f"{timed.median / least:.2f}", peak)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="time one pass for several adapters")
    parser.add_argument("--size", default="0.5B")
    parser.add_argument("--branches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peft", action="store_true", help="the peer too: it takes minutes")
    parser.add_argument("--folder", type=Path, default=HERE.parent / "outputs" / "bench")
    parser.add_argument("--json", type=Path, help="write all figures here")
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    base, adapter = inputs(Case(asked.size, "all", "bf16", None), folder)
    adapters = list(copies_of(adapter, asked.branches))
    found = bench(base, adapters, folder, asked.rounds, asked.peft)
    show(found, f"{asked.size}, {asked.branches} adapters")
    if asked.json:
        timed = {label: asdict(one) for label, one in found.items()}
        asked.json.write_text(json.dumps(timed, indent=2) + "\n")


if __name__ == "__main__":
    main()
