"""Finding the files of a base or an adapter on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.checkpoint.source import is_path, locate
from pipeline.errors import InputError
from tests.fixtures.folders import make_base, write_files


def refusal(reference: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        locate(str(reference))
    assert caught.value.fix
    return str(caught.value)


def test_lists_files_and_those_of_folders_below_without_hidden_ones(tmp_path: Path) -> None:
    folder = write_files(
        tmp_path, {"a.txt": "12", "sub/b.txt": "1", "sub/deep/c.txt": "", ".git/d": "", ".e": ""}
    )

    source = locate(str(folder))

    assert dict(source.files) == {"a.txt": 2, "sub/b.txt": 1}
    assert source.fetch() == folder
    assert (source.repo, source.commit) == (None, None)


def test_only_narrows_the_files_and_passes_over_names_that_are_not_there(tmp_path: Path) -> None:
    source = locate(str(write_files(tmp_path, {"a": "1", "b": "2"})))

    assert list(source.only(["b", "c"]).files) == ["b"]


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("./x", True),
        ("../x", True),
        ("/x", True),
        ("~/x", True),
        ("C:\\models\\x", True),
        ("c:/x", True),
        ("a/b/c", True),
        ("owner/name", False),
        ("gpt2", False),
    ],
)
def test_tells_paths_from_ids(reference: str, expected: bool) -> None:
    assert is_path(reference) is expected


def test_a_folder_that_exists_is_a_folder_even_if_it_looks_like_an_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_base(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)

    assert locate("owner/name").folder == Path("owner/name")


def test_a_missing_folder_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    make_base(tmp_path / "my_model")

    assert f"did you mean {tmp_path / 'my_model'}?" in refusal(tmp_path / "my_modle")


def test_a_file_in_place_of_a_folder_is_told_with_its_folder(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")

    assert f"give the folder that holds it: {base}" in refusal(base / "model.safetensors")
    (tmp_path / "m.gguf").write_text("GGUF")
    assert "llama.cpp" in refusal(tmp_path / "m.gguf")


def test_a_text_that_is_neither_a_path_nor_an_id_is_told(tmp_path: Path) -> None:
    for reference in ("", "my model", "owner/na me", "owner--name", "-x", "a..b"):
        assert "neither a folder nor" in refusal(reference)


def test_a_git_lfs_pointer_is_told(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (base / "model.safetensors").write_text(pointer)

    message = refusal(base)

    assert "model.safetensors: is a git-LFS pointer" in message
    assert "git lfs pull" in message


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    base = make_base(tmp_path / "base")
    (base / "tokenizer.model").symlink_to(secret)

    assert "is a link that leaves the folder" in refusal(base)


def test_links_within_the_folder_and_within_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    (base / "copy.json").symlink_to(base / "config.json")
    assert "copy.json" in locate(str(base)).files

    cache = tmp_path / "models--owner--name"
    write_files(cache, {"blobs/abc": "{}"})
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    assert locate(str(snapshot)).read_json("config.json") == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    base.chmod(0)
    try:
        assert "may not be read" in refusal(base)
    finally:
        base.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "empty"),
        (b"{", "is not JSON: "),
        (b"\xff\xfe\x00", "not text"),
        (b"[1]", "holds a list"),
        (b'"x"', "holds a string"),
        (b"null", "holds null"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_json_that_is_none_is_told_with_its_file(tmp_path: Path, text: bytes, says: str) -> None:
    base = make_base(tmp_path / "base")
    (base / "config.json").write_bytes(text)

    with pytest.raises(InputError, match=says) as caught:
        locate(str(base)).read_json("config.json")

    assert str(base / "config.json") in str(caught.value)


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    (base / "x.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')

    source = locate(str(base))

    assert source.read_json("x.json") == {"a": 1}
    assert source.read_json("missing.json") is None
