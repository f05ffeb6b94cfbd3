"""The receipt in a model folder: complete, true, and there before the folder is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest
from peft import LoraConfig

from pipeline.blueprint import Blueprint
from pipeline.checkpoint.hashes import hash_file
from pipeline.errors import InputError
from pipeline.receipt.make import fingerprint
from pipeline.receipt.record import FILE_NAME, Proof, Receipt, add_proof, read_receipt, schema
from tests.conftest import BuildBase
from tests.fixtures.models import build_adapter
from tests.fixtures.session import Session, merge


@pytest.fixture
def base(base_model: BuildBase) -> Path:
    return base_model("llama")


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    return build_adapter(tmp_path / "adapter", base, config)


@pytest.fixture
def merged(tmp_path: Path, base: Path, adapter: Path) -> Path:
    return merge(Session(tmp_path / "run"), base, adapter)


def test_a_saved_folder_says_what_it_is_made_of(merged: Path, base: Path, adapter: Path) -> None:
    receipt = read_receipt(merged)

    assert [(one.role, one.reference) for one in receipt.inputs] == [
        ("base", str(base)),
        ("adapter", str(adapter)),
    ]
    for one in receipt.inputs:
        folder = Path(one.reference)
        assert {file.name: file.blake3 for file in one.files} == {
            file.name: hash_file(folder / file.name) for file in one.files
        }
        assert any(file.name.endswith(".safetensors") for file in one.files)
    assert {file.name: file.blake3 for file in receipt.files} == {
        file.name: hash_file(file) for file in merged.iterdir() if file.name != FILE_NAME
    }
    assert receipt.blueprint.folds[0].adapters[0].path == str(adapter)
    assert {"torch", "peft", "python"} <= receipt.versions.keys()


def test_paths_are_recorded_so_that_they_are_found_from_anywhere(
    tmp_path: Path, base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    receipt = read_receipt(merge(Session(tmp_path / "run"), base, Path("adapter")))

    assert receipt.inputs[1].reference == str(adapter)
    assert receipt.blueprint.folds[0].adapters[0].path == str(adapter)


def test_a_folder_whose_receipt_cannot_be_written_is_not_published(
    tmp_path: Path, base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("pipeline.receipt.make.write_receipt", fail)

    with pytest.raises(OSError, match="no"):
        merge(Session(tmp_path / "run"), base, adapter)

    assert not (tmp_path / "run" / "merged").exists()


def test_the_fingerprint_follows_the_bytes_that_go_in_and_not_their_place(
    tmp_path: Path, base: Path, adapter: Path, merged: Path
) -> None:
    elsewhere = shutil.copytree(base, tmp_path / "elsewhere" / "base")
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    other = build_adapter(tmp_path / "other", base, config, seed=2)

    first = read_receipt(merged).fingerprint
    moved = read_receipt(merge(Session(tmp_path / "2"), elsewhere, adapter)).fingerprint
    another = read_receipt(merge(Session(tmp_path / "3"), base, other)).fingerprint

    assert first == moved
    assert first != another


def test_the_fingerprint_follows_settings_and_versions(merged: Path) -> None:
    receipt = read_receipt(merged)

    def of(blueprint: Blueprint = receipt.blueprint, version: str = "1", size: str = "5GB") -> str:
        saved = receipt.saved.model_copy(update={"max_shard_size": size})
        return fingerprint(blueprint, receipt.inputs, saved, {"torch": version})

    dequantized = Blueprint(receipt.blueprint.base, dequantize=True, folds=receipt.blueprint.folds)

    assert len({of(), of(version="2"), of(size="1GB"), of(dequantized)}) == 4


def test_the_verify_step_puts_its_figures_into_the_receipt(
    tmp_path: Path, base: Path, adapter: Path
) -> None:
    session = Session(tmp_path / "run")
    folder = merge(session, base, adapter)

    record = session.do("verify")

    (proof,) = read_receipt(folder).proofs
    assert (proof.step, proof.passed) == ("verify", True)
    assert proof.figures == record.metrics
    assert [Path(output.path).name for output in record.outputs] == [FILE_NAME]


def test_a_proof_takes_the_place_of_an_earlier_one_of_its_step(merged: Path) -> None:
    for step, passed in (("one", False), ("two", True), ("one", True)):
        assert add_proof(merged, Proof(step=step, passed=passed, figures={}))

    found = [(proof.step, proof.passed) for proof in read_receipt(merged).proofs]
    assert sorted(found) == [("one", True), ("two", True)]
    assert sorted(file.name for file in merged.iterdir() if file.name.startswith(".")) == []


def test_a_folder_without_a_receipt_takes_no_proof(tmp_path: Path) -> None:
    assert not add_proof(tmp_path, Proof(step="verify", passed=True, figures={}))
    assert not (tmp_path / FILE_NAME).exists()


def test_secrets_stay_out_of_the_receipt(merged: Path) -> None:
    receipt = read_receipt(merged)
    receipt.resolved["params"] = {"hf_token": "hf_abcdefghijklmnop1234", "base": "x"}

    said = Receipt.model_validate_json(receipt.to_json())

    assert said.resolved["params"] == {"hf_token": "[hidden]", "base": "x"}


@pytest.mark.parametrize("name", ["../config.json", "/etc/passwd", "a/../../b", "..\\b", ""])
def test_a_receipt_that_names_files_elsewhere_is_refused(merged: Path, name: str) -> None:
    data = json.loads((merged / FILE_NAME).read_text())
    data["files"][0]["name"] = name
    (merged / FILE_NAME).write_text(json.dumps(data))

    with pytest.raises(InputError, match="leaves the folder"):
        read_receipt(merged)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}'])
def test_what_is_no_receipt_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)

    with pytest.raises(InputError, match="is not a receipt"):
        read_receipt(tmp_path)


@pytest.mark.parametrize("inputs", [slice(0, 0), slice(0, 1), slice(None, None, -1)])
def test_a_receipt_whose_inputs_are_not_those_of_its_model_is_refused(
    merged: Path, inputs: slice
) -> None:
    data = json.loads((merged / FILE_NAME).read_text())
    data["inputs"] = data["inputs"][inputs]
    (merged / FILE_NAME).write_text(json.dumps(data))

    with pytest.raises(InputError, match="not one base and 1 adapters"):
        read_receipt(merged)


def test_a_folder_without_a_receipt_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no receipt"):
        read_receipt(tmp_path)


def test_the_schema_describes_the_file(merged: Path) -> None:
    add_proof(merged, Proof(step="verify", passed=True, figures={"error": 0.1, "kept": None}))

    jsonschema.validate(json.loads((merged / FILE_NAME).read_text()), schema())
