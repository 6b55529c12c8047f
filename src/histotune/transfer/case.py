"""What a transfer diagnosis takes and gives."""

# N tiles, D columns of the head's pooling, K classes

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from histotune.statistics.predictions import Score  # noqa: TC001  (a saved record is read by its types)
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from histotune.statistics.predictions import Predictions

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


Physical = Literal["scale", "stain"]
DecisionCause = Literal["prevalence", "threshold", "calibration"]
Cause = Literal[
    "scale", "stain", "mean and covariance", "other", "prevalence", "threshold", "calibration", "none", "can't be told"
]
PHYSICAL: tuple[Physical, ...] = ("scale", "stain")
ALIGNMENT: Literal["mean and covariance"] = "mean and covariance"
NONE: Cause = "none"
UNTOLD: Cause = "can't be told"


@dataclass(frozen=True)
class Side:
    """Labelled tiles of one data set as the head sees them.

    Attributes:
        domain: Such as "pcam test".
        x_ND: The columns of the head's pooling.
        y_N: Labels, in the order of the head's classes.
        groups: Group key per tile.
        tile_ids: Id per tile.
        has_groups: Whether every group is known; without, intervals are refused.
        input_mpp: Median scale at which the network saw the tiles, um/px; NaN where unknown.
    """

    domain: str
    x_ND: Float
    y_N: Int
    groups: tuple[str, ...]
    tile_ids: tuple[str, ...]
    has_groups: bool = True
    input_mpp: float = math.nan

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.y_N)


@dataclass(frozen=True)
class HeadMap:
    """What a diagnosis needs of a head.

    Attributes:
        margin: From columns (n, D) to the calibrated log-odds of each class against class 0, (n, K).
        threshold: Probability of class 1 from which class 1 is said; of several classes the most probable is.
        penalty: L2 penalty for heads trained on the target.
        class_names: Names by label; class 1 is the positive one of two.
        head_id: The head.
    """

    margin: Callable[[Float], Float]
    threshold: float
    penalty: float
    class_names: tuple[str, ...]
    head_id: str


@dataclass(frozen=True)
class RemedyView:
    """The target embedded again with something undone, rows as in the target.

    Attributes:
        undone: What was undone: the scale, the stain, or both.
        x_ND: The head's columns.
        candidate: Under which candidate scale; empty for the only one.
    """

    undone: frozenset[Physical]
    x_ND: Float
    candidate: str = ""


@dataclass(frozen=True)
class TransferCase:
    """A head, where it comes from and where it went.

    Attributes:
        head: The head.
        source: Training tiles; their columns align and measure the shift.
        source_predictions: Predictions for source tiles by heads that never saw their group; several classes ranked in
            pairs, as on the target.
        target: Tiles of the target, as the head sees them as it is.
        views: The target embedded again; empty where only embeddings are at hand.
        notes: Caveats, one sentence each.
    """

    head: HeadMap
    source: Side
    source_predictions: Predictions
    target: Side
    views: tuple[RemedyView, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.head.class_names)


@dataclass(frozen=True)
class RemedyPlan:
    """A remedy that needs the images, and what it takes.

    Attributes:
        undone: What it undoes.
        what: How, in words.
        needs: What must be known or installed; empty where everything is there.
        candidate: Candidate scale; empty for the only one.
        mpp_factor: What the target's stored mpp is multiplied with under this candidate.
        matched: Under this candidate the scales agree already, and the view is the head's own.
    """

    undone: frozenset[Physical]
    what: str
    needs: str = ""
    candidate: str = ""
    mpp_factor: float = 1.0
    matched: bool = False


@dataclass(frozen=True)
class Recovery:
    """What a remedy gives back, in one metric; larger is better.

    Attributes:
        alone: Score with the remedy less score as is.
        left_out: Score of the full stack less score of the stack without it; None for remedies outside the stack.
    """

    metric: str
    alone: Score
    left_out: Score | None = None


