"""The verb `sweep`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.arguments import (
    DONE,
    FAILED,
    INTERRUPTED,
    add_recipe_arguments,
    parser_of,
    request_of,
)
from pipeline.recipe.search_space import read_space
from pipeline.sweep.fuse import Pass
from pipeline.sweep.means import add_means, add_search, goal_of, means_of
from pipeline.sweep.prepare import Asked, PlannedJob, SweepPlan, prepare
from pipeline.sweep.status import SweepStatus, read_status
from pipeline.sweep.supervise import Means, run_sweep

if TYPE_CHECKING:
    from pipeline.recipe.hydra_app import Request
    from pipeline.sweep.ledger import JobLine

ABOUT = """\
values, each combination of which is a job:
  save.dtype=float16,bfloat16          a list
  load_base=nf4,int8                   of presets
  train_adapter.seed=range(5)          a range
  params.adapter=glob(adapters/*)      what matches, here folders
other overrides are the same in all jobs; hydra.sweep.dir=DIR is the sweep's folder, by default
outputs/<recipe>/sweep-<hash of the command>. The same command goes on where it ended.

where jobs run, and what each of them needs, unless its plan is right about it:
  --launcher ray launcher.address=auto              options of the launcher
  resources.cpus=4 resources.gpus=1 resources.memory=16GB

--search tries what optuna proposes, in place of a grid:
  --search first.weight=interval(0,1) second.weight=interval(0,1) --minimize evaluate.loss --trials 40

exit codes: 0 all jobs are done; 1 some are not; 2 something is wrong, and nothing was run;
            130 interrupted (Ctrl-C, SIGTERM)
"""

_EXIT_CODES = {"done": DONE, "interrupted": INTERRUPTED}
_SECONDS_BETWEEN_LOOKS = 1.0


def main(words: list[str], quiet: bool) -> int:
    """`mergeline sweep`, and its exit code."""
    parser = parser_of("sweep", "Run a recipe for all combinations of values.", epilog=ABOUT)
    parser.add_argument("--zip", action="store_true", help="pair the lists instead, one by one")
    parser.add_argument(
        "--jobs", type=Path, metavar="FILE", help="a .csv or .jsonl file with one job in each row"
    )
    parser.add_argument("--plan", action="store_true", help="say what would run, and why")
    parser.add_argument("--force", action="store_true", help="do again what is done")
    add_means(parser)
    add_search(parser)
    parser.add_argument("--json", action="store_true", help="with --plan or --status: as JSON")
    if "--status" in words:
        parser.usage = "mergeline sweep --status DIR [--json]"
        parser.add_argument("--status", type=Path, metavar="DIR", required=True)
        args = parser.parse_args(words)
        return _show(args.status, as_json=args.json)
    parser.add_argument("--status", metavar="DIR", help="how the sweep in this folder stands")
    add_recipe_arguments(parser)
    args = parser.parse_intermixed_args(words)
    if args.json and not args.plan:
        parser.error("--json goes with --plan or --status")
    means = means_of(args)
    if args.search:
        return _search(args, parser, quiet, means)
    launcher = means.launcher.name
    asked = Asked(request_of(args), args.jobs, args.zip, args.force, launcher=launcher)
    if args.plan:
        return _plan(asked, means, as_json=args.json)
    return _run(asked, quiet, means)


def run_grid(request: Request, quiet: bool) -> int:
    """`mergeline run -m`: a sweep as it is without options."""
    return _run(Asked(request), quiet, Means())


def _run(asked: Asked, quiet: bool, means: Means) -> int:
    from pipeline.report.sweep_table import tell_job

    plan = _prepare(asked, quiet)
    number = {job.recipe.fingerprint: at for at, job in enumerate(plan.jobs, start=1)}
    if not quiet:
        done = len(plan.jobs) - len(plan.to_do)
        said = f", {done} of them done already" if done else ""
        print(f"{plan.recipe}: {len(plan.jobs)} jobs{said}, into {plan.folder}", file=sys.stderr)

    def tell(job: PlannedJob, line: JobLine) -> None:
        if not quiet or line.status == "failed":
            at = f"[{number[job.recipe.fingerprint]}/{len(plan.jobs)}] "
            tell_job(job, line, at)

    def say(text: str) -> None:
        with suppress(OSError):  # a sweep goes on when nobody listens any more
            print(text, file=sys.stderr, flush=True)

    ending = run_sweep(asked, plan, tell, means, (lambda text: None) if quiet else say)
    _finish(plan.folder, quiet)
    return _EXIT_CODES.get(ending, FAILED)


def _search(
    args: argparse.Namespace, parser: argparse.ArgumentParser, quiet: bool, means: Means
) -> int:
    from pipeline.report.sweep_table import print_best, tell_job
    from pipeline.sweep.search import check_optuna, plan_ends, run_search

    goal = goal_of(args, parser)
    check_optuna()
    search = (*args.search, goal.metric, "maximize" if goal.maximize else "minimize")
    asked = Asked(request_of(args), search=search, launcher=means.launcher.name)
    space = read_space(asked.request, args.search)
    ends = plan_ends(asked, space, goal)
    if args.plan:
        return _show_plan(ends, as_json=args.json)

    def tell(job: PlannedJob, line: JobLine) -> None:
        if not quiet or line.status == "failed":
            tell_job(job, line)

    found = run_search(asked, space, goal, tell, means)
    _finish(found.folder, quiet)
    if not quiet:
        print_best(found.best, goal.metric, found.value, found.trials)
    return _EXIT_CODES.get(found.ending, FAILED)


def _finish(folder: Path, quiet: bool) -> None:
    """Write the page of a sweep that is over, and tell how it ended. A page that fails loses no sweep."""
    from pipeline.report.page import write_sweep_page
    from pipeline.report.sweep_table import print_sweep

    status = read_status(folder)
    try:
        page = write_sweep_page(status)
        if not quiet:
            print(f"page: {page}", file=sys.stderr)
    except Exception as error:
        print(f"the sweep's page could not be written: {error}", file=sys.stderr)
    if quiet:
        print(folder)
    else:
        print_sweep(status)


def _prepare(asked: Asked, quiet: bool) -> SweepPlan:
    from pipeline.report.terminal import make_console

    with make_console(quiet).bar("planning", 0, "jobs") as bar:
        return prepare(asked, bar.advance)


def _plan(asked: Asked, means: Means, *, as_json: bool) -> int:
    plan = _prepare(asked, quiet=as_json)
    return _show_plan(plan, means.passes(plan.to_do), as_json=as_json)


def _show_plan(plan: SweepPlan, passes: Sequence[Pass] = (), *, as_json: bool) -> int:
    from pipeline.report.sweep_table import print_sweep_plan

    if as_json:
        data = plan.to_dict() | {"passes": [asdict(one) for one in passes]}
        print(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        print_sweep_plan(plan, passes)
    return DONE


def _show(folder: Path, *, as_json: bool) -> int:
    from pipeline.report.sweep_table import print_sweep

    status = read_status(folder)
    if as_json:
        print(status.model_dump_json(indent=2))
    elif status.status == "running" and sys.stdout.isatty():
        _watch(status)
    else:
        print_sweep(status)
    return DONE


def _watch(status: SweepStatus) -> None:
    """Show the sweep until it ends, or until Ctrl-C, which ends the showing only."""
    from rich.live import Live

    from pipeline.report.sweep_table import sweep_table

    with Live(sweep_table(status), auto_refresh=False, vertical_overflow="visible") as live:
        while status.status == "running":
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            status = read_status(Path(status.folder))
            live.update(sweep_table(status), refresh=True)
