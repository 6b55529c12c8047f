"""What a precision that passes the check costs a probe: the change of its AUROC against fp32."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.engine_pcam import N_CORES, Pass, cold, found_backbone
from benchmarks.harness import Claim, Part, Result, measured

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.space import Embeddings

SEEDS, N_PATCHES, N_FOLDS = 7, 400, 5
CLAIM = Claim(
    "precision_probe",
    "largest change of a probe's AUROC where embeddings are computed in bf16, or stored in fp16, and pass the check",
    "AUROC",
    1e-3,
    "at most",
    f"{SEEDS} rendered cohorts of {N_PATCHES} patches; embedded in fp32, and in each way that passes the precision"
    " check on that cohort: ViT-Ti/16 (random weights) computed in bf16 and EfficientNet-Lite0 stored in fp16; logistic"
    f" regression (penalty 1, standardised), {N_FOLDS} folds by slide, equal in both arms, AUROC of the out-of-fold"
    " scores. A sample is the larger change of one cohort; median and 95 % bound. Parts say how many cohorts passed.",
    by_bound=True,
)
# N tiles, D columns


@dataclass(frozen=True)
class Way:
    """A cheaper way to embed, and the backbone it is tried on."""

    name: str
    backbone: str
    precision: str = "fp32"
    storage: str = "fp32"


WAYS = (
    Way("ViT-Ti/16 in bf16", "random/timm/vit_tiny_patch16_224", precision="bf16"),
    Way("EfficientNet-Lite0 stored in fp16", "lite0", storage="fp16"),
)


@dataclass(frozen=True)
class Change:
    """What a way did to one cohort.

    Attributes:
        passed: Whether the check let it through.
        auroc: In fp32.
        change: Absolute difference of AUROC.
    """

    passed: bool
    auroc: float
    change: float


def measure() -> tuple[Result, ...]:
    """Embed every cohort both ways and fit the same probe."""
    found: list[list[Change]] = [[] for _ in WAYS]
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory(prefix="histotune-precision-") as name:
            tiles = _rendered(Path(name), seed)
            for way, changes in zip(WAYS, found, strict=True):
                changes.append(_change(tiles, way, seed, Path(name)))
    samples = [max((one.change for one in cohort if one.passed), default=0.0) for cohort in zip(*found, strict=True)]
    parts = []
    for way, changes in zip(WAYS, found, strict=True):
        passed = [one.change for one in changes if one.passed]
        parts += [Part(f"{way.name}: cohorts that pass the check, of {SEEDS}", len(passed)),
                  Part(f"{way.name}: largest change", max((one.change for one in changes), default=0.0)),
                  Part(f"{way.name}: mean AUROC in fp32", float(np.mean([one.auroc for one in changes])))]  # fmt: skip
    if not any(one.passed for changes in found for one in changes):
        raise RuntimeError("no way passed the check on any cohort: there is nothing to measure")
    return (measured(CLAIM, samples, parts, N_CORES),)


def _rendered(folder: Path, seed: int) -> TileSet:
    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.read import read_dataset
    from histotune.datasets.synthetic.cohort import SyntheticConfig
    from histotune.datasets.synthetic.cohort_folder import write_cohort

    config = SyntheticConfig(seed=seed, n_groups=4, n_tiles_breakhis=16, n_tiles_pcam=N_PATCHES)
    written = write_cohort(config, folder / "cohort")
    return read_dataset(DatasetConfig(name="patch_camelyon", path=written.pcam))


def _change(tiles: TileSet, way: Way, seed: int, folder: Path) -> Change:
    """Compare AUROC and, as a pass does, the embeddings themselves."""
    from histotune.embeddings.precision import compare_precision

    spec = replace(found_backbone(way.backbone), seed=seed)
    full = cold(tiles, Pass(spec, folder / f"{way.precision}-{way.storage}-full"))
    how = Pass(spec, folder / f"{way.precision}-{way.storage}", storage=way.storage, precision=way.precision)
    cheap = cold(tiles, how)
    check = compare_precision("bf16", full.matrix_ND, cheap.matrix_ND)
    before, after = (auroc(tiles, one) for one in (full, cheap))
    return Change(check.passed and not cheap.n_kept_fp32, before, abs(after - before))


def auroc(tiles: TileSet, embeddings: Embeddings) -> float:
    """Return the AUROC of a probe's out-of-fold scores; slides never cross a fold.

    Args:
        tiles: Labels and slides.
        embeddings: A row per tile.

    Returns:
        In [0, 1].
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features_ND: NDArray[np.float64] = embeddings.matrix_ND.astype(np.float64)
    probe = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=10_000))
    groups = tiles.table["group_id"].to_numpy()
    labels_N = tiles.labels_N
    scores_N = cross_val_predict(
        probe, features_ND, labels_N, groups=groups, cv=GroupKFold(N_FOLDS), method="decision_function"
    )
    return float(roc_auc_score(labels_N, scores_N))
