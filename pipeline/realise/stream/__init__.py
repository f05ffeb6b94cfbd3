"""The streaming realiser: from the base's files to the output's, tensor by tensor, never the whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.accounting.direct import Work
from pipeline.accounting.layout import index_of, lay_out
from pipeline.checkpoint.journal import Finished
from pipeline.realise.outcome import check_changed, facts, unchanged_text
from pipeline.realise.stream.engine import write_shards
from pipeline.realise.stream.resuming import check_unchanged, identities, resume

if TYPE_CHECKING:
    from pipeline.realise.stream.modules import Modules
    from pipeline.run import RunContext


def stream_weights(
    run: RunContext, work: Work, folder: Path, *, max_shard_bytes: int, by: Modules | None = None
) -> list[Finished]:
    """Write the weights, their index and the config into a folder that `publishing` gave.

    `by` makes the tensors of the work that have no base. Returns the files of weights. Those that an earlier
    run finished of the same work are not written again.

    Raises MergeError when a merged value is not finite, or when the merge changes nothing.
    """
    shards = lay_out(work.tensors, max_shard_bytes)
    inputs = identities(run, work)
    journal = resume(run, folder, shards, inputs)
    rest = [shard for shard in shards if shard.name not in journal.finished]
    with run.bar("merging", sum(t.bytes for s in rest for t, _ in s.tensors), unit="B") as bar:
        write_shards(
            rest,
            folder,
            safe=work.safe,
            advance=bar.advance,
            finished=journal.add,
            make=by.make if by else None,
        )
    check_unchanged(inputs)
    changed = {key for entry in journal.finished.values() for key in entry.changed}
    claimed = by.claimed if by else {t.key.removesuffix(".weight"): {t.key} for t in work.folded}
    if claimed:
        unchanged = [name for name, keys in claimed.items() if changed.isdisjoint(keys)]
        check_changed(list(claimed), unchanged, run.blueprint.all_adapters)
        run.metrics(facts(len(claimed), len(unchanged)))
        if unchanged:
            run.warn(unchanged_text(unchanged, len(claimed)))
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_text(index_of(shards), encoding="utf-8")
    if by is None:
        _write_config(work, folder)
    else:
        by.write_config(folder)
    return list(journal.finished.values())


def _write_config(work: Work, folder: Path) -> None:
    """The base's config, with the dtype under the one name that loaders now read, and not quantized."""
    gone = ("torch_dtype", "quantization_config")
    config = {key: value for key, value in work.base.config.items() if key not in gone}
    config["dtype"] = work.dtype
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
