"""The model card of an exported head: data, cases, protocol, scores with intervals, intended use, licences."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from histotune.backbones.merged_folder import shown_name
from histotune.deploy.export_job import EXPORT_FILE
from histotune.tools.files import read_json, write_text
from histotune.tools.marks import PROBE, TUNED, arm_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from histotune.backbones.spec import BackboneSpec
    from histotune.deploy.bundle import Bundle
    from histotune.deploy.sharing import Sharing
    from histotune.evaluation.findings import Finding, Findings, ScoredArm
    from histotune.statistics.predictions import Score

CARD_FILE = "README.md"
HUB_LICENCES = {
    "apache-2.0": "apache-2.0", "mit": "mit", "bsd-3-clause": "bsd-3-clause", "gpl-3.0": "gpl-3.0",
    "cc-by-nc-nd-4.0": "cc-by-nc-nd-4.0",
}  # fmt: skip
"""Ids that the hub knows, by the beginning of a licence's name."""
MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~$])")
SHOWN_METRICS = 6
USE = {
    "transformers": """```python
from transformers import pipeline  # needs timm and torchvision as well, for the image processor

classify = pipeline("image-classification", "PATH_OF_THIS_FOLDER")
print(classify("tile.png", top_k=None))
```""",
    "onnx": """```python
import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("model.onnx")
pixels = np.asarray(Image.open("tile.png").convert("RGB"))[None]  # uint8 (images, height, width, 3), of any size
logits, probabilities = session.run(None, {"pixels": pixels})
```

The resize, the crop and the normalisation are inside the model.""",
    "wsinfer": """```
wsinfer run --wsi-dir SLIDES --results-dir RESULTS --config config.json --model-path torchscript_model.pt
```

In QuPath's WSInfer extension, put this folder into the folder of local models. The model gives calibrated logits; both
programs apply the softmax. The resize of the view and the normalisation are inside the model.""",
    "folder": """```
python example.py tile.png
```""",
    "head": """```
histotune predict PATH_OF_THIS_FOLDER IMAGES
```""",
}


@dataclass(frozen=True)
class CardFacts:
    """What a card is made from.

    Attributes:
        bundle: The head and its view.
        spec: Its backbone.
        sharing: What the backbone's licence lets one do.
        findings: What the head's run found; None where there is no run.
    """

    bundle: Bundle
    spec: BackboneSpec
    sharing: Sharing
    findings: Findings | None


def write_card(facts: CardFacts, folder: Path) -> None:
    """Write README.md of an exported folder as the hub reads it, by huggingface_hub's own ModelCard.

    Names of classes, data sets and cases are whatever somebody typed: in the YAML they are values, in the text they are
    escaped.

    Args:
        facts: What is known.
        folder: Holds ``histotune_export.json``, or a head's own files.
    """
    written = read_json(folder / EXPORT_FILE) if (folder / EXPORT_FILE).is_file() else {"format": "head"}
    write_text(folder / CARD_FILE, card_text(facts, written))


def card_text(facts: CardFacts, written: dict[str, Any]) -> str:
    """Return a model card.

    Args:
        facts: What is known about the head.
        written: What ``histotune_export.json`` says; ``{"format": "head"}`` for a head's own files.

    Returns:
        YAML and Markdown.
    """
    from huggingface_hub import ModelCard

    body = "\n\n".join(part for part in _parts(facts, written) if part)
    content = f"---\n{_metadata(facts, written).to_yaml()}\n---\n\n{body}\n"
    return str(ModelCard(content))


def _metadata(facts: CardFacts, written: dict[str, Any]) -> Any:  # noqa: ANN401  (huggingface_hub's ModelCardData)
    from huggingface_hub import ModelCardData

    name = facts.sharing.licence.name
    known = next((hub for start, hub in HUB_LICENCES.items() if name.lower().startswith(start)), None)
    if not written.get("with_weights", False):
        known, name = None, "terms of the backbone and of the training data, see NOTICE.txt"
    libraries = {"transformers": "transformers", "onnx": "onnx"}
    base = {"base_model": facts.spec.repository} if facts.spec.repository else {}
    return ModelCardData(
        license=known or "other",
        license_name=None if known else re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-"),
        pipeline_tag="image-classification",
        library_name=libraries.get(str(written["format"]), "histotune"),
        tags=["pathology", "histopathology", "histotune", str(written["format"])],
        model_name=f"{_one_line(shown_name(facts.spec))}-{facts.bundle.head.head_id}",
        eval_results=eval_results(facts) or None,
        **base,
    )


