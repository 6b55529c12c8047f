"""A user's own protocol runs, read from their folders and put among published scores of the same protocol only."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from histotune.evaluation.findings import LEAKY, TOO_NARROW
from histotune.published.conditions import RunConditions
from histotune.published.leaderboard import OwnScore
from histotune.published.rules import differences, rules_for
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from histotune.published.published_parts import Protocol
    from histotune.published.rules import Kind, Rule

FILE = "protocol.json"
HARMLESS = (LEAKY, TOO_NARROW)  # a published split leaks for everybody; an interval is not what is compared
SHOTS = re.compile(r"SimpleShot, (\d+) shots")
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


@dataclass(frozen=True)
class Refusal:
    """A number that may not stand beside published ones.

    Attributes:
        source: The run's folder.
        row: Which row of its table.
        reason: Why.
    """

    source: str
    row: str
    reason: str

    def __str__(self) -> str:
        """Return the sentence that stands under the tables."""
        return f"Left out: {self.row} of {self.source}: {self.reason}."


@dataclass(frozen=True)
class OwnScores:
    """What some run folders hold.

    Attributes:
        scores: Those of a published protocol.
        refused: The others.
    """

    scores: tuple[OwnScore, ...]
    refused: tuple[Refusal, ...]


class _Interval(BaseModel):
    low: float
    high: float


class _Row(BaseModel):
    """The fields of a protocol's row that a leaderboard needs."""

    model_config = ConfigDict(extra="ignore")

    name: str
    pooling: str
    metric: str
    mean: Number
    sd: Number
    interval: _Interval | None
    reason: str
    note: str


class _Study(BaseModel):
    model_config = ConfigDict(extra="ignore")

    rows: tuple[_Row, ...]
    weaknesses: tuple[str, ...]
    marks: tuple[str, ...]
    conditions: RunConditions


def read_own_scores(folders: Sequence[Path], published: Sequence[Protocol]) -> OwnScores:
    """Read the user's runs of published protocols.

    Args:
        folders: Written by ``histotune run eva-breakhis`` and its like.
        published: Protocols that published scores have.

    Returns:
        The scores that may stand in their tables, and for all others in which fields they differ.

    Raises:
        UserError: A folder is no protocol run, or no number may stand beside published ones.
    """
    scores: list[OwnScore] = []
    refused: list[Refusal] = []
    for folder in dict.fromkeys(folders):
        study = _read(folder)
        for row in study.rows:
            found = _place(study, row, folder, published)
            if isinstance(found, OwnScore):
                scores.append(found)
            else:
                refused.append(found)
    if not scores:
        raise UserError("none of these runs shares its protocol with a published score",
                        value="; ".join(f"{one.row} of {one.source}: {one.reason}" for one in refused),
                        fix="repeat the protocol as published, such as histotune run eva-breakhis")  # fmt: skip
    return OwnScores(tuple(scores), tuple(refused))


def _read(folder: Path) -> _Study:
    path = folder / FILE
    if not path.is_file():
        raise UserError("this is no run of a published protocol: it holds no protocol.json", value=folder,
                        fix="histotune run eva-breakhis, thunder-breakhis, eva-pcam, ... makes one")  # fmt: skip
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and "conditions" not in data:
            raise UserError("this run was made before protocols kept their conditions", value=folder,
                            fix=f"histotune run --from {folder} --out NEW repeats it")  # fmt: skip
        return _Study.model_validate(data)
    except (ValueError, ValidationError) as error:
        raise UserError("protocol.json is damaged", value=path,
                        fix=f"histotune run --from {folder} --out NEW repeats it") from error  # fmt: skip


def _place(study: _Study, row: _Row, folder: Path, published: Sequence[Protocol]) -> OwnScore | Refusal:
    """Return a row as a score of the published protocol it is of, or why it is of none."""
    name = f"{row.name} ({row.pooling})"
    barred = _barred(study, row)
    if barred:
        return Refusal(str(folder), name, barred)
    rules = [rule for rule in _rules(study, row) if rule.protocol in published and rule.protocol.metric == row.metric]
    if not rules:
        return Refusal(str(folder), name, "nobody has published scores of this protocol on this data set and part")
    compared = [(rule, differences(study.conditions, row.pooling, rule)) for rule in rules]
    best, lacks = min(compared, key=lambda pair: len(pair[1]))
    if lacks:
        return Refusal(str(folder), name, f"not {best.protocol.protocol} as published: {'; '.join(lacks)}")
    return _score(study, row, folder, best)


def _barred(study: _Study, row: _Row) -> str:
    """Return what bars a number from every table; empty where nothing does."""
    if not math.isfinite(row.mean):
        return "a run diverged"
    marks = [mark for mark in study.marks if mark not in HARMLESS]
    return f"marked {', '.join(marks)}" if marks else ""


def _rules(study: _Study, row: _Row) -> tuple[Rule, ...]:
    shots = SHOTS.fullmatch(row.name)
    kind: Kind = "simpleshot" if shots else "knn" if row.name.startswith("kNN") else "linear"
    return rules_for(study.conditions, kind, int(shots[1]) if shots else 0)


def _score(study: _Study, row: _Row, folder: Path, rule: Rule) -> OwnScore:
    weak = [rule.caveat, ", ".join(study.marks), row.note]
    if row.interval is None and row.reason:
        weak.append(f"no interval: {row.reason}")
    low, high = (row.interval.low, row.interval.high) if row.interval else (math.nan, math.nan)
    caveat = "; ".join(text.rstrip(".") for text in weak if text)
    return OwnScore(study.conditions.backbone, row.mean, rule.protocol, row.sd, low, high, str(folder), caveat,
                    study.weaknesses)  # fmt: skip
