"""What `dequantize` and `merge` make of a blueprint, and how recipes say it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from transformers import BitsAndBytesConfig

from pipeline.blueprint import Fold
from pipeline.errors import Problem, RecipeError, Refused
from pipeline.recipe import load
from tests.fixtures.folders import make_adapter, make_base
from tests.fixtures.session import Session

RECIPE = """
steps:
  - load_base: {preset: nf4, model: ./base}
  - attach_adapter: {path: ./adapter}
  - dequantize: {from: original}
  - merge: {accumulate: float32}
  - save
"""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_base(tmp_path / "base")
    make_adapter(tmp_path / "adapter")


def problems(*overrides: str, text: str = RECIPE) -> list[Problem]:
    Path("r.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load("r.yaml", overrides)
    return list(caught.value.problems)


def test_an_option_that_is_a_word_of_python_is_written_as_it_is(folders: None) -> None:
    Path("r.yaml").write_text(RECIPE)
    asked = [load("r.yaml", o).steps[2].settings.from_ for o in ([], ["dequantize.from=quantized"])]
    assert asked == ["original", "quantized"]
    (problem,) = problems("dequantize.from_=original")
    assert problem.what == "`dequantize` has no option 'from_'"
    assert problem.fix == "did you mean 'from'?"
    (problem,) = problems(text=RECIPE.replace("from: original", "from: orignal"))
    assert problem.key == "dequantize.from"
    assert problem.fix == "did you mean 'original'?"


def test_the_blueprint_says_which_weights_and_how_they_are_summed(
    session: Session, folders: None
) -> None:
    session.do("load_base", model="base", quantization="nf4")
    session.do("attach_adapter", path="adapter")
    session.do("dequantize", **{"from": "original"})
    session.do("merge", accumulate="float32", safe=False)
    blueprint = session.state.blueprint
    assert blueprint is not None
    assert blueprint.base.quantization is not None
    assert blueprint.loaded.quantization is None
    (fold,) = blueprint.folds
    assert fold == Fold(fold.adapters, safe=False, accumulate="float32")
    # The adapter was trained on what 4 bits hold, whatever it is merged into.
    trained = blueprint.trained()
    assert trained.loaded.quantization == blueprint.base.quantization
    assert trained.dequantize_from == "quantized"


def test_a_base_that_is_saved_quantized_has_no_original(
    session: Session, base_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base_model("llama"), quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )
    model.save_pretrained(tmp_path / "fp4")
    session.do("load_base", model=str(tmp_path / "fp4"))
    with pytest.raises(Refused, match="saved in fp4, without its original weights") as caught:
        session.describe("dequantize", **{"from": "original"})
    assert caught.value.key == "from"
    assert caught.value.fix is not None
    assert "load the model that it was made from" in caught.value.fix
    assert session.describe("dequantize").blueprint is not None
