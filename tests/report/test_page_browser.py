"""Every page in a real browser: nothing overflows, nothing is loaded, nothing fails; readable in both schemes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from histotune.evaluation.findings import Artifacts
from histotune.published.leaderboard import make_boards
from histotune.published.published_numbers import published_scores
from histotune.report.page import render_page
from histotune.report.study_pages import boards_page, render_audit_page
from tests.browser import WIDTHS_PX, open_browser, show
from tests.report.made_up import made_findings, made_inputs, made_predictions, made_thumbnail, made_trials
from tests.report.test_study_pages_audit import made_audit, made_pictures
from tests.report.test_sweep_figures import made_growth
from tests.report.test_sweep_figures_map import made_map

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    long_name = "tile-" + "x" * 120
    texts = {
        "report": render_page(made_inputs(findings=made_findings(synthetic=True))),
        "long names": render_page(
            made_inputs(thumbnails=(made_thumbnail(long_name),), command=f"histotune {long_name}")
        ),
        "growth": render_page(
            made_inputs(artifacts=Artifacts(made_predictions(), made_trials(), made_growth(), made_map()))
        ),
        "three classes": render_page(made_inputs(artifacts=Artifacts(made_predictions(3), made_trials()))),
        "empty": render_page(made_inputs(findings=replace(made_findings(), findings=()), thumbnails=())),
        "audit": render_audit_page(made_audit(), made_pictures(), "histotune audit"),
    }
    found = {}
    for name, text in texts.items():
        found[name] = folder / f"{name.replace(' ', '-')}.html"
        found[name].write_text(text, encoding="utf-8")
    return found


NAMES = ("report", "long names", "growth", "three classes", "empty", "audit")


@pytest.mark.parametrize("name", NAMES)
def test_no_page_is_wider_than_its_window_complains_or_loads(
    name: str, browser: Browser, pages: dict[str, Path]
) -> None:
    for width_px in WIDTHS_PX:
        with show(browser, pages[name], width_px) as shown:
            assert shown.overflow_px() <= 0, width_px
            shown.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            assert shown.overflow_px() <= 0, (width_px, "all open")
            assert shown.complaints == []
            assert [url for url in shown.requests if not url.startswith(("file:", "data:"))] == []
    assert pages[name].stat().st_size < 5_000_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "audit"])
def test_every_text_has_enough_contrast(name: str, scheme: str, browser: Browser, pages: dict[str, Path]) -> None:
    with show(browser, pages[name], 1000, scheme) as shown:  # type: ignore[arg-type]
        shown.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert shown.low_contrasts() == []


def test_the_first_screen_is_on_the_first_screen(browser: Browser, pages: dict[str, Path]) -> None:
    with show(browser, pages["report"], 1000) as shown:
        for selector in (".verdict-line", ".sureness", "#figure-headline .wide"):
            box = shown.page.locator(selector).first.bounding_box()
            assert box is not None and box["y"] + box["height"] < 900, selector


def test_a_page_is_whole_without_script(browser: Browser, pages: dict[str, Path]) -> None:
    with show(browser, pages["report"], 1000, script=False) as shown:
        body = shown.page.locator("body").inner_text()
    for words in ("Can I trust the split?", "Research use only", "What the sweeps chose"):
        assert words in body


def test_keys_reach_everything_and_enlarge_a_tile(browser: Browser, pages: dict[str, Path]) -> None:
    with show(browser, pages["report"], 1000) as shown:
        page = shown.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.locator("button.tile").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("dialog#zoom").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator("dialog#zoom").is_visible()
        assert shown.complaints == []


def test_a_table_is_sorted_by_its_heading(browser: Browser, pages: dict[str, Path]) -> None:
    with show(browser, pages["report"], 1000) as shown:
        table = shown.page.locator("#new-cases table")
        read = []
        for _ in range(2):
            table.locator("thead button", has_text="AUROC").click()
            texts = table.locator("tbody tr td:nth-child(2)").all_inner_texts()
            read.append([float(text.split()[0]) for text in texts])
        assert len(read[0]) > 3 and read[0] == sorted(read[0]) and read[1] == sorted(read[1], reverse=True)


def test_long_tables_are_filtered(browser: Browser, pages: dict[str, Path]) -> None:
    with show(browser, pages["audit"], 1000) as shown:
        shown.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        shown.page.locator(".filter input").first.fill("made17")
        kept = shown.page.locator("table[data-filter]").first.locator("tbody tr:visible").all_inner_texts()
        assert kept and all("made17" in row for row in kept)


def test_print_shows_everything_that_is_folded(browser: Browser, pages: dict[str, Path]) -> None:
    with show(browser, pages["report"], 1000) as shown:
        shown.page.emulate_media(media="print")
        shown.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert shown.page.locator("#settings pre").is_visible()
        pdf = shown.page.pdf(format="A4")
    assert pdf.startswith(b"%PDF") and len(pdf) > 20_000


def test_hostile_names_run_nothing(browser: Browser, tmp_path: Path) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    path = tmp_path / "evil.html"
    path.write_text(render_page(made_inputs(thumbnails=(made_thumbnail(evil),), command=evil)), encoding="utf-8")
    with show(browser, path) as shown:
        assert shown.page.title() != "owned" and shown.complaints == []
        assert "<script>document.title" in shown.page.locator("body").inner_text()


def test_the_leaderboard_is_a_page_like_the_others(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "boards.html"
    path.write_text(boards_page(make_boards(published_scores())), encoding="utf-8")
    with show(browser, path, 400) as shown:
        assert shown.overflow_px() <= 0 and shown.complaints == []
        assert "can't be compared" in shown.page.locator(".verdict-line").inner_text()
        assert shown.low_contrasts() == []
