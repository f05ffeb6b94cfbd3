"""The page of a run as a reader sees it, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.manifest import Manifest
from pipeline.report.page import write_page
from tests.fixtures.browser import MISSING, Browser, chromium
from tests.fixtures.manifests import failed, manifest, modules

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

CONTRAST = """
const channels = color => color.match(/[\\d.]+/g).map(Number);
const light = color => {
  const [r, g, b] = channels(color).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = element => {
  for (let e = element; e; e = e.parentElement) {
    const [, , , alpha = 1] = channels(getComputedStyle(e).backgroundColor);
    if (alpha === 1) return getComputedStyle(e).backgroundColor;
  }
};
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const found = [];
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement;
  if (!texts.currentNode.data.trim() || !element.getClientRects().length) continue;
  const style = getComputedStyle(element);
  const ink = light(element.closest("svg") ? style.fill : style.color), paper = light(behind(element));
  const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  found.push([texts.currentNode.data.trim(), contrast]);
}
return found;
"""
"""Every visible text with its contrast, as the Web Content Accessibility Guidelines define it."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


def page_of(record: Manifest) -> Path:
    record.write()
    return write_page(Path(record.run_dir))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return page_of(manifest(tmp_path))


def test_the_browser_notices_errors_and_requests(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "wrong.html"
    file.write_text("<script>nonsense()</script><img src='http://127.0.0.1:9/picture'>")

    told = browser.open(file)

    assert any("nonsense is not defined" in line for line in told)
    assert "http://127.0.0.1:9/picture" in told


@pytest.mark.parametrize("look", [{}, {"dark": True}, {"width": 360}, {"print": True}])
def test_the_page_opens_without_an_error_and_asks_for_nothing(
    browser: Browser, page: Path, look: dict[str, int]
) -> None:
    assert browser.open(page, **look) == []
    assert browser.run("return document.documentElement.scrollWidth") <= look.get("width", 1280)


def test_the_verdict_is_the_first_that_is_seen(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)

    assert browser.text("h2") == "The saved model is the one that was trained"
    assert browser.run("return document.querySelector('h2').getBoundingClientRect().bottom") < 200


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("make", [manifest, failed])
def test_all_text_can_be_read(
    browser: Browser, tmp_path: Path, dark: bool, make: Callable[[Path], Manifest]
) -> None:
    browser.open(page_of(make(tmp_path)), dark=dark)
    browser.run("for (const part of document.querySelectorAll('details')) part.open = true")

    found = browser.run(CONTRAST)

    assert len(found) > 100
    assert [text for text, contrast in found if contrast < 4.5] == []


def test_dark_and_light_are_different(browser: Browser, page: Path) -> None:
    papers = set()
    for dark in (False, True):
        browser.open(page, dark=dark)
        papers.add(browser.run("return getComputedStyle(document.body).backgroundColor"))

    assert len(papers) == 2


def test_a_table_is_sorted_from_the_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run(
        "const part = document.querySelector('section details:has(table.sortable)');"
        "part.open = true; part.querySelectorAll('th button')[3].focus()"
    )
    errors = "section table.sortable tbody td:last-child"

    seen = []
    for _ in range(2):
        browser.press("Enter")
        seen.append([float(text.rstrip(" %")) for text in browser.texts(errors) if " %" in text])

    assert len(seen[0]) == 10
    assert seen == [sorted(seen[0]), sorted(seen[0], reverse=True)]
    assert browser.run("return document.activeElement.parentElement.ariaSort") == "descending"


def test_the_first_press_of_tab_leads_past_the_head(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.press("Tab")
    assert browser.run("return document.activeElement.textContent") == "Skip to the result"
    browser.press("Enter")
    assert browser.run("return document.activeElement.id") == "main"


def test_paper_has_what_is_folded_up_on_the_screen(browser: Browser, page: Path) -> None:
    browser.open(page, print=True)
    folded = "return [...document.querySelectorAll('details')].filter(d => !d.open).length"
    assert browser.run(folded) > 0

    browser.run("dispatchEvent(new Event('beforeprint'))")

    assert browser.run(folded) == 0
    assert browser.pdf().startswith(b"%PDF")


def test_a_deep_model_fits_on_paper(browser: Browser, tmp_path: Path) -> None:
    record = manifest(tmp_path)
    next(step for step in record.steps if step.id == "verify").modules = modules(layers=80)

    browser.open(page_of(record), print=True, width=720)
    browser.run("dispatchEvent(new Event('beforeprint'))")

    assert browser.run("return document.documentElement.scrollWidth") <= 720


def test_pictures_have_names_and_headings_have_their_order(browser: Browser, page: Path) -> None:
    browser.open(page)

    pictures = browser.run(
        "return [...document.querySelectorAll('svg[role=img]')].map("
        "p => document.getElementById(p.getAttribute('aria-labelledby')).textContent)"
    )
    levels = browser.run(
        "return [...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))"
    )

    assert pictures == [
        "Size of the delta by layer and kind of module, from 0 % to 11 %",
        "Delta kept by layer and kind of module, from 100 % to 50 %",
        "Error of the module by layer and kind of module, from 0 % to 25 %",
        "Differences of the logits: how many of 1 120 975 lie where between -0.4 and 0.4, "
        "in powers of ten",
    ]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_a_heat_map_has_a_box_for_each_module(browser: Browser, page: Path) -> None:
    browser.open(page)

    boxes = browser.run(
        "return [...document.querySelectorAll('.heat.violet rect')].map(box => {"
        "const {x, y, width, height} = box.getBoundingClientRect();"
        "return [box.textContent, x, y, width, height]})"
    )

    assert len(boxes) == 12
    assert len({(x, y) for _, x, y, _, _ in boxes}) == 12
    assert all(width > 5 and height > 5 for *_, width, height in boxes)
    assert "layer 3, mlp.down_proj: 25 %" in {text for text, *_ in boxes}


def test_what_a_manifest_says_is_never_run(browser: Browser, tmp_path: Path) -> None:
    evil = "</style></script><script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
    record = manifest(tmp_path, recipe=evil, tags=[evil], versions={"torch": evil})
    record.steps[0].notes = [evil]
    record.resolved["x"] = evil

    assert browser.open(page_of(record)) == []
    assert browser.text("h1") == evil
    assert browser.run("return [document.scripts.length, document.images.length]") == [1, 0]


def test_a_script_that_got_in_all_the_same_would_not_run(browser: Browser, page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    bad = "<script>document.title = 'taken'</script><img src='http://127.0.0.1:9/x'>"
    page.write_text(html.replace("<main", f"{bad}<main"), encoding="utf-8")

    told = browser.open(page)

    assert browser.driver.title != "taken"
    assert len([line for line in told if re.search("Content Security Policy", line)]) == 2
