"""Findings survive scores.json, NaN included."""

from __future__ import annotations

import json

from histotune.evaluation.findings import (
    DatasetFacts,
    Finding,
    Findings,
    ScoredArm,
    SweepChoice,
    domain_order,
    findings_from_dict,
)
from histotune.statistics.predictions import Interval, Score
from histotune.tools.files import canonical_json


def example() -> Findings:
    estimated = Score("auroc", 0.8, Interval(0.7, 0.9, 0.95, "bootstrap"), 10, 3)
    refused = Score("auprc", float("nan"), None, 10, 3, reason="one class only")
    row = ScoredArm("probe", "breakhis 100X", "breakhis 100X", float("nan"), (estimated, refused), ("SYNTHETIC",))
    return Findings(
        title="t",
        answer="a",
        backbone="lite0",
        view="v",
        datasets=(DatasetFacts("b", 10, 3, ("x", "y"), "CC", "cite", True, "p", "l", ("note",)),),
        findings=(Finding("in-domain", "T", "protocol", (row,)),),
        choices=(SweepChoice("b", "id", ("pooled",), 0.1, 0.5, 0.1, 80, 10, 3),),
        split_hash="s",
        choice_hash="c",
    )


def test_findings_survive_a_round_trip() -> None:
    text = canonical_json(example().as_dict())
    rebuilt = findings_from_dict(json.loads(text))
    assert canonical_json(rebuilt.as_dict()) == text
    assert rebuilt.findings[0].rows[0].scores[1].interval is None
    assert rebuilt.choices == example().choices


def test_lookup_by_name() -> None:
    findings = example()
    finding = findings.finding("in-domain")
    assert finding is not None
    assert findings.finding("external") is None
    row = finding.row("probe")
    assert row is not None
    assert row.score("auroc") is not None
    assert row.score("brier") is None
    assert finding.row("probe", "breakhis 40X") is None


def test_magnifications_sort_by_number() -> None:
    domains = ["breakhis 400X", "breakhis 100X", "breakhis 40X", "breakhis 200X", "pcam test"]
    assert sorted(domains, key=domain_order) == [
        "breakhis 40X",
        "breakhis 100X",
        "breakhis 200X",
        "breakhis 400X",
        "pcam test",
    ]
