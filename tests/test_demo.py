"""The demo from end to end, on a base that is trained for a moment only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from pipeline import demo
from pipeline.demo.small_model import Size, is_trained
from pipeline.manifest import read_manifest

QUICK = Size(hidden=64, intermediate=128, layers=1, heads=2, steps=60, batch=8, stories=300)


@pytest.mark.slow
def test_the_demo_trains_merges_verifies_and_tells_where_everything_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a demo"
    assert demo.main(folder, QUICK) == 0
    printed = capsys.readouterr()
    assert "relative error of its logits" in printed.out
    assert "Training" not in printed.err  # transformers' own chatter stays in the log
    for name in ("base", "train/adapter", "merge/merged", "data"):
        assert (folder / name).is_dir()
    losses = read_manifest(folder / "compare").metrics
    assert losses["adapter.loss"] < losses["base.loss"] - 0.3  # type: ignore[operator]
    assert losses["merged.loss"] == pytest.approx(losses["adapter.loss"], abs=0.05)
    assert read_manifest(folder / "merge").metrics["verify.kept"] > 0.8  # type: ignore[operator]
    with safe_open(folder / "merge" / "merged" / "model.safetensors", framework="pt") as weights:
        assert not [name for name in weights.keys() if "lora" in name]  # noqa: SIM118
    base = folder / "base" / "model.safetensors"
    made = base.stat().st_mtime_ns

    assert demo.main(folder, QUICK) == 0
    assert "used again" in capsys.readouterr().err
    assert base.stat().st_mtime_ns == made


def test_a_base_of_other_settings_is_not_used_again(tmp_path: Path) -> None:
    assert not is_trained(tmp_path, QUICK)
    (tmp_path / "demo.json").write_text(json.dumps({"fingerprint": QUICK.fingerprint()}))
    assert is_trained(tmp_path, QUICK)
    assert not is_trained(tmp_path, Size())


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (0.005, "0.005"),
        (Path("outputs/demo/base"), "outputs/demo/base"),
        (Path("my models/it's, here"), r"'my models/it\'s, here'"),
        (["Tell me, please.", "b"], "['Tell me, please.',b]"),
    ],
)
def test_values_are_quoted_as_hydra_reads_them(value: object, word: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert demo._value(value) == word
    (override,) = OverridesParser.create().parse_overrides([f"key={word}"])
    read = override.value()
    wanted = [str(v) for v in value] if isinstance(value, list) else str(value)
    assert ([str(v) for v in read] if isinstance(read, list) else str(read)) == wanted