# ---- Scores ----


def head_rows(facts: CardFacts) -> list[tuple[Finding, ScoredArm]]:
    """Return the rows of the run that say how good this head is: the probe's, or the fine-tuned arm's."""
    if facts.findings is None:
        return []
    arm, head_id = (TUNED, "") if facts.spec.adapter else (PROBE, facts.bundle.head.head_id)
    swept = [choice.head_id for choice in facts.findings.choices]
    if head_id and head_id not in swept:
        return []  # another head than those of the run
    is_direct = bool(head_id) and swept.index(head_id) > 0  # the head that the run trained on its second data set
    wanted = ("direct",) if is_direct else ("in-domain", "cross-magnification", "external")
    found = [finding for finding in facts.findings.findings if finding.id in wanted]
    return [(finding, row) for finding in found for row in finding.rows if row.arm == arm]


def eval_results(facts: CardFacts) -> list[Any]:
    """Return the scores as the hub's model-index; an interval stands in the arguments of its metric."""
    from huggingface_hub import EvalResult

    results = []
    for finding, row in head_rows(facts):
        for score in row.scores:
            if math.isfinite(score.value):
                results.append(
                    EvalResult(
                        task_type="image-classification",
                        dataset_type=_identifier(row.domain),
                        dataset_name=_one_line(row.domain),
                        dataset_args={
                            "finding": finding.id,
                            "trained_on": _one_line(row.trained_on),
                            "marks": list(row.marks),
                        },
                        metric_type=_identifier(score.name),
                        metric_name=score.name,
                        metric_value=round(score.value, 6),
                        metric_args=_interval_facts(score),
                    )
                )
    return results


def _interval_facts(score: Score) -> dict[str, Any]:
    counted = {"n_tiles": score.n_tiles, "n_groups": score.n_groups}
    if score.interval is None:
        return {**counted, "interval": "none", "reason": _one_line(score.reason)}
    one = score.interval
    return {**counted, "interval": [round(one.low, 6), round(one.high, 6)], "level": one.level, "method": one.method}


