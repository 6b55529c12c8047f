"""Predictions go in, scores come out: the only doors of this room."""

# N tiles, K classes

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from numpy.typing import NDArray


PREDICTION_COLUMNS = (
    "tile_id", "group_id", "source_patient_id", "slide_id", "domain", "fold", "seed",
    "y_true", "logit", "probability", "head_id", "split_hash", "view", "input_mpp",
)  # fmt: skip

FULL_COVERAGE = 0.93
"""Simulated coverage below this is printed beside a nominal 95 % interval."""
Weighting = Literal["tile", "group"]
Ranking = Literal["rest", "pairs"]


@dataclass(frozen=True)
class Predictions:
    """A row per scored tile.

    Attributes:
        table: Columns :data:`PREDICTION_COLUMNS`; ``logit`` and ``probability`` are Array(Float64, K); ``fold`` and
            ``seed`` are Int32; ``domain`` says where the tile comes from ("breakhis 100X", "pcam test").
        class_names: Names by label index; index 1 is the positive class in binary tasks.
        threshold: Probability of class 1 from which class 1 is predicted in binary tasks, where the table has no
            column ``threshold`` of its own (cross-fitted heads each have theirs). A column ``predicted`` holds
            decisions that were made otherwise, and counts before both.
        ranking: What AUROC means with several classes: the mean over classes of one against the rest, ranked by
            probability; or over pairs of classes, ranked by the log-odds of the pair (Hand and Till, Machine Learning
            45, 2001), which neither the share of a class nor a shift per class changes.
    """

    table: pl.DataFrame
    class_names: tuple[str, ...]
    threshold: float = 0.5
    ranking: Ranking = "rest"

    def __post_init__(self) -> None:
        """Check that the columns are complete."""
        missing = set(PREDICTION_COLUMNS) - set(self.table.columns)
        if missing:
            raise ValueError(f"predictions lack {sorted(missing)}")

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.table)

    @property
    def y_true_N(self) -> NDArray[np.int64]:
        """True label index per tile."""
        return self.table["y_true"].cast(pl.Int64).to_numpy()

    @property
    def logit_NK(self) -> NDArray[np.float64]:
        """Logit per tile and class."""
        return _matrix(self.table["logit"], len(self.class_names))

    @property
    def probability_NK(self) -> NDArray[np.float64]:
        """Probability per tile and class."""
        return _matrix(self.table["probability"], len(self.class_names))

    @property
    def predicted_N(self) -> NDArray[np.int64]:
        """Predicted label index per tile: by threshold in binary tasks, the most probable class otherwise."""
        if "predicted" in self.table.columns:
            return self.table["predicted"].cast(pl.Int64).to_numpy()
        probability_NK = self.probability_NK
        if len(self.class_names) != 2:
            return np.asarray(probability_NK.argmax(axis=1))
        own = "threshold" in self.table.columns
        threshold_N = self.table["threshold"].to_numpy() if own else self.threshold
        return np.asarray(probability_NK[:, 1] >= threshold_N).astype(np.int64)

    @property
    def has_groups(self) -> bool:
        """Whether every tile's group is known."""
        return self.table["group_id"].null_count() == 0

    def where(self, condition: pl.Expr) -> Predictions:
        """Return the rows that meet a polars condition."""
        return replace(self, table=self.table.filter(condition))


@dataclass(frozen=True)
class Interval:
    """A confidence interval and how it was made.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        level: Nominal coverage.
        method: How it was made, in words.
        coverage: Share of simulated data sets nearest to this case whose interval held the truth; None where none
            were simulated.
    """

    low: float
    high: float
    level: float
    method: str
    coverage: float | None = None


@dataclass(frozen=True)
class Score:
    """One number with everything needed to read it.

    Attributes:
        name: Metric name, such as "auroc".
        value: The number; NaN where undefined, never 0.
        interval: Its confidence interval; None where refused, with ``reason`` saying why.
        n_tiles: Tiles scored.
        n_groups: Groups scored; 0 where unknown.
        weighting: Whether each tile or each group counts once.
        reason: Why the value or the interval is missing; empty where both are there.
        chance: What a majority vote or a random ranking gets (prevalence for AUPRC); NaN where there is none.
    """

    name: str
    value: float
    interval: Interval | None
    n_tiles: int
    n_groups: int
    weighting: Weighting = "tile"
    reason: str = ""
    chance: float = float("nan")

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-ready dict."""
        return asdict(self)


def _matrix(column: pl.Series, n_classes: int) -> NDArray[np.float64]:
    values = column.explode().to_numpy().astype(np.float64, copy=False)
    return np.ascontiguousarray(values.reshape(-1, n_classes))


# ------------------------------------------------------------------------------
# Settings of the statistics room


class IntervalConfig(BaseModel):
    """How confidence intervals are made.

    Attributes:
        method: ``auto`` takes the method that each metric earned in the coverage study (docs/intervals.md).
            ``percentile``, ``bca`` and ``studentised`` are bootstraps over groups. The others are t intervals on the
            logit scale (log-loss: log scale; calibration errors: square root), the error from leaving out one group at
            a time (``jackknife-t``; ``skewed-t`` lengthens the side of the long tail), from resamples
            (``resampled-t``; ``resampled-skewed-t`` lengthens it as well), or from DeLong's components summed by group
            (``obuchowski-t``: AUROC of two classes; others take the jackknife).
        mix: ``sampled``: how many groups hold each class is chance as well, so groups are resampled (and left out)
            across classes; the interval is unconditional. ``fixed``: the numbers were chosen, such as so many cases of
            each class, so groups are resampled within kinds that hold the same classes; the interval is conditional on
            the mix of classes and says so.
        level: Nominal coverage.
        n_resamples: Bootstrap resamples.
        cluster: ``group`` resamples whole groups; ``tile`` pretends tiles are independent and is marked TOO NARROW.
        min_groups_per_class: Below this many groups in a class the interval is refused.
        seed: Seed of the resamples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal[
        "auto",
        "percentile",
        "bca",
        "studentised",
        "jackknife-t",
        "skewed-t",
        "resampled-t",
        "resampled-skewed-t",
        "obuchowski-t",
    ] = "auto"
    mix: Literal["sampled", "fixed"] = "sampled"
    level: float = Field(0.95, gt=0, lt=1)
    n_resamples: int = Field(2000, ge=100)
    cluster: Literal["group", "tile"] = "group"
    min_groups_per_class: int = Field(5, ge=2)
    seed: int = 0


class ComparisonConfig(BaseModel):
    """Which arms are compared, declared before anyone sees the scores, and how p values are made.

    Attributes:
        family: ``all pairs``; ``against the first`` arm; or pairs of names. p values are adjusted over all of it.
        n_permutations: Most permutations; where the groups allow fewer assignments, all are listed.
        seed: Seed of the permutations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["all pairs", "against the first"] | tuple[tuple[str, str], ...] = "all pairs"
    n_permutations: int = Field(9999, ge=99)
    seed: int = 0
