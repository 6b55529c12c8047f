"""What a run must share with each family of published scores, and where it does not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from histotune.published.config import EvaConfig, ThunderConfig
from histotune.published.published import eva_pcam_settings, eva_ten_shot_settings
from histotune.published.published_parts import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histotune.published.conditions import RunConditions

Kind = Literal["linear", "knn", "simpleshot"]

EVA4: Final = ("TA", "MC", "F", "DC")
AUTHORS: Final = "the authors'"
PARTS: Final = {  # tiles of train, valid and the scored part, as published
    ("breakhis", "eva"): {"valid": (1132, 339, 339)},
    ("breakhis", "thunder"): {"test": (936, 196, 339)},
    ("patch_camelyon", ""): {"valid": (262_144, 32_768, 32_768), "test": (262_144, 32_768, 32_768)},
}
FORK: Final = (
    "published by a fork of eva with early stopping off; its other settings are taken to be eva's, whose best epoch is "
    "kept"
)


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
    """Return the families of published scores that a row of a run could belong to.

    Args:
        conditions: How the run was made.
        kind: Which row.
        shots: Tiles per class of SimpleShot.

    Returns:
        None for UNI's tasks, whose authors published neither data set on these parts.
    """
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
    """Return in which fields a run differs from a published protocol.

    Args:
        conditions: How the run was made.
        pooling: Column blocks of the row, joined by "+".
        rule: The published protocol.

    Returns:
        One reason per field; empty where the run may stand among these scores.
    """
    return (*_data(conditions), *_pooling(conditions, pooling, rule), *_view(conditions, rule),
            *_settings(conditions, rule))  # fmt: skip


def _eva_rules(conditions: RunConditions, dataset: str, split: str) -> tuple[Rule, ...]:
    few = conditions.settings.get("shots") is not None
    settings = EvaConfig() if dataset == "BreakHis" else eva_ten_shot_settings() if few else eva_pcam_settings()
    name = "PCam 10-shot" if few and dataset == "PCam" else dataset
    published = settings.model_dump(mode="json", exclude={"seed", "device"})
    own = Rule(Protocol(name, "eva", "CLS", split, "balanced_accuracy"), "cls", "linear", published)
    fork = Protocol(name, "eva-midnight", "CLS+mean patch", split, "balanced_accuracy")
    return own, Rule(fork, "cls+patch_mean", "linear", published, never_stops=True, caveat=FORK)


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
