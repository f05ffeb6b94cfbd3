"""The process that a job begins with."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.sweep.orders import Orders
from pipeline.sweep.process import in_child


def test_a_job_finds_loaded_what_all_jobs_use_and_no_torch(tmp_path: Path) -> None:
    orders = Orders(tmp_path)
    orders.begin()
    told = tmp_path / "modules"
    code = f"import sys; open({str(told)!r}, 'w').write(' '.join(sys.modules))"

    end = in_child(partial(exec, code), tmp_path, orders, tmp_path)

    assert end.code == 0, end.why
    loaded = set(told.read_text().split())
    assert {"hydra", "numba", "pipeline.jobs", "pipeline.run", "pipeline.steps.save"} <= loaded
    assert not loaded & {"torch", "transformers", "peft"}, "which not every job needs"
