"""Made-up findings for tests of the report: numbers drawn from a seed, no claim about anything."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
from PIL import Image

from histotune.evaluation.findings import (
    Artifacts,
    DatasetFacts,
    Finding,
    FindingId,
    Findings,
    LedgerCount,
    ScoredArm,
    SweepChoice,
)
from histotune.report.run_folder import ReportInputs, Thumbnail
from histotune.statistics.predictions import Interval, Score
from histotune.tools.progress import StageTime

METHOD = "percentile bootstrap over groups, 2,000 resamples"
SPREAD = "central 95 % of 100 random heads, not a confidence interval"
REASON = "class 'benign' has 2 groups; an interval needs 5"
CROSS_FITTED = "breakhis 100X, cross-fitted over 5 folds"
BACKBONE = "efficientnet-lite0"
METRICS = ("auroc", "auprc", "balanced_accuracy", "accuracy", "macro_f1", "patient_recognition_rate", "log_loss")
N_TILES, N_GROUPS = 96, 24


def made_score(name: str, value: float, *, n: tuple[int, int] = (N_TILES, N_GROUPS), reason: str = "") -> Score:
    interval = None if reason else Interval(value - 0.07, value + 0.05, 0.95, METHOD)
    return Score(name, value, interval, *n, reason=reason, chance=0.687)


def made_arm(
    arm: str, domain: str, auroc: float, trained_on: str = CROSS_FITTED, marks: tuple[str, ...] = ()
) -> ScoredArm:
    if arm == "untuned head":
        scores = (Score("auroc", 0.5, Interval(0.3, 0.7, 0.95, SPREAD), N_TILES, N_GROUPS),)
        return ScoredArm(arm, domain, "nothing: 100 random heads", 2.0, scores, marks)
    scores = tuple(made_score(name, auroc - 0.02 * index) for index, name in enumerate(METRICS))
    return ScoredArm(arm, domain, trained_on, 2.0, scores, marks)


def made_floors(domain: str, trained_on: str = CROSS_FITTED) -> tuple[ScoredArm, ...]:
    arms = (("random-weight backbone + probe", 0.66), ("colour histogram + probe", 0.6), ("untuned head", 0.5))
    majority = Score("auroc", 0.5, None, N_TILES, N_GROUPS, reason="a constant score ranks nothing")
    return (
        *(made_arm(arm, domain, auroc, trained_on) for arm, auroc in arms),
        ScoredArm("majority class", domain, trained_on, 2.0, (majority,)),
    )


def cross_magnification() -> Finding:
    rows = [made_arm("probe", f"breakhis {name}", auroc) for name, auroc in (("40X", 0.71), ("100X", 0.842))]
    few = tuple(made_score(name, 0.69, n=(21, 4), reason=REASON) for name in METRICS)
    rows.append(ScoredArm("probe", "breakhis 400X", CROSS_FITTED, float("nan"), few))
    floors = [made_floors(f"breakhis {name}") for name in ("40X", "100X", "400X")]
    rows += [floor for same_arm in zip(*floors, strict=True) for floor in same_arm]
    return Finding("cross-magnification", "Every magnification", "Trained at 100X, seed 0.", tuple(rows))


def leak_price() -> Finding:
    differences = (made_score("auroc difference", 0.109), made_score("balanced_accuracy difference", 0.142))
    rows = (
        made_arm("probe", "breakhis 100X", 0.842),
        made_arm("probe, random image split", "breakhis 100X", 0.951, marks=("LEAKY",)),
        ScoredArm("difference (random - grouped)", "breakhis 100X", CROSS_FITTED, 2.0, differences, ("LEAKY",)),
    )
    return Finding("leak-price", "What a random image split would have claimed", "Paired, seed 0.", rows)


def made_findings(*, synthetic: bool = False, only: tuple[FindingId, ...] | None = None) -> Findings:
    test, carried = "pcam test", "breakhis 100X, all training cases"
    findings = (
        Finding(
            "in-domain",
            "Held-out cases",
            "Cross-fitted, seed 0.",
            (made_arm("probe", "breakhis 100X", 0.842), *made_floors("breakhis 100X")),
            ("An accession is a case.",),
        ),
        cross_magnification(),
        leak_price(),
        Finding(
            "external",
            "External validation",
            "Applied as it is.",
            (made_arm("probe", test, 0.61, carried), *made_floors(test, carried)),
        ),
        Finding(
            "direct",
            "Direct training",
            "Official split.",
            (made_arm("probe", test, 0.87, "pcam train", ("TOO NARROW",)), *made_floors(test, "pcam train")),
        ),
    )
    datasets = tuple(
        DatasetFacts(name, 192, 24, classes, "CC BY 4.0", f"{name} authors, https://example.org/{name}", synthetic,
                     f"{name}-pixels", f"{name}-labels", (f"{name} note",))
        for name, classes in (("breakhis", ("benign", "malignant")), ("pcam", ("normal", "tumour")))
    )  # fmt: skip
    choices = (SweepChoice("breakhis 100X", "0123456789abcdef", ("pooled",), 0.0316, 0.48, 0.04, 240, 96, 24),)
    kept = tuple(finding for finding in findings if only is None or finding.id in only)
    return Findings(
        "A made-up run", "First sentence.\nSecond sentence.", BACKBONE, "short side to 224 px", datasets, kept,
        choices, "split-hash", "choice-hash",
    )  # fmt: skip


def made_predictions(n_classes: int = 2) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    label = np.arange(N_TILES) % n_classes
    arms = (
        ("cross-magnification", "probe", 1.5),
        ("cross-magnification", "random-weight backbone + probe", 0.6),
        ("cross-magnification", "majority class", 0.0),
        ("leak-price", "probe, random image split", 3.0),
    )
    parts = []
    for finding, arm, strength in arms:
        logit_NK = rng.normal(size=(N_TILES, n_classes)) + strength * np.eye(n_classes)[label]
        probability_NK = np.exp(logit_NK) / np.exp(logit_NK).sum(axis=1, keepdims=True)
        parts.append(
            pl.DataFrame(
                {
                    "tile_id": [f"tile-{index}" for index in range(N_TILES)],
                    "group_id": [f"group-{index % N_GROUPS}" for index in range(N_TILES)],
                    "source_patient_id": pl.Series([None] * N_TILES, dtype=pl.String),
                    "slide_id": pl.Series([None] * N_TILES, dtype=pl.String),
                    "domain": ["breakhis 100X"] * N_TILES,
                    "fold": pl.Series(np.arange(N_TILES) % 5, dtype=pl.Int32),
                    "y_true": pl.Series(label, dtype=pl.Int32),
                    "logit": pl.Series(logit_NK, dtype=pl.Array(pl.Float64, n_classes)),
                    "probability": pl.Series(probability_NK, dtype=pl.Array(pl.Float64, n_classes)),
                    "seed": pl.Series([0] * N_TILES, dtype=pl.Int32),
                    "head_id": ["head"] * N_TILES,
                    "split_hash": ["split"] * N_TILES,
                    "view": ["view"] * N_TILES,
                    "input_mpp": [2.0] * N_TILES,
                    "finding": [finding] * N_TILES,
                    "arm": [arm] * N_TILES,
                }
            )
        )
    return pl.concat(parts)


def made_trials() -> pl.DataFrame:
    rows = []
    for trained_on, backbone in (("breakhis 100X", BACKBONE), ("pcam train", BACKBONE), ("breakhis 100X", "random")):
        for pooling, offset in (("pooled", 0.0), ("stage4", 0.05)):
            for exponent in range(-6, 3):
                loss = 0.48 + offset + 0.02 * (exponent + 2) ** 2
                chosen = pooling == "pooled" and exponent == -2
                rows.append((pooling, 10.0**exponent, loss, 0.04, 0.8, exponent > -6, chosen, trained_on, backbone))
    names = ("pooling", "penalty", "log_loss", "log_loss_se", "auroc", "converged", "chosen", "trained_on", "backbone")
    return pl.DataFrame(rows, schema=names, orient="row")


def made_thumbnail(tile_id: str = "tile-3") -> Thumbnail:
    stream = io.BytesIO()
    Image.new("RGB", (24, 16), (200, 120, 180)).save(stream, "JPEG")
    return Thumbnail("in-domain", tile_id, "breakhis 100X", "group-3", "malignant", "benign", 0.97, stream.getvalue())


def made_inputs(**changes: object) -> ReportInputs:
    values: dict[str, object] = {
        "findings": made_findings(),
        "artifacts": Artifacts(made_predictions(), made_trials()),
        "provenance": {"versions": {"torch": "2.15.0"}, "cpu": "a processor", "started": "2026-01-01T00:00:00+00:00"},
        "stages": (StageTime("embed", 31.25), StageTime("sweep", 4.0)),
        "ledger": (LedgerCount("pcam test", 3, 2),),
        "config": {"evaluation": {"outer_folds": 5, "floors": ["majority"]}},
        "thumbnails": (made_thumbnail(),),
        "command": "histotune run breakhis --data images",
    }
    return ReportInputs(**{**values, **changes})  # type: ignore[arg-type]
