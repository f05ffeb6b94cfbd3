"""Publishing: a folder or file appears under its name complete, or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pipeline.checkpoint import publish, rename
from pipeline.checkpoint.publish import publishing, write_atomic
from pipeline.errors import OutputError
from tests.fixtures.folders import write_files

MODEL = '{"model_type": "llama"}'


def contents(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }


def beside(path: Path) -> list[str]:
    """What lies beside a target: nothing, when all is well."""
    return sorted(entry.name for entry in path.parent.iterdir() if entry != path)


@pytest.fixture(params=["renameat2", "plain rename"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of renaming: Linux's, and that of systems without an exchange."""
    if request.param == "plain rename":
        monkeypatch.setattr(rename, "_renameat2", lambda *arguments: False)
    return str(request.param)


def test_the_folder_appears_when_the_block_ends(tmp_path: Path, system: str) -> None:
    target = tmp_path / "made" / "model"
    with publishing(target, overwrite=False) as folder:
        write_files(folder, {"config.json": MODEL, "sub/x": "1"})
        assert not target.exists()
        assert folder.parent == target.parent

    assert contents(target) == {"config.json": MODEL, "sub/x": "1"}
    assert beside(target) == []


def test_replaces_a_model_folder_when_the_new_one_is_complete(tmp_path: Path, system: str) -> None:
    target = write_files(tmp_path / "model", {"config.json": MODEL, "old": "1"})
    with publishing(target, overwrite=True) as folder:
        write_files(folder, {"config.json": MODEL, "new": "2"})
        assert "old" in contents(target)

    assert contents(target) == {"config.json": MODEL, "new": "2"}
    assert beside(target) == []


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_leaves_everything_as_it_was_when_the_block_raises(
    tmp_path: Path, system: str, error: BaseException
) -> None:
    target = write_files(tmp_path / "model", {"config.json": MODEL})

    def write() -> None:
        with publishing(target, overwrite=True) as folder:
            write_files(folder, {"half": "1"})
            raise error

    with pytest.raises(type(error)):
        write()

    assert contents(target) == {"config.json": MODEL}
    assert beside(target) == []


def test_never_takes_a_name_that_somebody_made_in_the_meantime(tmp_path: Path, system: str) -> None:
    target = tmp_path / "model"

    def write() -> None:
        with publishing(target, overwrite=False) as folder:
            write_files(folder, {"config.json": MODEL})
            write_files(target, {"theirs": "1"})

    with pytest.raises(OutputError):
        write()

    assert contents(target) == {"theirs": "1"}
    assert beside(target) == []


def test_puts_the_old_folder_back_when_the_plain_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rename, "_renameat2", lambda *arguments: False)
    target = write_files(tmp_path / "model", {"config.json": MODEL})
    real = os.rename

    def failing(source: Path, destination: Path) -> None:
        if ".partial-" in str(source):
            raise OSError(errno.EIO, "broken disk")
        real(source, destination)

    monkeypatch.setattr(rename.os, "rename", failing)
    with pytest.raises(OSError, match="broken disk"), publishing(target, overwrite=True) as folder:
        write_files(folder, {"new": "1"})

    assert contents(target) == {"config.json": MODEL}


def in_child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run code in another process of this Python."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


HOLD = """
    import sys, time
    from pathlib import Path
    from pipeline.checkpoint.publish import publishing
    with publishing(Path(sys.argv[1]), overwrite=True) as folder:
        (folder / "half").write_text("x")
        print("writing", flush=True)
        time.sleep(60)
"""


def test_a_killed_run_leaves_nothing_under_the_name_and_the_next_one_clears_up(
    tmp_path: Path,
) -> None:
    target = write_files(tmp_path / "model", {"config.json": MODEL})
    child = in_child(HOLD, target)
    assert child.stdout is not None
    assert child.stdout.readline() == "writing\n"
    child.kill()
    child.communicate()
    assert contents(target) == {"config.json": MODEL}
    assert any(".partial-" in name for name in beside(target))

    with publishing(target, overwrite=True) as folder:
        write_files(folder, {"config.json": MODEL, "new": "1"})

    assert contents(target) == {"config.json": MODEL, "new": "1"}
    assert beside(target) == []


def test_a_run_killed_at_any_moment_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    target = write_files(tmp_path / "model", {"config.json": MODEL, "name": "old"})
    replace = """
        import sys, itertools
        from pathlib import Path
        from pipeline.checkpoint.publish import publishing
        print("ready", flush=True)
        for turn in itertools.count():
            with publishing(Path(sys.argv[1]), overwrite=True) as folder:
                (folder / "config.json").write_text('{"model_type": "llama"}')
                (folder / "name").write_text(str(turn))
    """
    for turn in range(8):
        child = in_child(replace, target)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.003 * turn)
        child.kill()
        child.communicate()
        assert set(contents(target)) == {"config.json", "name"}


