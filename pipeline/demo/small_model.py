"""A causal language model small enough to be trained on two cores in half a minute."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint.publish import publishing
from pipeline.demo import stories
from pipeline.encode import Example, encode, pad
from pipeline.errors import Place
from pipeline.record import Record

NOTE = "demo.json"
"""In the model's folder: what it was made from, so that a second demo can use it again."""

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """Shape and training of the model."""

    vocabulary: int = 1024
    hidden: int = 192
    intermediate: int = 512
    layers: int = 2
    heads: int = 6
    steps: int = 600
    batch: int = 12
    stories: int = 3000
    learning_rate: float = 6e-3
    seed: int = 0

    def fingerprint(self) -> str:
        """Changes with anything that changes the model."""
        made_from = json.dumps(asdict(self)) + inspect.getsource(stories) + CHAT_TEMPLATE
        return hashlib.sha256(made_from.encode()).hexdigest()


def is_trained(folder: Path, size: Size) -> bool:
    """Whether a model of this size, made from these stories, lies in the folder."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(note.get("fingerprint") == size.fingerprint())


def train(folder: Path, size: Size, stepped: Callable[[], object] = lambda: None) -> float:
    """Train a model of Llama's architecture and write it, in bfloat16, with its tokenizer.

    Returns the loss of the last step; `stepped` is told of each one. Replaces an older demo model in
    `folder`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer(size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(size.seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=size.hidden,
                intermediate_size=size.intermediate,
                num_hidden_layers=size.layers,
                num_attention_heads=size.heads,
                num_key_value_heads=size.heads // 2,
                max_position_embeddings=512,
                tie_word_embeddings=False,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        loss = _fit(model, _examples(tokenizer, size), size, stepped)
    with publishing(folder, overwrite=True) as partial:
        model.to(torch.bfloat16).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        note = {"fingerprint": size.fingerprint(), "loss": loss, **asdict(size)}
        (partial / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    return loss


def _fit(
    model: Any, examples: Sequence[Example], size: Size, stepped: Callable[[], object]
) -> float:
    """AdamW, with one rise and fall of the learning rate; returns the last loss."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=size.learning_rate, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, size.learning_rate, total_steps=size.steps, pct_start=0.1
    )
    dice = random.Random(size.seed)
    model.train()
    for _ in range(size.steps):
        batch = pad(dice.sample(examples, size.batch), model.config.pad_token_id)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        stepped()
    model.eval()
    return float(loss.detach())


def _examples(tokenizer: Any, size: Size) -> Sequence[Example]:
    talks = itertools.islice(stories.for_base(size.seed), size.stories)
    records = [Record({"messages": talk}, Place("stories.py")) for talk in talks]
    return encode(records, tokenizer, "causal_lm", 512).examples


def _tokenizer(size: Size) -> Any:
    """Byte-level BPE, trained on what the model will read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    talks = itertools.islice(stories.for_base(size.seed), size.stories)
    tokenizer.train_from_iterator(
        (message["content"] for talk in talks for message in talk),
        trainers.BpeTrainer(
            vocab_size=size.vocabulary,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=special[2:],
        chat_template=CHAT_TEMPLATE,
    )
