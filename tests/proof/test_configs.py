"""A config is the base's under old names and new ones, and not where a setting differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoConfig

from pipeline.proof.configs import check_config
from pipeline.proof.findings import Findings

WILD = sorted((Path(__file__).parents[1] / "fixtures" / "wild" / "bases").glob("*.json"))
OWN_CODE = ("baichuan-1", "chatglm-1")


def check(folder: Path, base: Path) -> Findings:
    found = Findings()
    check_config(folder, lambda into: shutil.copy(base, into / "config.json") and None, found)
    return found


@pytest.mark.filterwarnings("ignore:.rope_scaling. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "base", [file for file in WILD if file.stem not in OWN_CODE], ids=lambda file: file.stem
)
def test_an_old_config_that_transformers_wrote_anew_is_the_same(base: Path, tmp_path: Path) -> None:
    AutoConfig.from_pretrained(base).save_pretrained(tmp_path)

    found = check(tmp_path, base)

    assert (found.faults, found.skipped) == ([], [])


@pytest.mark.parametrize("name", OWN_CODE)
def test_a_config_that_needs_code_is_not_read(name: str, tmp_path: Path) -> None:
    base = next(file for file in WILD if file.stem == name)
    shutil.copy(base, tmp_path / "config.json")

    found = check(tmp_path, base)

    assert found.faults == []
    assert found.skipped[0].startswith("config.json against the base's: ")


def test_a_setting_within_a_part_is_named(tmp_path: Path) -> None:
    base = next(file for file in WILD if file.stem == "qwen2_5_vl-1")
    config = json.loads(base.read_text())
    config["vision_config"]["patch_size"] = 28
    (tmp_path / "config.json").write_text(json.dumps(config))

    (fault,) = check(tmp_path, base).faults

    assert fault.what.startswith("says vision_config.patch_size 28, and base and adapters make ")
