"""Scores of one protocol in one table, best first; a user's own stand among them, marked."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from histotune.published.protocols import WORDS, EvaConfig, ThunderConfig, eva_pcam_settings, eva_ten_shot_settings
from histotune.published.published_numbers import Protocol
from histotune.statistics.metrics import LOWER_IS_BETTER
from histotune.tools.atomic import bring_back
from histotune.tools.errors import UserError
from histotune.tools.files import read_json
from histotune.tools.manifest import verify_folder
from histotune.tools.marks import LEAKY, TOO_NARROW

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from histotune.published.published_numbers import PublishedScore


@dataclass(frozen=True)
class OwnScore:
    """A score of the user's under a published protocol.

    Attributes:
        model: The backbone that was used.
        value: The score: the mean over runs.
        protocol: How it came about; it stands only among published scores of the very same.
        seed_sd: Standard deviation over runs; NaN for a single one.
        low: Lower end of the interval over groups; NaN where there is none.
        high: Upper end of it.
        source: The run it was read from.
        caveat: What weakens it, or why there is no interval.
        weaknesses: What weakens every number of its protocol, published ones included.
    """

    model: str
    value: float
    protocol: Protocol
    seed_sd: float = math.nan
    low: float = math.nan
    high: float = math.nan
    source: str = ""
    caveat: str = ""
    weaknesses: tuple[str, ...] = ()


@dataclass(frozen=True)
class BoardRow:
    """One line of a table.

    Attributes:
        rank: Place among the published scores, from 1, equal values sharing one; for the user's own the place that it
            would take.
        model: Backbone or method.
        value: The score.
        own: Whether it is the user's.
        spread: Its standard deviation over runs and its interval, in words; empty for published scores.
        caveat: What weakens it.
        source: Where it was read.
    """

    rank: int
    model: str
    value: float
    own: bool
    spread: str
    caveat: str
    source: str


@dataclass(frozen=True)
class Board:
    """The scores of one protocol.

    Attributes:
        protocol: What all of them share.
        rows: Best first.
        weaknesses: What weakens all of them, as the user's runs of the protocol say.
    """

    protocol: Protocol
    rows: tuple[BoardRow, ...]
    weaknesses: tuple[str, ...] = ()

    @property
    def caveats(self) -> tuple[str, ...]:
        """What weakens some of its scores, each once."""
        return tuple(dict.fromkeys(row.caveat for row in self.rows if row.caveat))


def make_boards(published: Sequence[PublishedScore], own: Sequence[OwnScore] = ()) -> tuple[Board, ...]:
    """Put scores of equal protocol into one table each.

    Args:
        published: The published ones.
        own: The user's. One whose protocol nobody has published makes a table of its own.

    Returns:
        The tables, in the order in which their protocols first appear.
    """
    protocols = dict.fromkeys([*(one.protocol for one in published), *(one.protocol for one in own)])
    return tuple(
        _board(
            protocol,
            [one for one in published if one.protocol == protocol],
            [one for one in own if one.protocol == protocol],
        )
        for protocol in protocols
    )


def _board(protocol: Protocol, published: Sequence[PublishedScore], own: Sequence[OwnScore]) -> Board:
    sign = 1 if protocol.metric in LOWER_IS_BETTER else -1
    values = [one.value for one in published]

    def rank(value: float) -> int:
        """Return the place of a value among all."""
        return 1 + sum(sign * other < sign * value for other in values)

    rows = [BoardRow(rank(one.value), one.model, one.value, False, "", one.caveat, one.source) for one in published]
    rows += [BoardRow(rank(one.value), one.model, one.value, True, _spread(one), one.caveat, one.source) for one in own]
    weaknesses = tuple(dict.fromkeys(text for one in own for text in one.weaknesses))
    return Board(protocol, tuple(sorted(rows, key=lambda row: (sign * row.value, row.model))), weaknesses)


def _spread(one: OwnScore) -> str:
    words = []
    if math.isfinite(one.low) and math.isfinite(one.high):
        words.append(f"[{one.low:.3f}, {one.high:.3f}]")
    if math.isfinite(one.seed_sd):
        words.append(f"SD over runs {one.seed_sd:.3f}")
    return ", ".join(words)


# ------------------------------------------------------------------------------
# How a protocol was run here: what must be known before its number may stand beside published ones


@dataclass(frozen=True)
class RunConditions:
    """The facts of a run that decide which published scores are of the same protocol.

    Attributes:
        dataset: Name of the data set, such as ``breakhis``.
        class_names: Its classes, by label.
        split: Name of the split; empty for the data set's own parts.
        part: The scored part.
        n_train: Labelled tiles that trained.
        n_valid: Labelled tiles that chose.
        n_scored: Labelled tiles that were scored.
        backbone: Name of the backbone.
        default_pooling: Column blocks that its authors recommend, joined by "+".
        view: How images became its input, as JSON; ``unknown`` for imported embeddings.
        view_documented: Whether that is the view which the backbone documents.
        settings: The protocol's settings, as JSON.
    """

    dataset: str
    class_names: tuple[str, ...]
    split: str
    part: str
    n_train: int
    n_valid: int
    n_scored: int
    backbone: str
    default_pooling: str
    view: dict[str, object]
    view_documented: bool
    settings: dict[str, object]


# ------------------------------------------------------------------------------
# A user's own protocol runs, read from their folders and put among published scores of the same protocol only


PROTOCOL_FILE = "protocol.json"
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
    """Read the user's runs of published protocols."""
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
        raise UserError(
            "none of these runs shares its protocol with a published score",
            value="; ".join(f"{one.row} of {one.source}: {one.reason}" for one in refused),
            fix="repeat the protocol as published, such as histotune run eva-breakhis",
        )
    return OwnScores(tuple(scores), tuple(refused))