def _identifier(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-") or "unnamed"


# ---- Text ----


def _parts(facts: CardFacts, written: dict[str, Any]) -> Iterable[str]:
    head, names = facts.bundle.head, " or ".join(plain(name) for name in facts.bundle.head.class_names)
    yield f"# {plain(shown_name(facts.spec))}: {names}"
    yield (
        f"A classifier of histology tiles: {names}. A {plain(head.family)} head on {plain(shown_name(facts.spec))}"
        f"{', fine-tuned' if facts.spec.adapter else ''}, made with histotune. Its probabilities are calibrated"
        f" ({plain(head.calibration.reason) or f'temperature {head.temperature:.3g}'})."
    )
    yield (
        "**Not for diagnosis.** For research on tiles like those that trained it. It has not been validated as a "
        "medical device, says nothing of a patient, and answers on any image, of tissue or not."
    )
    yield "## How to use it\n\n" + USE[str(written["format"])]
    yield _decision(facts)
    yield _data(facts)
    yield _scores(facts)
    yield _limits(facts)
    yield _licences(facts, written)


def _decision(facts: CardFacts) -> str:
    head = facts.bundle.head
    if len(head.class_names) != 2:
        return "The head says the most probable class."
    return (
        f"The head says {plain(head.class_names[1])} where its probability is at least {head.threshold:.4g} (chosen "
        f"for: {plain(head.decision.rule)}). Programs that take the most probable class decide at 0.5 instead."
    )


def _data(facts: CardFacts) -> str:
    head = facts.bundle.head
    lines = [f"## Data\n\nTrained on {head.n_tiles:,} tiles of {head.n_groups:,} cases (groups)."]
    for one in facts.findings.datasets if facts.findings else ():
        synthetic = " SYNTHETIC: rendered by a program, no tissue." if one.synthetic else ""
        lines.append(
            f"- {plain(one.name)}: {one.n_tiles:,} tiles, {one.n_groups:,} groups; licence: "
            f"{plain(one.licence) or 'not stated'}; {plain(one.citation) or 'no citation known'}.{synthetic}"
        )
    lines.append(f"\nView: {plain(facts.bundle.view.words)}.")
    return "\n".join(lines)


def _scores(facts: CardFacts) -> str:
    rows = head_rows(facts)
    if not rows:
        return "## Scores\n\nThis head comes without a run that scored it on held-out cases: none are stated."
    parts = ["## Scores\n\nOn cases that took no part in training, with intervals over cases."]
    for finding in dict.fromkeys(finding.id for finding, _ in rows):
        shown = [(one, row) for one, row in rows if one.id == finding]
        parts.append(f"{plain(shown[0][0].title)}. {plain(shown[0][0].protocol)}")
        parts.append(_score_table([row for _, row in shown]))
    marks = sorted({mark for _, row in rows for mark in row.marks})
    if marks:
        parts.append(f"Marks: {plain(', '.join(marks))}.")
    return "\n\n".join(parts)


def _score_table(rows: Sequence[ScoredArm]) -> str:
    names = [score.name for score in rows[0].scores][:SHOWN_METRICS]
    lines = [f"| tiles of | {' | '.join(plain(name) for name in names)} | tiles | cases | marks |"]
    lines.append("|---" * (len(names) + 4) + "|")
    for row in rows:
        cells = [_score_words(row.score(name)) for name in names]
        counted = row.scores[0]
        marks = plain(", ".join(row.marks))
        lines.append(
            f"| {plain(row.domain)} ({plain(arm_words(row.arm))}) | {' | '.join(cells)} | {counted.n_tiles:,} "
            f"| {counted.n_groups:,} | {marks} |"
        )
    return "\n".join(lines)


def _score_words(score: Score | None) -> str:
    if score is None or not math.isfinite(score.value):
        return "none"
    if score.interval is None:
        return f"{score.value:.3f} (no interval)"
    return f"{score.value:.3f} ({score.interval.low:.3f} to {score.interval.high:.3f})"


def _limits(facts: CardFacts) -> str:
    lines = ["## Limits", ""]
    lines.append("- Other scanners, stains, organs and scales than those of the training tiles are untested.")
    if facts.spec.overlap:
        lines.append(f"- The backbone's pretraining data: {plain(facts.spec.overlap)}.")
    if facts.findings and facts.findings.answer:
        lines.append(f"- What the run says of itself: {plain(facts.findings.answer)}")
    return "\n".join(lines)


def _licences(facts: CardFacts, written: dict[str, Any]) -> str:
    licence, with_weights = facts.sharing.licence, bool(written.get("with_weights"))
    lines = ["## Licences", ""]
    lines.append(f"- Backbone {plain(shown_name(facts.spec))}: {plain(licence.name)} ({plain(licence.source)}).")
    if facts.spec.adapter:
        lines.append("- Fine-tuned weights: the backbone's licence holds for them, too.")
    for one in facts.findings.datasets if facts.findings else ():
        lines.append(f"- Training and test data {plain(one.name)}: {plain(one.licence) or 'not stated'}.")
    refusal = facts.sharing.weights_refusal if with_weights else facts.sharing.head_refusal
    if refusal:
        lines.append(f"- **For own use only**: {plain(refusal)}.")
    return "\n".join(lines)


def plain(text: str) -> str:
    r"""Return any text so that Markdown shows it as it is, on one line.

    Example:
        >>> print(plain("a|b <script> [x](y)"))
        a\|b &lt;script&gt; \[x\]\(y\)
    """
    safe = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKDOWN.sub(r"\\\1", safe)


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
