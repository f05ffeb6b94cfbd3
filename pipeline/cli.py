"""The command line: verbs, thin. Each imports what it needs when it is called."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from pipeline import __version__
from pipeline.arguments import (
    CLOSED_PIPE,
    DONE,
    FAILED,
    INTERRUPTED,
    RUN_ABOUT,
    WRONG,
    add_recipe_arguments,
    parser_of,
    request_of,
)
from pipeline.errors import (
    COMMAND_LINE,
    MergelineError,
    Problem,
    RecipeError,
    RunError,
    is_interruption,
)

ABOUT = """\
usage: mergeline VERB ...

Declarative pipelines for the life of LoRA and QLoRA adapters.

  run RECIPE [key=value ...]    run a recipe
  sweep RECIPE [key=a,b,c ...]  run it for all combinations of values; go on where it ended
  plan RECIPE [key=value ...]   check it and say what it would do; reads no weights
  show RUN_DIR                  a finished run as a table
  report DIR [RUN_DIR ...]      write the page of a run or a sweep again, or of several runs
  diff A B                      two checkpoints, tensor by tensor
  verify FOLDER                 is a saved model whole, and what its receipt says?
  replay FOLDER                 make a saved model again from its receipt, and compare
  recipes                       the recipes that have a name
  steps [NAME]                  the steps, or one with its options and presets
  new NAME                      write a commented recipe to ./recipes/NAME.yaml
  schema [WHAT]                 JSON Schema of a recipe, a manifest or a receipt
  demo [--dir DIR]              train a small model and an adapter, then merge and verify them
  completion bash|zsh|fish      tab completion: eval "$(mergeline completion bash)"

`mergeline VERB --help` says more. Everywhere: --debug shows tracebacks, --quiet says less, --version.
exit codes: 0 done; 1 the run failed; 2 the recipe or the arguments are wrong, and nothing was run;
            130 interrupted (Ctrl-C, SIGTERM)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    quiet = "--quiet" in words
    words = [word for word in words if word not in ("--debug", "--quiet")]
    try:
        _check_text(words)
        code = _dispatch(words, quiet=quiet, debug=debug)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has had enough; say nothing more, at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except (KeyboardInterrupt, Exception) as error:
        return _report(error, debug=debug)


def entry() -> NoReturn:
    """The console command."""
    # A caller may have closed the standard streams, as in `2>&-`.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        # Standard error does so by itself: a terminal of another encoding is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())


def _check_text(words: list[str]) -> None:
    """Bytes that are no text in the terminal's encoding could not be written into any manifest."""
    wrong = [word for word in words if any("\ud800" <= char <= "\udfff" for char in word)]
    if wrong:
        fix = "set a UTF-8 locale, for example LC_ALL=C.UTF-8, or rename the file"
        what = "is not text in the encoding of this terminal"
        raise RecipeError([Problem(f"{word!r} {what}", fix, place=COMMAND_LINE) for word in wrong])


def _dispatch(words: list[str], *, quiet: bool, debug: bool) -> int:
    verb = next((word for word in words if not word.startswith("-")), None)
    if words and words[0] in ("-sc", "--shell-completion"):
        return _completion_of_hydra(words)
    if verb is None or words[0] != verb:
        if "--version" in words:
            print(f"mergeline {__version__}")
            return DONE
        print(ABOUT, end="", file=sys.stdout if words[:1] in (["--help"], ["-h"]) else sys.stderr)
        return DONE if words[:1] in (["--help"], ["-h"]) else WRONG
    if verb not in _VERBS:
        from pipeline.steps import nearest

        fix = nearest(verb, _VERBS) or f"the verbs are {', '.join(_VERBS)}"
        print(f"mergeline: there is no verb {verb!r}\n    {fix}", file=sys.stderr)
        return WRONG
    return _VERBS[verb](words[1:], quiet, debug)


def _report(error: BaseException, *, debug: bool) -> int:
    from pipeline.report.problems import print_bug, print_error, print_problems

    if is_interruption(error):
        with suppress(OSError):
            print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    if debug:
        traceback.print_exception(error)
    if isinstance(error, RecipeError):
        print_problems(error.problems)
        return WRONG
    if isinstance(error, MergelineError):
        print_error(error)
    elif isinstance(error, OSError):
        print_error(RunError(error.strerror or str(error), where=error.filename))
    else:
        print_bug(error)
    return FAILED


