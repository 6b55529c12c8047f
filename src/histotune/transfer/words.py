"""A diagnosis in plain words: "consistent with", never "caused by", and "can't be told" where it can't."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from histotune.evaluation.answer import in_words
from histotune.transfer.case import ALIGNMENT, NONE, UNTOLD

if TYPE_CHECKING:
    from histotune.statistics.predictions import Score
    from histotune.transfer.case import Diagnosis, Verdict

CAUSE_WORDS = {
    "scale": "another scale: tissue reaches the network at another um/px than in training",
    "stain": "another stain: normalised colours rank better",
    ALIGNMENT: "a shift of the embeddings' mean and covariance that undoing scale or stain does not explain",
    "other": "something that no remedy tried here undoes: other tissue, other labels, a harder task",
    "prevalence": "other shares of the classes than in training",
    "threshold": "a moved cut: the scores rank as before, but lie elsewhere",
    "calibration": "probabilities that are too sure or not sure enough",
}


def write_paragraph(found: Diagnosis) -> str:
    """Say what was lost, where, what gives it back and what can't be told.

    Args:
        found: The tables.

    Returns:
        One paragraph.
    """
    sentences = (
        _loss(found),
        _split(found),
        conclusion(found.verdict),
        _label_free(found),
        _limit(found),
        _shift(found),
    )
    scores = (*found.source_scores, *found.target_scores, found.threshold_loss, *(part.loss for part in found.parts))
    reasons = tuple(dict.fromkeys(score.reason for score in scores if score.reason))
    return _told_once(" ".join(sentence for sentence in sentences if sentence), reasons, found.target)


def conclusion(verdict: Verdict) -> str:
    """Return the verdict as a sentence.

    Args:
        verdict: The verdict.

    Returns:
        One or two sentences.
    """
    if verdict.first == NONE:
        return f"No first cause: {verdict.reason}."
    if verdict.first == UNTOLD:
        rivals = f" The data are consistent with {_either(verdict.rivals)}." if verdict.rivals else ""
        return f"The first cause can't be told: {verdict.reason}.{rivals}"
    beside = ""
    if verdict.beside:
        beside = f" With that undone, the decision is still off, consistent with {CAUSE_WORDS[verdict.beside]}."
    return (
        f"The loss lies first in the {verdict.kind} and is consistent with {CAUSE_WORDS[verdict.first]} "
        f"({verdict.reason}).{beside}"
    )


def _loss(found: Diagnosis) -> str:
    source, target = found.source_scores[0], found.target_scores[0]
    gap = found.gaps[0]
    lost = "no loss: the difference is" if gap.value <= 0 else "a ranking loss of"
    chance = ""
    if source.interval is not None and source.interval.low <= source.chance:
        chance = " On the source itself it is not shown to rank better than chance, so that there is little to lose."
    return (
        f"Carried over as it is, the head ranks {found.target} with AUROC {in_words(target)}, against "
        f"{in_words(source)} on held-out groups of {found.source}: {lost} {in_words(gap)}.{_several(found)}{chance}"
    )


def _several(found: Diagnosis) -> str:
    """Say what AUROC means with several classes."""
    if len(found.class_names) == 2:
        return ""
    return (
        f" AUROC is the mean over pairs of the {len(found.class_names)} classes, each ranked by the log-odds of the "
        "two, so that neither the mix of classes nor a shift per class changes it."
    )


def _split(found: Diagnosis) -> str:
    parts = ", ".join(f"{part.cause} {in_words(part.loss)}" for part in found.parts)
    cut, better = "Its threshold", "the best one"
    if len(found.class_names) > 2:
        cut, better = "The most probable class", "a shift per class"
    return (
        f"{cut} gives balanced accuracy {in_words(found.target_scores[1])}; {better} learned on other "
        f"target groups would add {in_words(found.threshold_loss)}. In log-loss the decision loses by {parts}."
    )


def _label_free(found: Diagnosis) -> str:
    """Name the best remedy that needs no labels, in the metric that the verdict is about."""
    metric = "auroc" if found.verdict.kind == "ranking" else "log_loss"
    rows = [(row, row.recovery(metric)) for row in found.remedies if not row.uses_labels]
    gains = [(row, recovery.alone) for row, recovery in rows if recovery is not None and _sure(recovery.alone)]
    what = "AUROC" if metric == "auroc" else "log-loss"
    if not gains:
        return f"No remedy without labels improves {what} for sure."
    row, score = max(gains, key=lambda pair: pair[1].value)
    return (
        f"Without labels of the target, the remedy {row.name!r} gives most {what} back, {in_words(score)}, provided "
        f"that {row.assumption}."
    )


def _limit(found: Diagnosis) -> str:
    own = next((row for row in found.oracles if row.name == "head trained on the target"), None)
    if own is None or math.isnan(own.scores[0].value):
        return ""
    reached = f"A head trained on other groups of the target with their labels reaches AUROC {in_words(own.scores[0])}"
    if own.scores[0].value <= found.target_scores[0].value:
        return f"{reached}, no more than the carried head: with so few groups it bounds no remedy."
    return f"{reached}: about the most that remedies can hope for."


def _shift(found: Diagnosis) -> str:
    shift = found.shift
    known = not (math.isnan(shift.source_mpp) or math.isnan(shift.target_mpp))
    scale = f" The network saw the source at {shift.source_mpp:.3g} and the target at {shift.target_mpp:.3g} um/px."
    words = "" if math.isnan(shift.frechet) else (
        f" Their Frechet distance is {shift.frechet:.3g}, against {shift.frechet_within:.3g} between halves of the "
        "source."
    )  # fmt: skip
    return (
        f"A classifier tells the two data sets apart with AUROC {in_words(shift.domain_auroc)}.{words}"
        f"{scale if known else ''} A shift says that they differ, not that the difference matters."
    )


def _told_once(text: str, reasons: tuple[str, ...], target: str) -> str:
    """Leave out a reason for a missing interval where it was given before."""
    for reason in reasons:
        told = f"no interval: {reason}"
        before, found, after = text.partition(told)
        for again in (told, f"no interval: {target}: {reason}"):
            after = after.replace(again, "no interval")
        text = before + found + after
    return text


def _sure(score: Score) -> bool:
    return score.interval is not None and score.interval.low > 0


def _either(names: tuple[str, ...]) -> str:
    words = [CAUSE_WORDS.get(name, name) for name in names]
    return words[0] if len(words) == 1 else "; as well as with ".join(words)
