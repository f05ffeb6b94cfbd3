from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import InputError, Refused, RunError
from tests.fixtures.session import Session, Silent

# PEFT 0.21 calls transformers by names that transformers 5.23 has deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"
)

TALK = [
    {"prompt": f"What is number {i}?", "completion": " A spider has eight legs."} for i in range(16)
]
QUICK = {"r": 4, "steps": 12, "batch_size": 4, "learning_rate": 0.02, "max_length": 64}

Base = Callable[..., Path]


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in TALK), encoding="utf-8")
    return str(path)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_training_lowers_the_loss_of_the_steps_that_follow(
    session: Session, base_model: Base, data: str, quantization: str
) -> None:
    session.do("load_base", model=str(base_model("llama")), quantization=quantization)
    before = session.do("evaluate", data=data).metrics["loss"]
    path = session.run.dir / "adapter"
    trained = session.do("train_adapter", data=data, path=str(path), **QUICK)
    after = session.do("evaluate", data=data).metrics["loss"]
    assert after < before - 0.2  # type: ignore[operator]
    assert trained.metrics["steps"] == 12
    tensors = load_file(path / "adapter_model.safetensors")
    assert trained.metrics["trainable_parameters"] == sum(t.numel() for t in tensors.values())


def test_the_folder_is_an_adapter_that_peft_attaches(
    session: Session, base_model: Base, data: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = base_model("llama", dtype="float32")
    path = session.run.dir / "adapter"
    session.do("load_base", model=str(base))
    session.do("train_adapter", data=data, path=str(path), name="legs", **QUICK)
    ids = AutoTokenizer.from_pretrained(path)("A spider has", return_tensors="pt")
    plain = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        expected = PeftModel.from_pretrained(plain, path)(**ids).logits
        assert torch.equal(session.run.live().model(**ids).logits, expected)
    config = json.loads((path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert not [p for p in path.iterdir() if p.suffix == ".bin"]


def test_the_shape_of_the_adapter_is_as_asked(
    session: Session, base_model: Base, data: str
) -> None:
    path = session.run.dir / "adapter"
    session.do("load_base", model=str(base_model("llama")))
    session.do(
        "train_adapter",
        data=data,
        path=str(path),
        **{**QUICK, "steps": 1, "r": 2},
        alpha=5,
        target_modules=["q_proj"],
        modules_to_save=["lm_head"],
        use_dora=True,
        use_rslora=True,
    )
    config = json.loads((path / "adapter_config.json").read_text())
    wanted = {
        "r": 2,
        "lora_alpha": 5.0,
        "target_modules": ["q_proj"],
        "modules_to_save": ["lm_head"],
    }
    assert {key: config[key] for key in wanted} == wanted
    assert config["use_dora"]
    assert config["use_rslora"]
    kinds = {name.split(".")[-1] for name in load_file(path / "adapter_model.safetensors")}
    assert "lora_magnitude_vector" in kinds


IN_A_PROCESS = """
import sys
from pathlib import Path
from tests.fixtures.session import Session
base, data, folder = sys.argv[1:]
session = Session(Path(folder))
session.do("load_base", model=base, quantization="nf4")
session.do("train_adapter", data=data, path=folder + "/adapter", r=4, steps=3, dropout=0.1, seed=7)
"""


def test_the_same_seed_gives_the_same_bytes_in_every_process(
    session: Session, base_model: Base, data: str, tmp_path: Path
) -> None:
    base, runs = str(base_model("llama")), []
    root = str(Path(__file__).parents[2])
    for hash_seed in ("1", "2"):
        folder = tmp_path / hash_seed
        folder.mkdir()
        command = [sys.executable, "-c", IN_A_PROCESS, base, data, str(folder)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": root}
        subprocess.run(command, check=True, env=environment, cwd=root, capture_output=True)
        runs.append(folder_bytes(folder / "adapter"))
    assert runs[0] == runs[1]
    session.do("load_base", model=base, quantization="nf4")
    path = session.run.dir / "adapter"
    session.do("train_adapter", data=data, path=str(path), r=4, steps=3, dropout=0.1, seed=8)
    weights = "adapter_model.safetensors"
    assert folder_bytes(path)[weights] != runs[0][weights]


def test_a_prompt_is_learned_only_when_it_is_asked_for(
    session: Session, base_model: Base, tmp_path: Path
) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text(
        json.dumps({"prompt": "What is the capital of France?", "completion": "!"}) + "\n"
    )
    text = tmp_path / "prompt.jsonl"
    text.write_text(json.dumps({"text": "What is the capital of France?"}) + "\n")
    losses = {}
    for only in (True, False):
        session.do("load_base", model=str(base_model("llama")))
        session.do(
            "train_adapter",
            data=str(path),
            path=str(session.run.dir / f"adapter-{only}"),
            completion_only=only,
            **QUICK,
        )
        losses[only] = session.do("evaluate", data=str(text)).metrics["loss"]
    assert losses[False] < losses[True] - 0.2  # type: ignore[operator]


def test_an_encoder_decoder_can_be_trained(
    session: Session, base_model: Base, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"input": "Load the base", "target": "Eight."}) + "\n")
    session.do("load_base", model=str(base_model("t5")), task="seq2seq_lm")
    before = session.do("evaluate", data=str(path)).metrics["loss"]
    session.do("train_adapter", data=str(path), path=str(session.run.dir / "adapter"), **QUICK)
    after = session.do("evaluate", data=str(path)).metrics["loss"]
    assert after < before - 0.2  # type: ignore[operator]


def test_checkpointed_activations_change_nothing_but_memory(
    session: Session, base_model: Base, data: str
) -> None:
    weights = []
    for checkpointing in (True, False):
        session.do("load_base", model=str(base_model("llama", dtype="float32")))
        path = session.run.dir / f"adapter-{checkpointing}"
        settings: dict[str, Any] = {**QUICK, "steps": 2, "gradient_checkpointing": checkpointing}
        session.do("train_adapter", data=data, path=str(path), **settings)
        weights.append(load_file(path / "adapter_model.safetensors"))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name])


