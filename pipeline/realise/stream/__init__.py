"""The streaming realiser: from the base's files to the output's, tensor by tensor, never the whole model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.accounting.direct import Work
from pipeline.accounting.layout import Shard, index_of, lay_out
from pipeline.checkpoint.identity import Identity
from pipeline.checkpoint.journal import Finished, Journal
from pipeline.realise.outcome import check_changed, facts, unchanged_text
from pipeline.realise.stream.engine import write_outputs
from pipeline.realise.stream.output import Output
from pipeline.realise.stream.over_ray import write_over_ray
from pipeline.realise.stream.resuming import check_unchanged, identities, resume

if TYPE_CHECKING:
    from pipeline.realise.stream.modules import Modules
    from pipeline.run import RunContext


@dataclass(frozen=True)
class Stream:
    """One model on its way into a folder."""

    work: Work
    shards: list[Shard]
    inputs: Mapping[Path, Identity]
    """As they were when it began."""
    journal: Journal
    output: Output
    """What earlier runs have not finished."""

    @property
    def bytes(self) -> int:
        """That are to be written."""
        return sum(tensor.bytes for shard in self.output.shards for tensor, _ in shard.tensors)


def begin_stream(
    run: RunContext, work: Work, folder: Path, *, max_shard_bytes: int, by: Modules | None = None
) -> Stream:
    """Get a folder ready that `publishing` gave: what an earlier run finished of the same work stays."""
    shards = lay_out(work.tensors, max_shard_bytes)
    inputs = identities(run, work)
    journal = resume(run, folder, shards, inputs)
    rest = [shard for shard in shards if shard.name not in journal.finished]
    output = Output(folder, rest, work.safe, journal.add, by.make if by else None)
    return Stream(work, shards, inputs, journal, output)


def stream_weights(
    run: RunContext, work: Work, folder: Path, *, max_shard_bytes: int, by: Modules | None = None
) -> list[Finished]:
    """Write the weights, their index and the config into a folder that `publishing` gave.

    `by` makes the tensors of the work that have no base. Returns the files of weights. Those that an earlier
    run finished of the same work, or a pass with other branches before this step, are not written again.

    Raises MergeError when a merged value is not finite, or when the merge changes nothing.
    """
    stream = run.ahead.pop(folder, None)
    if stream is None:
        stream = begin_stream(run, work, folder, max_shard_bytes=max_shard_bytes, by=by)
        with run.bar("merging", stream.bytes, unit="B") as bar:
            if run.recipe.workers == "ray":
                write_over_ray(stream.output, by, stream.inputs, bar.advance)
            else:
                write_outputs([stream.output], advance=bar.advance)
    if stream.output.error is not None:
        raise stream.output.error
    check_unchanged(stream.inputs)
    finished = stream.journal.finished.values()
    changed = {key for entry in finished for key in entry.changed}
    claimed = by.claimed if by else {t.key.removesuffix(".weight"): {t.key} for t in work.folded}
    if claimed:
        unchanged = [name for name, keys in claimed.items() if changed.isdisjoint(keys)]
        check_changed(list(claimed), unchanged, run.blueprint.all_adapters)
        run.metrics(facts(len(claimed), len(unchanged)))
        if unchanged:
            run.warn(unchanged_text(unchanged, len(claimed)))
    if len(stream.shards) > 1:
        index = index_of(stream.shards)
        (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    if by is None:
        write_config(work, folder)
    else:
        by.write_config(folder)
    return list(finished)


def write_config(work: Work, folder: Path) -> None:
    """The base's config, with the dtype under the one name that loaders now read, and not quantized."""
    gone = ("torch_dtype", "quantization_config")
    config = {key: value for key, value in work.base.config.items() if key not in gone}
    config["dtype"] = work.dtype
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
