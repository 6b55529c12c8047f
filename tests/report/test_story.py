"""The ten questions of docs/report-questions.md have their sentences; every number is one of ``scores.json``."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from histotune.evaluation.findings import Findings, PairedDifference
from histotune.report.page import render_page
from histotune.report.run_folder import ReportInputs
from histotune.report.short_sections import short_sections
from histotune.report.story import first_screen, told, two
from histotune.statistics.predictions import Interval, Score
from histotune.tools.files import canonical_json
from tests.report.made_up import METHOD, REASON, made_arm, made_findings, made_inputs, made_score

NUMBER = re.compile(r"[+\u2212-]?\d+(?:,\d{3})*(?:\.\d+)?")


class Titles(HTMLParser):
    """The first screen and the section titles of a page, and nothing else."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br", "input", "path", "use"):
            self.open.append((tag, dict(attrs).get("id") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An empty element opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        tags, ids = {tag for tag, _ in self.open}, {name for _, name in self.open}
        if not {"script", "style"} & tags and (tags & {"h1", "h2", "header"} or "answer" in ids):
            self.text += f"{data}\n"


@pytest.fixture(scope="module")
def titles() -> str:
    return Titles(render_page(made_inputs())).text


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("which data", r"breakhis 100X: 96 tiles of 24 cases; pcam test: 96 tiles"),
        ("how many cases", r"of 24 cases"),
        ("leak-free", r"Yes: every tile was scored by a head that never saw its case"),
        (
            "how good",
            r"The probe tells malignant from benign with AUROC 0\.84 \(95.% interval 0\.77 to 0\.89\) on 24 held-out",
        ),
        ("how sure", r"24 cases are few.* It is shown to beat its strongest floor, random weights"),
        ("random split", r"A random image split would have claimed 0\.95, too high by 0\.11 \(0\.04 to 0\.16\)"),
        ("other magnifications", r"40X: 0\.71 \(0\.64 to 0\.76\); 400X: no interval"),
        ("other data set", r"Carried over as it is: AUROC 0\.61 .* A head trained there reaches 0\.87"),
        ("what next", r"Next: find out why it loses on pcam test"),
    ],
)
def test_each_question_has_its_sentence(titles: str, question: str, sentence: str) -> None:
    assert re.search(sentence, titles), question


def test_why_not_is_answered_below_the_title_of_the_other_data_set() -> None:
    section = next(one for one in short_sections(made_inputs()) if one.id == "other-data")
    assert "histotune transfer" in section.why


def test_a_section_has_a_question_an_answer_what_follows_and_at_most_five_columns() -> None:
    for section in short_sections(made_inputs()):
        assert section.question.endswith("?") and section.answer.endswith(".") and section.so_what
        assert section.table is None or len(section.table.columns) <= 5


def numbers_of(findings: Findings) -> set[str]:
    """Every number of scores.json as it may be rounded, with and without thousands."""
    found = {number.lstrip("+-") for number in NUMBER.findall(canonical_json(findings.as_dict()))}  # those in words
    for text in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", canonical_json(findings.as_dict())):
        value = float(text)
        for decimals in (0, 1, 2, 3):
            found.add(f"{abs(value):,.{decimals}f}")
        found |= {f"{abs(value):g}", f"{abs(value) * 100:.0f}", text.lstrip("-")}
    return found


def test_every_number_of_the_first_screen_and_the_sections_is_in_the_scores() -> None:
    inputs = made_inputs()
    known = numbers_of(inputs.findings) | {"0.5", "1"}
    screen = first_screen(inputs.findings)
    texts = [screen.data, screen.verdict, screen.sureness, screen.next_step, *screen.limits]
    for section in short_sections(inputs):
        texts += [section.answer, section.why, section.so_what]
        if section.table is not None and section.id != "errors":
            texts += [text for row in section.table.rows for text in row.texts]
    for text in texts:
        for number in NUMBER.findall(text):
            assert number.lstrip("+\u2212-") in known, (number, text)


def with_probe(auroc: Score, marks: tuple[str, ...] = (), **changes: object) -> Findings:
    findings = made_findings(only=("in-domain",))
    finding = findings.findings[0]
    probe = replace(finding.rows[0], scores=(auroc, *finding.rows[0].scores[1:]), marks=marks)
    return replace(findings, findings=(replace(finding, rows=(probe, *finding.rows[1:]), **changes),))  # type: ignore[arg-type]


