"""What an experiment found: tables of scored arms, and the facts that a reader needs beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from histotune.heads.head import Calibration, Decision, Selection
from histotune.statistics.predictions import Score  # noqa: TC001  (a saved record is read by its types)

if TYPE_CHECKING:
    import polars as pl

    from histotune.statistics.predictions import Predictions


MAY_BE_NONE = {
    "left_out",
    "refinement",
    "interval",
    "coverage",
    "selection",
    "nll_before",
    "nll_after",
    "difference_se",
    "standard_error",
    "decisions",
    "tuned",
}
UNIT = "unit"
"""The column of a table whose rows are tile, slide and group."""
FindingId = Literal["in-domain", "cross-magnification", "leak-price", "external", "direct"]


@dataclass(frozen=True)
class ClassRates:
    """How often a class is recognised, and how often other classes are not taken for it.

    Attributes:
        name: The class.
        sensitivity: Share of its tiles that are said to be of it.
        specificity: Share of the other tiles that are said to be of another.
    """

    name: str
    sensitivity: Score
    specificity: Score


@dataclass(frozen=True)
class Decisions:
    """The decisions of a head, or of the heads of a cross-fit, on some tiles.

    Attributes:
        class_names: The classes.
        counts: Tiles by true class (rows) and decision (columns).
        thresholds: Every threshold that was used, ascending: the probability of class 1 from which class 1 is said.
            Empty with several classes, where the most probable one is.
        rates: Sensitivity and specificity of every class.
    """

    class_names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    thresholds: tuple[float, ...]
    rates: tuple[ClassRates, ...]


@dataclass(frozen=True)
class ScoredArm:
    """One row of a finding: a head (or a floor) on a domain.

    Attributes:
        arm: What was scored: the id of an arm of ``tools/marks.py``, such as "probe" or "majority class".
        domain: Which tiles were scored, such as "breakhis 100X" or "pcam test".
        trained_on: Which tiles trained it, such as "breakhis 100X, cross-fitted over 5 folds".
        input_mpp: Median scale at which the network saw the domain, um/px; NaN where unknown.
        scores: One per metric.
        marks: Warnings every table shows, such as "LEAKY" or "3 SKIPPED"; ``tools/marks.py`` has them all.
        decisions: Confusion matrix, sensitivity and specificity; None where they were not asked for.
    """

    arm: str
    domain: str
    trained_on: str
    input_mpp: float
    scores: tuple[Score, ...]
    marks: tuple[str, ...] = ()
    decisions: Decisions | None = None

    def score(self, name: str) -> Score | None:
        """Return the score of a metric, or None where it was not computed."""
        return next((score for score in self.scores if score.name == name), None)


@dataclass(frozen=True)
class PartTable:
    """The probe on each site, scanner or stain, or with whole slides or groups as the unit that is scored.

    Attributes:
        column: ``site``, ``scanner``, ``stain`` or :data:`UNIT`.
        rows: A row per value, by name, unknown ones last; ``domain`` names the value.
        note: Why there are no rows; of units, how they were made and why some are missing.
    """

    column: str
    rows: tuple[ScoredArm, ...]
    note: str = ""


@dataclass(frozen=True)
class RobustnessTable:
    """Robustness index of the backbone and its floors for site, scanner or stain.

    Attributes:
        column: ``site``, ``scanner`` or ``stain``.
        rows: A row per arm and domain; ``arm`` names the arm whose embeddings are meant, ``trained_on`` its column
            blocks (nothing was trained), and the one score is the index.
        notes: What was compared and what was left out, one sentence each.
    """

    column: str
    rows: tuple[ScoredArm, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairedDifference:
    """The probe less another arm on the same tiles and groups.

    Attributes:
        domain: Which tiles.
        against: The other arm.
        difference: With its paired interval.
        p_words: Its permutation p value in words, or why there is none.
    """

    domain: str
    against: str
    difference: Score
    p_words: str


@dataclass(frozen=True)
class Finding:
    """One table of the report.

    Attributes:
        id: Stable name.
        title: Heading.
        protocol: How the numbers were made, in one or two sentences, with the seed.
        rows: The scored arms, the probe first, floors last.
        notes: Caveats, one sentence each.
        parts: The probe by site, scanner and stain, where at least two of them are known.
        paired: The probe less each floor.
        robustness: Class against site, scanner and stain among neighbours, where at least two of them are known.
    """

    id: FindingId
    title: str
    protocol: str
    rows: tuple[ScoredArm, ...]
    notes: tuple[str, ...] = ()
    parts: tuple[PartTable, ...] = ()
    paired: tuple[PairedDifference, ...] = ()
    robustness: tuple[RobustnessTable, ...] = ()

    def row(self, arm: str, domain: str | None = None) -> ScoredArm | None:
        """Return the first row of an arm (on a domain), or None."""
        return next((row for row in self.rows if row.arm == arm and domain in (None, row.domain)), None)


@dataclass(frozen=True)
class DatasetFacts:
    """What the report says about a data set."""

    name: str
    n_tiles: int
    n_groups: int
    class_names: tuple[str, ...]
    licence: str
    citation: str
    synthetic: bool
    pixel_fingerprint: str
    label_fingerprint: str
    notes: tuple[str, ...]
    n_skipped: int = 0


@dataclass(frozen=True)
class SweepChoice:
    """The head a sweep chose, for people.

    Attributes:
        trained_on: Domain of the training tiles.
        head_id: The head.
        pooling: Column blocks.
        penalty: L2 penalty.
        log_loss: Group-balanced out-of-fold log-loss, optimistic: it was the criterion.
        log_loss_se: Its standard error over groups.
        n_fits: Fits solved.
        n_tiles: Training tiles.
        n_groups: Training groups.
        calibration: The head's temperature or vector scaling.
        decision: The head's threshold.
        selection: Rule, runners-up and the honest estimate of the procedure; None where unknown.
        is_binary: Whether the threshold counts.
        warnings: Signs that the sweep stopped short or that the head learned nothing, one sentence each.
    """

    trained_on: str
    head_id: str
    pooling: tuple[str, ...]
    penalty: float
    log_loss: float
    log_loss_se: float
    n_fits: int
    n_tiles: int
    n_groups: int
    calibration: Calibration = field(default_factory=Calibration)
    decision: Decision = field(default_factory=Decision)
    selection: Selection | None = None
    is_binary: bool = True
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class TunedChoice:
    """What fine-tuning decided on the tuning groups, for people.

    Attributes:
        method: Which parameters moved.
        verdict: ``tuned``, or ``kept`` where the probe is: what is returned for all training tiles.
        rate: Chosen learning rate; NaN where nothing was tuned.
        epochs: Epochs that were trained.
        gain: By how much its log-loss lay below the probe's on the tuning groups, nats.
        gain_se: Its standard error over groups.
        n_tuning_groups: Groups that judged.
        n_folds: Outer folds.
        n_folds_tuned: Outer folds that returned a tuned model.
        reason: The decision in words.
    """

    method: str
    verdict: Literal["tuned", "kept"]
    rate: float
    epochs: int
    gain: float
    gain_se: float
    n_tuning_groups: int
    n_folds: int
    n_folds_tuned: int
    reason: str


@dataclass(frozen=True)
class Findings:
    """Everything an experiment found; holds no time, path, host or version, so equal runs give equal bytes.

    Attributes:
        title: Name of the experiment.
        answer: The result in plain words, a few sentences.
        backbone: Backbone name.
        view: The view in words.
        datasets: Facts by data set.
        findings: The tables.
        choices: What each sweep chose.
        split_hash: Hash of the outer folds.
        choice_hash: Hash of everything that was chosen; the ledger counts it.
        tuned: What fine-tuning decided; None where nothing was fine-tuned.
    """

    title: str
    answer: str
    backbone: str
    view: str
    datasets: tuple[DatasetFacts, ...]
    findings: tuple[Finding, ...]
    choices: tuple[SweepChoice, ...]
    split_hash: str
    choice_hash: str
    tuned: TunedChoice | None = None

    @property
    def synthetic(self) -> bool:
        """Whether any data set is rendered tissue."""
        return any(dataset.synthetic for dataset in self.datasets)

    def finding(self, finding_id: FindingId) -> Finding | None:
        """Return a table by its id, or None."""
        return next((finding for finding in self.findings if finding.id == finding_id), None)

    def dataset_of(self, domain: str) -> DatasetFacts | None:
        """Return the data set that a domain such as "breakhis 100X" belongs to, or None."""
        named = (one for one in self.datasets if domain == one.name or domain.startswith(f"{one.name} "))
        return next(named, None)

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-ready dict; runs without fine-tuning have no word about it."""
        facts = asdict(self)
        if self.tuned is None:
            facts.pop("tuned")
        return facts