def test_training_that_diverges_fails_and_writes_nothing(
    session: Session, base_model: Base, data: str
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    path = session.run.dir / "adapter"
    settings: dict[str, Any] = {**QUICK, "learning_rate": 1e30}
    with pytest.raises(RunError, match="diverged"):
        session.do("train_adapter", data=data, path=str(path), **settings)
    assert [p.name for p in session.run.dir.iterdir() if "adapter" in p.name and p.is_dir()] == []


def test_target_modules_that_the_model_has_not_are_an_error(
    session: Session, base_model: Base, data: str
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    with pytest.raises(RunError, match="cannot adapt") as caught:
        session.do(
            "train_adapter", data=data, target_modules=["qkv"], path=str(session.run.dir / "a")
        )
    assert "all-linear" in str(caught.value.fix)


def test_examples_that_are_cut_off_are_told(session: Session, base_model: Base, data: str) -> None:
    session.do("load_base", model=str(base_model("llama")))
    settings: dict[str, Any] = {**QUICK, "steps": 1, "max_length": 20}
    path = session.run.dir / "adapter"
    record = session.do("train_adapter", data=data, path=str(path), **settings)
    assert "16 of 16 examples were cut off" in record.warnings[0]
    assert isinstance(session.run.console, Silent)


def test_prompts_that_leave_no_room_for_an_answer_are_an_error(
    session: Session, base_model: Base, data: str
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    settings: dict[str, Any] = {**QUICK, "max_length": 4}
    with pytest.raises(InputError, match="nothing to learn"):
        session.do("train_adapter", data=data, path=str(session.run.dir / "adapter"), **settings)


def test_training_beside_an_attached_adapter_is_refused(
    session: Session, base_model: Base, data: str
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    settings: dict[str, Any] = {**QUICK, "steps": 1}
    session.do("train_adapter", data=data, path=str(session.run.dir / "one"), **settings)
    with pytest.raises(Refused, match="attached already") as caught:
        session.describe("train_adapter", data=data, path=str(session.run.dir / "two"))
    assert caught.value.otherwise.last_folder("adapter").path == session.run.dir / "two"


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"data": "nowhere.jsonl"}, "data"), ({"path": __file__}, "path")],
)
def test_paths_that_cannot_be_are_refused_before_the_run(
    session: Session, base_model: Base, data: str, settings: dict[str, str], key: str
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    with pytest.raises(Refused) as caught:
        session.describe(
            "train_adapter", **{"data": data, "path": str(session.run.dir / "a"), **settings}
        )
    assert caught.value.key == key


def test_a_task_that_cannot_be_trained_is_refused(
    session: Session, base_model: Base, data: str
) -> None:
    session.do("load_base", model=str(base_model("whisper")), task="speech_seq2seq")
    with pytest.raises(Refused, match="speech_seq2seq"):
        session.describe("train_adapter", data=data)
