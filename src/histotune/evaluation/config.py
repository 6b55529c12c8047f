"""Settings of the evaluation room."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from histotune.heads.classes import parse_classes

Aggregation = Literal["mean", "max", "none"]
MapMethod = Literal["pca", "tsne", "none"]
Floor = Literal["majority", "random-weights", "colour-histogram", "untuned"]


class EvaluationConfig(BaseModel):
    """What is scored, and against which floors.

    Attributes:
        train_magnification: Magnification of the training tiles, such as "100X"; every magnification is scored.
            None trains on all tiles.
        outer_folds: Folds of the grouped cross-fit; made once over the groups of all magnifications. Without effect
            where ``split`` is given.
        split: A split in their place: a name such as "grouped-5-seed0", "holdout-20-seed0" or "eva", or a file written
            by ``histotune data split``. Folds are held out in turn; of parts, train trains and valid (with ``final``
            test) is scored. It speaks of the source, or of the target where there is no source.
        repeats: Times that the whole cross-fit is made again over other folds, for the variability due to who trains,
            stated apart from the interval; 0 leaves it out. Each costs what the first one cost, embedding excepted.
        allow_leaky: Take a split that puts tiles of one group on two sides; every row is then marked LEAKY.
        floors: What stands beside the probe in every table.
        untuned_draws: Random heads drawn for the "untuned head" floor.
        leak_price: Also measure what a random image split would have claimed.
        leak_null_draws: Permutations of the labels among groups that both arms of the leak's price are repeated with;
            0 leaves the null control out. None: 20 where a fit is a matter of a second (at most 4 million values of
            training tiles times columns), else 3.
        aggregation: How tiles become slides and groups, which are scored beside the tiles: by the mean of their
            probabilities, by the most positive tile (two classes; any positive tile makes a slide positive), or none.
        permutations: Permutations behind the p values of the paired differences to the floors, at least 99; 0
            leaves these out.
        robustness_k: Neighbours behind the robustness index, where the tile table knows sites, scanners or stains;
            0 leaves it out. PathoROB's own are 11, 46 and 61, the median over networks of what tells classes best.
        embedding_map: Map of the in-domain tiles in the report: ``pca``; ``tsne`` beside it (slower: it loads
            scikit-learn); or none.
        classes: How classes of the data that a head is applied to are read, name in the data -> name in the head, as in
            ``normal=benign,tumour=malignant``; an empty name leaves its tiles out. Names that are the same, or differ
            in spelling alone, need none.
        final: Score the test split; without it only the tuning split is scored. Every scoring is counted.
        seed: Seed of folds and draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_magnification: str | None = None
    outer_folds: int = Field(5, ge=2)
    split: str | None = None
    repeats: int = Field(0, ge=0)
    allow_leaky: bool = False
    floors: tuple[Floor, ...] = ("majority", "random-weights", "colour-histogram", "untuned")
    untuned_draws: int = Field(100, ge=10)
    leak_price: bool = True
    leak_null_draws: int | None = Field(None, ge=0)
    aggregation: Aggregation = "mean"
    permutations: int = Field(1999, ge=0)
    robustness_k: int = Field(11, ge=0)
    embedding_map: MapMethod = "pca"
    classes: dict[str, str] = Field(default_factory=dict)
    final: bool = False
    seed: int = 0

    @field_validator("classes", mode="before")
    @classmethod
    def _as_typed(cls, value: object) -> object:
        return parse_classes(value)

    @field_validator("permutations")
    @classmethod
    def _enough(cls, value: int) -> int:
        if 0 < value < 99:
            raise ValueError("fewer than 99 permutations can't reach p = 0.01; take 99 or more, or 0 for none")
        return value