def _read(folder: Path) -> _Study:
    bring_back(folder)
    path = folder / PROTOCOL_FILE
    if not path.is_file():
        raise UserError(
            "this is no run of a published protocol: it holds no protocol.json",
            value=folder,
            fix="histotune run eva-breakhis, thunder-breakhis, eva-pcam, ... makes one",
        )
    verify_folder(folder, f"histotune run --from {folder} --out NEW repeats it")
    try:
        data: Any = read_json(path)
        if isinstance(data, dict) and "conditions" not in data:
            raise UserError(
                "this run was made before protocols kept their conditions",
                value=folder,
                fix=f"histotune run --from {folder} --out NEW repeats it",
            )
        return _Study.model_validate(data)
    except (OSError, ValueError, ValidationError) as error:
        raise UserError(
            "protocol.json is damaged", value=path, fix=f"histotune run --from {folder} --out NEW repeats it"
        ) from error


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
    return OwnScore(
        study.conditions.backbone, row.mean, rule.protocol, row.sd, low, high, str(folder), caveat, study.weaknesses
    )


# ------------------------------------------------------------------------------
# What a run must share with each family of published scores, and where it does not


Kind = Literal["linear", "knn", "simpleshot"]

EVA4: Final = ("TA", "MC", "F", "DC")
AUTHORS: Final = "the authors'"
PARTS: Final = {  # tiles of train, valid and the scored part, as published
    ("breakhis", "eva"): {"valid": (1132, 339, 339)},
    ("breakhis", "thunder"): {"test": (936, 196, 339)},
    ("patch_camelyon", ""): {"valid": (262_144, 32_768, 32_768), "test": (262_144, 32_768, 32_768)},
}


@dataclass(frozen=True)
class Rule:
    """One family of published scores and what a run must be like to stand among them.

    Attributes:
        protocol: The published protocol.
        blocks: Column blocks of the embedding, joined by "+"; empty asks for those that the backbone's authors
            recommend.
        kind: Which row of a run it is about.
        settings: The protocol's settings as published, of those that this row depends on.
        never_stops: Whether early stopping is off.
        caveat: What a reader must know about the match.
    """

    protocol: Protocol
    blocks: str
    kind: Kind
    settings: dict[str, object]
    never_stops: bool = False
    caveat: str = ""


def rules_for(conditions: RunConditions, kind: Kind, shots: int = 0) -> tuple[Rule, ...]:
    """Return the families of published scores that a row of a run could belong to."""
    dataset = {"breakhis": "BreakHis", "patch_camelyon": "PCam"}.get(conditions.dataset)
    if dataset is None:
        return ()
    split = "val" if conditions.part == "valid" else conditions.part
    if conditions.settings.get("name") == "eva":
        return _eva_rules(conditions, dataset, split)
    if conditions.settings.get("name") == "thunder":
        return (_thunder_rule(dataset, split, kind, shots),)
    return ()


def differences(conditions: RunConditions, pooling: str, rule: Rule) -> tuple[str, ...]:
    """Return in which fields a run differs from a published protocol."""
    return (
        *_data(conditions),
        *_pooling(conditions, pooling, rule),
        *_view(conditions, rule),
        *_settings(conditions, rule),
    )


