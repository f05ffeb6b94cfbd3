"""What serves with a model comes along byte for byte; nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.blueprint import Adapter, Base, Blueprint, Fold
from pipeline.checkpoint.companions import copy_companions, tokenizer_folder
from tests.fixtures.folders import LLAMA, TOKENIZER, make_adapter, make_base

NOT_COPIED = {
    "README.md": "a card of its own",
    "optimizer.pt": "",
    "scheduler.pt": "",
    "training_args.bin": "",
    "trainer_state.json": "{}",
    "rng_state.pth": "",
    "generation_config.json": "{}",
    "pytorch_model.bin.index.json": "{}",
    ".gitattributes": "",
    "model.onnx": "",
    "original/params.json": "{}",
}


def copy(tmp_path: Path, base: Path, *adapters: Path, **options: Any) -> dict[str, str]:
    """What `copy_companions` puts into an empty folder."""
    out = tmp_path / "out"
    out.mkdir()
    folds = tuple(Fold((Adapter(str(path)),)) for path in adapters)
    copied = copy_companions(Blueprint(Base(str(base), **options), folds=folds), out)
    found = {p.relative_to(out).as_posix(): p.read_text() for p in out.rglob("*") if p.is_file()}
    assert set(copied) == found.keys()
    return found


def test_the_whole_set_of_a_base_comes_along(tmp_path: Path) -> None:
    serving = {
        **TOKENIZER,
        "tokenizer.model": "spm",
        "vocab.json": "{}",
        "merges.txt": "m",
        "added_tokens.json": "{}",
        "chat_template.jinja": "{{ messages }}",
        "additional_chat_templates/rag.jinja": "{{ documents }}",
        "preprocessor_config.json": "{}",
        "processor_config.json": "{}",
        "video_preprocessor_config.json": "{}",
        "LICENSE": "free",
        "NOTICE.txt": "n",
        "USE_POLICY.md": "p",
        "modules.json": "[]",
        "1_Pooling/config.json": "{}",
        "2_Dense/model.safetensors": "weights of the pooling",
    }
    base = make_base(tmp_path / "base", files={**serving, **NOT_COPIED, "modeling_x.py": "code"})

    assert copy(tmp_path, base) == serving


def test_custom_code_comes_along_when_the_config_names_it(tmp_path: Path) -> None:
    config = {**LLAMA, "auto_map": {"AutoConfig": "configuration_x.X"}}
    files = {"configuration_x.py": "class X: ..."}

    assert copy(tmp_path, make_base(tmp_path / "base", config, files=files)) == files


def test_custom_code_comes_along_when_it_is_trusted(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", files={"modeling_x.py": "code"})

    assert copy(tmp_path, base, trust_remote_code=True) == {"modeling_x.py": "code"}


def test_the_adapters_tokenizer_replaces_the_bases_whole_set(tmp_path: Path) -> None:
    base = make_base(
        tmp_path / "base",
        files={**TOKENIZER, "tokenizer.model": "old", "merges.txt": "old", "LICENSE": "free"},
    )
    theirs = {
        "tokenizer.json": "new",
        "tokenizer_config.json": '{"a": 1}',
        "added_tokens.json": '{"<x>": 9}',
    }
    adapter = make_adapter(tmp_path / "adapter", files=theirs)

    assert copy(tmp_path, base, adapter) == {**theirs, "LICENSE": "free"}


def test_the_last_adapter_that_brings_a_tokenizer_decides(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    first = make_adapter(tmp_path / "a", files={"tokenizer.json": "first"})
    second = make_adapter(tmp_path / "b", files={"tokenizer.json": "second"})
    third = make_adapter(tmp_path / "c")

    assert copy(tmp_path, base, first, second, third) == {"tokenizer.json": "second"}


def test_half_a_tokenizer_beside_an_adapter_is_passed_over(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", files={"tokenizer_config.json": '{"x": 1}'})

    assert copy(tmp_path, make_base(tmp_path / "base"), adapter) == TOKENIZER


def test_a_chat_template_of_an_adapter_wins(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", files={**TOKENIZER, "chat_template.jinja": "base's"})
    adapter = make_adapter(tmp_path / "adapter", files={"chat_template.jinja": "adapter's"})

    assert copy(tmp_path, base, adapter) == {**TOKENIZER, "chat_template.jinja": "adapter's"}


def test_a_tokenizer_without_a_chat_template_keeps_the_bases(tmp_path: Path) -> None:
    files = {"tokenizer.json": "{}", "tokenizer_config.json": '{"chat_template": "{{ base }}"}'}
    base = make_base(tmp_path / "base", files=files)
    adapter = make_adapter(tmp_path / "adapter", files=TOKENIZER)

    assert copy(tmp_path, base, adapter) == {**TOKENIZER, "chat_template.jinja": "{{ base }}"}


def test_a_chat_template_in_the_adapters_tokenizer_config_is_enough(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", files={**TOKENIZER, "chat_template.jinja": "base's"})
    theirs = {"tokenizer.json": "{}", "tokenizer_config.json": '{"chat_template": "adapter\'s"}'}

    assert copy(tmp_path, base, make_adapter(tmp_path / "adapter", files=theirs)) == theirs


def test_names_the_folder_of_the_tokenizer(tmp_path: Path) -> None:
    bare = make_base(tmp_path / "bare", files={})
    base = make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", files=TOKENIZER)

    assert tokenizer_folder(Blueprint(Base(str(bare)))) is None
    assert tokenizer_folder(Blueprint(Base(str(base)))) == base
    assert (
        tokenizer_folder(Blueprint(Base(str(base)), adapters=(Adapter(str(adapter)),))) == adapter
    )
