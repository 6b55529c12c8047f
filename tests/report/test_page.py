from __future__ import annotations

import base64
import errno
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from histotune.evaluation.findings import Artifacts
from histotune.report.charts import Curves
from histotune.report.figures import ranking_figure
from histotune.report.page import flat_settings, render_page, write_report
from histotune.report.run_folder import ReportInputs
from histotune.report.svg import Drawings
from histotune.report.tables import score_tables
from histotune.statistics.predictions import IntervalConfig
from histotune.tools.errors import UserError
from tests.report.made_up import (
    REASON,
    made_findings,
    made_inputs,
    made_predictions,
    made_thumbnail,
    made_trials,
)

VOID = {"meta", "img", "link", "br", "hr", "input"}
LOADING = {"src", "srcset", "href", "data", "action", "poster", "background", "xlink:href", "formaction"}
ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """Tags, text and table rows of a page; fails on unbalanced tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return render_page(made_inputs())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_loads_nothing_and_runs_its_own_script_alone(page: Page) -> None:
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in LOADING:
                assert (value or "").startswith(("#", "data:image/jpeg;base64,")), (tag, name, value)
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "form"}
    assert page.all("script") == [{}]  # one, inline, allowed by its hash


def test_the_style_sheet_loads_nothing(html: str) -> None:
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_the_security_policy_allows_this_style_this_script_and_data_images_only(html: str, page: Page) -> None:
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    digests = []
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests.append(base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert not any("style" in attributes for _, attributes in page.tags)


def test_equal_inputs_give_equal_bytes(html: str, tmp_path: Path) -> None:
    write_report(made_inputs(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == html.encode()


def test_reordered_predictions_give_equal_bytes(html: str) -> None:
    shuffled = made_predictions().sample(fraction=1.0, shuffle=True, seed=1)
    assert render_page(made_inputs(artifacts=Artifacts(shuffled, made_trials()))) == html


def test_predictions_read_back_from_parquet_give_equal_bytes(html: str, tmp_path: Path) -> None:
    made_predictions().write_parquet(tmp_path / "p.parquet")
    made_trials().write_parquet(tmp_path / "t.parquet")
    artifacts = Artifacts(pl.read_parquet(tmp_path / "p.parquet"), pl.read_parquet(tmp_path / "t.parquet"))
    assert render_page(made_inputs(artifacts=artifacts)) == html


def test_everything_a_user_supplies_is_escaped() -> None:
    evil = "<script>alert('x')</script>\"'&"
    page = Page(
        render_page(
            made_inputs(
                thumbnails=(made_thumbnail(evil),),
                command=f"histotune run {evil}",
                config={"path": evil, evil: 1},
                provenance={"versions": {evil: evil}, evil: evil},
            )
        )
    )
    assert page.all("script") == [{}]
    assert page.text.count("<script>alert('x')</script>") >= 6
    assert any(evil in (image["alt"] or "") for image in page.all("img"))


def test_hostile_names_in_findings_are_escaped() -> None:
    import json

    from histotune.evaluation.findings import findings_from_dict

    dumped = json.dumps(made_findings().as_dict())
    for word in ("breakhis", "malignant", "probe, random", "sentence", REASON):
        dumped = dumped.replace(word, f"<img src=x onerror=y>{word}")
    page = Page(render_page(made_inputs(findings=findings_from_dict(json.loads(dumped)))))
    assert all(image["src"] != "x" for image in page.all("img"))
    assert "<img src=x onerror=y>breakhis" in page.text


def test_a_file_name_that_is_not_utf8_is_still_written(tmp_path: Path) -> None:
    write_report(made_inputs(thumbnails=(made_thumbnail("tile-\udcff"),)), tmp_path / "report.html")
    assert "tile-\\udcff" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_tokens_never_reach_the_page() -> None:
    assert "hf_" not in render_page(made_inputs(command="histotune run breakhis --token hf_abcdefghijklmnop"))


def test_every_row_of_scores_shows_n_tiles_and_n_groups(page: Page) -> None:
    rows = [row for row in page.rows if row and re.search(r"(96 tiles, 24|21 tiles, 4) groups", row[0])]
    tables = [table for finding in made_findings().findings for table in score_tables(finding)]
    assert len(rows) == sum(len(group.rows) for table in tables for group in table.groups)
    assert len(tables) > len(made_findings().findings)


def test_missing_intervals_print_their_reason_on_the_page(page: Page) -> None:
    assert f"interval not estimable: {REASON}" in page.text
    assert "interval not estimable: a constant score ranks nothing" in page.text


def test_every_picture_has_words(page: Page) -> None:
    pictures = page.all("svg")
    assert len(pictures) > 12 and all(svg.get("role") == "img" for svg in pictures)
    assert all(len(svg["aria-label"] or "") > 40 for svg in pictures)
    assert all(image["alt"] for image in page.all("img") if "src" in image)
    rows = next(svg["aria-label"] or "" for svg in pictures if "by magnification" in (svg["aria-label"] or ""))
    assert "probe 0.710 [0.640, 0.760] (96 tiles, 24 groups)" in rows
    assert "probe 0.690, no interval (21 tiles, 4 groups)" in rows


def test_the_story_stands_in_order(page: Page) -> None:
    parts = ("A made-up run", "The probe tells malignant", "24 cases are few", "Next:", "Can I trust the split?",
             "How good is it on new cases?", "Does it carry to other magnifications?", "Does it carry to pcam",
             "Largest errors", "Research use only", "pcam test: scored 3 times under 2 choices.",
             "histotune run breakhis", "First sentence.", "Cross-fitted, seed 0.", "Trained at 100X, seed 0.",
             "Applied as it is.", "Official split.", "What the sweeps chose", "breakhis note",
             "evaluation.outer_folds=5", "torch", "split-hash")  # fmt: skip
    links = page.text.index("Everything else")
    text = page.text[: page.text.index("Can I trust the split?")] + page.text[links + len("Everything else") :]
    positions = [text.index(part) for part in parts]
    assert positions == sorted(positions)


def test_marks_and_credit_are_shown(page: Page) -> None:
    badges = [attributes for attributes in page.all("span") if (attributes.get("class") or "").startswith("badge")]
    assert {badge["class"] for badge in badges} == {"badge leaky", "badge too-narrow"}
    credit = "Tiles: breakhis, CC BY 4.0, cropped and resized. breakhis authors, https://example.org/breakhis"
    assert credit in page.text


def test_synthetic_is_said_in_the_banner_the_title_and_the_words_of_every_picture() -> None:
    html = render_page(made_inputs(findings=made_findings(synthetic=True)))
    page = Page(html)
    assert "(SYNTHETIC data)" in html[: html.index("</title>")]
    assert all("SYNTHETIC" in (svg["aria-label"] or "") for svg in page.all("svg"))
    assert "Rendered tissue, not patients" in page.text
    assert html.count("SYNTHETIC</") < 8  # said where it is seen, not on every figure and table


def test_real_data_is_not_called_synthetic(page: Page) -> None:
    assert "SYNTHETIC" not in page.text


def test_a_run_without_target_has_no_such_sections() -> None:
    page = Page(render_page(made_inputs(findings=made_findings(only=("in-domain",)))))
    assert "External" not in page.text and "carry to" not in page.text
    assert "Direct" not in page.text


def test_a_run_without_predictions_trials_or_pictures_still_has_a_page() -> None:
    empty = Artifacts(made_predictions().head(0), made_trials().head(0))
    page = Page(render_page(made_inputs(artifacts=empty, thumbnails=(), ledger=(), stages=(), config={})))
    assert "Largest errors" not in page.text
    assert "No test split has been scored" in page.text


def test_several_classes_get_a_curve_each() -> None:
    html = render_page(made_inputs(artifacts=Artifacts(made_predictions(n_classes=3), made_trials())))
    assert html.count(">probe, against the rest</text>") in (0,) and html.count("against the rest</text>") == 2 * 3
    assert "calibration is of the predicted class" in html


def test_the_probe_s_curves_have_bands_over_groups(page: Page) -> None:
    assert "pointwise 95 % t intervals, error from 400 resamples of whole groups" in page.text
    assert "they held the true curve in" in page.text
    roc = roc_chart(made_inputs())
    assert [bool(line.band) for line in roc.lines] == [False, False, True]  # the probe, drawn last
    alone = render_page(made_inputs(config={"interval": {"cluster": "tile", "level": 0.9}}))
    assert "pointwise 90 % percentile bands" in alone and "TOO NARROW: tiles of one case" in alone


def roc_chart(inputs: ReportInputs) -> Curves:
    finding = inputs.findings.finding("in-domain")
    assert finding is not None
    figure = ranking_figure(finding, inputs.findings, inputs.artifacts, IntervalConfig())
    assert figure is not None and isinstance(figure.charts[0], Curves)
    return figure.charts[0]


def test_no_band_where_the_interval_is_refused() -> None:
    few = made_predictions().with_columns(group_id=pl.lit("g") + (pl.int_range(pl.len()) % 4).cast(pl.String))
    inputs = made_inputs(artifacts=Artifacts(few, made_trials()))
    assert "No bands: class &#39;benign&#39; has 2 groups" in render_page(inputs)
    assert not any(line.band for line in roc_chart(inputs).lines)


def test_the_sweep_shows_the_run_s_own_backbone_and_flags_what_did_not_converge(page: Page) -> None:
    labels = [svg["aria-label"] or "" for svg in page.all("svg") if "Log-loss against" in (svg.get("aria-label") or "")]
    assert len(labels) == 2
    assert all("chosen: pooled at penalty 0.01, log-loss 0.480 ± 0.040" in label for label in labels)
    assert "× marks 4 fits that did not converge" in page.text


def test_settings_are_shown_as_set_takes_them() -> None:
    nested = {"sweep": {"penalties": [1, 2], "name": None}, "empty": {}}
    assert list(flat_settings(nested)) == [("empty", "{}"), ("sweep.name", "null"), ("sweep.penalties", "[1, 2]")]


def test_a_report_that_fails_leaves_the_old_one_untouched(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(made_inputs(), path)
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_report(made_inputs(findings=None), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_message_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(UserError, match="disk is full"):
        write_report(made_inputs(), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_nothing_heavy_is_imported_for_a_report_whose_pictures_are_there(tmp_path: Path) -> None:
    drawings = Drawings(tmp_path / "plots")
    render_page(made_inputs(), drawings)
    drawings.finish()
    code = (
        "import sys; from pathlib import Path; from tests.report.made_up import made_inputs; "
        "from histotune.report.page import render_page; from histotune.report.svg import Drawings; "
        f"render_page(made_inputs(), Drawings(earlier=(Path({str(tmp_path / 'plots')!r}),))); "
        "heavy = {'torch', 'timm', 'transformers', 'sklearn', 'scipy', 'matplotlib', 'pandas'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
