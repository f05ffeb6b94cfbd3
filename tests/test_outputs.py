"""What a plan accounts for: tensors, files, room on the disks, and memory, from headers and configs alone."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import outputs as planning
from pipeline.accounting.claims import ClaimCounts
from pipeline.accounting.processor import cores
from pipeline.checkpoint.headers import BITS
from pipeline.errors import RecipeError
from pipeline.plan import Plan, make_plan
from pipeline.recipe import load
from pipeline.report.plan_table import print_plan
from tests.fixtures.folders import Shapes, make_adapter, make_base, make_sharded_base

HIDDEN, WIDE, KEYS, LAYERS, WORDS = 16_384, 53_248, 1024, 126, 128_256
"""Those of Llama 3.1 405B."""
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "num_hidden_layers": LAYERS,
    "vocab_size": WORDS,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
LINEAR = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (WIDE, HIDDEN),
    "mlp.up_proj": (WIDE, HIDDEN),
    "mlp.down_proj": (HIDDEN, WIDE),
}
MERGE = """
steps:
  - load_base: {model: ./base}
  - attach_adapter: {path: ./adapter}
  - merge
  - save: {path: ./merged}
"""

usage = namedtuple("usage", "total used free")


def tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (WORDS, HIDDEN)
    for n in range(LAYERS):
        for name, shape in LINEAR.items():
            yield f"model.layers.{n}.{name}.weight", shape
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{n}.{norm}.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (WORDS, HIDDEN)


def shards(limit: int) -> list[Shapes]:
    found: list[dict[str, tuple[str, tuple[int, ...]]]] = [{}]
    room = limit
    for name, shape in tensors():
        room -= 2 * math.prod(shape)
        if room < 0:
            found.append({})
            room = limit - 2 * math.prod(shape)
        found[-1][name] = ("BF16", shape)
    return list(found)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base of 405 billion zeros that take no room, and a LoRA on all its linear layers."""
    folder = tmp_path_factory.mktemp("large")
    make_sharded_base(folder / "base", shards(4_800_000_000), CONFIG, sparse=True)
    factors = {}
    for n in range(LAYERS):
        for name, (rows, columns) in LINEAR.items():
            module = f"base_model.model.model.layers.{n}.{name}"
            factors[f"{module}.lora_A.weight"] = ("BF16", (8, columns))
            factors[f"{module}.lora_B.weight"] = ("BF16", (rows, 8))
    targets = [name.rpartition(".")[2] for name in LINEAR]
    make_adapter(folder / "adapter", shapes=factors, r=8, target_modules=targets)
    return folder


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two terabytes are free."""
    monkeypatch.setattr(
        planning.shutil, "disk_usage", lambda path: usage(4 * 10**12, 0, 2 * 10**12)
    )


def plan(text: str, *overrides: str) -> Plan:
    Path("recipe.yaml").write_text(text)
    return make_plan(load("./recipe.yaml", overrides))


def test_a_405b_base_is_accounted_for_to_the_byte(
    large: Path, disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(large)

    made = plan(MERGE)

    (output,) = made.outputs
    assert output.tensors == {"merged": 7 * LAYERS, "copied": 2 * LAYERS + 3}
    assert made.adapters[0].claims == ClaimCounts(2 * 7 * LAYERS, 7 * LAYERS)
    weights = sum(math.prod(shape) for _, shape in tensors()) * BITS["BF16"] // 8
    assert output.bytes == sum(output.files.values())
    assert weights < output.bytes < weights + 1_000_000
    assert len(output.files) > 160
    assert max(output.files.values()) < 5_001_000_000
    assert made.disks[0].needed == output.bytes
    assert made.peak_memory_bytes is not None
    assert made.peak_memory_bytes < 280_000_000 + cores() * 9_000_000


def test_a_result_that_the_disk_cannot_hold_is_refused(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(large)
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda path: usage(10**12, 0, 5 * 10**11))

    with pytest.raises(RecipeError) as caught:
        plan(MERGE)

    (problem,) = caught.value.problems
    assert problem.key == "save.path"
    assert "needs about 812 GB" in problem.what
    assert "500 GB are free" in problem.what


def test_the_table_tells_claims_files_room_and_memory(
    large: Path, disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(large)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115

    print_plan(plan(MERGE), console)

    text = console.export_text()
    console.file.close()
    assert "./adapter: all 1764 tensors, by 882 modules of the base" in text
    assert "812 GB in 191 " in text
    assert "files of up to 4.8 GB" in text
    assert "stream on the CPU: tensor by tensor: 882 merged, 255 copied" in text
    assert "812 GB needed, 2.0 TB free" in text


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_base(tmp_path / "base")
    make_adapter(tmp_path / "adapter")
    return tmp_path


def test_the_disk_of_what_was_written_before_is_taken_off(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plan(MERGE).disks[0].needed
    left = small / ".merged.partial-01234567"
    left.mkdir()
    (left / "model.safetensors").write_bytes(bytes(1000))

    assert plan(MERGE).disks[0].needed == whole - 1000


def test_memory_is_that_of_a_model_only_where_a_step_holds_one(small: Path) -> None:
    look = "  - evaluate: {data: ./data.txt}\n"
    Path("data.txt").write_text("some text\n")

    nothing = plan("steps:\n  - load_base: {model: ./base}\n")
    live = plan(MERGE + look)

    assert nothing.peak_memory_bytes is None
    assert live.peak_memory_bytes is not None
    assert live.peak_memory_bytes > 700_000_000


def test_tensors_that_the_load_places_are_counted_apart(small: Path) -> None:
    head = {"base_model.model.lm_head.lora_A.weight": ("F32", (4, 64))}
    make_adapter(small / "adapter", shapes=head)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115

    made = plan(MERGE)
    print_plan(made, console)

    text = console.export_text()
    console.file.close()
    assert made.to_dict()["adapters"] == [
        {"reference": "./adapter", "tensors": 1, "modules": 0, "left_to_the_load": list(head)}
    ]
    assert "0 of 1 tensors, by 0 modules of the base; the others when it is loaded" in text