@dataclass(frozen=True)
class RemedyRow:
    """One remedy.

    Attributes:
        name: The remedy.
        assumption: What must hold for it to be right.
        uses_labels: Whether it learns from labels of the target's tuning groups: then no label-free remedy.
        recoveries: AUROC, balanced accuracy and log-loss, in this order.
        refinement: Log-loss given back where both sides have their best shift and scale, learned on labels of other
            target groups: what is tested of a ranking; None for what only moves the decision.
    """

    name: str
    assumption: str
    uses_labels: bool
    recoveries: tuple[Recovery, ...]
    refinement: Score | None = None

    def recovery(self, metric: str) -> Recovery | None:
        """Return the recovery in a metric, or None."""
        return next((found for found in self.recoveries if found.metric == metric), None)


@dataclass(frozen=True)
class DecisionPart:
    """A part of the decision loss: log-loss that one more correction takes away."""

    cause: DecisionCause
    loss: Score


@dataclass(frozen=True)
class OracleRow:
    """What labels of the target would give: no remedy, a limit."""

    name: str
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class FewShotPoint:
    """AUROC of heads trained on few labelled target groups.

    Attributes:
        groups_per_class: Labelled groups of each class.
        auroc: Mean over draws, on all other groups, with an interval over groups and draws.
        sd: Standard deviation over draws.
        n_draws: Draws that could be scored.
    """

    groups_per_class: int
    auroc: Score
    sd: float
    n_draws: int


@dataclass(frozen=True)
class Neighbour:
    """A tile that is shown: its id, its group, and the name of its true class."""

    tile_id: str
    group_id: str
    label: str


@dataclass(frozen=True)
class NeighbourRow:
    """A target tile and the source tiles that lie nearest to it.

    Attributes:
        why: Why this tile: one of the errors the head is surest of, or picked without looking.
        tile: The target tile.
        predicted: What the head, as it is, says.
        probability: Probability of what it says.
        nearest: Source tiles, nearest first.
        cosines: Cosine of each to the target tile, in the head's columns.
    """

    why: Literal["surest error", "picked blindly"]
    tile: Neighbour
    predicted: str
    probability: float
    nearest: tuple[Neighbour, ...]
    cosines: tuple[float, ...]