def test_a_leaky_score_is_no_estimate() -> None:
    screen = first_screen(with_probe(made_score("auroc", 0.95), ("LEAKY",)))
    assert screen.verdict.startswith("No estimate for new cases")
    assert "whole cases are held out" in screen.next_step


def test_a_refused_interval_says_why() -> None:
    screen = first_screen(with_probe(made_score("auroc", 0.8, reason=REASON)))
    assert screen.verdict.startswith("How sure this is can't be told") and REASON in screen.verdict


def test_an_undefined_score_says_why() -> None:
    screen = first_screen(with_probe(Score("auroc", math.nan, None, 3, 1, reason="one class only")))
    assert "one class only" in screen.verdict and "nan" not in screen.verdict


def test_a_probe_that_beats_no_floor_says_so_first() -> None:
    difference = Score("auroc difference", 0.02, Interval(-0.1, 0.12, 0.95, METHOD), 96, 24)
    pair = PairedDifference("breakhis 100X", "random-weight backbone + probe", difference, "p = 0.7")
    screen = first_screen(with_probe(made_score("auroc", 0.68), paired=(pair,)))
    assert screen.verdict.startswith("The probe is not shown to beat its strongest floor, random-weight backbone")
    assert "fit noise" in screen.next_step


def test_unknown_groups_are_said() -> None:
    screen = first_screen(with_probe(made_score("auroc", 0.9, n=(96, 0))))
    assert "unknown cases" in screen.data and any("unknown which tiles" in limit for limit in screen.limits)


def test_known_overlap_of_the_pretraining_is_a_limit() -> None:
    assert any("may have seen these data: TCGA" in one for one in first_screen(made_findings(), "TCGA.").limits)


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(-0.2, -0.1, "It helped"), (0.1, 0.2, "It hurt"), (-0.1, 0.1, "It can't be told")]
)
def test_fine_tuning_helped_hurt_or_cannot_be_told(low: float, high: float, verdict: str) -> None:
    difference = Score("auroc difference", (low + high) / 2, Interval(low, high, 0.95, METHOD), 96, 24)
    findings = made_findings(only=("in-domain",))
    finding = findings.findings[0]
    tuned = made_arm("fine-tuned", "breakhis 100X", 0.9)
    pair = PairedDifference("breakhis 100X", "fine-tuned", difference, "p")
    finding = replace(finding, rows=(finding.rows[0], tuned, *finding.rows[1:]), paired=(pair,))
    inputs: ReportInputs = made_inputs(findings=replace(findings, findings=(finding,)))
    section = next(one for one in short_sections(inputs) if one.id == "fine-tuning")
    assert section.answer.startswith(verdict)
    assert section.table is not None and len(section.table.rows) == 2


def test_words_for_numbers() -> None:
    assert (two(-0.004), two(0.5), two(-0.256)) == ("0.00", "0.50", "−0.26")
    assert told(None) == "not computed"


def test_an_empty_run_says_so() -> None:
    screen = first_screen(replace(made_findings(), findings=()))
    assert screen.headline is None and "Nothing was scored" in screen.verdict


class Told(HTMLParser):
    """The text of a page that speaks of scores: without pictures and captions, settings, commands and single tiles."""

    LEFT_OUT = ("sweep", "settings", "reproduce", "data", "errors")
    """Sections about trials, versions, commands, licences and single tiles, which ``scores.json`` does not hold."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[tuple[str, bool]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br", "input"):
            out = tag in ("svg", "script", "style", "figcaption", "title", "nav", "sup")
            self.open.append((tag, out or dict(attrs).get("id") in self.LEFT_OUT))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An empty element opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if data.strip() and not any(out for _, out in self.open):
            self.texts.append(data)


def test_every_number_of_the_page_is_in_the_scores() -> None:
    inputs = made_inputs()
    known = numbers_of(inputs.findings)
    # the counts of rows that stand in a heading, and "0.5 is expected" of a shuffled label
    known |= {"0.5", "1", "2", "3"}
    found = [(number, text) for text in Told(render_page(inputs)).texts for number in NUMBER.findall(text)]
    assert len(found) > 300
    unknown = [(number, text.strip()) for number, text in found if number.lstrip("+\u2212-") not in known]
    assert unknown == []
