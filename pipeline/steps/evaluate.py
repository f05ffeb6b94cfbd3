"""`evaluate`: how well the model knows a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pipeline.blueprint import State
from pipeline.data import check_data_file, read_records
from pipeline.errors import InputError, Refused
from pipeline.steps import step, step_settings

if TYPE_CHECKING:
    from pipeline.realise.live import LiveModel
    from pipeline.run import RunContext


@step_settings
class EvaluateSettings:
    data: str
    """A .txt or .jsonl file. Fields of a line: `text`; `prompt` and `completion`; `messages`; `input` and
    `target` (encoder-decoder models); `text` and `label` (classification)."""
    max_length: Annotated[int, Field(ge=2)] = 1024
    """Tokens the model sees at once. A longer `text` is measured in pieces; a longer pair is cut off."""
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Examples in one forward pass. Changes memory and speed, not the result beyond rounding."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Read only so many examples."""


@step(needs=["base"])
def evaluate(settings: EvaluateSettings, state: State) -> State:
    """Measure the loss of the model as it stands at this point.

    Gives `loss` (mean negative log-likelihood of a token, in nats), `perplexity` (its exponential) and
    `tokens`. With prompts and completions, or messages, only the completion or the last answer counts.
    A classification model gives `loss`, `accuracy` and `examples`.
    """
    blueprint = state.blueprint
    assert blueprint is not None
    task = blueprint.base.task
    if task not in ("causal_lm", "seq2seq_lm", "image_text_to_text", "sequence_classification"):
        raise Refused(
            f"a model loaded for {task} cannot be measured on text",
            fix="remove this step, or choose another `task` in `load_base`",
        )
    data = Path(settings.data)
    if state.run_dir in data.parents:
        return state  # an earlier step of this recipe may write it
    try:
        check_data_file(data)
    except InputError as error:
        raise Refused(str(error), key="data", otherwise=state) from error
    return state


@evaluate.act
def _(settings: EvaluateSettings, run: RunContext) -> None:
    from pipeline.encode import encode, pad_token
    from pipeline.proof.loss import measure

    data, task = Path(settings.data), run.blueprint.base.task
    records = read_records(data, settings.limit)
    run.used(data)
    live = run.live()
    max_length = _within(settings.max_length, live)
    encoded = encode(
        records,
        live.tokenizer,
        task,
        max_length,
        classes=dict(live.model.config.label2id or {}),
    )
    if not encoded.examples:
        raise InputError(
            "no token of it can be measured: every example is a single token, or its prompt fills "
            "`max_length`",
            where=data,
            fix="give longer texts, or raise `max_length`",
        )
    if encoded.cut:
        run.warn(f"{encoded.cut} of {len(records)} examples were cut off at {max_length} tokens")
    with run.bar("evaluating", len(encoded.examples)) as bar:
        loss = measure(
            live.model,
            task,
            encoded.examples,
            batch_size=settings.batch_size,
            pad_id=pad_token(live.tokenizer),
            done=bar.advance,
        )
    if task == "sequence_classification":
        run.metrics({"loss": loss.mean, "accuracy": loss.accuracy, "examples": loss.counted})
        run.note(f"loss {loss.mean:.4f}, accuracy {loss.accuracy:.1%} on {loss.counted} examples")
    else:
        run.metrics({"loss": loss.mean, "perplexity": loss.perplexity, "tokens": loss.counted})
        run.note(
            f"loss {loss.mean:.4f}, perplexity {loss.perplexity:.4g} on {loss.counted:,} tokens"
        )


def _within(max_length: int, live: LiveModel) -> int:
    """No longer than the model and its tokenizer know positions for."""
    positions = getattr(live.model.config.get_text_config(), "max_position_embeddings", None)
    known = (positions, live.tokenizer.model_max_length)
    return min(max_length, *(n for n in known if isinstance(n, int) and n > 1))
