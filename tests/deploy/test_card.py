"""A model card states data, protocol, scores with intervals and licences, whatever the names in it are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from histotune.backbones.catalog import find_backbone
from histotune.backbones.entries import BackboneConfig, catalog_entries
from histotune.deploy.bundle import Bundle
from histotune.deploy.card import CardFacts, card_text, plain
from histotune.deploy.sharing import sharing_of
from histotune.evaluation.findings import DatasetFacts, Finding, Findings, ScoredArm, SweepChoice
from histotune.heads.head import Head
from histotune.images.config import ViewConfig
from histotune.statistics.predictions import Interval, Score

UNI = next(entry.spec for entry in catalog_entries() if entry.name == "uni")
HOSTILE = (
    "a|b`\n---\n# <script>alert(1)</script> [x](javascript:y) ![i](http://z/i.png) {{x}} - \u202e& *b* 'q' \"q\": ~"
)


def facts(name: str = "tumour", *, interval: bool = True) -> CardFacts:
    head = Head(
        np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([0.0, 0.5]), ("pooled",), (0, 1), ("benign", name), "lite0",
        "a" * 64, "b" * 64, 0.1, 1200, 31, ("g1",), train_sha256_N32=np.ones((1, 32), np.uint8),
    )  # fmt: skip
    bounds = Interval(0.81, 0.93, 0.95, "jackknife-t over groups")
    scores = (
        Score("auroc", 0.88, bounds if interval else None, 400, 21, reason="" if interval else "four groups alone"),
        Score("log_loss", float("nan"), None, 400, 21, reason="undefined"),
    )
    row = ScoredArm("probe", f"{name} 100X", f"{name} 100X, cross-fitted", 0.5, scores, ("SYNTHETIC",))
    finding = Finding("in-domain", name, f"Cross-fitted over five folds. {name}", (row,))
    data = DatasetFacts(name, 1200, 31, ("benign", name), name, name, True, "c", "d", ())
    choice = SweepChoice(name, head.head_id, ("pooled",), 0.1, 0.3, 0.02, 12, 1200, 31)
    findings = Findings(name, f"It holds.\n{name}", "lite0", "view", (data,), (finding,), (choice,), "e", "f")
    spec = find_backbone(BackboneConfig(name="lite0"))
    bundle = Bundle(head, BackboneConfig(name="lite0"), ViewConfig(), "fp32")
    return CardFacts(bundle, spec, sharing_of(spec), findings)


def written(kind: str = "onnx") -> dict[str, object]:
    return {"format": kind, "with_weights": True}


def test_the_hub_reads_the_scores_with_their_intervals() -> None:
    card = ModelCard(card_text(facts(), written()))
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("auroc", 0.88, "tumour 100X")
    assert result.metric_args["interval"] == [0.81, 0.93] and result.metric_args["level"] == 0.95
    assert result.metric_args["n_groups"] == 21
    assert card.data.license == "apache-2.0" and card.data.pipeline_tag == "image-classification"
    _, again = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert again[0].metric_args == result.metric_args
    for words in (
        "0.880 (0.810 to 0.930)",
        "Not for diagnosis",
        "1,200 tiles of 31 cases",
        "Cross-fitted",
        "Apache-2.0",
    ):
        assert words in card.text


def test_a_score_without_interval_says_so() -> None:
    card = ModelCard(card_text(facts(interval=False), written()))
    assert card.data.eval_results[0].metric_args["interval"] == "none"
    assert "0.880 (no interval)" in card.text


def test_a_head_of_no_run_states_no_score() -> None:
    text = card_text(dataclasses.replace(facts(), findings=None), written("folder"))
    assert "none are stated" in text and ModelCard(text).data.eval_results is None


def test_scores_of_another_head_are_not_this_ones() -> None:
    one = facts()
    assert one.findings is not None
    other = dataclasses.replace(one.findings.choices[0], head_id="0" * 16)
    findings = dataclasses.replace(one.findings, choices=(other,))
    assert ModelCard(card_text(dataclasses.replace(one, findings=findings), written())).data.eval_results is None


def as_html(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


@pytest.mark.parametrize("kind", ["transformers", "onnx", "wsinfer", "folder", "head"])
def test_hostile_names_stay_names(kind: str) -> None:
    text = card_text(facts(HOSTILE), written(kind))
    data = yaml.safe_load(text.split("---\n", 2)[1])
    assert data.keys() == yaml.safe_load(card_text(facts(), written(kind)).split("---\n", 2)[1]).keys()
    html, calm = as_html(ModelCard(text).text), as_html(ModelCard(card_text(facts(), written(kind))).text)
    assert "<script" not in html and 'javascript:y"' not in html and "<img" not in html
    for tag in ("<h1", "<h2", "<a ", "<table", "<tr", "<td", "<li", "<code", "<pre", "<hr"):
        assert html.count(tag) == calm.count(tag), tag


@given(name=st.text(min_size=1, max_size=60))
def test_any_text_is_shown_as_it_is_on_one_line(name: str) -> None:
    shown = plain(name)
    assert "\n" not in shown and "\r" not in shown
    html = as_html(f"x {shown} x")
    assert html.startswith("<p>x") and html.count("<") == 2


def test_the_card_of_a_restrictive_licence_says_own_use(tmp_path: Path) -> None:
    spec = UNI
    one = dataclasses.replace(facts(), spec=spec, sharing=sharing_of(spec))
    text = card_text(one, {"format": "folder", "with_weights": False})
    assert "For own use only" in text and "derivatives" in text and "license: other" in text
