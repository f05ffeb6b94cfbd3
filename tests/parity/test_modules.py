"""What a stream has PEFT and transformers make, module by module, is what the live realiser makes whole.

The live realiser is held against plain calls in `test_live.py` and `test_kinds.py`. Here each window holds as
little as can be made apart, and both write the same folder, bit for bit. The tables say what streams: kinds
of adapter, architectures, precisions, and ways in which files of a base lie.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pipeline.accounting import modular
from pipeline.accounting.choice import choose
from pipeline.accounting.claims import check_claims
from pipeline.blueprint import Blueprint, Engine, State
from pipeline.checkpoint import peft_types, transformers_types
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.base import inspect_base
from pipeline.errors import MergeError
from pipeline.proof.module_tolerance import default_module_tolerance
from pipeline.proof.modules import ModuleProof
from pipeline.realise import write_model
from pipeline.realise.stream import windows
from pipeline.recipe.model import Recipe
from pipeline.run import RunContext
from tests.fixtures.session import Silent
from tests.parity.modules_cases import (
    CASES,
    KINDS,
    QUANTIZED,
    SAID_BY_PEFT,
    Case,
    Make,
    build,
    kind,
    lora,
    tensors,
    written,
)
from tests.parity.plain import assert_same_bits, config_of, tensors_of

pytestmark = SAID_BY_PEFT


def test_every_type_that_streams_by_modules_is_in_the_table() -> None:
    types = {str(make().peft_type.value) for case in KINDS.values() for make in case.adapters}
    assert types == modular.MODULAR


def test_every_type_is_streamed_or_has_its_reason(tmp_path: Path) -> None:
    """What is left is told with a reason: types that need all of their layers, and those nobody tried."""
    mergeable = set(peft_types.type_names()) - peft_types.UNMERGEABLE.keys()
    assert mergeable - modular.MODULAR == {"ADAMSS", "FROD", "SUPERTUNING", "TINYLORA", "UNILORA"}


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (kind("TinyLora"), "depends on the layers before it"),
        (kind("UniLora"), "depends on all layers"),
        (kind("Frod"), "belong to groups of layers"),
        (lora(init_lora_weights="pissa_niter_4"), "draws anew"),
    ],
)
def test_what_needs_all_layers_at_once_goes_live_and_says_why(
    make: Make, why: str, tmp_path: Path
) -> None:
    choice = choose(build(Case((make,)), tmp_path), "keep", "auto")
    assert choice.engine == "live"
    assert why in choice.reason


def test_a_base_that_stays_quantized_goes_live(tmp_path: Path) -> None:
    case = Case((), load={"quantization": QUANTIZED["nf4"]})
    assert choose(build(case, tmp_path), "keep", "auto").reason == "the base stays quantized"


@pytest.mark.parametrize("name", transformers_types.INTERNALS)
def test_a_transformers_that_lost_what_parts_are_made_with_goes_live(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blueprint = build(Case((lora(use_dora=True),)), tmp_path)
    assert choose(blueprint, "keep", "auto").engine == "stream"
    own, other = Path(transformers.__file__).parent, tmp_path / "transformers"
    other.mkdir()
    for file in set(transformers_types.INTERNALS.values()):
        (other / file).write_text((own / file).read_text().replace(f"def {name}(", "def other("))
    monkeypatch.setattr(transformers_types, "_root", lambda: other)

    choice = choose(blueprint, "keep", "auto")

    assert choice.engine == "live"
    assert f"has no {name}(), with which parts of a model are made" in choice.reason


@pytest.mark.parametrize("name", CASES)
def test_modules_made_one_by_one_are_those_of_the_live_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "BUDGET", 1)
    case = CASES[name]
    blueprint = build(case, tmp_path)
    choice = choose(blueprint, case.save, "stream")
    assert choice.engine == "stream", choice.reason
    for adapter in blueprint.all_adapters:  # and the plan has nothing against them
        check_claims(inspect_adapter(adapter), inspect_base(blueprint.base))

    ours, live = (written(case, blueprint, tmp_path, engine) for engine in ("stream", "live"))

    assert_same_bits(tensors_of(ours), tensors_of(live))
    assert config_of(ours) == config_of(live)
    assert _called_wrong(blueprint, ours) == []


def _called_wrong(blueprint: Blueprint, folder: Path) -> list[str]:
    """What the proof of `verify` has against the modules of a right merge."""
    if not blueprint.folds:
        return []
    proof = ModuleProof(blueprint, folder)
    bounds = default_module_tolerance(proof.dtypes, len(blueprint.folds[-1].adapters))
    found = list(proof.figures(lambda count: None))
    assert found
    return [f"{one.name}: {said}" for one in found for said in bounds.broken_by(one)]


def without(adapter: Path, part: str) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file({name: t for name, t in load_file(file).items() if part not in name}, file)


def test_a_module_that_the_adapter_should_fill_and_does_not_is_named(tmp_path: Path) -> None:
    """As the live model does, though no window would ever hold that module."""
    case = Case((lora(use_dora=True),))
    blueprint = build(case, tmp_path)
    without(tmp_path / "adapter_0", "layers.1.self_attn.v_proj")
    with pytest.raises(MergeError, match=r"lacks model\.layers\.1\.self_attn\.v_proj"):
        written(case, blueprint, tmp_path, "stream")


def test_a_tensor_that_no_module_takes_is_named(tmp_path: Path) -> None:
    case = Case((lora(use_dora=True),))
    blueprint = build(case, tmp_path)
    file = tmp_path / "adapter_0" / "adapter_model.safetensors"
    odd = "base_model.model.visual.patches.lora_A.weight"
    save_file({**load_file(file), odd: torch.ones(4, 4)}, file)
    with pytest.raises(MergeError, match=r"nothing in the base takes .*visual\.patches"):
        written(case, blueprint, tmp_path, "stream")


@pytest.mark.parametrize("engine", ["stream", "live"])
def test_a_module_that_the_config_does_not_target_is_not_merged_into(
    engine: Engine, tmp_path: Path
) -> None:
    """Its file holds whole factors for it, which a plain sum could take."""
    case = Case((lora("q_proj", "v_proj"),))
    blueprint = build(case, tmp_path)
    file = tmp_path / "adapter_0" / "adapter_model.safetensors"
    up = "base_model.model.model.layers.0.mlp.up_proj"
    odd = {f"{up}.lora_A.weight": torch.ones(4, 64), f"{up}.lora_B.weight": torch.ones(128, 4)}
    save_file({**load_file(file), **odd}, file)
    with pytest.raises(MergeError, match=r"`target_modules` leave out .*up_proj\.lora_A"):
        written(case, blueprint, tmp_path, engine)


@pytest.mark.parametrize("engine", ["stream", "live"])
def test_a_config_that_targets_nothing_merges_nothing(engine: Engine, tmp_path: Path) -> None:
    case = Case((lora("q_proj", "v_proj"),))
    blueprint = build(case, tmp_path)
    file = tmp_path / "adapter_0" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "target_modules": []}))
    with pytest.raises(MergeError, match="No `target_modules` passed"):
        written(case, blueprint, tmp_path, engine)


def test_nan_in_a_merged_module_is_named(tmp_path: Path) -> None:
    case = Case((lora(use_dora=True),))
    blueprint = build(case, tmp_path)
    base = tmp_path / "base"
    name = "model.layers.1.self_attn.q_proj.weight"
    tensors(lambda held: {**held, name: held[name] * float("nan")})(base)
    with pytest.raises(MergeError, match="NaN"):
        written(case, blueprint, tmp_path, "stream")


def test_tensors_that_the_model_does_not_know_are_kept_and_told_of(tmp_path: Path) -> None:
    extra = "model.mtp.0.weight"
    case = Case((lora(use_dora=True),), files=tensors(lambda held: {**held, extra: torch.ones(3)}))
    recipe = Recipe("r", tmp_path / "r.yaml", (), run_dir=tmp_path, device="cpu", engine="stream")
    console = Silent()
    run = RunContext(recipe, console)  # type: ignore[arg-type]
    run.state = State(blueprint=build(case, tmp_path))
    (tmp_path / "out").mkdir()
    write_model(run, tmp_path / "out", dtype="keep", max_shard_size="5GB")
    assert tensors_of(tmp_path / "out")[extra].equal(torch.ones(3))
    assert any("copied as they are" in text and extra in text for text in console.told)


@pytest.mark.parametrize("name", ["DoRA", "PiSSA", "OLoRA", "OSF", "PSOFT"])
def test_the_number_of_threads_changes_no_bit(name: str, tmp_path: Path) -> None:
    """Of layers so large that torch and LAPACK divide them among threads."""
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 1}
    case = replace(KINDS[name], config=sizes)
    blueprint = build(case, tmp_path)
    before, found = torch.get_num_threads(), []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        try:
            folder = tmp_path / str(threads)
            folder.mkdir()
            found.append(tensors_of(written(case, blueprint, folder, "stream")))
        finally:
            torch.set_num_threads(before)
    assert_same_bits(*found)
