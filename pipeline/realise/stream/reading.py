"""The tensors of a base, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch

from pipeline.accounting.layout import Form, Stored
from pipeline.checkpoint.base import BaseCheckpoint
from pipeline.errors import InputError
from pipeline.realise.stream.files import read_bytes

SPELT = {
    torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
"""safetensors' names of torch's dtypes."""
TORCH = {name: dtype for dtype, name in SPELT.items()}


class Reader:
    """Reads single tensors of a base; files of the Hub are downloaded."""

    def __init__(self, base: BaseCheckpoint) -> None:
        self.base = base
        self.folder: Path = base.source.fetch()

    @cached_property
    def forms(self) -> Mapping[str, Form]:
        """Dtype and shape of every tensor, by its key."""
        if self.base.pickle:
            return {key: form_of(tensor) for key, tensor in self._pickled.items()}
        return {key: Form(where.info.dtype, where.info.shape) for key, where in self.stored.items()}

    @cached_property
    def stored(self) -> Mapping[str, Stored]:
        """Where each tensor lies, in the order of the files; empty for pickles.

        Raises InputError when two files hold the same tensor.
        """
        found: dict[str, Stored] = {}
        for file in self.base.weight_files if not self.base.pickle else ():
            for key, info in self.base.source.read_header(file).tensors.items():
                if key in found:
                    raise InputError(
                        f"holds {key}, which {found[key].file.name} holds too",
                        where=self.folder / file,
                        fix="remove the file that does not belong to the model, or mend its index",
                    )
                found[key] = Stored(self.folder / file, info)
        return found

    def read(self, key: str) -> torch.Tensor:
        """The tensor on the CPU. Raises InputError for a dtype that torch does not have."""
        if self.base.pickle:
            return self._pickled[key]
        where = self.stored[key]
        dtype = TORCH.get(where.info.dtype)
        if dtype is None:
            raise InputError(f"torch has no dtype {where.info.dtype}", where=f"{where.file}: {key}")
        data = read_bytes(where.file, where.info.start, where.info.bytes)
        if not data:
            return torch.empty(where.info.shape, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype).reshape(where.info.shape)

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors have the same dtype, shape and values."""
        return self.forms[one] == self.forms[other] and torch.equal(
            self.read(one), self.read(other)
        )

    @cached_property
    def _pickled(self) -> Mapping[str, torch.Tensor]:
        """Mapped from the files, so that a tensor takes memory only while it is used."""
        found: dict[str, torch.Tensor] = {}
        for file in self.base.weight_files:
            loaded = torch.load(
                self.folder / file, map_location="cpu", weights_only=True, mmap=True
            )
            found.update(loaded)
        return found


def form_of(tensor: torch.Tensor) -> Form:
    """Dtype and shape of a torch tensor, as safetensors spells them."""
    return Form(SPELT[tensor.dtype], tuple(tensor.shape))