def _run(words: list[str], quiet: bool, debug: bool) -> int:
    if "-sc" in words or "--shell-completion" in words:
        return _completion_of_hydra(words)
    parser = parser_of("run", "Run a recipe.", epilog=RUN_ABOUT)
    add_recipe_arguments(parser)
    parser.add_argument(
        "--multirun", "-m", action="store_true", help="run once for each value: save.dtype=a,b"
    )
    parser.add_argument(
        "--cfg", "-c", choices=["job", "hydra", "all"], help="print the composed recipe instead"
    )
    parser.add_argument(
        "--resolve", action="store_true", help="with --cfg: interpolations resolved"
    )
    parser.add_argument(
        "--package", "-p", help="with --cfg: only this part, for example steps.save"
    )
    parser.add_argument(
        "--info",
        "-i",
        nargs="?",
        const="all",
        choices=["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"],
        help="print how Hydra composes the recipe instead",
    )
    args = parser.parse_intermixed_args(words)
    if args.resolve and args.cfg is None:
        parser.error("--resolve goes with --cfg")
    if args.package and args.cfg is None:
        parser.error("--package goes with --cfg")
    if sum((args.multirun, args.cfg is not None, args.info is not None)) > 1:
        parser.error("give one of --multirun, --cfg and --info")
    request = request_of(args)
    if args.cfg or args.info:
        from pipeline.recipe import hydra_app

        if args.cfg:
            hydra_app.show_config(request, args.cfg, args.package, resolve=args.resolve)
        else:
            hydra_app.show_info(request, args.info)
        return DONE
    if args.multirun or "hydra.mode=MULTIRUN" in request.overrides:
        from pipeline.sweep.command import run_grid

        return run_grid(request, quiet)
    from pipeline import jobs

    record = jobs.run_one(request, quiet=quiet)
    if quiet:
        print(record.run_dir)  # for scripts
    else:
        from pipeline.report.run_table import print_end

        print_end(record)
    return {"done": DONE, "interrupted": INTERRUPTED}.get(record.status, FAILED)


def _sweep(words: list[str], quiet: bool, debug: bool) -> int:
    from pipeline.sweep.command import main as sweep

    return sweep(words, quiet)


