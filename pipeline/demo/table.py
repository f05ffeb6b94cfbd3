"""What the demo prints at its end."""

from __future__ import annotations

import json
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from pipeline.manifest import Manifest
from pipeline.report.output import standard_output
from pipeline.report.units import duration, printable, size


def print_result(
    folder: Path,
    prompt: str,
    base: Path,
    adapter: Path,
    merged: Path,
    looked: Manifest,
    merge: Manifest,
    seconds: float,
) -> None:
    """One row for each model: loss on held-out data, size on disk and what it says to `prompt`.

    `looked` is the run that compared the models, `merge` the one that made and verified the last.
    """
    table = Table(box=box.SIMPLE_HEAD, show_lines=True, pad_edge=False)
    table.add_column("model")
    table.add_column("loss on held-out\npirate talk", justify="right")
    table.add_column("on disk", justify="right")
    table.add_column(f"{prompt!r}", ratio=1)
    rows = (
        ("base (bf16)", "base", size(_bytes(base))),
        ("base (NF4) + adapter", "adapter", f"+ {size(_bytes(adapter))}"),
        ("merged (bf16, no PEFT)", "merged", size(_bytes(merged))),
    )
    for name, step, on_disk in rows:
        said = _first_text(Path(looked.run_dir) / f"{step}_text.jsonl")
        loss = looked.metrics[f"{step}.loss"]
        table.add_row(Text(name, "bold"), f"{loss:.3f}", on_disk, printable(said))
    console = standard_output()
    console.print(table)
    found = merge.metrics
    console.print(
        Text.assemble(
            ("✓ the merged model is the trained one: ", "bold green"),
            f"relative error of its logits {found['verify.error']:.2%}, KL {found['verify.kl']:.1e} nats, "
            f"same first choice at {found['verify.top1']:.1%} of {found['verify.positions']} positions, "
            f"{found['verify.kept']:.1%} of the adapter's effect kept",
        )
    )
    console.print()
    for what, path in (
        ("base", base),
        ("adapter", adapter),
        ("merged model", merged),
        ("data", folder / "data"),
        ("receipts and logs", folder / "{train,merge,compare}/{manifest.json,run.log}"),
    ):
        console.print(Text(f"  {what:18}{path}"), soft_wrap=True)
    console.print(
        f"\ndemo done in {duration(seconds)}; mergeline show {folder / 'merge'} tells more"
    )


def _bytes(folder: Path) -> int:
    """All files of a model's or an adapter's folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _first_text(file: Path) -> str:
    first = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
    return str(first["text"]).strip()
