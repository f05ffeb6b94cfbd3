"""A stream that is killed goes on, and what it ends with is equal in every byte to one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from pipeline.checkpoint.publish import publishing
from pipeline.errors import InputError
from pipeline.realise.stream import modules, rows, windows
from tests.fixtures.models import build_adapter, build_base
from tests.fixtures.session import Session, save_merged

ROOT = Path(__file__).parents[3]
SHARDS = 8


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return build_base(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return build_adapter(tmp_path / "adapter", base, LoraConfig(r=2, target_modules="all-linear"))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != RECEIPT}


RECEIPT = "mergeline.json"
"""Has the time in it."""

SLOW = """
    import sys, time
    from pathlib import Path
    from pipeline.realise.stream import engine, writing
    from tests.fixtures.session import save_merged

    engine.BLOCK = writing.SMALL = 2048
    engine.range_size = lambda outputs, threads: 2048
    engine.chunk_size = lambda outputs: writing.PAGE
    write = writing.write_all

    def slowly(*arguments):
        if not told:
            told.append(print("writing", flush=True))
        time.sleep(0.004)
        write(*arguments)

    told = []
    writing.write_all = slowly
    save_merged(*map(Path, sys.argv[1:]))
"""


def child(*paths: Path) -> subprocess.Popen[str]:
    """A slow save in a process of its own, which has begun to write, or has nothing left to."""
    code = textwrap.dedent(SLOW)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, paths)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def finished(session: Session) -> int:
    """How many files the last step took from an earlier run."""
    notes = [note for note in session.run.record.notes if "finished before this run" in note]
    return int(notes[0].split()[0]) if notes else 0


def test_killed_many_times_at_random_it_ends_with_the_same_bytes(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    save_merged(tmp_path / "whole", base, adapter)
    whole = contents(tmp_path / "whole" / "merged")
    run, kills, moments = tmp_path / "killed", 0, random.Random()
    while not (run / "merged").exists():
        process = child(run, base, adapter)
        try:
            process.wait(moments.uniform(0, 0.1) if kills < 8 else None)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
    assert kills
    assert contents(run / "merged") == whole
    with publishing(run / "merged", overwrite=True) as folder:  # clears up, if it was killed late
        (folder / "config.json").write_text('{"model_type": "llama"}')
    assert [left.name for left in run.iterdir()] == ["merged"]


def interrupted(run_dir: Path, base: Path, adapter: Path, **settings: Any) -> None:
    """A run that Ctrl-C ends when half of its files are finished."""
    with pytest.MonkeyPatch.context() as patch:
        calls = iter(range(10**9))
        change = rows.change_rows

        def change_some(*arguments: Any, **options: Any) -> bool:
            if next(calls) == 10:
                raise KeyboardInterrupt
            return change(*arguments, **options)

        patch.setattr("pipeline.realise.stream.engine.change_rows", change_some)
        with pytest.raises(KeyboardInterrupt):
            save_merged(run_dir, base, adapter, **settings)


def test_the_same_command_goes_on_in_the_run_folder_that_it_makes_anew(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    interrupted(tmp_path / "runs-1", base, adapter)
    session = save_merged(tmp_path / "runs-2", base, adapter)
    assert 0 < finished(session) < SHARDS
    assert list((tmp_path / "runs-1").iterdir()) == []
    assert session.run.record.metrics["modules_changed"] == 14


def test_what_peft_makes_goes_on_too(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only modules of files that were not finished are made again."""
    config = LoraConfig(r=2, target_modules="all-linear", use_dora=True)
    adapter = build_adapter(tmp_path / "dora", base, config)
    monkeypatch.setattr(windows, "BUDGET", 1)
    made: list[Any] = []
    realise = modules.Modules.realise

    def counted(*arguments: Any) -> Any:
        made.append(arguments)
        if len(made) == 10:
            raise KeyboardInterrupt
        return realise(*arguments)

    save_merged(tmp_path / "whole", base, adapter)
    monkeypatch.setattr(modules.Modules, "realise", counted)
    with pytest.raises(KeyboardInterrupt):
        save_merged(tmp_path / "runs-1", base, adapter)
    session = save_merged(tmp_path / "runs-2", base, adapter)

    assert 0 < finished(session) < SHARDS
    assert 10 < len(made) < 10 + 14
    assert contents(tmp_path / "runs-2" / "merged") == contents(tmp_path / "whole" / "merged")
    assert session.run.record.metrics["modules_changed"] == 14


