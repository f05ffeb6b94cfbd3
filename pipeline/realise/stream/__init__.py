"""The streaming realiser: from the base's files to the output's, tensor by tensor, never the whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.accounting.direct import Work
from pipeline.accounting.layout import index_of, lay_out
from pipeline.realise.outcome import check_changed, facts, unchanged_text
from pipeline.realise.stream.engine import write_shards

if TYPE_CHECKING:
    from pipeline.run import RunContext


def stream_weights(run: RunContext, work: Work, folder: Path, *, max_shard_bytes: int) -> int:
    """Write the weights, their index and the config into an existing folder; returns the weights' bytes.

    Raises MergeError when a merged value is not finite, or when the merge changes nothing.
    """
    shards = lay_out(work.tensors, max_shard_bytes)
    with run.bar("merging", sum(t.bytes for t in work.tensors), unit="B") as bar:
        done = write_shards(shards, folder, safe=work.safe, advance=bar.advance)
    claimed = [tensor.key.removesuffix(".weight") for tensor in work.folded]
    if claimed:
        unchanged = [name for name in claimed if f"{name}.weight" not in done.changed]
        check_changed(claimed, unchanged, run.blueprint.all_adapters)
        run.metrics(facts(len(claimed), len(unchanged)))
        if unchanged:
            run.warn(unchanged_text(unchanged, len(claimed)))
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_text(index_of(shards), encoding="utf-8")
    _write_config(work, folder)
    return sum(shard.size for shard in shards)


def _write_config(work: Work, folder: Path) -> None:
    """The base's config, with the dtype under the one name that loaders now read."""
    config = {key: value for key, value in work.base.config.items() if key != "torch_dtype"}
    config["dtype"] = work.base.dtype
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
