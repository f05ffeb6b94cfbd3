"""Several runs on one page."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.manifest import Manifest
from pipeline.report.page import write_page, write_side_by_side
from pipeline.report.page.side_by_side import side_by_side
from tests.fixtures.manifests import failed, manifest
from tests.report.page.test_page import Page


def runs(folder: Path) -> tuple[Manifest, Manifest]:
    """Two that differ in a setting, in a figure, in an input and in a version."""
    one = manifest(folder / "one", resolved=_resolved(folder / "one", "float16"))
    other = manifest(folder / "other", resolved=_resolved(folder / "other", "bfloat16"))
    next(s for s in other.steps if s.id == "verify").metrics["kl"] = 0.5
    other.inputs[1].blake3 = "9" * 64
    other.versions["torch"] = "2.14.0"
    return one, other


def _resolved(folder: Path, dtype: str) -> dict[str, object]:
    steps = {"save": {"dtype": dtype, "path": f"{folder}/merged"}, "merge": {"safe": True}}
    return {"run": {"dir": str(folder)}, "steps": steps}


def test_only_what_differs_is_told_and_the_rest_is_folded_up(tmp_path: Path) -> None:
    page = side_by_side([(record, "") for record in runs(tmp_path)])

    found = {
        part.title: {row.name: [value.text for value in row.values] for row in part.rows}
        for part in page.differing
    }
    assert found == {
        "Settings that differ": {"save.dtype": ["float16", "bfloat16"]},
        "Figures that differ": {"KL divergence, nats": ["0.0002163", "0.5"]},
        "Inputs that differ": {"style/adapter_model.safetensors": ["4" * 12, "9" * 12]},
        "Versions and machines that differ": {"torch": ["2.13.0", "2.14.0"]},
    }
    assert "relative error of the logits" in {row.name for row in page.same.rows}


def test_the_better_figure_is_marked(tmp_path: Path) -> None:
    page = side_by_side([(record, "") for record in runs(tmp_path)])

    (figures,) = (part for part in page.differing if part.title == "Figures that differ")

    assert [value.best for value in figures.rows[0].values] == [True, False]


def test_each_run_has_its_verdict_and_a_link_to_its_page(tmp_path: Path) -> None:
    for record in (manifest(tmp_path / "good"), failed(tmp_path / "bad")):
        Path(record.run_dir).mkdir()
        record.write()
        write_page(Path(record.run_dir))

    file = write_side_by_side([tmp_path / "good", tmp_path / "bad"], tmp_path / "both.html")

    page = Page(file.read_text(encoding="utf-8"))
    assert page.open == []
    assert (
        "good The saved model is the one that was trained ✗ bad The saved model is not" in page.text
    )
    assert "status done failed" in page.text
    assert {"good/report.html", "bad/report.html"} < set(page.addresses)


def test_a_folder_without_a_run_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    manifest(tmp_path).write()

    with pytest.raises(InputError, match="no run in this folder"):
        write_side_by_side([tmp_path, tmp_path / "none"], tmp_path / "both.html")

    assert not (tmp_path / "both.html").exists()
