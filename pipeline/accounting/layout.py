"""What is to be written: tensors, where their bytes come from, and how they lie in the output's files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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

    @property
    def bytes(self) -> int:
        """Of both, in float32."""
        return 4 * sum(math.prod(factor.info.shape) for factor in (self.a, self.b))


@dataclass(frozen=True)
class Form:
    """What a tensor's bytes mean."""

    dtype: str
    """As safetensors spells it."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Cast:
    """Every value rounded to another dtype."""

    dtype: str


@dataclass(frozen=True)
class Summed:
    """Deltas added in float32 to a weight in float32, and the sum rounded to the dtype."""

    deltas: tuple[Delta, ...]
    dtype: str


@dataclass(frozen=True)
class Nested:
    """Scales of 4-bit blocks that are themselves stored in 8 bits."""

    levels: Stored
    """float32, what each of the 256 codes stands for."""
    largest: Stored
    """float32, one factor for each 256 scales."""
    offset: float
    """Added to each scale."""


@dataclass(frozen=True)
class Unpack4:
    """A weight that is stored in 4 bits becomes one of plain numbers."""

    kind: str
    """nf4 or fp4."""
    form: Form
    scales: Stored
    """One for each block of 64 numbers: float32, or 8-bit codes."""
    nested: Nested | None


@dataclass(frozen=True)
class Unpack8:
    """A weight that is stored in 8 bits becomes float32."""

    scales: Stored
    """float32, one for each row."""


Change = Cast | Quantization | Unpack4 | Unpack8 | Delta | Summed
"""What can happen to a tensor on its way. A Quantization takes it through 4 bits, or a float32 one
through 8, and back."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of the output: that of the base, changed step by step."""

    key: str
    base: Stored | None
    """None for a tensor that torch and PEFT make, a few modules at a time."""
    changes: tuple[Change, ...] = ()
    """In their order, which decides the bits."""
    becomes: Form | None = None
    """Dtype and shape in the output of a tensor that has no base."""

    @property
    def form(self) -> Form:
        """Dtype and shape in the output."""
        if self.becomes is not None:
            return self.becomes
        assert self.base is not None
        form = Form(self.base.info.dtype, self.base.info.shape)
        for change in self.changes:
            match change:
                case Unpack4():
                    form = change.form
                case Unpack8():
                    form = replace(form, dtype="F32")
                case Cast() | Summed():
                    form = replace(form, dtype=change.dtype)
        return form

    @property
    def deltas(self) -> tuple[Delta, ...]:
        """All that is added to it."""
        found: list[Delta] = []
        for change in self.changes:
            match change:
                case Delta():
                    found.append(change)
                case Summed():
                    found += change.deltas
        return tuple(found)

    @property
    def through(self) -> Quantization | None:
        """What the base's tensor is quantized to, and back."""
        return next((c for c in self.changes if isinstance(c, Quantization)), None)

    @property
    def packed(self) -> bool:
        """Whether the base holds it in 4 or 8 bits."""
        return any(isinstance(change, Unpack4 | Unpack8) for change in self.changes)

    @property
    def copied(self) -> bool:
        """Whether its bytes are those of the base."""
        return self.base is not None and not self.changes

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
