"""Plans: what a recipe will do, and everything that it cannot, before any weight is read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import outputs, tracking
from pipeline import plan as plans
from pipeline.blueprint import Quantization
from pipeline.errors import Problem, RecipeError
from pipeline.plan import Plan, make_plan
from pipeline.recipe import load
from pipeline.report.plan_table import print_plan
from tests.fixtures.folders import LLAMA, LORA_SHAPES, Q_PROJ, make_adapter, make_base, write_files

MERGE = """
steps:
  - load_base: {{quantization: nf4, model: {base}}}
  - attach_adapter: {{path: {adapter}}}
  - dequantize
  - merge
  - save: {{path: "${{run.dir}}/merged"}}
"""

KEEP_4BIT = """
steps:
  - load_base: {{quantization: nf4, model: {base}}}
  - save: {{path: "${{run.dir}}/nf4"}}
"""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A base and an adapter in an otherwise empty working folder."""
    monkeypatch.chdir(tmp_path)
    make_base(tmp_path / "base")
    make_adapter(tmp_path / "adapter")
    return {"base": "./base", "adapter": "./adapter"}


def plan(text: str, *overrides: str) -> Plan:
    Path("recipe.yaml").write_text(text)
    return make_plan(load("./recipe.yaml", overrides))


def problems(text: str, *overrides: str) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        plan(text, *overrides)
    return list(caught.value.problems)


def test_tells_what_each_step_does_and_what_goes_in_and_out(folders: dict[str, str]) -> None:
    made = plan(MERGE.format(**folders))

    assert [(step.id, step.does.split(",")[0]) for step in made.steps] == [
        ("load_base", "./base: LlamaForCausalLM (nf4)"),
        ("attach_adapter", "./adapter: LORA r=4 on q_proj"),
        ("dequantize", "nf4 layers to the dtype they had"),
        ("merge", "./adapter into ./base"),
        ("save", f"model -> {made.recipe.run_dir}/merged"),
    ]
    assert [source.reference for source in made.sources] == ["./base", "./adapter"]
    (output,) = made.outputs
    assert (output.step_id, output.kind) == ("save", "model")
    assert output.bytes == (128 * 64 + 64 * 64 + 64) * 2
    final = made.states[-1].blueprint
    assert final is not None
    assert final.dequantize
    assert len(final.folds) == 1


def test_both_orders_of_dequantize_and_attach_describe_the_same_model(
    folders: dict[str, str],
) -> None:
    lines = MERGE.format(**folders).splitlines()
    swapped = "\n".join([*lines[:3], lines[4], lines[3], *lines[5:]])

    assert plan(MERGE.format(**folders)).states[-1].blueprint == plan(swapped).states[-1].blueprint


def test_the_dict_is_plain_data(folders: dict[str, str]) -> None:
    told = plan(MERGE.format(**folders)).to_dict()

    assert json.loads(json.dumps(told)) == told
    assert [entry["reference"] for entry in told["inputs"]] == ["./base", "./adapter"]
    assert told["inputs"][1]["files"]["adapter_model.safetensors"] > 0
    assert told["outputs"][0]["bytes"] == 24704


def test_the_table_has_steps_figures_and_warnings(folders: dict[str, str]) -> None:
    make_adapter(Path("adapter"), base_model_name_or_path="somebody/else")
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115

    print_plan(plan(MERGE.format(**folders)), console)

    text = console.export_text()
    console.file.close()
    for said in ("load_base", "LORA r=4 on q_proj", "24.7 kB", "free", "claims", "warning: "):
        assert said in text


def test_a_forgotten_dequantize_is_refused_with_the_line_to_add(folders: dict[str, str]) -> None:
    text = MERGE.format(**folders).replace("  - dequantize\n", "")

    (problem,) = problems(text)

    assert "still quantized (nf4)" in problem.what
    assert "- dequantize" in str(problem.fix)
    assert problem.place is not None
    assert problem.place.line == text.splitlines().index("  - merge") + 1


def test_all_problems_of_all_steps_are_told_together_each_at_its_place(
    folders: dict[str, str],
) -> None:
    write_files(Path("taken"), {"x": ""})
    text = """
steps:
  - load_base: {model: ./bse}
  - attach_adapter: {path: ./adaptor}
  - attach_adapter: {path: ./adapter, name: default}
  - merge
  - save: {path: ./taken}
"""
    found = problems(text)

    assert [(problem.key, problem.place.line if problem.place else None) for problem in found] == [
        ("load_base.model", 3),
        ("attach_adapter.path", 4),
        ("attach_adapter_2.name", 5),
        ("save.path", 7),
    ]
    assert "did you mean base?" in str(found[0].fix)
    assert "did you mean adapter?" in str(found[1].fix)


