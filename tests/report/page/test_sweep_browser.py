"""The page of a sweep as a reader sees it, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.support.ui import Select

from pipeline.report.page import write_side_by_side, write_sweep_page
from pipeline.sweep.status import JobRow, SweepStatus, read_status
from tests.fixtures.browser import MISSING, Browser, chromium
from tests.fixtures.manifests import failed, manifest
from tests.fixtures.sweeps import sweep
from tests.report.page.test_browser import CONTRAST

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return write_sweep_page(read_status(sweep(tmp_path, bad=(5,))))


def centres(browser: Browser, figure: int) -> list[tuple[float, float]]:
    """Where the points of a scatter plot are, from left to right."""
    found = browser.run(
        "return [...document.querySelectorAll('figure')[arguments[0]].querySelectorAll('.point')].map("
        "point => { const {x, y, width, height} = point.getBoundingClientRect();"
        "return [x + width / 2, y + height / 2] })",
        figure,
    )
    return sorted((x, y) for x, y in found)


def choose(browser: Browser, figure: int, select: int, name: str) -> None:
    found = browser.driver.find_elements("css selector", "figure")[figure]
    Select(found.find_elements("css selector", "select")[select]).select_by_value(name)


@pytest.mark.parametrize(
    "look", [{}, {"dark": True}, {"width": 360}, {"print": True, "width": 760}]
)
def test_the_page_opens_without_an_error_and_fits(
    browser: Browser, page: Path, look: dict[str, int]
) -> None:
    assert browser.open(page, **look) == []
    assert browser.run("return document.documentElement.scrollWidth") <= look.get("width", 1280)


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_can_be_read(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, dark=dark)

    found = browser.run(CONTRAST)

    assert len(found) > 100
    assert [text for text, contrast in found if contrast < 4.5] == []


def test_a_point_stands_where_its_figures_are(browser: Browser, page: Path) -> None:
    browser.open(page)

    points = centres(browser, 0)

    assert len(points) == 11
    weights = sorted({round(x) for x, _ in points})
    assert len(weights) == 4
    steps = [after - before for before, after in pairwise(weights)]
    assert max(steps) - min(steps) <= 2, "the weights are as far apart as their numbers"
    lowest = max(points, key=lambda point: point[1])
    assert round(lowest[0]) == weights[3], "the loss is lowest at the weight of 0.7"


def test_axes_can_be_chosen_numbers_and_words(browser: Browser, page: Path) -> None:
    browser.open(page)
    choose(browser, 0, 0, "save.dtype")
    choose(browser, 0, 1, "seconds")

    points = centres(browser, 0)

    texts = browser.texts("figure:first-of-type text")
    assert {"bfloat16", "float16", "float32", "↑ time", "save.dtype →"} <= set(texts)
    assert len(points) == 12, "a job that failed has settings and a time"
    assert len({round(x) for x, _ in points}) == 3
    assert browser.run("return document.querySelectorAll('figure .point.cross').length") == 1


def test_a_job_that_waits_does_not_look_like_one_that_failed(
    browser: Browser, tmp_path: Path
) -> None:
    folder = sweep(tmp_path, bad=(5,), begun=8)
    browser.open(write_sweep_page(read_status(folder)))

    looks = browser.run(
        "return ['', '.open', '.cross'].map(look => document.querySelectorAll('.line' + look).length)"
    )

    assert looks == [12, 4, 1]


def test_ticks_can_be_told_apart_however_near_the_figures_are(
    browser: Browser, tmp_path: Path
) -> None:
    jobs = [
        JobRow(
            overrides=[f"a={n}"], status="done", folder=f"j{n}", metrics={"x.bytes": 232_000 + n}
        )
        for n in range(5)
    ]
    status = SweepStatus(
        folder=str(tmp_path), recipe="r", status="done", started=datetime.now(UTC), jobs=jobs
    )
    browser.open(write_sweep_page(status))
    choose(browser, 0, 1, "x.bytes")

    ticks = [text for text in browser.texts("figure:first-of-type text") if text.endswith(" kB")]

    assert ticks == [f"{232 + n / 1000:g} kB" for n in range(5)]


def test_the_line_leads_along_what_is_both_small_and_good(browser: Browser, page: Path) -> None:
    browser.open(page)

    path = browser.run("return document.querySelectorAll('.front')[0].getAttribute('d')")
    shown = browser.texts("figure:nth-of-type(2) figcaption strong")

    assert shown == ["Size against quality"]
    assert path.count("L") == 1, "the best of the small ones, and of the large ones"


def test_arrow_keys_go_from_job_to_job_and_enter_opens_a_page(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('figure svg').focus()")

    said = []
    for key in ("Arrow_right", "Arrow_right", "End"):
        browser.press(key)
        said.append(browser.text("figure .readout"))
    browser.press("Enter")

    assert len(set(said)) == 3
    assert "attach_adapter.weight=0.1: attach_adapter.weight 0.1; " in said[0]
    assert "attach_adapter.weight=0.7" in said[2]
    assert browser.driver.title == "the page of a job"


def test_the_job_that_is_pointed_at_is_shown_in_every_picture(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run(
        "const svg = document.querySelector('figure svg'), box = svg.getBoundingClientRect();"
        "const point = svg.querySelector('.point').getBoundingClientRect();"
        "svg.dispatchEvent(new PointerEvent('pointermove', "
        "{clientX: point.x + point.width / 2 + 3, clientY: point.y + point.height / 2}))"
    )

    chosen: list[Any] = browser.run(
        "return [...document.querySelectorAll('.chosen')].map(e => e.tagName)"
    )

    assert sorted(chosen) == ["TR", "circle", "circle", "path"]


def test_lines_are_as_many_as_jobs_and_take_the_colour_of_a_figure(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    lines = (
        "return [...document.querySelectorAll('.line:not(.cross)')].map("
        "line => getComputedStyle(line).stroke)"
    )

    before = browser.run(lines)
    choose(browser, 2, 0, "seconds")

    assert len(before) == 11
    assert len(set(before)) > 5
    assert browser.run(lines) != before


def test_figures_that_are_no_numbers_are_last_whichever_way_they_are_sorted(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    browser.run(
        "[...document.querySelectorAll('table.jobs th')].find("
        "th => th.dataset.name === 'evaluate.loss').firstChild.focus()"
    )
    column = (
        "const at = [...document.querySelectorAll('table.jobs thead th')].findIndex("
        "th => th.dataset.name === 'evaluate.loss');"
        "return [...document.querySelectorAll('table.jobs tbody tr')].map("
        "row => row.cells[at].dataset.value)"
    )

    for down in (False, True):
        browser.press("Enter")
        *losses, last = browser.run(column)
        assert last == ""
        assert [float(loss) for loss in losses] == sorted(map(float, losses), reverse=down)


def test_all_figures_are_shown_on_request_and_without_a_script(
    browser: Browser, page: Path
) -> None:
    html = page.read_text(encoding="utf-8")
    page.write_text(html.replace("<script>", "<script type='text/plain'>"), encoding="utf-8")
    browser.open(page)
    shown = "return [...document.querySelectorAll('table.jobs thead th')].filter(th => th.offsetWidth).length"

    before = browser.run(shown)
    browser.run("document.querySelector('#more').focus()")
    browser.press("Space")

    assert not browser.run("return document.querySelector('#charts').checkVisibility()")
    assert browser.run("return document.querySelector('table.jobs').checkVisibility()")
    assert browser.run(shown) > before


def test_hundreds_of_jobs_are_drawn_at_once(browser: Browser, tmp_path: Path) -> None:
    folder = sweep(tmp_path, jobs=300, bad=tuple(range(0, 300, 7)))

    assert browser.open(write_sweep_page(read_status(folder))) == []

    assert len(centres(browser, 0)) == 257
    assert (
        browser.run("return performance.timing.domComplete - performance.timing.domLoading") < 5000
    )


def test_runs_side_by_side_fit_on_a_phone(browser: Browser, tmp_path: Path) -> None:
    for record in (manifest(tmp_path / "good"), failed(tmp_path / "bad")):
        Path(record.run_dir).mkdir()
        record.write()
    file = write_side_by_side([tmp_path / "good", tmp_path / "bad"], tmp_path / "both.html")

    assert browser.open(file, width=360) == []
    assert browser.run("return document.documentElement.scrollWidth") <= 360
    assert [text for text, contrast in browser.run(CONTRAST) if contrast < 4.5] == []
