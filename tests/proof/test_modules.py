"""Each merged module against the base and PEFT's own layer; one that is a little wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from pipeline.errors import VerificationError
from pipeline.proof.module_table import module_table
from pipeline.proof.module_tolerance import default_module_tolerance, delta_kept
from pipeline.proof.modules import ModuleFigures, ModuleProof, why_no_modules
from pipeline.realise.stream import windows
from tests.fixtures.models import build_adapter
from tests.fixtures.session import Session, merge
from tests.proof.test_merges import judge

Base = Callable[..., Path]
DOWN = "model.layers.1.mlp.down_proj"
LARGER = {"hidden_size": 128, "intermediate_size": 256}
"""Than the other models of the tests: figures of chance need some numbers."""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "run")


def build(base: Path, folder: Path, scale: float = 0.02, **options: Any) -> Path:
    config = LoraConfig(**{"r": 8, "target_modules": "all-linear", **options})
    return build_adapter(folder, base, config, scale=scale)


def prove(session: Session) -> dict[str, ModuleFigures]:
    folder = session.state.last_folder()
    assert folder is not None
    proof = ModuleProof(folder.blueprint, folder.path)
    done: list[float] = []
    found = {figures.name: figures for figures in proof.figures(done.append)}
    assert sum(done) == proof.bytes > 0
    return found


def broken(session: Session, adapters: int = 1) -> dict[str, list[str]]:
    """What the default bounds say of the folder saved last, by module."""
    folder = session.state.last_folder()
    assert folder is not None
    bounds = default_module_tolerance(ModuleProof(folder.blueprint, folder.path).dtypes, adapters)
    return {name: said for name, one in prove(session).items() if (said := bounds.broken_by(one))}


def spoil(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=["LoRA", "DoRA"])
def test_a_right_merge_is_off_by_roundings_alone(
    session: Session, base_model: Base, tmp_path: Path, quantization: str, options: dict[str, Any]
) -> None:
    base = base_model("llama", **LARGER)
    merge(session, base, build(base, tmp_path / "lora", **options), quantization=quantization)
    found = prove(session)
    assert len(found) == 14
    assert all(0.001 < one.error < 0.002 for one in found.values())
    assert all(abs(one.delta_kept - 1) < 0.01 for one in found.values() if one.delta_kept)
    assert broken(session) == {}


def test_norms_are_those_of_the_weights(session: Session, base_model: Base, tmp_path: Path) -> None:
    base = base_model("llama", **LARGER, dtype="float32")
    merged = merge(session, base, build(base, tmp_path / "lora", 0.05))
    before = load_file(base / "model.safetensors")[f"{DOWN}.weight"]
    after = load_file(merged / "model.safetensors")[f"{DOWN}.weight"]
    figures = prove(session)[DOWN]
    assert figures.base_norm == pytest.approx(before.norm().item(), rel=0.05)
    assert figures.delta_norm == pytest.approx((after - before).norm().item(), rel=0.2)
    assert figures.error < 1e-6


def test_windows_change_no_figure(
    session: Session, base_model: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_model("llama", **LARGER)
    merge(session, base, build(base, tmp_path / "lora", modules_to_save=["lm_head", "norm"]))
    together = prove(session)
    monkeypatch.setattr(windows, "BUDGET", 1)
    assert prove(session) == together
    assert together["lm_head"].error == together["model.norm"].error == 0


def test_a_module_that_is_a_little_wrong_is_named_where_the_whole_model_shows_nothing(
    session: Session, base_model: Base, tmp_path: Path
) -> None:
    base = base_model("llama", initializer_range=0.1)
    merged = merge(session, base, build(base, tmp_path / "lora", 0.05))
    plain = load_file(base / "model.safetensors")[f"{DOWN}.weight"].float()

    def more(tensors: dict[str, torch.Tensor]) -> None:
        """The delta of one module is a fifth too large."""
        delta = tensors[f"{DOWN}.weight"].float() - plain
        tensors[f"{DOWN}.weight"] = (plain + 1.2 * delta).bfloat16()

    spoil(merged, more)
    assert judge(session).broken == []
    assert broken(session).keys() == {DOWN}
    assert prove(session)[DOWN].delta_kept == pytest.approx(1.2, abs=0.01)


def _left_out(merged: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    return plain


def _twice(merged: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    return 2 * merged - plain


def _transposed(merged: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    return plain + (merged - plain).T


def _not_a_number(merged: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    return torch.full_like(merged, float("nan"))


@pytest.mark.parametrize("mistake", [_left_out, _twice, _transposed, _not_a_number])
def test_a_wrong_module_is_named(
    session: Session,
    base_model: Base,
    tmp_path: Path,
    mistake: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    base = base_model("llama", **LARGER)
    merged = merge(session, base, build(base, tmp_path / "lora"))
    name = "model.layers.0.self_attn.o_proj"
    plain = load_file(base / "model.safetensors")[f"{name}.weight"].float()
    spoil(
        merged,
        lambda tensors: tensors.update(
            {f"{name}.weight": mistake(tensors[f"{name}.weight"].float(), plain).bfloat16()}
        ),
    )
    assert broken(session).keys() == {name}


def test_a_merge_into_the_weights_before_quantization_is_another_model(
    session: Session, base_model: Base, tmp_path: Path
) -> None:
    base = base_model("llama", **LARGER)
    adapter = build(base, tmp_path / "lora", target_modules=["q_proj"])
    merged = merge(session, base, adapter, quantization="nf4")
    original = merge(Session(tmp_path / "original"), base, adapter)
    (original / "model.safetensors").replace(merged / "model.safetensors")
    assert broken(session).keys() == {f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)}


def test_a_small_delta_that_is_lost_in_bfloat16_shows(
    session: Session, base_model: Base, tmp_path: Path
) -> None:
    base = base_model("llama", **LARGER)
    adapter = build(base, tmp_path / "lora", 1e-4)
    merge(session, base, adapter)
    found = list(prove(session).values())
    kept = delta_kept(found)
    assert kept is not None
    assert kept < 0.5
    bounds = default_module_tolerance(("bfloat16", "bfloat16"), 1)
    assert "of the delta is left" in (bounds.lost(found) or "")
    assert broken(session) == {}

    wide = Session(tmp_path / "wide")
    merge(wide, base_model("llama", dtype="float32", **LARGER), adapter)
    assert delta_kept(prove(wide).values()) == pytest.approx(1, abs=1e-3)


def test_two_adapters_count_together(session: Session, base_model: Base, tmp_path: Path) -> None:
    base = base_model("llama", **LARGER)
    one = build(base, tmp_path / "one", target_modules=["q_proj"])
    other = build_adapter(
        tmp_path / "other", base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]), seed=5
    )
    session.do("load_base", model=str(base))
    session.do("attach_adapter", path=str(one), name="one", weight=0.5)
    session.do("attach_adapter", path=str(other), name="other")
    session.do("merge")
    session.do("save", path=str(session.run.dir / "merged"))
    assert len(prove(session)) == 4
    assert broken(session, adapters=2) == {}


def test_a_folder_of_a_smaller_model_is_refused(
    session: Session, base_model: Base, tmp_path: Path
) -> None:
    base = base_model("llama", num_hidden_layers=3)
    merge(session, base, build(base, tmp_path / "lora", target_modules=["q_proj"]))
    folder = session.state.last_folder()
    assert folder is not None
    with pytest.raises(VerificationError, match=r"lacks model\.layers\.2"):
        ModuleProof(folder.blueprint, base_model("llama"))


def test_what_cannot_be_looked_at_has_its_reason(
    session: Session, base_model: Base, tmp_path: Path
) -> None:
    base = base_model("llama")
    session.do("load_base", model=str(base))
    assert session.state.blueprint is not None
    assert why_no_modules(session.state.blueprint) == "no adapter was merged"


def test_the_table_names_the_worst_first(
    session: Session, base_model: Base, tmp_path: Path
) -> None:
    base = base_model("llama", **LARGER)
    merged = merge(session, base, build(base, tmp_path / "lora"))
    plain = load_file(base / "model.safetensors")
    spoil(merged, lambda tensors: tensors.update({f"{DOWN}.weight": plain[f"{DOWN}.weight"]}))
    lines = module_table(list(prove(session).values()), most=10).splitlines()
    assert len(lines) == 2 + 10
    assert lines[2].split()[0] == DOWN
    assert lines[2].split()[-1] == "0.0%"
