"""Which jobs a sweep has."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import Place, RecipeError
from pipeline.recipe.grid import Row, jobs_of, quoted
from pipeline.recipe.hydra_app import Request


@pytest.fixture(autouse=True)
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(
        "params: {base: x}\nsteps:\n  - load_base: {model: '${params.base}'}\n  - save\n"
    )


def own(*overrides: str, rows: tuple[str, ...] = (), zipped: bool = False) -> list[str]:
    """What sets each job apart, in a line."""
    lines = [Row(tuple(row.split()), Place("rows.csv", at)) for at, row in enumerate(rows, 2)]
    jobs = jobs_of(Request(Path("r.yaml"), overrides), zipped=zipped, rows=lines)
    return [" ".join(job.own) for job in jobs]


def refused(*overrides: str, rows: tuple[str, ...] = (), zipped: bool = False) -> str:
    with pytest.raises(RecipeError) as error:
        own(*overrides, rows=rows, zipped=zipped)
    return "\n".join(
        f"{p.place} {p.key}: {p.what}\n{p.fix or 'no help'}" for p in error.value.problems
    )


def test_a_grid_is_every_combination() -> None:
    assert own("save.dtype=float16,bfloat16", "seed=3", "load_base=nf4,int8") == [
        "save.dtype=float16 load_base=nf4",
        "save.dtype=float16 load_base=int8",
        "save.dtype=bfloat16 load_base=nf4",
        "save.dtype=bfloat16 load_base=int8",
    ]


def test_a_job_has_all_overrides_as_for_a_run_of_its_own() -> None:
    overrides = ("seed=1,2", "~save", "params.base=a,b", "hydra.sweep.dir=d", "hydra.mode=MULTIRUN")
    jobs = jobs_of(Request(Path("r.yaml"), overrides))
    assert jobs[1].overrides == ("seed=1", "~save", "params.base=b")


def test_zipped_lists_go_side_by_side() -> None:
    found = own("seed=range(3)", "params.base=a,b,c", "save.dtype=float16", zipped=True)
    assert found == ["seed=0 params.base=a", "seed=1 params.base=b", "seed=2 params.base=c"]


def test_zipped_lists_are_equally_long() -> None:
    told = refused("seed=1,2,3", "params.base=a,b", zipped=True)
    assert "seed has 3, params.base has 2" in told


def test_each_row_is_a_job_and_goes_before_the_rest_of_the_line() -> None:
    rows = ("seed=1 save.dtype=float16", "seed=2 load_base=nf4")
    assert own("seed=7", rows=rows) == ["seed=1 save.dtype=float16", "seed=2 load_base=nf4"]
    jobs = jobs_of(
        Request(Path("r.yaml"), ("seed=7",)), rows=[Row(("seed=1",), Place("rows.csv", 2))]
    )
    assert jobs[0].overrides == ("seed=1",)


def test_rows_and_lists_are_combined() -> None:
    assert own("params.base=a,b", rows=("seed=1", "seed=2")) == [
        "params.base=a seed=1",
        "params.base=a seed=2",
        "params.base=b seed=1",
        "params.base=b seed=2",
    ]


def test_a_mistake_in_a_row_has_its_line() -> None:
    told = refused(rows=("seed=1", "save.dtyp=float16", "seed=1,2"))
    assert "rows.csv:3 save.dtyp: `save` has no option 'dtyp'" in told
    assert "rows.csv:4 seed: has several values" in told


def test_globs_are_folders_in_the_order_of_their_numbers() -> None:
    for name in ("step-10", "step-9", "it's one, [really]", "skipped", ".hidden"):
        Path("adapters", name).mkdir(parents=True)
    jobs = jobs_of(Request(Path("r.yaml"), ("params.base=glob(adapters/*, exclude=skip*)",)))
    found = [Request(Path("r.yaml"), job.overrides).load()[0].params["base"] for job in jobs]
    names = ["adapters/it's one, [really]", "adapters/step-9", "adapters/step-10"]
    assert found == names


def test_a_glob_may_stand_among_values_and_for_presets() -> None:
    Path("a").mkdir()
    assert own("params.base=x,glob(a*)") == ["params.base=x", "params.base=a"]
    assert own("load_base=glob(*4)") == ["load_base=fp4", "load_base=nf4"]


def test_what_makes_no_jobs_is_refused_with_a_way_out() -> None:
    told = refused(
        "params.base=glob(nowhere/*)",
        "seed=interval(0,1)",
        "hydra/launcher=basic",
        "hydra.sweep.subdir=x",
        "hydra.sweeper.max_batch_size=2",
    )
    assert "params.base: nowhere/* matches nothing" in told
    assert "seed: an interval is no list of values\ngive values: seed=a,b,c" in told
    assert told.count("cannot be set in a sweep") == 3


@pytest.mark.parametrize(
    "text", ["plain", "./a/b-c.d", "a b", "it's", "a,b", "[x]", "true", "1e5", "3", "", 'q"', "\\'"]
)
def test_any_text_can_be_quoted(text: str) -> None:
    recipe, _ = Request(Path("r.yaml"), (f"params.base={quoted(text)}", "load_base.model=m")).load()
    assert recipe.params["base"] == text
