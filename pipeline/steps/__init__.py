"""The registry of steps. A step is one file in this folder.

A step has settings (a dataclass under `@step_settings`), a *describing* function under `@step` that turns
one `State` into the next without loading anything, and, when it needs weights or writes files, an
*acting* function under `@<step>.act`:

    @step_settings
    class GreetSettings:
        name: str
        \"\"\"Whom to greet.\"\"\"

    @step(needs=["base"])
    def greet(settings: GreetSettings, state: State) -> State:
        \"\"\"Say hello to a model.\"\"\"
        return state

    @greet.act
    def _(settings: GreetSettings, run: RunContext) -> None:
        run.note(f"hello {settings.name}")

The name of the describing function is the step's name in recipes; the docstrings, of the function and
under each setting, are its reference. Importing a step's file must stay cheap: torch, transformers and
peft are imported inside the acting function.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    TypeVar,
    cast,
    dataclass_transform,
    get_type_hints,
)

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo

from pipeline.blueprint import Blueprint, State

if TYPE_CHECKING:
    from pipeline.run import RunContext

S = TypeVar("S")

Thing = Literal["base", "adapter", "model folder", "adapter folder"]
"""What a step can need from the steps before it, or make for those after it."""

Live = bool | Callable[[Blueprint], Sequence[Blueprint]]
"""Whether an action has the model of its step in memory; or which models it makes of it, one at a time."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def step_settings(cls: type[S]) -> type[S]:
    """Make a class the settings of a step: frozen, typed strictly, no unknown options.

    The string under each attribute becomes its documentation and its JSON Schema description; bounds
    go into the type, as `Annotated[int, Field(ge=1)]`. An option that is a word of Python's own has an
    underscore after its attribute's name: `from_` is `from`.
    """
    config = ConfigDict(
        extra="forbid", strict=True, alias_generator=lambda name: name.removesuffix("_")
    )
    made: Any = pydantic_dataclass(frozen=True, kw_only=True, config=config)(cls)
    return cast("type[S]", made)


def options_of(settings: Any) -> dict[str, FieldInfo]:
    """The options of settings under the names that recipes give them."""
    return {info.alias or name: info for name, info in settings.__pydantic_fields__.items()}


class Step(Generic[S]):
    """One step of the registry; see the module's docstring for how it is written."""

    def __init__(
        self,
        describe: Callable[[S, State], State],
        needs: Iterable[Thing],
        makes: Iterable[Thing],
        live: Live,
    ) -> None:
        self.describe = describe
        self.name = describe.__name__
        self.doc = inspect.cleandoc(describe.__doc__ or "")
        self.settings: type[S] = get_type_hints(describe)["settings"]
        self.needs = frozenset(needs)
        self.makes = frozenset(makes)
        self._live = live
        self.action: Callable[[S, RunContext], None] | None = None

    @property
    def summary(self) -> str:
        """The first paragraph of the documentation, in one line."""
        return " ".join(self.doc.partition("\n\n")[0].split())

    def models(self, blueprint: Blueprint) -> Sequence[Blueprint]:
        """Those that the action has in memory, one at a time, where it works on `blueprint`."""
        return self._live(blueprint) if callable(self._live) else [blueprint] * self._live

    def act(self, function: Callable[[S, RunContext], None]) -> Callable[[S, RunContext], None]:
        """Decorator for the function that does the work of this step during a run."""
        self.action = function
        return function


_registry: dict[str, Step[Any]] = {}


def step(
    *, needs: Iterable[Thing] = (), makes: Iterable[Thing] = (), live: Live = False
) -> Callable[[Callable[[S, State], State]], Step[S]]:
    """Register a describing function as a step.

    `needs` and `makes` let a recipe be refused before anything is read when a step comes too early;
    `live` says that its action has the model in memory, or which other ones; the plan counts them.
    """

    def register(describe: Callable[[S, State], State]) -> Step[S]:
        made = Step(describe, needs, makes, live)
        known = _registry.get(made.name)
        if known is not None and known.describe.__module__ != describe.__module__:
            raise ValueError(
                f"step {made.name!r} is registered by {known.describe.__module__} and {describe.__module__}"
            )
        _registry[made.name] = made
        return made

    return register


def all_steps() -> dict[str, Step[Any]]:
    """Every step by name, in alphabetical order."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return dict(sorted(_registry.items()))


def find_step(name: str) -> Step[Any] | None:
    """The step of this name, without importing the others, as long as its file is called the same."""
    if name in (module.name for module in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{name}")
    return _registry.get(name) or all_steps().get(name)


def makers_of(thing: Thing) -> list[str]:
    """Names of the steps that make a thing, for saying which one is missing."""
    return [name for name, known in all_steps().items() if thing in known.makes]


def nearest(word: str, known: Iterable[str]) -> str | None:
    """`did you mean 'x'?` for a misspelt word, or None when nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else None