def _eva_rules(conditions: RunConditions, dataset: str, split: str) -> tuple[Rule, ...]:
    few = conditions.settings.get("shots") is not None
    settings = EvaConfig() if dataset == "BreakHis" else eva_ten_shot_settings() if few else eva_pcam_settings()
    name = "PCam 10-shot" if few and dataset == "PCam" else dataset
    published = settings.model_dump(mode="json", exclude={"seed", "device"})
    own = Rule(Protocol(name, "eva", "CLS", split, "balanced_accuracy"), "cls", "linear", published)
    fork = Protocol(name, "eva-midnight", "CLS+mean patch", split, "balanced_accuracy")
    return own, Rule(fork, "cls+patch_mean", "linear", published, never_stops=True, caveat=WORDS["eva"]["fork"])


def _thunder_rule(dataset: str, split: str, kind: Kind, shots: int) -> Rule:
    published = ThunderConfig().model_dump(mode="json", exclude={"seed", "device"})
    fields = {"linear": ("lr", "weight_decay", "epochs", "batch_size"), "knn": ("k",), "simpleshot": ("draws",)}[kind]
    name = f"thunder-{kind}{shots or ''}"
    settings = {field: published[field] for field in fields}
    return Rule(Protocol(dataset, name, AUTHORS, split, "macro_f1"), "", kind, settings)


def _data(conditions: RunConditions) -> Iterator[str]:
    """Yield where the tiles differ: classes, split, part, numbers."""
    if conditions.dataset == "breakhis" and conditions.class_names != EVA4:
        yield f"classes {', '.join(conditions.class_names)}, published {', '.join(EVA4)}"
    split = "" if conditions.split == "pcam-official" else conditions.split
    protocol = str(conditions.settings.get("name"))
    parts = PARTS.get((conditions.dataset, protocol if conditions.dataset == "breakhis" else ""))
    if parts is None or split != (protocol if conditions.dataset == "breakhis" else ""):
        yield f"split {conditions.split or 'of the data set'}, which is not the published one"
    elif conditions.part not in parts:
        yield f"scored on {conditions.part}, published on {' and '.join(parts)}"
    elif (found := (conditions.n_train, conditions.n_valid, conditions.n_scored)) != parts[conditions.part]:
        yield f"train, valid and scored tiles {_counts(found)}, published {_counts(parts[conditions.part])}"


def _counts(numbers: tuple[int, ...]) -> str:
    return " / ".join(f"{number:,}" for number in numbers)


def _pooling(conditions: RunConditions, pooling: str, rule: Rule) -> Iterator[str]:
    wanted = rule.blocks or conditions.default_pooling
    if pooling != wanted:
        yield f"columns {pooling}, published {wanted}"


def _view(conditions: RunConditions, rule: Rule) -> Iterator[str]:
    """Yield where the view differs: THUNDER takes each backbone's own, eva one for all."""
    view = conditions.view
    if view.get("name") == "unknown":
        yield "embeddings were imported, so that their view is unknown"
    elif rule.protocol.protocol.startswith("thunder"):
        if not conditions.view_documented:
            yield f"view {_view_words(view)}, published with the one that each backbone documents"
    elif dict(view) != {"name": "short-side-crop", "size_px": 224, "interpolation": "bilinear"}:
        yield f"view {_view_words(view)}, published short-side-crop 224 px bilinear"


def _view_words(view: dict[str, object]) -> str:
    words = [str(view.get("name")), f"{view.get('size_px')} px", str(view.get("interpolation"))]
    if view.get("target_mpp"):
        words.append(f"{view['target_mpp']} um/px")
    return " ".join(words)


def _settings(conditions: RunConditions, rule: Rule) -> Iterator[str]:
    aside = {"patience", "min_delta"} if rule.never_stops else set()
    for name, wanted in rule.settings.items():
        found = conditions.settings.get(name)
        if name not in aside and found != wanted:
            yield f"protocol.{name} {found}, published {wanted}"
    if rule.never_stops and not _never_stops(conditions):
        yield f"stops early (patience {conditions.settings.get('patience')}), published with early stopping off"


def _never_stops(conditions: RunConditions) -> bool:
    """Return whether patience is longer than the whole training."""
    config = EvaConfig.model_validate(conditions.settings)
    n_train = conditions.n_train if config.shots is None else config.shots * len(conditions.class_names)
    epochs = config.max_steps / max(1, math.ceil(n_train / config.batch_size))
    return config.patience * config.check_every >= epochs
