"""Text from a live model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from pipeline.blueprint import Task
from pipeline.proof.device import input_device

_KEPT = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
"""What a model's generation config says about its tokens, rather than about how to choose them."""


class Written(NamedTuple):
    """What a model wrote."""

    text: str
    lost: bool
    """Whether it gave NaN in place of predictions: then the text means nothing."""


class _Watch:
    """Looks at the predictions for each token."""

    def __init__(self) -> None:
        self._seen: Any = False

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._seen = scores.isnan().any() | self._seen
        return scores

    @property
    def lost(self) -> bool:
        return bool(self._seen)


class Writer:
    """A live model and its tokenizer, ready to continue texts."""

    def __init__(self, model: Any, tokenizer: Any, task: Task) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.task = task

    @property
    def has_chat_template(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None))

    def as_chat(self, prompt: str, system: str | None = None) -> str:
        """The prompt as a user's message, in the chat template, up to where the answer begins."""
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": prompt})
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return str(text)

    def answer(
        self,
        text: str,
        *,
        max_new_tokens: int,
        sampling: Mapping[str, float] | None = None,
        is_chat: bool = False,
    ) -> Written:
        """What the model writes after `text`: the new tokens alone, without special ones.

        Greedy unless `sampling` has options. A text that `as_chat` made has its special tokens already.
        """
        import torch
        from transformers import LogitsProcessorList

        device, watch = input_device(self.model), _Watch()
        inputs = self.tokenizer(text, return_tensors="pt", add_special_tokens=not is_chat)
        ids = inputs["input_ids"].to(device, torch.long)
        if not ids.numel():
            first = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, 0)
            ids = torch.tensor([[next(i for i in first if i is not None)]], device=device)
        pad = self.tokenizer.pad_token_id
        with torch.inference_mode(), own_generation_config(self.model, pad):
            written = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                do_sample=bool(sampling),
                logits_processor=LogitsProcessorList([watch]),
                **({"top_k": 0, **sampling} if sampling else {}),
            )[0]
        new = written if self.task == "seq2seq_lm" else written[ids.shape[1] :]
        return Written(str(self.tokenizer.decode(new, skip_special_tokens=True)), watch.lost)


@contextmanager
def own_generation_config(model: Any, pad: int | None) -> Iterator[None]:
    """Set aside what the model's author chose for sampling (temperature, penalties, ...) for a while.

    transformers mixes the model's own generation config into every call, so a greedy call would take on
    its penalties and warn about its temperature. `pad` is the token to fill up with, if the model has none.
    """
    from transformers import GenerationConfig

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = inner.generation_config
    own = GenerationConfig(**{name: getattr(before, name, None) for name in _KEPT})
    if own.pad_token_id is None:
        own.pad_token_id = pad
    if own.pad_token_id is None:
        ends = own.eos_token_id
        own.pad_token_id = ends[0] if isinstance(ends, list) else ends
    inner.generation_config = own
    try:
        yield
    finally:
        inner.generation_config = before
