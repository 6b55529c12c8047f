"""Fine-tunings of a rendered cohort or of the real sample beside their probes, scored on cases that neither saw."""

# N tiles, n scored tiles, K classes

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.finetune.planted import SIDE_PX, PlantedCohort, write_planted
from histotune.backbones.catalog import find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.datasets.config import DatasetConfig, SubsetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.splits.folds import assign_group_folds
from histotune.datasets.splits.split import tile_groups
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbeddingConfig, EmbedRequest, chosen_view
from histotune.evaluation.material import Material, ScoredRows, build_predictions
from histotune.finetune.tuning import TuningRequest, tune_set
from histotune.finetune.workbench import TunedTiles, TuningBench
from histotune.heads.head import head_logits, softmax
from histotune.images.config import LoaderConfig, ViewChoice
from histotune.statistics.comparison import paired_difference
from histotune.statistics.metrics import auroc
from histotune.statistics.predictions import IntervalConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.finetune.config import FinetuneConfig
    from histotune.heads.config import SweepConfig
    from histotune.statistics.predictions import Predictions

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


REAL_SIDE_PX = 128


@dataclass(frozen=True)
class TrialOutcome:
    """What the fine-tunings of one cell came to; AUROC compares tiles that one head scored.

    Attributes:
        probe: The probe's AUROC on held-out cases.
        returned: That of what is returned: the tuned model, or the probe.
        low: Lower end of the paired interval of returned less probe.
        high: Upper end.
        n_tuned: Training sets whose tuned model was returned.
        epoch: Epochs that were chosen, of the first training set.
        gain: Gain in log-loss on its tuning groups, in nats.
        gain_se: Its standard error.
        seconds: Of one processor for the slowest whole procedure, embedding and what was kept from before left out.
    """

    probe: float
    returned: float
    low: float
    high: float
    n_tuned: int
    epoch: int
    gain: float
    gain_se: float
    seconds: float

    def row(self) -> dict[str, object]:
        """Return the outcome as a row of a table."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


def cohort_tiles(cohort: PlantedCohort, config: FinetuneConfig, scratch: Path) -> TuningBench:
    """Render a cohort, embed it, and return what fine-tunes on it."""
    name = f"{cohort.task}-{cohort.seed}-{cohort.n_groups}-{cohort.n_tiles}"
    place = DatasetConfig(name="tiles", path=write_planted(cohort, scratch / name))
    return _bench(place, SIDE_PX, config, scratch)


def real_tiles(config: FinetuneConfig, scratch: Path) -> TuningBench:
    """Embed the real sample at 100X, 14 cases, and return what fine-tunes on it."""
    place = DatasetConfig(name="breakhis", path=real_sample(), subset=SubsetConfig(magnifications=("100X",)))
    return _bench(place, REAL_SIDE_PX, config, scratch)


def real_sample() -> Path:
    """Return where the real sample lies: beside the project, or in the folder that HISTOTUNE_REAL_DATA names."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    return Path(os.environ.get("HISTOTUNE_REAL_DATA", beside)) / "breakhis_sample" / "BreaKHis_v1"


def _bench(place: DatasetConfig, side_px: int, config: FinetuneConfig, scratch: Path) -> TuningBench:
    tiles = read_dataset(place, "source")
    cache, loader = scratch / "cache", LoaderConfig()
    spec = find_backbone(BackboneConfig(name="lite0"), cache)
    view = chosen_view(ViewChoice(size_px=side_px, resize_px=side_px), spec)
    found = embed(tiles, EmbedRequest(spec, view, EmbeddingConfig(precision="fp32"), loader, cache))
    return TuningBench(TunedTiles(tiles, found, spec, view, loader, cache), config)


def run_trial(
    bench: TuningBench, train_sets: Sequence[NDArray[np.bool_]], sweep: SweepConfig, state: Path | None = None
) -> TrialOutcome:
    """Fine-tune on some cases, and score probe and returned model on all others.

    Args:
        bench: The network and the tiles.
        train_sets: Tiles that train; with several sets each tile is scored by those that leave it out.
        sweep: How the probe is found.
        state: Where finished trainings are kept.

    Returns:
        Both AUROCs and the paired interval of their difference over cases.
    """
    seconds, tuned = [], []
    for train_N in train_sets:
        start = time.process_time()
        tuned.append(tune_set(bench, train_N, TuningRequest(sweep, state=state)))
        seconds.append(time.process_time() - start)
    rows = [np.flatnonzero(~train_N) for train_N in train_sets]
    probe_nK = [
        head_logits(one.probe.head, bench.of.embeddings.take(own)) for one, own in zip(tuned, rows, strict=True)
    ]
    returned_nK = [
        one.logits(own) if one.start is not None else before_nK
        for one, own, before_nK in zip(tuned, rows, probe_nK, strict=True)
    ]
    probe, returned = _predictions(bench, rows, probe_nK), _predictions(bench, rows, returned_nK)
    within = len(train_sets) > 1
    interval = paired_difference(returned, probe, "auroc", IntervalConfig(), within_folds=within).interval
    low, high = (float("nan"), float("nan")) if interval is None else (interval.low, interval.high)
    decided, n_tuned = tuned[0].decided, sum(one.start is not None for one in tuned)
    before, after = (held_out_auroc(bench, rows, logits) for logits in (probe_nK, returned_nK))
    return TrialOutcome(before, after, low, high, n_tuned, decided.epoch, decided.gain, decided.gain_se, max(seconds))


def train_rows(bench: TuningBench, n_groups: int) -> NDArray[np.bool_]:
    """Return the tiles of the first groups; cases are numbered so that any four of them hold every pair of traits."""
    chosen = set(sorted(set(tile_groups(bench.of.tiles)))[:n_groups])
    return np.array([group in chosen for group in tile_groups(bench.of.tiles)])


def cross_fitted_rows(bench: TuningBench, n_folds: int, seed: int) -> list[NDArray[np.bool_]]:
    """Return a training set per outer fold, so that every case is scored once."""
    tiles = bench.of.tiles
    groups = tile_groups(tiles)
    fold_of = assign_group_folds(groups, tiles.labels_N, len(tiles.class_names), n_folds, seed)
    fold_N = np.array([fold_of[group] for group in groups])
    return [fold_N != fold for fold in range(n_folds)]


def held_out_auroc(bench: TuningBench, rows: Sequence[Int], logits: Sequence[Float]) -> float:
    """Return the AUROC of held-out tiles, each compared with those that the same head scored."""
    fold_n = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    return auroc(bench.of.tiles.labels_N[np.concatenate(rows)], np.concatenate(logits), fold_n)


def _predictions(bench: TuningBench, rows: Sequence[Int], logits: Sequence[Float]) -> Predictions:
    of, all_rows, logit_nK = bench.of, np.concatenate(rows), np.concatenate(logits)
    tiles = replace(of.tiles, pixel_fingerprint=of.embeddings.pixel_fingerprint)
    material = Material(tiles, of.embeddings, np.full(len(tiles), np.nan), of.view.words, of.spec.default_pooling)
    fold_n = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    names = [f"head {fold}" for fold in fold_n]
    return build_predictions(material, ScoredRows(all_rows, logit_nK, softmax(logit_nK), names, fold_n, 0, "trial"))
