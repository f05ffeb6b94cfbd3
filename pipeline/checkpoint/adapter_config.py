"""Read `adapter_config.json` as people have it: PEFT's of any version, or something else by that name."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.checkpoint import peft_types
from pipeline.checkpoint.foreign import not_peft, refuse_diffusers
from pipeline.errors import InputError


@dataclass(frozen=True)
class AdapterConfig:
    """A usable PEFT config."""

    options: Mapping[str, Any]
    """What the installed PEFT knows of it; builds its config object without error."""
    peft_type: str
    warnings: tuple[str, ...] = ()


def check_adapter_config(raw: Mapping[str, Any], *, where: str) -> AdapterConfig:
    """Make a usable config of the object in an `adapter_config.json`, or raise InputError, which says
    what the file is and what to do."""
    peft_type = _peft_type(raw, where)
    options, dropped = _known_options(raw, peft_type, where)
    _check_task(options, where)
    _check_values(options, peft_type, where)
    refuse_diffusers(options, where)
    _check_start(options, where)
    warnings = [*dropped, *_about_class(options, where)]
    return AdapterConfig(_without_unused(options, peft_type), peft_type, tuple(warnings))


def _peft_type(raw: Mapping[str, Any], where: str) -> str:
    if "peft_type" not in raw:
        raise not_peft(raw, where)
    kind = raw["peft_type"]
    known = peft_types.type_names()
    if kind in known:
        return str(kind)
    if isinstance(kind, str) and kind in peft_types.RENAMED:
        raise InputError(
            f"`peft_type` {kind} gave way to {peft_types.RENAMED[kind]}, whose weights are stored otherwise",
            where=where,
            fix="convert it as PEFT's documentation of MiSS shows, or train it again",
        )
    near = difflib.get_close_matches(str(kind).upper(), known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"`peft_type` {kind!r} is not one that PEFT {peft_types.peft_version()} has{hint}",
        where=where,
        fix="mend it, or, if a newer PEFT wrote it: `pip install -U peft`",
    )


def _known_options(
    raw: Mapping[str, Any], peft_type: str, where: str
) -> tuple[dict[str, Any], list[str]]:
    """The options that the installed PEFT has, and warnings for the others.

    Versions of PEFT before and after add options, which are harmless while they are off. A switch that is
    on, or a filled sub-config, asks for a computation that the installed PEFT does not do.
    """
    known = peft_types.options_of(peft_type) - {
        "runtime_config"
    }  # PEFT itself warns of it and drops it
    options = {key: value for key, value in raw.items() if key in known}
    unsure = []
    for key in sorted(raw.keys() - known - {"runtime_config"}):
        value = raw[key]
        if key.startswith("_") or value in (None, False, "", [], {}):
            continue
        if value is True or isinstance(value, (dict, list)):
            raise InputError(
                f"sets `{key}`, which PEFT {peft_types.peft_version()} does not know for {peft_type}",
                where=where,
                fix="`pip install -U peft`; or remove it, if you know that it does not change the result",
            )
        unsure.append(f"{key}={value!r}")
    if not unsure:
        return options, []
    text = f"{where}: PEFT {peft_types.peft_version()} does not know {', '.join(unsure)}, so it is left out"
    return options, [text]


def _check_task(options: Mapping[str, Any], where: str) -> None:
    task = options.get("task_type")
    if task is None or task in peft_types.task_names():
        return
    raise InputError(
        f"`task_type` {task!r} is not one that PEFT has",
        where=where,
        fix=f"make it null or one of {', '.join(peft_types.task_names())}",
    )


def _check_start(options: Mapping[str, Any], where: str) -> None:
    """PEFT begins CorDA anew when it loads an adapter, from data that only the training had."""
    if options.get("init_lora_weights") == "corda":
        raise InputError(
            "`init_lora_weights` is 'corda': what the training took out of the base is not in the file",
            where=where,
            fix="save it with `path_initial_model_for_weight_conversion` of PEFT's `save_pretrained`; or, on "
            "the base that the training saved beside it, set `init_lora_weights` to true",
        )


def _check_values(options: Mapping[str, Any], peft_type: str, where: str) -> None:
    """Types of the options that most adapters have. PEFT checks hardly any, and fails far from the cause."""

    def want(key: str, right: bool, kind: str) -> None:
        if not right:
            raise InputError(
                f"`{key}` must be {kind}, and is {options.get(key)!r}",
                where=where,
                fix="mend it in the file",
            )

    if peft_type == "LORA":
        for key in ("r", "lora_alpha"):  # PEFT would take 8, and the merge be scaled by a guess
            want(key, options.get(key) is not None, "a number")
    for key, value in options.items():
        if value is None:
            continue
        match key:
            case "r":
                least = 0 if peft_type == "OFT" else 1
                want(
                    key,
                    type(value) is int and value >= least,
                    f"a whole number of at least {least}",
                )
            case "lora_alpha" | "alpha":
                want(key, _is_figure(value), "a number")
            case "lora_dropout":
                want(key, _is_figure(value) and 0 <= value <= 1, "a number from 0 to 1")
            case "target_modules" | "exclude_modules" | "feedforward_modules":
                right = _is_pattern(value) if isinstance(value, str) else _is_names(value)
                want(key, right, "a list of names or a regular expression")
            case "layers_pattern":
                want(key, _is_names(value), "a name or a list of names")
            case "modules_to_save" | "target_parameters":
                want(key, isinstance(value, list) and _is_names(value), "a list of names")
            case "use_dora" | "use_rslora" | "fan_in_fan_out" | "lora_bias":
                want(key, isinstance(value, bool), "true or false")
            case "bias" if peft_type == "LORA":
                want(key, value in ("none", "all", "lora_only"), "none, all or lora_only")
            case "rank_pattern":
                want(key, _is_by_module(value, _is_rank), "an object of patterns and whole numbers")
            case "alpha_pattern":
                want(key, _is_by_module(value, _is_figure), "an object of patterns and numbers")
            case "base_model_name_or_path" | "revision":
                want(key, isinstance(value, str), "a text")
            case "layers_to_transform":
                want(key, type(value) is int or _is_layers(value), "a number or a list of numbers")
            case "token_indices":
                want(key, _is_layers(value), "a list of numbers")
            case _ if key.endswith("_config") or key == "use_bdlora":
                want(key, isinstance(value, dict), "an object")
    _check_together(options, where)
    if peft_type == "ADALORA":
        _check_schedule(options, where)


def _check_together(options: Mapping[str, Any], where: str) -> None:
    fix = "mend it in the file"
    pattern = isinstance(options.get("target_modules"), str)
    layers = options.get("layers_to_transform")
    if pattern and (layers is not None or options.get("layers_pattern")):
        raise InputError(
            "`target_modules` is a pattern, so `layers_to_transform` and `layers_pattern` cannot be set",
            where=where,
            fix=fix,
        )
    if options.get("layers_pattern") and layers is None:
        raise InputError("`layers_pattern` needs `layers_to_transform`", where=where, fix=fix)
    if options.get("use_dora") and options.get("lora_bias"):
        raise InputError("`use_dora` and `lora_bias` cannot both be on", where=where, fix=fix)
    inner, outer = options.get("feedforward_modules"), options.get("target_modules")
    if isinstance(inner, list) and isinstance(outer, list) and not set(inner) <= set(outer):
        raise InputError(
            "`feedforward_modules` must be among `target_modules`", where=where, fix=fix
        )
    if options.get("megatron_config"):
        raise InputError(
            "was trained with Megatron's parallel layers (`megatron_config`), which are not supported",
            where=where,
            fix="if the weights are in transformers' layout, set `megatron_config` to null",
        )


def _check_schedule(options: Mapping[str, Any], where: str) -> None:
    """Older versions of PEFT saved AdaLoRA without `total_step`, and today's refuses to load that."""
    steps = options.get("total_step")
    before, after = options.get("tinit", 0), options.get("tfinal", 0)
    if not all(type(n) is int for n in (steps, before, after)) or before >= steps - after:
        raise InputError(
            f"`total_step` is {steps!r}, and PEFT takes AdaLoRA only with more steps than `tinit` and "
            "`tfinal` together",
            where=where,
            fix="set it to the steps of the training; any number that is large enough will do, as it "
            "steers only the training",
        )


