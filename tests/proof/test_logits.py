from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.blueprint import Base, Placement
from pipeline.errors import VerificationError
from pipeline.proof.clean import ask
from pipeline.proof.logits import Request, answers, continuations, main, tokenized

ROOT = Path(__file__).parents[2]


def test_a_request_survives_the_way_through_a_file() -> None:
    placement = Placement(device_map="auto", max_memory={"0": "1GiB"})
    base = Base("./m", task="seq2seq_lm", placement=placement)
    request = Request(base, "cpu", "out", prompts=("ä",), token_ids=((1, 2),), threads=3)
    assert Request.from_json(request.to_json()) == request


def test_the_clean_process_answers_like_plain_transformers(
    base_model: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, prompts = base_model("llama"), ("Load the base", "merge")
    threads = torch.get_num_threads()
    out = tmp_path / "out"
    found = ask(Request(Base(str(base)), "cpu", str(out), prompts=prompts, threads=threads))
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(base),
        AutoTokenizer.from_pretrained(base),
    )
    assert found.token_ids == tokenized(tokenizer, prompts)
    for prompt, logits in zip(prompts, found.logits, strict=True):
        with torch.no_grad():
            expected = model(**tokenizer(prompt, return_tensors="pt")).logits[0]
        assert torch.equal(logits, expected)
    assert found.dtype == "bfloat16"
    assert list(tmp_path.iterdir()) == [out]


def test_peft_cannot_be_imported_once_the_clean_process_has_begun(
    base_model: Callable[..., Path], tmp_path: Path
) -> None:
    request = tmp_path / "request.json"
    base = Base(str(base_model("llama")))
    request.write_text(
        Request(base, "cpu", output=str(tmp_path / "out"), token_ids=((1, 2),)).to_json()
    )
    code = f"from pipeline.proof.logits import main\nmain({str(request)!r})\nimport peft"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (tmp_path / "out").is_dir()
    assert done.returncode == 1
    assert "ModuleNotFoundError: import of peft halted" in done.stderr


def test_a_process_that_has_imported_peft_is_not_clean(tmp_path: Path) -> None:
    import peft  # noqa: F401

    with pytest.raises(RuntimeError, match="process of its own"):
        main(str(tmp_path / "request.json"))


def test_what_goes_wrong_in_the_clean_process_is_told(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    request = Request(Base(str(tmp_path / "nowhere")), "cpu", out, prompts=("a",))
    with pytest.raises(VerificationError, match="nowhere") as caught:
        ask(request)
    assert caught.value.where == str(tmp_path / "nowhere")


def test_long_prompts_are_cut_to_the_positions_of_the_model(
    base_model: Callable[..., Path],
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base_model("gpt2"))
    (rows,) = answers(model, "causal_lm", [[7] * 200])
    assert rows.shape == (62, 320)


def test_a_model_goes_on_with_its_likeliest_tokens_whatever_its_own_generation_config_says(
    base_model: Callable[..., Path],
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base_model("llama", initializer_range=0.1))
    model.generation_config.repetition_penalty = 5.0
    ids, expected = [5, 6, 7], []
    for _ in range(8):
        (logits,) = answers(model, "causal_lm", [ids + expected])
        expected.append(int(logits[-1].argmax()))
    assert continuations(model, "causal_lm", [ids], 8) == [expected]
    assert continuations(model, "feature_extraction", [ids], 8) == []
    assert continuations(model, "causal_lm", [ids], 0) == []