def _plan(words: list[str], quiet: bool, debug: bool) -> int:
    parser = parser_of(
        "plan", "Check a recipe and say what it would do. Reads no weights.", epilog=RUN_ABOUT
    )
    add_recipe_arguments(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_intermixed_args(words)
    from pipeline import jobs
    from pipeline.plan import make_plan

    plan = make_plan(jobs.load_request(request_of(args)))
    if args.json:
        print(json.dumps(plan.to_dict(), indent=2, ensure_ascii=False))
    elif not quiet:
        from pipeline.report.plan_table import print_plan

        print_plan(plan)
    return FAILED if plan.refused else DONE


def _show(words: list[str], quiet: bool, debug: bool) -> int:
    parser = parser_of("show", "A finished run as a table.")
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    args = parser.parse_args(words)
    from pipeline.manifest import read_manifest
    from pipeline.report.run_table import print_run

    print_run(read_manifest(args.run_dir))
    return DONE


def _report_page(words: list[str], quiet: bool, debug: bool) -> int:
    parser = parser_of(
        "report",
        "Write the page of a run or of a sweep, report.html, into its folder again; of several runs, "
        "one page that holds them side by side.",
    )
    parser.add_argument("folders", metavar="DIR", type=Path, nargs="+")
    parser.add_argument(
        "--output",
        "-o",
        metavar="FILE",
        type=Path,
        help="where to write it; several runs go to side_by_side.html here",
    )
    args = parser.parse_args(words)
    from pipeline.report.page import write_page, write_side_by_side, write_sweep_page
    from pipeline.sweep.ledger import FILE_NAME as LEDGER
    from pipeline.sweep.status import read_status

    first = args.folders[0]
    if len(args.folders) > 1:
        print(write_side_by_side(args.folders, args.output or Path("side_by_side.html")))
    elif (first / LEDGER).is_file():
        print(write_sweep_page(read_status(first), args.output))
    else:
        print(write_page(first, args.output))
    return DONE


def _diff(words: list[str], quiet: bool, debug: bool) -> int:
    from pipeline.folders import diff

    return diff(words, quiet)


def _verify(words: list[str], quiet: bool, debug: bool) -> int:
    from pipeline.folders import verify

    return verify(words, quiet)


def _replay(words: list[str], quiet: bool, debug: bool) -> int:
    from pipeline.folders import replay

    return replay(words, quiet)


def _recipes(words: list[str], quiet: bool, debug: bool) -> int:
    parser_of(
        "recipes", "The recipes that have a name: those in ./recipes, and the shipped ones."
    ).parse_args(words)
    from pipeline.report.catalog import print_recipes

    print_recipes()
    return DONE


def _steps(words: list[str], quiet: bool, debug: bool) -> int:
    parser = parser_of("steps", "The steps, or one of them with its options, defaults and presets.")
    parser.add_argument("name", nargs="?", metavar="NAME")
    args = parser.parse_args(words)
    from pipeline.report.catalog import print_step, print_steps

    print_step(args.name) if args.name else print_steps()
    return DONE


def _schema(words: list[str], quiet: bool, debug: bool) -> int:
    parser = parser_of(
        "schema", "JSON Schema of a recipe, for editors, of a run's manifest, or of a receipt."
    )
    parser.add_argument(
        "of", nargs="?", default="recipe", choices=["recipe", "manifest", "receipt"]
    )
    args = parser.parse_args(words)
    if args.of == "recipe":
        from pipeline.recipe.schema import schema_text

        print(schema_text(), end="")
    else:
        from pipeline import manifest
        from pipeline.receipt import record

        schema = {"manifest": manifest.schema, "receipt": record.schema}[args.of]()
        print(json.dumps(schema, indent=2, ensure_ascii=False))
    return DONE


def _new(words: list[str], quiet: bool, debug: bool) -> int:
    parser = parser_of("new", "Write a commented recipe to ./recipes/NAME.yaml, to be changed.")
    parser.add_argument("name", metavar="NAME")
    args = parser.parse_args(words)
    from pipeline.recipe.new import write_recipe

    path = write_recipe(args.name)
    print(f"wrote {path}\n    change it, then: mergeline plan {path.stem}")
    return DONE


def _demo(words: list[str], quiet: bool, debug: bool) -> int:
    parser = parser_of(
        "demo", "Train a small model and an adapter for it, then merge, verify and compare them."
    )
    parser.add_argument(
        "--dir", type=Path, default=Path("outputs/demo"), help="where to put it (outputs/demo)"
    )
    args = parser.parse_args(words)
    from pipeline.demo import main as demo

    return demo(args.dir)


def _completion(words: list[str], quiet: bool, debug: bool) -> int:
    parser = parser_of(
        "completion", 'Tab completion for a shell: eval "$(mergeline completion bash)"'
    )
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])
    args = parser.parse_args(words)
    from pipeline.recipe.completion import script

    print(script(args.shell), end="")
    return DONE


def _completion_of_hydra(words: list[str]) -> int:
    """Hydra's own spelling: `-sc install=bash`, and `-sc query=bash` with the line in COMP_LINE."""
    from pipeline.recipe.completion import script, suggest

    asked = dict(word.partition("=")[::2] for word in words if "=" in word)
    if "install" in asked:
        print(script(asked["install"]), end="")
    elif "query" in asked:
        print("\n".join(suggest(os.environ.get("COMP_LINE", ""), list(_VERBS))))
    else:
        print("write -sc install=bash, or `mergeline completion bash`", file=sys.stderr)
        return WRONG
    return DONE


_VERBS: dict[str, Callable[[list[str], bool, bool], int]] = {
    "run": _run,
    "sweep": _sweep,
    "plan": _plan,
    "show": _show,
    "report": _report_page,
    "diff": _diff,
    "verify": _verify,
    "replay": _replay,
    "recipes": _recipes,
    "steps": _steps,
    "new": _new,
    "schema": _schema,
    "demo": _demo,
    "completion": _completion,
}
