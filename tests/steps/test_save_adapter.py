from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from pipeline.errors import Refused
from tests.fixtures.models import build_adapter, build_tokenizer
from tests.fixtures.session import Session

Base = Callable[..., Path]


@pytest.fixture
def adapter(base_model: Base, tmp_path: Path) -> Path:
    return build_adapter(
        tmp_path / "lora", base_model("llama"), LoraConfig(r=2, target_modules=["q_proj"])
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_adapter_goes_with_the_tokenizer_and_without_the_base(
    session: Session, base_model: Base, adapter: Path
) -> None:
    base, path = base_model("llama"), session.run.dir / "copy"
    session.do("load_base", model=str(base))
    session.do("attach_adapter", path=str(adapter))
    record = session.do("save_adapter", path=str(path))
    weights = "adapter_model.safetensors"
    assert (path / weights).read_bytes() == (adapter / weights).read_bytes()
    assert (path / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert not names(path) & {"config.json", "model.safetensors", "generation_config.json"}
    size = (adapter / weights).stat().st_size
    whole = (base / "model.safetensors").stat().st_size
    assert record.metrics == {"bytes": size, "base_bytes": whole, "share": size / whole}
    assert f"({size / whole:.2%})" in record.notes[0]


def test_a_tokenizer_of_the_adapter_comes_before_the_bases(
    session: Session, base_model: Base, adapter: Path
) -> None:
    build_tokenizer(adapter, extra=("<new>",))
    path = session.run.dir / "copy"
    session.do("load_base", model=str(base_model("llama")))
    session.do("attach_adapter", path=str(adapter))
    session.do("save_adapter", path=str(path))
    assert (path / "tokenizer.json").read_bytes() == (adapter / "tokenizer.json").read_bytes()


def test_a_pickled_adapter_is_written_as_safetensors(
    session: Session, base_model: Base, adapter: Path
) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    torch.save(tensors, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    path = session.run.dir / "copy"
    session.do("load_base", model=str(base_model("llama")))
    session.do("attach_adapter", path=str(adapter))
    session.do("save_adapter", path=str(path))
    copied = load_file(path / "adapter_model.safetensors")
    assert copied.keys() == tensors.keys()
    assert all(torch.equal(copied[name], tensors[name]) for name in tensors)
    assert "adapter_model.bin" not in names(path)


def test_one_of_several_is_chosen_by_name_also_after_a_merge(
    session: Session, base_model: Base, adapter: Path, tmp_path: Path
) -> None:
    config = LoraConfig(r=4, target_modules=["v_proj"])
    other = build_adapter(tmp_path / "other", base_model("llama"), config)
    session.do("load_base", model=str(base_model("llama")))
    session.do("attach_adapter", path=str(adapter), name="first")
    session.do("attach_adapter", path=str(other), name="second")
    session.do("merge")
    for name, rank in (("first", 2), (None, 4)):
        path = session.run.dir / f"copy of {name}"
        session.do("save_adapter", path=str(path), adapter=name)
        assert json.loads((path / "adapter_config.json").read_text())["r"] == rank


def test_a_name_that_no_adapter_has_is_refused(
    session: Session, base_model: Base, adapter: Path
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    session.do("attach_adapter", path=str(adapter), name="legs")
    with pytest.raises(Refused, match="no adapter named 'lags'") as caught:
        session.describe("save_adapter", adapter="lags", path=str(session.run.dir / "copy"))
    assert "did you mean 'legs'?" in str(caught.value.fix)


def test_an_existing_folder_is_left_alone_unless_it_may_be_replaced(
    session: Session, base_model: Base, adapter: Path, tmp_path: Path
) -> None:
    config = LoraConfig(r=4, target_modules=["v_proj"])
    target = build_adapter(tmp_path / "target", base_model("llama"), config)
    session.do("load_base", model=str(base_model("llama")))
    session.do("attach_adapter", path=str(adapter))
    with pytest.raises(Refused, match="exists already"):
        session.describe("save_adapter", path=str(target))
    session.do("save_adapter", path=str(target), overwrite=True)
    assert json.loads((target / "adapter_config.json").read_text())["r"] == 2


def test_the_adapter_that_is_read_is_never_the_target(
    session: Session, base_model: Base, adapter: Path
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    session.do("attach_adapter", path=str(adapter))
    with pytest.raises(Refused, match="which is read"):
        session.describe("save_adapter", path=str(adapter), overwrite=True)
