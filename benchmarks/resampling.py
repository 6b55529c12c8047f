"""10,000 resamples of whole groups for eight metrics at once, against a loop over scikit-learn."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from benchmarks.harness import Arm, Claim, Part, Result, alternate, cores, measured, missing_hardware, not_measured
from histotune.statistics.evaluators import make_evaluator
from histotune.statistics.intervals import Units, over_resamples, resampling_units
from histotune.statistics.predictions import IntervalConfig, Predictions
from histotune.statistics.sample import draw_counts, read_sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.statistics.metrics import MetricName
    from histotune.statistics.sample import Sample

    Float = NDArray[np.float64]

METRICS: tuple[MetricName, ...] = (
    "accuracy", "balanced_accuracy", "macro_f1", "mcc", "auroc", "auprc", "log_loss", "ece",
)  # fmt: skip
N_TILES, N_SLIDES, N_RESAMPLES, N_PEER = 32_768, 100, 10_000, 10
CLASSES = (2, 4, 8)
METHOD = (
    f"Accuracy, balanced accuracy, macro-F1, MCC, AUROC, AUPRC, log-loss and ECE of {N_TILES:,} tiles of {N_SLIDES} "
    f"slides on {N_RESAMPLES:,} resamples of whole slides, two cores, from arrays in memory to every value; AUROC and "
    "AUPRC of more than two classes are means of one-vs-rest."
)
SECONDS = Claim(
    "resampling", f"{N_RESAMPLES:,} resamples of 100 slides, eight metrics, two classes", "s", 5.0, "at most",
    f"{METHOD} Four and eight classes stand in the parts. Median of 5 after 1 warm-up.",
)  # fmt: skip
RATIO = Claim(
    "resampling_ratio", "resampling whole slides, against a loop over scikit-learn", "x", 100.0, "at least",
    f"{METHOD} The loop gathers the rows of each resample and calls scikit-learn (ECE: numpy); it runs {N_PEER} "
    f"resamples and is extrapolated in proportion. Values agree. In turns, median of 5 after 1 warm-up.",
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Tiles of one number of classes."""

    sample: Sample
    units: Units
    config: IntervalConfig

    def ours(self) -> list[Float]:
        """Return every metric on every resample."""
        units = self.units
        evaluators = [
            make_evaluator(name, self.sample, units.unit_N, units.n_units, within_folds=False) for name in METRICS
        ]
        chunks = over_resamples(
            lambda counts_BG: [evaluate(counts_BG) for evaluate in evaluators], units, self.config.n_resamples
        )
        return [np.concatenate(values) for values in zip(*chunks, strict=True)]

    def theirs(self) -> Float:
        """Return every metric on the first resamples, by scikit-learn, (N_PEER, metrics)."""
        counts_BG = next(draw_counts(self.units.strata.stratum_G, N_RESAMPLES, self.config.seed))
        rows_G = [np.flatnonzero(self.units.unit_N == unit) for unit in range(self.units.n_units)]
        found = []
        for count_G in counts_BG[:N_PEER].astype(np.int64):
            rows = np.concatenate([np.tile(rows, n) for rows, n in zip(rows_G, count_G, strict=True) if n])
            found.append(_sklearn_values(self.sample, rows))
        return np.array(found)


def measure() -> tuple[Result, ...]:
    """Time both arms for two classes and ours for more."""
    lacking = missing_hardware(2)
    if lacking:
        return not_measured(SECONDS, lacking), not_measured(RATIO, lacking)
    with cores(2):
        works = {n_classes: make_work(n_classes) for n_classes in CLASSES}
        check(works[2])
        seconds = alternate([Arm("histotune", works[2].ours), Arm("scikit-learn", works[2].theirs)])
        more = {n: alternate([Arm("histotune", works[n].ours)])["histotune"] for n in CLASSES[1:]}
    parts = [Part(f"{n} classes", statistics.median(values)) for n, values in more.items()]
    whole = [peer * N_RESAMPLES / N_PEER for peer in seconds["scikit-learn"]]
    gains = [theirs / ours for theirs, ours in zip(whole, seconds["histotune"], strict=True)]
    peers = [
        Part("histotune, s", statistics.median(seconds["histotune"])),
        Part("scikit-learn, s", statistics.median(whole)),
    ]
    return measured(SECONDS, seconds["histotune"], parts, 2), measured(RATIO, gains, peers, 2)


def check(work: Work) -> None:
    """Refuse to time arms that disagree."""
    ours = np.stack([values[:N_PEER] for values in work.ours()], axis=1)
    np.testing.assert_allclose(ours, work.theirs(), atol=1e-9)


def make_work(n_classes: int) -> Work:
    """Draw tiles with scores that slides share."""
    rng = np.random.default_rng(n_classes)
    slide_N = np.sort(np.r_[np.arange(N_SLIDES), rng.integers(0, N_SLIDES, N_TILES - N_SLIDES)])
    y_N = rng.integers(0, n_classes, N_TILES)
    logit_NK = rng.standard_normal((N_TILES, n_classes)) + 0.5 * rng.standard_normal((N_SLIDES, n_classes))[slide_N]
    logit_NK[np.arange(N_TILES), y_N] += 1.0
    e_NK = np.exp(logit_NK)
    table = pl.DataFrame(
        {
            "tile_id": [f"{number:06d}" for number in range(N_TILES)],
            "group_id": [f"slide{slide:03d}" for slide in slide_N],
            "source_patient_id": [None] * N_TILES, "slide_id": [None] * N_TILES, "domain": "made up",
            "fold": pl.Series([0] * N_TILES, dtype=pl.Int32), "seed": pl.Series([0] * N_TILES, dtype=pl.Int32),
            "y_true": pl.Series(y_N, dtype=pl.Int32),
            "logit": pl.Series(logit_NK, dtype=pl.Array(pl.Float64, n_classes)),
            "probability": pl.Series(e_NK / e_NK.sum(axis=1, keepdims=True), dtype=pl.Array(pl.Float64, n_classes)),
            "head_id": "h", "split_hash": "s", "view": "v", "input_mpp": 0.5,
        },
        schema_overrides={"source_patient_id": pl.String, "slide_id": pl.String},
    )  # fmt: skip
    sample = read_sample(Predictions(table, tuple(f"class {k}" for k in range(n_classes))))
    config = IntervalConfig(n_resamples=N_RESAMPLES)
    return Work(sample, resampling_units(sample, config), config)


def _sklearn_values(sample: Sample, rows: NDArray[np.int64]) -> list[float]:
    """Return the eight metrics of some rows of a task of two classes."""
    import sklearn.metrics as sk

    y, decided, p = sample.y_N[rows], sample.predicted_N[rows], sample.probability_NK[rows]
    score = sample.score_NK[rows, 1]
    bins = np.minimum((p[:, 1] * 15).astype(np.int64), 14)
    gap = np.bincount(bins, weights=p[:, 1] - y, minlength=15)
    return [
        sk.accuracy_score(y, decided), sk.balanced_accuracy_score(y, decided), sk.f1_score(y, decided, average="macro"),
        sk.matthews_corrcoef(y, decided), sk.roc_auc_score(y, score), sk.average_precision_score(y, score),
        sk.log_loss(y, p), float(np.abs(gap).sum() / len(y)),
    ]  # fmt: skip


if __name__ == "__main__":
    for n in CLASSES:
        work = make_work(n)
        start = time.perf_counter()
        work.ours()
        print(n, round(time.perf_counter() - start, 2), "s")