@dataclass(frozen=True)
class LedgerCount:
    """How often a test split has been scored: k times under m different choices."""

    target: str
    times: int
    choices: int

    def __str__(self) -> str:
        """Return the sentence that reports print."""
        times = "once" if self.times == 1 else f"{self.times} times"
        return f"{self.target}: scored {times} under {self.choices} choice{'' if self.choices == 1 else 's'}"


@dataclass(frozen=True)
class Scored:
    """Predictions with the finding and the arm they belong to."""

    finding: FindingId
    arm: str
    predictions: Predictions


@dataclass(frozen=True)
class Artifacts:
    """The tables behind the findings.

    Attributes:
        predictions: Columns of ``Predictions`` plus ``finding``, ``arm``; a row per scored tile and arm.
        trials: Columns of ``SweepResult.trials`` plus ``trained_on`` and ``backbone``.
        label_efficiency: Score against the number of training groups; None where it was not asked for.
        embedding_map: Where tiles lie on a map of their embeddings; None where it was not asked for.
    """

    predictions: pl.DataFrame
    trials: pl.DataFrame
    label_efficiency: pl.DataFrame | None = None
    embedding_map: pl.DataFrame | None = None


def findings_from_dict(data: dict[str, object]) -> Findings:
    """Rebuild findings from ``scores.json``."""
    from pydantic import TypeAdapter

    return TypeAdapter(Findings).validate_python(nan_for_null(data))


def nan_for_null(value: object) -> object:
    """Return JSON's value with null numbers as NaN; what may be missing (an interval, a selection) stays None."""
    if isinstance(value, dict):
        return {key: None if key in MAY_BE_NONE and item is None else nan_for_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [nan_for_null(item) for item in value]
    return float("nan") if value is None else value


def domain_order(domain: str) -> tuple[str, float, str]:
    """Return a sort key that puts 40X before 100X, 200X and 400X.

    Example:
        >>> sorted(["b 100X", "b 40X"], key=domain_order)
        ['b 40X', 'b 100X']
    """
    name, _, last = domain.rpartition(" ")
    digits = last.removesuffix("X")
    return (name, float(digits), "") if digits.isdigit() else (name, float("inf"), last)
