"""What the report is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from histotune.report.added import Added

if TYPE_CHECKING:
    from histotune.evaluation.findings import Artifacts, Findings, LedgerCount
    from histotune.tools.progress import StageTime


@dataclass(frozen=True)
class Thumbnail:
    """One tile that the probe got badly wrong.

    Attributes:
        finding: Id of the finding it belongs to.
        tile_id: The tile.
        domain: Where it comes from, such as "breakhis 100X"; the data set's credit is found by it.
        group_id: Its group.
        y_true: Name of its true class.
        y_predicted: Name of the predicted class.
        probability: Probability that the head gave to the predicted class.
        jpeg: The picture as JPEG bytes.
    """

    finding: str
    tile_id: str
    domain: str
    group_id: str
    y_true: str
    y_predicted: str
    probability: float
    jpeg: bytes


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report shows; equal inputs give an equal page, byte for byte.

    Attributes:
        findings: The tables, the answer, what was chosen and the data sets' facts.
        artifacts: Predictions and trials, for the curves.
        provenance: Versions, hardware, start time (``Provenance.as_dict``).
        stages: Seconds by stage, in order.
        ledger: How often each test split has been scored.
        config: The resolved config, nested by room.
        thumbnails: The largest errors.
        command: One command that repeats the run.
        added: Studies that were added to the run.
    """

    findings: Findings
    artifacts: Artifacts
    provenance: dict[str, object]
    stages: tuple[StageTime, ...]
    ledger: tuple[LedgerCount, ...]
    config: dict[str, object]
    thumbnails: tuple[Thumbnail, ...]
    command: str
    added: Added = field(default_factory=Added)
