"""What is to be written: tensors, where their bytes come from, and how they lie in the output's files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.blueprint import Quantization
from pipeline.checkpoint.headers import BITS, TensorInfo

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i)?)?B")


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file."""

    file: Path
    info: TensorInfo


@dataclass(frozen=True)
class Delta:
    """What one LoRA adapter adds to one weight: `scale * (b @ a)`."""

    a: Stored
    """[rank, columns]."""
    b: Stored
    """[rows, rank]."""
    scale: float


@dataclass(frozen=True)
class Form:
    """What a tensor's bytes mean."""

    dtype: str
    """As safetensors spells it."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """One tensor of the output: that of the base, with the deltas added one after the other."""

    key: str
    base: Stored | None
    """None for a tensor that torch and PEFT make, a few modules at a time."""
    deltas: tuple[Delta, ...] = ()
    through: Quantization | None = None
    """What the base's tensor is quantized to, and back, before anything is added."""
    becomes: Form | None = None
    """Dtype and shape in the output, where they are not those of the base's tensor."""

    @property
    def form(self) -> Form:
        """Dtype and shape in the output."""
        if self.becomes is not None:
            return self.becomes
        assert self.base is not None
        return Form(self.base.info.dtype, self.base.info.shape)

    @property
    def copied(self) -> bool:
        """Whether its bytes are those of the base."""
        changed = self.deltas or self.through or self.becomes
        return self.base is not None and not changed

    @property
    def bytes(self) -> int:
        """In the output."""
        return math.prod(self.form.shape) * BITS[self.form.dtype] // 8


@dataclass(frozen=True)
class Shard:
    """One file of the output."""

    name: str
    header: bytes
    """The safetensors header, its length included."""
    tensors: tuple[tuple[Tensor, int], ...]
    """Each with the offset of its first byte in the file."""
    size: int


def parse_size(text: str) -> int:
    """Bytes of a size such as `5GB`, `500 MB` or `2.5GiB`. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"not a size: {text!r}")
    number, letter, binary = match.groups()
    power = " KMGT".index(letter or " ")
    return max(1, int(float(number) * (1024 if binary else 1000) ** power))


def lay_out(tensors: Sequence[Tensor], max_shard_bytes: int) -> list[Shard]:
    """Spread tensors, in their order, over files of at most that many bytes of weights.

    A tensor that is larger than a whole file has one to itself. Names are those of `save_pretrained`.
    """
    groups: list[list[Tensor]] = [[]]
    room = max_shard_bytes
    for tensor in tensors:
        if tensor.bytes > room and groups[-1]:
            groups.append([])
            room = max_shard_bytes
        groups[-1].append(tensor)
        room -= tensor.bytes
    if len(groups) == 1:
        return [_shard("model.safetensors", groups[0])]
    return [
        _shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", group)
        for number, group in enumerate(groups, start=1)
    ]


def index_of(shards: Iterable[Shard]) -> str:
    """`model.safetensors.index.json` for the shards."""
    weight_map = {tensor.key: shard.name for shard in shards for tensor, _ in shard.tensors}
    total = sum(tensor.bytes for shard in shards for tensor, _ in shard.tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(index, indent=2) + "\n"


def _shard(name: str, tensors: Sequence[Tensor]) -> Shard:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        entries[tensor.key] = {
            "dtype": tensor.form.dtype,
            "shape": list(tensor.form.shape),
            "data_offsets": [at, at + tensor.bytes],
        }
        at += tensor.bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight, as loaders like it
    header = len(text).to_bytes(8, "little") + text
    starts, place = [], len(header)
    for tensor in tensors:
        starts.append(place)
        place += tensor.bytes
    return Shard(name, header, tuple(zip(tensors, starts, strict=True)), place)
