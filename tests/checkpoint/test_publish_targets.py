"""Where a folder may be published, and where never."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.blueprint import Adapter, Base, Blueprint, Fold
from pipeline.checkpoint.publish import check_target, input_folders, publishing
from pipeline.errors import OutputError
from tests.fixtures.folders import make_adapter, make_base, write_files

MODEL = '{"model_type": "llama"}'


@pytest.mark.parametrize(
    ("make", "overwrite", "says"),
    [
        (lambda p: p.write_text("x"), True, "is a file"),
        (lambda p: p.mkdir(), False, "exists already"),
        (lambda p: make_base(p), False, "exists already"),
        (lambda p: p.symlink_to(p.parent), True, "is a symbolic link"),
        (lambda p: write_files(p, {"thesis.tex": ""}), True, "does not look like a model"),
        (
            lambda p: write_files(p, {"config.json": '{"port": 80}'}),
            True,
            "does not look like a model",
        ),
        (lambda p: write_files(p, {"config.json": "{"}), True, "does not look like a model"),
        (lambda p: write_files(p, {"config.json": MODEL, ".git/HEAD": ""}), True, "git repository"),
    ],
)
def test_a_target_that_must_not_be_touched_is_refused(
    tmp_path: Path, make: object, overwrite: bool, says: str
) -> None:
    target = tmp_path / "target"
    make(target)  # type: ignore[operator]

    with pytest.raises(OutputError, match=says) as caught:
        check_target(target, overwrite=overwrite, inputs=())

    assert caught.value.fix


def test_the_working_folder_and_home_are_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = write_files(tmp_path / "home", {"config.json": MODEL})
    work = write_files(tmp_path / "work", {"config.json": MODEL, "sub/x": ""})
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work / "sub")

    for folder in (home, work, work / "sub"):
        with pytest.raises(OutputError, match="you work in it or it is your home"):
            check_target(folder, overwrite=True, inputs=())


def test_what_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (
        tmp_path / "empty",
        make_base(tmp_path / "base"),
        make_adapter(tmp_path / "adapter"),
    ):
        check_target(folder, overwrite=True, inputs=())
    check_target(tmp_path / "new" / "deep", overwrite=False, inputs=())


def test_never_writes_over_in_or_around_an_input(tmp_path: Path) -> None:
    base = make_base(tmp_path / "in" / "base")
    link = tmp_path / "link"
    link.symlink_to(base)

    for target in (base, base / "out", tmp_path / "in", link, base / ".." / "base"):
        with pytest.raises(OutputError, match="which is read"):
            check_target(target, overwrite=True, inputs=[base])
    check_target(tmp_path / "in" / "base2", overwrite=False, inputs=[base])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="no right to write"):
            check_target(tmp_path / "x", overwrite=False, inputs=())
    finally:
        tmp_path.chmod(0o755)


def test_a_target_below_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(OutputError, match="is a file, so no folder"):
        check_target(tmp_path / "file" / "model", overwrite=False, inputs=())
    with pytest.raises(OutputError), publishing(tmp_path / "file" / "model", overwrite=False):
        pass


def test_inputs_are_the_local_folders_of_base_and_adapters(tmp_path: Path) -> None:
    folded = Fold((Adapter("./one"), Adapter("owner/hub-adapter")))
    blueprint = Blueprint(
        Base("owner/hub-base"), folds=(folded,), adapters=(Adapter(str(tmp_path)),)
    )

    assert input_folders(blueprint) == [Path("one"), tmp_path]
