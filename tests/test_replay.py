"""A folder made again from its receipt: the same bytes, or what is to blame."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from pipeline import manifest
from pipeline.cli import main
from pipeline.errors import InputError
from pipeline.proof.findings import Findings
from pipeline.receipt.record import FILE_NAME
from pipeline.replay import replay
from tests.conftest import BuildBase
from tests.fixtures.models import build_adapter
from tests.fixtures.session import Session, Silent, merge


@pytest.fixture
def adapter(tmp_path: Path, base_model: BuildBase) -> Path:
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    return build_adapter(tmp_path / "adapter", base_model("llama"), config)


@pytest.fixture
def merged(tmp_path: Path, base_model: BuildBase, adapter: Path) -> Path:
    return merge(Session(tmp_path / "run"), base_model("llama"), adapter)


def again(folder: Path, **options: Any) -> Findings:
    return replay(folder, Silent(), **options)  # type: ignore[arg-type]


def edit_receipt(folder: Path, **base: Any) -> None:
    data = json.loads((folder / FILE_NAME).read_text())
    data["blueprint"]["base"].update(base)
    (folder / FILE_NAME).write_text(json.dumps(data))


def test_a_merge_comes_out_with_the_same_bytes(merged: Path) -> None:
    found = again(merged)

    assert (found.faults, found.changed, found.skipped) == ([], [], [])
    assert found.checked[0].startswith("5 files that were made again")


def test_a_merge_into_4_bits_and_another_dtype_does_too(
    tmp_path: Path, base_model: BuildBase, adapter: Path
) -> None:
    session = Session(tmp_path / "run")

    folder = merge(session, base_model("llama"), adapter, dtype="float16", quantization="nf4")

    assert again(folder).faults == []


def test_a_model_that_is_not_made_tensor_by_tensor_does_too(
    tmp_path: Path, base_model: BuildBase
) -> None:
    session = Session(tmp_path / "run")
    session.do("load_base", model=str(base_model("bert")), task="feature_extraction")
    session.do("save", path=str(tmp_path / "saved"))

    assert again(tmp_path / "saved").faults == []


def test_it_is_made_from_where_the_inputs_are_now(
    tmp_path: Path, base_model: BuildBase, adapter: Path, merged: Path
) -> None:
    base = shutil.copytree(base_model("llama"), tmp_path / "elsewhere")
    moved = adapter.rename(tmp_path / "moved")

    assert again(merged, base=str(base), adapters=[str(moved)]).faults == []


def test_an_adapter_that_was_changed_is_to_blame(
    merged: Path, adapter: Path, base_model: BuildBase
) -> None:
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    build_adapter(adapter, base_model("llama"), config, seed=5)

    found = again(merged)

    assert found.changed[0].startswith(
        f"{adapter}/adapter_model.safetensors: it is not the adapter"
    )
    assert [fault.where for fault in found.faults] == ["model.safetensors", "tensors"]
    assert "and 9 more" in found.faults[1].what, "of the 14 that the adapter claims"


def test_another_version_is_told_and_no_fault_by_itself(
    merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = {**manifest.versions(), "torch": "9.9"}
    monkeypatch.setattr(manifest, "versions", lambda: now)

    found = again(merged)

    assert found.faults == []
    (text,) = found.changed
    assert text.startswith("torch: ")
    assert text.endswith(" then, 9.9 now")


def test_a_file_that_was_changed_in_the_folder_is_told_from_one_that_comes_out_otherwise(
    merged: Path,
) -> None:
    with open(merged / "config.json", "a") as file:
        file.write("\n")

    (fault,) = again(merged).faults

    assert (fault.where, fault.what) == (
        "config.json",
        "was changed, or lost, since the folder was made",
    )


def test_a_folder_without_a_receipt_cannot_be_made_again(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no receipt"):
        again(tmp_path)


def test_an_input_that_is_gone_is_asked_for(merged: Path, adapter: Path) -> None:
    shutil.rmtree(adapter)

    with pytest.raises(InputError, match="cannot be read: there is no such folder") as caught:
        again(merged)

    assert "--adapter" in (caught.value.fix or "")


def test_code_of_the_base_runs_only_when_it_is_allowed_here(merged: Path) -> None:
    edit_receipt(merged, trust_remote_code=True)

    with pytest.raises(InputError, match="code that came with the base"):
        again(merged)


def test_a_receipt_does_not_decide_where_files_are_put(merged: Path, tmp_path: Path) -> None:
    placement = {"device_map": "auto", "max_memory": {}, "attn_implementation": None}
    edit_receipt(merged, placement={**placement, "offload_folder": str(tmp_path / "victim")})

    assert again(merged).faults == []
    assert not (tmp_path / "victim").exists()


def test_a_place_that_is_not_there_is_refused(merged: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        again(merged, scratch=tmp_path / "nowhere")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_leave_nothing_behind_either(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def write(*_: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("pipeline.replay._write", write)

    assert main(["replay", str(merged), "--dir", str(tmp_path / "scratch")]) == 130
    assert list((tmp_path / "scratch").iterdir()) == []


def test_nothing_is_left_behind(merged: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()

    again(merged, scratch=tmp_path / "scratch")

    assert list((tmp_path / "scratch").iterdir()) == []
