"""What a model answers to given inputs, as numbers; and a clean process that loads a saved model.

Run as `python -m pipeline.proof.logits REQUEST.json`, this file loads a folder from disk with
transformers alone (peft cannot be imported in that process, nor the network reached) and writes its answers
into a folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline.blueprint import Base, Dtype, Placement, Task
from pipeline.errors import InputError, MergelineError
from pipeline.proof.device import input_device
from pipeline.proof.kept_logits import KeptLogits, keep
from pipeline.proof.write import own_generation_config

if TYPE_CHECKING:
    import torch

_ANSWERS = "answers.json"

LONGEST = 256
"""Tokens of a prompt that are looked at."""


@dataclass(frozen=True)
class Request:
    """What the clean process is asked for."""

    base: Base
    """The saved folder as a base, with the placement of the model that it is compared with."""
    device: str
    output: str
    """The folder to write the answers into; it is made."""
    prompts: tuple[str, ...] = ()
    token_ids: tuple[tuple[int, ...], ...] = ()
    """In place of prompts, for a folder without a tokenizer."""
    new_tokens: int = 0
    """How far to continue each prompt, for a model that writes."""
    threads: int = 1
    """As many as the other side uses: sums may come out otherwise with another number."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Request:
        fields = json.loads(text)
        placement = Placement(**fields["base"].pop("placement"))
        base = Base(**fields.pop("base"), placement=placement)
        fields["prompts"] = tuple(fields["prompts"])
        fields["token_ids"] = tuple(map(tuple, fields["token_ids"]))
        return Request(base=base, **fields)


@dataclass(frozen=True)
class Answers:
    """What a saved folder says."""

    logits: KeptLogits
    """For each prompt, in the dtype that the model computes in."""
    token_ids: list[list[int]]
    """As the folder's own tokenizer made them."""
    written: list[list[int]]
    """How the model continues each prompt; none where it does not write."""
    dtype: Dtype
    """What the saved model computes in."""

    def write(self) -> None:
        """Put what is no logits beside these."""
        said = {"token_ids": self.token_ids, "written": self.written, "dtype": self.dtype}
        (self.logits.folder / _ANSWERS).write_text(json.dumps(said), encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Answers:
        """What `write` wrote."""
        said = json.loads((folder / _ANSWERS).read_text(encoding="utf-8"))
        return Answers(KeptLogits(folder, len(said["token_ids"])), **said)


def tokenized(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of each prompt, with the special tokens that the tokenizer adds."""
    found = (tokenizer(prompt)["input_ids"] for prompt in prompts)
    return [[int(token) for token in ids][:LONGEST] for ids in found]


def answers(model: Any, task: Task, token_ids: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
    """What the model predicts for each list of token ids: on the CPU, (positions, classes).

    One forward pass for each, when it is asked for, so that nothing depends on padding. A model with a
    vocabulary gives a row for each token; a classifier one row; question answering two rows (where the
    answer starts, where it ends); a bare encoder its last hidden states.
    """
    import torch

    device = input_device(model)
    longest = _positions(model)
    for ids in token_ids:
        with torch.inference_mode():
            out = model(**_inputs(model, task, torch.tensor([list(ids)[:longest]], device=device)))
        if task == "question_answering":
            rows = torch.cat([out.start_logits, out.end_logits])
        elif task == "feature_extraction":
            rows = out.last_hidden_state[0]
        else:
            rows = out.logits[0] if out.logits.dim() == 3 else out.logits
        yield rows.cpu().contiguous()


def continuations(
    model: Any, task: Task, token_ids: Sequence[Sequence[int]], count: int
) -> list[list[int]]:
    """The `count` tokens that a model that writes goes on with, always the likeliest; else nothing."""
    import torch

    longest = _positions(model) - count
    if task not in ("causal_lm", "seq2seq_lm") or longest < 1 or not count:
        return []
    device, made = input_device(model), []
    for ids in token_ids:
        inputs = torch.tensor([list(ids)[:longest]], device=device)
        with torch.inference_mode(), own_generation_config(model, 0):
            written = model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                min_new_tokens=count,
                max_new_tokens=count,
                do_sample=False,
            )
        made.append(written[0, -count:].tolist())
    return made


def _positions(model: Any) -> int:
    """How many tokens a model takes; a few fewer, as some begin to count their positions at 2."""
    config = model.config.get_text_config()
    known = (
        getattr(config, key, None) for key in ("max_position_embeddings", "max_target_positions")
    )
    return max(1, min((n for n in known if isinstance(n, int) and n > 0), default=LONGEST) - 2)


def _inputs(model: Any, task: Task, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch

    if task == "speech_seq2seq":
        # A model of speech is compared on noise; what matters is that both hear the same.
        config = model.config
        shape = (1, config.num_mel_bins, 2 * config.max_source_positions)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        sound = noise.to(ids.device, model.dtype)
        return {"input_features": sound, "decoder_input_ids": ids}
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if task == "seq2seq_lm":
        start = model.config.decoder_start_token_id or 0
        inputs["decoder_input_ids"] = torch.cat([torch.full_like(ids[:, :1], start), ids], dim=1)
    return inputs


def answer(request: Request) -> Answers:
    """Load the folder and ask it. Raises InputError when its weights are not whole, or do not load."""
    from transformers import AutoTokenizer

    from pipeline.checkpoint.base import inspect_base
    from pipeline.realise.load import load_base_model, torch_device

    base = replace(request.base, quantization=inspect_base(request.base).quantization)
    loaded = load_base_model(base, torch_device(request.device))
    if loaded.invented:
        raise InputError(
            f"lacks {', '.join(sorted(loaded.invented)[:4])}, which would be random",
            where=base.model,
        )
    ids = [list(row) for row in request.token_ids]
    if request.prompts:
        tokenizer = AutoTokenizer.from_pretrained(
            base.model, local_files_only=True, trust_remote_code=base.trust_remote_code
        )
        ids = tokenized(tokenizer, request.prompts)
    return Answers(
        logits=keep(answers(loaded.model, base.task, ids), Path(request.output)),
        token_ids=ids,
        written=continuations(loaded.model, base.task, ids, request.new_tokens),
        dtype=cast(Dtype, str(loaded.model.dtype).removeprefix("torch.")),
    )


def main(request_file: str) -> int:
    """Answer one request; the process must not have imported peft, and cannot from here on."""
    if "peft" in sys.modules:
        raise RuntimeError("peft is loaded already; this must be a process of its own")
    sys.modules["peft"] = None  # type: ignore[assignment]
    request = Request.from_json(Path(request_file).read_text(encoding="utf-8"))

    import torch

    torch.set_num_threads(request.threads)
    found = answer(request)
    if sys.modules["peft"] is not None or any(name.startswith("peft.") for name in sys.modules):
        raise RuntimeError("peft was imported on the way")
    found.write()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except MergelineError as error:
        sys.exit(f"{error.where}: {error.what}")
