"""The whole life cycle on a model that is trained here and now: no network, no GPU, no downloads.

`main` trains a base, then runs shipped recipes exactly as `mergeline run` does: one trains a QLoRA
adapter on it, one merges and verifies it, and a last one looks at all three models.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from rich.text import Text

from pipeline.demo import small_model, stories
from pipeline.demo.table import print_result
from pipeline.manifest import Manifest

FOLDER = Path("outputs/demo")
PROMPT = "Tell me about Mia, the brave fox."
COMPARE = Path(__file__).parent / "compare.yaml"


def main(folder: Path | None = None, size: small_model.Size | None = None) -> int:
    """Run the demo in a folder (`outputs/demo`), and return the exit code.

    A base that an earlier demo trained there is used again; everything else is made anew.
    """
    # More threads do nothing for so small a model, and on a machine that others use they wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    folder, size = folder or FOLDER, size or small_model.Size()
    started = time.monotonic()
    base, adapter, merged = (
        folder / "base",
        folder / "train" / "adapter",
        folder / "merge" / "merged",
    )
    train_data = _write_talks(folder / "data" / "train.jsonl", stories.for_adapter(1), 400)
    held_out = _write_talks(folder / "data" / "held_out.jsonl", stories.for_adapter(2), 50)
    _make_base(base, size)
    _say(
        "2. Train an adapter on the base in 4 bits (QLoRA): it is to answer like a pirate, always."
    )
    trained = _run(
        "train_qlora",
        {
            "hydra.run.dir": folder / "train",
            "params.base": base,
            "params.data": train_data,
            "params.held_out": held_out,
            "train_adapter.r": 4,
            "train_adapter.alpha": 8,
            "train_adapter.steps": 60,
            "train_adapter.learning_rate": 0.005,
            "train_adapter.overwrite": "true",
        },
    )
    if trained.status != "done":
        return 1
    _say(
        "3. Merge it: dequantize the base, fold the adapter in, save, and verify what lies on disk."
    )
    done = _run(
        "merge_qlora",
        {
            "hydra.run.dir": folder / "merge",
            "params.base": base,
            "params.adapter": adapter,
            "save.overwrite": "true",
        },
    )
    if done.status != "done":
        return 1
    _say("4. Look at all three: the base, the base with the adapter attached, the merged model.")
    looked = _run(
        str(COMPARE),
        {
            "hydra.run.dir": folder / "compare",
            "params.base": base,
            "params.adapter": adapter,
            "params.merged": merged,
            "params.data": held_out,
            "params.prompts": [PROMPT],
        },
    )
    if looked.status != "done":
        return 1
    print_result(folder, PROMPT, base, adapter, merged, looked, done, time.monotonic() - started)
    return 0


def _make_base(base: Path, size: small_model.Size) -> None:
    from pipeline.logs import quiet_libraries
    from pipeline.report.terminal import make_console

    console = make_console()
    if small_model.is_trained(base, size):
        _say(f"1. The base that an earlier demo trained is still right, and is used again: {base}")
        return
    _say("1. Train a base: a small Llama that tells little stories, like a pirate if asked to.")
    started = time.monotonic()
    with quiet_libraries(), console.bar("training the base", size.steps, "steps") as bar:
        loss = small_model.train(base, size, bar.advance)
    console.note(
        f"{size.steps} steps in {time.monotonic() - started:.0f} s, loss {loss:.2f}: {base}"
    )


def _run(recipe: str, overrides: dict[str, object]) -> Manifest:
    """Like `mergeline run`, which is printed, so that it can be tried by hand."""
    from pipeline import jobs
    from pipeline.recipe.find import find_recipe
    from pipeline.recipe.hydra_app import Request

    words = tuple(f"{key}={_value(value)}" for key, value in overrides.items())
    _say("   $ " + shlex.join(["mergeline", "run", recipe, *words]), style="dim")
    return jobs.run_one(Request(find_recipe(recipe), words))


def _value(value: object) -> str:
    """A value as Hydra's command line wants it: text is quoted unless it is plain."""
    if isinstance(value, list):
        return "[" + ",".join(map(_value, value)) + "]"
    text = str(value)
    if text and all(c.isalnum() or c in "/._-" for c in text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'") if "'" in text else text
    return f"'{escaped}'"


def _write_talks(path: Path, talks: Iterable[stories.Talk], count: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"messages": talk}) + "\n" for talk in itertools.islice(talks, count))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _say(text: str, style: str = "bold") -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False).print(Text(text, style), soft_wrap=True)
    sys.stderr.flush()
