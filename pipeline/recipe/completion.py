"""Tab completion: verbs, recipes, and what Hydra knows of a recipe's keys and presets."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import COMMAND_LINE, MergelineError, Problem, RecipeError

_SCRIPTS = {
    "bash": """\
_mergeline() {
    local line="${COMP_LINE:0:$COMP_POINT}"
    local word="${line##* }"
    local IFS=$'\\n'
    COMPREPLY=($(compgen -W "$(COMP_LINE="$line" mergeline -sc query=bash 2>/dev/null)" -- "$word"))
    if [ ${#COMPREPLY[@]} -eq 0 ]; then COMPREPLY=($(compgen -f -- "$word")); fi
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -F _mergeline mergeline
""",
    "zsh": """\
_mergeline() {
    local line="${BUFFER[1,CURSOR]}"
    local -a found
    found=("${(@f)$(COMP_LINE="$line" mergeline -sc query=zsh 2>/dev/null)}")
    if [[ -n "$found[1]" ]]; then compadd -S '' -- $found; else _files; fi
}
compdef _mergeline mergeline
""",
    "fish": """\
function __mergeline
    COMP_LINE=(commandline -cp) mergeline -sc query=fish 2>/dev/null
end
complete -c mergeline -a '(__mergeline)'
""",
}


def script(shell: str) -> str:
    """What a shell has to evaluate, once."""
    if shell not in _SCRIPTS:
        fix = f"there is one for {', '.join(_SCRIPTS)}"
        raise RecipeError(
            [Problem(f"there is no completion for {shell!r}", fix, place=COMMAND_LINE)]
        )
    return _SCRIPTS[shell]


def suggest(line: str, verbs: list[str]) -> list[str]:
    """Words that may stand where `line`, a command as far as it is typed, ends. Never raises."""
    words = line.split()
    word = "" if not words or line[-1].isspace() else words.pop()
    plain = [w for w in words[1:] if not w.startswith("-")]
    if not plain:
        found = verbs
    elif plain[0] == "steps":
        from pipeline.steps import all_steps

        found = list(all_steps())
    elif plain[0] == "completion":
        found = list(_SCRIPTS)
    elif plain[0] == "schema":
        found = ["recipe", "manifest"]
    elif plain[0] in ("run", "sweep", "plan") and len(plain) == 1:
        from pipeline.recipe.find import list_recipes

        found = [recipe.name for recipe in list_recipes()]
    elif plain[0] in ("run", "sweep", "plan"):
        try:
            found = _of_recipe(plain[1], plain[2:], word)
        except MergelineError:
            found = []
    else:
        found = []
    return sorted({candidate for candidate in found if candidate.startswith(word)})


def _choices(settings: type, option: str) -> list[str]:
    """The values that an option may have, if they can be counted."""
    from pydantic import TypeAdapter

    found: list[str] = []
    pending = [TypeAdapter(settings).json_schema()["properties"].get(option, {})]
    while pending:
        shape = pending.pop()
        pending += shape.get("anyOf", [])
        found += map(str, shape.get("enum", []))
        found += [shape["const"]] if isinstance(shape.get("const"), str) else []
        found += ["true", "false"] if shape.get("type") == "boolean" else []
    return found


def _of_recipe(reference: str, overrides: list[str], word: str) -> list[str]:
    """Keys and presets of a recipe: in our short form, and in Hydra's."""
    from hydra._internal.core_plugins.bash_completion import BashCompletion

    from pipeline.recipe.find import find_recipe
    from pipeline.recipe.loading import read
    from pipeline.recipe.source import PRIMARY

    asked = read(Path(find_recipe(reference)), overrides)
    hydra = BashCompletion(asked.loader)
    before = " ".join(asked.overrides)
    head, dot, _ = word.partition(".")
    line = asked.compiled.line(word.partition("=")[0])
    if line is not None and "=" in word:
        return [
            f"{line.id}={preset}"
            for preset in asked.loader.get_group_options(f"step/{line.step.name}")
        ]
    of_step = asked.compiled.line(head) if dot else None
    if of_step is not None:
        key, equals, _ = word.partition("=")
        values = _choices(of_step.step.settings, key.removeprefix(f"{head}.")) if equals else []
        if values:
            return [f"{key}={value}" for value in values]
        found = hydra._query(config_name=PRIMARY, line=f"{before} steps.{word}".lstrip())
        return [candidate.removeprefix("steps.") for candidate in found]
    found = hydra._query(
        config_name=PRIMARY, line=f"{before} {word}".lstrip() if word else f"{before} "
    )
    ids = [f"{line.id}{end}" for line in asked.compiled.lines for end in (".", "=")]
    return [*found, *ids]
