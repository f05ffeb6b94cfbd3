"""Which blueprints can be streamed by having PEFT and transformers make a few modules at a time.

This is the one list of what cannot: those models are built whole in memory, by the live realiser.
"""

from __future__ import annotations

import re

from pipeline.blueprint import Adapter, Blueprint
from pipeline.checkpoint import transformers_types
from pipeline.checkpoint.adapter import inspect_adapter

BUDGET = 64 << 20
"""Bytes of the output whose modules are in memory together, where one is not larger."""

MODULAR = frozenset(
    {
        "ADALORA", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA",
        "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA",
        "RANDLORA", "ROAD", "SHIRA", "TRAINABLE_TOKENS", "VBLORA", "VERA", "WAVEFT",
    }
)  # fmt: skip
"""Types whose layers, one by one, become what they become together; each is a row of the parity table."""

_WHOLE = {
    "FROD": "its matrices belong to groups of layers, which it finds by looking at all of them",
    "TINYLORA": "which of its vectors a layer takes depends on the layers before it",
    "UNILORA": "which part of its one vector a layer takes depends on all layers",
}
"""Types that need all their layers at once, and why."""

_DRAWN = re.compile(r"pissa_niter_\d+|loftq")
"""Starts of LoRA that PEFT repeats when it attaches the adapter, with random numbers."""


def why_not_modular(blueprint: Blueprint) -> str | None:
    """Why a stream cannot make this model a few modules at a time, for a person; None if it can.

    Raises InputError for adapters that nobody can read.
    """
    if blueprint.quantized:
        return "the base stays quantized"
    if blueprint.base.trust_remote_code:
        return "the base runs code of its own"
    if lacking := transformers_types.lacking_internals():
        return (
            f"transformers {transformers_types.version()} has no {lacking[0]}(), "
            "with which parts of a model are made"
        )
    return next(filter(None, map(_why_not_adapter, blueprint.all_adapters)), None)


def _why_not_adapter(adapter: Adapter) -> str | None:
    found = inspect_adapter(adapter)
    if found.peft_type not in MODULAR:
        why = _WHOLE.get(
            found.peft_type, "nobody has shown that its layers can be merged one by one"
        )
        return f"the adapter is of type {found.peft_type}: {why}"
    start = str(found.config.get("init_lora_weights"))
    if _DRAWN.fullmatch(start):
        return f"the adapter starts from {start}, which PEFT draws anew, layer after layer"
    return None
