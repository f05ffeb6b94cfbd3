"""A plan on the terminal: what each step does, what goes in and comes out, and what it takes."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.accounting.claims import ClaimCounts
from pipeline.outputs import PlannedOutput
from pipeline.plan import Plan
from pipeline.recipe.model import Recipe
from pipeline.report.output import standard_output
from pipeline.report.units import size


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """What a recipe would do, on standard output."""
    out = console or standard_output()
    out.print(Text(f"{plan.recipe.name}", style="bold"), Text(str(plan.recipe.path), style="dim"))
    out.print(_steps(plan))
    out.print()
    out.print(_figures(plan))
    for problem in plan.refused.values():
        out.print(Text(f"a branch that will fail: {problem}", style="red"))
    for warning in plan.warnings:
        out.print(Text(f"warning: {warning}", style="yellow"))


def _steps(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right", style="dim")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for number, step in enumerate(plan.steps, start=1):
        table.add_row(str(number), Text(step.id), Text(step.does))
    return table


def _figures(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for source in plan.sources:
        at = f" at {source.commit[:12]}" if source.commit else ""
        figures = f"{size(sum(source.files.values()))} in {len(source.files)} files"
        table.add_row("reads", Text(f"{source.reference}{at}: {figures}"))
    for adapter in plan.adapters:
        table.add_row("claims", Text(f"{adapter.reference}: {_claims(adapter.claims)}"))
    for output in plan.outputs:
        table.add_row("writes", Text(f"{output.path}: {_files(output)}"))
        if output.choice:
            device = _device(output.choice.engine, plan.recipe)
            table.add_row("", Text(f"{output.choice.engine} on {device}: {output.choice.reason}"))
    for ids in plan.passes:
        table.add_row("one pass", Text(f"over the base writes {', '.join(ids)}"))
    for disk in plan.disks:
        needed = f"{size(disk.needed)} needed, " if disk.needed else ""
        at = f" at {disk.path}" if len(plan.disks) > 1 else ""
        table.add_row("disk", Text(f"{needed}{size(disk.free)} free{at}"))
    if plan.peak_memory_bytes is not None:
        table.add_row("memory", f"about {size(plan.peak_memory_bytes)} at most")
    table.add_row("run", Text(str(plan.recipe.run_dir)))
    return table


def _device(engine: str, recipe: Recipe) -> str:
    """Where the tensors are made; only the live realiser uses another device than the CPU."""
    wanted = recipe.device
    if engine == "stream" and recipe.workers:
        return "the machines of a Ray cluster"
    if engine == "stream" or wanted == "cpu":
        return "the CPU"
    return "a GPU if there is one" if wanted == "auto" else wanted


def _claims(claims: ClaimCounts) -> str:
    if not claims.tensors:
        return "its tensors are told when it is loaded"
    count, later = claims.tensors, len(claims.later)
    placed = f"{count - later} of {count}" if later else f"all {count}"
    rest = "; the others when it is loaded" if later else ""
    return f"{placed} tensors, by {claims.modules} modules of the base{rest}"


def _files(output: PlannedOutput) -> str:
    if output.bytes is None:
        return "size not known yet"
    if not output.files:
        return f"about {size(output.bytes)}"
    count = len(output.files)
    largest = f" of up to {size(max(output.files.values()))}" if count > 1 else ""
    return f"{size(output.bytes)} in {count} file{'s' if count > 1 else ''}{largest}"
