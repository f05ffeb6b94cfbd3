"""Folders that wait for a judgement: no name before it, none after a refusal, and no work lost."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.checkpoint.beside import leftovers
from pipeline.checkpoint.holding import Holding
from pipeline.checkpoint.journal import Finished, Journal
from pipeline.checkpoint.lock import has_writer
from pipeline.errors import MergeError


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "merged"


def write(holding: Holding, target: Path, text: str, *, overwrite: bool = False) -> None:
    with holding.publishing(target, overwrite=overwrite) as folder:
        (folder / "config.json").write_text(text)
        (folder / "model.safetensors").write_text("weights")
        Journal(folder, "key", [Finished("model.safetensors", 7, "hash", ())])


def test_what_nobody_judges_is_published_at_once(target: Path) -> None:
    holding = Holding()
    write(holding, target, "{}")
    assert (target / "config.json").is_file()
    assert holding.where(target) == target


def test_what_is_to_be_judged_is_whole_and_hidden_until_it_is_published(target: Path) -> None:
    holding = Holding({target})
    write(holding, target, "{}")
    hidden = holding.where(target)
    assert not target.exists()
    assert (hidden / "config.json").is_file()
    assert has_writer(target)
    holding.publish(target)
    assert sorted(file.name for file in target.iterdir()) == ["config.json", "model.safetensors"]
    assert not hidden.exists()
    assert not has_writer(target)
    assert holding.where(target) == target
    holding.publish(target)


def test_what_is_given_up_leaves_finished_work_for_the_same_command(target: Path) -> None:
    holding = Holding({target})
    write(holding, target, "{}")
    holding.drop()
    assert not target.exists()
    assert not has_writer(target)
    (left,) = leftovers(target, "partial")
    assert (left / "model.safetensors").is_file()
    assert not (left / "config.json").exists()


def test_a_folder_that_is_to_be_replaced_stays_until_the_new_one_has_passed(target: Path) -> None:
    write(Holding(), target, '{"model_type": "old"}')
    for refused in (True, False):
        holding = Holding({target})
        write(holding, target, '{"model_type": "new"}', overwrite=True)
        assert "old" in (target / "config.json").read_text()
        if refused:
            holding.drop()
        else:
            holding.publish(target)
        assert ("old" in (target / "config.json").read_text()) is refused
    assert leftovers(target, "partial") == []


def test_what_fails_while_it_is_written_never_waits(target: Path) -> None:
    holding = Holding({target})
    with suppress(MergeError), holding.publishing(target, overwrite=False):
        raise MergeError("nothing changed")
    assert holding.where(target) == target
    assert list(target.parent.iterdir()) == []


def test_what_was_begun_before_is_the_folder_that_is_published(target: Path) -> None:
    holding = Holding()
    begun = holding.begin(target, overwrite=False)
    (begun / "early").write_text("before the step")
    assert has_writer(target)
    with holding.publishing(target, overwrite=False) as folder:
        assert folder == begun
        (folder / "config.json").write_text("{}")
    assert (target / "early").read_text() == "before the step"
    assert not has_writer(target)


def test_what_was_only_begun_leaves_no_more_than_its_finished_files(target: Path) -> None:
    holding = Holding()
    begun = holding.begin(target, overwrite=False)
    holding.drop()
    assert not begun.exists()
    begun = holding.begin(target, overwrite=False)
    (begun / "model.safetensors").write_text("weights")
    (begun / "half").write_text("")
    Journal(begun, "key", [Finished("model.safetensors", 7, "hash", ())])
    holding.drop()
    assert leftovers(target, "partial") == [begun]
    assert not (begun / "half").exists()
    assert not has_writer(target)
