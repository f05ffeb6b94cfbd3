"""What the trained model is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from tests.conftest import BuildBase
from tests.fixtures.session import Session


def test_a_prompt_without_a_token_is_named(tmp_path: Path, base_model: BuildBase) -> None:
    session = Session(tmp_path / "run")
    session.do("load_base", model=str(base_model("llama")))
    session.do("save", path=str(tmp_path / "run" / "copy"))

    with pytest.raises(InputError, match="makes no token of ''") as caught:
        session.do("verify", prompts=["a text", ""])

    assert caught.value.where == "verify.prompts"
