"""A real browser for tests of pages: the system's Chromium, driven by Playwright; a test without one is skipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS_PX = (400, 1000, 1600)


@dataclass
class Shown:
    """A page in a browser, and what the browser complained about or asked for while it was open."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def overflow_px(self) -> int:
        """By how much the page is wider than its window."""
        root = "document.documentElement"
        return int(self.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth"))

    def low_contrasts(self) -> list[str]:
        """Texts whose contrast with what lies behind them is below that of WCAG AA: 4.5, or 3 where they are large."""
        return [str(one) for one in self.page.evaluate(CONTRASTS)]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start the browser, or skip the test with the reason."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser found: {', '.join(BROWSERS)}")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def show(
    browser: Browser,
    path: Path,
    width_px: int = 1000,
    scheme: Literal["light", "dark"] = "light",
    *,
    script: bool = True,
) -> Iterator[Shown]:
    """Open a file in a window of its own."""
    context = browser.new_context(
        viewport={"width": width_px, "height": 900}, color_scheme=scheme, java_script_enabled=script
    )
    shown = Shown(context.new_page())
    shown.page.on("console", lambda message: shown.complaints.append(message.text))
    shown.page.on("pageerror", lambda error: shown.complaints.append(str(error)))
    shown.page.on("request", lambda request: shown.requests.append(request.url))
    shown.page.goto(path.as_uri())
    yield shown
    context.close()


CONTRASTS = """() => {
  const parse = (text) => {
    const found = text.match(/rgba?\\(([^)]+)\\)/);
    if (!found) { return null; }
    const parts = found[1].split(/[ ,\\/]+/).filter(Boolean).map(parseFloat);
    return {rgb: parts.slice(0, 3), alpha: parts.length > 3 ? parts[3] : 1};
  };
  const luminance = (rgb) => rgb.map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4))
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour && colour.alpha > 0.99) { return colour.rgb; }
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("script, style, dialog, .skip")) { continue; }
    const style = getComputedStyle(element), inSvg = element.closest("svg");
    if (style.visibility === "hidden" || !element.getClientRects().length) { continue; }
    const colour = parse(inSvg ? style.fill : style.color);
    if (!colour) { continue; }
    const pair = [luminance(colour.rgb), luminance(behind(element))].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 600);
    if (contrast < (large ? 3 : 4.5)) {
      low.push(`${contrast.toFixed(2)}: ${element.textContent.trim().slice(0, 60)}`);
    }
  }
  return low;
}"""
