"""Bases and adapters by their id on the Hub: looked up, pinned to a commit, fetched. Against a stub.

The Hub's client reads its settings when it is imported, so each test asks in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.folders import (
    BASE_SHAPES,
    Shapes,
    make_adapter,
    make_base,
    make_sharded_base,
    write_files,
)
from tests.fixtures.hub import Hub, serve

ASK = """
import json, sys
from pathlib import Path
from pipeline.blueprint import Adapter, Base, Blueprint
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.base import inspect_base
from pipeline.checkpoint.companions import copy_companions
from pipeline.checkpoint.source import locate
from pipeline.errors import InputError
def tell(what): print(json.dumps(what))
try:
    {body}
except InputError as error:
    tell({{"where": error.where, "what": error.what, "fix": error.fix}})
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    base = make_base(tmp_path / "served" / "base")
    write_files(
        base, {"pytorch_model.bin": "unwanted", "optimizer.pt": "unwanted", "sub/notes.json": "{}"}
    )
    adapter = make_adapter(tmp_path / "served" / "adapter")
    gated = make_base(tmp_path / "served" / "gated")
    repos = {"owner/base": base, "owner/adapter": adapter, "owner/gated": gated}
    with serve(repos, gated=frozenset({"owner/gated"})) as running:
        yield running


def ask(body: str, tmp_path: Path, endpoint: str, **environment: str) -> Any:
    """What a process says that runs `body` with the Hub at `endpoint` and an empty cache."""
    code = ASK.format(body=textwrap.indent(textwrap.dedent(body).strip(), "    ").strip())
    keep = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    home = {
        "HF_HOME": str(tmp_path / "cache"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**keep, **home, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_base_is_described_without_fetching_its_weights(hub: Hub, tmp_path: Path) -> None:
    said = ask(
        """
        found = inspect_base(Base("owner/base"))
        tell([found.source.commit, found.model_type, found.weight_bytes, sorted(found.tensors)])
        """,
        tmp_path,
        hub.url,
    )

    size = (hub.repos["owner/base"] / "model.safetensors").stat().st_size
    assert said == [hub.commit("owner/base"), "llama", size, sorted(BASE_SHAPES)]
    weights = [r for r in hub.requests if "model.safetensors" in r]
    assert len(weights) == 1, "one look at the header"
    assert weights[0].endswith("bytes=0-99999")


def test_headers_of_many_shards_are_asked_for_side_by_side_and_once(tmp_path: Path) -> None:
    shards: list[Shapes] = [{f"layers.{n}.weight": ("BF16", (4, 4))} for n in range(40)]
    with serve({"owner/large": make_sharded_base(tmp_path / "large", shards)}) as hub:
        hub.delay = 0.02
        said = ask(
            """
            names = [sorted(inspect_base(Base("owner/large")).tensors) for _ in range(3)]
            tell(names)
            """,
            tmp_path,
            hub.url,
        )

    assert said == [sorted(name for shard in shards for name in shard)] * 3
    assert len([r for r in hub.requests if r.endswith("bytes=0-99999")]) == 40
    assert 4 < hub.at_once <= 16


def test_what_a_load_needs_is_fetched_at_the_commit_and_nothing_else(
    hub: Hub, tmp_path: Path
) -> None:
    before, folder, after = ask(
        """
        source = inspect_base(Base("owner/base", revision="v1")).source
        before = source.to_download()
        tell([before[1], str(source.fetch()), source.to_download()[1]])
        """,
        tmp_path,
        hub.url,
    )

    weights = (hub.repos["owner/base"] / "model.safetensors").stat().st_size
    assert weights < before < weights + 1000
    assert after == 0
    fetched = {p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file()}
    assert fetched >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not fetched & {"pytorch_model.bin", "optimizer.pt"}
    assert Path(folder).name == hub.commit("owner/base")
    original = hub.repos["owner/base"]
    assert all((Path(folder) / n).read_bytes() == (original / n).read_bytes() for n in fetched)


def test_an_adapter_is_described_and_its_tokenizer_copied(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    said = ask(
        """
        found = inspect_adapter(Adapter("owner/adapter"))
        blueprint = Blueprint(Base("owner/base"), adapters=(Adapter("owner/adapter"),))
        copied = copy_companions(blueprint, Path("out"))
        tell([found.source.commit, found.peft_type, found.rank, len(found.tensors), copied])
        """,
        tmp_path,
        hub.url,
    )

    names = ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    assert said == [hub.commit("owner/adapter"), "LORA", 4, 2, names]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names


@pytest.mark.parametrize(
    ("call", "what", "fix"),
    [
        (
            'locate("owner/missing")',
            "neither a folder here nor a model on the Hub",
            "hf auth login",
        ),
        ('locate("owner/base", "v9")', "has no revision 'v9'", "tree/main"),
        ('inspect_base(Base("owner/gated"))', "is gated", "accept its terms at"),
        (
            'inspect_adapter(Adapter("owner/base"))',
            "has no adapter_config.json",
            "this is a whole model",
        ),
        ('inspect_base(Base("owner/adapter"))', "has no config.json", "this is an adapter"),
    ],
)
def test_what_cannot_be_had_is_told(
    hub: Hub, tmp_path: Path, call: str, what: str, fix: str
) -> None:
    said = ask(call, tmp_path, hub.url)

    assert what in said["what"]
    assert fix in said["fix"]
    assert said["where"].startswith("owner/")


def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    with serve({}) as gone:
        endpoint = gone.url

    said = ask('locate("owner/base")', tmp_path, endpoint)

    assert f"the Hub at {endpoint} cannot be reached" in said["what"]
    assert "HF_HUB_OFFLINE=1" in said["fix"]


def test_a_folder_of_a_similar_name_is_mentioned(hub: Hub, tmp_path: Path) -> None:
    make_base(tmp_path / "owner" / "mising")

    said = ask('locate("owner/missing")', tmp_path, hub.url)

    assert "there is the folder owner/mising" in said["fix"]


def test_the_cache_serves_when_offline(hub: Hub, tmp_path: Path) -> None:
    online = ask('tell(str(inspect_base(Base("owner/base")).source.fetch()))', tmp_path, hub.url)
    before = len(hub.requests)

    offline = ask(
        'tell(str(inspect_base(Base("owner/base")).source.fetch()))',
        tmp_path,
        hub.url,
        HF_HUB_OFFLINE="1",
    )
    missing = ask('locate("owner/adapter")', tmp_path, hub.url, HF_HUB_OFFLINE="1")

    assert offline == online
    assert "HF_HUB_OFFLINE forbids to ask" in missing["what"]
    assert len(hub.requests) == before


def test_a_token_is_sent_to_the_hub_and_shown_nowhere(hub: Hub, tmp_path: Path) -> None:
    said = ask(
        'inspect_base(Base("owner/gated"))', tmp_path, hub.url, HF_TOKEN="hf_secretsecretsecret"
    )

    assert "secret" not in json.dumps(said)
