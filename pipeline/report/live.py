"""Progress of a run on a terminal: a line per step, and bars while there is long work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pipeline.report.plain import progress
from pipeline.report.units import duration, printable

if TYPE_CHECKING:
    from pipeline.recipe.model import Recipe

NOTES_IN_SIGHT = 6
"""Of a running step, so that the moving part stays small; all of them stand once it is done."""

WIDEST_LINE = 110
"""On a wide terminal the seconds of a step would stand too far from its name."""


class LiveConsole:
    """A spinner on the running step, a tick or a cross on finished ones, their notes below them."""

    def __init__(self, console: RichConsole | None = None) -> None:
        self._console = console or RichConsole(stderr=True, highlight=False)
        self._widest_id = 0
        self._running: tuple[str, str, Spinner] | None = None
        self._notes: list[Text] = []
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            _Amount(),
            console=self._console,
        )
        self._live: Live | None = None

    def run_started(self, recipe: Recipe) -> None:
        self._widest_id = max((len(call.id) for call in recipe.steps), default=0)
        self._console.print(
            Text.assemble((recipe.name, "bold"), "  ", (printable(str(recipe.run_dir)), "dim")),
            soft_wrap=True,
        )

    def step_started(self, number: int, of: int, id: str, summary: str) -> None:
        self._running = (id, summary, Spinner("dots", style="cyan"))
        self._notes = []
        self._start()

    def step_done(self, id: str, seconds: float) -> None:
        self._finish(id, Text("✓", "green"), seconds)

    def step_failed(self, id: str, seconds: float, why: str) -> None:
        head, _, rest = why.partition("\n")
        self._notes += [Text(printable(head), "red"), *([Text(printable(rest))] if rest else [])]
        self._finish(id, Text("✗", "bold red"), seconds)

    def note(self, text: str) -> None:
        self._say(Text(printable(text), "dim"))

    def warn(self, text: str) -> None:
        self._say(Text(f"! {printable(text)}", "yellow"))

    @contextmanager
    def bar(self, label: str, total: float, unit: str = "") -> Iterator[LiveBar]:
        # One single thing to wait for has no use for a share: the bar only shows that it goes on.
        known = total if unit or total > 1 else None
        task = self._bars.add_task(printable(label), total=known or None, unit=unit)
        alone = self._live is None
        self._start()
        try:
            yield LiveBar(self._bars, task)
        finally:
            self._bars.remove_task(task)
            if alone:
                self._stop()

    def _say(self, text: Text) -> None:
        if self._running:
            self._notes.append(text)
        else:
            self._console.print(_indented(text))

    def _start(self) -> None:
        if self._live is None:
            self._live = Live(
                get_renderable=self._moving,
                console=self._console,
                transient=True,
                refresh_per_second=8,
            )
            self._live.start(refresh=True)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _finish(self, id: str, mark: Text, seconds: float) -> None:
        summary = self._running[1] if self._running else ""
        self._running = None
        self._stop()
        self._console.print(self._row(mark, id, summary, duration(seconds)))
        for text in self._notes:
            self._console.print(_indented(text))
        self._notes = []

    def _moving(self) -> RenderableType:
        """What is redrawn while a step runs."""
        rows: list[RenderableType] = []
        if self._running:
            id, summary, spinner = self._running
            rows.append(self._row(spinner, id, summary))
            rows += [_indented(text) for text in self._notes[-NOTES_IN_SIGHT:]]
        if self._bars.tasks:
            rows.append(Padding(self._bars.get_renderable(), (0, 0, 0, 4)))
        return Group(*rows)

    def _row(self, mark: RenderableType, id: str, summary: str, seconds: str = "") -> Table:
        row = Table.grid(padding=(0, 1), expand=True)
        row.width = min(self._console.width, WIDEST_LINE)
        row.add_column(width=1)
        row.add_column(min_width=self._widest_id, no_wrap=True)
        row.add_column(ratio=1, no_wrap=True, overflow="ellipsis", style="dim")
        row.add_column(justify="right", no_wrap=True)
        row.add_row(mark, Text(id, "bold"), Text(summary), seconds)
        return row


class LiveBar:
    """One row of the moving part; may be advanced from any thread."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, amount: float = 1) -> None:
        self._bars.advance(self._task, amount)


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text()
        said = progress(task.completed, task.total, task.fields["unit"])
        left = task.time_remaining
        return Text(f"{said}, {duration(left)} left" if left else said, "dim")


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 4))