def test_engine_stream_is_refused_with_the_reason_where_only_live_is_exact(
    folders: dict[str, str],
) -> None:
    (problem,) = problems(KEEP_4BIT.format(**folders), "engine=stream")

    assert problem.what == "save cannot be streamed: the base stays quantized"
    assert "engine: auto" in str(problem.fix)
    assert str(problem.place) == "command line"


@pytest.mark.parametrize("engine", ["auto", "live"])
def test_what_cannot_be_streamed_goes_live_and_says_why(
    folders: dict[str, str], engine: str
) -> None:
    made = plan(KEEP_4BIT.format(**folders), f"engine={engine}")

    assert made.engine == "live"
    (output,) = made.outputs
    assert output.choice is not None
    why = {"auto": "the base stays quantized", "live": "asked for"}
    assert output.choice.reason == why[engine]


def test_an_adapter_of_another_base_is_told_and_one_that_cannot_fit_refused(
    folders: dict[str, str],
) -> None:
    make_adapter(Path("adapter"), base_model_name_or_path="somebody/else")
    (warning,) = plan(MERGE.format(**folders)).warnings
    assert "was trained on 'somebody/else'" in warning

    wide = {**LORA_SHAPES, f"base_model.model.{Q_PROJ}.lora_A.weight": ("F32", (4, 512))}
    make_adapter(Path("adapter"), shapes=wide)
    (problem,) = problems(MERGE.format(**folders))
    assert problem.key == "attach_adapter.path"
    assert "64 x 512" in problem.what
    assert "64 x 64" in problem.what


def test_an_adapter_whose_config_and_file_name_other_modules_is_refused(
    folders: dict[str, str],
) -> None:
    make_adapter(Path("adapter"), target_modules=["v_proj"])

    (problem,) = problems(MERGE.format(**folders))

    assert problem.key == "attach_adapter.path"
    assert "adapter_config.json: its `target_modules` leave out the module of" in problem.what
    assert "take the one of the same training" in str(problem.fix)


def test_an_adapter_that_cannot_be_merged_is_refused_with_what_to_do(
    folders: dict[str, str],
) -> None:
    make_adapter(Path("adapter"), {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4})

    (problem,) = problems(MERGE.format(**folders))

    assert problem.key == "merge"
    assert "PROMPT_TUNING and cannot be merged" in problem.what
    assert "serve it attached" in str(problem.fix)