def test_restores_a_folder_that_was_moved_aside_by_a_run_that_was_killed_then(
    tmp_path: Path,
) -> None:
    write_files(tmp_path / ".model.replaced-0a0a0a0a", {"config.json": MODEL})
    target = tmp_path / "model"

    with pytest.raises(OutputError, match="exists already"), publishing(target, overwrite=False):
        pass

    assert contents(target) == {"config.json": MODEL}


def test_files_are_as_readable_as_the_users_umask_says(tmp_path: Path) -> None:
    for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            with publishing(tmp_path / f"{umask:o}", overwrite=False) as folder:
                (folder / "model.safetensors").touch(0o600)
        finally:
            os.umask(before)
        assert (tmp_path / f"{umask:o}" / "model.safetensors").stat().st_mode & 0o777 == mode


def test_leaves_other_targets_leftovers_alone(tmp_path: Path) -> None:
    write_files(tmp_path / ".model2.partial-0a0a0a0a", {"x": "1"})
    write_files(tmp_path / ".m[o]del.partial-0a0a0a0a", {"x": "1"})
    write_files(tmp_path / ".model.partial-notes", {"x": "1"})

    with publishing(tmp_path / "model", overwrite=False) as folder:
        write_files(folder, {"config.json": MODEL})
    with publishing(tmp_path / "m[o]del", overwrite=False) as folder:
        write_files(folder, {"config.json": MODEL})

    assert beside(tmp_path / "model") == [
        ".model.partial-notes",
        ".model2.partial-0a0a0a0a",
        "m[o]del",
    ]


def test_a_second_run_is_refused_while_the_first_one_writes(tmp_path: Path) -> None:
    target = tmp_path / "model"
    child = in_child(HOLD, target)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        with (
            pytest.raises(OutputError, match="another run is writing it"),
            publishing(target, overwrite=True),
        ):
            pass
        assert any(".partial-" in name for name in beside(target)), (
            "the first one's work is not touched"
        )
    finally:
        child.send_signal(signal.SIGINT)
        child.communicate()
    assert beside(target) == []


def test_one_of_many_runs_at_once_wins_and_the_others_are_told(tmp_path: Path) -> None:
    race = """
        import sys
        from pathlib import Path
        from pipeline.checkpoint.publish import publishing
        from pipeline.errors import OutputError
        sys.stdin.readline()
        try:
            with publishing(Path(sys.argv[1]), overwrite=False) as folder:
                (folder / "config.json").write_text('{"model_type": "llama"}')
            print("won")
        except OutputError as error:
            print("refused")
    """
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(race), str(tmp_path / "model")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(6)
    ]
    ends = [child.communicate("go\n")[0].strip() for child in children]

    assert sorted(ends) == ["refused"] * 5 + ["won"]
    assert beside(tmp_path / "model") == []


def test_the_largest_file_that_is_allowed_is_told_and_leaves_the_old_folder(tmp_path: Path) -> None:
    target = write_files(tmp_path / "model", {"config.json": MODEL})
    limited = """
        import resource, signal, sys
        from pathlib import Path
        from pipeline.checkpoint.publish import publishing
        from pipeline.errors import OutputError
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            with publishing(Path(sys.argv[1]), overwrite=True) as folder:
                if sys.argv[2] == "python":
                    (folder / "big").write_bytes(bytes(5000))
                else:
                    import numpy
                    from safetensors.numpy import save_file
                    save_file({"x": numpy.zeros(5000)}, folder / "big")
        except OutputError as error:
            print(error)
    """
    for writer in ("python", "safetensors"):
        out, errors = in_child(limited, target, writer).communicate()
        assert "a file would be larger than may be written here" in out, errors
        assert "max_shard_size" in out
        assert contents(target) == {"config.json": MODEL}
        assert beside(target) == []


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "your disk quota is used up"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OSError(errno.EFBIG, "File too large"), "a file would be larger than may be written"),
    ],
)
def test_want_of_room_is_told_by_its_kind_and_leaves_the_old_folder(
    tmp_path: Path, error: Exception, what: str
) -> None:
    target = write_files(tmp_path / "model", {"config.json": MODEL})

    with pytest.raises(OutputError, match=what) as caught, publishing(target, overwrite=True):
        raise error

    assert caught.value.fix
    assert contents(target) == {"config.json": MODEL}
    assert beside(target) == []


def test_a_text_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "manifest.json"
    write_atomic(file, "one")
    write_atomic(file, "zwei ü")
    assert file.read_text(encoding="utf-8") == "zwei ü"
    assert beside(file) == []

    def broken(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publish.os, "fsync", broken)
    with pytest.raises(OutputError, match="disk is full"):
        write_atomic(file, "three")
    assert file.read_text(encoding="utf-8") == "zwei ü"
    assert beside(file) == []
