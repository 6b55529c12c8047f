"""The page of a served head in a real browser: an image goes in, an answer comes out, nothing goes elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from histotune.deploy.answers import TrainingData
from tests.browser import CONTRASTS, WIDTHS_PX, open_browser
from tests.deploy.conftest import MLP, Trained, head_of_cases
from tests.serving import Served, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start the browser once."""
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def lite0(trained: Trained, cache: Path) -> Iterator[Served]:
    """Serve a head on a real network, with maps."""
    with serving(trained("lite0"), cache) as served:
        yield served


class Visit:
    """A visit to a page, with what the browser complained about and where it sent requests."""

    def __init__(self, browser: Browser, served: Served, width_px: int = 1000, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width_px, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.address = f"http://127.0.0.1:{served.port}/"
        self.page.goto(self.address)

    def __enter__(self) -> Visit:
        """Return the visit."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the window."""
        self.context.close()

    def take(self, path: Path) -> None:
        """Choose an image and wait for the answer."""
        self.page.set_input_files("#file", path)
        self.page.wait_for_function("() => /^Done|failed/.test(document.getElementById('status').textContent)"
                                    " || document.getElementById('status').className === 'failed'")  # fmt: skip

    def text(self, selector: str) -> str:
        """Return what a part of the page says."""
        return self.page.inner_text(selector)

    @property
    def elsewhere(self) -> list[str]:
        """Requests that went to anybody else."""
        return [one for one in self.requests if not one.startswith((self.address, "data:", "blob:"))]


def test_an_image_goes_in_and_what_the_head_says_comes_out(
    browser: Browser, lite0: Served, twenty: list[Path], tmp_path: Path
) -> None:
    said = lite0.send("/predict", (twenty[0].name, twenty[0].read_bytes())).json["images"][0]
    with Visit(browser, lite0) as visit:
        visit.take(twenty[0])
        probability = said["probabilities"][said["predicted"]]
        assert visit.text("#verdict") == f"{said['predicted']} (probability {probability:.3f})"
        for name, value in said["probabilities"].items():
            assert f"{name}\t{value:.3f}" in visit.text("#classes")
        assert visit.text("#sent-name") == twenty[0].name
        assert "Set of classes" in visit.text("#facts") and "none for this head" in visit.text("#facts")
        assert "comes from: logit" in visit.text("#caption") and "The map shows all that is added" in visit.text(
            "#caption"
        )
        assert visit.page.eval_on_selector("#picture", "one => one.naturalWidth") > 500
        assert visit.page.eval_on_selector("#sent", "one => one.naturalWidth") > 0
        assert visit.complaints == [] and visit.elsewhere == []
        if folder := os.environ.get("HISTOTUNE_TEST_PICTURES"):
            visit.page.screenshot(path=f"{folder}/serve.png", full_page=True)


def test_sets_distances_and_warnings_are_shown(browser: Browser, tmp_path: Path) -> None:
    Image.new("RGB", (24, 24), (255, 255, 255)).save(tmp_path / "blank.png")
    with serving(head_of_cases(tmp_path), tmp_path / "cache") as served, Visit(browser, served) as visit:
        visit.page.fill("#mpp", "0.5")
        visit.take(tmp_path / "blank.png")
        assert "far from what trained this head" in visit.text("#warnings")
        assert "Nearest training tiles" in visit.text("#facts") and "(case " in visit.text("#facts")
        assert ", far" in visit.text("#facts") and "0.054 µm per pixel" in visit.text("#facts")  # 24 px become 224
        visit.page.click("summary")
        assert "training groups held out in turn" in visit.text("details")
        assert visit.complaints == [] and visit.elsewhere == []
        if folder := os.environ.get("HISTOTUNE_TEST_PICTURES"):
            visit.page.screenshot(path=f"{folder}/serve-far.png", full_page=True)


def test_what_can_not_be_read_is_said_on_the_page_and_the_next_image_works(
    browser: Browser, lite0: Served, twenty: list[Path], tmp_path: Path
) -> None:
    name = tmp_path / "<img src=x onerror=alert(1)>.png"
    name.write_bytes(b"no image")
    with Visit(browser, lite0) as visit:
        visit.take(name)
        assert "This file is no image that can be read" in visit.text("#status")
        assert "<img src=x onerror=alert(1)>" in visit.text("#status"), "a name is text"
        assert not visit.page.is_visible("#result")
        visit.take(twenty[1])
        assert visit.page.is_visible("#result") and visit.text("#status") == "Done."
        assert visit.elsewhere == []


def test_an_image_can_be_dropped(browser: Browser, lite0: Served, twenty: list[Path]) -> None:
    with Visit(browser, lite0) as visit:
        data = list(twenty[2].read_bytes())
        transfer = visit.page.evaluate_handle(
            "data => { const one = new DataTransfer(); one.items.add(new File([new Uint8Array(data)], 'dropped.png'));"
            " return one; }",
            data,
        )
        visit.page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
        visit.page.wait_for_selector("#map:not([hidden])")
        assert visit.text("#sent-name") == "dropped.png"


def test_a_head_without_maps_says_so_beside_the_answer(
    browser: Browser, trained: Trained, cache: Path, twenty: list[Path]
) -> None:
    with serving(trained("lite0", **MLP), cache) as served, Visit(browser, served) as visit:
        visit.take(twenty[0])
        assert visit.text("#no-map").startswith("No map: the logit of an MLP")
        assert not visit.page.is_visible("#map") and visit.complaints == []


def test_a_head_of_rendered_tissue_says_so_at_once(
    browser: Browser, trained: Trained, cache: Path, twenty: list[Path]
) -> None:
    data = (TrainingData(name="cohort", licence="CC0", synthetic=True),)
    with serving(trained("lite0"), cache, data=data) as served, Visit(browser, served) as visit:
        assert served.ask("GET", "/model").json["data"][0]["licence"] == "CC0"
        assert "SYNTHETIC" in visit.text(".banner") and "SYNTHETIC" in visit.page.title()


@pytest.mark.parametrize("width_px", WIDTHS_PX)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_can_be_read(
    browser: Browser, lite0: Served, twenty: list[Path], width_px: int, scheme: str
) -> None:
    with Visit(browser, lite0, width_px, scheme) as visit:
        visit.take(twenty[0])
        root = "document.documentElement"
        assert visit.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") <= 0
        assert visit.page.evaluate(CONTRASTS) == []
        assert visit.page.evaluate("[...document.querySelectorAll('input')].every(one => one.labels.length)")
