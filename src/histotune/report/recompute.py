"""Compute the scores of this run once more, with scikit-learn alone: ``python recompute.py``.

Reads ``predictions.parquet`` and ``scores.json`` beside this file, and no line of histotune. It needs scikit-learn and
pyarrow, and ends with 1 where a score differs by more than 1e-9.

With several folds, AUROC counts the pairs of tiles that one head scored: the mean over folds, weighted by their pairs.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

TOLERANCE = 1e-9
KNOWN = ("auroc", "balanced_accuracy", "mcc")  # of the majority class: what any constant scores, not its folds
KEPT_AS = {"in-domain": "cross-magnification"}  # a finding whose tiles are kept with another


def scores_of(tiles: list[dict[str, Any]]) -> dict[str, float]:
    """Return every score that scikit-learn can compute of these rows of predictions."""
    import numpy as np
    from sklearn import metrics as m

    y, p = np.array([t["y_true"] for t in tiles]), np.array([t["probability"] for t in tiles])
    logit, fold = np.array([t["logit"] for t in tiles]), np.array([t["fold"] for t in tiles])
    k = p.shape[1]
    cut = np.array([0.5 if t.get("threshold") is None else t["threshold"] for t in tiles])
    guess = (p[:, 1] >= cut).astype(int) if k == 2 else p.argmax(1)
    # what ranks: the difference of the logits of two classes, which never saturates; one class against the rest else
    ranked = [(y == 1, logit[:, 1] - logit[:, 0])] if k == 2 else [(y == c, p[:, c]) for c in range(k)]
    found = {
        "accuracy": m.accuracy_score(y, guess),
        "balanced_accuracy": m.recall_score(y, guess, labels=range(k), average="macro", zero_division=math.nan),
        "macro_f1": m.f1_score(y, guess, labels=range(k), average="macro", zero_division=math.nan),
        "mcc": m.matthews_corrcoef(y, guess),
        "log_loss": -np.log(np.clip(p[np.arange(len(y)), y], np.finfo(float).eps, 1 - np.finfo(float).eps)).mean(),
        "brier": ((p - np.eye(k)[y]) ** 2).sum(1).mean() / (2 if k == 2 else 1),
        "auroc": np.mean([pairs_auroc(positive, score, fold) for positive, score in ranked]),
    }
    if k == 2 and 0 < ranked[0][0].sum() < len(y):
        found["auprc"] = m.average_precision_score(*ranked[0])
        false_rate, true_rate, _ = m.roc_curve(*ranked[0], drop_intermediate=False)
        found["sensitivity_at_95_specificity"] = true_rate[false_rate <= 0.05 + TOLERANCE].max()
        found["specificity_at_95_sensitivity"] = 1 - false_rate[true_rate >= 0.95 - TOLERANCE].min()
    patients = sorted({t["source_patient_id"] for t in tiles if t["source_patient_id"] is not None})
    whose = np.array([t["source_patient_id"] or "" for t in tiles])
    if patients:
        found["patient_recognition_rate"] = np.mean([(guess == y)[whose == one].mean() for one in patients])
    return {name: float(value) for name, value in found.items()}


def pairs_auroc(positive: Any, score: Any, fold: Any) -> float:  # noqa: ANN401  (arrays)
    """Return AUROC over the pairs of tiles within a fold."""
    from sklearn.metrics import roc_auc_score

    won = n_pairs = 0.0
    for one in set(fold.tolist()):
        here = fold == one
        pairs = float(positive[here].sum() * (~positive[here]).sum())
        if pairs:
            won, n_pairs = won + pairs * roc_auc_score(positive[here], score[here]), n_pairs + pairs
    return won / n_pairs if n_pairs else math.nan


def main(folder: Path) -> int:
    """Compare every score of a run's tables; return the exit code."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    findings = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["findings"]
    n_equal = n_other = 0
    for finding in findings:
        for arm in finding["rows"]:
            place = (KEPT_AS.get(finding["id"], finding["id"]), arm["arm"], arm["domain"])
            tiles = [row for row in rows if (row["finding"], row["arm"], row["domain"]) == place]
            if not tiles or len(tiles) != arm["scores"][0]["n_tiles"]:
                continue  # draws and differences have no tiles of their own
            again = scores_of(tiles)
            for score in arm["scores"]:
                known = arm["arm"].startswith("majority") and score["name"] in KNOWN
                if score["value"] is None or score["name"] not in again or known:
                    continue
                if abs(again[score["name"]] - score["value"]) <= TOLERANCE:
                    n_equal += 1
                else:
                    n_other += 1
                    print(f"differs: {place}, {score['name']}: {score['value']} here, {again[score['name']]} again")
    print(f"{n_equal} scores are equal to {TOLERANCE:g}, {n_other} differ")
    return 0 if n_equal and not n_other else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent))