def rewrite(file: Path) -> None:
    """The same bytes once more: whether a content is the same is not known before it is read."""
    file.write_bytes(file.read_bytes())


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda base, adapter: rewrite(base / "model.safetensors"), {}),
        (lambda base, adapter: rewrite(adapter / "adapter_model.safetensors"), {}),
        (lambda base, adapter: rewrite(adapter / "adapter_config.json"), {}),
        (lambda base, adapter: None, {"max_shard_size": "60KB"}),
    ],
    ids=["base", "adapter", "config of the adapter", "size of a file"],
)
def test_whatever_changed_starts_anew(
    base: Path, adapter: Path, tmp_path: Path, change: Callable[[Path, Path], None],
    how: dict[str, str],
) -> None:  # fmt: skip
    out = tmp_path / "out" / "merged"
    interrupted(tmp_path / "one", base, adapter, path=str(out))
    change(base, adapter)
    session = save_merged(tmp_path / "two", base, adapter, path=str(out), **how)
    assert finished(session) == 0
    assert [left for left in out.parent.iterdir() if left != out] == []


def test_a_library_of_another_version_starts_anew(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path / "one", base, adapter)
    monkeypatch.setattr("pipeline.realise.stream.resuming.versions", lambda: {"numba": "0.0"})
    assert finished(save_merged(tmp_path / "two", base, adapter)) == 0


def test_a_live_run_goes_on_with_nothing(base: Path, adapter: Path, tmp_path: Path) -> None:
    interrupted(tmp_path / "run", base, adapter)
    session = save_merged(tmp_path / "run", base, adapter, dtype="float32")
    assert finished(session) == 0
    assert [left.name for left in (tmp_path / "run").iterdir()] == ["merged"]


def test_a_base_that_is_written_while_it_is_read_is_told(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = rows.change_rows

    def touch(*arguments: Any, **options: Any) -> bool:
        os.utime(base / "model.safetensors")
        return change(*arguments, **options)

    monkeypatch.setattr("pipeline.realise.stream.engine.change_rows", touch)
    with pytest.raises(InputError, match="changed while it was read") as caught:
        save_merged(tmp_path / "run", base, adapter)
    assert caught.value.where == str(base / "model.safetensors")
    assert list((tmp_path / "run").iterdir()) == []


def test_the_disk_fills_up_in_the_middle_and_the_run_goes_on_when_there_is_room(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "merged"
    save_merged(tmp_path / "old", base, adapter, path=str(out), max_shard_size="5GB")
    old = contents(out)
    full = """
        import sys
        from pathlib import Path
        from pipeline.errors import OutputError
        from pipeline.realise.stream import writing
        from tests.fixtures.session import save_merged

        write = writing.write_all
        room = [5 * 40_000]

        def until_full(descriptor, data, at):
            room[0] -= len(data)
            if room[0] < 0:
                raise OSError(28, "No space left on device")
            write(descriptor, data, at)

        writing.write_all = until_full
        try:
            save_merged(*map(Path, sys.argv[1:4]), path=sys.argv[4], overwrite=True)
        except OutputError as error:
            print(error)
    """
    paths = map(str, (tmp_path / "new", base, adapter, out))
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(full), *paths],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert "the disk is full" in told.stdout, told.stderr
    assert contents(out) == old
    session = save_merged(tmp_path / "new", base, adapter, path=str(out), overwrite=True)
    assert finished(session) > 0
    assert contents(out) != old


def test_folders_of_other_runs_may_go_while_they_are_looked_through(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where many runs share a folder, some of them temporary."""
    gone = tmp_path / "runs-0"
    gone.mkdir()
    scandir = os.scandir

    def remove_first(path: Any = ".") -> Any:
        if gone.exists() and Path(os.fspath(path)).name == gone.name:
            gone.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", remove_first)
    save_merged(tmp_path / "runs-1", base, adapter)
    assert (tmp_path / "runs-1" / "merged").is_dir()
