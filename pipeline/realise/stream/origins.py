"""Tensors without values that remember what they were made of.

transformers renames, fuses, splits and transposes tensors on their way from a file into a model, and undoes
it on their way out, each architecture in its own way. To learn what becomes of each tensor without reading
one, its own code is run over these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from pipeline.accounting.layout import Form
from pipeline.realise.stream.reading import TORCH

_SAME_VALUES = frozenset(
    {
        torch.Tensor.__getitem__,
        torch.Tensor.contiguous,
        torch.Tensor.detach,
        torch.Tensor.requires_grad_,
        torch.Tensor.to,
        torch.Tensor.data.__get__,
        torch.Tensor.data.__set__,
    }
)
"""Calls that keep every value where it is."""


class Traced(torch.Tensor):  # type: ignore[misc]
    """A tensor on the meta device with the names of all tensors that its values come from."""

    origins: frozenset[str] = frozenset()
    rearranged: bool = False
    """Whether anything was done on the way but renaming and casting."""
    cast: bool = False
    """Whether it had another dtype on the way."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = super().__torch_function__(function, types, args, kwargs)
        made = [tensor for tensor in _tensors(result) if isinstance(tensor, cls)]
        if made:
            given = [t for t in _tensors([args, kwargs]) if isinstance(t, cls)]
            origins = frozenset().union(*(t.origins for t in given))
            rearranged = function not in _SAME_VALUES or any(t.rearranged for t in given)
            for tensor in made:
                tensor.origins, tensor.rearranged = origins, rearranged
                tensor.cast = any(t.cast or t.dtype != tensor.dtype for t in given)
        return result


def traced(name: str, form: Form) -> Traced:
    """A tensor of that dtype and shape whose only origin is `name`."""
    empty = torch.empty(form.shape, dtype=TORCH[form.dtype], device="meta")
    tensor: Traced = empty.as_subclass(Traced)
    tensor.origins = frozenset({name})
    return tensor


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested arguments or results."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