def test_a_base_that_is_saved_in_4_bit_is_not_quantized_again(folders: dict[str, str]) -> None:
    config = {**LLAMA, "quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}
    shapes = {"a.weight": ("U8", (128, 1)), "a.weight.quant_state.bitsandbytes__nf4": ("U8", (8,))}
    make_base(Path("base"), config, shapes)
    make_adapter(Path("adapter"), shapes={})

    (problem,) = problems(MERGE.format(**folders))
    assert problem.key == "load_base.quantization"

    made = plan(MERGE.format(**folders).replace("quantization: nf4, ", ""))
    assert made.states[0].blueprint is not None
    assert made.states[0].blueprint.base.quantization == Quantization("nf4", saved=True)


def test_a_full_disk_is_refused_at_the_path_of_the_step(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda path: usage(10**6, 0, 30_000))
    twice = MERGE + '  - save: {{id: again, path: "${{run.dir}}/again"}}\n'

    assert plan(MERGE.format(**folders)).free_disk_bytes == 30_000
    (problem,) = problems(twice.format(**folders))

    assert problem.key == "again.path"
    assert "needs about 49.4 kB" in problem.what
    assert "30.0 kB are free" in problem.what


def test_an_adapter_that_the_recipe_trains_need_not_be_there_yet(folders: dict[str, str]) -> None:
    Path("data.txt").write_text("some text\n")
    text = """
steps:
  - load_base: {model: ./base}
  - train_adapter: {data: ./data.txt, path: "${run.dir}/adapter"}
  - merge
  - save: {path: "${run.dir}/one"}
  - load_base: {id: fresh, model: ./base}
  - attach_adapter: {path: "${run.dir}/adapter"}
  - merge
"""
    made = plan(text)

    assert [source.reference for source in made.sources] == ["./base"]
    assert [output.bytes for output in made.outputs] == [None, 24704]
    assert made.steps[1].does.startswith("a new adapter -> ")


def test_a_model_that_the_recipe_saves_can_be_loaded_again(folders: dict[str, str]) -> None:
    again = """  - load_base: {{id: merged, model: "${{run.dir}}/merged"}}
  - evaluate: {{data: ./data.txt}}
"""
    Path("data.txt").write_text("some text\n")

    made = plan((MERGE + again).format(**folders))

    assert [source.reference for source in made.sources] == ["./base", "./adapter"]
    final = made.states[-1].blueprint
    assert final is not None
    assert final.base.quantization is None
    assert final.base.model == str(made.recipe.run_dir / "merged")


def test_a_model_that_the_recipe_saves_in_4_bit_is_not_quantized_again(
    folders: dict[str, str],
) -> None:
    text = """
steps:
  - load_base: {quantization: nf4, model: ./base}
  - save: {path: "${run.dir}/nf4"}
  - load_base: {id: again, quantization: nf4, model: "${run.dir}/nf4"}
"""
    (problem,) = problems(text)
    assert problem.key == "again.quantization"

    final = plan(text.replace("again, quantization: nf4", "again")).states[-1].blueprint
    assert final is not None
    assert final.base.quantization == Quantization("nf4", double_quant=True, saved=True)


def test_a_tracker_that_is_not_installed_is_told(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "check", lambda name: f"{name} is not installed")

    (problem,) = problems(MERGE.format(**folders), "tracking=mlflow")

    assert (problem.key, problem.what) == ("tracking", "mlflow is not installed")


def test_only_what_is_streamed_can_be_written_by_other_machines(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "find_spec", lambda name: True)
    assert plan(MERGE.format(**folders), "workers=ray").recipe.workers == "ray"

    (problem,) = problems(MERGE.format(**folders), "workers=ray", "engine=live")

    assert (problem.key, problem.what) == ("workers", "save cannot be streamed: asked for")


def test_without_ray_there_are_no_other_machines(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "find_spec", lambda name: None)

    (problem,) = problems(MERGE.format(**folders), "workers=ray")

    assert (problem.key, problem.what) == ("workers", "ray is not installed")
    assert problem.fix == "pip install 'mergeline[ray]'"


def test_who_writes_the_weights_is_no_part_of_a_recipe(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "find_spec", lambda name: True)
    text = MERGE.format(**folders)

    assert plan(text, "workers=ray").recipe.fingerprint == plan(text).recipe.fingerprint


def test_planning_imports_neither_torch_nor_peft_nor_transformers(folders: dict[str, str]) -> None:
    Path("recipe.yaml").write_text(MERGE.format(**folders))
    code = (
        "import sys; from pipeline.recipe import load; from pipeline.plan import make_plan;"
        "from pipeline.report.plan_table import print_plan;"
        "print_plan(make_plan(load('./recipe.yaml')));"
        "heavy = {'torch', 'transformers', 'peft', 'bitsandbytes', 'safetensors', 'huggingface_hub'};"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or None)"
    )
    root = str(Path(__file__).parents[1])

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_the_run_folder_may_not_exist_yet(folders: dict[str, str]) -> None:
    free = plan(MERGE.format(**folders), "hydra.run.dir=deep/down/here").free_disk_bytes

    assert abs(free - shutil.disk_usage(".").free) < 10**9


def test_a_fault_of_one_adapter_is_told_at_its_own_step(folders: dict[str, str]) -> None:
    found = problems("""
steps:
  - load_base: {model: ./base}
  - attach_adapter: {path: ./base}
  - attach_adapter: {path: ./adapter}
""")
    assert [problem.key for problem in found] == ["attach_adapter.path"]


@pytest.mark.parametrize("size", ["0B", "0GB", "5", "GB", "-1GB"])
def test_a_shard_has_a_size(size: str, folders: dict[str, str]) -> None:
    (problem,) = problems(MERGE.format(**folders), f"save.max_shard_size={size}")
    assert problem.key == "save.max_shard_size"


def test_a_saved_folder_is_not_loaded_before_it_is_judged(folders: dict[str, str]) -> None:
    text = MERGE.format(**folders)
    again = """  - load_base: {id: merged, model: "${run.dir}/merged"}
  - save: {id: second, path: "${run.dir}/second"}
"""
    judge = '  - verify: {folder: "${run.dir}/merged"}\n'
    found = problems(text + again + judge)
    assert [problem.key for problem in found] == ["merged"]
    assert "a later step is to judge it first" in found[0].what
    assert plan(text + judge + again).states[-1].judged
    assert plan(text + again + judge, "+verify.publish=always").states[-1].judged == frozenset()
