"""Going on with earlier work: only with the same, only with what is proven, and nobody else's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.checkpoint import journal as journals
from pipeline.checkpoint.hashes import hash_file
from pipeline.checkpoint.journal import FILE_NAME, Finished, Journal
from pipeline.checkpoint.lock import only_writer
from pipeline.checkpoint.publish import publishing
from pipeline.checkpoint.takeover import take_over
from pipeline.errors import MergeError, OutputError

SIZES = {"one": 3, "two": 3, "three": 5}
MODEL = '{"model_type": "llama"}'


def finish(folder: Path, journal: Journal, name: str) -> None:
    (folder / name).write_bytes(name.encode())
    journal.add(Finished(name, SIZES[name], hash_file(folder / name), (f"{name}.weight",)))


class Stopped(Exception):
    pass


def stop(target: Path, error: BaseException) -> None:
    """A run that finishes `one` and `two`, has half of `three`, and is stopped."""
    with publishing(target, overwrite=True) as folder:
        journal = take_over(folder, "key", SIZES)
        finish(folder, journal, "one")
        finish(folder, journal, "two")
        (folder / "three").write_bytes(b"th")
        raise error


def stopped(target: Path, error: BaseException | None = None) -> list[Path]:
    """Such a run; returns what it leaves beside its target."""
    error = error or Stopped()
    with pytest.raises(type(error)):
        stop(target, error)
    return list(target.parent.iterdir())


def finished_of(target: Path, key: str = "key", elsewhere: tuple[Path, ...] = ()) -> set[str]:
    """Names that the next run need not write; it ends well."""
    with publishing(target, overwrite=True) as folder:
        journal = take_over(folder, key, SIZES, elsewhere=elsewhere)
        names = set(journal.finished)
        assert {file.name for file in folder.iterdir()} == {FILE_NAME, *names}
        for name in SIZES.keys() - names:
            finish(folder, journal, name)
        (folder / "config.json").write_text(MODEL)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == {
        "config.json": MODEL.encode(),
        **{name: name.encode() for name in SIZES},
    }
    assert [entry for entry in target.parent.iterdir() if entry != target] == []
    return names


def test_the_next_run_goes_on_with_what_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "model"
    (left,) = stopped(target)
    assert not target.exists()
    assert {file.name for file in left.iterdir()} == {FILE_NAME, "one", "two"}, "no half of a file"
    assert finished_of(target) == {"one", "two"}


def test_what_was_changed_is_known_of_finished_files_too(tmp_path: Path) -> None:
    stopped(tmp_path / "model")
    with publishing(tmp_path / "model", overwrite=False) as folder:
        again = take_over(folder, "key", SIZES)
        assert again.finished["one"].changed == ("one.weight",)


def test_other_work_starts_anew_and_the_old_is_removed_at_once(tmp_path: Path) -> None:
    stopped(tmp_path / "model")
    with publishing(tmp_path / "model", overwrite=False) as folder:
        assert take_over(folder, "another key", SIZES).finished == {}
        assert sorted(p.name for p in tmp_path.iterdir() if "partial" in p.name) == [folder.name]


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 9)


@pytest.mark.parametrize(
    ("harm", "left"),
    [
        (lambda folder: (folder / "one").write_bytes(b"eno"), {"two"}),
        (lambda folder: (folder / "one").unlink(), {"two"}),
        (lambda folder: (folder / "one").write_bytes(b"onet"), {"two"}),
        (lambda folder: cut(folder / FILE_NAME), {"one"}),
        (lambda folder: (folder / "stranger").write_bytes(b"x"), {"one", "two"}),
        (lambda folder: (folder / "below").mkdir(), {"one", "two"}),
    ],
    ids=["other bytes", "gone", "longer", "half a line", "a file too many", "a folder too many"],
)
def test_only_what_its_hash_proves_is_used(
    tmp_path: Path, harm: Callable[[Path], object], left: set[str]
) -> None:
    (folder,) = stopped(tmp_path / "model")
    harm(folder)
    assert finished_of(tmp_path / "model") == left


def test_a_link_is_not_a_finished_file(tmp_path: Path) -> None:
    target = tmp_path / "out" / "model"
    (folder,) = stopped(target)
    (folder / "one").rename(tmp_path / "elsewhere")
    (folder / "one").symlink_to(tmp_path / "elsewhere")
    assert finished_of(target) == {"two"}
    assert (tmp_path / "elsewhere").read_bytes() == b"one"


def test_a_journal_cannot_name_files_outside_of_its_folder(tmp_path: Path) -> None:
    target = tmp_path / "out" / "model"
    (folder,) = stopped(target)
    (tmp_path / "precious").write_bytes(b"one")
    journal = folder / FILE_NAME
    journal.write_text(journal.read_text().replace('"one"', '"../../precious"'))
    assert finished_of(target) == {"two"}
    assert (tmp_path / "precious").read_bytes() == b"one"


def test_work_of_another_user_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(tmp_path / "model")
    monkeypatch.setattr(journals.os, "geteuid", lambda: os.getuid() + 1)
    assert finished_of(tmp_path / "model") == set()


def test_a_run_goes_on_with_the_work_of_an_earlier_one_in_a_folder_of_its_own(
    tmp_path: Path,
) -> None:
    earlier, now = tmp_path / "run1" / "model", tmp_path / "run2" / "model"
    stopped(earlier)
    with only_writer(earlier), publishing(now, overwrite=False) as folder:
        busy = take_over(folder, "key", SIZES, elsewhere=[earlier])
        assert busy.finished == {}, "somebody is at it"
        (folder / "config.json").write_text(MODEL)
    assert finished_of(now, elsewhere=(earlier,)) == {"one", "two"}
    assert list(earlier.parent.iterdir()) == []


def test_the_same_work_left_in_many_folders_is_used_once_and_all_removed(tmp_path: Path) -> None:
    now, *earlier = (tmp_path / f"run{n}" / "model" for n in range(4))
    for target in earlier:
        stopped(target)
    (earlier[1].parent / ".model.partial-0a0a0a0a").mkdir()  # killed before it had a journal
    assert finished_of(now, elsewhere=tuple(earlier)) == {"one", "two"}
    assert [list(target.parent.iterdir()) for target in earlier] == [[]] * 3


def test_other_work_left_elsewhere_is_left_to_those_who_can_use_it(tmp_path: Path) -> None:
    earlier = tmp_path / "run1" / "model"
    stopped(earlier)
    assert finished_of(tmp_path / "run2" / "model", key="other", elsewhere=(earlier,)) == set()
    assert finished_of(earlier) == {"one", "two"}


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (KeyboardInterrupt(), True),
        (MemoryError(), True),
        (MergeError("the adapter holds NaN"), False),
    ],
)
def test_what_is_finished_is_kept_unless_the_same_run_would_fail_again(
    tmp_path: Path, error: BaseException, kept: bool
) -> None:
    stopped(tmp_path / "model", error)
    assert (finished_of(tmp_path / "model") == {"one", "two"}) is kept


def test_a_full_disk_names_the_folder_that_is_kept(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the disk is full") as caught:
        stop(tmp_path / "model", OSError(28, "No space left on device"))
    (folder,) = tmp_path.iterdir()
    assert str(folder) in str(caught.value)
    assert finished_of(tmp_path / "model") == {"one", "two"}
