"""The page of a sweep, as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.report.page import write_sweep_page
from pipeline.report.page.jobs_table import jobs_table
from pipeline.report.page.sweep import sweep_page
from pipeline.sweep.ledger import JobLine, Ledger
from pipeline.sweep.status import JobRow, SweepStatus, read_status
from tests.fixtures.sweeps import sweep
from tests.report.page.test_page import Page


def page_of(folder: Path) -> Page:
    return Page(write_sweep_page(read_status(folder)).read_text(encoding="utf-8"))


def row(*overrides: str, **fields: object) -> JobRow:
    return JobRow(**{"overrides": list(overrides), "status": "done", "folder": "a", **fields})  # type: ignore[arg-type]


def test_failures_come_first_each_reason_once_with_what_to_do(tmp_path: Path) -> None:
    page = page_of(sweep(tmp_path, bad=(1, 5)))

    said = [
        "2 of 12 jobs failed",
        "10 are done. Every model of those is proven to be what was trained.",
        f"{tmp_path}/…/merged: it is not the model that was trained: relative error 0.31",
        "What to do: look at the steps",
        "save.dtype=bfloat16 attach_adapter.weight=0.1",
        "save.dtype=float32 attach_adapter.weight=0.3",
        "Jobs",
    ]
    assert [text for text in said if text not in page.text] == []
    assert [page.text.index(text) for text in said] == sorted(page.text.index(t) for t in said)
    assert page.text.count("What to do:") == 1


def test_jobs_are_linked_to_their_pages_and_nothing_else_is(tmp_path: Path) -> None:
    page = page_of(sweep(tmp_path, bad=(1,)))

    links = {address for address in page.addresses if not address.startswith(("#", "data:"))}
    assert len(links) == 12
    assert all((tmp_path / link).is_file() for link in links)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)


def test_a_page_elsewhere_links_to_the_same_pages(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep", jobs=1)

    file = write_sweep_page(read_status(folder), tmp_path / "page.html")

    assert 'href="sweep/float16_0.1-00000000/report.html"' in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("jobs", "bad", "begun", "headline"),
    [
        (1, (), None, "The job is done"),
        (3, (), None, "All 3 jobs are done"),
        (3, (0,), None, "1 of 3 jobs failed"),
        (3, (), 1, "Interrupted: 1 of 3 jobs done"),
        (3, (0,), 2, "1 of 3 jobs failed It ended early: 1 of 3 jobs done."),
    ],
)
def test_the_head_says_how_it_ended(
    tmp_path: Path, jobs: int, bad: tuple[int, ...], begun: int | None, headline: str
) -> None:
    folder = sweep(tmp_path, jobs, bad=bad, begun=begun)

    assert headline in page_of(folder).text


def test_a_sweep_that_runs_says_so(tmp_path: Path) -> None:
    status = read_status(sweep(tmp_path, jobs=3, begun=1)).model_copy(update={"status": "running"})

    assert sweep_page(status, {}, {}).verdict.headline == "Not finished: 1 of 3 jobs done"


def test_models_that_nobody_verified_are_not_called_proven(tmp_path: Path) -> None:
    folder = sweep(tmp_path, jobs=1)
    job = read_status(folder).jobs[0]
    file = folder / job.folder / "manifest.json"
    file.write_text(file.read_text().replace('"step": "verify"', '"step": "generate"'))

    assert "Models that are proven to be what was trained: 0 of 1." in page_of(folder).text


def test_a_job_that_was_killed_before_it_had_a_manifest_is_there_too(tmp_path: Path) -> None:
    folder = sweep(tmp_path, jobs=3, begun=2)
    killed = JobLine(job="job2", folder="float32_0.1-00000002", status="failed", why="killed")
    Ledger(folder).append(killed)

    text = page_of(folder).text

    assert "killed save.dtype=float32 attach_adapter.weight=0.1" in text
    assert "float32_0.1-00000002 ✗ failed" in text


def test_one_job_has_no_pictures_and_several_have(tmp_path: Path) -> None:
    one, more = page_of(sweep(tmp_path / "1", jobs=1)), page_of(sweep(tmp_path / "3", jobs=6))

    assert "figure" not in one.tags
    assert more.tags.count("figure") == 3


def test_the_first_pictures_show_quality_over_a_number_that_was_set_and_over_size(
    tmp_path: Path,
) -> None:
    page = sweep_page(read_status(sweep(tmp_path)), {}, {})

    assert [(scatter.x, scatter.y) for scatter in page.scatters] == [
        ("attach_adapter.weight", "evaluate.loss"),
        ("save.bytes", "evaluate.loss"),
    ]


def test_settings_are_columns_and_one_that_a_job_does_not_have_is_empty() -> None:
    table = jobs_table([row("a.x=1e-3", "+b='two words'"), row("~verify", "a.x=2")], {})

    settings = [column.name for column in table.columns if column.kind == "setting"]
    assert settings == ["a.x", "b", "~verify"]
    assert [[(c.text, c.value) for c in job.cells[:3]] for job in table.jobs] == [
        [("1e-3", "0.001"), ("two words", "two words"), ("", "")],
        [("2", "2.0"), ("", ""), ("yes", "yes")],
    ]
    assert [column.numeric for column in table.columns[:2]] == [True, False]


def test_the_best_of_a_figure_is_marked_and_never_the_base_own() -> None:
    jobs = [
        row(metrics={"evaluate.loss": loss, "evaluate.acc": acc, "evaluate.base.loss": loss})
        for loss, acc in ((2.0, 0.5), (1.0, 0.25), ("inf", 0.75))
    ]

    table = jobs_table(jobs, {})

    best = {
        column.name: [job.cells[at].best for job in table.jobs]
        for at, column in enumerate(table.columns)
    }
    assert best["evaluate.loss"] == [False, True, False]
    assert best["evaluate.acc"] == [False, False, True]
    assert best["evaluate.base.loss"] == [False, False, False]
    assert table.jobs[2].cells[1].value == "Infinity"


def test_nothing_that_a_ledger_holds_becomes_part_of_the_page(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    jobs = [
        row(f"a={evil}{n}", status="failed", why=evil, metrics={f"{evil}.loss": n, evil: evil})
        for n in range(2)
    ]
    status = SweepStatus(
        folder=str(tmp_path),
        recipe=evil,
        status="failed",
        started=read_status(sweep(tmp_path, jobs=1)).started,
        jobs=jobs,
    )

    page = Page(write_sweep_page(status).read_text(encoding="utf-8"))

    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert page.open == []
    assert evil in page.text


def test_three_hundred_jobs_make_a_page_of_less_than_a_megabyte(tmp_path: Path) -> None:
    folder = sweep(tmp_path, jobs=300, bad=tuple(range(0, 300, 7)))

    file = write_sweep_page(read_status(folder))

    assert file.stat().st_size < 1_000_000
