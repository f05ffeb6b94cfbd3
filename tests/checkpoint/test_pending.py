"""Which folders a recipe writes itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import Refused
from tests.conftest import BuildBase
from tests.fixtures.session import Session


@pytest.mark.parametrize("spelled", ["merged", "./merged", "{}/merged", "{}/run/../merged"])
def test_a_folder_is_the_one_that_is_written_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base_model: BuildBase, spelled: str
) -> None:
    monkeypatch.chdir(tmp_path)
    session = Session(tmp_path / "run")
    session.run.state = session.describe("load_base", model=str(base_model("llama")))
    session.run.state = session.describe("save", path="merged")
    named = spelled.format(tmp_path)

    assert session.describe("verify", folder=named).judged == {Path("merged")}
    with pytest.raises(Refused, match="an earlier step writes"):
        session.describe("save", path=named)
