"""The weights of several recipes with the same base, written in one pass over it before any of them is run.

Each run then finds its own finished, as after a kill (docs/decisions/009), and does the rest. What cannot be
written ahead is left to the run, which writes it, or says why it cannot.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pipeline.blueprint import State
from pipeline.checkpoint.pending import is_pending, pending_folder
from pipeline.jobs import load_request
from pipeline.manifest import StepRecord
from pipeline.plan import Plan, make_plan
from pipeline.recipe.hydra_app import Request
from pipeline.recipe.model import StepCall
from pipeline.run import RunContext, save_of, terminate_politely


def saves_ahead(plan: Plan) -> Iterator[tuple[StepCall, State]]:
    """The `save` steps that need nothing of the steps before them: streamed from folders that are there.

    None where the files of each go to other machines.
    """
    if plan.recipe.workers:
        return
    direct = {output.step_id for output in plan.outputs if output.choice and output.choice.work}
    for call, state in zip(plan.recipe.steps, plan.states, strict=True):
        if call.id not in direct or state.blueprint is None:
            continue
        base, adapters = state.blueprint.base, state.blueprint.all_adapters
        waits = pending_folder(base.model, "model", state)
        if not waits and not any(is_pending(adapter, state) for adapter in adapters):
            yield call, state


def write_ahead(steps: Mapping[Request, Collection[str]]) -> None:
    """Write the weights of these steps of each recipe; they stay hidden beside where they belong."""
    from pipeline.realise.stream.together import write_together
    from pipeline.report.terminal import make_console

    runs, saves = [], []
    try:
        with terminate_politely():
            for request, ids in steps.items():
                plan = make_plan(load_request(request))
                run = RunContext(plan.recipe, make_console())
                runs.append(run)
                saves += [
                    save_of(run, call, state, StepRecord(id=call.id, step=call.step.name))
                    for call, state in saves_ahead(plan)
                    if call.id in ids
                ]
            write_together(runs[0], saves)
    finally:
        for run in runs:
            run.holding.drop()
