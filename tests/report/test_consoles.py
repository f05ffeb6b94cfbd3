"""What a run shows while it goes on: moving on a terminal, plain lines elsewhere, errors only if quiet."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console as RichConsole

from pipeline.recipe.model import Recipe
from pipeline.report import plain
from pipeline.report.live import LiveConsole
from pipeline.report.plain import PlainConsole, QuietConsole
from pipeline.report.terminal import make_console

RECIPE = Recipe(
    name="merge_lora",
    path=Path("merge_lora.yaml"),
    steps=(SimpleNamespace(id="load_base"), SimpleNamespace(id="save")),  # type: ignore[arg-type]
    run_dir=Path("outputs/merge_lora/now"),
)


def play(console: Any) -> None:
    """A run that warns, says something in two lines, counts, and fails."""
    console.run_started(RECIPE)
    console.step_started(1, 2, "load_base", "Say which base")
    console.warn("the adapter names another base")
    console.step_done("load_base", 0.04)
    console.step_started(2, 2, "save", "Write the model")
    console.note("a \x1b[31mred\x1b[0m text\nof two lines")
    with console.bar("writing", 2e9, unit="B") as bar:
        bar.advance(5e8)
        bar.advance(5e8)
    console.step_failed("save", 75, "r.yaml:3: the disk is full\nfree space")


def on_a_terminal(width: int = 70) -> tuple[LiveConsole, io.StringIO]:
    stream = io.StringIO()
    return LiveConsole(RichConsole(file=stream, force_terminal=True, width=width)), stream


def screen(stream: io.StringIO) -> list[str]:
    """The lines that are left after everything that the output redraws, without colours."""
    lines = [""]
    for part in re.split(r"(\n|\r|\x1b\[[\d;?]*[A-Za-z])", stream.getvalue()):
        if part == "\n":
            lines.append("")
        elif part == "\x1b[1A":
            lines.pop()
        elif part in ("\r", "\x1b[2K"):
            lines[-1] = ""
        elif not part.startswith("\x1b"):
            lines[-1] += part
    return [line.rstrip() for line in lines]


def test_plain_lines_tell_everything_without_control_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    play(PlainConsole())

    assert capsys.readouterr() == (
        "",
        """\
merge_lora: 2 steps, into outputs/merge_lora/now
[1/2] load_base: Say which base
      warning: the adapter names another base
[1/2] load_base: done in 0.0 s
[2/2] save: Write the model
      a �[31mred�[0m text
      of two lines
[2/2] save: failed after 1 min 15 s
      r.yaml:3: the disk is full
      free space
""",
    )


def test_a_plain_bar_says_how_far_it_is_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(plain.time, "monotonic", lambda: now)
    with PlainConsole().bar("writing", 4e9, unit="B") as bar:
        for _ in range(8):
            now += 2
            bar.advance(5e8)

    assert capsys.readouterr().err.splitlines() == [
        "      writing: 38 % (1.5 GB of 4.0 GB)",
        "      writing: 75 % (3.0 GB of 4.0 GB)",
    ]


def test_plain_lines_that_nobody_reads_stop_no_run() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    play(PlainConsole(stream))
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_quiet_says_only_why_it_failed(capsys: pytest.CaptureFixture[str]) -> None:
    play(QuietConsole())

    assert capsys.readouterr().err.splitlines() == [
        "[2/2] save: failed after 1 min 15 s",
        "      r.yaml:3: the disk is full",
        "      free space",
    ]


def test_a_terminal_is_left_with_a_line_per_step_and_its_notes() -> None:
    console, stream = on_a_terminal()

    play(console)

    assert screen(stream) == [
        "merge_lora  outputs/merge_lora/now",
        "✓ load_base Say which base                                       0.0 s",
        "    ! the adapter names another base",
        "✗ save      Write the model                                 1 min 15 s",
        "    a �[31mred�[0m text",
        "    of two lines",
        "    r.yaml:3: the disk is full",
        "    free space",
        "",
    ]


def test_a_terminal_shows_a_bar_while_there_is_long_work() -> None:
    console, stream = on_a_terminal()

    console.step_started(1, 1, "save", "Write the model")
    with console.bar("writing", 2e9, unit="B") as bar:
        bar.advance(5e8)
        assert console._live is not None
        console._live.refresh()
        during = screen(stream)
    console.step_done("save", 1)

    assert any("writing" in line and "25 % (500 MB of 2.0 GB)" in line for line in during)
    assert not any("writing" in line for line in screen(stream))


def test_a_bar_and_a_warning_outside_of_any_step_are_shown_too() -> None:
    console, stream = on_a_terminal()

    with console.bar("hashing", 0) as bar:
        bar.advance()
    console.warn("the tracker did not answer")

    assert screen(stream)[-2:] == ["    ! the tracker did not answer", ""]


def test_a_long_summary_is_cut_to_the_line() -> None:
    console, stream = on_a_terminal(width=40)

    console.step_started(1, 1, "save", "Write the model " * 10)
    console.step_done("save", 1)

    done = next(line for line in screen(stream) if line.startswith("✓"))
    assert len(done) == 40
    assert "…" in done


@pytest.mark.parametrize(
    ("is_terminal", "term", "quiet", "kind"),
    [
        (True, "xterm", False, LiveConsole),
        (True, "dumb", False, PlainConsole),
        (False, "xterm", False, PlainConsole),
        (True, "xterm", True, QuietConsole),
    ],
)
def test_the_console_suits_where_its_output_goes(
    is_terminal: bool, term: str, quiet: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setenv("TERM", term)

    assert type(make_console(quiet)) is kind


def test_one_single_thing_to_wait_for_shows_no_share() -> None:
    console, stream = on_a_terminal()

    with console.bar("loading", 1):
        during = screen(stream)

    assert during[-1].startswith("    loading ")
    assert "%" not in during[-1]
