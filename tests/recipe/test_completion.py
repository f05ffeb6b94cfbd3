"""Tab completion: what it offers for a line that is typed half."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.recipe.completion import script, suggest

VERBS = ["plan", "recipes", "run"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mergeline r", ["recipes", "run"]),
        ("mergeline run merge_", ["merge_lora", "merge_many", "merge_qlora", "merge_two"]),
        ("mergeline run merge_qlora sa", ["save.", "save="]),
        ("mergeline run merge_qlora save.over", ["save.overwrite="]),
        ("mergeline run merge_qlora -m save.dtype=float16 save.pa", ["save.path="]),
        ("mergeline run merge_qlora load_base=n", ["load_base=nf4"]),
        ("mergeline run recast save.dtype=float", ["save.dtype=float16", "save.dtype=float32"]),
        ("mergeline run recast save.dtype=k", ["save.dtype=keep"]),
        ("mergeline run recast save.overwrite=t", ["save.overwrite=true"]),
        ("mergeline run recast save.max_shard_size=", ["save.max_shard_size=5GB"]),
        ("mergeline run merge_qlora params.b", ["params.base="]),
        ("mergeline run merge_qlora hydra/laun", ["hydra/launcher="]),
        ("mergeline steps deq", ["dequantize"]),
        ("mergeline run nothing_of_the_kind x", []),
    ],
)
def test_what_may_come_next(
    line: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert suggest(line, VERBS) == words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_takes(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not on this machine")
    subprocess.run([shell, "-n"], input=script(shell), text=True, check=True)


def test_bash_completes_a_word_with_it(tmp_path: Path) -> None:
    fake = tmp_path / "mergeline"
    fake.write_text('#!/bin/sh\n[ "$COMP_LINE" = "mergeline run x save.d" ] && echo save.dtype=\n')
    fake.chmod(0o755)
    ask = (
        f"{script('bash')}\nPATH={tmp_path}:$PATH\n"
        'COMP_LINE="mergeline run x save.d"; COMP_POINT=${#COMP_LINE}\n_mergeline\necho "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash"], input=ask, text=True, capture_output=True, check=True)
    assert done.stdout == "save.dtype=\n"
