"""A run that is over, from its manifest, on standard output."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.manifest import ErrorRecord, FileRecord, Manifest, RunStatus, StepRecord
from pipeline.report.output import standard_output
from pipeline.report.units import duration, figure, printable, size

_COLOURS = {
    "done": "green",
    "failed": "red",
    "interrupted": "yellow",
    "running": "cyan",
    "waiting": "dim",
    "skipped": "dim",
}
_VERDICTS: dict[RunStatus, str] = {
    "done": "done",
    "failed": "failed",
    "interrupted": "interrupted",
    "running": "not finished (still running, or killed)",
}


def print_run(record: Manifest) -> None:
    """The whole run: verdict, steps, figures, what went in and came out, and where the log is."""
    console = standard_output()
    console.print(_verdict(record))
    _facts(console, record)
    console.print()
    console.print(_steps(record.steps))
    _said(console, record)
    if record.error:
        console.print(_error(record.error))
    _files(console, "in", record.inputs)
    _files(console, "out", record.outputs)


def print_end(record: Manifest) -> None:
    """The end of a run that was watched: the verdict, what came out, and the page that tells more."""
    console = standard_output()
    console.print()
    console.print(_verdict(record))
    _files(console, "out", record.outputs)
    from pipeline.report.page import FILE_NAME

    page = Path(record.run_dir, FILE_NAME)
    place = str(page) if page.is_file() else record.run_dir
    console.print(Text(f"  {printable(place)}"), soft_wrap=True)


def _verdict(record: Manifest) -> Text:
    time = f" in {duration(record.seconds)}" if record.seconds is not None else ""
    return Text.assemble(
        (printable(record.recipe), "bold"),
        "  ",
        (_VERDICTS[record.status], f"bold {_COLOURS[record.status]}"),
        time,
    )


def _facts(console: Console, record: Manifest) -> None:
    versions = ", ".join(
        f"{name} {record.versions[name]}"
        for name in ("mergeline", "python", "torch", "transformers", "peft", "bitsandbytes")
        if name in record.versions
    )
    facts = {
        "started": record.started.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        "recipe": record.recipe_file,
        "overrides": " ".join(record.overrides),
        "tags": " ".join(record.tags),
        "engine": record.engine,
        "versions": versions,
        "commit": record.git_commit,
        "folder": record.run_dir,
        "log": str(Path(record.run_dir) / "run.log"),
    }
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value:
            table.add_row(Text(f"  {name}", "dim"), Text(printable(value), overflow="fold"))
    console.print(table)


def _steps(steps: Iterable[StepRecord]) -> Table:
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    table.add_column("  step")
    table.add_column("status")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("peak memory", justify="right", no_wrap=True)
    table.add_column("figures", overflow="fold")
    for step in steps:
        plain = step.id.partition(".")[0] == step.step  # a branch stands after the dot
        name = f"  {step.id}" if plain else f"  {step.id} ({step.step})"
        table.add_row(
            Text(name, "bold"),
            Text(step.status, _COLOURS[step.status]),
            "" if step.seconds is None else duration(step.seconds),
            "" if step.peak_memory_bytes is None else size(step.peak_memory_bytes),
            Text("\n".join(f"{k} {printable(figure(v))}" for k, v in step.metrics.items())),
        )
    return table


def _said(console: Console, record: Manifest) -> None:
    """Notes and warnings below the table, since they can be long."""
    for text in record.warnings:
        console.print(_below(Text(f"! {printable(text)}", "yellow")))
    for step in record.steps:
        if step.notes or step.warnings:
            console.print(Text(f"\n  {step.id}", "bold"))
        for text in step.notes:
            console.print(_below(Text(printable(text))))
        for text in step.warnings:
            console.print(_below(Text(f"! {printable(text)}", "yellow")))


def _error(error: ErrorRecord) -> Padding:
    lines = [f"{error.where}: {error.what}" if error.where else error.what, error.fix or ""]
    return Padding(Text(printable("\n".join(lines).rstrip()), "red"), (1, 0, 0, 2))


def _files(console: Console, title: str, records: list[FileRecord]) -> None:
    """Folders with the number and size of their files; `manifest.json` has every single one."""
    if not records:
        return
    folders: dict[str, list[FileRecord]] = {}
    for record in records:
        folders.setdefault(_place(record), []).append(record)
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for number, (folder, files) in enumerate(folders.items()):
        alone = len(files) == 1 and not files[0].repo
        table.add_row(
            Text(f"  {title}" if number == 0 else "", "dim"),
            size(sum(f.bytes for f in files)),
            "1 file" if len(files) == 1 else f"{len(files)} files",
            Text(printable(files[0].path if alone else folder)),
        )
    console.print()
    console.print(table)


def _place(record: FileRecord) -> str:
    if record.repo:
        return f"{record.repo} at {(record.commit or '?')[:12]}"
    return f"{PurePath(record.path).parent}/"


def _below(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 4))
