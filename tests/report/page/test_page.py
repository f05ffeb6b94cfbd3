"""The page of a run, as text: what is on it, and what is never on it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from peft import LoraConfig

from pipeline import jobs
from pipeline.errors import InputError
from pipeline.manifest import Manifest, StepRecord, read_manifest
from pipeline.recipe.find import find_recipe
from pipeline.recipe.hydra_app import Request
from pipeline.report.page import html_of, write_page
from tests.conftest import BuildBase
from tests.fixtures.manifests import failed, manifest
from tests.fixtures.models import build_adapter

VOID = {"meta", "link", "rect", "path", "br", "wbr", "input"}


class Page(HTMLParser):
    """The elements of a page and its text, as a reader of HTML finds them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


def test_the_page_is_well_formed_and_names_nothing_outside_of_itself(tmp_path: Path) -> None:
    page = Page(html_of(manifest(tmp_path)))

    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert [a for a in page.addresses if not a.startswith(("#", "data:"))] == []


def test_the_page_has_the_figures_of_the_manifest_and_what_they_were_held_against(
    tmp_path: Path,
) -> None:
    text = Page(html_of(manifest(tmp_path))).text

    for expected in [
        "The saved model is the one that was trained",
        "verify: off by 0.832 %, KL 0.0002163, the same likeliest token at 100 % of the positions",
        "relative error of the logits 0.832 % bound: 4.9 %",
        "loss, nats a token 3.321 2.107 -1.214",
        "perplexity 27.69 8.224 -19.47",
        "tokens measured 48 211",
        "modules merged 12",
        "org/base: LlamaForCausalLM (nf4), 900 MB on disk",
        "verify ✓ done time 1 min 00 s memory 7.0 GB",
        "checked 290 tensors against config, index and tokenizer settings",
        "largest error of a module 25 % bound: 30 %",
        "base org/base at dddddddddddd 900 MB, 1 file",
        "adapter /home/ada/style/ 4.2 MB, 1 file",
        "model.safetensors 800 MB " + "1" * 64,
        "evaluate the data has few tokens",
        "recipe recipes/merge_qlora.yaml",
        "mergeline run recipes/merge_qlora.yaml params.base=org/base params.adapter=./style",
        "mergeline replay merged",
        "torch 2.13.0",
    ]:
        assert expected in text


def test_a_run_that_failed_says_what_to_do_before_anything_else(tmp_path: Path) -> None:
    page = Page(html_of(failed(tmp_path)))

    said = [
        "The saved model is not the one that was trained",
        "at most 0.049 is allowed",
        "What to do: look at the steps",
        "Proof: verify ✗ does not hold",
    ]
    assert all(text in page.text for text in said)
    assert [page.text.index(text) for text in said] == sorted(page.text.index(t) for t in said)


def test_what_a_run_does_not_have_takes_no_room(tmp_path: Path) -> None:
    record = manifest(tmp_path, inputs=[], steps=[], tags=[], overrides=[], resolved={})

    page = Page(html_of(record))

    titles = set(re.findall(r'<h2 id="([a-z]+)', html_of(record)))
    assert titles == {"verdict", "steps", "asked", "made"}
    assert "figure" not in page.tags
    assert "table" not in page.tags


def test_nothing_that_a_manifest_holds_becomes_part_of_the_page(tmp_path: Path) -> None:
    clean = manifest(tmp_path)
    evil = (
        '"><script>alert(1)</script></style><img src=http://a.example/x onerror=alert(2)>{{ 7*7 }}'
    )
    data = clean.model_dump(mode="json")

    html = html_of(Manifest.model_validate(_with(data, evil)))

    page, plain = Page(html), Page(html_of(clean))
    assert page.open == []
    assert set(page.tags) == set(plain.tags)
    assert page.tags.count("script") == 1
    assert page.addresses == plain.addresses
    assert evil in page.text


def _with(data: object, text: str, key: str = "") -> object:
    """The data with this text in every string that may hold anything."""
    if isinstance(data, dict):
        return {
            _with(name, text) if key in ("settings", "versions", "modules") else name: _with(
                value, text, name
            )
            for name, value in data.items()
        }
    if isinstance(data, list):
        return [_with(value, text, key) for value in data]
    kept = {"status", "started", "engine", "step", "id", "preset", "repo", "commit"}
    return data + text if isinstance(data, str) and key not in kept else data


def test_control_characters_do_not_reach_the_page(tmp_path: Path) -> None:
    record = manifest(tmp_path)
    record.steps[0].notes = ["a\x1b[31mred\x00 text\nof two lines"]

    html = html_of(record)

    assert "a�[31mred� text\nof two lines" in html


def test_no_secret_is_on_the_page(tmp_path: Path) -> None:
    secret = "hf_" + "abcdefgh" * 3
    record = manifest(
        tmp_path, overrides=[f"params.hub={secret}"], resolved={"password": "hunter2"}
    )
    record.steps[0].notes = [f"asked with {secret}"]
    record.write()

    html = write_page(tmp_path).read_text(encoding="utf-8")

    assert "[hidden]" in html
    assert secret not in html
    assert "hunter2" not in html


def test_the_page_is_made_again_from_the_folder_alone(tmp_path: Path) -> None:
    manifest(tmp_path).write()
    first = write_page(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "report.html").unlink()

    assert write_page(tmp_path).read_text(encoding="utf-8") == first


def test_a_folder_without_a_run_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run in this folder"):
        write_page(tmp_path)


def run(folder: Path, recipe: str, *overrides: str) -> Manifest:
    words = (*overrides, "~verify", f"hydra.run.dir={folder}")
    return jobs.run_one(Request(find_recipe(recipe), words))


def test_every_run_leaves_its_page(tmp_path: Path, base_model: BuildBase) -> None:
    record = run(tmp_path, "recast", f"params.base={base_model('llama')}")

    assert record.status == "done"
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html == html_of(read_manifest(tmp_path))


def test_a_run_that_fails_leaves_its_page(tmp_path: Path, base_model: BuildBase) -> None:
    base = base_model("llama")
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapter = build_adapter(tmp_path / "adapter", base, config)
    overrides = ["attach_adapter.weight=1e9", "save.dtype=float16"]

    record = run(
        tmp_path / "run",
        "merge_lora",
        f"params.base={base}",
        f"params.adapter={adapter}",
        *overrides,
    )

    assert record.error
    text = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8")).text
    assert "The run failed At the step save." in text
    assert " ".join(record.error.what.split()) in text


def test_a_page_that_cannot_be_written_fails_no_run(
    tmp_path: Path, base_model: BuildBase, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.html").mkdir()

    record = run(tmp_path, "recast", f"params.base={base_model('llama')}")

    assert record.status == "done"
    assert "the run's page could not be written: " in capsys.readouterr().err


def test_steps_that_never_ran_are_on_the_page_too(tmp_path: Path) -> None:
    record = manifest(tmp_path, steps=[StepRecord(id="last", step="save", status="waiting")])

    assert "last save · waiting" in Page(html_of(record)).text