def _without_unused(options: Mapping[str, Any], peft_type: str) -> dict[str, Any]:
    """Take out settings that were not used, of which PEFT would complain.

    So is null, for which PEFT's own default stands: PEFT takes it as a value and trips over it.
    """
    kept = {key: value for key, value in options.items() if value is not None}
    init = kept.get("init_lora_weights")
    for key, method in (
        ("loftq_config", "loftq"),
        ("eva_config", "eva"),
        ("corda_config", "corda"),
    ):
        if init != method:
            kept.pop(key, None)
    if peft_type == "ADALORA":
        kept.pop("r", None)  # it has `init_r` and `target_r`
    return kept


def _about_class(options: Mapping[str, Any], where: str) -> list[str]:
    mapping = options.get("auto_mapping")
    if not isinstance(mapping, dict):
        return []
    library = str(mapping.get("parent_library") or "")
    if library.startswith("transformers") or not library:
        return []
    name = mapping.get("base_model_class")
    return [
        f"{where}: was trained on {name} of {library}, which is not part of transformers; "
        "it fits only a base with the same module names"
    ]


def _is_names(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(n, str) for n in value)
    )


def _is_layers(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int for n in value)


def _is_figure(value: object) -> bool:
    return isinstance(value, (int, float)) and type(value) is not bool and math.isfinite(value)


def _is_rank(value: object) -> bool:
    return type(value) is int and value > 0


def _is_by_module(value: object, right: Callable[[object], bool]) -> bool:
    return (
        isinstance(value, dict)
        and all(_is_pattern(name) for name in value)
        and all(right(figure) for figure in value.values())
    )


def _is_pattern(value: str) -> bool:
    """Whether it compiles as the regular expression that PEFT takes it for."""
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError):
        return False
    return True
