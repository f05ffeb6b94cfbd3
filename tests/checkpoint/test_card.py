"""The model card says what was merged into what, in the Hub's metadata and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.blueprint import Adapter, Base, Blueprint, Fold, Quantization
from pipeline.checkpoint.card import write_card
from tests.fixtures.folders import make_adapter, make_base

CARD = "---\nlicense: apache-2.0\nlanguage: [en]\nbase_model: other/one\n---\n# Theirs\n"


def card(folder: Path, blueprint: Blueprint) -> tuple[dict[str, Any], str]:
    """Metadata and text of the card that is written for a blueprint."""
    write_card(folder, blueprint)
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def test_a_merge_names_base_and_adapters(tmp_path: Path) -> None:
    base = make_base(tmp_path / "secret" / "my-base", files={"README.md": CARD})
    adapter = make_adapter(tmp_path / "secret" / "my-adapter", target_modules=["q_proj", "v_proj"])
    blueprint = Blueprint(
        Base(str(base), quantization=Quantization("nf4", double_quant=True)),
        dequantize=True,
        folds=(Fold((Adapter(str(adapter), weight=0.5),)),),
    )

    metadata, text = card(tmp_path, blueprint)

    assert metadata == {
        "license": "apache-2.0",
        "language": ["en"],
        "base_model": "owner/base",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["mergeline", "lora", "merged"],
    }
    assert "# my-base + my-adapter" in text
    assert "| `my-adapter` | LORA | 4 | q_proj, v_proj | 0.5 |" in text
    assert "nf4 of bitsandbytes, double quantization, dequantized" in text
    assert "peft " in text
    assert "secret" not in text, "a published card does not tell of its author's disk"


def test_a_base_of_the_disk_without_a_known_id_is_not_named_as_a_model_of_the_hub(
    tmp_path: Path,
) -> None:
    adapter = make_adapter(tmp_path / "adapter", base_model_name_or_path="/home/me/base")
    blueprint = Blueprint(
        Base(str(make_base(tmp_path / "base"))), folds=(Fold((Adapter(str(adapter)),)),)
    )

    metadata, _ = card(tmp_path, blueprint)

    assert "base_model" not in metadata
    assert "license" not in metadata


def test_a_dequantized_model_is_no_finetune(tmp_path: Path) -> None:
    base = Base(str(make_base(tmp_path / "base")), task="seq2seq_lm")

    metadata, text = card(tmp_path, Blueprint(base))

    assert metadata == {"library_name": "transformers", "tags": ["mergeline"]}
    assert "## Merge" not in text


def test_metadata_of_a_base_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    for broken in ("---\n: [\n---\n", "---\n- a\n---\n", "no metadata", "---\nnever ends"):
        base = make_base(tmp_path / "base", files={"README.md": broken})

        assert "license" not in card(tmp_path, Blueprint(Base(str(base))))[0]
