"""One fine-tuning of a rendered cohort beside its probe, scored on cases that neither saw."""

# N tiles, n scored tiles, K classes

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.finetune.planted import SIDE_PX, PlantedCohort, write_planted
from histotune.backbones.catalog import find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.splits.split import tile_groups
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbeddingConfig, EmbedRequest, chosen_view
from histotune.evaluation.material import Material, ScoredRows, build_predictions
from histotune.finetune.tuning import TuningRequest, tune_set
from histotune.finetune.workbench import TunedTiles, TuningBench
from histotune.heads.head import class_probabilities, head_logits
from histotune.images.config import LoaderConfig, ViewChoice
from histotune.statistics.comparison import paired_difference
from histotune.statistics.predictions import IntervalConfig

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.finetune.config import FinetuneConfig
    from histotune.finetune.tuning import TunedSet
    from histotune.heads.config import SweepConfig
    from histotune.statistics.predictions import Predictions

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


@dataclass(frozen=True)
class TrialOutcome:
    """What one fine-tuning came to.

    Attributes:
        probe: The probe's AUROC on held-out cases.
        returned: That of what is returned: the tuned model, or the probe.
        low: Lower end of the paired interval of returned less probe.
        high: Upper end.
        verdict: ``tuned`` or ``probe``.
        epoch: Epochs that were chosen.
        gain: Gain in log-loss on the tuning groups, in nats.
        seconds: For the whole procedure, embedding left out.
    """

    probe: float
    returned: float
    low: float
    high: float
    verdict: str
    epoch: int
    gain: float
    seconds: float

    def row(self) -> dict[str, object]:
        """Return the outcome as a row of a table."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


def cohort_tiles(cohort: PlantedCohort, config: FinetuneConfig, scratch: Path) -> TuningBench:
    """Render a cohort, embed it, and return what fine-tunes on it."""
    name = f"{cohort.task}-{cohort.seed}-{cohort.n_groups}-{cohort.n_tiles}"
    tiles = read_dataset(DatasetConfig(name="tiles", path=write_planted(cohort, scratch / name)), "source")
    cache, loader = scratch / "cache", LoaderConfig()
    spec = find_backbone(BackboneConfig(name="lite0"), cache)
    view = chosen_view(ViewChoice(size_px=SIDE_PX, resize_px=SIDE_PX), spec)
    found = embed(tiles, EmbedRequest(spec, view, EmbeddingConfig(precision="fp32"), loader, cache))
    return TuningBench(TunedTiles(tiles, found, spec, view, loader, cache), config)


def run_trial(bench: TuningBench, train_N: NDArray[np.bool_], sweep: SweepConfig) -> TrialOutcome:
    """Fine-tune on some cases, and score probe and returned model on all others.

    Args:
        bench: The network and the tiles.
        train_N: Tiles that train.
        sweep: How the probe is found.

    Returns:
        Both AUROCs and the paired interval of their difference over cases.
    """
    start = time.perf_counter()
    tuned = tune_set(bench, train_N, TuningRequest(sweep))
    seconds = time.perf_counter() - start
    rows = np.flatnonzero(~train_N)
    probe, returned = _probe_predictions(bench, tuned, rows), _returned_predictions(bench, tuned, rows)
    difference = paired_difference(returned, probe, "auroc", IntervalConfig(), within_folds=False)
    interval = difference.interval
    aurocs = [_auroc(one) for one in (probe, returned)]
    low, high = (float("nan"), float("nan")) if interval is None else (interval.low, interval.high)
    decided = tuned.decided
    return TrialOutcome(aurocs[0], aurocs[1], low, high, decided.verdict, decided.epoch, decided.gain, seconds)


def train_rows(bench: TuningBench, n_groups: int) -> NDArray[np.bool_]:
    """Return the tiles of the first groups; cases are numbered so that any four of them hold every pair of traits."""
    chosen = set(sorted(set(tile_groups(bench.of.tiles)))[:n_groups])
    return np.array([group in chosen for group in tile_groups(bench.of.tiles)])


def _probe_predictions(bench: TuningBench, tuned: TunedSet, rows: Int) -> Predictions:
    head = tuned.probe.head
    logit_nK = head_logits(head, bench.of.embeddings.take(rows))
    return _predictions(bench, rows, logit_nK, class_probabilities(head, logit_nK))


def _returned_predictions(bench: TuningBench, tuned: TunedSet, rows: Int) -> Predictions:
    if tuned.start is None:
        return _probe_predictions(bench, tuned, rows)
    logit_nK = tuned.logits(rows)
    return _predictions(bench, rows, logit_nK, tuned.probabilities(logit_nK))


def _predictions(bench: TuningBench, rows: Int, logit_nK: Float, probability_nK: Float) -> Predictions:
    of = bench.of
    tiles = replace(of.tiles, pixel_fingerprint=of.embeddings.pixel_fingerprint)
    material = Material(tiles, of.embeddings, np.full(len(tiles), np.nan), of.view.words, of.spec.default_pooling)
    names = ["head"] * len(rows)
    scored = ScoredRows(rows, logit_nK, probability_nK, names, np.zeros(len(rows), np.int64), 0, "trial")
    return build_predictions(material, scored)


def _auroc(predictions: Predictions) -> float:
    from sklearn.metrics import roc_auc_score

    table = predictions.table
    return float(
        roc_auc_score(table["y_true"].to_numpy(), table["logit"].to_numpy()[:, 1] - table["logit"].to_numpy()[:, 0])
    )