@dataclass(frozen=True)
class Shift:
    """How far apart the embeddings lie.

    Attributes:
        frechet: Frechet distance between half the source's groups and as many target tiles.
        frechet_within: Between two halves of the source's groups: what no shift gives.
        components: Principal components of the source it was measured in.
        domain_auroc: AUROC of a classifier that tells source from target, cross-validated over groups.
        source_mpp: Median input_mpp of the source, um/px.
        target_mpp: The same of the target.
        stain_source: Mean optical density of red, green and blue light; empty without pixels.
        stain_target: The same of the target.
    """

    frechet: float
    frechet_within: float
    components: int
    domain_auroc: Score
    source_mpp: float = math.nan
    target_mpp: float = math.nan
    stain_source: tuple[float, ...] = ()
    stain_target: tuple[float, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The first cause.

    Attributes:
        first: The cause, "none", or "can't be told".
        kind: Whether it lies in the ranking or in the decision; empty for neither.
        reason: Why, in one clause.
        beside: A further decision cause after the first was undone; empty without one.
        candidate: Under which candidate scale.
        rivals: Causes that can't be told apart.
    """

    first: Cause
    kind: Literal["", "ranking", "decision"]
    reason: str
    beside: Literal["", "prevalence", "threshold", "calibration"] = ""
    candidate: str = ""
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """Everything a transfer diagnosis found.

    Attributes:
        source: Domain of the source, with how its scores were made.
        target: Domain of the target.
        head_id: The head.
        class_names: The classes; index 1 is the positive one of two.
        prevalence: Share of each class among tiles of the source, and of the target.
        source_scores: AUROC, balanced accuracy and log-loss on held-out source groups.
        target_scores: The same, the head as it is, on the target.
        gaps: Source less target per metric (log-loss: target less source): what was lost.
        threshold_loss: Balanced accuracy that the best threshold, learned on other target groups, gives back.
        parts: The decision loss in log-loss, on the scores as they are.
        remedies: Remedies, those without labels first.
        oracles: Limits that need labels.
        few_shot: The few-shot curve.
        shift: How far apart the embeddings lie.
        neighbours: A few target tiles with their nearest source tiles.
        verdict: The first cause.
        by_candidate: The verdict under every candidate scale.
        paragraph: All of it in plain words.
        plans: Remedies that were not tried, and what they need.
        notes: Caveats.
        marks: Warnings that every number carries.
    """

    source: str
    target: str
    head_id: str
    class_names: tuple[str, ...]
    prevalence: tuple[tuple[float, ...], tuple[float, ...]]
    source_scores: tuple[Score, ...]
    target_scores: tuple[Score, ...]
    gaps: tuple[Score, ...]
    threshold_loss: Score
    parts: tuple[DecisionPart, ...]
    remedies: tuple[RemedyRow, ...]
    oracles: tuple[OracleRow, ...]
    few_shot: tuple[FewShotPoint, ...]
    shift: Shift
    neighbours: tuple[NeighbourRow, ...]
    verdict: Verdict
    by_candidate: tuple[Verdict, ...]
    paragraph: str = ""
    plans: tuple[RemedyPlan, ...] = ()
    notes: tuple[str, ...] = ()
    marks: tuple[str, ...] = field(default_factory=tuple)

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-ready dict."""
        plain = asdict(self)
        for plan in plain["plans"]:
            plan["undone"] = sorted(plan["undone"])
        return plain


@dataclass(frozen=True)
class RemedyArm:
    """Predictions of one way to use the head on the target.

    Attributes:
        predictions: A row per target tile; ``fold`` is the fold whose fit scored it.
        fitted: Something was fitted per fold, so that scores of different folds share no scale.
    """

    predictions: Predictions
    fitted: bool = False


# ------------------------------------------------------------------------------
# Settings of a transfer diagnosis


class TransferConfig(BaseModel):
    """How a transfer is diagnosed.

    Attributes:
        folds: Folds over the target's groups: what a remedy learns from the target it learns from the other folds.
        error: Chance of naming a cause where there is none, shared by all the tests of the rule.
        min_auroc: Ranking losses and recoveries below this are not called a cause.
        open_auroc: Where a ranking loss can't be shown, but one so large can't be excluded either, no cause is named.
        min_log_loss: The same for the parts of the decision loss, nats.
        min_share: A remedy names a cause only if it recovers this share of the ranking loss.
        few_shot: Labelled target groups per class on the few-shot curve.
        draws: Draws of groups per point of the curve.
        components: Principal components of the source in which the Frechet distance is measured.
        stain: Stain normaliser of the stain remedy.
        max_tiles: Tiles per side that are diagnosed, spread over the groups; 0 takes all.
        seed: Seed of folds and draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folds: int = Field(4, ge=2)
    error: float = Field(0.05, gt=0, lt=1)
    min_auroc: float = Field(0.02, ge=0, lt=0.5)
    open_auroc: float = Field(0.1, gt=0, lt=1)
    min_log_loss: float = Field(0.02, ge=0)
    min_share: float = Field(0.25, ge=0, le=1)
    few_shot: tuple[int, ...] = (1, 2, 4, 8, 16)
    draws: int = Field(10, ge=2)
    components: int = Field(32, ge=1)
    stain: str = Field("macenko", pattern="^(macenko|reinhard)$")
    max_tiles: int = Field(4000, ge=0)
    seed: int = 0


# ------------------------------------------------------------------------------
# Every class of the head must have tiles


def check_every_class(y_N: Int, class_names: Sequence[str], domain: str) -> None:
    """Refuse tiles that lack a class."""
    missing = [name for label, name in enumerate(class_names) if not (y_N == label).any()]
    if missing:
        how_many = "one class" if len(missing) == 1 else f"{len(missing)} classes"
        raise UserError(
            f"{domain} holds no tile of {how_many}, and the diagnosis ranks every class",
            value=", ".join(missing),
            fix="diagnose on tiles of every class, or train a head on the classes that both data sets hold",
        )
