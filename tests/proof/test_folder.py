"""Broken folders, each of which `mergeline verify` must name; and sound ones, which it must pass."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import InputError
from pipeline.proof import origins
from pipeline.proof.tensors import find_tensors
from pipeline.receipt.record import FILE_NAME
from tests.fixtures.models import build_adapter, build_base
from tests.fixtures.session import Session, merge
from tests.fixtures.verified import CLAIMED, Made, edit, places, shards, verify, without_receipt


def test_a_sound_folder_holds_and_all_of_it_was_looked_at(folder: Path) -> None:
    found = verify(folder)

    assert (found.faults, found.skipped) == ([], [])
    assert found.checked[-2].startswith("7 tensors against the base's own bytes, 14 against")
    assert found.checked[-1].startswith("14 merged modules on random inputs: off by 0.")


@pytest.mark.parametrize(
    "load", [{"quantization": "nf4"}, {"dtype": "float32"}], ids=["nf4", "float32"]
)
def test_other_sound_folders_hold(made: Made, tmp_path: Path, load: dict[str, str]) -> None:
    found = verify(made.merge(tmp_path / "run", made.adapter, **load))

    assert (found.faults, found.skipped) == ([], [])


def test_weights_that_nobody_trained_on_are_told_of(made: Made, tmp_path: Path) -> None:
    """The folder is what its receipt says; whether that is what was trained is another question."""
    found = verify(made.merge(tmp_path / "run", made.adapter, quantization="nf4"))
    assert not found.skipped
    original = made.merge(tmp_path / "other", made.adapter, quantization="nf4", weights="original")
    assert "merged into other weights than those of the training" in verify(original).skipped[0]


def test_two_merges_one_after_the_other_hold(made: Made, tmp_path: Path) -> None:
    found = verify(made.merge(tmp_path / "run", made.adapter, made.other))

    assert (found.faults, found.skipped) == ([], [])


def test_a_folder_without_a_receipt_holds_by_its_base_and_adapter(made: Made, folder: Path) -> None:
    found = without_receipt(folder, made)

    assert found.faults == []
    assert found.skipped == [f"the hashes of the files: the folder has no {FILE_NAME}"]


def test_a_folder_that_plain_calls_merged_holds(made: Made, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(made.base)
    PeftModel.from_pretrained(model, made.adapter).merge_and_unload().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(made.base).save_pretrained(tmp_path)

    assert [f for f in without_receipt(tmp_path, made).faults if "tokenizer" not in f.where] == []


@pytest.mark.parametrize("receipt", [True, False], ids=["by the receipt", "by base and adapter"])
def test_a_single_flipped_bit_is_found_in_every_tensor(
    made: Made, folder: Path, receipt: bool
) -> None:
    for number, (key, stored) in enumerate(find_tensors(str(folder)).items()):
        data = bytearray(stored.file.read_bytes())
        sound = bytes(data)
        middle = (stored.info.start + stored.info.end) // 2
        data[middle] ^= 1 << (number % 8)
        stored.file.write_bytes(data)

        found = verify(folder) if receipt else without_receipt(folder, made)

        stored.file.write_bytes(sound)
        tensor = f"{stored.file.name}: {key}"
        assert places(found) == ({tensor, stored.file.name} if receipt else {tensor})


def test_swapped_shards_are_found(made: Made, folder: Path) -> None:
    first, second, *_ = shards(folder)
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)

    found = verify(folder)

    assert {first.name, second.name} <= places(found)
    mixed = [fault for fault in found.faults if "the files were mixed up" in fault.what]
    assert {fault.where for fault in mixed} == {first.name, second.name}
    assert any("mixed up" in fault.what for fault in without_receipt(folder, made).faults)


def test_a_merge_of_another_adapter_is_found(made: Made, folder: Path) -> None:
    by_hash = verify(folder, made.other)

    (folder / FILE_NAME).unlink()
    by_tensors = verify(folder, made.other, base=made.base)

    assert places(by_hash) == {f"{made.other}/adapter_model.safetensors"}
    assert len(by_tensors.faults) == CLAIMED
    assert all("is not what base and adapters make" in f.what for f in by_tensors.faults)


def test_an_adapter_that_was_merged_twice_is_found(made: Made, tmp_path: Path) -> None:
    twice = made.merge(tmp_path / "run", made.adapter, made.adapter)

    assert len(without_receipt(twice, made).faults) == CLAIMED


def test_a_module_that_was_left_out_is_found(made: Made, folder: Path) -> None:
    key = "model.layers.1.mlp.up_proj.weight"
    own = find_tensors(str(folder))[key].file
    base = load_file(made.base / "model.safetensors")
    save_file({**load_file(own), key: base[key]}, own, {"format": "pt"})

    assert places(without_receipt(folder, made)) == {f"{own.name}: {key}"}


def test_tensors_are_made_again_a_few_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origins, "AT_A_TIME", 20_000)

    assert verify(folder).faults == []


def test_inputs_that_are_not_here_are_said_and_no_fault(folder: Path) -> None:
    edit(folder / FILE_NAME, lambda r: r["inputs"][0].update(reference="/elsewhere/base"))
    edit(folder / FILE_NAME, lambda r: r["blueprint"]["base"].update(model="/elsewhere/base"))

    found = verify(folder)

    assert found.faults == []
    assert found.skipped[0].startswith("the base, which was /elsewhere/base: it is not on this")
    assert found.skipped[1].startswith("the tensors against base and adapters")


@pytest.mark.parametrize("receipt", [True, False])
def test_a_base_that_is_named_and_not_there_is_refused(
    folder: Path, tmp_path: Path, receipt: bool
) -> None:
    if not receipt:
        (folder / FILE_NAME).unlink()

    with pytest.raises(InputError, match="there is no such folder"):
        verify(folder, base=tmp_path / "nowhere")


def test_inputs_may_lie_elsewhere_now(made: Made, folder: Path, tmp_path: Path) -> None:
    base, adapter = (tmp_path / name for name in ("moved base", "moved adapter"))
    shutil.copytree(made.base, base)
    shutil.copytree(made.adapter, adapter)

    found = verify(folder, adapter, base=base)

    assert (found.faults, found.skipped) == ([], [])


def test_a_base_of_the_hub_is_fetched_only_where_it_is_asked_for(folder: Path) -> None:
    edit(folder / FILE_NAME, lambda r: r["inputs"][0].update(reference="owner/name"))
    edit(folder / FILE_NAME, lambda r: r["blueprint"]["base"].update(model="owner/name"))

    found = verify(folder)

    assert found.skipped[0] == (
        "the base owner/name, which is on the Hub: `--base owner/name` fetches it"
    )


def test_a_receipt_does_not_decide_that_code_is_run(made: Made, folder: Path) -> None:
    edit(folder / FILE_NAME, lambda r: r["blueprint"]["base"].update(trust_remote_code=True))

    found = verify(folder)

    assert found.faults == []
    assert "which is not run here" in found.skipped[0]


def test_a_damaged_receipt_is_a_fault(folder: Path) -> None:
    (folder / FILE_NAME).write_text("{")

    assert places(verify(folder)) == {str(folder / FILE_NAME)}


def test_adapters_must_be_as_many_as_were_merged(made: Made, folder: Path) -> None:
    with pytest.raises(InputError, match="was made with 1 adapters, and 2 are given"):
        verify(folder, made.adapter, made.other)


@pytest.mark.parametrize("name", ["nothing", "merged/nothing"])
def test_a_folder_that_is_not_there_is_refused_and_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InputError, match="there is no such folder"):
        verify(Path(name))


@pytest.mark.parametrize(
    ("architecture", "task_type", "load"),
    [("gpt2", "CAUSAL_LM", {}), ("t5", "SEQ_2_SEQ_LM", {"task": "seq2seq_lm"})],
)
def test_models_that_are_made_a_few_modules_at_a_time_are_compared_too(
    tmp_path: Path, architecture: str, task_type: str, load: dict[str, str]
) -> None:
    base = build_base(tmp_path / "base", architecture)
    auto = "AutoModelForSeq2SeqLM" if load else "AutoModelForCausalLM"
    transposed = architecture == "gpt2"
    config = LoraConfig(
        r=4, target_modules="all-linear", task_type=task_type, fan_in_fan_out=transposed
    )
    adapter = build_adapter(tmp_path / "adapter", base, config, auto_class=auto)
    folder = merge(Session(tmp_path / "run"), base, adapter, **load)

    sound = verify(folder)
    key, stored = list(find_tensors(str(folder)).items())[-1]
    data = bytearray(stored.file.read_bytes())
    data[stored.info.start] ^= 1
    stored.file.write_bytes(data)

    assert sound.faults == []
    assert not any("against base and adapters" in text for text in sound.skipped)
    assert places(verify(folder)) == {stored.file.name, f"{stored.file.name}: {key}"}


def test_an_adapter_of_another_model_is_found(made: Made, folder: Path, tmp_path: Path) -> None:
    base = build_base(tmp_path / "larger", hidden_size=128)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    stranger = build_adapter(tmp_path / "stranger", base, config)
    (folder / FILE_NAME).unlink()

    found = verify(folder, stranger, base=made.base)

    (fault,) = found.faults
    assert fault.where.startswith(f"{stranger}/adapter_model.safetensors: base_model.model")
    assert fault.what.startswith("does not fit the base")


def test_the_folder_of_a_run_is_no_model(made: Made) -> None:
    with pytest.raises(InputError, match="holds no model") as caught:
        verify(made.merged.parent)

    assert caught.value.fix == f"did you mean {made.merged}?"


def test_a_model_that_only_lives_in_memory_is_said_not_to_be_compared(
    made: Made, tmp_path: Path
) -> None:
    session = Session(tmp_path / "run")
    session.do("load_base", model=str(made.base), quantization="nf4")
    session.do("save", path=str(tmp_path / "run" / "saved"))

    found = verify(tmp_path / "run" / "saved")

    assert found.faults == []
    assert any("`mergeline replay` does that" in text for text in found.skipped)


def test_values_that_are_not_finite_are_told_like_others(made: Made, folder: Path) -> None:
    key = "model.layers.0.mlp.up_proj.weight"
    file = find_tensors(str(folder))[key].file
    tensors = load_file(file)
    tensors[key][0, 0] = torch.nan
    save_file(tensors, file, {"format": "pt"})

    assert places(without_receipt(folder, made)) == {f"{file.name}: {key}"}
